//! Every rule of every Hugging Face mapping acts on tiny checkpoints that are made from the mapping
//! itself: into the standard, valid there, and back, bit for bit. GGUF mappings are held against
//! llama.cpp's converter instead, by `gguf.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use llmstd::author::sample;
use llmstd::convert::{Failure, Report, Request, convert};
use llmstd::folder;
use llmstd::package::Conformance;
use llmstd::rule::Selection;
use llmstd::spec::Spec;
use llmstd::spec::map::Map;
use llmstd::validate::{Options, validate};
use rayon::prelude::*;
use safetensors::SafeTensors;

fn folder_of_spec() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/1.1")
}

fn run(spec: &Spec, from: &Path, to: &Path, format: &str) -> Result<Report, String> {
    let request = Request { verify: true, ..Request::new(spec, to, format) };
    convert(folder::open(from).map_err(|err| err.to_string())?, &request).map_err(why)
}

fn why(failure: Failure) -> String {
    match failure {
        Failure::Error(err) => err.to_string(),
        Failure::Findings(findings) => {
            findings.iter().map(|finding| finding.message.clone()).collect::<Vec<_>>().join("; ")
        }
    }
}

type Files = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// The tensors of every file below a folder.
fn tensors(folder: &Path) -> Files {
    let mut files = Files::new();
    for file in folder::list(folder).unwrap() {
        if file.name.ends_with(".safetensors") {
            let bytes = fs::read(folder.join(&file.name)).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let tensors =
                tensors.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec()));
            files.insert(file.name, tensors.collect());
        }
    }
    files
}

/// A sample from the foreign layout into the standard and back.
fn there_and_back(spec: &Spec, map: &Map, sample: &sample::Sample) -> Result<(), String> {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    sample::write(spec, map, sample, &at("foreign")).map_err(why)?;
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1, "nothing else is left");
    let foreign = tensors(&at("foreign"));
    run(spec, &at("foreign"), &at("std"), "std")?;
    let selection = Selection::default();
    let options =
        Options { level: Some(Conformance::Schema), deep: true, ..Options::new(&selection) };
    let report = validate(&at("std"), spec, &options).map_err(|err| err.to_string())?;
    if !report.valid {
        return Err(format!("not valid: {:?}", report.findings));
    }
    let canonical = tensors(&at("std"));
    let all: Vec<&Vec<u8>> = canonical.values().flat_map(BTreeMap::values).collect();
    let distinct: BTreeSet<&&Vec<u8>> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "two tensors are alike");
    run(spec, &at("std"), &at("back"), &map.format).map_err(|why| format!("back: {why}"))?;
    if tensors(&at("back")) != foreign {
        return Err("other bytes come back".to_owned());
    }
    Ok(())
}

/// Mappings of which no sample reaches every rule, and why; their fixtures stand for them.
const UNSAMPLED: &[(&str, &str)] =
    &[("nemotron-nas", "no sample fills the list in which its config says what each layer has")];

#[test]
fn every_rule_acts_on_a_sample_that_comes_back() {
    let spec = Spec::from_dir(&folder_of_spec()).unwrap();
    let only = std::env::var("MAP").ok();
    let maps: Vec<&Map> = spec
        .maps
        .values()
        .filter(|map| map.format == "hf")
        .filter(|map| only.as_ref().is_none_or(|only| map.name == *only))
        .filter(|map| only.is_some() || UNSAMPLED.iter().all(|(name, _)| map.name != *name))
        .collect();
    let wrong: Vec<String> = maps
        .par_iter()
        .flat_map_iter(|map| match sample::samples(&spec, map, None) {
            Err(err) => vec![err.to_string()],
            Ok(samples) => {
                let parts = samples.iter().flat_map(|sample| sample.parts.clone()).collect();
                let unused = sample::unused(&spec, map, &parts);
                let unused = unused.iter().map(|from| format!("{}: unused `{from}`", map.name));
                let odd = samples.iter().filter_map(|sample| {
                    let why = there_and_back(&spec, map, sample).err()?;
                    Some(format!("{} ({}): {why}", map.name, sample.label))
                });
                unused.chain(odd).collect()
            }
        })
        .collect();
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
}

/// A real config's sizes are made small; what else it says stays.
#[test]
fn a_config_of_any_size_makes_a_tiny_checkpoint() {
    let scratch = tempfile::tempdir().unwrap();
    let config = scratch.path().join("config.json");
    let big = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128256,
        "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
        "num_key_value_heads": 8, "intermediate_size": 28672, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-05, "attention_bias": true, "hidden_act": "silu", "rope_theta": 500000.0,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}"#;
    fs::write(&config, big).unwrap();
    let out = scratch.path().join("tiny");
    let output = Command::new(env!("CARGO_BIN_EXE_llmstd"))
        .args(["spec", "sample", "llama"])
        .arg(&out)
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(out.join("config.json")).unwrap();
    let tiny: serde_json::Value = serde_json::from_str(&text).unwrap();
    let big: serde_json::Value = serde_json::from_str(big).unwrap();
    for same in ["rms_norm_eps", "attention_bias", "hidden_act", "rope_theta"] {
        assert_eq!(tiny[same], big[same], "{same}");
    }
    assert_eq!(tiny["rope_scaling"]["rope_type"], "llama3");
    for smaller in ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"] {
        assert!(tiny[smaller].as_u64() < big[smaller].as_u64().map(|big| big / 8), "{smaller}");
    }
    let size = fs::metadata(out.join("model.safetensors")).unwrap().len();
    assert!(size < 100_000, "{size}");
    // It is not written over.
    let again = Command::new(env!("CARGO_BIN_EXE_llmstd"))
        .args(["spec", "sample", "llama"])
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(2));
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
}
