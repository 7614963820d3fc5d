//! The vectors of `spec/conformance`: this program keeps them, the reader in Python keeps them, and a program
//! that answers wrongly does not.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use llmstd::author::conformance::{self, Own, Results, Subject};
use llmstd::author::tensors::TensorList;
use llmstd::spec::Spec;
use serde_json::{Value as Json, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn section<'r>(results: &'r Results, name: &str) -> &'r conformance::Section {
    results.sections.iter().find(|section| section.name == name).unwrap()
}

/// `BLESS=1 cargo test --test suite conformance::` writes what is expected of the sources anew.
#[test]
fn this_program_keeps_every_vector() {
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    if std::env::var_os("BLESS").is_some() {
        let text = conformance::bless(&spec, scratch.path()).unwrap();
        std::fs::write(root().join("spec/conformance/packages.json"), text).unwrap();
        return; // What is embedded is of before.
    }
    let results = conformance::run(&spec, &mut Own::new(&spec), scratch.path()).unwrap();
    for section in &results.sections {
        assert!(section.failures.is_empty(), "{}: {:#?}", section.name, section.failures);
        assert!(
            10 <= section.passed || section.name == "leaves",
            "{}: {}",
            section.name,
            section.passed
        );
    }
    assert!(results.passed);
    assert!(120 <= section(&results, "invalid").passed);
    // Of sources, one has no task to compute.
    assert_eq!(section(&results, "packages").unsupported, 0);
}

/// A program that says that everything is well.
struct Blind;

impl Subject for Blind {
    fn ask(&mut self, request: &Json) -> Result<Json, String> {
        Ok(match request["do"].as_str().unwrap() {
            "name" => json!({"legal": true}),
            "open" => json!({"digests": {}, "tensors": []}),
            "validate" => json!({"errors": [], "warnings": []}),
            other => json!({"unsupported": other}),
        })
    }
}

#[test]
fn a_program_that_lets_everything_pass_does_not_conform() {
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let results = conformance::run(&spec, &mut Blind, scratch.path()).unwrap();
    assert!(!results.passed);
    let of = |name: &str| (section(&results, name).passed, section(&results, name).failures.len());
    assert!(10 < of("names").1);
    // Each invalid package is let pass, as a reader and as a validator.
    assert_eq!(of("invalid").0, 0);
    assert!(160 < of("invalid").1);
    assert!(of("packages").1 != 0);
    assert!(section(&results, "ops").unsupported != 0);
}

/// What `spec tensors` lists is what a package of the config has.
#[test]
fn the_tensors_of_a_config_are_those_of_its_package() {
    let spec = Spec::current();
    let text = std::fs::read_to_string(root().join("spec/conformance/packages.json")).unwrap();
    let file: Json = serde_json::from_str(&text).unwrap();
    let mut seen = 0;
    for source in file["sources"].as_array().unwrap() {
        let Some(arch) = source["expected"]["model"]["architecture"].as_str() else { continue };
        if !source["expected"]["model"]["encodings"].as_object().unwrap().is_empty() {
            continue; // The parts of a quantized tensor are no tensors of an architecture.
        }
        let config = &source["files"]["config.json"];
        let listed = TensorList::of_config(&spec, arch, "hf", config).unwrap().tensors;
        let all = TensorList::of_arch(&spec, arch).unwrap().tensors;
        assert!(
            all.iter().all(|tensor| !tensor.about.is_empty() && !tensor.shape.is_empty()),
            "{arch}"
        );
        let mut stored: BTreeMap<&str, &Json> = BTreeMap::new();
        for row in source["expected"]["tensors"].as_array().unwrap() {
            stored.insert(row[0].as_str().unwrap(), &row[2]);
        }
        for tensor in &listed {
            let shape = stored.remove(tensor.name.as_str());
            assert!(
                shape.is_some() || tensor.optional || tensor.head.is_some(),
                "{arch}: {tensor:?}"
            );
            let dims = shape.into_iter().flat_map(|shape| shape.as_array().unwrap());
            for (dim, listed) in dims.zip(&tensor.shape) {
                let stored = dim.to_string();
                assert!(listed == "?" || *listed == stored, "{arch}: {tensor:?}");
            }
            seen += 1;
        }
        let free = |name: &&str| !name.starts_with("heads.");
        let unlisted: Vec<&str> = stored.into_keys().filter(free).collect();
        assert!(unlisted.is_empty(), "{arch}: {unlisted:?}");
    }
    assert!(800 < seen, "{seen}");
}

#[test]
fn the_reader_in_python_keeps_the_vectors() {
    let python = ["python3", "python"].into_iter().find(|python| {
        let version = Command::new(python).args(["-c", "import numpy, tomllib"]).output();
        version.is_ok_and(|output| output.status.success())
    });
    let Some(python) = python else {
        #[allow(clippy::print_stderr)] // What is not tested is said.
        {
            eprintln!("SKIPPED: there is no python3 of 3.11 or later with numpy");
        }
        return;
    };
    let reader = format!("{python} spec/python/llmstd_reader.py");
    let output = Command::new(env!("CARGO_BIN_EXE_llmstd"))
        .args(["spec", "conformance", "--format", "json", "--reader", &reader])
        .current_dir(root())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let results: Json = serde_json::from_str(&text)
        .unwrap_or_else(|err| panic!("{err}: {text} {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(results["passed"], true, "{results:#}");
    let sections = results["sections"].as_array().unwrap();
    for name in
        ["names", "order", "canonical", "leaves", "expressions", "encodings", "packages", "invalid"]
    {
        let section = sections.iter().find(|section| section["name"] == name).unwrap();
        assert!(5 <= section["passed"].as_u64().unwrap(), "{section}");
    }
}
