//! `llmstd interface`: the goldens, which the libraries that read them have accepted
//! (`tests/oracle/interface.py`), and what holds of all of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value as Json;

const FORMATS: [&str; 6] = ["json", "oip", "triton", "tf-serving", "mlflow", "openapi"];

/// Names of goldens, and what they are of.
const CASES: [(&str, &str); 4] = [
    ("ner", "fixtures/hf/bert-tokcls/src"),
    ("pretraining", "fixtures/hf/bert-pretraining/src"),
    ("tiny-gpt2", "fixtures/hf/gpt2-lmhead/src"),
    ("speech", "fixtures/speech/whisper"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llmstd")).args(args).current_dir(root()).output().unwrap()
}

#[track_caller]
fn stdout(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The files below a folder, by path.
fn files(folder: &Path) -> BTreeMap<PathBuf, String> {
    let entries = walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().is_file());
    files
        .map(|entry| {
            let name = entry.path().strip_prefix(folder).unwrap().to_owned();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

/// `BLESS=1 cargo test --test suite interface::` writes them anew; the judge is asked again then.
#[test]
fn every_form_is_the_one_that_its_library_accepted() {
    for (name, source) in CASES {
        let golden = root().join("fixtures/interface").join(name);
        let bless = std::env::var_os("BLESS").is_some();
        let scratch = tempfile::tempdir().unwrap();
        let folder = if bless { golden.clone() } else { scratch.path().to_owned() };
        for format in FORMATS {
            let to = folder.join(format);
            let to = to.to_str().unwrap();
            let args = ["interface", source, "--name", name, "--format", format, "-o", to, "-q"];
            let force: &[&str] = if bless { &["--force"] } else { &[] };
            stdout(&[&args[..], force].concat());
        }
        assert_eq!(files(&folder), files(&golden), "{name}");
        assert!(7 <= files(&folder).len());
    }
}

#[test]
fn files_that_are_there_are_replaced_by_force_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().to_str().unwrap();
    let source = "fixtures/hf/bert-tokcls/src";
    let args = |form| ["interface", source, "--name", "ner", "--format", form, "-o", folder, "-q"];
    stdout(&args("triton"));
    let written = files(scratch.path());
    assert_eq!(written.len(), 2);
    // One of two is there, and has been edited: nothing is written.
    fs::remove_file(scratch.path().join("ner/config.pbtxt")).unwrap();
    fs::write(scratch.path().join("ner/labels.txt"), "mine").unwrap();
    for form in ["triton", "json"] {
        fs::write(scratch.path().join("interface.json"), "mine").unwrap();
        let before = files(scratch.path());
        let refused = run(&args(form));
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{told}");
        assert!(told.contains("already exists; --force replaces it"), "{told}");
        assert_eq!(files(scratch.path()), before);
    }
    fs::remove_file(scratch.path().join("interface.json")).unwrap();
    stdout(&[&args("triton")[..], &["--force"]].concat());
    assert_eq!(files(scratch.path()), written);
    // What is no file is not replaced.
    fs::remove_file(scratch.path().join("ner/labels.txt")).unwrap();
    fs::create_dir(scratch.path().join("ner/labels.txt")).unwrap();
    assert_eq!(run(&[&args("triton")[..], &["--force"]].concat()).status.code(), Some(2));
}

#[test]
fn a_package_has_the_interface_of_its_source() {
    let scratch = tempfile::tempdir().unwrap();
    let package = scratch.path().join("ner");
    let package = package.to_str().unwrap();
    stdout(&["convert", "fixtures/hf/bert-tokcls/src", package, "-q"]);
    for format in FORMATS {
        let of_package = stdout(&["interface", package, "--format", format]);
        let source =
            ["interface", "fixtures/hf/bert-tokcls/src", "--name", "ner", "--format", format];
        assert_eq!(of_package, stdout(&source), "{format}");
    }
}

#[test]
fn sizes_labels_and_defaults_are_those_of_the_model() {
    let ner: Json = serde_json::from_str(&stdout(&[
        "interface",
        "fixtures/hf/bert-tokcls/src",
        "--format",
        "json",
    ]))
    .unwrap();
    let task = &ner["tasks"][0];
    assert_eq!(task["labels"], serde_json::json!(["neg", "neutral", "pos"]));
    let dims = serde_json::json!([
        {"name": "batch"},
        {"name": "sequence", "max": 20, "hyperparameter": "max_positions"},
        {"name": "labels", "size": 3},
    ]);
    assert_eq!(task["outputs"][0]["dims"], dims);
    // What a generation config says holds before what is usual, where it is of the right kind.
    let scratch = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(root().join("fixtures/hf/gpt2-lmhead/src")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), scratch.path().join(entry.file_name())).unwrap();
    }
    let generation = r#"{"top_k": 7, "temperature": "hot", "max_new_tokens": 33}"#;
    fs::write(scratch.path().join("generation_config.json"), generation).unwrap();
    let path = scratch.path().to_str().unwrap();
    let gpt2: Json =
        serde_json::from_str(&stdout(&["interface", path, "--format", "json"])).unwrap();
    let defaults: BTreeMap<&str, &Json> = gpt2["tasks"][0]["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|known| (known["name"].as_str().unwrap(), &known["default"]))
        .collect();
    assert_eq!((defaults["top_k"], defaults["max_new_tokens"]), (&7.into(), &33.into()));
    assert_eq!(defaults["temperature"], &serde_json::json!(1.0));
    let vocabulary = &gpt2["tasks"][0]["outputs"][0]["dims"][2];
    let expected =
        serde_json::json!({"name": "vocab_size", "size": 99, "hyperparameter": "vocab_size"});
    assert_eq!(vocabulary, &expected);
}

/// The published schema of the protocol.
#[test]
fn oip_metadata_keeps_the_schema_of_the_protocol() {
    let schema = root().join("fixtures/schemas/oip-metadata.schema.json");
    let schema: Json = serde_json::from_str(&fs::read_to_string(schema).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for (_, source) in CASES {
        let metadata: Json =
            serde_json::from_str(&stdout(&["interface", source, "--format", "oip"])).unwrap();
        assert!(validator.is_valid(&metadata), "{source}: {metadata}");
    }
}

#[test]
fn what_a_form_cannot_say_is_told() {
    let told = |format: &str| {
        let output = run(&["interface", "fixtures/hf/bert-tokcls/src", "--format", format]);
        String::from_utf8(output.stderr).unwrap()
    };
    for format in &FORMATS[1..] {
        assert!(told(format).contains(&format!("not said by {format}: ")), "{format}");
    }
    assert!(told("mlflow").contains("attention_mask, token_type_ids"));
    assert_eq!(told("json"), "");
    let other = run(&["interface", "fixtures/hf/bert-pretraining/src", "--format", "oip"]);
    let other = String::from_utf8(other.stderr).unwrap();
    assert!(other.contains("this is masked-lm; --task chooses another: next-sentence"), "{other}");
}

#[test]
fn mistakes_are_told() {
    let fails = |args: &[&str]| {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let ner = "fixtures/hf/bert-tokcls/src";
    let text = fails(&["interface", ner, "--task", "causal-lm"]);
    assert!(text.contains("it has: token-classification"), "{text}");
    let text = fails(&["interface", ner, "--format", "sarif"]);
    assert!(text.contains("text, json, oip, triton"), "{text}");
    let text = fails(&["inspect", ner, "--format", "triton"]);
    assert!(text.contains("a form of interface"), "{text}");
    let text = fails(&["interface", ner, "--name", "../up"]);
    assert!(text.contains("a name has no /"), "{text}");
}

/// The example of the README is what the command prints.
#[test]
fn the_readme_shows_what_a_client_sees() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let shown = readme.split("$ llmstd interface ./ner\n").nth(1).unwrap();
    let shown = shown.split("```").next().unwrap();
    let printed = stdout(&["interface", "fixtures/hf/bert-tokcls/src", "--name", "ner"]);
    assert_eq!(shown, printed);
}
