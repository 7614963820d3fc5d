//! `llmstd manifest --format oms` and `--format cyclonedx`: goldens that `model-signing` and the schema
//! of CycloneDX have accepted (`tests/oracle/supply.py`).

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value as Json;
use sha2::{Digest, Sha256};

fn run(args: &[&str]) -> Json {
    let output = Command::new(env!("CARGO_BIN_EXE_llmstd"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `BLESS=1 cargo test --test suite supply::` writes them anew; the judge is asked again then.
#[track_caller]
fn golden(name: &str, found: &Json) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/supply").join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("{found:#}\n")).unwrap();
    }
    let golden: Json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(found, &golden, "{name}");
}

#[test]
fn the_statement_and_the_bill_are_those_that_were_accepted() {
    let source = "fixtures/hf/bert-tokcls/src";
    golden("bert-tokcls.oms.json", &run(&["manifest", source, "--format", "oms"]));
    golden("bert-tokcls.cdx.json", &run(&["manifest", source, "--format", "cyclonedx"]));
    let one = "fixtures/hf/bert-tokcls/src/model.safetensors";
    golden("one-file.oms.json", &run(&["manifest", one, "--format", "oms"]));
}

#[test]
fn a_statement_has_every_file_in_order_and_leaves_git_out() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("m");
    // `a.b` stands behind `a`, whatever follows in there.
    for (name, text) in [
        ("a.b", "1"),
        ("a/c", "22"),
        ("a/B", "333"),
        (".git/x", "4"),
        (".gitignore", ""),
        ("z", ""),
    ] {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let statement = run(&["manifest", folder.to_str().unwrap(), "--format", "oms"]);
    let resources = statement["predicate"]["resources"].as_array().unwrap();
    let names: Vec<&str> = resources.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a/B", "a/c", "a.b", "z"]);
    let digests = ["333", "22", "1", ""].map(Sha256::digest);
    let all: Vec<u8> = digests.iter().flat_map(|digest| digest.to_vec()).collect();
    for (one, digest) in resources.iter().zip(&digests) {
        assert_eq!(one["digest"], hex(digest));
    }
    assert_eq!(statement["subject"][0]["digest"]["sha256"], hex(&Sha256::digest(all)));
    assert_eq!(statement["subject"][0]["name"], "m");
}

/// model-signing passes over what lies behind such a link, and says nothing.
#[cfg(unix)]
#[test]
fn a_link_to_a_folder_is_refused_and_one_to_a_file_is_followed() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, beside) = (scratch.path().join("m"), scratch.path().join("beside"));
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir_all(&beside).unwrap();
    fs::write(beside.join("x"), "333").unwrap();
    std::os::unix::fs::symlink(beside.join("x"), folder.join("x")).unwrap();
    let folder = folder.to_str().unwrap();
    let statement = run(&["manifest", folder, "--format", "oms"]);
    assert_eq!(statement["predicate"]["serialization"]["allow_symlinks"], true);
    assert_eq!(statement["predicate"]["resources"][0]["digest"], hex(&Sha256::digest("333")));
    std::os::unix::fs::symlink(&beside, Path::new(folder).join("more")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_llmstd"))
        .args(["manifest", folder, "--format", "oms"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is a link to a folder"));
}

#[test]
fn a_bill_lists_files_digests_and_licences() {
    let scratch = tempfile::tempdir().unwrap();
    let package = scratch.path().join("package");
    let package = package.to_str().unwrap();
    let convert = Command::new(env!("CARGO_BIN_EXE_llmstd"))
        .args(["convert", "fixtures/hf/bert-tokcls/src", package, "-q"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(convert.unwrap().success());
    fs::write(Path::new(package).join("README.md"), "---\nlicense: mit\n---\n").unwrap();
    let bill = run(&["manifest", package, "--format", "cyclonedx"]);
    let manifest = run(&["manifest", package, "--format", "json"]);
    let component = &bill["metadata"]["component"];
    assert_eq!(component["hashes"][0]["content"], manifest["digests"]["model"]);
    assert_eq!(component["licenses"][0]["license"]["name"], "mit");
    assert_eq!(component["modelCard"]["modelParameters"]["task"], "token-classification");
    let listed = bill["components"].as_array().unwrap();
    assert_eq!(listed.len(), manifest["files"].as_array().unwrap().len());
    let weights = listed.iter().find(|file| file["name"] == "model.safetensors").unwrap();
    let bytes = fs::read(Path::new(package).join("model.safetensors")).unwrap();
    assert_eq!(weights["hashes"][0]["content"], hex(&Sha256::digest(bytes)));
    // One model, one number.
    assert_eq!(bill, run(&["manifest", package, "--format", "cyclonedx"]));
}
