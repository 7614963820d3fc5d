//! GGUF files held against what llama.cpp's own reader computes of them: `fixtures/gguf/answers.json`, by
//! `answers.py`. The reference forward, which other tests hold against transformers, computes the same of the
//! checkpoint that a file was made of; where the reader answers otherwise, the conversion has warned.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use llmstd::base::hex;
use llmstd::convert::{Failure, Report, Request, convert};
use llmstd::folder;
use llmstd::forward::{self, Inputs};
use llmstd::spec::Spec;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::oracle::{open, root, spec};

/// How far the answer of a reader may be, relative to its greatest number: ggml takes GELU from a table of F16.
const TOLERANCE: f32 = 1e-3;

/// The findings by which a conversion says that readers compute otherwise, or do not open the file.
const WARNINGS: [&str; 2] = ["P005", "P042"];

#[derive(Deserialize)]
struct Answer {
    sha256: String,
    ids: Vec<i64>,
    decoder: Option<Vec<i64>>,
    logits: Option<Vec<f32>>,
    state: Option<Vec<f32>>,
    embedding: Option<Vec<f32>>,
    error: Option<String>,
}

fn answers() -> BTreeMap<String, Answer> {
    let text = fs::read(root().join("fixtures/gguf/answers.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// The checkpoint of a case with the vocabulary of the answers beside it.
pub(crate) fn with_vocabulary(case: &str, to: &Path) {
    for folder in ["fixtures".to_owned() + "/" + case, "fixtures/gguf/vocabulary".to_owned()] {
        copy(&root().join(folder), to);
    }
}

fn copy(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.path().is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&file.path(), &to);
        } else {
            fs::copy(file.path(), to).unwrap();
        }
    }
}

fn write(spec: &Spec, case: &str, scratch: &Path) -> Result<(Report, Vec<u8>), String> {
    let folder = scratch.join("case"); // Readers take some names for those of models.
    fs::create_dir(&folder).unwrap();
    with_vocabulary(case, &folder);
    let file = scratch.join("model.gguf");
    let opened = folder::open(&folder).map_err(|err| err.to_string())?;
    let report =
        convert(opened, &Request::new(spec, &file, "gguf")).map_err(|failure| match failure {
            Failure::Error(err) => err.to_string(),
            Failure::Findings(findings) => {
                findings.iter().map(|finding| format!("{finding:?}")).collect()
            }
        })?;
    Ok((report, fs::read(&file).unwrap()))
}

/// The row that the reader was asked for, as the reference forward computes it.
fn computed(spec: &Spec, case: &str, answer: &Answer) -> Result<Vec<f32>, String> {
    let loaded = open(spec, &root().join("fixtures").join(case))?;
    let inputs = Inputs {
        input_ids: vec![answer.ids.clone()],
        decoder_input_ids: answer.decoder.clone().map(|ids| vec![ids]),
        ..Inputs::default()
    };
    let model = loaded.model();
    let words = |id: &str| match answer.embedding {
        Some(_) => id == "embedding",
        None => ["causal-lm", "seq2seq-lm"].contains(&id),
    };
    let tasks: Vec<_> = model.tasks.iter().filter(|task| words(&task.id)).collect();
    let weights = loaded.weights().map_err(|err| err.to_string())?;
    let tasks = if answer.state.is_some() { Vec::new() } else { tasks };
    let outputs =
        forward::run::<f32>(model, &weights, &inputs, &tasks).map_err(|err| err.to_string())?;
    let output = match outputs.tasks.first() {
        Some(answer) => &answer.outputs[0].1,
        None => &outputs.last_hidden_state,
    };
    let width = *output.shape.last().unwrap();
    Ok(output.data[output.data.len() - width..].to_vec())
}

/// Why a case fails, if it does.
fn judge(spec: &Spec, case: &str, answer: &Answer) -> Result<(), String> {
    let scratch = tempfile::tempdir().unwrap();
    let (report, bytes) = write(spec, case, scratch.path())?;
    if hex::encode(&Sha256::digest(&bytes)) != answer.sha256 {
        return Err("is another file than the reader was asked about: run answers.py".to_owned());
    }
    let row = answer.logits.as_ref().or(answer.state.as_ref()).or(answer.embedding.as_ref());
    let wrong = match (&answer.error, row) {
        (Some(error), _) => Some(error.clone()),
        (None, None) => Some("what it answers is not finite".to_owned()),
        (None, Some(found)) => {
            let wanted = computed(spec, case, answer)?;
            if wanted.len() != found.len() {
                return Err(format!("{} numbers, and not {}", found.len(), wanted.len()));
            }
            let most = wanted.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
            let far = wanted.iter().zip(found).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            (far > TOLERANCE * most).then(|| format!("off by {far} of {most}"))
        }
    };
    let told = report.findings.iter().any(|finding| WARNINGS.contains(&finding.rule));
    match wrong {
        Some(why) if !told => Err(format!("{why}, and there was no warning")),
        _ => Ok(()),
    }
}

#[test]
fn llama_cpp_answers_as_transformers_does_or_the_conversion_warns() {
    let spec = &spec();
    let only = std::env::var("CASE").ok();
    let answers = answers();
    let cases: Vec<_> = answers
        .iter()
        .filter(|(case, _)| only.as_ref().is_none_or(|only| case.ends_with(only)))
        .collect();
    let failures: Vec<String> = cases
        .par_iter()
        .filter_map(|(case, answer)| Some(format!("{case}: {}", judge(spec, case, answer).err()?)))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Every mapping has an answer that is right, but for those whose fixtures readers do not take.
#[test]
fn every_mapping_to_gguf_was_asked_about() {
    let text = fs::read(root().join("fixtures/gguf/answers.json")).unwrap();
    let asked: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&text).unwrap();
    let spec = &spec();
    let mut right: Vec<String> = Vec::new();
    for (case, answer) in &asked {
        if answer.get("error").is_none() {
            let loaded = open(spec, &root().join("fixtures").join(case)).unwrap();
            right.extend(loaded.model().architecture.clone());
        }
    }
    let missing: Vec<&str> = spec
        .maps_of("gguf")
        .map(|map| map.arch.as_str())
        .filter(|arch| !right.iter().any(|found| found == arch))
        .collect();
    // Readers have no biases of experts beside others, which llama.cpp's converter writes; they know no sparsemixer, and each
    // Phi 3.5 MoE is told of it.
    assert_eq!(missing, ["ernie4_5_moe-bias", "phimoe"]);
}
