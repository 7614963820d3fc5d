//! One model under the names of several frameworks is one model of the standard: transformers' own
//! conversion made the files of fixtures/formats/names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use llmstd::checkpoint::DType;
use llmstd::convert::{self, Failure, Report, Request};
use llmstd::spec::Spec;
use llmstd::{folder, plan};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use crate::oracle::{compare, foreign_fixtures};

fn names() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats/names")
}

/// Converts a folder and proves that every tensor comes back as it was.
fn converted(spec: &Spec, source: &Path, out: &Path, to: &str) -> Report {
    let opened = folder::open(source).unwrap();
    let request = Request { verify: true, ..Request::new(spec, out, to) };
    let report = convert::convert(opened, &request);
    report.unwrap_or_else(|failure| panic!("{} to {to}: {failure:?}", source.display()))
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The digest of the weights of a package.
fn weights(package: &Path) -> String {
    json(&package.join("manifest.json"))["digests"]["weights"].as_str().unwrap().to_owned()
}

/// Every model, with the folders beside the one of PyTorch's names.
fn cases() -> Vec<(String, Vec<String>)> {
    let entries = |folder: &Path| {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let folders = entries.filter(|entry| entry.path().is_dir());
        let mut names: Vec<String> =
            folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let cases = entries(&names());
    assert!(12 < cases.len());
    let others = |case: &String| {
        let mut kinds = entries(&names().join(case));
        kinds.retain(|kind| kind != "hf");
        (case.clone(), kinds)
    };
    cases.iter().map(others).collect()
}

#[test]
fn names_of_every_framework_lead_to_the_same_weights() {
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    for (case, kinds) in cases() {
        let out = |kind: &str| scratch.path().join(format!("{case}-{kind}"));
        converted(&spec, &names().join(&case).join("hf"), &out("hf"), "std");
        assert!(!kinds.is_empty(), "{case}");
        for kind in kinds {
            let report = converted(&spec, &names().join(&case).join(&kind), &out(&kind), "std");
            assert_eq!(weights(&out(&kind)), weights(&out("hf")), "{case} {kind}");
            let format = kind.split('-').next().unwrap();
            assert!(report.from.starts_with(format), "{}", report.from);
        }
    }
}

#[test]
fn what_other_programs_call_otherwise_computes_the_same() {
    let spec = Spec::current();
    let fixtures = foreign_fixtures();
    assert!(7 < fixtures.len());
    for fixture in &fixtures {
        compare::<f32>(&spec, fixture).unwrap_or_else(|why| panic!("{}: {why}", fixture.name));
    }
}

#[test]
fn half_precision_of_ctranslate2_is_the_cast_and_blocks_are_refused() {
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    for case in ["whisper", "ct2-marian"] {
        let of = |kind: &str| names().join(format!("../ctranslate2/{case}-{kind}"));
        let out = |name: &str| scratch.path().join(format!("{case}-{name}"));
        let plan =
            plan::Options { dtype: Some(DType::F16), lossy: true, ..plan::Options::default() };
        let cast = out("cast");
        let request = Request { plan, ..Request::new(&spec, &cast, "std") };
        convert::convert(folder::open(&names().join(case).join("hf")).unwrap(), &request).unwrap();
        converted(&spec, &of("float16"), &out("float16"), "std");
        assert_eq!(weights(&out("float16")), weights(&out("cast")), "{case}");
        let (rule, message, _) = refused(&spec, &of("int8"), &out("int8"), "std");
        assert_eq!(rule, "P006", "{message}");
    }
}

#[test]
fn rows_that_are_nowhere_in_the_file_are_those_of_the_start_alone() {
    // A decoder that starts from another token would not start from zeros.
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("source");
    fs::create_dir(&source).unwrap();
    let from = names().join("ct2-marian/ctranslate2");
    fs::copy(from.join("model.bin"), source.join("model.bin")).unwrap();
    let mut config = json(&from.join("config.json"));
    config["decoder_start_token_id"] = 3.into();
    fs::write(source.join("config.json"), config.to_string()).unwrap();
    let (rule, message, _) = refused(&spec, &source, &scratch.path().join("out"), "std");
    assert_eq!(rule, "P006", "{message}");
    // In the names of Hugging Face the row is there.
    let package = scratch.path().join("package");
    converted(&spec, &from, &package, "std");
    converted(&spec, &package, &scratch.path().join("hf"), "hf");
    let opened = folder::open(&scratch.path().join("hf")).unwrap();
    let table = opened.checkpoint.tensors.iter().find(|t| t.name == "model.shared.weight").unwrap();
    assert_eq!(table.shape, [19, 8]);
}

/// The SHA-256 of a file that the library itself writes of the same tensors, by `CASE/FORMAT/FILE`.
fn goldens() -> BTreeMap<String, String> {
    let text = fs::read_to_string(names().join("written.txt")).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(name, hash)| (name.to_owned(), hash.to_owned())).collect()
}

fn sha256(path: &Path) -> String {
    Sha256::digest(fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn files_of_every_world_are_written_as_its_own_library_writes_them() {
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let mut n = 0;
    for (name, hash) in goldens() {
        let [case, to, file] = name.splitn(3, '/').collect::<Vec<_>>().try_into().unwrap();
        let package = scratch.path().join(format!("{case}.std"));
        if !package.exists() {
            converted(&spec, &names().join(case).join("hf"), &package, "std");
        }
        // From a foreign checkpoint, and from a package: the names of the files are the same.
        let out = scratch.path().join(format!("{case}-{to}"));
        if !out.exists() {
            converted(&spec, &names().join(case).join("hf"), &out, to);
        }
        assert_eq!(sha256(&out.join(file)), hash, "{name}");
        if to != "npz" {
            let again = scratch.path().join(format!("{case}.std-{to}"));
            if !again.exists() {
                converted(&spec, &package, &again, to);
                let back = scratch.path().join(format!("{case}-{to}-back"));
                converted(&spec, &again, &back, "std");
                assert_eq!(weights(&back), weights(&package), "{name}");
            }
            assert_eq!(sha256(&again.join(file)), hash, "{name} of a package");
        }
        n += 1;
    }
    assert!(20 < n, "{n}");
}

#[test]
fn what_came_in_one_world_goes_back_to_it_and_to_others() {
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let out = |name: &str| scratch.path().join(name);
    // The state of the optimizer is left aside: the rest comes back under the names it had.
    converted(&spec, &names().join("bert/tf"), &out("std"), "std");
    converted(&spec, &out("std"), &out("tf"), "tf");
    converted(&spec, &names().join("bert/tf"), &out("flax"), "flax");
    converted(&spec, &names().join("bert/keras"), &out("keras-tf"), "tf");
    let tensors = |path: &Path| {
        let opened = folder::open(path).unwrap();
        let names = opened.checkpoint.tensors.iter().map(|tensor| tensor.name.clone());
        names.collect::<BTreeSet<_>>()
    };
    let mut first = tensors(&names().join("bert/tf"));
    first.retain(|name| !name.contains("adam") && name != "global_step");
    assert_eq!(tensors(&out("tf")), first);
    assert_eq!(tensors(&out("keras-tf")), first);
    assert_eq!(tensors(&out("flax")), tensors(&names().join("bert/flax")));
}

/// Why a conversion is refused.
fn refused(spec: &Spec, source: &Path, out: &Path, to: &str) -> (String, String, String) {
    let opened = folder::open(source).unwrap();
    let failure = convert::convert(opened, &Request::new(spec, out, to)).unwrap_err();
    assert!(!out.exists());
    let Failure::Findings(found) = failure else { panic!("{failure:?}") };
    let help = found[0].help.clone().unwrap_or_default();
    (found[0].rule.to_owned(), found[0].message.clone(), help)
}

#[test]
fn what_a_world_does_not_have_is_refused() {
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let out = |name: &str| scratch.path().join(name);
    let (rule, message, help) = refused(&spec, &names().join("t5/hf"), &out("t5"), "tf");
    assert_eq!((rule.as_str(), message.as_str()), ("P001", "there is no tf mapping of t5"));
    assert_eq!(help, "what is written as tf: albert, bert, electra, gpt2");
    // NumPy has no bfloat16, and F32 holds all of its numbers.
    let source = names().join("bert/hf");
    let plan = plan::Options { dtype: Some(DType::BF16), lossy: true, ..plan::Options::default() };
    let half = out("half");
    let request = Request { plan, ..Request::new(&spec, &half, "hf") };
    convert::convert(folder::open(&source).unwrap(), &request).unwrap();
    let (rule, message, help) = refused(&spec, &half, &out("a.npz"), "npz");
    assert_eq!(rule, "P025");
    assert!(message.contains("is BF16, a dtype that npz does not have (39 such)"), "{message}");
    assert_eq!(help, "add --dtype f32, which holds every number of it");
    let plan = plan::Options { dtype: Some(DType::F32), ..plan::Options::default() };
    let wide = out("wide.npz");
    let request = Request { plan, verify: true, ..Request::new(&spec, &wide, "npz") };
    let report = convert::convert(folder::open(&half).unwrap(), &request).unwrap();
    assert_eq!(report.verified.unwrap().equal, 39);
    // Flax and TensorFlow have it.
    converted(&spec, &half, &out("half-flax"), "flax");
    converted(&spec, &half, &out("half-tf"), "tf");
}

#[test]
fn a_file_is_proven_with_the_config_of_its_source_and_can_be_replaced() {
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("b.msgpack");
    let source = names().join("bert/hf");
    converted(&spec, &source, &out, "flax");
    let beside: Vec<_> = fs::read_dir(scratch.path()).unwrap().collect();
    assert_eq!(beside.len(), 1, "{beside:?}");
    assert_eq!(sha256(&out), goldens()["bert/flax/flax_model.msgpack"]);
    for (name, to) in [("b.msgpack", "flax"), ("b.npz", "npz"), ("tf", "tf")] {
        let out = scratch.path().join(name);
        for _ in 0..2 {
            let request = Request { force: true, ..Request::new(&spec, &out, to) };
            convert::convert(folder::open(&source).unwrap(), &request).unwrap();
        }
    }
}

#[test]
fn large_models_are_several_files_where_their_readers_take_such() {
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let source = names().join("bart/hf");
    for (to, end) in [("flax", "-00002-of-00003.msgpack"), ("tf", ".data-00001-of-00003")] {
        let out = scratch.path().join(to);
        let source = if to == "tf" { names().join("bert/hf") } else { source.clone() };
        let max = if to == "tf" { 2000 } else { 3300 };
        let request =
            Request { max_shard_bytes: Some(max), verify: true, ..Request::new(&spec, &out, to) };
        let report = convert::convert(folder::open(&source).unwrap(), &request).unwrap();
        assert_eq!(report.verified.unwrap().changed, 0);
        let files: Vec<String> = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(files.iter().any(|file| file.ends_with(end)), "{files:?}");
    }
    let out = scratch.path().join("npz");
    let request = Request { max_shard_bytes: Some(3300), ..Request::new(&spec, &out, "npz") };
    assert!(convert::convert(folder::open(&source).unwrap(), &request).is_err());
}

#[test]
fn the_state_of_an_optimizer_is_left_aside_and_told() {
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let report = converted(&spec, &names().join("bert/tf"), &out, "std");
    let told = report.findings.iter().find(|finding| finding.rule == "P015").unwrap();
    let wanted = "3 tensors are left aside, as `bert/embeddings/LayerNorm/beta/adam_m`: ";
    assert!(told.message.starts_with(wanted), "{}", told.message);
    let source = json(&out.join("source.json"));
    assert_eq!(source["config"]["path"], "bert_config.json");
    assert_eq!(source["dropped"].as_array().unwrap().len(), 3);
    // What config of the code says is the config of the model.
    let model = json(&out.join("model.json"));
    assert_eq!(model["architecture"], "bert");
    assert_eq!(model["hyperparameters"]["norm_eps"], 1e-12);
}

#[test]
fn a_head_that_readers_would_pass_over_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hf/gpt2-untied/src");
    let out = scratch.path().join("out");
    let spec = Spec::current();
    let refused =
        llmstd::convert(llmstd::open(&source).unwrap(), &llmstd::Request::new(&spec, &out, "tf"));
    let why =
        refused.expect_err("OpenAI's code takes the table of tokens for the head").to_string();
    assert!(why.starts_with("P042: `lm_head.weight` is a matrix of its own"), "{why}");
    assert!(!out.exists());
}

/// A folder with the files of several frameworks.
fn several() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for from in ["hf", "flax", "tf"] {
        for entry in fs::read_dir(names().join("bert").join(from)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    folder
}

#[test]
fn of_several_formats_one_is_read_and_the_others_are_told() {
    let folder = several();
    let open = |format: Option<&str>| {
        let format = format.and_then(llmstd::format::find);
        folder::open_as(folder.path(), &folder::How { format, ..folder::How::default() }).unwrap()
    };
    let told = |opened: &folder::Opened| {
        let found = opened.checkpoint.findings.iter().find(|found| found.rule == "R014").unwrap();
        (found.message.clone(), found.help.clone().unwrap())
    };
    let opened = open(None);
    assert_eq!(opened.checkpoint.format, "safetensors");
    let (message, help) = told(&opened);
    assert_eq!(
        message,
        "other weights of the folder are not read: Flax (flax_model.msgpack) and TensorFlow \
         (model.ckpt.index); what is read is safetensors (model.safetensors)"
    );
    assert_eq!(
        help,
        "`--from flax` or `--from tf` reads the others, or name a file instead of the folder"
    );
    for id in ["flax", "tf"] {
        let opened = open(Some(id));
        assert_eq!(opened.checkpoint.format, id);
        assert!(told(&opened).1.contains("`--from safetensors`"), "{}", told(&opened).1);
    }
}

#[test]
fn files_that_belong_to_a_checkpoint_are_not_told_as_left_behind() {
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("source");
    converted(&spec, &names().join("bert/hf"), &source, "tf");
    fs::write(source.join("model.ckpt.meta"), "a graph").unwrap();
    let report = converted(&spec, &source, &scratch.path().join("out"), "std");
    assert_eq!(report.left, Vec::<String>::new());
    assert!(report.findings.iter().all(|found| found.rule != "P041"), "{:?}", report.findings);
}

#[test]
fn damaged_bytes_of_a_bundle_are_named() {
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("source");
    converted(&spec, &names().join("bert/hf"), &source, "tf");
    let file = source.join("model.ckpt.data-00000-of-00001");
    let whole = fs::read(&file).unwrap();
    let reader = folder::open(&source).unwrap();
    let wanted = "bert/encoder/layer_1/output/dense/kernel";
    let of = reader.checkpoint.checksums.iter().find(|of| of.tensor == wanted).unwrap();
    let mut flipped = whole.clone();
    flipped[of.bytes.start as usize + 3] ^= 0x10;
    fs::write(&file, &flipped).unwrap();
    let (rule, message, _) = refused(&spec, &source, &scratch.path().join("a"), "std");
    assert_eq!(rule, "R011");
    assert!(message.contains(wanted), "{message}");
    assert!(message.contains("model.ckpt.data-00000-of-00001"), "{message}");
    let told = |deep| checksum_told(&spec, &source, deep);
    assert!(told(true) && !told(false));
    // Cut short, the tensors that are gone are named with their file.
    fs::write(&file, &whole[..of.bytes.start as usize + 8]).unwrap();
    let (rule, message, _) = refused(&spec, &source, &scratch.path().join("b"), "std");
    assert!(["P017", "P024", "P008"].contains(&rule.as_str()), "{rule}");
    assert!(message.contains(".data-00000-of-"), "{message}");
    assert!(message.contains("is cut short"), "{message}");
}

/// Whether `validate` says that a checksum differs.
fn checksum_told(spec: &Spec, path: &Path, deep: bool) -> bool {
    let selection = llmstd::Selection::default();
    let options = llmstd::validate::Options { deep, ..llmstd::validate::Options::new(&selection) };
    let report = llmstd::validate::validate(path, spec, &options).unwrap();
    report.findings.iter().any(|found| found.rule == "R011")
}

#[test]
fn damaged_members_of_archives_are_named() {
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    for (from, file, format) in
        [("npz", "arrays.npz", "numpy"), ("torch", "pytorch_model.bin", "pytorch")]
    {
        let source = scratch.path().join(from);
        fs::create_dir(&source).unwrap();
        let made = source.join(file);
        match from {
            "npz" => drop(converted(&spec, &names().join("bert/hf"), &made, "npz")),
            _ => drop(
                fs::copy("fixtures/hf/bert-base-untyped/src/pytorch_model.bin", &made).unwrap(),
            ),
        }
        assert!(!checksum_told(&spec, &made, true), "{from}");
        let reader = folder::open(&made).unwrap();
        assert_eq!(reader.checkpoint.format, format);
        let of = reader.checkpoint.checksums.last().unwrap().clone();
        drop(reader);
        let mut bytes = fs::read(&made).unwrap();
        bytes[of.bytes.end() as usize - 2] ^= 1;
        fs::write(&made, &bytes).unwrap();
        assert!(checksum_told(&spec, &made, true) && !checksum_told(&spec, &made, false), "{from}");
    }
}

#[test]
fn what_a_graph_gives_tells_which_task_a_head_serves() {
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let graph = names().join("../onnx_task");
    // The same weights and config without a graph: the first of the tasks is taken.
    let plain = scratch.path().join("plain");
    fs::create_dir(&plain).unwrap();
    fs::copy(graph.join("config.json"), plain.join("config.json")).unwrap();
    let weights = names().join("../../hf/llama-seqcls/src/model.safetensors");
    fs::copy(weights, plain.join("model.safetensors")).unwrap();
    for (source, wanted) in [(&graph, "token-classification"), (&plain, "sequence-classification")]
    {
        let out = scratch.path().join(wanted);
        converted(&spec, source, &out, "std");
        assert_eq!(json(&out.join("model.json"))["tasks"][0]["id"], wanted);
    }
}
