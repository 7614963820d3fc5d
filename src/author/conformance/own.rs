//! This program's own answers to the requests of the line protocol.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};

use super::files::{Tensor, bad, write, write_tensors};
use super::{Subject, facts, refusal};
use crate::base::canonical_json;
use crate::base::diagnostic::Level;
use crate::base::error::Result;
use crate::base::hex;
use crate::base::json::parse;
use crate::checkpoint::DType;
use crate::folder;
use crate::forward::{Inputs, Planned, Weights};
use crate::manifest::{content_leaf, leaf};
use crate::package::{Conformance, MODEL_FILE, Value};
use crate::plan::ops::{self, Direction};
use crate::plan::{Exactness, Options, Step, Tensors};
use crate::rule::Selection;
use crate::run;
use crate::spec::Spec;
use crate::spec::expr::Expr;
use crate::spec::map::Op;
use crate::spec::roles::grammar_problem;
use crate::validate;

/// The tensor of a package of one encoding.
pub(super) const ENCODED: &str = "extra.w";

/// This program.
pub struct Own<'a> {
    spec: &'a Spec,
}

impl<'a> Own<'a> {
    /// This program with a standard.
    pub fn new(spec: &'a Spec) -> Own<'a> {
        Own { spec }
    }
}

type Answer = std::result::Result<Json, String>;

impl Subject for Own<'_> {
    fn ask(&mut self, request: &Json) -> Answer {
        let path = |key: &str| Path::new(request[key].as_str().unwrap_or_default());
        let text = |key: &str| request[key].as_str().unwrap_or_default();
        match text("do") {
            "name" => Ok(json!({"legal": grammar_problem(text("name")).is_none()})),
            "order" => Ok(json!({"ordered": self.order(request)})),
            "canonical" => {
                let value = parse(text("json").as_bytes(), 0).map_err(|err| err.to_string())?;
                Ok(json!({"text": canonical_json::text(&value)}))
            }
            "leaves" => leaves(request),
            "expression" => Ok(json!({"value": expression(request)})),
            "ops" => op_chain(request),
            "open" => self.open(path("package")),
            "validate" => self.validate(path("package"), request["level"].as_str()),
            "values" => values(path("package"), text("tensor")),
            "run" => self.run(path("package"), &request["inputs"]),
            "convert" => {
                let generic = request["generic"] == json!(true);
                let shard_bytes = request["shard_bytes"].as_u64();
                convert(self.spec, path("source"), path("package"), generic, shard_bytes)?;
                Ok(json!({"converted": true}))
            }
            other => Ok(json!({"unsupported": other})),
        }
    }
}

impl Own<'_> {
    fn order(&self, request: &Json) -> Vec<String> {
        let names = |key: &str| -> Vec<String> {
            let list = request[key].as_array().into_iter().flatten();
            list.filter_map(Json::as_str).map(str::to_owned).collect()
        };
        let encoded = names("encoded");
        let whole = |name: &String| {
            let of = |whole: &&String| {
                name.strip_prefix(whole.as_str()).is_some_and(|rest| rest.starts_with('.'))
            };
            encoded.iter().find(of).map_or((name.clone(), 0), |whole| (whole.clone(), 1))
        };
        let mut all = names("names");
        all.sort_by(|left, right| {
            let ((l, l_part), (r, r_part)) = (whole(left), whole(right));
            let order = self.spec.compare_names(&l, &r);
            order.then(l_part.cmp(&r_part)).then_with(|| left.cmp(right))
        });
        all
    }

    fn report(
        &self,
        package: &Path,
        level: Option<Conformance>,
    ) -> std::result::Result<validate::Report, String> {
        let selection = Selection::default();
        let options = validate::Options { level, deep: true, ..validate::Options::new(&selection) };
        validate::validate(package, self.spec, &options).map_err(|err| err.to_string())
    }

    fn open(&self, package: &Path) -> Answer {
        let report = self.report(package, Some(Conformance::Container))?;
        let errors = report.findings.iter().filter(|finding| finding.level == Level::Error);
        let refused: Vec<&str> = errors.map(|finding| finding.rule).collect();
        if !refused.is_empty() {
            return Ok(json!({"refused": refused}));
        }
        // Every hash and digest was computed from the bytes, and is the one that is written.
        let facts = facts(package).map_err(|err| err.to_string())?;
        let rows = facts["tensors"].as_array().into_iter().flatten();
        let names: Vec<&Json> = rows.map(|row| &row[0]).collect();
        Ok(json!({"digests": facts["digests"], "tensors": names}))
    }

    fn validate(&self, package: &Path, level: Option<&str>) -> Answer {
        let levels = [Conformance::Container, Conformance::Schema, Conformance::Full];
        let level = levels.into_iter().find(|known| Some(known.name()) == level);
        let report = self.report(package, level)?;
        let of = |level: Level| {
            let mut rules: Vec<&str> =
                report.findings.iter().filter(|f| f.level == level).map(|f| f.rule).collect();
            rules.sort_unstable();
            rules.dedup();
            rules
        };
        Ok(json!({"errors": of(Level::Error), "warnings": of(Level::Warning),
            "notes": of(Level::Note), "reached": report.reached.map(Conformance::name)}))
    }

    fn run(&self, package: &Path, inputs: &Json) -> Answer {
        let mut loaded = run::load(package, self.spec, None).map_err(refusal)?;
        if loaded.model().tasks.is_empty() {
            return Ok(json!({"unsupported": "a package without tasks"}));
        }
        let ids = |key: &str| -> Option<Vec<Vec<i64>>> {
            serde_json::from_value(inputs[key].clone()).ok()
        };
        let inputs = Inputs {
            input_ids: ids("input_ids").unwrap_or_default(),
            decoder_input_ids: ids("decoder_input_ids"),
            input_features: serde_json::from_value(inputs["input_features"].clone())
                .unwrap_or_default(),
            ..Inputs::default()
        };
        let report = run::run(package, &mut loaded, &inputs, run::Options::default())
            .map_err(|err| err.to_string())?;
        let mut outputs = Map::new();
        for task in report.tasks {
            for output in task.outputs {
                let key = format!("{}/{}", task.task, output.name);
                outputs.insert(key, json!({"shape": output.shape, "data": output.data}));
            }
        }
        Ok(json!({"outputs": outputs}))
    }
}

/// Inputs for a model, as it says what it is.
pub(super) fn inputs(facts: &Json) -> Json {
    let hparams = &facts["model"]["hyperparameters"];
    let mel_bins = hparams["audio.mel_bins"].as_u64().unwrap_or(0);
    let ids = json!([[3, 1, 4, 5, 2, 6], [5, 3, 5, 8, 7, 9]]);
    let tasks = facts["model"]["tasks"].as_array().into_iter().flatten();
    let decodes = tasks
        .flat_map(|task| task["inputs"].as_array().into_iter().flatten())
        .any(|port| port["name"] == "decoder_input_ids");
    let mut inputs = json!({});
    if 0 < mel_bins {
        let positions =
            hparams["encoder.max_positions"].as_u64().or(hparams["max_positions"].as_u64());
        let frames = 2 * positions.unwrap_or(8);
        let row =
            |bin: u64| (0..frames).map(|frame| ((bin * 7 + frame * 3) % 11) as f32 / 8.0).collect();
        let one: Vec<Vec<f32>> = (0..mel_bins).map(row).collect();
        inputs["input_features"] = json!([one]);
        inputs["decoder_input_ids"] = json!([ids[0]]);
        return inputs;
    }
    if decodes {
        inputs["decoder_input_ids"] = json!([[2, 7, 1, 8], [1, 6, 2, 4]]);
    }
    inputs["input_ids"] = ids;
    inputs
}

pub(super) fn convert(
    spec: &Spec,
    source: &Path,
    package: &Path,
    generic: bool,
    shard_bytes: Option<u64>,
) -> std::result::Result<(), String> {
    super::convert_to(spec, source, package, generic, shard_bytes)
}

fn leaves(request: &Json) -> Answer {
    let sha256 = hex::decode32(request["sha256"].as_str().unwrap_or_default()).ok_or("no hash")?;
    let shape: Vec<u64> =
        serde_json::from_value(request["shape"].clone()).map_err(|err| err.to_string())?;
    let (name, dtype) = (
        request["name"].as_str().unwrap_or_default(),
        request["dtype"].as_str().unwrap_or_default(),
    );
    Ok(json!({
        "leaf": hex::encode(&leaf(name, dtype, &shape, &sha256)),
        "content": hex::encode(&content_leaf(dtype, &shape, &sha256)),
    }))
}

/// The value of an expression as vectors spell it: with its kind, and floats as text.
fn expression(request: &Json) -> Json {
    fn tagged(value: &Value) -> Json {
        match value {
            Value::Null => json!({"null": null}),
            Value::Bool(value) => json!({"bool": value}),
            Value::Int(value) => json!({"int": value}),
            Value::Float(value) => json!({"float": python_float(*value)}),
            Value::Symbol(value) => json!({"word": value}),
            Value::List(items) => json!({"list": items.iter().map(tagged).collect::<Vec<_>>()}),
        }
    }
    let names = |name: &str| {
        let value = request["names"].get(name).ok_or("there is no such name")?;
        serde_json::from_value(value.clone()).map_err(|err| err.to_string())
    };
    let text = request["text"].as_str().unwrap_or_default();
    let value = Expr::parse(text).and_then(|expr| expr.eval(&names));
    value.map_or_else(|_| "error".into(), |value| tagged(&value))
}

/// A float as the vectors have it: the shortest digits, an exponent of two digits below 1e-4 and from 1e16.
fn python_float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "nan"
        } else if 0.0 < x {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    if x == 0.0 || (1e-4..1e16).contains(&x.abs()) {
        return format!("{x:?}");
    }
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// A chain of ops on tensors of a file.
fn op_chain(request: &Json) -> Answer {
    let of = |err: serde_json::Error| err.to_string();
    let ops: Vec<Op> = serde_json::from_value(request["ops"].clone()).map_err(of)?;
    #[derive(Deserialize)]
    struct Numbers {
        shape: Vec<u64>,
        data: Vec<f32>,
    }
    let given: Vec<Numbers> = serde_json::from_value(request["tensors"].clone()).map_err(of)?;
    let tensors: Vec<Tensor> = given
        .iter()
        .enumerate()
        .map(|(index, tensor)| Tensor {
            name: format!("t{index}"),
            dtype: "F32".to_owned(),
            shape: tensor.shape.clone(),
            bytes: tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        })
        .collect();
    let folder = request["folder"].as_str().unwrap_or_default();
    let file = Path::new(folder).join("ops.safetensors");
    let text = |err: crate::base::error::Error| err.to_string();
    write_tensors(&file, &tensors, &json!({})).map_err(text)?;
    let opened = folder::open(&file).map_err(text)?;
    let mut planned = Tensors::default();
    let mut exprs = Vec::new();
    for tensor in &tensors {
        let found = opened.checkpoint.tensors.iter().find(|found| found.name == tensor.name);
        exprs.push(planned.read(found.ok_or("a tensor is not there")?)?.0);
    }
    let names = |name: &str| {
        let value = request["names"].get(name).ok_or("there is no such name")?;
        serde_json::from_value(value.clone()).map_err(|err| err.to_string())
    };
    let direction = match request["direction"].as_str() {
        Some("export") => Direction::Export,
        _ => Direction::Import,
    };
    let made = ops::run(&ops, direction, &names, exprs)?;
    let n_made = made.len();
    for (index, expr) in made.into_iter().enumerate() {
        let name = index.to_string();
        let step =
            Step { from: Box::default(), ops: ops::describe(&ops).into(), class: Exactness::Exact };
        planned
            .write(&name, expr, DType::F32, Options::default(), step)
            .map_err(|finding| finding.message)?;
    }
    let weights = Planned::of_plan(&opened.source, &planned);
    let mut answers = Vec::new();
    for index in 0..n_made {
        let stored = weights.tensor(&index.to_string()).map_err(text)?.ok_or("nothing is made")?;
        let (numbers, _) = stored.bytes.as_chunks::<4>();
        let data: Vec<f32> = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        answers.push(json!({"shape": stored.shape, "data": data}));
    }
    Ok(json!({"tensors": answers}))
}

/// The numbers of a tensor of a package, decoded.
fn values(package: &Path, name: &str) -> Answer {
    let text = |err: crate::base::error::Error| err.to_string();
    let opened = folder::open(package).map_err(text)?;
    let found = opened.checkpoint.tensors.iter().find(|tensor| tensor.name == name);
    let found = found.ok_or("there is no such tensor")?;
    let (input, output) = crate::plan::whole::numbers(found, 0).map_err(text)?;
    let planned = Tensors { inputs: vec![input], outputs: vec![output], ..Tensors::default() };
    let weights = Planned::of_plan(&opened.source, &planned);
    let stored = weights.tensor(name).map_err(text)?.ok_or("there are no values")?;
    Ok(json!({"shape": stored.shape, "sha256": hex::encode(&Sha256::digest(&stored.bytes))}))
}

/// Writes the package of level container that holds one quantized tensor.
pub(super) fn write_encoded(spec: &Spec, row: &Json, package: &Path) -> Result<()> {
    #[derive(Deserialize)]
    struct Part {
        dtype: String,
        shape: Vec<u64>,
        data: String,
    }
    let parts: std::collections::BTreeMap<String, Part> =
        serde_json::from_value(row["parts"].clone()).map_err(|err| bad(err.to_string()))?;
    let mut tensors = Vec::new();
    for (role, Part { dtype, shape, data }) in parts {
        let bytes = STANDARD.decode(data).map_err(|err| bad(err.to_string()))?;
        let name = if role == "payload" { ENCODED.to_owned() } else { format!("{ENCODED}.{role}") };
        tensors.push(Tensor { name, dtype, shape, bytes });
    }
    tensors.sort_by(|left, right| left.name.cmp(&right.name));
    write_tensors(&package.join("model.safetensors"), &tensors, &json!({"llmstd": spec.first}))?;
    let mut encoding = json!({"encoding": row["encoding"], "shape": row["shape"]});
    if row["parameters"].as_object().is_some_and(|parameters| !parameters.is_empty()) {
        encoding["parameters"] = row["parameters"].clone();
    }
    let model = json!({
        "spec": spec.first, "requires": [], "conformance": "container", "hyperparameters": {}, "tokens": {},
        "ties": [], "encodings": {ENCODED: encoding}, "tasks": [], "history": [],
    });
    write(&package.join(MODEL_FILE), model.to_string().as_bytes())?;
    super::edit::seal(package)
}
