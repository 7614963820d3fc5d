//! Compounds: the text model becomes the package, and what stands beside it comes back as it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use llmstd::base::diagnostic::Diagnostic;
use llmstd::convert::{Failure, Report, Request, convert};
use llmstd::folder;
use llmstd::spec::Spec;
use serde_json::Value as Json;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/families").join(name)
}

fn run(from: &Path, to: &Path, format: &str) -> Report {
    let spec = Spec::current();
    let request = Request { verify: true, ..Request::new(&spec, to, format) };
    convert(folder::open(from).unwrap(), &request).unwrap_or_else(|failure| match failure {
        Failure::Error(err) => panic!("{err}"),
        Failure::Findings(found) => panic!("{:?}", messages(&found)),
    })
}

fn messages(findings: &[Diagnostic]) -> Vec<String> {
    findings.iter().map(|found| format!("{} {}", found.rule, found.message)).collect()
}

fn json(path: &Path) -> Json {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The dtype, shape and bytes of each tensor of a folder of one file.
fn tensors(folder: &Path) -> BTreeMap<String, (Json, Json, Vec<u8>)> {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, Json> = serde_json::from_slice(&bytes[8..start]).unwrap();
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__");
    tensors
        .map(|(name, of)| {
            let at = |index: usize| start + of["data_offsets"][index].as_u64().unwrap() as usize;
            let payload = bytes[at(0)..at(1)].to_vec();
            (name, (of["dtype"].clone(), of["shape"].clone(), payload))
        })
        .collect()
}

#[test]
fn a_component_that_is_gone_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let (package, back) = (scratch.path().join("std"), scratch.path().join("hf"));
    run(&fixture("llava"), &package, "std");
    fs::remove_file(package.join("components/vision.safetensors")).unwrap();
    let spec = Spec::current();
    let failure = convert(folder::open(&package).unwrap(), &Request::new(&spec, &back, "hf"));
    let Err(Failure::Error(err)) = failure else { panic!("it is written") };
    assert!(err.to_string().contains("components/vision.safetensors"), "{err}");
    assert!(!back.exists());
}

#[test]
fn files_and_configs_come_back_as_they_were() {
    // Parts of a config, and entries among those of the compound; rotary words that only towers read.
    let gemma = ["gemma3", "gemma3n", "gemma4", "gemma4_unified"];
    for name in
        ["llava", "qwen2_vl", "qwen2_vl-flat", "voxtral", "qwen3_vl_moe"].into_iter().chain(gemma)
    {
        let scratch = tempfile::tempdir().unwrap();
        let (package, back) = (scratch.path().join("std"), scratch.path().join("hf"));
        run(&fixture(name), &package, "std");
        run(&package, &back, "hf");
        let config = json(&fixture(name).join("config.json"));
        assert_eq!(json(&back.join("config.json")), config, "{name}");
        assert_eq!(tensors(&fixture(name)), tensors(&back), "{name}");
    }
}

#[test]
fn components_are_files_of_the_package() {
    let scratch = tempfile::tempdir().unwrap();
    let package = scratch.path().join("std");
    run(&fixture("llava"), &package, "std");
    let manifest = json(&package.join("manifest.json"));
    let files = manifest["files"].as_array().unwrap();
    let components: Vec<(&str, &str)> = files
        .iter()
        .filter(|file| file["role"] == "component")
        .map(|file| (file["path"].as_str().unwrap(), file["sha256"].as_str().unwrap()))
        .collect();
    let paths: Vec<&str> = components.iter().map(|(path, _)| *path).collect();
    assert_eq!(paths, ["components/projector.safetensors", "components/vision.safetensors"]);
    // No tensor of theirs is one of the package's.
    let tensors = manifest["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 21);

    // Written anew, they are the same.
    let again = scratch.path().join("again");
    run(&package, &again, "std");
    for (path, _) in &components {
        assert_eq!(fs::read(package.join(path)).unwrap(), fs::read(again.join(path)).unwrap());
    }
    let spec = Spec::current();
    let rules = llmstd::Selection::default();
    let options = llmstd::ValidateOptions { deep: true, ..llmstd::ValidateOptions::new(&rules) };
    let report = llmstd::validate(&again, &spec, &options).unwrap();
    let errors: Vec<_> = messages(&report.findings);
    assert_eq!(errors, Vec::<String>::new());

    // One that is missing is told of.
    fs::remove_file(again.join("components/vision.safetensors")).unwrap();
    let report = llmstd::validate(&again, &spec, &options).unwrap();
    let rules: Vec<&str> = report.findings.iter().map(|found| found.rule).collect();
    assert!(rules.contains(&"V105") && rules.contains(&"V114"), "{rules:?}");
}

#[test]
fn a_diff_sees_a_component_as_one_thing() {
    let scratch = tempfile::tempdir().unwrap();
    let package = scratch.path().join("std");
    run(&fixture("llava"), &package, "std");
    let rules = |old: &Path, new: &Path| -> Vec<String> {
        let run = std::process::Command::new(env!("CARGO_BIN_EXE_llmstd"))
            .args(["diff", "--format", "json"])
            .args([old, new])
            .output()
            .unwrap();
        let report: Json = serde_json::from_slice(&run.stdout).unwrap();
        let changes = report["changes"].as_array().unwrap();
        let rules = changes.iter().map(|change| change["rule"].as_str().unwrap().to_owned());
        // Which minor version of the standard a side states says nothing of components.
        rules.filter(|rule| rule != "D192").collect()
    };
    // The checkpoint that it was made of has the same towers.
    assert_eq!(rules(&package, &fixture("llava")), Vec::<String>::new());
    let tower = package.join("components/vision.safetensors");
    let mut bytes = fs::read(&tower).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&tower, bytes).unwrap();
    assert_eq!(rules(&fixture("llava"), &package), ["D185"]);
}

#[test]
fn the_text_model_goes_alone_where_there_is_no_place_for_more() {
    let scratch = tempfile::tempdir().unwrap();
    let (package, gguf) = (scratch.path().join("std"), scratch.path().join("x.gguf"));
    run(&fixture("llava"), &package, "std");
    let told = |report: &Report| {
        let told = messages(&report.findings);
        told.iter().filter(|text| text.starts_with("P006 the component")).count()
    };
    assert_eq!(told(&run(&fixture("llava"), &gguf, "gguf")), 2);
    fs::remove_file(package.join("source.json")).unwrap();
    let back = scratch.path().join("hf");
    assert_eq!(told(&run(&package, &back, "hf")), 2);
    assert_eq!(json(&back.join("config.json"))["model_type"], "llama");
}
