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

/// The files of a folder of ranks in a folder of its own, changed.
fn changed(name: &str, change: impl Fn(&Path)) -> Result<(Json, Json), String> {
    let scratch = tempfile::tempdir().unwrap();
    for file in fs::read_dir(fixture(name)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), scratch.path().join(file.file_name())).unwrap();
    }
    change(scratch.path());
    package(scratch.path(), Options::default())
}

/// Whether a folder of ranks with such a change is refused with these words.
fn refuses(name: &str, change: impl Fn(&Path), words: &[&str]) {
    let err = changed(name, change).unwrap_err();
    for word in words {
        assert!(err.contains(word), "{name}: {word}: {err}");
    }
}

/// Changes a byte of a tensor of a safetensors file.
fn flip(path: &Path, tensor: &str) {
    let mut bytes = fs::read(path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Json = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let at = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + len + at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn ranks_of_experts_are_one_model() {
    for version in ["v2", "v3"] {
        let (name, hf) = (format!("deepseek-{version}-mp2"), format!("hf-deepseek_{version}"));
        let (wanted, other) = package(&fixture(&hf), Options::default()).unwrap();
        let (found, model) = package(&fixture(&name), Options::default()).unwrap();
        assert_eq!(found["weights"], wanted["weights"], "{name}");
        assert_eq!(model["hyperparameters"], other["hyperparameters"], "{name}");
        // The config of transformers says the same.
        let config = |to: &Path| {
            _ = fs::copy(fixture(&hf).join("config.json"), to.join("config.json")).unwrap()
        };
        let (found, _) = changed(&name, config).unwrap();
        for digest in ["weights", "config", "structure", "interface"] {
            assert_eq!(found[digest], wanted[digest], "{name}: {digest}");
        }
    }
    let name = "deepseek-v3-mp2";
    let files = ["model0-mp2.safetensors", "model1-mp2.safetensors"];
    for (file, other) in [(files[0], files[1]), (files[1], files[0])] {
        let words = [format!("has `{other}`"), format!("`{file}` is missing")];
        let words = words.each_ref().map(String::as_str);
        refuses(name, |of| fs::remove_file(of.join(file)).unwrap(), &words);
    }
    let words = ["files of 2 and of 4 ranks"];
    let more =
        |of: &Path| _ = fs::copy(of.join(files[0]), of.join("model0-mp4.safetensors")).unwrap();
    refuses(name, more, &words);
    let words = ["model1-mp2", "other values of `layers.1.attn_norm.weight`", "`model0-mp2"];
    refuses(name, |of| flip(&of.join(files[1]), "layers.1.attn_norm.weight"), &words);
    let copy = |of: &Path| _ = fs::copy(of.join(files[0]), of.join(files[1])).unwrap();
    refuses(name, copy, &["model1-mp2", "ffn.experts.", "one rank has it"]);
    // The scales of FP8 matrices.
    let scaled = |of: &Path| {
        let mut bytes = fs::read(of.join(files[1])).unwrap();
        let end = b"layers.0.attn.wo.weight\"";
        let at = bytes.windows(end.len()).position(|part| part == end).unwrap();
        bytes[at..at + end.len()].copy_from_slice(b"layers.0.attn.w__.scale\"");
        fs::write(of.join(files[1]), bytes).unwrap();
    };
    refuses(name, scaled, &["`layers.0.attn.w__.scale`", "FP8", "bfloat16"]);
}

#[test]
fn ranks_of_fused_matrices_are_one_model() {
    let (wanted, other) = package(&fixture("hf-llama4_text"), Options::default()).unwrap();
    let (found, model) = package(&fixture("llama4-mp2"), Options::default()).unwrap();
    assert_eq!(found["weights"], wanted["weights"]);
    assert_eq!(model["hyperparameters"], other["hyperparameters"]);
    let name = "llama4-mp2";
    let words = ["`consolidated.01.pth`", "`consolidated.00.pth` is missing"];
    refuses(name, |of| fs::remove_file(of.join("consolidated.00.pth")).unwrap(), &words);
    let scales = |of: &Path| fs::write(of.join("fp8_scales_0.pt"), b"").unwrap();
    refuses(name, scales, &["`fp8_scales_0.pt`", "quantized", "bfloat16"]);
}
