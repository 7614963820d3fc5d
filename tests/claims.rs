//! What the tool says is what it did: verdicts name what was not looked at, and claim no more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value as Json, json};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hf").join(name).join("src")
}

/// What a command said.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn llmstd(args: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_llmstd")).args(args).output().unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Holds a command to its exit code and to what it says, on stdout and stderr together.
#[track_caller]
fn check(args: &[&str], code: i32, says: &[&str], says_not: &[&str]) -> Said {
    let said = llmstd(args);
    let all = format!("{}{}", said.out, said.err);
    assert_eq!(said.code, Some(code), "{args:?}: {all}");
    for words in says {
        assert!(all.contains(words), "{args:?} does not say {words:?}: {all}");
    }
    for words in says_not {
        assert!(!all.contains(words), "{args:?} says {words:?}: {all}");
    }
    said
}

fn json(args: &[&str]) -> Json {
    let args = [args, &["--format", "json"]].concat();
    serde_json::from_str(&llmstd(&args).out).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// A folder of scratch, and a package in it.
fn package() -> (TempDir, PathBuf) {
    let scratch = TempDir::new().unwrap();
    let package = scratch.path().join("package");
    check(&["convert", text(&fixture("llama-tied")), text(&package)], 0, &["full"], &[]);
    (scratch, package)
}

/// Flips a bit in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_level_is_claimed_only_when_all_its_rules_were_checked() {
    let (_scratch, package) = package();
    let path = text(&package);
    let unread = "bytes not read: --deep reads them";
    check(&["validate", path], 0, &["keeps level full by its headers", unread], &[]);
    check(&["validate", path, "--deep"], 0, &["keeps level full ("], &[unread, "headers"]);

    let partly = &["of the rules selected", "no level is claimed"];
    for selection in [&["--select", "V1"][..], &["--ignore", "V3"], &["--ignore", "R001"]] {
        let args = [&["validate", path, "--deep"], selection].concat();
        check(&args, 0, partly, &["keeps level"]);
        let report = &json(&args)["inputs"][0]["report"];
        assert_eq!(report["complete"], false, "{selection:?}");
        assert_ne!(report["reached"], "full", "{selection:?}");
    }
    // What belongs to a higher level than is asked for is not left out.
    let args = ["validate", path, "--deep", "--level", "schema", "--ignore", "V3"];
    check(&args, 0, &["keeps level schema ("], partly);
    let report = &json(&args)["inputs"][0]["report"];
    assert_eq!((&report["complete"], &report["reached"]), (&json!(true), &json!("schema")));

    for selection in [
        &["--select", "V120"][..],
        &["--select", "V3", "--level", "schema"],
        &["--select", "V105", "--ignore", "V1"],
        &["--ignore", "V,P,R,T"],
        &["--select", "D101"],
    ] {
        let args = [&["validate", path], selection].concat();
        check(&args, 2, &["nothing was checked"], &["keeps level"]);
    }
}

#[test]
fn bytes_that_were_not_read_are_not_spoken_for() {
    let (scratch, package) = package();
    let damaged = scratch.path().join("damaged");
    copy(&package, &damaged);
    flip(&damaged.join("model.safetensors"));
    let (good, bad) = (text(&package), text(&damaged));
    let unread = "bytes not read: --deep reads them";
    check(&["validate", bad], 0, &["by its headers", unread], &[]);
    check(&["validate", bad, "--deep"], 1, &["error[V120]"], &[unread]);

    check(&["diff", good, bad], 0, &["by their manifests; bytes not read: --deep"], &[]);
    check(&["diff", good, bad, "--deep", "--fail-on", "any"], 1, &["D119"], &["bytes not read"]);
    let manifests = [good, bad].map(|folder| format!("{folder}/manifest.json"));
    check(&["diff", &manifests[0], &manifests[1]], 0, &["bytes not read"], &[]);
    // The bytes of a foreign folder are always read.
    let source = fixture("llama-tied");
    check(&["diff", text(&source), text(&source)], 0, &["identical"], &["bytes not read"]);
    assert_eq!(json(&["diff", good, bad])["new"]["believed"], 29);
    assert_eq!(json(&["diff", good, bad, "--deep"])["new"]["believed"], 0);
}

#[test]
fn damage_that_headers_show_is_noticed_by_diff() {
    let (scratch, package) = package();
    let damaged = scratch.path().join("damaged");
    copy(&package, &damaged);
    let weights = damaged.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let args = ["diff", text(&package), text(&damaged)];
    fs::write(&weights, &bytes[..bytes.len() - 7]).unwrap();
    check(&args, 2, &["model.safetensors"], &["identical"]);
    // A header that is another one, while the file is as long.
    let other = String::from_utf8_lossy(&bytes[..4000]).find("\"shape\":[24]").unwrap();
    assert!(other < 4000);
    let mut changed = bytes.clone();
    let at = bytes.windows(12).position(|window| window == b"\"shape\":[24]").unwrap();
    changed[at..at + 12].copy_from_slice(b"\"shape\":[23]");
    fs::write(&weights, changed).unwrap();
    check(&args, 2, &["model.safetensors"], &["identical"]);
    // A file without weights may still be stood for by its manifest, and says so.
    fs::remove_file(&weights).unwrap();
    check(&args, 0, &["D001", "bytes not read"], &[]);
    fs::write(&weights, "version https://git-lfs.github.com/spec/v1\n").unwrap();
    check(&args, 0, &["D001", "bytes not read"], &[]);
}

/// Puts a value into the first element of a tensor of a file.
fn set_first(path: &Path, tensor: &str, value: [u8; 4]) {
    let mut bytes = fs::read(path).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Json = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let start = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    let at = 8 + header_len + start;
    bytes[at..at + 4].copy_from_slice(&value);
    fs::write(path, bytes).unwrap();
}

#[test]
fn deep_reads_the_bytes_of_foreign_folders_too() {
    let scratch = TempDir::new().unwrap();
    let folder = scratch.path().join("foreign");
    copy(&fixture("llama-tied"), &folder);
    let name = "model.layers.1.mlp.up_proj.weight";
    set_first(&folder.join("model.safetensors"), name, f32::NAN.to_le_bytes());
    let path = text(&folder);
    let unread = "bytes not read: --deep reads them";
    check(&["validate", path], 0, &["can keep level full by its headers", unread], &["V122"]);
    let words = &["warning[V122]", name, "1 NaNs", "model.safetensors bytes"];
    check(&["validate", path, "--deep"], 0, words, &["needs --deep", unread]);
    // And of one that there is no plan for.
    fs::remove_file(folder.join("config.json")).unwrap();
    check(&["validate", path, "--deep"], 1, words, &[unread]);

    // Blocks are looked at as the numbers that they stand for.
    let file = scratch.path().join("model.gguf");
    let sample = scratch.path().join("sample");
    check(&["spec", "sample", "llama", text(&sample)], 0, &[], &[]);
    check(&["convert", text(&sample), text(&file), "--to", "gguf", "--quant", "q8_0"], 0, &[], &[]);
    check(&["validate", text(&file), "--deep"], 0, &[], &["V122", unread]);
}
