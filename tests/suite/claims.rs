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
        &["--select", "V120,V451"],
        &["--select", "V3", "--level", "schema"],
        &["--select", "V105", "--ignore", "V1"],
        &["--ignore", "V,P,R,T"],
        &["--select", "D101"],
    ] {
        let args = [&["validate", path], selection].concat();
        check(&args, 2, &["nothing was checked"], &["keeps level"]);
    }
    // The model has no labels: nothing is wrong with them, and nothing is said to be right.
    let idle = "no rule that is selected applies, nothing was checked; no level is claimed";
    check(
        &["validate", path, "--select", "V451"],
        0,
        &[idle],
        &["keeps level", "nothing is wrong"],
    );
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
    check(&["convert", text(&wide()), text(&file), "--quant", "q8_0"], 0, &[], &[]);
    check(&["validate", text(&file), "--deep"], 0, &[], &["V122", unread]);
}

/// A sample of an architecture: a tiny checkpoint.
fn sample(scratch: &TempDir, arch: &str) -> PathBuf {
    let folder = scratch.path().join(format!("sample-{arch}"));
    check(&["spec", "sample", arch, text(&folder)], 0, &[], &[]);
    folder
}

/// A checkpoint whose rows are whole blocks of every type.
fn wide() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gguf/wide")
}

#[test]
fn verify_reads_back_what_was_written_for_every_target() {
    let scratch = TempDir::new().unwrap();
    let source = fixture("llama-tied");
    let to = |name: &str| scratch.path().join(name);
    let run = |from: &Path, to: &Path, more: &[&str], says: &[&str]| {
        let args = [&["convert", text(from), text(to), "--verify"], more].concat();
        check(&args, 0, says, &["come back with the same SHA-256"])
    };
    let equal = "verified: read back and compared with the source: 29 equal\n";
    run(&source, &to("std"), &[], &[equal]);
    run(&source, &to("hf"), &["--to", "hf"], &[equal]);
    run(&to("std"), &to("hf2"), &["--to", "hf"], &[equal]);
    run(&to("std"), &to("std2"), &["--max-shard-size", "20000"], &[equal]);

    let cast = &["--dtype", "bf16", "--lossy"];
    for (name, more) in [("c1", &["--to", "std"]), ("c2", &["--to", "hf"])] {
        let said =
            run(&source, &to(name), &[&more[..], cast].concat(), &["changed on purpose (cast)"]);
        assert!(!said.out.contains("29 equal"), "{}", said.out);
        let json = json(
            &[
                &["convert", text(&source), text(&to("json")), "--force", "--verify"],
                &more[..],
                cast,
            ]
            .concat(),
        );
        let verified = &json["verified"];
        assert_eq!(verified["equal"].as_u64().unwrap() + verified["changed"].as_u64().unwrap(), 29);
        // Weights of about 1 lie at most half of 2^-8 of them away in BF16.
        let worst = verified["max_difference"].as_f64().unwrap();
        assert!(0.0 < worst && worst < 0.02, "{worst}");
        fs::remove_dir_all(to("json")).unwrap();
    }
    let wide = wide();
    let gguf = &["--to", "gguf"];
    run(&wide, &to("a.gguf"), gguf, &["verified: read back", " equal"]);
    let said = run(&wide, &to("b.gguf"), &[&gguf[..], &["--quant", "q4_0"]].concat(), &[]);
    assert!(said.out.contains("changed on purpose (quantized), by at most"), "{}", said.out);
}

#[test]
fn check_outputs_says_what_it_proves() {
    let scratch = TempDir::new().unwrap();
    let package = scratch.path().join("std");
    let source = fixture("llama-tied");
    let args = ["convert", text(&source), text(&package), "--check-outputs"];
    check(&args, 0, &["a key that it reads wrongly on both is not seen"], &[]);
}

#[test]
fn what_is_left_behind_is_told() {
    let scratch = TempDir::new().unwrap();
    let folder = scratch.path().join("folder");
    copy(&fixture("llama-tied"), &folder);
    fs::write(folder.join("old_vocab.dat"), "a\nb\n").unwrap();
    fs::write(folder.join("training_args.json"), "{}").unwrap();
    let package = scratch.path().join("std");
    let args = ["convert", text(&folder), text(&package)];
    let says = &["warning[P041]: old_vocab.dat", "note[P041]", "training_args.json"];
    check(&args, 0, says, &[]);

    // A package claims no tokenizer that was not written to it.
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    fs::write(folder.join("bpe.codes.old"), "x").unwrap();
    check(&["convert", text(&folder), text(&package), "--force"], 0, &["conformance schema"], &[]);
}

#[test]
fn a_gguf_file_without_the_tokenizer_of_its_source_has_to_be_asked_for() {
    let scratch = TempDir::new().unwrap();
    let folder = sample(&scratch, "llama");
    fs::write(folder.join("tokenizer.json"), r#"{"model":{"type":"Unheard"}}"#).unwrap();
    let file = scratch.path().join("model.gguf");
    let args = ["convert", text(&folder), text(&file), "--to", "gguf"];
    check(&args, 2, &["would get no tokenizer", "--allow-no-tokenizer"], &["wrote"]);
    assert!(!file.exists());
    let args = [&args[..], &["--allow-no-tokenizer"]].concat();
    check(&args, 0, &["warning[T0", "the file gets no tokenizer"], &[]);
}

#[test]
fn diff_leads_with_identical_weights() {
    let scratch = TempDir::new().unwrap();
    let source = sample(&scratch, "llama");
    let file = scratch.path().join("model.gguf");
    check(&["convert", text(&source), text(&file), "--to", "gguf"], 0, &[], &[]);
    let said = llmstd(&["diff", text(&source), text(&file)]);
    let first = said.out.lines().next().unwrap();
    let n = json(&["diff", text(&source), text(&file)])["old"]["tensors"].as_u64().unwrap();
    assert!(
        first.contains(&format!("weights identical ({n} of {n})")) || first.contains("same model"),
        "{}",
        said.out
    );
}

#[test]
fn deep_ranks_tensors_by_how_far_they_are_apart() {
    let scratch = TempDir::new().unwrap();
    let source = wide();
    let files = ["q8_0", "q4_0"].map(|kind| {
        let file = scratch.path().join(format!("{kind}.gguf"));
        let args = ["convert", text(&source), text(&file), "--to", "gguf", "--quant", kind];
        check(&args, 0, &[], &[]);
        file
    });
    for (old, new) in [(&source, &files[0]), (&files[0], &files[1])] {
        let args = ["diff", text(old), text(new), "--deep", "--fail-on", "any"];
        check(&args, 1, &["relative L2      cosine     max abs  tensor"], &[]);
        let diff = json(&args);
        let far: Vec<f64> = diff["ranking"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| {
                let changes = diff["changes"].as_array().unwrap();
                let has =
                    |change: &&Json| change["subject"] == *name && change["values"].is_object();
                let values = &changes.iter().find(has).unwrap()["values"];
                assert!(0.9 < values["cosine"].as_f64().unwrap(), "{name}: {values}");
                assert!(values["max_difference"].as_f64().is_some());
                values["relative_l2"].as_f64().unwrap()
            })
            .collect();
        assert!(1 < far.len());
        assert!(far.is_sorted_by(|a, b| a >= b), "{far:?}");
        assert!(0.0 < far[far.len() - 1] && far[0] < 0.3, "{far:?}");
    }
}

/// Words are shown where a tokenizer says them: one of a form that is not known is no reason not to compute, one that is
/// damaged is told.
#[test]
fn what_a_model_answers_needs_no_words() {
    let (scratch, package) = package();
    let folder = scratch.path().join("words");
    copy(&package, &folder);
    let args = ["run", text(&folder), "--input-ids", "3,5,7"];
    check(&args, 0, &[], &[]);
    fs::write(folder.join("tokenizer.json"), r#"{"model":{"vocab":{"a":-1}}}"#).unwrap();
    check(&args, 0, &[], &[]);
    fs::write(folder.join("tokenizer.json"), r#"{"model":{"vocab":"#).unwrap();
    check(&args, 2, &["tokenizer.json"], &[]);
}
