//! What transformers computes with a checkpoint, and whether we compute the same: shared by the tests
//! that judge by values.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use llmstd::convert::Failure;
use llmstd::forward::{self, Inputs, Real, Tensor};
use llmstd::run::{Loaded, load};
use llmstd::spec::Spec;
use serde_json::Value as Json;

/// The greatest difference from the oracle that passes, relative to the oracle's greatest number.
const TOLERANCE: f64 = 1e-5;

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// From the folder: the same files as the embedded ones, and no build between a change and a run.
/// `SPEC` chooses one of one's own.
pub(crate) fn spec() -> Spec {
    let own = std::env::var("SPEC").map(PathBuf::from);
    Spec::from_dir(&own.unwrap_or_else(|_| root().join("spec/1.1"))).unwrap()
}

/// A checkpoint, and the outputs that it must have.
pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) checkpoint: PathBuf,
    pub(crate) oracle: Json,
}

/// `FAMILY` and `FAMILIES` choose a case, or a folder of cases, of one's own.
pub(crate) fn fixtures() -> Vec<Fixture> {
    let mut found = Vec::new();
    let own = std::env::var("FAMILIES").ok();
    let folders = match &own {
        Some(own) => vec![PathBuf::from(own)],
        None => vec![root().join("fixtures/families"), root().join("fixtures/hf")],
    };
    let only = std::env::var("FAMILY").ok();
    for folder in folders {
        let mut cases: Vec<PathBuf> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        cases.sort();
        for case in cases {
            let Ok(oracle) = fs::read_to_string(case.join("oracle.json")) else { continue };
            if only.as_ref().is_some_and(|only| !case.ends_with(only)) {
                continue;
            }
            let source = case.join("src");
            found.push(Fixture {
                name: case.file_name().unwrap().to_string_lossy().into_owned(),
                checkpoint: if source.exists() { source } else { case },
                oracle: serde_json::from_str(&oracle).unwrap(),
            });
        }
    }
    found
}

/// The same of checkpoints under the names of other programs, of fixtures/formats/names.
pub(crate) fn foreign_fixtures() -> Vec<Fixture> {
    let folder = root().join("fixtures/formats/names");
    let mut cases: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    let case = |case: PathBuf| {
        let oracle = fs::read_to_string(case.join("oracle.json")).ok()?;
        Some(Fixture {
            name: case.file_name()?.to_string_lossy().into_owned(),
            checkpoint: case.join("ctranslate2"),
            oracle: serde_json::from_str(&oracle).unwrap(),
        })
    };
    cases.into_iter().filter_map(case).collect()
}

pub(crate) fn open(spec: &Spec, path: &Path) -> Result<Loaded, String> {
    load(path, spec, None).map_err(|failure| match failure {
        Failure::Error(err) => err.to_string(),
        Failure::Findings(findings) => {
            let findings = findings.iter().map(|f| format!("{} {}", f.rule, f.message));
            findings.take(4).collect::<Vec<_>>().join("; ")
        }
    })
}

fn rows(value: &Json) -> Vec<Vec<i64>> {
    serde_json::from_value(value.clone()).unwrap()
}

pub(crate) fn inputs(given: &Json) -> Inputs {
    let mut inputs = Inputs::default();
    for (name, value) in given.as_object().unwrap() {
        match name.as_str() {
            // [batch][choices][sequence]
            "input_ids" | "attention_mask" | "token_type_ids" if value[0][0].is_array() => {
                let questions: Vec<Vec<Vec<i64>>> = serde_json::from_value(value.clone()).unwrap();
                inputs.choices = questions[0].len();
                let rows = questions.concat();
                match name.as_str() {
                    "input_ids" => inputs.input_ids = rows,
                    "attention_mask" => inputs.attention_mask = Some(rows),
                    _ => inputs.token_type_ids = Some(rows),
                }
            }
            "input_ids" => inputs.input_ids = rows(value),
            "attention_mask" => inputs.attention_mask = Some(rows(value)),
            "token_type_ids" => inputs.token_type_ids = Some(rows(value)),
            "position_ids" => inputs.position_ids = Some(rows(value)),
            "decoder_input_ids" => inputs.decoder_input_ids = Some(rows(value)),
            "decoder_attention_mask" => inputs.decoder_attention_mask = Some(rows(value)),
            "bbox" => inputs.boxes = Some(serde_json::from_value(value.clone()).unwrap()),
            "input_shape_ids" => inputs.shape_ids = Some(rows(value)),
            "input_pronunciation_ids" => inputs.sound_ids = Some(rows(value)),
            "lang_ids" => inputs.adapter_ids = Some(serde_json::from_value(value.clone()).unwrap()),
            "encoder_hidden_states" => {
                inputs.encoder_hidden_states = serde_json::from_value(value.clone()).unwrap();
            }
            "encoder_attention_mask" => inputs.encoder_attention_mask = Some(rows(value)),
            "global_attention_mask" => inputs.global_attention_mask = Some(rows(value)),
            // A waveform is a spectrogram of one bin.
            "input_values" => {
                let waves: Vec<Vec<f32>> = serde_json::from_value(value.clone()).unwrap();
                inputs.input_features = waves.into_iter().map(|wave| vec![wave]).collect();
            }
            "input_features" => {
                inputs.input_features = serde_json::from_value(value.clone()).unwrap();
            }
            other => panic!("the input {other:?} is not known"),
        }
    }
    inputs
}

/// All outputs of a model by the names that transformers has for them.
pub(crate) fn outputs<R: Real>(
    loaded: &Loaded,
    inputs: &Inputs,
    class: &str,
) -> Result<BTreeMap<String, Tensor<R>>, String> {
    let model = loaded.model();
    // A class without a head gives states only; of an encoder-decoder, those of both stacks.
    let is_pretraining = class.ends_with("ForPreTraining");
    let tasks: Vec<_> = model.tasks.iter().collect();
    let weights = loaded.weights().map_err(|err| err.to_string())?;
    let computed =
        forward::run::<R>(model, &weights, inputs, &tasks).map_err(|err| err.to_string())?;
    let mut found = BTreeMap::new();
    for answer in computed.tasks {
        for (name, tensor) in answer.outputs {
            let names: &[&str] = match (answer.task.as_str(), name) {
                ("masked-lm", _) if is_pretraining => &["prediction_logits"],
                // Of the order of sentences one class says so, another otherwise.
                ("next-sentence", _) if is_pretraining => {
                    &["seq_relationship_logits", "sop_logits"]
                }
                ("embedding", _) => &["sentence_embedding"],
                (_, name) => &[name],
            };
            for name in names {
                if found.insert((*name).to_owned(), tensor.clone()).is_some() {
                    return Err(format!("two tasks give {name}"));
                }
            }
        }
    }
    found.insert("last_hidden_state".to_owned(), computed.last_hidden_state);
    let states = [
        ("encoder_last_hidden_state", computed.encoder_last_hidden_state),
        ("pooler_output", computed.pooler_output),
    ];
    found.extend(states.into_iter().filter_map(|(name, state)| Some((name.to_owned(), state?))));
    Ok(found)
}

/// The oracle's number and ours, for each number that means something: not for padding.
fn pairs<R: Real>(
    name: &str,
    wanted: &Json,
    found: &Tensor<R>,
    inputs: &Inputs,
) -> Result<Vec<(f64, f64)>, String> {
    let shape: Vec<usize> = serde_json::from_value(wanted["shape"].clone()).unwrap();
    let data: Vec<f64> = serde_json::from_value(wanted["data"].clone()).unwrap();
    let positions: Option<Vec<usize>> =
        serde_json::from_value(wanted["positions"].clone()).unwrap();
    let of_sequence = |shape: &[usize]| match shape {
        [batch, len, rest @ ..] => (*batch, *len, rest.iter().product::<usize>()),
        _ => (0, 0, 0),
    };
    let (_, found_len, width) = of_sequence(&found.shape);
    let expected_len = positions.as_ref().map_or(found_len, Vec::len);
    let mut expected = found.shape.clone();
    if positions.is_some() {
        expected[1] = expected_len;
    }
    if shape != expected || data.len() != shape.iter().product::<usize>() {
        return Err(format!("{name} is {:?}, the oracle's is {shape:?}", found.shape));
    }
    // What has a number for each position: hidden states, logits of tokens, starts and ends.
    let mask = match (&inputs.attention_mask, &inputs.decoder_input_ids) {
        (Some(mask), None) if mask[0].len() == found_len && 1 < found_len => Some(mask),
        (Some(mask), Some(_)) if name == "encoder_last_hidden_state" => Some(mask),
        (_, Some(_)) if name != "encoder_last_hidden_state" => {
            inputs.decoder_attention_mask.as_ref()
        }
        _ => None,
    };
    let per_position = 2 < shape.len() || name.starts_with("start_") || name.starts_with("end_");
    let mut pairs = Vec::new();
    for (index, &wanted) in data.iter().enumerate() {
        if !per_position && positions.is_none() {
            pairs.push((wanted, found.data[index].to_f64()));
            continue;
        }
        let (row, column) = (index / width, index % width);
        let (sequence, place) = (row / expected_len, row % expected_len);
        let position = positions.as_ref().map_or(place, |positions| positions[place]);
        if mask.is_none_or(|mask| mask[sequence][position] != 0) {
            let at = (sequence * found_len + position) * width + column;
            pairs.push((wanted, found.data[at].to_f64()));
        }
    }
    Ok(pairs)
}

/// Whether every output is the oracle's.
pub(crate) fn compare<R: Real>(spec: &Spec, fixture: &Fixture) -> Result<(), String> {
    let loaded = open(spec, &fixture.checkpoint)?;
    let far = farthest::<R>(&loaded, fixture)?;
    match far.iter().find(|far| far.relative.is_nan() || TOLERANCE < far.relative) {
        Some(Far { name, by, scale, .. }) => {
            Err(format!("{name} differs by {by:e} where the greatest is {scale}"))
        }
        None => Ok(()),
    }
}

/// How far one output is from the oracle's.
pub(crate) struct Far {
    pub(crate) name: String,
    /// The greatest difference of two numbers; NaN if one is.
    pub(crate) by: f64,
    /// The oracle's greatest number.
    pub(crate) scale: f64,
    /// `by` in terms of `scale`.
    pub(crate) relative: f64,
}

/// How far each output is from the oracle's.
pub(crate) fn farthest<R: Real>(loaded: &Loaded, fixture: &Fixture) -> Result<Vec<Far>, String> {
    let inputs = inputs(&fixture.oracle["inputs"]);
    let class = fixture.oracle["architecture"].as_str().unwrap();
    let found = outputs::<R>(loaded, &inputs, class)?;
    let wanted = fixture.oracle["outputs"].as_object().unwrap();
    assert!(!wanted.is_empty(), "{}", fixture.name);
    let mut all = Vec::new();
    for (name, wanted) in wanted {
        // Closed: an output that nothing computes is a failure.
        let found = found.get(name).ok_or_else(|| format!("nothing computes {name}"))?;
        let pairs = pairs(name, wanted, found, &inputs)?;
        if pairs.is_empty() {
            return Err(format!("{name}: nothing to compare"));
        }
        let scale = pairs.iter().map(|(wanted, _)| wanted.abs()).fold(0.0, f64::max);
        let by = pairs
            .iter()
            .map(|(wanted, found)| (wanted - found).abs())
            .fold(0.0, |a: f64, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) });
        all.push(Far { name: name.clone(), by, scale, relative: by / scale.max(1e-30) });
    }
    Ok(all)
}
