//! The reference forward against transformers: for every fixture with an oracle, every output.

use std::collections::BTreeMap;

use llmstd::checkpoint::DType;
use llmstd::convert::{self, Request};
use llmstd::folder;
use llmstd::forward::{self, Inputs, Planned, Stored, Weights};
use llmstd::package::Value;
use llmstd::plan;
use llmstd::run::{self, Options, Report};
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use crate::oracle::{Fixture, compare, fixtures, inputs, open, outputs, root, spec};

#[test]
fn every_fixture_computes_what_its_oracle_says() {
    let spec = spec();
    let fixtures = fixtures();
    let mut failed = Vec::new();
    for fixture in &fixtures {
        if let Err(why) = compare::<f32>(&spec, fixture) {
            failed.push(format!("{}: {why}", fixture.name));
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

    fn tensor(&self, name: &str) -> llmstd::base::error::Result<Option<Stored<'_>>> {
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
        // Attention to given states is left out where none are given; another fixture gives them.
        let has = |of: fn(&str) -> bool| weights.names().any(of);
        let crosses =
            has(|name| name.contains(".cross_attn.")) && !has(|name| name.starts_with("encoder."));
        if crosses && inputs.encoder_hidden_states.is_none() {
            continue;
        }
        // One tensor of each kind: the last layer's.
        let is_number = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit());
        let kind = |name| str::split(name, '.').filter(|part| !is_number(part)).collect();
        let kinds: BTreeMap<Vec<&str>, &str> =
            weights.names().map(|name| (kind(name), name)).collect();
        let check = |name: &str, what: &str, change: &(dyn Fn(&mut Stored<'_>) + Sync), missing| {
            let changed = Changed { weights: &weights, name, change, missing };
            let result = forward::run::<f32>(model, &changed, &inputs, &tasks);
            let err = result.map(drop).expect_err(&format!("{} {name} {what}", fixture.name));
            let message = err.to_string();
            assert!(!message.is_empty() && message.lines().count() == 1, "{message}");
        };
        for &name in kinds.values() {
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
            check(name, "is cut", &cut, false);
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
        Value::Symbol("x".to_owned()),
        Value::List(Vec::new()),
        list(Value::Int(7)),
        list(Value::Symbol("ssm".to_owned())),
    ];
    let words: Vec<Value> =
        spec.keys.iter().flat_map(|key| &key.words).cloned().map(Value::Symbol).collect();
    // One model of each set of formulas: an architecture, its tasks and its words.
    let by_formulas = small().into_iter().map(|fixture| {
        let loaded = open(&spec, &fixture.checkpoint).unwrap();
        let model = loaded.model();
        let words = model.hyperparameters.iter();
        let words = words.filter(|(_, value)| matches!(value, Value::Symbol(_) | Value::Bool(_)));
        let tasks = model.tasks.iter().map(|task| &task.id).collect::<Vec<_>>();
        let formulas =
            format!("{:?} {tasks:?} {:?}", model.architecture, words.collect::<Vec<_>>());
        (formulas, (fixture, loaded))
    });
    let by_formulas: BTreeMap<_, _> = by_formulas.collect();
    by_formulas.par_iter().for_each(|(_, (fixture, loaded))| {
        let inputs = inputs(&fixture.oracle["inputs"]);
        let weights = loaded.weights().unwrap();
        for key in loaded.model().hyperparameters.keys() {
            let mut model = loaded.model().clone();
            model.hyperparameters.remove(key);
            let _ = forward::run::<f32>(&model, &weights, &inputs, &[]);
            let is_word = matches!(loaded.model().hyperparameters[key], Value::Symbol(_));
            for value in senseless.iter().chain(words.iter().filter(|_| is_word)) {
                let mut model = loaded.model().clone();
                model.hyperparameters.insert(key.clone(), value.clone());
                let tasks: Vec<_> = model.tasks.iter().collect();
                let _ = forward::run::<f32>(&model, &weights, &inputs, &tasks);
            }
        }
    });
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

fn report(name: &str, inputs: &Inputs, options: Options<'_>) -> Result<Report, String> {
    let path = root().join("fixtures/hf").join(name).join("src");
    let mut loaded = open(&spec(), &path).unwrap();
    run::run(&path, &mut loaded, inputs, options).map_err(|err| err.to_string())
}

fn ids(rows: &[&[i64]]) -> Inputs {
    Inputs { input_ids: rows.iter().map(|row| row.to_vec()).collect(), ..Inputs::default() }
}

#[test]
fn the_most_likely_tokens_are_those_of_the_last_position_that_is_shown() {
    let options = Options { task: Some("causal-lm"), top: 3 };
    let report = report("llama-seqcls", &ids(&[&[5]]), options).unwrap_err();
    assert!(report.contains("the model has no task \"causal-lm\""), "{report}");

    let short = self::report("gpt2-lmhead", &ids(&[&[5, 17, 42]]), options).unwrap();
    let mut padded = ids(&[&[5, 17, 42, 9]]);
    padded.attention_mask = Some(vec![vec![1, 1, 1, 0]]);
    let padded = self::report("gpt2-lmhead", &padded, options).unwrap();
    let (short, padded) = (&short.tasks[0], &padded.tasks[0]);
    assert_eq!(short.tokens[0].position, 2);
    assert_eq!(short.tokens[0].top.len(), 3);
    let order = |task: &run::TaskReport| -> Vec<usize> {
        task.tokens[0].top.iter().map(|token| token.id).collect()
    };
    assert_eq!(order(short), order(padded));
    let [_, len, vocab] = short.outputs[0].shape[..] else { panic!("logits") };
    let row = &short.outputs[0].data[(len - 1) * vocab..];
    let best = (0..vocab).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    assert_eq!((short.tokens[0].top[0].id, short.tokens[0].top[0].logit), (best, row[best]));
}

#[test]
fn labels_have_probabilities_best_first() {
    let report = report("bert-seqcls", &ids(&[&[5, 17], &[7, 90]]), Options::default()).unwrap();
    let [first, second] = &report.tasks[0].labels[..] else { panic!("two sequences") };
    for labels in [first, second] {
        assert!(labels.is_sorted_by(|a, b| a.score >= b.score), "{labels:?}");
        let sum: f32 = labels.iter().map(|label| label.score).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{labels:?}");
    }
}

#[test]
fn embeddings_are_of_length_one_where_they_are_scaled() {
    let report = report("st-mean-normalize", &ids(&[&[5, 17]]), Options::default()).unwrap();
    let embedding = report.tasks.iter().find(|task| task.task == "embedding").unwrap();
    let length: f32 = embedding.outputs[0].data.iter().map(|x| x * x).sum();
    assert!((length - 1.0).abs() < 1e-6);
}

/// What a cast costs is seen in the outputs; without one nothing differs.
#[test]
fn a_conversion_can_be_held_to_the_outputs() {
    let spec = spec();
    let scratch = tempfile::tempdir().unwrap();
    let convert = |to: &str, dtype: Option<DType>| {
        let destination = scratch.path().join(format!("{to}{dtype:?}"));
        let opened = folder::open(&root().join("fixtures/hf/llama-tied/src")).unwrap();
        let request = Request {
            plan: plan::Options { dtype, lossy: dtype.is_some(), ..plan::Options::default() },
            check_outputs: true,
            ..Request::new(&spec, &destination, to)
        };
        convert::convert(opened, &request).unwrap()
    };
    for to in ["std", "hf"] {
        let report = convert(to, None);
        let outputs = report.outputs.unwrap();
        assert_eq!(outputs.len(), 2, "states and logits");
        assert!(outputs.iter().all(|output| output.max_abs == 0.0 && 0.0 < output.scale));
        assert!(report.findings.is_empty(), "{:?}", report.findings);

        let report = convert(to, Some(DType::BF16));
        assert!(report.findings.iter().any(|finding| finding.rule == "P022"));
        assert!(report.outputs.unwrap().iter().all(|output| 0.0 < output.max_abs));
    }
}

/// What only some models read is given on the command line as the other inputs are.
#[test]
fn adapters_shapes_and_sounds_are_given_on_the_command_line() {
    let answer = |model: &str, more: &[&str]| -> Result<serde_json::Value, String> {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_llmstd"))
            .arg("run")
            .arg(root().join("fixtures/families").join(model))
            .args(["--input-ids", "5,17,42", "--format", "json"])
            .args(more)
            .output()
            .unwrap();
        match output.status.code() {
            Some(0) => Ok(serde_json::from_slice(&output.stdout).unwrap()),
            _ => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    };
    let states = |model: &str, more: &[&str]| answer(model, more).unwrap()["states"].clone();
    // The last of its languages is the one that holds where none is given.
    let default = states("xmod", &[]);
    assert_eq!(states("xmod", &["--adapter-ids", "2"]), default);
    assert_ne!(states("xmod", &["--adapter-ids", "0"]), default);
    let err = answer("xmod", &["--adapter-ids", "3"]).unwrap_err();
    assert!(err.contains("there are 3 adapters, none is 3"), "{err}");
    let err = answer("xmod", &["--adapter-ids", "1,1"]).unwrap_err();
    assert!(err.contains("2 adapters are given for 1 sequences"), "{err}");
    let err = answer("bert", &["--adapter-ids", "0"]).unwrap_err();
    assert!(err.contains("the model has no adapters"), "{err}");
    let default = states("roc_bert", &[]);
    for flag in ["--shape-ids", "--sound-ids"] {
        assert_eq!(states("roc_bert", &[flag, "0,0,0"]), default, "{flag}");
        assert_ne!(states("roc_bert", &[flag, "1,2,0"]), default, "{flag}");
    }
}
