//! Every number that a config or a package states is hostile once: the answer comes quickly, and
//! with bounded memory, whatever it is.

use std::collections::BTreeMap;
use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use llmstd::base::diagnostic::Diagnostic;
use llmstd::convert::{Failure, Request, Silent, convert};
use llmstd::folder;
use llmstd::forward::Inputs;
use llmstd::rule::Selection;
use llmstd::spec::Spec;
use llmstd::validate::{Options, validate};
use serde_json::Value as Json;

/// What integers become.
const HOSTILE: [i64; 5] = [0, -1, 1 << 31, 1 << 40, 1 << 62];

/// How long one answer may take, without optimization on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// The address space, in KiB, that all of the sweep may take: above it an allocation fails, which
/// ends the process.
const MEMORY: u64 = 4_000_000;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn why(failure: Failure) -> Vec<Diagnostic> {
    match failure {
        Failure::Error(err) => vec![Diagnostic::error("error", err.to_string())],
        Failure::Findings(findings) => findings,
    }
}

/// Where integers stand in a JSON value; of a list the first.
fn integers(json: &Json, at: &str, found: &mut Vec<String>) {
    match json {
        Json::Number(number) if number.is_i64() => found.push(at.to_owned()),
        Json::Array(items) => {
            for (index, item) in items.iter().enumerate().take(1) {
                integers(item, &format!("{at}/{index}"), found);
            }
        }
        Json::Object(object) => {
            for (key, value) in object {
                let key = key.replace('~', "~0").replace('/', "~1");
                integers(value, &format!("{at}/{key}"), found);
            }
        }
        _ => {}
    }
}

/// What is asked of a folder; what comes of it is of no interest here.
#[derive(Clone, Copy)]
enum Ask {
    Validate,
    Convert(&'static str),
    Run,
}

const ASKS: [Ask; 5] =
    [Ask::Validate, Ask::Convert("hf"), Ask::Run, Ask::Convert("gguf"), Ask::Convert("std")];

fn ask(spec: &Spec, path: &Path, ask: Ask) {
    match ask {
        Ask::Validate => {
            let selection = Selection::default();
            let (level, deep, n_threads) = (None, false, 1);
            let options = Options {
                level,
                deep,
                whole_files: false,
                selection: &selection,
                n_threads,
                progress: &Silent,
                format: None,
            };
            let _ = validate(path, spec, &options);
        }
        Ask::Convert(format) => {
            let Ok(opened) = folder::open(path) else { return };
            let nowhere = Path::new("/nonexistent/x");
            let _ =
                convert(opened, &Request { dry_run: true, ..Request::new(spec, nowhere, format) });
        }
        Ask::Run => {
            let Ok(mut loaded) = llmstd::run::load(path, spec, None) else { return };
            let inputs = Inputs { input_ids: vec![vec![1, 2, 3]], ..Inputs::default() };
            let _ = llmstd::run::run(path, &mut loaded, &inputs, Default::default());
        }
    }
}

/// The hostile values that are tried, and how often each place was met.
struct Sweep<'a> {
    spec: &'a Spec,
    /// Whether each integer of each family gets every value and every question. If not, the first
    /// families that have a key take turns.
    all: bool,
    met: BTreeMap<String, usize>,
    tried: usize,
}

impl Sweep<'_> {
    /// Gives each integer of a JSON file hostile values, one at a time.
    fn sweep(&mut self, folder: &Path, file: &str) {
        let path = folder.join(file);
        let text = fs::read_to_string(&path).unwrap();
        let json: Json = serde_json::from_str(&text).unwrap();
        let mut places = Vec::new();
        integers(&json, "", &mut places);
        for place in &places {
            let met = self.met.entry(format!("{file}{place}")).or_default();
            *met += 1;
            let turn = *met;
            for (index, value) in HOSTILE.iter().enumerate() {
                if !self.all && turn != index + 1 {
                    continue;
                }
                let mut hostile = json.clone();
                *hostile.pointer_mut(place).unwrap() = Json::from(*value);
                fs::write(&path, hostile.to_string()).unwrap();
                for (at, question) in ASKS.into_iter().enumerate() {
                    if !self.all && (self.tried + index) % ASKS.len() != at {
                        continue;
                    }
                    let what = format!("{}: {place} = {value}", folder.display());
                    let start = Instant::now();
                    let spec = self.spec;
                    let answer =
                        std::panic::catch_unwind(AssertUnwindSafe(|| ask(spec, folder, question)));
                    let took = start.elapsed();
                    assert!(answer.is_ok(), "{what} panics");
                    assert!(took < PATIENCE, "{what} takes {took:?}");
                }
                self.tried += 1;
            }
        }
        fs::write(&path, text).unwrap();
    }
}

/// Run by the test below, in a process of its own with bounded memory. `LLMSTD_SWEEP=all` gives every
/// integer of every family every value, which takes half an hour.
#[test]
#[ignore = "run by `no_integer_costs_more_than_it_says`"]
fn sweep_of_all_integers() {
    let spec = &Spec::current();
    let all = std::env::var("LLMSTD_SWEEP").is_ok_and(|how| how == "all");
    let only = std::env::var("FAMILY").ok();
    let mut cases: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(root().join("fixtures/families")).unwrap() {
        let path = entry.unwrap().path();
        let asked = only.as_ref().is_none_or(|only| path.ends_with(only));
        if asked && path.join("config.json").exists() {
            cases.push(path);
        }
    }
    cases.sort();
    assert!(!cases.is_empty());
    let mut sweep = Sweep { spec, all, met: BTreeMap::new(), tried: 0 };
    for case in &cases {
        let scratch = tempfile::tempdir().unwrap();
        // The family's name is in what is told where it fails.
        let foreign = scratch.path().join(case.file_name().unwrap());
        fs::create_dir(&foreign).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::copy(case.join(name), foreign.join(name)).unwrap();
        }
        let package = foreign.with_extension("package");
        let request = Request::new(spec, &package, "std");
        convert(folder::open(&foreign).unwrap(), &request).map_err(why).unwrap();
        sweep.sweep(&foreign, "config.json");
        sweep.sweep(&package, "model.json");
    }
    #[allow(clippy::print_stderr)] // The test that runs this one looks for it.
    {
        eprintln!("{} hostile integers of {} families", sweep.tried, cases.len());
    }
}

#[cfg(unix)]
#[test]
fn no_integer_costs_more_than_it_says() {
    let this = std::env::current_exe().unwrap();
    // What is allocated by a number alone fails under such a limit, and ends the process.
    let command = format!(
        "ulimit -v {MEMORY}; exec '{}' --exact limits::sweep_of_all_integers --ignored --nocapture",
        this.display()
    );
    let output = std::process::Command::new("sh").arg("-c").arg(command).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let end = told.lines().rev().take(30).collect::<Vec<_>>();
    let end = end.into_iter().rev().collect::<Vec<_>>().join("\n");
    assert!(output.status.success(), "{}\n{end}", output.status);
    assert!(told.contains(" hostile integers of "), "the sweep did not run: {end}");
}

/// Writes a family's fixture with one number of its config changed, and plans it.
fn refused(family: &str, key: &str, value: i64) -> Vec<Diagnostic> {
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("source");
    fs::create_dir(&source).unwrap();
    let case = root().join("fixtures/families").join(family);
    fs::copy(case.join("model.safetensors"), source.join("model.safetensors")).unwrap();
    let text = fs::read_to_string(case.join("config.json")).unwrap();
    let mut config: Json = serde_json::from_str(&text).unwrap();
    assert!(config.get(key).is_some(), "{family} has no {key}");
    config[key] = Json::from(value);
    fs::write(source.join("config.json"), config.to_string()).unwrap();
    let spec = Spec::current();
    let nowhere = scratch.path().join("out");
    let request = Request { dry_run: true, ..Request::new(&spec, &nowhere, "std") };
    why(convert(folder::open(&source).unwrap(), &request).unwrap_err())
}

#[test]
fn counts_are_held_against_the_tensors() {
    for (family, key, value) in [
        ("modernbert", "num_hidden_layers", 65),
        ("modernbert", "num_hidden_layers", 1 << 62),
        ("distilbert", "n_layers", 4_000),
        ("bloom", "n_layer", 4_000),
        ("mixtral", "num_local_experts", 1_000_000_000),
        ("deepseek_v3", "n_routed_experts", 1 << 31),
        ("jamba", "num_experts", 1 << 31),
    ] {
        let findings = refused(family, key, value);
        let [finding] = findings.as_slice() else { panic!("{family}: {findings:?}") };
        // A config that lists its layers contradicts itself before any tensor is asked.
        assert!(["P003", "P024"].contains(&finding.rule), "{family}: {}", finding.message);
        let told = &finding.message;
        if finding.rule == "P003" {
            assert!(told.contains("contradict each other"), "{told}");
            continue;
        }
        assert!(told.contains(&value.to_string()) && told.contains(key), "{told}");
        assert!(told.contains(" tensors, no dimension of which is above "), "{told}");
    }
}

/// Where each layer has a kind, a list of the kinds is made before the tensors are looked at.
#[test]
fn lists_of_layers_are_bounded() {
    for (family, key, value) in [
        ("distilbert", "n_layers", 99_999),
        ("bloom", "n_layer", 1 << 40),
        ("bart", "encoder_layers", 1 << 62),
    ] {
        let findings = refused(family, key, value);
        let told = &findings[0].message;
        assert!(["P003", "P024"].contains(&findings[0].rule), "{family}: {told}");
        assert!(told.contains(&value.to_string()) && told.contains(key), "{told}");
    }
}

/// `torch.zeros(8).as_strided((2**40,), (0,))` and its like: a number in the file, and no values.
#[test]
fn what_expand_repeats_is_bounded_and_told() {
    let spec = Spec::current();
    for name in ["expand-2p40.bin", "expand-2p60.bin"] {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("out");
        let request = Request { generic: true, ..Request::new(&spec, &out, "std") };
        let opened = folder::open(&root().join("fixtures/hostile").join(name)).unwrap();
        let findings = why(convert(opened, &request).unwrap_err());
        let told = &findings[0].message;
        assert!(told.contains("repeats 32 bytes") && told.contains("1073741824"), "{told}");
        assert!(!out.exists());
    }
}
