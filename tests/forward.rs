//! The reference forward against transformers: for every fixture with an oracle, every output.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use llmstd::checkpoint::DType;
use llmstd::convert::Failure;
use llmstd::forward::{self, Inputs, Planned, Real, Stored, Tensor, Weights};
use llmstd::package::Value;
use llmstd::run::{Loaded, load};
use llmstd::spec::Spec;
use serde_json::Value as Json;

/// The greatest difference from the oracle that passes, relative to the oracle's greatest number.
const TOLERANCE: f64 = 1e-4;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// From the folder: the same files as the embedded ones, and no build between a change and a run.
/// `SPEC` chooses one of one's own.
fn spec() -> Spec {
    let own = std::env::var("SPEC").map(PathBuf::from);
    Spec::from_dir(&own.unwrap_or_else(|_| root().join("spec/1.0"))).unwrap()
}

/// A checkpoint, and the outputs that it must have.
struct Fixture {
    name: String,
    checkpoint: PathBuf,
    oracle: Json,
}

/// `FAMILY` and `FAMILIES` choose a case, or a folder of cases, of one's own.
fn fixtures() -> Vec<Fixture> {
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

fn open(spec: &Spec, path: &Path) -> Result<Loaded, String> {
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

fn inputs(given: &Json) -> Inputs {
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
            "input_features" => {
                inputs.input_features = serde_json::from_value(value.clone()).unwrap();
            }
            other => panic!("the input {other:?} is not known"),
        }
    }
    inputs
}

/// All outputs of a model by the names that transformers has for them.
fn outputs<R: Real>(
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
            let name = match (answer.task.as_str(), name) {
                ("masked-lm", _) if is_pretraining => "prediction_logits",
                ("next-sentence", _) if is_pretraining => "seq_relationship_logits",
                ("embedding", _) => "sentence_embedding",
                (_, name) => name,
            };
            let twice = found.insert(name.to_owned(), tensor);
            if twice.is_some() {
                return Err(format!("two tasks give {name}"));
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

/// The greatest relative difference of any output.
fn compare<R: Real>(spec: &Spec, fixture: &Fixture) -> Result<f64, String> {
    let loaded = open(spec, &fixture.checkpoint)?;
    let inputs = inputs(&fixture.oracle["inputs"]);
    let class = fixture.oracle["architecture"].as_str().unwrap();
    let found = outputs::<R>(&loaded, &inputs, class)?;
    let mut worst = 0f64;
    let wanted = fixture.oracle["outputs"].as_object().unwrap();
    assert!(!wanted.is_empty(), "{}", fixture.name);
    for (name, wanted) in wanted {
        // Closed: an output that nothing computes is a failure.
        let found = found.get(name).ok_or_else(|| format!("nothing computes {name}"))?;
        let pairs = pairs(name, wanted, found, &inputs)?;
        if pairs.is_empty() {
            return Err(format!("{name}: nothing to compare"));
        }
        let scale = pairs.iter().map(|(wanted, _)| wanted.abs()).fold(0.0, f64::max);
        let far = pairs
            .iter()
            .map(|(wanted, found)| (wanted - found).abs())
            .fold(0.0, |a: f64, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) });
        let relative = far / scale.max(1e-30);
        if relative.is_nan() || TOLERANCE < relative {
            return Err(format!("{name} differs by {far:e} where the greatest is {scale}"));
        }
        worst = worst.max(relative);
    }
    Ok(worst)
}

#[test]
fn every_fixture_computes_what_its_oracle_says() {
    let spec = spec();
    let fixtures = fixtures();
    let mut failed = Vec::new();
    for fixture in &fixtures {
        match compare::<f32>(&spec, fixture) {
            Ok(worst) => assert!(worst < TOLERANCE, "{}: {worst:e}", fixture.name),
            Err(why) => failed.push(format!("{}: {why}", fixture.name)),
        }
    }
    assert!(!fixtures.is_empty());
    let (n, of) = (failed.len(), fixtures.len());
    assert!(failed.is_empty(), "{n} of {of} fail\n{}", failed.join("\n"));
}

/// Rounding is all that sets F32 and F64 apart: no formula depends on the precision.
#[test]
fn f32_and_f64_agree() {
    let spec = spec();
    for fixture in fixtures() {
        let loaded = open(&spec, &fixture.checkpoint).unwrap();
        let inputs = inputs(&fixture.oracle["inputs"]);
        let class = fixture.oracle["architecture"].as_str().unwrap();
        let narrow = outputs::<f32>(&loaded, &inputs, class).unwrap();
        let wide = outputs::<f64>(&loaded, &inputs, class).unwrap();
        for (name, wide) in &wide {
            let scale = wide.data.iter().map(|x| x.abs()).fold(0.0, f64::max);
            let narrow = &narrow[name];
            assert_eq!(narrow.shape, wide.shape);
            let far = narrow.data.iter().zip(&wide.data).map(|(n, w)| (f64::from(*n) - w).abs());
            let far = far.fold(0.0, f64::max);
            assert!(far <= 1e-5 * scale, "{} {name}: {far:e} of {scale}", fixture.name);
        }
    }
}

/// The weights of a model with one tensor changed.
struct Changed<'a> {
    weights: &'a Planned<'a>,
    name: &'a str,
    change: &'a (dyn Fn(&mut Stored<'_>) + Sync),
    missing: bool,
}

impl Weights for Changed<'_> {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        self.weights.names()
    }

    fn tensor(&self, name: &str) -> llmstd::error::Result<Option<Stored<'_>>> {
        let mut tensor = self.weights.tensor(name)?;
        if name == self.name {
            if self.missing {
                return Ok(None);
            }
            tensor.iter_mut().for_each(self.change);
        }
        Ok(tensor)
    }
}

/// Small models of as many kinds as there are, for tests that change them.
fn small() -> Vec<Fixture> {
    let mut fixtures = fixtures();
    let hf = ["bert-seqcls", "gpt2-seqcls", "st-dense"];
    fixtures.retain(|fixture| {
        !fixture.checkpoint.ends_with("src") || hf.contains(&fixture.name.as_str())
    });
    fixtures
}

#[test]
fn a_tensor_that_is_missing_or_wrong_is_an_error() {
    let spec = spec();
    for fixture in small() {
        let loaded = open(&spec, &fixture.checkpoint).unwrap();
        let inputs = inputs(&fixture.oracle["inputs"]);
        let model = loaded.model();
        let tasks: Vec<_> = model.tasks.iter().collect();
        let weights = loaded.weights().unwrap();
        let names: Vec<String> = weights.names().map(str::to_owned).collect();
        let check = |name: &str, what: &str, change: &(dyn Fn(&mut Stored<'_>) + Sync), missing| {
            let changed = Changed { weights: &weights, name, change, missing };
            let result = forward::run::<f32>(model, &changed, &inputs, &tasks);
            let err = result.map(drop).expect_err(&format!("{} {name} {what}", fixture.name));
            let message = err.to_string();
            assert!(!message.is_empty() && message.lines().count() == 1, "{message}");
        };
        for name in &names {
            // What no hyperparameter tells of may be missing: parts of heads, and these.
            let embed_norm = model.hyperparameters.get("embed_norm") == Some(&Value::Bool(true));
            let optional = [
                (".embed.in_proj.", true),
                (".embed.out_proj.", true),
                (".q_norm.bias", true),
                (".k_norm.bias", true),
                (".shared.", name.ends_with(".bias")),
                (".layers.0.attn.pre_norm.weight", embed_norm),
            ];
            let is_optional = name.starts_with("heads.")
                || optional.iter().any(|(part, may)| *may && name.contains(part));
            if !is_optional {
                check(name, "is missing", &|_| {}, true);
            }
            let longer = |stored: &mut Stored<'_>| match stored.shape.first_mut() {
                Some(first) => *first += 1,
                None => stored.shape.push(2),
            };
            check(name, "has another shape", &longer, false);
            check(name, "has another rank", &|stored| stored.shape.insert(0, 1), false);
            check(name, "is no float", &|stored| stored.dtype = DType::I32, false);
            let cut = |stored: &mut Stored<'_>| {
                let bytes = stored.bytes[..stored.bytes.len() / 2].to_vec();
                stored.bytes = bytes.into();
            };
            // Of a table only some rows are read.
            if !name.contains("embed.") {
                check(name, "is cut", &cut, false);
            }
        }
    }
}

#[test]
fn senseless_hyperparameters_never_panic() {
    let spec = spec();
    let list = |value: Value| Value::List(vec![value; 3]);
    let senseless = [
        Value::Null,
        Value::Bool(true),
        Value::Bool(false),
        Value::Int(0),
        Value::Int(1),
        Value::Int(3),
        Value::Int(-1),
        Value::Int(i64::from(i32::MAX)),
        Value::Int(i64::MAX),
        Value::Float(0.0),
        Value::Float(f64::NAN),
        Value::Word("x".to_owned()),
        Value::List(Vec::new()),
        list(Value::Int(7)),
        list(Value::Word("ssm".to_owned())),
    ];
    let words: Vec<Value> =
        spec.keys.iter().flat_map(|key| &key.words).cloned().map(Value::Word).collect();
    for fixture in small() {
        let loaded = open(&spec, &fixture.checkpoint).unwrap();
        let inputs = inputs(&fixture.oracle["inputs"]);
        let weights = loaded.weights().unwrap();
        for key in loaded.model().hyperparameters.keys() {
            let mut model = loaded.model().clone();
            model.hyperparameters.remove(key);
            let _ = forward::run::<f32>(&model, &weights, &inputs, &[]);
            let is_word = matches!(loaded.model().hyperparameters[key], Value::Word(_));
            for value in senseless.iter().chain(words.iter().filter(|_| is_word)) {
                let mut model = loaded.model().clone();
                model.hyperparameters.insert(key.clone(), value.clone());
                let tasks: Vec<_> = model.tasks.iter().collect();
                let _ = forward::run::<f32>(&model, &weights, &inputs, &tasks);
            }
        }
    }
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let spec = spec();
    let loaded = open(&spec, &root().join("fixtures/hf/bert-seqcls/src")).unwrap();
    let weights = loaded.weights().unwrap();
    let check = |inputs: Inputs, message: &str| {
        let err =
            forward::run::<f32>(loaded.model(), &weights, &inputs, &[]).map(drop).unwrap_err();
        assert!(err.message().contains(message), "{err}");
    };
    let of = |ids: &[&[i64]]| ids.iter().map(|row| row.to_vec()).collect::<Vec<_>>();
    let ids = |ids: &[&[i64]]| Inputs { input_ids: of(ids), ..Inputs::default() };
    check(ids(&[&[5, 99]]), "the id 99 is past the 99 rows");
    check(ids(&[&[-1]]), "negative");
    check(ids(&[&[i64::MAX]]), "too large");
    check(ids(&[&[1, 2], &[3]]), "2 rows of 2");
    check(ids(&[&[1; 4096]]), "the position");
    let mask = Some(of(&[&[1]]));
    check(
        Inputs { attention_mask: mask, ..ids(&[&[1, 2]]) },
        "the attention mask must have 1 rows",
    );
    let types = Some(of(&[&[0, 7]]));
    check(Inputs { token_type_ids: types, ..ids(&[&[1, 2]]) }, "the token type 7 is past");
    // Nothing to compute is no error.
    let empty = forward::run::<f32>(loaded.model(), &weights, &ids(&[]), &[]).unwrap();
    assert!(empty.last_hidden_state.data.is_empty());
}

/// What is masked does not change what is not.
#[test]
fn padding_changes_nothing() {
    let spec = spec();
    for name in ["bert-base", "llama-seqcls", "distilbert-base"] {
        let loaded = open(&spec, &root().join("fixtures/hf").join(name).join("src")).unwrap();
        let weights = loaded.weights().unwrap();
        let run = |ids: Vec<i64>, mask: Vec<i64>| {
            let inputs = Inputs {
                input_ids: vec![ids],
                attention_mask: Some(vec![mask]),
                ..Inputs::default()
            };
            forward::run::<f64>(loaded.model(), &weights, &inputs, &[]).unwrap().last_hidden_state
        };
        let short = run(vec![5, 17, 42], vec![1; 3]);
        let long = run(vec![5, 17, 42, 9, 70], vec![1, 1, 1, 0, 0]);
        let pairs = short.data.iter().zip(&long.data);
        assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-12), "{name}");
        let seen = run(vec![5, 17, 42, 9, 70], vec![1; 5]);
        let causal = name.starts_with("llama");
        let same = short.data.iter().zip(&seen.data).all(|(a, b)| (a - b).abs() < 1e-12);
        assert_eq!(same, causal, "{name}");
    }
}
