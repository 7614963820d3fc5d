//! Inputs that people have: names from inside of wrappers or of other programs, links, indexes that
//! disagree with their shards, tokenizers of every kind. All through the binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// The tensors of a safetensors file: names, dtypes, shapes and bytes.
#[derive(Clone)]
struct Tensors(Vec<(String, String, Vec<u64>, Vec<u8>)>);

impl Tensors {
    fn read(path: &Path) -> Tensors {
        let bytes = fs::read(path).unwrap();
        let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
        let mut tensors = Vec::new();
        for (name, entry) in header.as_object().unwrap() {
            let Some(shape) = entry.get("shape") else { continue };
            let at = |n: usize| entry["data_offsets"][n].as_u64().unwrap() as usize + 8 + len;
            let shape = shape.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
            let dtype = entry["dtype"].as_str().unwrap().to_owned();
            tensors.push((name.clone(), dtype, shape, bytes[at(0)..at(1)].to_vec()));
        }
        Tensors(tensors)
    }

    fn write(&self, path: &Path) {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
        for (name, dtype, shape, bytes) in &self.0 {
            let start = data.len();
            data.extend(bytes);
            let entry =
                json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(name.clone(), entry);
        }
        let header = Value::Object(header).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        fs::write(path, bytes).unwrap();
    }

    fn renamed(&self, name: impl Fn(&str) -> String) -> Tensors {
        let tensors = self.0.iter().cloned();
        Tensors(tensors.map(|(old, d, s, b)| (name(&old), d, s, b)).collect())
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.iter().map(|tensor| tensor.0.as_str()).collect();
        names.sort_unstable();
        names
    }

    fn take(&mut self, name: &str) -> (String, String, Vec<u64>, Vec<u8>) {
        let at = self.0.iter().position(|tensor| tensor.0 == name).unwrap();
        self.0.remove(at)
    }
}

fn llmstd(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llmstd")).args(args).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn succeeds(args: &[&str]) -> String {
    let output = llmstd(args);
    let all = [output.stdout, output.stderr].concat();
    let all = String::from_utf8(all).unwrap();
    assert!(output.status.success(), "{args:?}\n{all}");
    all
}

#[track_caller]
fn fails(args: &[&str]) -> String {
    let output = llmstd(args);
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// A tiny checkpoint of a mapping: its folder, and its tensors.
fn sample(scratch: &Path, map: &str) -> (PathBuf, Tensors) {
    let folder = scratch.join("sample");
    succeeds(&["spec", "sample", map, text(&folder)]);
    let tensors = Tensors::read(&folder.join("model.safetensors"));
    (folder, tensors)
}

fn weights_digest(package: &Path) -> Value {
    let manifest = fs::read(package.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    manifest["digests"]["weights"].clone()
}

/// The same model under other names becomes the same package, and goes back to those names.
#[track_caller]
fn same_package(map: &str, other: impl Fn(&Tensors) -> Tensors) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, tensors) = sample(scratch.path(), map);
    let [plain, std, back] = ["plain", "std", "back"].map(|name| scratch.path().join(name));
    succeeds(&["convert", text(&folder), text(&plain)]);
    let other = other(&tensors);
    assert_ne!(other.names(), tensors.names());
    other.write(&folder.join("model.safetensors"));
    let told = succeeds(&["convert", text(&folder), text(&std), "--verify"]);
    assert_eq!(weights_digest(&std), weights_digest(&plain));
    succeeds(&["convert", text(&std), text(&back), "--to", "hf"]);
    assert_eq!(Tensors::read(&back.join("model.safetensors")).names(), other.names());
    told
}

#[test]
fn wrappers_are_left_out_of_names() {
    for (map, from, to) in [
        ("llama", "", "_orig_mod."),
        ("llama", "", "module."),
        ("llama", "", "module._orig_mod."),
        ("llama", "", "base_model.model."),
        ("llama", "", "actor.model."),
        ("llama", ".mlp.", "._checkpoint_wrapped_module.mlp."),
        ("llama", ".self_attn.", ".module.self_attn."),
        ("bert", "", "model."),
        ("bert", "", "0.auto_model."),
        ("gpt2", "", "gpt."),
    ] {
        let told = same_package(map, |tensors| {
            tensors.renamed(|name| match from {
                "" => format!("{to}{name}"),
                from => name.replace(from, to),
            })
        });
        assert!(told.contains("note[R005]"), "{to}: {told}");
    }
}

#[test]
fn two_models_under_two_prefixes_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, tensors) = sample(scratch.path(), "llama");
    let mut both = tensors.renamed(|name| format!("teacher.{name}"));
    both.0.extend(tensors.renamed(|name| format!("student.{name}")).0);
    both.write(&folder.join("model.safetensors"));
    let told = fails(&["convert", text(&folder), text(&scratch.path().join("std"))]);
    assert!(told.contains("error[P002]") && told.contains("`student.` and `teacher.`"), "{told}");
}

#[test]
fn words_of_tensorflow_for_norms_are_read_in_part_and_in_every_class() {
    for (map, part) in [("bert", ""), ("bert", "embeddings"), ("electra", "lay"), ("mpnet", "")] {
        same_package(map, |tensors| {
            tensors.renamed(|name| match name.contains(part) {
                true => name
                    .replace("LayerNorm.weight", "LayerNorm.gamma")
                    .replace("LayerNorm.bias", "LayerNorm.beta"),
                false => name.to_owned(),
            })
        });
    }
}

/// Experts as one tensor: gate and up of each, and down, as transformers 5 has them in memory.
fn fused(tensors: &Tensors, folder: &str, to: &str, words: [&str; 3]) -> Tensors {
    let mut tensors = tensors.clone();
    for layer in 0..16 {
        let name = |expert: usize, word: &str| {
            format!("model.layers.{layer}.{folder}.experts.{expert}.{word}.weight")
        };
        let n = (0..).take_while(|&e| tensors.names().contains(&&*name(e, words[0]))).count();
        if n == 0 {
            continue;
        }
        let (mut gate_up, mut down) = (Vec::new(), Vec::new());
        let (mut shape, mut down_shape, mut kind) = (Vec::new(), Vec::new(), String::new());
        for expert in 0..n {
            let [gate, up, of_down] = words.map(|word| tensors.take(&name(expert, word)));
            gate_up.extend([gate.3, up.3].concat());
            down.extend(of_down.3);
            shape = vec![n as u64, gate.2[0] + up.2[0], gate.2[1]];
            down_shape = [vec![n as u64], of_down.2].concat();
            kind = gate.1;
        }
        let name = |word: &str| format!("model.layers.{layer}.{to}.experts.{word}");
        tensors.0.push((name("gate_up_proj"), kind.clone(), shape, gate_up));
        tensors.0.push((name("down_proj"), kind, down_shape, down));
    }
    tensors
}

#[test]
fn names_that_transformers_5_has_in_memory_are_read() {
    let plain = ["gate_proj", "up_proj", "down_proj"];
    for map in ["qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3", "glm4_moe", "hunyuan_v1_moe"] {
        same_package(map, |tensors| fused(tensors, "mlp", "mlp", plain));
    }
    same_package("jamba", |tensors| fused(tensors, "feed_forward", "feed_forward", plain));
    let w = ["w1", "w3", "w2"];
    for (map, router) in [("mixtral", "gate"), ("minimax", "gate"), ("phimoe", "router")] {
        same_package(map, |tensors| {
            fused(tensors, "block_sparse_moe", "mlp", w)
                .renamed(|name| name.replace(".block_sparse_moe.gate.", &format!(".mlp.{router}.")))
        });
    }
    same_package("ernie4_5_moe", |tensors| {
        let fused = fused(tensors, "mlp", "mlp", plain);
        fused.renamed(|name| name.replace(".mlp.moe_statics.", ".mlp.gate.moe_statics."))
    });
    same_package("granitemoe", |tensors| {
        tensors.renamed(|name| {
            name.replace("input_linear.weight", "experts.gate_up_proj")
                .replace("output_linear.weight", "experts.down_proj")
                .replace("router.layer.weight", "router.weight")
        })
    });
    same_package("gpt_neox", |tensors| {
        tensors.renamed(|name| name.replace("embed_out.", "lm_head."))
    });
    same_package("nomic_bert", |tensors| {
        let mut tensors = tensors.renamed(|name| {
            name.replace("encoder.layers", "layers")
                .replace("emb_ln", "embeddings.LayerNorm")
                .replace("attn.out_proj", "self_attn.o_proj")
                .replace("fc11", "up_proj")
                .replace("fc12", "gate_proj")
                .replace("fc2", "down_proj")
                .replace("norm1", "post_attention_layernorm")
                .replace("norm2", "post_mlp_layernorm")
        });
        let names: Vec<String> = tensors.names().into_iter().map(str::to_owned).collect();
        for name in names.iter().filter(|name| name.ends_with("attn.Wqkv.weight")) {
            let (name, kind, shape, bytes) = tensors.take(name);
            let size = bytes.len() / 3;
            for (at, word) in ["q", "k", "v"].into_iter().enumerate() {
                let name = name.replace("attn.Wqkv", &format!("self_attn.{word}_proj"));
                let part = bytes[at * size..][..size].to_vec();
                tensors.0.push((name, kind.clone(), vec![shape[0] / 3, shape[1]], part));
            }
        }
        tensors
    });
}

fn demo(scratch: &Path) -> PathBuf {
    let folder = scratch.join("demo");
    fs::create_dir(&folder).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/demo/v1");
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    folder
}

#[cfg(unix)]
#[test]
fn links_out_of_the_folder_are_followed_and_told_or_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = demo(scratch.path());
    let [plain, std, none] = ["plain", "std", "none"].map(|name| scratch.path().join(name));
    succeeds(&["convert", text(&folder), text(&plain)]);
    for name in ["model.safetensors", "tokenizer.json"] {
        let away = scratch.path().join(format!("away-{name}"));
        fs::rename(folder.join(name), &away).unwrap();
        std::os::unix::fs::symlink(&away, folder.join(name)).unwrap();
    }
    let told = succeeds(&["convert", text(&folder), text(&std)]);
    assert!(told.contains("note[R015]") && told.contains("tokenizer.json -> "), "{told}");
    assert_eq!(weights_digest(&std), weights_digest(&plain));
    let told = fails(&["convert", text(&folder), text(&none), "--no-follow"]);
    assert!(told.contains("links are not followed here"), "{told}");
    assert!(!none.exists());
}

/// Two shards and an index of a checkpoint; gives the tensors of both.
fn sharded(folder: &Path) -> [Tensors; 2] {
    let mut first = Tensors::read(&folder.join("model.safetensors"));
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let second = Tensors(first.0.split_off(first.0.len() / 2));
    [first, second]
}

fn write_shards(
    folder: &Path,
    shards: &[Tensors; 2],
    place: impl Fn(&str, usize) -> Option<usize>,
) {
    let mut map = serde_json::Map::new();
    let file = |n: usize| format!("model-0000{}-of-00002.safetensors", n + 1);
    for (n, shard) in shards.iter().enumerate() {
        shard.write(&folder.join(file(n)));
        for name in shard.names() {
            if let Some(n) = place(name, n) {
                map.insert(name.to_owned(), file(n).into());
            }
        }
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

#[test]
fn an_index_that_disagrees_with_its_shards_is_told() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = demo(scratch.path());
    let [plain, std, none, kept] =
        ["plain", "std", "none", "kept"].map(|name| scratch.path().join(name));
    succeeds(&["convert", text(&folder), text(&plain)]);
    let [first, second] = sharded(&folder);
    let unlisted = second.names()[0].to_owned();
    write_shards(&folder, &[first.clone(), second.clone()], |name, n| {
        (name != unlisted).then_some(n)
    });
    let told = succeeds(&["convert", text(&folder), text(&std)]);
    let wanted = format!("has `{unlisted}`, which the index does not list");
    assert!(told.contains("warning[R016]") && told.contains(&wanted), "{told}");
    assert_eq!(weights_digest(&std), weights_digest(&plain));

    // A second copy that is the same is told of, one that differs is refused.
    let copy = first.0[0].clone();
    let mut double = second.clone();
    double.0.push(copy.clone());
    write_shards(&folder, &[first.clone(), double], |name, n| {
        Some(if name == copy.0 { 0 } else { n })
    });
    fs::remove_dir_all(&std).unwrap();
    let told = succeeds(&["convert", text(&folder), text(&std)]);
    assert!(told.contains("warning[R016]") && told.contains("with the same values"), "{told}");
    assert_eq!(weights_digest(&std), weights_digest(&plain));
    let mut stale = second;
    stale.0.push((copy.0.clone(), copy.1, copy.2, vec![0; copy.3.len()]));
    write_shards(&folder, &[first, stale], |name, n| Some(if name == copy.0 { 0 } else { n }));
    let told = fails(&["convert", text(&folder), text(&none)]);
    assert!(told.contains("error[R016]") && told.contains("with other values"), "{told}");
    assert!(!none.exists());
    for args in [&["inspect"][..], &["validate"]] {
        let output = llmstd(&[args, &[text(&folder)]].concat());
        assert_ne!(output.status.code(), Some(2), "{args:?}");
    }
    succeeds(&["convert", text(&folder), text(&kept), "--generic"]);
}

#[test]
fn files_of_every_tokenizer_are_carried() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = demo(scratch.path());
    fs::create_dir(folder.join("additional_chat_templates")).unwrap();
    let names = [
        "spm.model",
        "source.spm",
        "target.spm",
        "bpe.codes",
        "sentencepiece.model",
        "normalizer.json",
        "emoji.json",
        "additional_chat_templates/rag.jinja",
        "dict.txt",
        "sentence_roberta_config.json",
        "vocab.bpe",
        "tokenizer.model.v3",
        "qwen.tiktoken",
        "video_preprocessor_config.json",
    ];
    for name in names {
        fs::write(folder.join(name), "{}").unwrap();
    }
    let std = scratch.path().join("std");
    succeeds(&["convert", text(&folder), text(&std)]);
    for name in names {
        assert!(std.join(name).is_file(), "{name}");
    }
}

#[test]
fn what_is_no_model_is_called_what_it_is() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = demo(scratch.path());
    let file = folder.join("model.safetensors");
    let tensors = Tensors::read(&file);
    let out = scratch.path().join("out");
    let convert = |path: &Path, words: &str| {
        let told = fails(&["convert", text(path), text(&out)]);
        assert!(told.contains(words), "{words}: {told}");
        assert!(!out.exists());
    };
    for (bytes, words) in [
        (&b"<!DOCTYPE html><html>"[..], "an HTML page"),
        (b"\x1f\x8b\x08\0", "gzip packed"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    ] {
        fs::write(&file, bytes).unwrap();
        convert(&folder, words);
    }
    tensors.renamed(|name| format!("base_model.model.{name}.lora_A.weight")).write(&file);
    let adapter = json!({"peft_type": "LORA", "base_model_name_or_path": "meta/base"}).to_string();
    fs::write(folder.join("adapter_config.json"), adapter).unwrap();
    convert(&folder, "this is a LORA adapter of the base meta/base");
    fs::remove_file(&file).unwrap();
    for (name, words) in [("__0_0.distcp", "the pieces of one rank"), ("m.mlmodel", "Core ML")] {
        fs::write(folder.join(name), "x").unwrap();
        convert(&folder, words);
        fs::remove_file(folder.join(name)).unwrap();
    }
    let shard = folder.join("model-00001-of-00003.safetensors");
    tensors.write(&shard);
    convert(&shard, "shard 1 of 3");
    fs::rename(&shard, &file).unwrap();
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    fs::write(folder.join("config.json"), format!("\u{feff}{config}")).unwrap();
    convert(&folder, "byte order mark");
    let other = config.replace(r#""llama""#, r#""my-llama""#);
    assert_ne!(other, config);
    fs::write(folder.join("config.json"), other).unwrap();
    convert(&folder, "--arch llama");
}

/// The first releases of sentence-transformers gave the transformer a folder of its own.
#[test]
fn a_transformer_in_a_folder_of_its_own_is_read_and_written_beside_its_modules() {
    let scratch = tempfile::tempdir().unwrap();
    let (plain, _) = sample(scratch.path(), "bert");
    let old = scratch.path().join("old");
    let home = old.join("0_Transformer");
    fs::create_dir_all(&home).unwrap();
    fs::create_dir_all(old.join("1_Pooling")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(plain.join(name), home.join(name)).unwrap();
    }
    fs::write(home.join("vocab.txt"), "[UNK]\n").unwrap();
    fs::write(old.join("config.json"), r#"{"__version__": "0.3.6"}"#).unwrap();
    let pooling = json!({"word_embedding_dimension": 8, "pooling_mode_mean_tokens": true});
    fs::write(old.join("1_Pooling/config.json"), pooling.to_string()).unwrap();
    let module = |path: &str, kind: &str| json!({"path": path, "type": format!("sentence_transformers.models.{kind}")});
    let modules = json!([module("0_Transformer", "Transformer"), module("1_Pooling", "Pooling")]);
    fs::write(old.join("modules.json"), modules.to_string()).unwrap();

    let (package, of_plain) = (scratch.path().join("std"), scratch.path().join("plain"));
    let told = succeeds(&["convert", text(&old), text(&package), "--verify"]);
    assert!(told.contains("note[R017]") && told.contains("`0_Transformer`"), "{told}");
    succeeds(&["convert", text(&plain), text(&of_plain)]);
    assert_eq!(weights_digest(&package), weights_digest(&of_plain));
    let model: Value =
        serde_json::from_slice(&fs::read(package.join("model.json")).unwrap()).unwrap();
    let tasks = model["tasks"].as_array().unwrap();
    let embedding = tasks.iter().find(|task| task["id"] == "embedding").unwrap();
    assert_eq!(embedding["pool"], "mean");
    succeeds(&["validate", text(&package), "--deep", "--level", "schema"]);

    let back = scratch.path().join("back");
    succeeds(&["convert", text(&package), text(&back), "--to", "hf"]);
    let modules: Value =
        serde_json::from_slice(&fs::read(back.join("modules.json")).unwrap()).unwrap();
    assert_eq!((&modules[0]["path"], &modules[1]["path"]), (&json!(""), &json!("1_Pooling")));
    for name in ["config.json", "model.safetensors", "vocab.txt", "1_Pooling/config.json"] {
        assert!(back.join(name).is_file(), "{name}");
    }
}

#[test]
fn strict_takes_every_warning_for_an_error() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, tensors) = sample(scratch.path(), "gpt2");
    let out = scratch.path().join("out");
    succeeds(&["convert", text(&folder), text(&out), "--strict"]);
    fs::remove_dir_all(&out).unwrap();
    let mut more = tensors.clone();
    more.0.push(("frozen.ln_1.bias".to_owned(), "F32".to_owned(), vec![1], vec![0; 4]));
    more.write(&folder.join("model.safetensors"));
    let told = fails(&["convert", text(&folder), text(&out), "--strict"]);
    assert!(told.contains("error[P006]") && told.contains("frozen.ln_1.bias"), "{told}");
    assert!(!out.exists());
    let told = fails(&["convert", text(&folder), text(&out), "--strict", "--dry-run"]);
    assert!(told.contains("error[P006]"), "{told}");
    let told = succeeds(&["convert", text(&folder), text(&out)]);
    assert!(told.contains("warning[P006]"), "{told}");
}

#[test]
fn a_tensor_that_does_not_fit_is_told_of_with_what_may_have_happened() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, tensors) = sample(scratch.path(), "gpt2");
    let out = scratch.path().join("out");
    let with = |change: &dyn Fn(&mut Vec<u64>)| {
        let mut changed = tensors.clone();
        let of = changed.0.iter_mut().find(|tensor| tensor.0.ends_with("h.0.mlp.c_fc.weight"));
        let tensor = of.unwrap();
        change(&mut tensor.2);
        let n: u64 = tensor.2.iter().product();
        tensor.3.truncate(n as usize * 4);
        changed.write(&folder.join("model.safetensors"));
        fails(&["convert", text(&folder), text(&out)])
    };
    let told = with(&|shape| shape.reverse());
    assert!(
        told.contains("error[P010]") && told.contains("rows and columns are exchanged"),
        "{told}"
    );
    let told = with(&|shape| *shape = vec![0]);
    assert!(told.contains("error[P010]") && told.contains("ZeRO-3"), "{told}");
    let told = with(&|shape| shape[0] -= 1);
    assert!(told.contains("two witnesses must agree"), "{told}");
}

/// The hyperparameters of a fixture whose config is changed, or what is said of it.
fn hyperparameters(fixture: &str, change: impl Fn(&mut Value)) -> Result<Value, String> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(fixture);
    let scratch = tempfile::tempdir().unwrap();
    let [folder, std] = ["src", "std"].map(|name| scratch.path().join(name));
    fs::create_dir(&folder).unwrap();
    fs::copy(from.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    let config = fs::read(from.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    change(&mut config);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let output = llmstd(&["convert", text(&folder), text(&std)]);
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    let model = fs::read(std.join("model.json")).unwrap();
    let model: Value = serde_json::from_slice(&model).unwrap();
    Ok(model["hyperparameters"].clone())
}

/// What transformers 5.23 makes of entries that are null, absent, or overruled by others.
#[test]
fn entries_mean_what_their_classes_read() {
    let dynamic = json!({"rope_type": "dynamic", "rope_theta": 700.0, "factor": 2.0, "original_max_position_embeddings": 5});
    let yarn = json!({"rope_type": "yarn", "rope_theta": 700.0, "factor": null, "original_max_position_embeddings": 16});
    let long = json!({"rope_type": "longrope", "rope_theta": 700.0, "original_max_position_embeddings": 16,
        "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 2.1, 2.2, 2.3]});
    let set =
        |key: &'static str, value: Value| move |config: &mut Value| config[key] = value.clone();
    let llama = "families/qwen3";
    for (fixture, key, value, hyperparameter, wanted) in [
        // Dynamic positions begin to grow where the model's length ends.
        (
            llama,
            "rope_parameters",
            dynamic.clone(),
            "rope_scaling.original_max_positions",
            json!(64),
        ),
        // A factor that is not there is how much longer the model has become.
        (llama, "rope_parameters", yarn, "rope_scaling.factor", json!(4.0)),
        (llama, "rope_parameters", long, "rope_scaling.factor", json!(4.0)),
        ("families/mamba2", "intermediate_size", json!(7), "ssm.inner", json!(24)),
        (
            "families/olmo",
            "rope_parameters",
            dynamic,
            "rope_scaling.original_max_positions",
            json!(64),
        ),
        // Every word of transformers, in every family.
        ("families/distilbert", "activation", json!("relu6"), "activation", json!("relu6")),
        ("families/modernbert", "hidden_activation", json!("relu2"), "activation", json!("relu2")),
        ("families/m2m_100", "activation_function", json!("mish"), "activation", json!("mish")),
    ] {
        let found = hyperparameters(fixture, set(key, value)).unwrap();
        assert_eq!(found[hyperparameter], wanted, "{fixture} {key}");
    }
    // What stands inside of `rope_parameters` is overwritten by what the class has outside.
    let found = hyperparameters("families/phi3-long", |config| {
        config["rope_parameters"]["original_max_position_embeddings"] = json!(3);
    });
    assert_eq!(found.unwrap()["rope_scaling.original_max_positions"], json!(16));
}

/// T5's second word for its activation is the one that acts.
#[test]
fn two_words_for_an_activation_must_agree() {
    let other = |word: &'static str| move |config: &mut Value| config["dense_act_fn"] = json!(word);
    let said = hyperparameters("families/t5", other("tanh")).unwrap_err();
    assert!(said.contains("`dense_act_fn` makes it \"tanh\": readers differ"), "{said}");
    hyperparameters("families/t5", other("relu")).unwrap();
    hyperparameters("families/t5-v1_1", other("gelu_new")).unwrap();
}

/// Latent attention's positions are as wide as `head_dim` says, where it says so.
#[test]
fn a_width_of_positions_that_contradicts_is_refused() {
    for family in ["deepseek_v2", "deepseek_v3", "longcat_flash"] {
        let other = |config: &mut Value| config["head_dim"] = json!(2);
        let said = hyperparameters(&format!("families/{family}"), other).unwrap_err();
        assert!(said.contains("`head_dim` makes it 2: readers differ"), "{family}: {said}");
    }
    let other = |config: &mut Value| config["head_dim"] = json!(2);
    for family in ["dbrx", "gpt_neox", "modernbert", "stablelm", "persimmon"] {
        let said = hyperparameters(&format!("families/{family}"), other).unwrap_err();
        assert!(said.contains("head_dim"), "{family}: {said}");
    }
}

#[test]
fn heads_of_keys_that_are_null_are_those_of_queries() {
    for (fixture, heads) in
        [("hf/qwen2-untied/src", 6), ("families/mixtral", 6), ("families/jamba", 3)]
    {
        let null = |config: &mut Value| config["num_key_value_heads"] = Value::Null;
        // The tensors have fewer: they are measured by the heads of queries, not by a default.
        let said = hyperparameters(fixture, null).unwrap_err();
        assert!(said.contains(&format!("num_kv_heads = {heads}")), "{fixture}: {said}");
    }
}

/// Null is no way to say what a class has by default.
#[test]
fn null_is_not_the_default() {
    let null = |key: &'static str| move |config: &mut Value| config[key] = Value::Null;
    let said = hyperparameters("families/glm", null("attention_bias")).unwrap_err();
    assert!(said.contains("`attention_bias` is null, which has no meaning here"), "{said}");
    // Where the class has null itself, and where it would be false.
    hyperparameters("families/qwen3", null("sliding_window")).unwrap();
    hyperparameters("families/qwen3", null("attention_bias")).unwrap();
}

/// A refusal names what stands in the config, once, and nothing that only the data files know.
#[test]
fn refusals_speak_of_the_config() {
    let set =
        |key: &'static str, value: Value| move |config: &mut Value| config[key] = value.clone();
    let odd = hyperparameters("families/gpt_neox", set("hidden_size", json!(25))).unwrap_err();
    let causal = hyperparameters("families/gemma", set("is_causal", json!(false))).unwrap_err();
    assert!(causal.contains("the config's `is_causal`: false"), "{causal}");
    let class = hyperparameters("families/bart", |config| {
        config["architectures"] = json!(["BartForNothing"]);
        config["decoder_layers"] = json!(5);
    });
    let class = class.unwrap_err();
    assert!(class.contains("the config names the class BartForNothing"), "{class}");
    for said in [odd, causal] {
        assert!(!said.contains("`_"), "{said}");
        assert_eq!(said.matches("error[").count(), 1, "{said}");
    }
}

/// A table of sines in half precision is computed anew without its rounding: that is told.
#[test]
fn sinusoids_in_half_precision_are_told() {
    let scratch = tempfile::tempdir().unwrap();
    let [half, std] = ["half", "std"].map(|name| scratch.path().join(name));
    let pegasus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/families/pegasus");
    succeeds(&["convert", text(&pegasus), text(&half), "--to", "hf", "--dtype", "bf16", "--lossy"]);
    let table = "model.encoder.embed_positions.weight";
    let mut tensors = Tensors::read(&half.join("model.safetensors"));
    let (name, dtype, shape, bytes) = tensors.take(table);
    assert_eq!(name, table);
    // As `save_pretrained` of a model in BF16 writes it: rounded to nearest, ties to even.
    let rounded = |bytes: &[u8]| {
        let bits = u32::from_le_bytes(bytes.try_into().unwrap());
        (((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16).to_le_bytes()
    };
    let bytes = match dtype.as_str() {
        "F32" => bytes.chunks_exact(4).flat_map(rounded).collect(),
        _ => bytes,
    };
    tensors.0.push((name, "BF16".to_owned(), shape, bytes));
    tensors.write(&half.join("model.safetensors"));
    let told = succeeds(&["convert", text(&half), text(&std)]);
    assert!(told.contains(&format!("`{table}` is stored as BF16 and is computed anew")), "{told}");
}

#[test]
fn a_stray_is_of_a_layer_only_where_the_mapping_has_such_names() {
    for (name, said) in [
        ("layers.0.x", "warning[P006]"),
        ("tower.blocks.70.x", "warning[P006]"),
        ("tower.70.norm.weight", "warning[P006]"),
        ("model.layers.0.x", "error[P006]"),
        ("model.layers.70.x", "error[P006]"),
        ("model.layers.70.mlp.up_proj.weight", "error[P011]"),
        ("tower.layers.70.mlp.up_proj.weight", "error[P011]"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let (folder, mut tensors) = sample(scratch.path(), "llama");
        tensors.0.push((name.to_owned(), "F32".to_owned(), vec![1], vec![0; 4]));
        tensors.write(&folder.join("model.safetensors"));
        let output = llmstd(&["convert", text(&folder), text(&scratch.path().join("std"))]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains(said) && told.contains(name), "{name}: {told}");
        assert_eq!(output.status.success(), said.starts_with("warning"), "{name}: {told}");
    }
}

#[test]
fn a_tensor_beside_the_model_that_gguf_has_no_place_for_is_told_of() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, mut tensors) = sample(scratch.path(), "llama");
    tensors.0.push(("my.stray".to_owned(), "F32".to_owned(), vec![1], vec![0; 4]));
    tensors.write(&folder.join("model.safetensors"));
    let std = scratch.path().join("std");
    succeeds(&["convert", text(&folder), text(&std)]);
    for source in [&folder, &std] {
        let file = scratch.path().join("x.gguf");
        let told = succeeds(&["convert", text(source), text(&file)]);
        let said = "warning[P006]: `my.stray` stands beside the model";
        assert_eq!(told.matches("my.stray").count(), 1, "{told}");
        assert!(told.contains(said) && told.contains("left out of gguf"), "{told}");
        fs::remove_file(&file).unwrap();
        fails(&["convert", text(source), text(&file), "--strict"]);
        assert!(!file.exists());
    }
    // The format of the source has a place for it.
    let back = scratch.path().join("back");
    let told = succeeds(&["convert", text(&std), text(&back), "--to", "hf", "--strict"]);
    assert!(Tensors::read(&back.join("model.safetensors")).names().contains(&"my.stray"), "{told}");
}

#[test]
fn a_file_that_is_named_has_nothing_to_do_with_other_folders() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, _) = sample(scratch.path(), "llama");
    let other = folder.join("tokenized");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("tokenizer.json"), "{}").unwrap();
    let (file, out) = (folder.join("model.safetensors"), folder.join("out"));
    let told = succeeds(&["convert", text(&file), text(&out)]);
    assert!(!told.contains("P041"), "{told}");
    // What lies in the folder of the source is no part of it.
    succeeds(&["convert", text(&file), text(&out), "--force"]);
    let told = fails(&["convert", text(&file), text(&out)]);
    assert!(told.contains("--force"), "{told}");
    // The words are those of the file, not of its folder.
    let told = succeeds(&["convert", text(&folder), text(&scratch.path().join("std"))]);
    assert!(told.contains("tokenized/tokenizer.json is not carried over"), "{told}");
    assert!(!told.contains("out/model.json is not carried over, and"), "{told}");
}

#[test]
fn names_of_any_length_and_number_are_looked_through_quickly() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, tensors) = sample(scratch.path(), "llama");
    let config = folder.join("config.json");
    let typed = fs::read_to_string(&config).unwrap();
    let mut untyped: Value = serde_json::from_str(&typed).unwrap();
    untyped.as_object_mut().unwrap().remove("model_type");
    untyped.as_object_mut().unwrap().remove("architectures");
    let empty = |name: String| (name, "F32".to_owned(), vec![0], Vec::new());
    let mut long = tensors.clone();
    long.0.push(empty(".".repeat(1_000_000)));
    let mut many = tensors;
    many.0.extend((0..50_000).map(|n| empty(format!("a.{n}.x"))));
    for tensors in [&long, &many] {
        tensors.write(&folder.join("model.safetensors"));
        for config_text in [&typed, &untyped.to_string()] {
            fs::write(&config, config_text).unwrap();
            let out = scratch.path().join("out");
            let args = ["convert", text(&folder), text(&out), "--dry-run", "-q"];
            // A search that grows with the square takes hours.
            let mut child = Command::new(env!("CARGO_BIN_EXE_llmstd"))
                .args(args)
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let begin = std::time::Instant::now();
            while child.try_wait().unwrap().is_none() {
                std::thread::sleep(std::time::Duration::from_millis(50));
                if 180 < begin.elapsed().as_secs() {
                    child.kill().unwrap();
                    panic!("it does not end");
                }
            }
        }
    }
}

#[test]
fn outputs_are_compared_where_there_is_something_to_compare() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, mut tensors) = sample(scratch.path(), "llama");
    let (file, out) = (scratch.path().join("x.safetensors"), scratch.path().join("out"));
    let told = fails(&["convert", text(&folder), text(&file), "--check-outputs"]);
    assert!(told.contains("error[P030]: --check-outputs has no effect"), "{told}");
    tensors.0[0].3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    tensors.0.iter_mut().for_each(|tensor| {
        tensor.3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    tensors.write(&folder.join("model.safetensors"));
    let told = fails(&["convert", text(&folder), text(&out), "--check-outputs"]);
    assert!(told.contains("the source itself computes NaN"), "{told}");
    assert!(!told.contains("report") && !out.exists(), "{told}");
}
