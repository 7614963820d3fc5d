//! The published JSON Schemas: those of the types, and kept by what the program writes and prints.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/1.0/schema")
}

/// `BLESS=1 cargo test --test suite schemas::` writes them anew.
#[test]
fn the_published_schemas_are_those_of_the_types() {
    let mut names = BTreeSet::new();
    for (name, schema) in llmstd::schema::all() {
        let path = folder().join(format!("{name}.schema.json"));
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        if std::env::var_os("BLESS").is_some() {
            fs::create_dir_all(folder()).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let published = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(published, text, "{}: run with BLESS=1", path.display());
        names.insert(path.file_name().unwrap().to_owned());
    }
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(names.contains(&name), "{} is of no type", name.display());
    }
}

#[track_caller]
fn check(name: &str, json: &Json) {
    let text = fs::read_to_string(folder().join(format!("{name}.schema.json"))).unwrap();
    let schema: Json = serde_json::from_str(&text).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let problems: Vec<String> = validator
        .iter_errors(json)
        .map(|problem| format!("{}: {problem}", problem.instance_path()))
        .collect();
    assert!(problems.is_empty(), "{name}: {}", problems.join("\n"));
}

/// What a command prints as JSON.
fn printed(args: &[&str]) -> Json {
    let output = Command::new(env!("CARGO_BIN_EXE_llmstd"))
        .args(args)
        .args(["--format", "json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|err| {
        panic!("{args:?}: {err}\n{text}\n{}", String::from_utf8_lossy(&output.stderr))
    })
}

#[test]
fn what_is_written_and_printed_keeps_the_schemas() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let (package, narrow) = (at("package"), at("narrow"));
    // Typed metadata and quantized tensors.
    check("inspect", &printed(&["inspect", "fixtures/gguf/t.gguf"]));
    // With dropped buffers, ties and copies; with labels; with modules and a tokenizer.
    for (index, fixture) in
        ["gpt2-old-bin", "bert-seqcls", "st-dense", "llama-tied"].iter().enumerate()
    {
        let source = format!("fixtures/hf/{fixture}/src");
        let package = format!("{package}{index}");
        check("inspect", &printed(&["inspect", &source]));
        check("convert", &printed(&["convert", &source, &at("dry"), "--dry-run"]));
        check("convert", &printed(&["convert", &source, &package, "--verify"]));
        for (name, file) in
            [("model", "model.json"), ("manifest", "manifest.json"), ("source", "source.json")]
        {
            let text = fs::read_to_string(Path::new(&package).join(file)).unwrap();
            check(name, &serde_json::from_str(&text).unwrap());
        }
        check("inspect", &printed(&["inspect", &package]));
        check("manifest", &printed(&["manifest", &package]));
        check("validate", &printed(&["validate", &package, &source, "--deep"]));
    }
    let cast = ["convert", &format!("{package}3"), &narrow, "--dtype", "bf16", "--lossy"];
    check("convert", &printed(&cast));
    check("diff", &printed(&["diff", &format!("{package}3"), &narrow, "--deep"]));
    check("diff", &printed(&["diff", &format!("{package}1"), &format!("{package}2")]));
    check("explain", &printed(&["explain", "D102"]));
    check("explain", &printed(&["explain"]));
    let out = at("checked");
    check(
        "convert",
        &printed(&["convert", "fixtures/hf/bert-seqcls/src", &out, "--check-outputs"]),
    );
    let ids = ["--input-ids", "5,17,42", "--input-ids", "7,90,3"];
    for path in [out.as_str(), "fixtures/hf/bert-maskedlm/src", "fixtures/hf/st-dense/src"] {
        check("run", &printed(&[&["run", path], &ids[..]].concat()));
    }
    let narrow = ["convert", "fixtures/hf/llama-tied/src", &at("refused"), "--dtype", "bf16"];
    check("refusal", &printed(&narrow));
    check("interface", &printed(&["interface", "fixtures/hf/bert-tokcls/src"]));
    check("spec-list", &printed(&["spec", "list"]));
    let broken = at("spec");
    fs::create_dir(&broken).unwrap();
    fs::write(Path::new(&broken).join("spec.toml"), "version = 1\n").unwrap();
    check("spec-check", &printed(&["spec", "check", &broken]));
    check("spec-map", &printed(&["spec", "map", "falcon"]));
    check("spec-map", &printed(&["spec", "map", "gpt2", "fixtures/hf/gpt2-noprefix/src"]));
    check("spec-tensors", &printed(&["spec", "tensors", "bert"]));
    let config = "fixtures/hf/llama-tied/src/config.json";
    check("spec-tensors", &printed(&["spec", "tensors", "llama", "--config", config]));
    check("spec-export", &printed(&["spec", "export"]));
    check("spec-conformance", &printed(&["spec", "conformance"]));
    let draft =
        ["spec", "new-arch", "fixtures/families/mixtral", "--name", "new", "--from", "llama"];
    check("spec-new-arch", &printed(&[&draft[..], &["--out", &at("draft")]].concat()));
}

/// What the tool refuses in a package's files, the schemas refuse.
#[test]
fn the_schemas_refuse_what_the_tool_refuses() {
    let scratch = tempfile::tempdir().unwrap();
    let package = scratch.path().join("package");
    let source = "fixtures/hf/bert-seqcls/src";
    printed(&["convert", source, package.to_str().unwrap()]);
    let read = |file: &str| -> Json {
        serde_json::from_str(&fs::read_to_string(package.join(file)).unwrap()).unwrap()
    };
    let validator = |name: &str| {
        let text = fs::read_to_string(folder().join(format!("{name}.schema.json"))).unwrap();
        jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap()
    };
    let (model, manifest, provenance) =
        (read("model.json"), read("manifest.json"), read("source.json"));
    let mut wrong = Vec::new();
    for (name, good, places) in [
        (
            "model",
            &model,
            &[
                ("/spec", r#""banana""#),
                ("/conformance", r#""half""#),
                ("/architecture", r#""of-tomorrow""#),
                ("/hyperparameters/num_layers", r#""two""#),
                ("/hyperparameters/norm_type", r#""batchnorm""#),
                ("/hyperparameters/surplus", "1"),
                ("/tokens/pad", r#""x""#),
                ("/tokens/surplus", "1"),
                ("/tokens/eos", "1"),
                ("/ties", r#"[["a"]]"#),
                ("/encodings", r#"{"a": 3}"#),
                ("/encodings", r#"{"a": {"encoding": "zip", "shape": [1]}}"#),
                ("/tasks/0/id", r#""telepathy""#),
                ("/tasks/0/pool", r#""median""#),
                ("/tasks/0/pool", "null"),
                ("/tasks/0/problem", r#""hard""#),
                ("/tasks/0/labels", "[]"),
                ("/tasks/0/inputs/0/dtype", r#""F99""#),
                ("/tasks/0/inputs/0/optional", "false"),
                ("/history/0/op", r#""blessed""#),
                ("/surplus", "1"),
            ][..],
        ),
        (
            "manifest",
            &manifest,
            &[
                ("/schema", r#""llmstd.manifest/9""#),
                ("/digests", "{}"),
                ("/digests/weights", "null"),
                ("/tensors/0/sha256", r#""xyz""#),
                ("/tensors/0/name", r#""A b""#),
                ("/tensors/0/dtype", r#""F99""#),
                ("/files/0/path", r#""../x""#),
                ("/files/0/path", r#""/x""#),
                ("/files/0/role", r#""poem""#),
                ("/dtypes/F99", r#"{"tensors": 1, "elements": 1, "bytes": 1}"#),
            ][..],
        ),
        (
            "source",
            &provenance,
            &[("/schema", r#""llmstd.source/9""#), ("/map/spec_hash", r#""xyz""#)][..],
        ),
    ] {
        let validator = validator(name);
        assert!(validator.is_valid(good), "{name}");
        for (place, to) in places {
            let mut bad = good.clone();
            let (parent, key) = place.rsplit_once('/').unwrap();
            let parent = bad.pointer_mut(parent).unwrap();
            parent[key] = serde_json::from_str(to).unwrap();
            if validator.is_valid(&bad) {
                wrong.push(format!("{name}{place} = {to}"));
            }
        }
        for member in good.as_object().unwrap().keys().filter(|_| name == "model") {
            let mut bad = good.clone();
            bad.as_object_mut().unwrap().remove(member);
            if validator.is_valid(&bad) != (member == "architecture") {
                wrong.push(format!("{name} without {member}"));
            }
        }
    }
    assert!(wrong.is_empty(), "let pass: {wrong:#?}");
}
