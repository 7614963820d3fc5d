//! One model under the names of several frameworks is one model of the standard: transformers' own
//! conversion made the files of fixtures/formats/names.

use std::fs;
use std::path::{Path, PathBuf};

use llmstd::convert::{self, Report, Request};
use llmstd::folder;
use llmstd::spec::Spec;
use serde_json::Value as Json;

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
