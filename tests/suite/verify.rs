//! `llmstd verify`, and sides of a diff that are manifests or lie in git.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value as Json;

fn demo(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/demo").join(name);
    path.to_str().unwrap().to_owned()
}

fn run(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llmstd")).args(args).current_dir(folder).output().unwrap()
}

/// The exit status and the result as JSON.
fn json(folder: &Path, args: &[&str]) -> (i32, Json) {
    let output = run(folder, &[args, &["--format", "json"]].concat());
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|err| {
        panic!("{err}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code().unwrap(), json)
}

fn package(folder: &Path, source: &str, name: &str) -> PathBuf {
    let output = run(folder, &["convert", &demo(source), name, "-q"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder.join(name)
}

/// Flips a bit of a file.
fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_is_told_as_a_tensor_and_its_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let pkg = package(folder, "v1", "pkg");
    let (status, whole) = json(folder, &["verify", "pkg"]);
    assert_eq!((status, &whole["whole"], &whole["tensors"]), (0, &true.into(), &29.into()));
    let weights = pkg.join("model.safetensors");
    let good = fs::read(&weights).unwrap();
    let manifest: Json =
        serde_json::from_str(&fs::read_to_string(pkg.join("manifest.json")).unwrap()).unwrap();
    let entries = manifest["tensors"].as_array().unwrap();
    for entry in [&entries[0], &entries[11], entries.last().unwrap()] {
        let start = entry["start"].as_u64().unwrap();
        let end = start + entry["len"].as_u64().unwrap();
        for at in [start, end - 1] {
            flip(&weights, usize::try_from(at).unwrap());
            let (status, report) = json(folder, &["verify", "pkg"]);
            let found = report["findings"].as_array().unwrap();
            let told = found.iter().find(|one| one["rule"] == "V120").unwrap();
            assert_eq!((status, found.len()), (1, 2), "{report}");
            assert_eq!((&told["tensor"], &told["bytes"]), (&entry["name"], &[start, end].into()));
            fs::write(&weights, &good).unwrap();
        }
    }
    // The header: every tensor is whole, the file is not.
    flip(&weights, 20);
    let (_, report) = json(folder, &["verify", "pkg"]);
    let found = report["findings"].as_array().unwrap();
    assert_eq!((found.len(), &found[0]["rule"]), (1, &"V121".into()));
    assert!(found[0]["message"].as_str().unwrap().contains("outside of its tensors"), "{report}");
    // Cut off: the tensors behind the cut.
    fs::write(&weights, &good[..good.len() - 10]).unwrap();
    let (_, report) = json(folder, &["verify", "pkg"]);
    let rules: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["rule"].as_str().unwrap())
        .collect();
    assert_eq!(rules, ["V105", "V120"], "{report}");
    fs::remove_file(&weights).unwrap();
    assert_eq!(json(folder, &["verify", "pkg"]).0, 1);
    fs::write(&weights, &good).unwrap();
    flip(&pkg.join("tokenizer.json"), 3);
    let (status, report) = json(folder, &["verify", "pkg", "--threads", "1"]);
    assert_eq!((status, &report["findings"][0]["file"]), (1, &"tokenizer.json".into()));
    let output = run(folder, &["verify", "pkg", "--format", "sarif"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"V121\""));
    assert_eq!(run(folder, &["verify", "nothere"]).status.code(), Some(2));
}

#[test]
fn a_package_is_held_to_a_manifest_that_was_kept() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let pkg = package(folder, "v1", "pkg");
    package(folder, "v2", "other");
    fs::copy(pkg.join("manifest.json"), folder.join("kept.json")).unwrap();
    let against = |name: &str| json(folder, &["verify", name, "--against", "kept.json"]);
    assert_eq!(against("pkg").0, 0);
    let (status, report) = against("other");
    assert_eq!(status, 1);
    let damaged = report["findings"].as_array().unwrap();
    let tensors: Vec<&str> = damaged.iter().filter_map(|one| one["tensor"].as_str()).collect();
    assert_eq!(
        tensors,
        ["decoder.layers.1.mlp.down_proj.weight", "decoder.layers.2.mlp.down_proj.weight"]
    );
    // Other shards hold the same tensors.
    let args = ["convert", "pkg", "sharded", "-q", "--max-shard-size", "20kB"];
    let output = run(folder, &args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (status, report) = against("sharded");
    assert_eq!((status, &report["tensors"]), (0, &29.into()), "{report}");
    let shard = fs::read_dir(folder.join("sharded")).unwrap().map(|entry| entry.unwrap().path());
    let mut shards: Vec<PathBuf> =
        shard.filter(|path| path.extension().is_some_and(|end| end == "safetensors")).collect();
    shards.sort();
    assert!(1 < shards.len());
    let last = fs::read(&shards[1]).unwrap().len() - 1;
    flip(&shards[1], last);
    assert_eq!(against("sharded").0, 1);
    flip(&shards[1], last);
    // Two tensors that have exchanged their names in the header of a shard.
    let good = fs::read(&shards[0]).unwrap();
    let len = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(good[8..8 + len].to_vec()).unwrap();
    let (one, other) = ("layers.0.attn.q_proj", "layers.0.attn.o_proj");
    assert!(header.contains(one) && header.contains(other), "{header}");
    let header = header.replace(one, "-").replace(other, one).replace('-', other);
    fs::write(&shards[0], [&good[..8], header.as_bytes(), &good[8 + len..]].concat()).unwrap();
    let (status, report) = against("sharded");
    let named: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["tensor"].as_str())
        .collect();
    assert_eq!((status, named.len()), (1, 2), "{report}");
    fs::write(&shards[0], &good).unwrap();
    // A manifest of a source has no places: the headers of the package have them.
    let output = run(folder, &["manifest", &demo("v1"), "--format", "json"]);
    fs::write(folder.join("planned.json"), output.stdout).unwrap();
    fs::remove_file(folder.join("sharded/manifest.json")).unwrap();
    let planned = || json(folder, &["verify", "sharded", "--against", "planned.json"]);
    let (_, report) = planned();
    assert_eq!(report["tensors"], 29, "{report}");
    flip(&shards[1], last);
    let (status, report) = planned();
    assert_eq!(status, 1);
    assert!(report["findings"].to_string().contains("V120"), "{report}");
    // A manifest that was edited proves nothing.
    let text = fs::read_to_string(folder.join("kept.json")).unwrap();
    fs::write(folder.join("kept.json"), text.replacen("[99,24]", "[24,99]", 1)).unwrap();
    let output = run(folder, &["verify", "pkg", "--against", "kept.json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("contradicts itself"));
}

#[test]
fn a_side_of_a_diff_is_a_manifest_or_lies_in_git() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    fs::create_dir(folder.join("models")).unwrap();
    package(folder, "v1", "models/one");
    let git = |args: &[&str]| {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "core.autocrlf=false"];
        let args = [&identity[..], args].concat();
        let output = Command::new("git").args(args).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    git(&["init", "-q"]);
    git(&["add", "-A"]);
    git(&["commit", "-qm", "one"]);
    fs::copy(folder.join("models/one/manifest.json"), folder.join("kept.json")).unwrap();
    fs::remove_dir_all(folder.join("models/one")).unwrap();
    package(folder, "v2", "models/one");
    let manifest = "git:HEAD:models/one/manifest.json";
    for args in [
        &["diff", "git:HEAD:models/one", "models/one"][..],
        &["diff", "git:HEAD:models/one/", "models/one", "--deep"],
        &["diff", manifest, "models/one"],
        &["diff", "--against", "kept.json", "models/one"],
        &["diff", "--against", "git:HEAD:models/one", "models/one"],
    ] {
        let (status, report) = json(folder, args);
        assert_eq!((status, &report["verdict"]["rule"]), (1, &"D102".into()), "{args:?}");
        let label = if args[1] == "--against" { args[2] } else { args[1] };
        assert_eq!(report["old"]["path"], label);
    }
    for (args, wanted) in [
        (&["diff", "git:HEAD:nothere", "models/one"][..], "the commit has nothing there"),
        (&["diff", "git:nothere:models/one", "models/one"], "git: "),
        (&["diff", "git:HEAD", "models/one"], "git:REVISION:PATH"),
        (&["diff", "models/one"], "--against"),
        (&["diff", "a", "b", "--against", "c"], "--against"),
    ] {
        let output = run(folder, args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {told}");
        assert!(told.contains(wanted), "{args:?}: {told}");
    }
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let scratch = tempfile::tempdir().unwrap();
    assert!(run(scratch.path(), &["man", "out/pages"]).status.success());
    let page =
        |name: &str| fs::read_to_string(scratch.path().join("out/pages").join(name)).unwrap();
    for command in ["convert", "validate", "verify", "diff", "explain"] {
        assert!(page(&format!("llmstd-{command}.1")).contains(".TH"), "{command}");
    }
    assert!(page("llmstd.1").contains("validate"));
}
