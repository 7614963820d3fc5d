//! Conversions through the binary: the same bytes out of any container, at any thread count, in
//! any shards; and nothing under the final name when the input is bad.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn demo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/demo").join(name)
}

fn convert(from: &Path, to: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmstd"));
    command.arg("convert").arg(from).arg(to).args(more).output().unwrap()
}

#[track_caller]
fn converted(from: &Path, to: &Path, more: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let output = convert(from, to, more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let entries = fs::read_dir(to).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.file_name() != "source.json");
    files
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

#[test]
fn a_bin_and_a_safetensors_of_one_model_become_one_package() {
    let scratch = tempfile::tempdir().unwrap();
    let of_safetensors = converted(&demo("v1"), &scratch.path().join("a"), &[]);
    let of_bin = converted(&demo("v1-bin"), &scratch.path().join("b"), &[]);
    assert!(of_bin.contains_key("manifest.json"));
    assert_eq!(of_safetensors, of_bin);
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let scratch = tempfile::tempdir().unwrap();
    for shards in [&["--max-shard-size", "10KB"][..], &[]] {
        let runs = [1, 2, 3, 8].map(|n| {
            let to = scratch.path().join(format!("{}-{n}", shards.len()));
            converted(&demo("v1"), &to, &[&["--threads", &n.to_string()], shards].concat())
        });
        assert_eq!(shards.is_empty(), runs[0].contains_key("model.safetensors"));
        assert!(runs.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn a_bad_input_leaves_nothing_behind() {
    let good = fs::read(demo("v1").join("model.safetensors")).unwrap();
    for (name, bytes) in [
        ("cut in the header", &good[..100]),
        ("cut in the tensors", &good[..good.len() - 1]),
        ("empty", &[][..]),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let source = scratch.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::copy(demo("v1").join("config.json"), source.join("config.json")).unwrap();
        fs::write(source.join("model.safetensors"), bytes).unwrap();
        let output = convert(&source, &scratch.path().join("out"), &[]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}: {message}");
        assert!(message.contains("model.safetensors"), "{name}: {message}");
        let left: Vec<_> = fs::read_dir(scratch.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{name}: {left:?}");
    }
}

#[test]
fn what_a_cast_changed_stands_in_the_source() {
    let scratch = tempfile::tempdir().unwrap();
    let to = scratch.path().join("narrow");
    converted(&demo("v1"), &to, &["--dtype", "bf16", "--lossy"]);
    let text = fs::read_to_string(to.join("source.json")).unwrap();
    let source: serde_json::Value = serde_json::from_str(&text).unwrap();
    let loss = &source["losses"]["embed.tokens.weight"];
    assert_eq!(loss["elements"], 99 * 24);
    // Noise of 24 bits in 8: hardly a value stays.
    assert!(2000 < loss["changed"].as_u64().unwrap(), "{loss}");
    assert_eq!(loss["infinities"], 0);

    let to = scratch.path().join("plain");
    converted(&demo("v1"), &to, &[]);
    let text = fs::read_to_string(to.join("source.json")).unwrap();
    assert!(!text.contains("losses"));
}
