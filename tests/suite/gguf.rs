//! GGUF files held against what llama.cpp's own converter makes of the same checkpoints:
//! `fixtures/gguf/reference`, by `reference.py`. What differs on purpose is listed, with reasons,
//! in `fixtures/gguf/allow.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use llmstd::checkpoint::{Checkpoint, Payload};
use llmstd::convert::{Failure, Report, Request, convert};
use llmstd::diff;
use llmstd::encoding::BlockType;
use llmstd::folder;
use llmstd::format::gguf::types::TYPES;
use llmstd::format::gguf::write::Entry;
use llmstd::metadata::{Array, Metadata, Value};
use llmstd::spec::Spec;
use llmstd::version::{self, Version};
use serde::Deserialize;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

#[derive(Deserialize)]
struct Reference {
    fixture: String,
    keys: BTreeMap<String, (String, Json)>,
    tensors: BTreeMap<String, (String, Vec<u64>, String)>,
    /// The values of F32 tensors that are the result of a function: two libraries may differ in
    /// the last bit of one.
    #[serde(default)]
    computed: BTreeMap<String, Vec<f32>>,
}

#[derive(Deserialize)]
struct Allowances {
    allow: Vec<Allowance>,
}

#[derive(Deserialize)]
struct Allowance {
    what: String,
    name: String,
    /// The references that it is for; none: what was seen with other variants.
    #[serde(default)]
    cases: BTreeSet<String>,
    reason: String,
}

fn references() -> Vec<(String, Reference)> {
    let only = std::env::var("CASE").ok();
    let mut paths: Vec<PathBuf> = fs::read_dir(root().join("gguf/reference"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let named = paths.into_iter().map(|path| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_slice(&fs::read(&path).unwrap()).unwrap())
    });
    named.filter(|(name, _)| only.as_ref().is_none_or(|only| only == name)).collect()
}

/// A conversion that proves the way back, and that source and result compute the same.
fn request<'a>(spec: &'a Spec, to: &'a Path, format: &'a str) -> Request<'a> {
    Request { verify: true, check_outputs: true, ..Request::new(spec, to, format) }
}

fn run(request: &Request<'_>, from: &Path) -> Result<Report, String> {
    let opened = folder::open(from).map_err(|err| err.to_string())?;
    convert(opened, request).map_err(|failure| match failure {
        Failure::Error(err) => err.to_string(),
        Failure::Findings(findings) => format!("{:#?}", &findings[..findings.len().min(4)]),
    })
}

/// The keys that a reference has, with the kinds as gguf-py names them.
fn keys(checkpoint: &Checkpoint) -> BTreeMap<String, (String, Json)> {
    let kept = checkpoint.typed_metadata.iter().filter(|(key, _)| {
        *key == "general.architecture"
            || !key.starts_with("general.") && !key.starts_with("tokenizer.")
    });
    kept.map(|(key, value)| {
        let kind = value.kind_name().replace("[", "array[");
        let kind = kind.replace("u32", "uint32").replace("i32", "int32").replace("f32", "float32");
        (key.to_owned(), (kind, value.to_plain(usize::MAX)))
    })
    .collect()
}

fn tensors(opened: &folder::Opened) -> BTreeMap<String, (String, Vec<u64>, String)> {
    let tensors = opened.checkpoint.tensors.iter().map(|tensor| {
        let kind = TYPES.of(tensor.dtype, tensor.encoding.as_deref()).unwrap().name();
        let Payload::Range(extent) = &tensor.payload else { panic!("{}", tensor.name) };
        let hash = Sha256::digest(opened.source.slice(*extent).unwrap());
        let shape = tensor.logical_shape().to_vec();
        (tensor.name.to_string(), (kind, shape, llmstd::base::hex::encode(&hash)))
    });
    tensors.collect()
}

/// Whether an F32 tensor has these values, but for their last bits.
fn is_near(opened: &folder::Opened, name: &str, values: &[f32]) -> bool {
    let tensor = opened.checkpoint.tensors.iter().find(|tensor| tensor.name == name).unwrap();
    let Payload::Range(extent) = &tensor.payload else { panic!("{name}") };
    let found = opened.source.slice(*extent).unwrap().chunks_exact(4);
    let found = found.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    found.len() == values.len()
        && found
            .zip(values)
            .all(|(ours, theirs)| (ours - theirs).abs() <= f32::EPSILON * theirs.abs())
}

/// Numbers are the same where the F32 are.
fn same(left: &Json, right: &Json) -> bool {
    match (left, right) {
        (Json::Number(left), Json::Number(right)) => {
            left.as_f64().map(|x| x as f32) == right.as_f64().map(|x| x as f32)
        }
        (Json::Array(left), Json::Array(right)) => {
            left.len() == right.len()
                && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (left, right) => left == right,
    }
}

/// Every difference, as `class name: ours, theirs`.
fn differences(opened: &folder::Opened, reference: &Reference) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let mut differ = |what: &str, name: &str, text: String| {
        found.push((what.to_owned(), name.to_owned(), text));
    };
    let ours = keys(&opened.checkpoint);
    for name in ours.keys().chain(reference.keys.keys()).collect::<BTreeSet<_>>() {
        match (ours.get(name), reference.keys.get(name)) {
            (Some(ours), None) => differ("key.extra", name, format!("{ours:?}")),
            (None, Some(theirs)) => differ("key.missing", name, format!("{theirs:?}")),
            (Some(ours), Some(theirs)) if ours.0 != theirs.0 => {
                differ("key.kind", name, format!("{} {}", ours.0, theirs.0));
            }
            (Some(ours), Some(theirs)) if !same(&ours.1, &theirs.1) => {
                differ("key.value", name, format!("{} {}", ours.1, theirs.1));
            }
            _ => {}
        }
    }
    let mut ours = tensors(opened);
    for (name, values) in &reference.computed {
        if let (Some(ours), Some(theirs)) = (ours.get_mut(name), reference.tensors.get(name))
            && is_near(opened, name, values)
        {
            ours.2.clone_from(&theirs.2);
        }
    }
    for name in ours.keys().chain(reference.tensors.keys()).collect::<BTreeSet<_>>() {
        match (ours.get(name), reference.tensors.get(name)) {
            (Some(_), None) => differ("tensor.extra", name, String::new()),
            (None, Some(_)) => differ("tensor.missing", name, String::new()),
            (Some(ours), Some(theirs)) if ours != theirs => {
                let what = if ours.0 != theirs.0 {
                    "tensor.type"
                } else if ours.1 != theirs.1 {
                    "tensor.shape"
                } else {
                    "tensor.values"
                };
                differ(what, name, format!("{ours:?} {theirs:?}"));
            }
            _ => {}
        }
    }
    found
}

/// Whether a name is of a pattern, in which `*` stands for anything.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            let mut ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.any(|at| fits(rest, &name[at..]))
        }),
    }
}

fn there_and_back(
    spec: &Spec,
    name: &str,
    reference: &Reference,
    allowed: &[Allowance],
) -> Result<(), String> {
    let scratch = tempfile::tempdir().unwrap();
    let (file, package) = (scratch.path().join("model.gguf"), scratch.path().join("std"));
    run(&request(spec, &file, "gguf"), &root().join(&reference.fixture))?;
    let mut needed = BTreeSet::new();
    for (what, key, text) in differences(&folder::open(&file).unwrap(), reference) {
        let allowance = allowed.iter().position(|allowance| {
            let is_here = allowance.cases.contains(name);
            is_here && fits(&allowance.what, &what) && fits(&allowance.name, &key)
        });
        let allowance = allowance.ok_or_else(|| format!("{what} {key}: {text}"))?;
        needed.insert(allowance);
    }
    let mut listed = allowed.iter().enumerate();
    let stale =
        listed.find(|(index, allowance)| allowance.cases.contains(name) && !needed.contains(index));
    if let Some((_, stale)) = stale {
        return Err(format!("is listed with a difference it has not: {}", stale.reason));
    }
    // What was written is read again, gives the same outputs, and comes back byte for byte.
    run(&request(spec, &package, "std"), &file)?;
    let back = scratch.path().join("back").join("model.gguf");
    fs::create_dir(back.parent().unwrap()).unwrap();
    run(&request(spec, &back, "gguf"), &package)?;
    if fs::read(&file).unwrap() != fs::read(&back).unwrap() {
        return Err("the file does not come back byte for byte".to_owned());
    }
    Ok(())
}

#[test]
fn files_are_those_of_llama_cpp() {
    let spec = &Spec::current();
    let allowed = fs::read_to_string(root().join("gguf/allow.toml")).unwrap();
    let Allowances { allow } = toml::from_str(&allowed).unwrap();
    assert!(allow.iter().all(|allowance| !allowance.reason.is_empty()));
    let mut failures = Vec::new();
    for (name, reference) in references() {
        if let Err(why) = there_and_back(spec, &name, &reference, &allow) {
            failures.push(format!("{name}: {why}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The file of a checkpoint of plain tensors with other keys.
fn with_keys(opened: &folder::Opened, metadata: &Metadata, file: &Path) -> Vec<u8> {
    let tensors = &opened.checkpoint.tensors;
    let entries = tensors.iter().map(|tensor| Entry {
        name: &tensor.name,
        kind: TYPES.of(tensor.dtype, None).unwrap(),
        shape: &tensor.shape,
    });
    let entries: Vec<_> = entries.collect();
    let mut bytes = llmstd::format::gguf::write::header(metadata, &entries).unwrap();
    let Payload::Range(first) = &tensors[0].payload else { panic!("a file has ranges") };
    bytes.extend(&fs::read(file).unwrap()[usize::try_from(first.start).unwrap()..]);
    bytes
}

#[test]
fn a_file_that_says_less_comes_back_as_it_was() {
    let spec = &Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    run(&request(spec, &at("model.gguf"), "gguf"), &root().join("hf/llama-untied/src")).unwrap();
    let opened = folder::open(&at("model.gguf")).unwrap();
    // Readers take the rows of the token table, and that there is a head says that it is not tied.
    let mut metadata = opened.checkpoint.typed_metadata.clone();
    metadata.retain(|key| key != "llama.vocab_size" && key != "llama.rope.dimension_count");
    let bytes = with_keys(&opened, &metadata, &at("model.gguf"));
    fs::write(at("less.gguf"), &bytes).unwrap();
    run(&request(spec, &at("std"), "std"), &at("less.gguf")).unwrap();
    run(&request(spec, &at("back.gguf"), "gguf"), &at("std")).unwrap();
    assert!(bytes == fs::read(at("back.gguf")).unwrap());
}

/// What may differ between layers, some programs write for each of them: where it does not, it is one number.
#[test]
fn a_number_for_each_layer_is_one_where_all_are_the_same() {
    let spec = &Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    run(&request(spec, &at("model.gguf"), "gguf"), &root().join("hf/llama-untied/src")).unwrap();
    run(&request(spec, &at("one"), "std"), &at("model.gguf")).unwrap();
    let opened = folder::open(&at("model.gguf")).unwrap();
    let n_layers = match opened.checkpoint.typed_metadata.get("llama.block_count") {
        Some(Value::U32(n)) => usize::try_from(*n).unwrap(),
        other => panic!("{other:?}"),
    };
    assert!(1 < n_layers);
    let listed = |change: &dyn Fn(&mut Vec<u32>)| {
        let mut metadata = opened.checkpoint.typed_metadata.clone();
        for key in ["attention.head_count", "attention.head_count_kv", "feed_forward_length"] {
            let key = format!("llama.{key}");
            let Some(Value::U32(one)) = metadata.get(&key) else { panic!("{key}") };
            let mut items = vec![*one; n_layers];
            change(&mut items);
            metadata.set(&key, Value::Array(Array::U32(items)));
        }
        with_keys(&opened, &metadata, &at("model.gguf"))
    };
    let bytes = listed(&|_| ());
    fs::write(at("listed.gguf"), &bytes).unwrap();
    run(&request(spec, &at("std"), "std"), &at("listed.gguf")).unwrap();
    let model = |name: &str| fs::read(at(name).join("model.json")).unwrap();
    assert!(model("std") == model("one"));
    run(&request(spec, &at("back.gguf"), "gguf"), &at("std")).unwrap();
    assert!(bytes == fs::read(at("back.gguf")).unwrap());
    // Layers that do differ are another model.
    fs::write(at("differ.gguf"), listed(&|items| items[1] += 2)).unwrap();
    let why = run(&request(spec, &at("none"), "std"), &at("differ.gguf")).unwrap_err();
    assert!(why.contains("P003") && why.contains("num_kv_heads"), "{why}");
}

#[test]
fn a_file_is_its_package_and_its_keys_are_compared() {
    let spec = &Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    run(&Request::new(spec, &at("a.gguf"), "gguf"), &root().join("hf/llama-tied/src")).unwrap();
    run(&Request::new(spec, &at("std"), "std"), &at("a.gguf")).unwrap();
    let options = version::Options::new(spec);
    let compare = |old: &str, new: &str| {
        let open = |name: &str| match Version::open(&at(name), &options) {
            Ok(subject) => subject,
            Err(_) => panic!("{name}"),
        };
        let diff = diff::compare(&open(old), &open(new), spec);
        let changes = diff.changes.iter();
        changes.map(|change| format!("{} {}", change.rule, change.subject)).collect::<Vec<_>>()
    };
    assert_eq!(compare("a.gguf", "std"), [""; 0]);
    // What lies beside a file is of other models.
    fs::write(at("tokenizer.json"), "{}").unwrap();
    assert_eq!(compare("a.gguf", "std"), [""; 0]);
    // Another name, another way to cut texts, another template; what follows the header stays.
    let opened = folder::open(&at("a.gguf")).unwrap();
    let mut metadata = opened.checkpoint.typed_metadata.clone();
    metadata.set("general.name", "another".into());
    metadata.set("tokenizer.ggml.pre", "another".into());
    metadata.set("tokenizer.chat_template", "{{ messages }}".into());
    fs::write(at("b.gguf"), with_keys(&opened, &metadata, &at("a.gguf"))).unwrap();
    let changes = compare("a.gguf", "b.gguf");
    for wanted in ["D140 tokenizer.gguf", "D150 default", "D184 general.name"] {
        assert!(changes.iter().any(|change| change == wanted), "{wanted}: {changes:?}");
    }
    assert_eq!(changes.len(), 3, "{changes:?}");
}

#[test]
fn a_folder_made_of_a_file_has_its_tokenizer() {
    let spec = &Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    // The vocabulary is another one than that of the weights: there is nothing to compute.
    fn proven<'a>(spec: &'a Spec, to: &'a Path, format: &'a str) -> Request<'a> {
        Request { check_outputs: false, ..request(spec, to, format) }
    }
    run(&Request::new(spec, &at("plain.gguf"), "gguf"), &root().join("hf/llama-tied/src")).unwrap();
    let opened = folder::open(&at("plain.gguf")).unwrap();
    let mut metadata = opened.checkpoint.typed_metadata.clone();
    metadata.retain(|key| !key.starts_with("tokenizer."));
    let text = fs::read(root().join("tokenizer/bytes-pairs/expected.json")).unwrap();
    let keys: Metadata = serde_json::from_slice(&text).unwrap();
    keys.iter().for_each(|(key, value)| metadata.set(key, value.clone()));
    let file = at("model.gguf");
    fs::write(&file, with_keys(&opened, &metadata, &at("plain.gguf"))).unwrap();
    let names = |folder: &str| {
        let files = fs::read_dir(at(folder)).unwrap();
        let mut names: Vec<_> =
            files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with('.')); // The marker of what was written.
        names.sort();
        names
    };
    // Straight, and by way of a package, whose keys come back as they were.
    run(&proven(spec, &at("hf"), "hf"), &file).unwrap();
    run(&proven(spec, &at("std"), "std"), &file).unwrap();
    run(&proven(spec, &at("again"), "hf"), &at("std")).unwrap();
    run(&proven(spec, &at("back.gguf"), "gguf"), &at("std")).unwrap();
    assert!(fs::read(&file).unwrap() == fs::read(at("back.gguf")).unwrap());
    let expected = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(names("hf"), expected);
    assert_eq!(names("again"), expected);
    for name in expected {
        assert!(
            fs::read(at("hf").join(name)).unwrap() == fs::read(at("again").join(name)).unwrap()
        );
    }
    // What is not known is told of, and the keys are kept.
    metadata.set("tokenizer.ggml.pre", "another".into());
    fs::write(&file, with_keys(&opened, &metadata, &at("plain.gguf"))).unwrap();
    let report = run(&proven(spec, &at("kept"), "hf"), &file).unwrap();
    let found = report.findings.iter().find(|finding| finding.rule == "T002").unwrap();
    assert!(found.message.starts_with("no tokenizer.json is made"), "{}", found.message);
    assert_eq!(names("kept"), ["config.json", "model.safetensors", "tokenizer.gguf"]);
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let spec = &Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let fixture = root().join("gguf/wide");
    run(&Request { generic: true, ..Request::new(spec, &at("std"), "std") }, &fixture).unwrap();
    let (alone, small, infinite) = (at("alone.gguf"), at("small.gguf"), at("infinite.gguf"));
    let refused = run(&Request::new(spec, &alone, "gguf"), &at("std")).unwrap_err();
    assert!(refused.contains("which architecture"), "{refused}");
    let small = Request { max_shard_bytes: Some(4096), ..Request::new(spec, &small, "gguf") };
    let refused = run(&small, &fixture).unwrap_err();
    assert!(refused.contains("no single file"), "{refused}");
    // A value that no block holds: the last of the file becomes infinite, in BF16.
    fs::create_dir(at("infinite")).unwrap();
    fs::copy(fixture.join("config.json"), at("infinite/config.json")).unwrap();
    let mut bytes = fs::read(fixture.join("model.safetensors")).unwrap();
    let n = bytes.len();
    let matrix = n - 2 * 32 - 2;
    bytes[matrix..matrix + 2].copy_from_slice(&0x7f80u16.to_le_bytes());
    fs::write(at("infinite/model.safetensors"), &bytes).unwrap();
    let mut packed = Request::new(spec, &infinite, "gguf");
    packed.plan.quantize = BlockType::find("ggml.q8_0");
    let refused = run(&packed, &at("infinite")).unwrap_err();
    assert!(refused.contains("P023"), "{refused}");
    let left = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, ["infinite", "std"]);
}

#[test]
fn every_mapping_has_a_reference() {
    let spec = &Spec::current();
    let mut tried = BTreeSet::new();
    for (name, reference) in references() {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("model.gguf");
        let report = run(
            &Request { dry_run: true, ..Request::new(spec, &out, "gguf") },
            &root().join(&reference.fixture),
        );
        tried.insert(report.unwrap_or_else(|why| panic!("{name}: {why}")).map.unwrap());
    }
    let maps = spec.maps_of("gguf");
    let untried: Vec<_> = maps
        .map(|map| format!("gguf/{}", map.name))
        .filter(|name| std::env::var("CASE").is_err() && !tried.contains(name))
        .collect();
    assert!(untried.is_empty(), "no reference for {}", untried.join(", "));
}

#[test]
fn matrices_are_packed_and_read_again() {
    let spec = &Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let fixture = root().join("gguf/wide");
    for (id, least) in [("ggml.q8_0", 2), ("ggml.q4_0", 2), ("ggml.q4_k", 2), ("ggml.mxfp4", 2)] {
        let file = scratch.path().join(format!("{id}.gguf"));
        let mut wanted = request(spec, &file, "gguf");
        wanted.plan.quantize = BlockType::find(id);
        wanted.check_outputs = false;
        let report = run(&wanted, &fixture).unwrap();
        assert!(report.loss.is_some_and(|loss| loss.changed != 0 && loss.nans == 0), "{id}");
        let opened = folder::open(&file).unwrap();
        let packed = opened.checkpoint.tensors.iter().filter(|tensor| tensor.encoding.is_some());
        let packed = packed.count();
        let flat = opened.checkpoint.tensors.iter().filter(|tensor| tensor.shape.len() == 1);
        assert!(flat.into_iter().all(|tensor| tensor.dtype.name() == "F32"));
        if packed < least {
            // No row of the fixture is a whole block: nothing was packed, and nothing is claimed.
            panic!("{id}: {packed} tensors are packed");
        }
        // Blocks stay blocks in a package, and become numbers where that is asked for.
        let package = scratch.path().join(format!("{id}.std"));
        run(&Request { check_outputs: true, ..request(spec, &package, "std") }, &file).unwrap();
        let plain = scratch.path().join(format!("{id}.hf"));
        let refused = run(&request(spec, &plain, "hf"), &package).unwrap_err();
        assert!(refused.contains("--decode"), "{refused}");
        let mut decoded = request(spec, &plain, "hf");
        decoded.plan.decode = llmstd::plan::Decode::All;
        run(&decoded, &package).unwrap();
    }
}

#[test]
fn an_embedding_model_comes_back_as_one() {
    let spec = &Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let fixture = root().join("hf/st-mean-normalize/src");
    run(&request(spec, &at("model.gguf"), "gguf"), &fixture).unwrap();
    let opened = folder::open(&at("model.gguf")).unwrap();
    let keys = keys(&opened.checkpoint);
    assert_eq!(keys["bert.pooling_type"].1, 1);
    // The other format says it in files of their own; all three embed alike.
    run(&request(spec, &at("hf"), "hf"), &at("model.gguf")).unwrap();
    for name in ["modules.json", "1_Pooling/config.json"] {
        assert!(at("hf").join(name).exists(), "{name}");
    }
    run(&request(spec, &at("again.gguf"), "gguf"), &at("hf")).unwrap();
    let again = folder::open(&at("again.gguf")).unwrap();
    assert_eq!(tensors(&opened), tensors(&again));
}

#[test]
fn heads_are_left_out_with_a_warning_or_refused() {
    let spec = &Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    // What is for training only.
    let pretraining = root().join("hf/bert-pretraining/src");
    let report = run(&request(spec, &at("model.gguf"), "gguf"), &pretraining).unwrap();
    let told = report.findings.iter().filter(|found| found.rule == "P006").count();
    assert_eq!(told, 2);
    // What a reader would take for a head of whole texts, or compute with another activation.
    for (fixture, why) in [
        ("bert-tokcls", "token-classification"),
        ("distilbert-seqcls", "activation"),
        ("bert-qa", "heads.qa"),
        ("st-dense", "heads.embedding"),
    ] {
        let fixture = root().join("hf").join(fixture).join("src");
        let refused = run(&request(spec, &at("refused.gguf"), "gguf"), &fixture).unwrap_err();
        assert!(refused.contains(why), "{refused}");
        assert!(!at("refused.gguf").exists());
    }
}

#[test]
fn the_factor_of_stretched_frequencies_is_read_from_their_tensor() {
    let spec = &Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let fixture = root().join("hf/llama-rope-llama3/src");
    fs::create_dir(at("hf")).unwrap();
    for entry in fs::read_dir(&fixture).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, at("hf").join(path.file_name().unwrap())).unwrap();
    }
    let text = fs::read_to_string(fixture.join("config.json")).unwrap();
    let mut config: Json = serde_json::from_str(&text).unwrap();
    config["rope_scaling"]["factor"] = 32.0.into();
    config["rope_scaling"]["original_max_position_embeddings"] = 8192.into();
    fs::write(at("hf/config.json"), config.to_string()).unwrap();
    let told = |report: &Report| report.findings.iter().any(|found| found.rule.starts_with('P'));
    let report = run(&request(spec, &at("model.gguf"), "gguf"), &at("hf")).unwrap();
    assert!(!told(&report), "{:?}", report.findings);
    let report = run(&request(spec, &at("std"), "std"), &at("model.gguf")).unwrap();
    assert!(!told(&report), "{:?}", report.findings);
    let model = fs::read_to_string(at("std/model.json")).unwrap();
    let model: Json = serde_json::from_str(&model).unwrap();
    assert_eq!(model["hyperparameters"]["rope_scaling.factor"], 32.0);
}

#[test]
fn positions_that_nothing_reads_come_back_as_rows() {
    let spec = &Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let fixture = root().join("hf/roberta-base/src");
    let report = run(&request(spec, &at("model.gguf"), "gguf"), &fixture).unwrap();
    let cut = report.tensors.iter().find(|tensor| tensor.name == "position_embd.weight");
    let cut = cut.unwrap();
    assert_eq!((cut.shape[0], cut.step.class), (20, llmstd::plan::Exactness::Lossy));
    // A file says nothing of them and is read as what it is; one may say otherwise.
    let package = at("std");
    let asked = Request { arch: Some("roberta"), ..request(spec, &package, "std") };
    let report = run(&asked, &at("model.gguf")).unwrap();
    assert!(report.verified.is_some_and(|verified| verified.changed == 0));
    let name = "encoder.embed.positions.weight";
    let padded = report.tensors.iter().find(|tensor| tensor.name == name).unwrap();
    assert_eq!((padded.shape[0], padded.step.class), (22, llmstd::plan::Exactness::Exact));
}
