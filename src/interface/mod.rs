//! The one interface of a model: what goes in, what comes out, and what a request may say beside;
//! and the same in the terms of those who serve models.
//!
//! [`Interface`] is the whole of it, made of the tasks of a package or of any checkpoint that opens.
//! A [`Lowering`] writes it in one foreign form, and says what that form has no word for.

mod dtype;
mod mlflow;
mod oip;
mod openapi;
mod pbtxt;
mod tf_serving;
mod triton;

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use crate::base::error::{Error, ErrorKind};
use crate::convert::{self, Failure};
use crate::folder;
use crate::package::{Extents, Hparams, Model, Port, Task};
use crate::spec::Spec;
use crate::spec::expr::{Names, as_int};
use crate::spec::names::StackNames;
use crate::spec::tasks::{DefaultFrom, ParameterType, PortType};

/// What a model can be asked, and how.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Interface {
    /// `llmstd.interface/1`.
    pub schema: &'static str,
    /// The name it is served under.
    pub name: String,
    /// The version of the standard.
    pub spec: String,
    /// The architecture, where the standard knows it.
    pub architecture: Option<String>,
    /// The tasks; the first is the one that is meant where none is named.
    pub tasks: Vec<TaskInterface>,
}

/// One thing a model can be asked.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TaskInterface {
    /// The task's id, `token-classification`.
    pub id: String,
    /// The name it is served under where each task is a model of its own.
    pub name: String,
    /// What it is, for people.
    pub about: String,
    /// What goes in.
    pub inputs: Vec<PortInterface>,
    /// What comes out.
    pub outputs: Vec<PortInterface>,
    /// What a request may say beside its tensors.
    pub parameters: Vec<Parameter>,
    /// The labels, in the order of the last dimension of the output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// What the labels mean: `single`, `multi`, `regression`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Which positions make one vector of a sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Whether a vector is scaled to length 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalize: Option<bool>,
}

/// An input or an output.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PortInterface {
    /// The name clients use.
    pub name: String,
    /// The dtype, `I64`.
    pub dtype: String,
    /// The dimensions, outermost first.
    pub dims: Vec<Dim>,
    /// Whether it may be left out.
    pub optional: bool,
}

/// One dimension.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Dim {
    /// What it counts: `batch`, `sequence`, `vocab_size`, `labels`. Equal words are equal sizes.
    pub name: String,
    /// Its size, where the model fixes it; the client chooses the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The largest size, where the client chooses and the model bounds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// The hyperparameter that says its size, or the largest one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hyperparameter: Option<String>,
}

/// What a request may say beside its tensors.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Parameter {
    /// The name.
    pub name: String,
    /// `I64`, `F32`, `BOOL`, or `TEXT`.
    pub dtype: String,
    /// Whether it is several values.
    pub list: bool,
    /// What holds where a request says nothing; absent where that is for the server to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Json>,
    /// The words it may be; any, where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
    /// What it does, for people.
    pub about: String,
}

/// A foreign form of an interface.
pub struct Lowering {
    /// The word of `--format`.
    pub id: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Whether a document has one task; if not it has all of them.
    pub one_task: bool,
    /// The files, the main one first.
    ///
    /// # Errors
    /// The form has no word for something that cannot be left out.
    pub files: fn(&Interface, &TaskInterface) -> Result<Vec<File>, Error>,
    /// What the form has no word for.
    pub lost: fn(&TaskInterface) -> Vec<String>,
}

/// A file of a lowering.
pub struct File {
    /// Where it lies below the folder that a server reads, with `/`.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// Every foreign form.
pub static LOWERINGS: &[&Lowering] = &[
    &oip::LOWERING,
    &triton::LOWERING,
    &tf_serving::LOWERING,
    &mlflow::LOWERING,
    &openapi::LOWERING,
];

/// The interface of a package, or of any checkpoint that can be put in the standard's terms. It is
/// called `name`, or else as its folder or file.
///
/// # Errors
/// It cannot be read or brought to the standard, or it serves no task.
pub fn interface(
    path: &Path,
    spec: &Spec,
    arch: Option<&str>,
    name: Option<&str>,
) -> Result<Interface, Failure> {
    let mut opened = folder::open_as(path, &spec.how())?;
    let (model, _) = convert::model_of(&mut opened, spec, arch)?;
    let generation = opened.json("generation_config.json")?;
    let whole = path.canonicalize();
    let whole = whole.as_deref().unwrap_or(path);
    let stem = if whole.is_dir() { whole.file_name() } else { whole.file_stem() };
    let stem = stem.map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().into_owned());
    if model.tasks.is_empty() {
        let message = "it serves no task, so that it has no interface: no head of a task is there, \
                       or its architecture is not known";
        return Err(Error::new(ErrorKind::Unsupported, message).in_file(path).into());
    }
    let found = of(&model, spec, generation.as_ref(), name.unwrap_or(&stem));
    for task in &found.tasks {
        // Servers have a folder of that name.
        if !is_name(&task.name) {
            let message = format!(
                "the task {:?} would be served as {:?}, which is no name of a folder: a name has no / and \
                 no \\ and is not . or ..; --name gives another one",
                task.id, task.name
            );
            return Err(Error::new(ErrorKind::Malformed, message).in_file(path).into());
        }
    }
    Ok(found)
}

/// Whether a text can be the name of a folder.
pub fn is_name(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && !text.contains(['/', '\\', '\0'])
}

/// The interface of a model. `generation` is its `generation_config.json`.
pub fn of(model: &Model, spec: &Spec, generation: Option<&Json>, name: &str) -> Interface {
    let is_alone = model.tasks.len() == 1;
    let tasks = model.tasks.iter().map(|task| {
        let name = if is_alone { name.to_owned() } else { format!("{name}-{}", task.id) };
        task_interface(model, spec, generation, task, name)
    });
    Interface {
        schema: "llmstd.interface/1",
        name: name.to_owned(),
        spec: model.spec.clone(),
        architecture: model.architecture.clone(),
        tasks: tasks.collect(),
    }
}

fn task_interface(
    model: &Model,
    spec: &Spec,
    generation: Option<&Json>,
    task: &Task,
    name: String,
) -> TaskInterface {
    let known = spec.task(&task.id);
    let ports = |ports: &[Port], types: Option<&[PortType]>| -> Vec<PortInterface> {
        let port = |port: &Port| {
            let of_name = || types.into_iter().flatten().filter(|known| known.name == port.name);
            // Of several of one name, under conditions that exclude each other, the one that is meant.
            let known = of_name().find(|known| fits(model, port, known));
            let known = known.or_else(|| of_name().next());
            port_interface(model, spec, task, port, known)
        };
        ports.iter().map(port).collect()
    };
    let parameters = spec.parameters.iter().filter(|known| known.tasks.contains(&task.id));
    TaskInterface {
        id: task.id.clone(),
        name,
        about: known.map(|known| known.about.clone()).unwrap_or_default(),
        inputs: ports(&task.inputs, known.map(|known| known.inputs.as_slice())),
        outputs: ports(&task.outputs, known.map(|known| known.outputs.as_slice())),
        parameters: parameters.map(|known| parameter(known, task, generation)).collect(),
        labels: task.labels.clone(),
        problem: task.problem.clone(),
        pool: task.pool.clone(),
        normalize: task.normalize,
    }
}

/// Whether the numbers of a port are those of the hyperparameters that a type of port names.
fn fits(model: &Model, port: &Port, known: &PortType) -> bool {
    let mut dims = port.shape.iter().zip(&known.shape);
    dims.all(|(extent, word)| match extent {
        Extents::Fixed(size) => {
            number(&model.hyperparameters, None, word).is_none_or(|number| number == *size)
        }
        Extents::Symbolic(name) => name == word,
    })
}

fn port_interface(
    model: &Model,
    spec: &Spec,
    task: &Task,
    port: &Port,
    known: Option<&PortType>,
) -> PortInterface {
    let words = known.map(|known| known.shape.as_slice());
    let words = words.filter(|words| words.len() == port.shape.len());
    let dims = port.shape.iter().enumerate().map(|(axis, extent)| {
        dim(model, spec, task, extent, words.and_then(|words| words.get(axis)))
    });
    PortInterface {
        name: port.name.clone(),
        dtype: port.dtype.clone(),
        dims: dims.collect(),
        optional: port.optional,
    }
}

/// A dimension under the word that the standard has for it.
fn dim(model: &Model, spec: &Spec, task: &Task, extent: &Extents, word: Option<&String>) -> Dim {
    let hparams = &model.hyperparameters;
    match extent {
        Extents::Fixed(size) => {
            let is_key = |word: &&String| number(hparams, None, word) == Some(*size);
            let hyperparameter = word.filter(is_key).cloned();
            let name = match (word.map(String::as_str), &task.labels) {
                (Some("rows"), Some(_)) => "labels".to_owned(),
                (Some("rows") | None, _) => "features".to_owned(),
                (Some(word), _) => word.to_owned(),
            };
            Dim { name, size: Some(*size), max: None, hyperparameter }
        }
        Extents::Symbolic(name) => {
            let known = spec.dimensions.iter().find(|known| known.name == *name);
            let bound = known.and_then(|known| {
                let key = known.max.as_deref()?;
                let stack = known.stack.as_deref();
                let own = stack.map(|stack| format!("{stack}.{key}"));
                let own = own.filter(|own| hparams.contains_key(own));
                let max = number(hparams, stack, key)?;
                Some((max, own.unwrap_or_else(|| key.to_owned())))
            });
            let (max, hyperparameter) = bound.unzip();
            Dim { name: name.clone(), size: None, max, hyperparameter }
        }
    }
}

/// The value of a hyperparameter that is a count.
fn number(hparams: &Hparams, stack: Option<&str>, key: &str) -> Option<u64> {
    let names = StackNames { hparams, tokens: None, stack, layer: None };
    names.value(key).ok().as_ref().and_then(as_int).and_then(|int| u64::try_from(int).ok())
}

fn parameter(known: &ParameterType, task: &Task, generation: Option<&Json>) -> Parameter {
    let stated = match known.from {
        Some(DefaultFrom::Generation) => generation
            .and_then(|generation| generation.get(&known.name))
            .filter(|value| is_of(value, &known.dtype, known.list))
            .cloned(),
        Some(DefaultFrom::Problem) => Some(Json::from(match task.problem.as_deref() {
            Some("multi") => "sigmoid",
            Some("regression") => "none",
            _ => "softmax",
        })),
        None => None,
    };
    let usual = || known.default.as_ref().and_then(|value| serde_json::to_value(value).ok());
    Parameter {
        name: known.name.clone(),
        dtype: known.dtype.clone(),
        list: known.list,
        default: stated.or_else(usual),
        words: known.words.clone(),
        about: known.about.clone(),
    }
}

/// Whether a value is of the dtype of a parameter; a file may say anything.
fn is_of(value: &Json, dtype: &str, list: bool) -> bool {
    match (value, list) {
        (Json::Array(items), true) => items.iter().all(|item| is_of(item, dtype, false)),
        (_, true) => false,
        (value, false) => match dtype {
            "I64" => value.is_i64(),
            "F32" => value.is_number(),
            "BOOL" => value.is_boolean(),
            _ => value.is_string(),
        },
    }
}

impl TaskInterface {
    /// Its inputs and outputs.
    fn ports(&self) -> impl Iterator<Item = &PortInterface> {
        self.inputs.iter().chain(&self.outputs)
    }

    /// The words for the sizes that the client chooses, with their bounds: `batch, sequence (at most 20)`.
    fn chosen_dims(&self) -> String {
        let mut told: Vec<String> = Vec::new();
        for dim in self.ports().flat_map(|port| &port.dims).filter(|dim| dim.size.is_none()) {
            let text = match dim.max {
                Some(max) => format!("{} (at most {max})", dim.name),
                None => dim.name.clone(),
            };
            if !told.contains(&text) {
                told.push(text);
            }
        }
        told.join(", ")
    }

    /// What clients must know that most forms keep as text only, by name: the task, labels and their
    /// meaning, pooling.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let labels = self.labels.as_ref().map(|labels| Json::from(labels.as_slice()).to_string());
        let normalize = self.normalize.map(|normalize| normalize.to_string());
        let facts = [
            ("task", Some(self.id.clone())),
            ("labels", labels),
            ("problem", self.problem.clone()),
            ("pool", self.pool.clone()),
            ("normalize", normalize),
        ];
        facts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// That sizes of one name are equal, and what bounds them, which `-1` does not say.
    fn lost_dims(&self) -> String {
        format!(
            "which sizes are equal, and their bounds: {}; each of them is -1",
            self.chosen_dims()
        )
    }

    /// The names of its parameters, in words of a sentence.
    fn lost_parameters(&self) -> Option<String> {
        let names: Vec<&str> = self.parameters.iter().map(|known| known.name.as_str()).collect();
        (!names.is_empty()).then(|| format!("the parameters of a request: {}", names.join(", ")))
    }

    /// The names of its optional inputs.
    fn optional(&self) -> Vec<&str> {
        let optional = self.inputs.iter().filter(|port| port.optional);
        optional.map(|port| port.name.as_str()).collect()
    }
}

impl PortInterface {
    /// The sizes, where -1 is for the client to choose.
    fn sizes(&self) -> Vec<i64> {
        let size = |dim: &Dim| dim.size.and_then(|size| i64::try_from(size).ok()).unwrap_or(-1);
        self.dims.iter().map(size).collect()
    }

    /// Whether its last dimension is that of the labels.
    fn has_labels(&self) -> bool {
        self.dims.last().is_some_and(|dim| dim.name == "labels")
    }
}
