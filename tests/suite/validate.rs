//! `validate` and `explain`: good packages pass, and each rule is broken once, in one way, and is
//! then the only one that speaks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use llmstd::base::diagnostic::{Diagnostic, Level};
use llmstd::base::error::ErrorKind;
use llmstd::checkpoint::DType;
use llmstd::convert::{self, Request};
use llmstd::folder;
use llmstd::manifest::{
    FileEntry, FileFacts, FileRole, Manifest, ManifestInput, TensorEntry, TensorFacts, needs_text,
};
use llmstd::package::{Conformance, Model};
use llmstd::rule::{Outcome, RULES, Selection};
use llmstd::spec::Spec;
use llmstd::validate::{Kind, Options, Report, Validation, validate};
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

mod ways;

static SPEC: LazyLock<Spec> = LazyLock::new(Spec::current);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn fixture(name: &str) -> PathBuf {
    root().join("fixtures/hf").join(name).join("src")
}

/// A good package to damage.
#[derive(Clone, Copy)]
enum Base {
    /// A decoder with tied embeddings and a tokenizer.
    Decoder,
    /// The same in several shards.
    Shards,
    /// A classifier with a pooler and labels.
    Classifier,
    /// Names and bytes without an architecture.
    Generic,
    /// The source of the decoder, as it is.
    Foreign,
    /// The source of the classifier.
    ForeignClassifier,
    /// A source with packed tensors and no tokenizer.
    Packed,
    /// A source that takes sound, without a tokenizer.
    Speech,
}

impl Base {
    /// The folder of a foreign one.
    fn source(self) -> Option<PathBuf> {
        Some(match self {
            Base::Foreign => fixture("llama-tied"),
            Base::ForeignClassifier => fixture("bert-seqcls"),
            Base::Packed => root().join("fixtures/quant/models/gptq"),
            Base::Speech => root().join("fixtures/speech/whisper"),
            Base::Decoder | Base::Shards | Base::Classifier | Base::Generic => return None,
        })
    }

    fn is_foreign(self) -> bool {
        self.source().is_some()
    }
}

fn package(base: Base) -> (TempDir, PathBuf) {
    let scratch = TempDir::new().unwrap();
    let destination = scratch.path().join("package");
    if let Some(source) = base.source() {
        fs::create_dir(&destination).unwrap();
        for file in folder::list(&source).unwrap() {
            fs::copy(source.join(&file.name), destination.join(&file.name)).unwrap();
        }
        return (scratch, destination);
    }
    let name = if let Base::Classifier = base { "bert-seqcls" } else { "llama-tied" };
    let request = Request {
        generic: matches!(base, Base::Generic),
        max_shard_bytes: matches!(base, Base::Shards).then_some(20_000),
        ..Request::new(&SPEC, &destination, "std")
    };
    convert::convert(folder::open(&fixture(name)).unwrap(), &request).unwrap();
    (scratch, destination)
}

fn run(path: &Path, level: Option<Conformance>, deep: bool) -> Report {
    try_run(path, level, deep).unwrap()
}

fn try_run(
    path: &Path,
    level: Option<Conformance>,
    deep: bool,
) -> llmstd::base::error::Result<Report> {
    let selection = Selection::default();
    let options = Options { level, deep, n_threads: 2, ..Options::new(&selection) };
    validate(path, &SPEC, &options)
}

/// A tensor of a file that is taken apart.
#[derive(Clone)]
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

fn read_tensors(path: &Path) -> Vec<Tensor> {
    let bytes = fs::read(path).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Json> = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let entries = header.into_iter().filter(|(name, _)| name != "__metadata__");
    let tensors = entries.map(|(name, entry)| {
        let number = |value: &Json| value.as_u64().unwrap();
        let at = |index: usize| 8 + header_len + number(&entry["data_offsets"][index]) as usize;
        Tensor {
            dtype: entry["dtype"].as_str().unwrap().to_owned(),
            shape: entry["shape"].as_array().unwrap().iter().map(number).collect(),
            bytes: bytes[at(0)..at(1)].to_vec(),
            name,
        }
    });
    let mut tensors: Vec<Tensor> = tensors.collect();
    tensors.sort_by_key(|tensor| SPEC.order(&tensor.name));
    tensors
}

fn write_tensors(path: &Path, tensors: &[Tensor], version: &str) {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "llmstd": version }));
    let mut at = 0;
    for Tensor { name, dtype, shape, bytes } in tensors {
        let end = at + bytes.len();
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] });
        header.insert(name.clone(), entry);
        at = end;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(tensors.iter().flat_map(|tensor| &tensor.bytes));
    fs::write(path, file).unwrap();
}

fn edit_tensors(package: &Path, edit: impl FnOnce(&mut Vec<Tensor>)) {
    let path = package.join("model.safetensors");
    let mut tensors = read_tensors(&path);
    edit(&mut tensors);
    write_tensors(&path, &tensors, "1.0.0");
    reseal(package);
}

fn tensor<'a>(tensors: &'a mut [Tensor], name: &str) -> &'a mut Tensor {
    tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Json)) {
    let mut json: Json = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut json);
    fs::write(path, serde_json::to_vec_pretty(&json).unwrap()).unwrap();
}

fn edit_model(package: &Path, edit: impl FnOnce(&mut Json)) {
    edit_json(&package.join("model.json"), edit);
    reseal(package);
}

fn edit_manifest(package: &Path, edit: impl FnOnce(&mut Manifest)) {
    let path = package.join("manifest.json");
    let mut manifest: Manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut manifest);
    fs::write(path, manifest.to_text()).unwrap();
}

/// Replaces text by text of the same length.
fn swap(path: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes());
    let at = at.unwrap_or_else(|| panic!("{from:?} is not in {}", path.display()));
    bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
    fs::write(path, bytes).unwrap();
}

/// Makes the manifest anew, so that a damage elsewhere is the only one.
fn reseal(package: &Path) {
    let model: Model =
        serde_json::from_slice(&fs::read(package.join("model.json")).unwrap()).unwrap();
    let names: Vec<String> = folder::list(package).unwrap().into_iter().map(|f| f.name).collect();
    let own = |name: &str| {
        name == "manifest.json" || name == "source.json" || name.starts_with("source/")
    };
    let mut tensors: BTreeMap<String, TensorFacts> = BTreeMap::new();
    let mut files = Vec::new();
    for name in names.iter().filter(|name| !own(name)) {
        let bytes = fs::read(package.join(name)).unwrap();
        files.push((name.clone(), bytes));
        if !name.ends_with(".safetensors") {
            continue;
        }
        let path = package.join(name);
        let header_len = u64::from_le_bytes(fs::read(&path).unwrap()[..8].try_into().unwrap());
        let header: Json =
            serde_json::from_slice(&fs::read(&path).unwrap()[8..8 + header_len as usize]).unwrap();
        for tensor in read_tensors(&path) {
            let start = header[&tensor.name]["data_offsets"][0].as_u64().unwrap();
            let facts = TensorFacts {
                name: tensor.name.as_str().into(),
                dtype: DType::parse(&tensor.dtype).unwrap(),
                shape: tensor.shape,
                len: tensor.bytes.len() as u64,
                sha256: Sha256::digest(&tensor.bytes).into(),
                place: Some((name.as_str().into(), 8 + header_len + start)),
            };
            tensors.entry(tensor.name).or_insert(facts);
        }
    }
    let manifest = Manifest::build(ManifestInput {
        spec: &model.spec,
        model: Some(&model),
        tensors: tensors.into_values().map(TensorEntry::from).collect(),
        files: files
            .iter()
            .map(|(path, bytes)| FileFacts {
                path: path.clone(),
                len: bytes.len() as u64,
                sha256: Sha256::digest(bytes).into(),
                text: needs_text(path).then_some(bytes.as_slice()),
            })
            .collect(),
    });
    fs::write(package.join("manifest.json"), manifest.to_text()).unwrap();
}

/// One way to break one rule.
struct Case {
    rule: &'static str,
    base: Base,
    level: Conformance,
    deep: bool,
    damage: fn(&Path),
}

fn cases() -> Vec<Case> {
    use Base::{Classifier, Decoder, Foreign, ForeignClassifier, Generic, Packed, Shards, Speech};
    let mut cases = Vec::new();
    let mut add = |rule, base, damage| {
        let deep = llmstd::rule::rule(rule).is_some_and(|rule| rule.deep);
        let level = match base {
            Generic => Conformance::Container,
            Packed | Speech => Conformance::Schema,
            _ => Conformance::Full,
        };
        cases.push(Case { rule, base, level, deep, damage });
    };
    add("V101", Decoder, |p| {
        let path = p.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] = b'[';
        fs::write(path, bytes).unwrap();
    });
    add("V102", Decoder, |p| swap(&p.join("model.json"), "\"spec\"", "\"spek\""));
    add("V103", Decoder, |p| {
        swap(&p.join("manifest.json"), "llmstd.manifest/1", "llmstd.manifest/9");
    });
    add("V104", Decoder, |p| {
        edit_manifest(p, |manifest| {
            let content = manifest.tensors[0].content();
            manifest.tensors[0].wrong_leaves = Some(Box::new([[0; 32].into(), content]));
        });
    });
    add("V105", Decoder, |p| fs::remove_file(p.join("generation_config.json")).unwrap());
    add("V106", Decoder, |p| fs::write(p.join("adapter.safetensors"), "x").unwrap());
    add("V107", Decoder, |p| {
        edit_manifest(p, |manifest| {
            manifest.tensors[1].start = manifest.tensors[1].start.map(|start| start + 4);
        });
    });
    add("V108", Shards, |p| {
        let (first, second) = (shard(p, 1), shard(p, 2));
        let last = read_tensors(&first).pop().unwrap();
        let mut tensors = read_tensors(&second);
        edit_json(&p.join("model.safetensors.index.json"), |index| {
            let total = index["metadata"]["total_size"].as_u64().unwrap();
            index["metadata"]["total_size"] = json!(total + last.bytes.len() as u64);
        });
        tensors.insert(0, last);
        write_tensors(&second, &tensors, "1.0.0");
        reseal(p);
    });
    add("V109", Shards, |p| {
        edit_json(&p.join("model.safetensors.index.json"), |index| {
            index["metadata"]["total_size"] = json!(1);
        });
        reseal(p);
    });
    add("V109", Shards, |p| {
        edit_json(&p.join("model.safetensors.index.json"), |index| {
            let map = index["weight_map"].as_object_mut().unwrap();
            map.remove("embed.tokens.weight");
        });
        reseal(p);
    });
    add("V110", Decoder, |p| {
        swap(&p.join("model.safetensors"), "\"llmstd\":\"1.0.0\"", "\"llmstd\":\"1.0.9\"");
    });
    add("V111", Decoder, |p| {
        edit_manifest(p, |manifest| {
            manifest.files.push(FileEntry {
                path: "../elsewhere".to_owned(),
                len: 1,
                sha256: [0; 32].into(),
                role: FileRole::Other,
            });
        });
    });
    add("V112", Generic, |p| {
        edit_tensors(p, |tensors| tensors[0].name.insert_str("extra.".len(), "a b"));
    });
    add("V113", Decoder, |p| {
        let path = p.join("model.safetensors");
        let mut tensors = read_tensors(&path);
        tensors.swap(1, 2);
        write_tensors(&path, &tensors, "1.0.0");
        reseal(p);
    });
    add("V114", Decoder, |p| {
        swap(&p.join("source.json"), "llmstd.source/1", "llmstd.source/9");
    });
    add("V115", Decoder, |p| {
        fs::write(p.join("modeling_x.py"), "import os\n").unwrap();
        reseal(p);
    });
    add("V115", Decoder, |p| {
        fs::write(p.join("training_args.bin"), b"\x80\x02}q\x00.").unwrap();
        reseal(p);
    });
    // Protocol 0 has no mark.
    add("V115", Decoder, |p| {
        fs::write(p.join("training_args.bin"), "(dp0\nS'steps'\np1\nI7\ns.").unwrap();
        reseal(p);
    });
    add("V116", Decoder, |p| {
        let path = p.join("model.safetensors");
        write_tensors(&path, &read_tensors(&path), "2.0.0");
        edit_model(p, |model| model["spec"] = json!("2.0.0"));
    });
    add("V117", Decoder, |p| edit_model(p, |model| model["requires"] = json!(["of-tomorrow"])));
    add("V118", Decoder, |p| swap(&p.join("model.json"), "\"rope_theta\": 1", "\"rope_theta\": 2"));
    add("V119", Decoder, |p| {
        fs::write(p.join("README.md"), "a").unwrap();
        fs::write(p.join("readme.md"), "b").unwrap();
        reseal(p);
    });
    add("V120", Decoder, |p| {
        let path = p.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(path, bytes).unwrap();
    });
    add("V121", Decoder, |p| {
        swap(&p.join("generation_config.json"), "eos_token_id", "eos_token_iX");
    });
    add("V121", Decoder, |p| {
        // Another spelling of the header: one space of its padding goes to the front.
        let path = p.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(bytes[7 + header_len], b' ');
        bytes.remove(7 + header_len);
        bytes.insert(9, b' ');
        fs::write(path, bytes).unwrap();
    });
    add("V122", Decoder, |p| {
        edit_tensors(p, |tensors| {
            let norm = tensor(tensors, "decoder.final_norm.weight");
            assert_eq!(norm.dtype, "F32");
            norm.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        });
    });
    add("V123", Decoder, |p| {
        edit_tensors(p, |tensors| {
            tensor(tensors, "decoder.final_norm.weight").bytes.fill(0);
        });
    });
    add("V124", Decoder, |p| edit_model(p, |model| model["tokens"]["eos"] = json!(2)));
    add("V124", Decoder, |p| edit_model(p, |model| model["tokens"]["pad"] = Json::Null));
    add("V124", Decoder, |p| edit_model(p, |model| model["tasks"][0]["pool"] = Json::Null));
    add("V124", Decoder, |p| {
        edit_model(p, |model| model["tasks"][0]["inputs"][0]["optional"] = json!(false));
    });
    add("V124", Decoder, |p| {
        edit_model(p, |model| drop(model.as_object_mut().unwrap().remove("requires")));
    });
    add("V201", Decoder, |p| edit_model(p, |model| model["architecture"] = json!("of-tomorrow")));
    for damage in [
        (|p| edit_hparam(p, "norm_eps", json!("small"))) as fn(&Path),
        |p| edit_hparam(p, "norm_epsilon", json!(1e-5)),
        |p| edit_hparam(p, "norm_type", json!("layernorm")),
        |p| edit_model(p, |m| drop(m["hyperparameters"].as_object_mut().unwrap().remove("causal"))),
    ] {
        add("V202", Decoder, damage);
    }
    add("V203", Decoder, |p| {
        edit_tensors(p, |tensors| {
            tensors.retain(|tensor| tensor.name != "decoder.layers.1.mlp.up_proj.weight");
        });
    });
    add("V204", Decoder, |p| {
        edit_tensors(p, |tensors| {
            let mut bias = tensor(tensors, "decoder.final_norm.weight").clone();
            bias.name = "decoder.final_norm.bias".to_owned();
            tensors.push(bias);
            tensors.sort_by_key(|tensor| SPEC.order(&tensor.name));
        });
    });
    add("V205", Decoder, |p| {
        edit_tensors(p, |tensors| {
            tensor(tensors, "decoder.layers.1.mlp.down_proj.weight").shape.reverse();
        });
    });
    add("V206", Decoder, |p| {
        edit_tensors(p, |tensors| {
            let up = tensor(tensors, "decoder.layers.0.mlp.up_proj.weight");
            up.bytes.truncate(up.bytes.len() - 4 * up.shape[1] as usize);
            up.shape[0] -= 1;
        });
    });
    add("V207", Decoder, |p| {
        edit_model(p, |model| model["ties"][0][1] = json!("embed.tokens.bias"));
    });
    add("V207", Decoder, |p| {
        edit_tensors(p, |tensors| {
            let mut head = tensor(tensors, "embed.tokens.weight").clone();
            head.name = "heads.lm.proj.weight".to_owned();
            tensors.push(head);
        });
    });
    add("V207", Decoder, |p| edit_hparam(p, "tie_embeddings", json!(false)));
    add("V208", Decoder, |p| {
        edit_tensors(p, |tensors| {
            tensors.retain(|tensor| !tensor.name.starts_with("decoder.layers.1."));
        });
    });
    add("V208", Decoder, |p| {
        edit_model(p, |model| {
            model["hyperparameters"]["num_layers"] = json!(2);
            model["hyperparameters"]["layer_types"] = json!(["full", "full"]);
        });
    });
    // Layer types of another number of layers, and heads that no groups share.
    add("V202", Decoder, |p| edit_hparam(p, "num_layers", json!(1u64 << 60)));
    add("V202", Decoder, |p| edit_hparam(p, "layer_types", json!(["full", "full"])));
    add("V202", Decoder, |p| edit_hparam(p, "rope_dim", json!(3)));
    add("V209", Decoder, |p| {
        edit_tensors(p, |tensors| {
            let norm = tensor(tensors, "decoder.final_norm.weight");
            norm.bytes.truncate(norm.bytes.len() / 2);
            norm.dtype = "BF16".to_owned();
        });
    });
    add("V210", Decoder, |p| edit_model(p, |model| model["tokens"]["sep"] = json!("</s>")));
    add("V210", Decoder, |p| edit_model(p, |model| model["tokens"]["sep"] = json!(-1)));
    add("V210", Decoder, |p| edit_model(p, |model| model["tokens"]["end"] = json!(1)));
    add("V211", Decoder, |p| {
        edit_model(p, |model| model["encodings"] = json!({ "embed.tokens.weight": "q4_0" }));
    });
    add("V212", Decoder, |p| {
        edit_tensors(p, |tensors| {
            tensor(tensors, "decoder.final_norm.weight").dtype = "I32".to_owned();
        });
    });
    add("V301", Decoder, |p| {
        fs::remove_file(p.join("tokenizer.json")).unwrap();
        reseal(p);
    });
    add("V302", Decoder, |p| {
        let path = p.join("tokenizer.json");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        reseal(p);
    });
    add("V303", Decoder, |p| {
        edit_json(&p.join("tokenizer.json"), |tokenizer| {
            let added = json!({ "id": 1_000_000, "content": "[PAD]" });
            tokenizer["added_tokens"].as_array_mut().unwrap().push(added);
        });
        reseal(p);
    });
    add("V304", Decoder, |p| edit_model(p, |model| model["tasks"] = json!([])));
    add("V304", Decoder, |p| edit_model(p, |model| model["tasks"][0]["id"] = json!("telepathy")));
    add("V305", Classifier, |p| {
        edit_model(p, |model| {
            model["tasks"][0]["labels"].as_array_mut().unwrap().pop();
        });
    });
    add("V305", Decoder, |p| edit_model(p, |model| model["tasks"][0]["head"] = json!("rm")));
    add("V306", Decoder, |p| {
        edit_model(p, |model| model["tasks"][0]["outputs"][0]["name"] = json!("scores"));
    });
    add("V307", Classifier, |p| edit_model(p, |model| model["tasks"][0]["pool"] = json!("median")));
    add("V307", Classifier, |p| {
        edit_model(p, |model| {
            model["tasks"][0]["pool"] = json!("last");
            model["tokens"].as_object_mut().unwrap().remove("pad");
        });
    });
    add("V308", Decoder, |p| {
        edit(p, "generation_config.json", "bos_token_id", Json::Null);
        edit_model(p, |model| model["tokens"]["bos"] = json!(9));
    });
    add("V401", Decoder, |p| write(p, "tokenizer.model", POINTER));
    add("V401", Foreign, |p| write(p, "optimizer.pt", POINTER));
    add("V402", Foreign, |p| write(p, "model-00002-of-00002.safetensors.incomplete", "x"));
    add("V403", Decoder, |p| write(p, "spiece.model", "\n<!DOCTYPE html>\n<title>Sign in</title>"));
    add("V404", Decoder, |p| write(p, "preprocessor_config.json", ""));
    add("V404", Foreign, |p| write(p, "pytorch_model.bin", ""));
    add("V405", Foreign, |p| {
        write(p, "modeling_x.py", "");
        edit_json(&p.join("config.json"), |config| {
            config["auto_map"] = json!({ "AutoModel": "modeling_x.XModel" });
        });
    });
    add("V406", Foreign, |p| write(p, "modeling_x.py", ""));
    add("V407", Foreign, |p| {
        edit_json(&p.join("config.json"), |config| {
            config["auto_map"] = json!({ "AutoModel": "modeling_x.XModel" });
        });
    });
    add("V408", Foreign, |p| fs::write(p.join("training_args.bin"), CALL).unwrap());
    add("V408", Foreign, |p| fs::write(p.join("notes.pkl"), &CALL[..CALL.len() - 1]).unwrap());
    add("V408", Foreign, |p| {
        fs::write(p.join("state.pkl"), b"\x80\x02cshop.basket\nItem\nq\x00.").unwrap()
    });
    add("V409", Foreign, |p| write(p, "adapter_config.json", r#"{"peft_type": "LORA"}"#));
    add("V409", Foreign, |p| {
        write(p, "adapter_config.json", r#"{"base_model_name_or_path": "/home/me/base"}"#);
    });
    add("V410", Decoder, |p| write(p, "generation_config.json", "{\"eos_token_id\": 2,}"));
    add("V410", Decoder, |p| write(p, "special_tokens_map.json", "{\"a\": 1, \"a\": 2}"));
    add("V411", Foreign, |p| {
        fs::copy(p.join("model.safetensors"), p.join("model (1).safetensors")).map(drop).unwrap();
    });
    add("V412", Decoder, |p| edit(p, "generation_config.json", "pad_token_id", json!(1_000_000)));
    add("V412", Decoder, |p| {
        edit(p, "generation_config.json", "suppress_tokens", json!([1, 999_999]))
    });
    add("V412", Foreign, |p| {
        edit(p, "generation_config.json", "forced_decoder_ids", json!([[900, 1], [901, 50_000]]))
    });
    add("V413", Decoder, |p| edit(p, "generation_config.json", "eos_token_id", json!([7, 8])));
    add("V414", Decoder, |p| edit(p, "generation_config.json", "eos_token_id", json!([2, 8, 2])));
    add("V415", Decoder, |p| edit(p, "generation_config.json", "top_p", json!(1.5)));
    add("V415", Decoder, |p| edit(p, "generation_config.json", "temperature", json!("hot")));
    add("V415", Decoder, |p| {
        edit(p, "generation_config.json", "min_length", json!(9));
        edit(p, "generation_config.json", "max_length", json!(8));
    });
    add("V416", Decoder, |p| edit(p, "generation_config.json", "do_sample", json!(false)));
    add("V417", Classifier, |p| write(p, "generation_config.json", r#"{"max_length": 21}"#));
    add("V421", Decoder, |p| edit(p, "special_tokens_map.json", "eos_token", json!("<unk>")));
    add("V422", Decoder, |p| {
        edit(
            p,
            "tokenizer_config.json",
            "added_tokens_decoder",
            json!({ "5": { "content": "<unk>" } }),
        );
    });
    add("V422", Decoder, |p| {
        edit(
            p,
            "tokenizer_config.json",
            "added_tokens_decoder",
            json!({ "2": { "content": "<end>" } }),
        );
    });
    add("V423", Decoder, |p| edit(p, "tokenizer_config.json", "mask_token", json!("<mask>")));
    add("V424", Decoder, |p| write(p, "vocab.json", r#"{"<s>": 1, "</s>": 5}"#));
    add("V425", Decoder, |p| {
        edit_json(&p.join("tokenizer.json"), |tokenizer| {
            tokenizer["model"]["merges"].as_array_mut().unwrap().push(json!("</s> <s>"));
        });
        reseal(p);
    });
    add("V426", Decoder, |p| {
        edit_json(&p.join("tokenizer.json"), |tokenizer| {
            tokenizer["model"]["unk_token"] = json!("[UNK]");
        });
        reseal(p);
    });
    add("V427", Decoder, |p| {
        edit_json(&p.join("tokenizer.json"), |tokenizer| {
            tokenizer["post_processor"]["special_tokens"]["<s>"]["ids"] = json!([2]);
        });
        reseal(p);
    });
    add("V428", Decoder, |p| {
        edit_json(&p.join("tokenizer.json"), |tokenizer| {
            let again = json!({ "id": 5, "content": "<s>", "special": true });
            let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
            vocab.retain(|_, id| *id != 5);
            tokenizer["model"]["merges"] = json!([]);
            tokenizer["post_processor"] = Json::Null;
            tokenizer["added_tokens"].as_array_mut().unwrap().push(again);
        });
        edit_model(p, |model| drop(model["tokens"].as_object_mut().unwrap().remove("bos")));
    });
    add("V429", Classifier, |p| edit(p, "tokenizer_config.json", "model_max_length", json!(21)));
    add("V430", Classifier, |p| {
        edit(p, "tokenizer.json", "truncation", json!({ "max_length": 7 }))
    });
    add("V431", Decoder, |p| {
        edit_tensors(p, |tensors| {
            let table = tensor(tensors, "embed.tokens.weight");
            table.shape[0] *= 40;
            table.bytes = table.bytes.repeat(40);
        });
        edit_model(p, |model| {
            let rows = model["hyperparameters"]["vocab_size"].as_u64().unwrap();
            model["hyperparameters"]["vocab_size"] = json!(rows * 40);
            let tasks =
                model["tasks"].to_string().replace(&rows.to_string(), &(rows * 40).to_string());
            model["tasks"] = serde_json::from_str(&tasks).unwrap();
        });
    });
    add("V432", Classifier, |p| {
        fs::create_dir(p.join("1_Pooling")).unwrap();
        write(p, "1_Pooling/config.json", r#"{"word_embedding_dimension": 19}"#);
    });
    add("V441", Decoder, |p| write(p, "chat_template.jinja", "{% for m in messages %}"));
    add("V442", Decoder, |p| write(p, "chat_template.jinja", "{{ messages.__class__.mro() }}"));
    add("V442", Decoder, |p| write(p, "chat_template.jinja", "{{ messages['__class__'] }}"));
    add("V442", Decoder, |p| {
        write(p, "chat_template.jinja", "{% set x = '__globals__' %}{{ messages|attr(x) }}");
    });
    add("V443", Decoder, |p| write(p, "chat_template.jinja", "{{ '<|start|>' }}<|end|>"));
    add("V444", Decoder, |p| {
        write(
            p,
            "chat_template.jinja",
            "{% if true %}\n{{ pad_token + messages[0].content }}{% endif %}",
        );
    });
    add("V445", Decoder, |p| {
        edit(p, "tokenizer_config.json", "chat_template", json!("{{ messages }}"))
    });
    add("V446", Decoder, |p| write(p, "chat_template.jinja", "{{ messages | b64encode }}"));
    add("V446", Decoder, |p| write(p, "chat_template.jinja", "{% include 'other' %}"));
    add("V447", Decoder, |p| {
        fs::remove_file(p.join("chat_template.jinja")).unwrap();
        let named = json!([{ "name": "rag", "template": "{{ messages }}" }]);
        edit(p, "tokenizer_config.json", "chat_template", named);
    });
    add("V451", ForeignClassifier, |p| {
        edit_json(&p.join("config.json"), |config| config["label2id"]["pos"] = json!(0));
    });
    add("V452", ForeignClassifier, |p| {
        edit_json(&p.join("config.json"), |config| {
            config["id2label"] = json!({ "1": "a", "2": "b", "3": "c" });
            config["label2id"] = json!({ "a": 1, "b": 2, "c": 3 });
        });
    });
    add("V453", ForeignClassifier, |p| {
        edit_json(&p.join("config.json"), |config| config["id2label"]["2"] = json!("neg"));
    });
    add("V461", Foreign, |p| {
        edit_json(&p.join("config.json"), |config| {
            config["quantization_config"] = json!({ "quant_method": "gptq", "bits": 4 });
        });
    });
    add("V462", Packed, |p| {
        edit_json(&p.join("config.json"), |config| {
            drop(config.as_object_mut().unwrap().remove("quantization_config"));
        });
    });
    add("V433", Speech, |p| write(p, "preprocessor_config.json", r#"{"feature_size": 81}"#));
    add("V463", Foreign, |p| {
        edit_json(&p.join("config.json"), |config| {
            config["rope_theta"] = json!(5.0);
            config["rope_parameters"] = json!({ "rope_type": "default", "rope_theta": 6.0 });
        });
    });
    add("V464", Foreign, |p| {
        edit_json(&p.join("config.json"), |config| {
            config["original_max_position_embeddings"] = json!(1_000_000);
        });
    });
    add("V465", Foreign, |p| {
        edit_json(&p.join("config.json"), |config| config["dtype"] = json!("bfloat16"));
    });
    add("V491", Decoder, |p| {
        edit_tensors(p, |tensors| {
            let up = tensor(tensors, "decoder.layers.1.mlp.up_proj.weight");
            up.bytes = 0.5f32.to_le_bytes().repeat(up.bytes.len() / 4);
        });
    });
    add("V492", Decoder, |p| {
        edit_tensors(p, |tensors| {
            let up = tensor(tensors, "decoder.layers.1.mlp.up_proj.weight");
            let row = up.shape[1] as usize * 4;
            let kept = up.bytes.len() - 3 * row - row / 2 / 4 * 4;
            up.bytes[kept..].fill(0);
        });
    });
    add("V493", Decoder, |p| {
        edit_tensors(p, |tensors| {
            let up = tensor(tensors, "decoder.layers.1.mlp.up_proj.weight");
            up.bytes[..4].copy_from_slice(&(-3e20f32).to_le_bytes());
        });
    });
    add("V494", Decoder, |p| {
        edit_tensors(p, |tensors| {
            let up = tensor(tensors, "decoder.layers.1.mlp.up_proj.weight");
            let integers = (1..=up.bytes.len() as u32 / 4).flat_map(u32::to_le_bytes);
            up.bytes = integers.collect();
        });
    });
    add("V495", Decoder, |p| {
        edit_tensors(p, |tensors| {
            let first = tensor(tensors, "decoder.layers.0.mlp.up_proj.weight").bytes.clone();
            tensor(tensors, "decoder.layers.1.mlp.up_proj.weight").bytes = first;
        });
    });
    cases
}

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";

/// A pickle that calls `os.system`.
const CALL: &[u8] = b"\x80\x02cos\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85q\x02Rq\x03.";

/// Writes a file of a package or of a foreign folder.
fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
    reseal_package(folder);
}

/// Sets an entry of a JSON file.
fn edit(folder: &Path, name: &str, key: &str, value: Json) {
    edit_json(&folder.join(name), |json| json[key] = value);
    reseal_package(folder);
}

fn reseal_package(folder: &Path) {
    if folder.join("manifest.json").exists() {
        reseal(folder);
    }
}

fn edit_hparam(package: &Path, key: &str, value: Json) {
    edit_model(package, |model| model["hyperparameters"][key] = value);
}

fn shard(package: &Path, number: usize) -> PathBuf {
    let names = folder::list(package).unwrap().into_iter().map(|file| file.name);
    let mut shards: Vec<String> = names.filter(|name| name.ends_with(".safetensors")).collect();
    shards.sort();
    package.join(&shards[number - 1])
}

#[test]
fn a_package_that_is_damaged_in_one_way_breaks_one_rule() {
    let mut wrong = Vec::new();
    for (index, case) in cases().iter().enumerate() {
        let (_scratch, package) = package(case.base);
        (case.damage)(&package);
        let report = run(&package, Some(case.level), case.deep);
        // Of a foreign folder, readers and the planner tell what they leave behind.
        let counts = |rule: &&str| !case.base.is_foreign() || rule.starts_with('V');
        let found = report.findings.iter().map(|finding| finding.rule).filter(counts);
        let found: BTreeSet<&str> = found.collect();
        if found != BTreeSet::from([case.rule]) {
            let messages: Vec<&str> = report.findings.iter().map(|f| f.message.as_str()).collect();
            wrong.push(format!("case {index}, {}: {found:?} {messages:?}", case.rule));
        }
        let fails = report.findings.iter().any(|finding| finding.level == Level::Error);
        assert_eq!(report.valid, !fails);
        for check in &report.checks {
            let count = report.findings.iter().filter(|f| f.rule == check.rule).count();
            assert_eq!(check.findings, count, "{}", check.rule);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_is_broken_by_a_case() {
    let broken: BTreeSet<&str> = cases().iter().map(|case| case.rule).collect();
    let rules: BTreeSet<&str> = RULES.iter().map(|rule| rule.id).collect();
    assert_eq!(broken, rules);
}

#[test]
fn good_packages_pass_every_rule() {
    for (base, level) in [
        (Base::Decoder, Conformance::Full),
        (Base::Shards, Conformance::Full),
        (Base::Classifier, Conformance::Full),
        (Base::Generic, Conformance::Container),
        (Base::Foreign, Conformance::Full),
        (Base::ForeignClassifier, Conformance::Full),
        (Base::Packed, Conformance::Schema),
        (Base::Speech, Conformance::Schema),
    ] {
        let (_scratch, package) = package(base);
        let report = run(&package, None, true);
        assert_eq!(report.findings, []);
        assert_eq!((report.level, report.reached), (level, Some(level)));
        let in_level = report.checks.iter().filter(|check| check.level <= level);
        for check in in_level {
            assert!(matches!(check.outcome, Outcome::Pass | Outcome::NotApplicable), "{check:?}");
        }
    }
}

#[test]
fn what_convert_claims_holds() {
    let folders = ["fixtures/hf", "fixtures/families"].into_iter().flat_map(|folder| {
        fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path())
    });
    let (mut n_packages, mut warned) = (0, BTreeSet::new());
    for folder in folders {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let inner = folder.join("src");
        let source = if inner.is_dir() { inner } else { folder };
        if !source.join("config.json").exists() {
            continue;
        }
        let foreign = run(&source, None, true);
        let is_warning =
            |found: &&Diagnostic| found.rule.starts_with('V') && found.level == Level::Warning;
        warned
            .extend(foreign.findings.iter().filter(is_warning).map(|one| (name.clone(), one.rule)));
        if !foreign.valid {
            // Some fixtures are there to be refused: by the planner, and never by a rule that
            // looks at what a complete plan makes.
            let by_rules: Vec<_> =
                foreign.findings.iter().filter(|found| found.rule.starts_with('V')).collect();
            assert!(by_rules.is_empty(), "{}: {by_rules:#?}", source.display());
            continue;
        }
        assert_eq!(foreign.kind, Kind::Foreign);
        let scratch = TempDir::new().unwrap();
        let destination = scratch.path().join("package");
        let request = Request::new(&SPEC, &destination, "std");
        convert::convert(folder::open(&source).unwrap(), &request).unwrap();
        let report = run(&destination, None, true);
        assert!(report.valid, "{}: {:#?}", source.display(), report.findings);
        assert_eq!(report.reached, report.claimed);
        assert_eq!(report.level, foreign.level);
        n_packages += 1;
    }
    assert!(40 < n_packages);
    // What is good is not warned about. These have numbers of the model that they are a small copy of.
    let warned: Vec<(&str, &str)> =
        warned.iter().map(|(name, rule)| (name.as_str(), *rule)).collect();
    assert_eq!(
        warned,
        [
            ("cwm", "V464"),
            ("modernbert-decoder", "V210"),
            ("modernbert-decoder-bias", "V210"),
            ("modernbert-decoder-bias-seqcls", "V210"),
        ]
    );
}

#[test]
fn convert_claims_no_more_than_what_it_writes_keeps() {
    let scratch = TempDir::new().unwrap();
    let source = scratch.path().join("source");
    fs::create_dir(&source).unwrap();
    for file in folder::list(&fixture("llama-tied")).unwrap() {
        fs::copy(fixture("llama-tied").join(&file.name), source.join(&file.name)).unwrap();
    }
    edit_json(&source.join("tokenizer.json"), |tokenizer| {
        let added = json!({ "id": 99, "content": "[PAD]" });
        tokenizer["added_tokens"].as_array_mut().unwrap().push(added);
    });
    let package = scratch.path().join("package");
    let (source, destination) = (source.to_str().unwrap(), package.to_str().unwrap());
    check_exit(&["convert", source, destination], 0, "", "warning[V303]");
    let report = run(&package, None, true);
    assert_eq!((report.valid, report.level), (true, Conformance::Schema));
    check_exit(&["validate", source], 0, "can keep level schema", "");
    check_exit(&["validate", source, "--level", "full"], 1, "error[V303]", "");
}

#[test]
fn a_damaged_tensor_is_named_with_its_bytes() {
    let (_scratch, package) = package(Base::Decoder);
    let path = package.join("model.safetensors");
    let name = "decoder.layers.1.attn.k_proj.weight";
    let manifest: Manifest =
        serde_json::from_slice(&fs::read(package.join("manifest.json")).unwrap()).unwrap();
    let entry = manifest.tensor(name).unwrap();
    let (start, end) = (entry.start.unwrap(), entry.start.unwrap() + entry.len);
    for at in [start, end - 1] {
        let good = fs::read(&path).unwrap();
        let mut bytes = good.clone();
        bytes[at as usize] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        let report = run(&package, None, true);
        let [finding] = report.findings.as_slice() else { panic!("{:#?}", report.findings) };
        assert_eq!((finding.rule, finding.tensor.as_deref()), ("V120", Some(name)));
        assert_eq!(finding.file.as_deref(), Some("model.safetensors"));
        assert_eq!(finding.bytes, Some([start, end]));
        // Without --deep nobody looks at the bytes, and the report says so.
        let report = run(&package, None, false);
        let check = report.checks.iter().find(|check| check.rule == "V120").unwrap();
        assert_eq!((check.outcome, check.why), (Outcome::Skipped, Some("it needs --deep")));
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn tensors_are_told_apart_even_where_the_header_is_damaged() {
    let (_scratch, package) = package(Base::Decoder);
    let path = package.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = b'[';
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(path, bytes).unwrap();
    let report = run(&package, None, true);
    let found: Vec<_> = report.findings.iter().map(|f| (f.rule, f.tensor.as_deref())).collect();
    assert_eq!(found, [("V101", None), ("V120", Some("decoder.final_norm.weight"))]);
}

#[test]
fn a_higher_level_than_claimed_makes_the_missing_parts_findings() {
    let (_scratch, package) = package(Base::Generic);
    assert!(run(&package, None, false).valid);
    let report = run(&package, Some(Conformance::Full), false);
    let found: BTreeSet<&str> = report.findings.iter().map(|finding| finding.rule).collect();
    assert_eq!(found, BTreeSet::from(["V201"]));
    assert_eq!(report.reached, Some(Conformance::Container));
}

#[test]
fn rules_are_selected_and_ignored_by_number_or_its_beginning() {
    let (_scratch, package) = package(Base::Decoder);
    fs::remove_file(package.join("generation_config.json")).unwrap();
    edit_json(&package.join("source.json"), |source| source["schema"] = json!("other"));
    let found = |select: &[&str], ignore: &[&str]| {
        let own = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let selection = Selection { select: own(select), ignore: own(ignore) };
        let options = Options::new(&selection);
        let report = validate(&package, &SPEC, &options).unwrap();
        report.findings.iter().map(|finding| finding.rule).collect::<Vec<_>>()
    };
    assert_eq!(found(&[], &[]), ["V105", "V114"]);
    assert_eq!(found(&["V105"], &[]), ["V105"]);
    assert_eq!(found(&["V1"], &["V105"]), ["V114"]);
    assert_eq!(found(&["V2"], &[]), [""; 0]);
}

/// Validates without a panic; what comes of it.
fn verdict(package: &Path, deep: bool) -> Result<bool, ErrorKind> {
    try_run(package, Some(Conformance::Full), deep)
        .map(|report| report.valid)
        .map_err(|err| err.kind())
}

#[test]
fn damaged_files_give_findings_and_never_a_panic() {
    let (_scratch, package) = package(Base::Decoder);
    assert_eq!(verdict(&package, true), Ok(true));
    for (name, deep) in [
        ("model.json", true),
        ("manifest.json", false),
        ("source.json", false),
        ("model.safetensors", true),
        ("tokenizer.json", true),
    ] {
        let path = package.join(name);
        let good = fs::read(&path).unwrap();
        // The first bytes decide the most; the rest is sampled.
        let places = (0..24).chain((24..good.len()).step_by((good.len() / 60).max(1)));
        for at in places {
            fs::write(&path, &good[..at]).unwrap();
            assert_eq!(verdict(&package, false), Ok(false), "{name} cut at {at}");
            for mask in [0x01, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= mask;
                fs::write(&path, bad).unwrap();
                let verdict = verdict(&package, deep);
                // No hash protects the manifest or what says where a package came from.
                assert!(verdict == Ok(false) || !deep, "{name} flipped at {at}: {verdict:?}");
                assert!(verdict.is_ok(), "{name} flipped at {at}: {verdict:?}");
            }
        }
        fs::write(&path, good).unwrap();
    }
    assert_eq!(verdict(&package, true), Ok(true));
}

fn llmstd(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llmstd")).args(args).output().unwrap()
}

#[track_caller]
fn check_exit(args: &[&str], code: i32, out: &str, err: &str) {
    let output = llmstd(args);
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
    assert!(stdout.contains(out), "{stdout}");
    assert!(stderr.contains(err), "{stderr}");
}

#[test]
fn exit_codes_are_as_pinned() {
    let (_scratch, good) = package(Base::Decoder);
    let (_other_scratch, bad) = package(Base::Decoder);
    let tensors = fs::read(bad.join("model.safetensors")).unwrap();
    fs::write(bad.join("model.safetensors"), &tensors[..100]).unwrap();
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    check_exit(&["validate", good], 0, "keeps level full", "");
    check_exit(&["validate", good, bad], 1, "error[V101]", "llmstd explain V101");
    check_exit(&["validate", bad, "/no/such/path", good], 2, "error[V105]", "/no/such/path");
    check_exit(&["validate", good, "--select", "V999"], 2, "", "no rule \"V999\"");
    // A foreign file that is cut is a finding too.
    let cut = Path::new(bad).join("model.safetensors");
    check_exit(&["validate", cut.to_str().unwrap()], 1, "error[V101]", "");
    check_exit(&["validate", bad, "--ignore", "V1"], 0, "", "");
}

#[test]
fn a_foreign_checkpoint_is_held_to_what_it_would_become() {
    let source = fixture("llama-tied");
    check_exit(&["validate", source.to_str().unwrap()], 0, "can keep level full", "");
    let scratch = TempDir::new().unwrap();
    fs::copy(source.join("model.safetensors"), scratch.path().join("model.safetensors")).unwrap();
    let path = scratch.path().to_str().unwrap();
    check_exit(&["validate", path], 1, "error[P001]", "");
    check_exit(&["validate", path, "--level", "container"], 0, "can keep level container", "");
}

#[test]
fn json_is_what_the_types_say() {
    let (_scratch, package) = package(Base::Decoder);
    fs::remove_file(package.join("generation_config.json")).unwrap();
    let args = ["validate", package.to_str().unwrap(), "/no/such/path", "--format", "json"];
    let json: Json = serde_json::from_slice(&llmstd(&args).stdout).unwrap();
    let schema = serde_json::to_value(schemars::schema_for!(Validation)).unwrap();
    assert!(jsonschema::is_valid(&schema, &json), "{json:#}");
    assert_eq!(json["schema"], "llmstd.validate/1");
    assert_eq!(json["inputs"][0]["report"]["findings"][0]["rule"], "V105");
    assert!(json["inputs"][1]["error"].is_string());
}

#[test]
fn explain_prints_pages_and_knows_near_numbers() {
    check_exit(&["explain", "V120"], 0, "## What to do", "");
    check_exit(&["explain", "tensor-hash"], 0, "# V120 tensor-hash", "");
    check_exit(&["explain"], 0, "V120  tensor-hash", "");
    check_exit(&["explain", "V12"], 2, "", "V120");
    let json: Json =
        serde_json::from_slice(&llmstd(&["explain", "V120", "--format", "json"]).stdout).unwrap();
    assert_eq!(json["rules"][0]["name"], "tensor-hash");
}

/// The numbers that code can print: every string that is one.
fn printed() -> BTreeSet<String> {
    let mut todo = vec![root().join("src")];
    let mut found = BTreeSet::new();
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        if path.extension().is_none_or(|end| end != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let words = code.split('"').filter(|word| {
            word.len() == 4
                && word.starts_with(['D', 'L', 'P', 'R', 'T', 'V'])
                && word[1..].bytes().all(|byte| byte.is_ascii_digit())
        });
        found.extend(words.map(str::to_owned));
    }
    found
}

#[test]
fn every_number_has_one_page_and_every_page_a_number() {
    let mut paged = BTreeSet::new();
    for (path, text) in SPEC.files() {
        let Some(stem) = path.strip_prefix("rules/").and_then(|name| name.strip_suffix(".md"))
        else {
            continue;
        };
        let (id, name) = stem.split_once('-').unwrap();
        assert!(paged.insert(id.to_owned()), "{id} has two pages");
        assert!(text.starts_with(&format!("# {id} {name}\n\n")), "{path}");
        let sections: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(sections, ["Why it matters", "What to do", "Example", "Since"], "{path}");
        if let Some(rule) = llmstd::rule::rule(id) {
            assert_eq!(rule.name, name);
        }
    }
    assert_eq!(paged, printed());
}

/// A package with a tensor file that is long enough to be held to its tensors and header alone.
fn long_package() -> (TempDir, PathBuf) {
    let scratch = TempDir::new().unwrap();
    let (source, destination) = (scratch.path().join("source"), scratch.path().join("package"));
    fs::create_dir(&source).unwrap();
    let numbers: Vec<u8> =
        (0..(17u32 << 20) / 4).flat_map(|at| (1.0 + at as f32 / 1e3).to_le_bytes()).collect();
    let tensor = |name: &str, shape: &[u64], bytes: &[u8]| Tensor {
        name: name.to_owned(),
        dtype: "F32".to_owned(),
        shape: shape.to_vec(),
        bytes: bytes.to_vec(),
    };
    let (few, many) = numbers.split_at(28);
    let tensors = [tensor("few", &[7], few), tensor("many", &[17 * 1024 * 256 - 7], many)];
    write_tensors(&source.join("model.safetensors"), &tensors, "1");
    let request = Request { generic: true, ..Request::new(&SPEC, &destination, "std") };
    convert::convert(folder::open(&source).unwrap(), &request).unwrap();
    fs::remove_dir_all(source).unwrap();
    (scratch, destination)
}

#[test]
fn a_long_file_is_held_to_its_tensors_and_header_and_as_a_whole_when_asked() {
    let (_scratch, path) = long_package();
    let check = |whole_files| {
        let selection = Selection::default();
        let options = Options { deep: true, whole_files, ..Options::new(&selection) };
        let report = validate(&path, &SPEC, &options).unwrap();
        let rules = report.findings.iter().map(|found| found.rule.to_owned());
        (rules.collect::<Vec<_>>(), report.covered)
    };
    let none: Vec<String> = Vec::new();
    let file = path.join("model.safetensors");
    assert_eq!(check(false), (none.clone(), vec!["model.safetensors".to_owned()]));
    assert_eq!(check(true), (none.clone(), none.clone()));
    // The header says something else, in as many bytes.
    let good = fs::read(&file).unwrap();
    swap(&file, "\"llmstd\":\"1.0", "\"llmstd\":\"1.1");
    assert!(check(false).0.contains(&"V121".to_owned()));
    // A byte of a tensor.
    let mut bad = good.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    fs::write(&file, bad).unwrap();
    assert_eq!(check(false).0, ["V120"]);
    assert_eq!(check(true).0, ["V120"]);
    // The hash of the whole file is wrong in the manifest, and nothing else is.
    fs::write(&file, good).unwrap();
    edit_manifest(&path, |manifest| {
        let entry = manifest.files.iter_mut().find(|file| file.path == "model.safetensors");
        entry.unwrap().sha256 = [0; 32].into();
    });
    assert_eq!(check(false).0, none);
    assert_eq!(check(true).0, ["V121"]);
}

/// An embedding is as wide as the last map that sentence-transformers puts behind the pooling.
#[test]
fn the_width_of_an_embedding_is_that_of_its_last_map() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let opened = folder::open(&root().join("fixtures/hf/st-dense/src")).unwrap();
    convert::convert(opened, &Request::new(&SPEC, &out, "std")).unwrap();
    let report = try_run(&out, Some(Conformance::Full), false).unwrap();
    let told: Vec<_> = report.findings.iter().filter(|found| found.rule == "V306").collect();
    assert!(told.is_empty(), "{told:?}");
    // Another width is told.
    let model = fs::read_to_string(out.join("model.json")).unwrap();
    let mut model: Json = serde_json::from_str(&model).unwrap();
    let tasks = model["tasks"].as_array_mut().unwrap();
    let task = tasks.iter_mut().find(|task| task["id"] == "embedding").unwrap();
    task["outputs"][0]["shape"][1] = 18.into();
    fs::write(out.join("model.json"), model.to_string()).unwrap();
    let report = try_run(&out, Some(Conformance::Full), false).unwrap();
    assert!(report.findings.iter().any(|found| found.rule == "V306"));
}
