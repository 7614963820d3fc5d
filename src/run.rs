//! What a model answers: any supported checkpoint through the reference forward.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hex;
use crate::checkpoint::DType;
use crate::convert::{self, Failure};
use crate::folder::{self, How, Opened};
use crate::forward::{self, Inputs, Outputs, Planned, Tensor, Weights};
use crate::package::{Model, Task, Value};
use crate::plan::Tensors;
use crate::spec::Spec;
use crate::tokenizer::vocabulary::{TOKENIZER_JSON, Vocabulary};

/// A checkpoint that can be computed with: a package, or a foreign one in the standard's terms.
#[non_exhaustive]
pub struct Loaded {
    opened: Opened,
    model: Model,
    /// How canonical tensors are made of those of a foreign checkpoint.
    plan: Option<Tensors>,
}

/// Opens a checkpoint to compute with it. Nothing is written.
///
/// # Errors
/// It cannot be read, or it cannot be brought to the standard.
pub fn load(path: &Path, spec: &Spec, arch: Option<&str>) -> std::result::Result<Loaded, Failure> {
    load_as(path, &spec.how(), spec, arch)
}

/// As [`load`], with what is to be known beside the path.
///
/// # Errors
/// As [`load`].
pub fn load_as(
    path: &Path,
    how: &How<'_>,
    spec: &Spec,
    arch: Option<&str>,
) -> std::result::Result<Loaded, Failure> {
    let mut opened = folder::open_as(path, how)?;
    let (model, plan) = convert::model_of(&mut opened, spec, arch)?;
    Ok(Loaded { opened, model, plan })
}

impl Loaded {
    /// What the model is, in the standard's terms.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The canonical tensors.
    ///
    /// # Errors
    /// The values of one cannot be had.
    pub fn weights(&self) -> Result<Planned<'_>> {
        match &self.plan {
            Some(plan) => Ok(Planned::of_plan(&self.opened.source, plan)),
            None => Planned::of_checkpoint(&self.opened.source, &self.opened.checkpoint),
        }
    }
}

/// The rows of a matrix, a spectrogram or the like: the one tensor of a file, F32 and of two axes.
///
/// # Errors
/// The file cannot be read, or it holds something else.
pub fn matrix(path: &Path, what: &str, axes: &str) -> Result<Vec<Vec<f32>>> {
    let opened = folder::open(path)?;
    let fail = |found: String| {
        let message = format!("{what} is one F32 tensor [{axes}]; this is {found}");
        Err(Error::new(ErrorKind::Malformed, message).in_file(path))
    };
    let [tensor] = opened.checkpoint.tensors.as_slice() else {
        return fail(format!("{} tensors", opened.checkpoint.tensors.len()));
    };
    let planned = Planned::of_checkpoint(&opened.source, &opened.checkpoint)?;
    let Some(stored) = planned.tensor(&tensor.name)? else {
        return fail("one that has no values".to_owned());
    };
    let (DType::F32, [_, width]) = (stored.dtype, stored.shape.as_slice()) else {
        return fail(format!("{} {:?}", stored.dtype, stored.shape));
    };
    let Some(row_len) = usize::try_from(*width).ok().and_then(|width| width.checked_mul(4)) else {
        return fail(format!("one of rows of {width}"));
    };
    if row_len == 0 {
        return fail("empty".to_owned());
    }
    let rows = stored.bytes.chunks_exact(row_len).map(|row| {
        let (numbers, _) = row.as_chunks::<4>();
        numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    });
    Ok(rows.collect())
}

/// What to compute and to show.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// The task; all that the inputs suffice for if there is none.
    pub task: Option<&'a str>,
    /// How many tokens to list.
    pub top: usize,
}

/// What a model answered.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Report {
    /// `llmstd.run/1`.
    pub schema: &'static str,
    /// The input.
    pub path: String,
    /// The architecture.
    pub architecture: Option<String>,
    /// The answers of tasks.
    pub tasks: Vec<TaskReport>,
    /// The outputs of the stacks, and the pooler's.
    pub states: Vec<OutputReport>,
}

/// The answer of one task.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct TaskReport {
    /// The task's id.
    pub task: String,
    /// The most likely tokens at some positions, where the task is about tokens: at masks, or else
    /// at the last position that the attention mask shows.
    pub tokens: Vec<PositionReport>,
    /// The labels of each sequence, where the task has some, best first.
    pub labels: Vec<Vec<LabelReport>>,
    /// All outputs.
    pub outputs: Vec<OutputReport>,
}

/// The most likely tokens at one position.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PositionReport {
    /// The sequence, from 0.
    pub sequence: usize,
    /// The position, from 0.
    pub position: usize,
    /// The tokens, best first.
    pub top: Vec<TokenReport>,
}

/// A token and its logit.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct TokenReport {
    /// The id.
    pub id: usize,
    /// The logit.
    pub logit: f32,
    /// How the tokenizer spells it, where there is a `tokenizer.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// A label and its score.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct LabelReport {
    /// The label.
    pub label: String,
    /// The probability; for a regression the value.
    pub score: f32,
}

/// One output, whole.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct OutputReport {
    /// Its name, as in `tasks.toml`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// SHA-256 of its elements as little-endian F32: equal on one machine for equal models.
    pub sha256: String,
    /// The least element.
    pub min: f32,
    /// The greatest element.
    pub max: f32,
    /// The mean of the elements.
    pub mean: f32,
    /// The elements, row-major.
    pub data: Vec<f32>,
}

/// Computes a model's outputs.
///
/// # Errors
/// The model has no such task, the inputs do not fit it, or as `forward::run`.
pub fn run(
    path: &Path,
    loaded: &mut Loaded,
    inputs: &Inputs,
    options: Options<'_>,
) -> Result<Report> {
    let vocabulary = vocabulary(&mut loaded.opened)?;
    let model = &loaded.model;
    let tasks = tasks(model, inputs, options.task)?;
    let outputs: Outputs<f32> = forward::run(model, &loaded.weights()?, inputs, &tasks)?;
    loaded.opened.source.check_unchanged()?;
    let shown = Shown { model, inputs, options, vocabulary: &vocabulary };
    let answers = tasks.iter().zip(&outputs.tasks);
    let states = outputs.states();
    Ok(Report {
        schema: "llmstd.run/1",
        path: path.display().to_string(),
        architecture: model.architecture.clone(),
        tasks: answers
            .map(|(task, answer)| TaskReport {
                task: task.id.clone(),
                tokens: shown.tokens(task, &answer.outputs),
                labels: shown.labels(task, &answer.outputs),
                outputs: answer.outputs.iter().map(|(name, out)| output(name, out)).collect(),
            })
            .collect(),
        states: states.into_iter().map(|(name, out)| output(name, out)).collect(),
    })
}

/// The tasks to compute: the one that is asked for, or all whose inputs are there.
fn tasks<'m>(model: &'m Model, inputs: &Inputs, asked: Option<&str>) -> Result<Vec<&'m Task>> {
    if let Some(id) = asked {
        let found: Vec<&Task> = model.tasks.iter().filter(|task| task.id == id).collect();
        if found.is_empty() {
            let known: Vec<&str> = model.tasks.iter().map(|task| task.id.as_str()).collect();
            let message = format!("the model has no task {id:?}; it has: {}", known.join(", "));
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        return Ok(found);
    }
    let given = |name: &str| match name {
        "decoder_input_ids" => inputs.decoder_input_ids.is_some(),
        _ => true,
    };
    let answered = model
        .tasks
        .iter()
        .filter(|task| task.inputs.iter().all(|port| port.optional || given(&port.name)));
    Ok(answered.collect())
}

fn output(name: &str, tensor: &Tensor<f32>) -> OutputReport {
    let data = &tensor.data;
    let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
    let sum: f64 = data.iter().map(|&x| f64::from(x)).sum();
    OutputReport {
        name: name.to_owned(),
        shape: tensor.shape.clone(),
        sha256: hex::encode(&Sha256::digest(&bytes)),
        min: data.iter().copied().fold(f32::NAN, f32::min),
        max: data.iter().copied().fold(f32::NAN, f32::max),
        mean: (sum / data.len() as f64) as f32,
        data: data.clone(),
    }
}

struct Shown<'s> {
    model: &'s Model,
    inputs: &'s Inputs,
    options: Options<'s>,
    vocabulary: &'s BTreeMap<usize, String>,
}

impl Shown<'_> {
    fn tokens(&self, task: &Task, outputs: &[(&'static str, Tensor<f32>)]) -> Vec<PositionReport> {
        let [(_, logits)] = outputs else { return Vec::new() };
        if !task.id.ends_with("-lm") && !task.id.ends_with("seq2seq") {
            return Vec::new();
        }
        let [size, len, vocab] = logits.shape[..] else { return Vec::new() };
        let mut reports = Vec::new();
        for sequence in 0..size {
            for position in self.positions(sequence, len) {
                let start = (sequence * len + position) * vocab;
                let Some(row) = logits.data.get(start..start + vocab) else { continue };
                let mut ids: Vec<usize> = (0..vocab).collect();
                ids.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
                let top = ids.into_iter().take(self.options.top).map(|id| TokenReport {
                    id,
                    logit: row[id],
                    token: self.vocabulary.get(&id).cloned(),
                });
                reports.push(PositionReport { sequence, position, top: top.collect() });
            }
        }
        reports
    }

    /// The positions to show: those of masks, or the last one.
    fn positions(&self, sequence: usize, len: usize) -> Vec<usize> {
        let decodes = self.inputs.decoder_input_ids.is_some();
        let (ids, mask) = if decodes {
            (None, &self.inputs.decoder_attention_mask)
        } else {
            (self.inputs.input_ids.get(sequence), &self.inputs.attention_mask)
        };
        let is_mask = |id: &i64| self.model.tokens.get("mask") == Some(&Value::Int(*id));
        let masks: Vec<usize> = ids
            .iter()
            .flat_map(|ids| ids.iter().enumerate())
            .filter(|(_, id)| is_mask(id))
            .map(|(position, _)| position)
            .collect();
        if !masks.is_empty() || len == 0 {
            return masks;
        }
        let shown = mask.as_ref().and_then(|mask| mask.get(sequence));
        let last = shown.and_then(|mask| mask.iter().rposition(|&shown| shown != 0));
        vec![last.unwrap_or(len - 1)]
    }

    fn labels(
        &self,
        task: &Task,
        outputs: &[(&'static str, Tensor<f32>)],
    ) -> Vec<Vec<LabelReport>> {
        let (Some(labels), [(_, logits)]) = (&task.labels, outputs) else { return Vec::new() };
        // A label for each position is in the outputs.
        if labels.is_empty() || logits.shape.len() != 2 {
            return Vec::new();
        }
        let rows = logits.data.chunks(labels.len());
        let row = |row: &[f32]| {
            let scores: Vec<f32> = match task.problem.as_deref() {
                Some("regression") => row.to_vec(),
                Some("multi") => row.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
                _ => {
                    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let sum: f32 = row.iter().map(|x| (x - max).exp()).sum();
                    row.iter().map(|x| (x - max).exp() / sum).collect()
                }
            };
            let mut reports: Vec<LabelReport> = labels
                .iter()
                .zip(scores)
                .map(|(label, score)| LabelReport { label: label.clone(), score })
                .collect();
            reports.sort_by(|a, b| b.score.total_cmp(&a.score));
            reports
        };
        rows.map(row).collect()
    }
}

/// The tokens of a `tokenizer.json` by id; none if there is no such file, or it has another form.
///
/// # Errors
/// It cannot be read, or is no JSON.
fn vocabulary(opened: &mut Opened) -> Result<BTreeMap<usize, String>> {
    let Some(text) = opened.text(TOKENIZER_JSON)? else { return Ok(BTreeMap::new()) };
    let read = Vocabulary::reader(TOKENIZER_JSON).expect("it says ids");
    let vocabulary = match read(text.as_bytes()) {
        Ok(vocabulary) => vocabulary,
        Err(_) => opened.json(TOKENIZER_JSON).map(|_| Vocabulary::default())?,
    };
    let tokens =
        vocabulary.all().filter_map(|(token, id)| Some((id.try_into().ok()?, token.to_owned())));
    Ok(tokens.collect())
}
