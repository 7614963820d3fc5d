//! The layouts of labs and libraries of their own are the model that transformers saves: see
//! fixtures/trainers/make_labs.py.

use std::fs;
use std::path::{Path, PathBuf};

use llmstd::plan::{Decode, Options};
use llmstd::{DType, Failure, Request, Spec};
use serde_json::Value as Json;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trainers").join(name)
}

/// The manifest's digests and the model of a source as a package.
fn package(source: &Path, plan: Options) -> Result<(Json, Json), String> {
    let (spec, scratch) = (Spec::current(), tempfile::tempdir().unwrap());
    let out = scratch.path().join("out");
    let request = Request { verify: true, plan, ..Request::new(&spec, &out, "std") };
    let opened = llmstd::open(source).map_err(|err| err.to_string())?;
    llmstd::convert(opened, &request).map_err(|failure| match failure {
        Failure::Error(err) => err.to_string(),
        Failure::Findings(found) => format!("{}: {}", found[0].rule, found[0].message),
    })?;
    let json = |name: &str| -> Json {
        serde_json::from_slice(&fs::read(out.join(name)).unwrap()).unwrap()
    };
    Ok((json("manifest.json")["digests"].clone(), json("model.json")))
}

#[test]
fn libraries_of_their_own_names_have_the_weights_of_transformers() {
    for (name, hf) in [
        ("litgpt", "hf"),
        ("gemma-pytorch", "hf-gemma2"),
        ("torchtune", "hf"),
        ("torchtune-qwen2", "hf-qwen2"),
    ] {
        let (found, _) = package(&fixture(name), Options::default()).unwrap();
        let (wanted, _) = package(&fixture(hf), Options::default()).unwrap();
        assert_eq!(found["weights"], wanted["weights"], "{name}");
    }
    let (_, model) = package(&fixture("litgpt"), Options::default()).unwrap();
    let hparams = &model["hyperparameters"];
    let scaling = |key: &str| hparams[&format!("rope_scaling.{key}")].clone();
    assert_eq!((scaling("kind"), scaling("factor")), ("llama3".into(), 8.0.into()));
    assert_eq!(scaling("original_max_positions"), 32);
    assert_eq!((&hparams["max_positions"], &hparams["norm_eps"]), (&64.into(), &1e-6.into()));
    assert_eq!(model["tokens"], serde_json::json!({}));
    // What the mapping has no words for is refused.
    let scratch = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(fixture("litgpt").join("model_config.yaml")).unwrap();
    fs::copy(fixture("litgpt").join("lit_model.pth"), scratch.path().join("lit_model.pth"))
        .unwrap();
    for (from, to) in [
        ("norm_class_name: RMSNorm", "norm_class_name: LayerNorm"),
        ("parallel_residual: false", "parallel_residual: true"),
        ("rotary_percentage: 1.0", "rotary_percentage: 0.25"),
    ] {
        assert!(text.contains(from));
        fs::write(scratch.path().join("model_config.yaml"), text.replace(from, to)).unwrap();
        let err = package(scratch.path(), Options::default()).unwrap_err();
        assert!(err.contains(from.split(':').next().unwrap()), "{to}: {err}");
    }
}

/// Its experts are packed; the numbers are those that transformers' file has, and the model says the same.
#[test]
fn the_original_files_of_packed_experts_are_read() {
    let single = Options { dtype: Some(DType::F32), ..Options::default() };
    let decoded = Options { decode: Decode::All, ..single };
    let (found, model) = package(&fixture("gpt-oss"), decoded).unwrap();
    let (wanted, other) = package(&fixture("hf-gpt_oss"), single).unwrap();
    for digest in ["weights", "config", "structure", "interface"] {
        assert_eq!(found[digest], wanted[digest], "{digest}");
    }
    assert_eq!(model["hyperparameters"], other["hyperparameters"]);
    let err = package(&fixture("gpt-oss"), Options::default()).unwrap_err();
    assert!(err.starts_with("P012") && err.contains("mxfp4.openai"), "{err}");
}
