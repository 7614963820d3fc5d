//! Tasks: what a model can be asked, `tasks.toml`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Spec;
use super::expr::{Expr, Names};
use super::names::StackNames;
use crate::package::{Extents, Hparams, Port};

/// One task.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskType {
    /// Its id.
    pub id: String,
    /// What goes in.
    pub inputs: Vec<PortType>,
    /// What comes out.
    pub outputs: Vec<PortType>,
    /// Parts of the task's head that must be stored or tied, `proj`.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Whether it has labels.
    #[serde(default)]
    pub labels: bool,
    /// Whether it needs a pooling.
    #[serde(default)]
    pub pool: bool,
    /// It says a task of a version below again, which it takes the place of.
    #[serde(default)]
    pub(super) replaces: bool,
    /// What it is, for people.
    pub about: String,
}

/// One input or output of a task.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortType {
    /// The name.
    pub name: String,
    /// The dtype.
    pub dtype: String,
    /// The dimensions: hyperparameters become numbers, `rows` the rows of the head, other words
    /// stay.
    pub shape: Vec<String>,
    /// Whether it may be left out.
    #[serde(default)]
    pub optional: bool,
    /// When the task has this port; always if there is no condition.
    pub when: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TasksFile {
    /// The tasks.
    pub(super) task: Vec<TaskType>,
    /// Sizes that the client chooses.
    #[serde(default)]
    pub(super) dimension: Vec<DimensionType>,
    /// What a request may say beside its tensors.
    #[serde(default)]
    pub(super) parameter: Vec<ParameterType>,
}

/// A size that the client chooses.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DimensionType {
    /// The word that stands in shapes.
    pub name: String,
    /// What it counts, for people.
    pub about: String,
    /// The hyperparameter that bounds it.
    #[serde(default)]
    pub max: Option<String>,
    /// The stack whose hyperparameter it is, where each has its own.
    #[serde(default)]
    pub stack: Option<String>,
}

/// What a request may say beside its tensors.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParameterType {
    /// The name.
    pub name: String,
    /// The tasks that have it.
    pub tasks: Vec<String>,
    /// `I64`, `F32`, `BOOL`, or `TEXT`.
    pub dtype: String,
    /// Whether it is several values.
    #[serde(default)]
    pub list: bool,
    /// What holds where a request says nothing.
    #[serde(default)]
    #[schemars(with = "Option<serde_json::Value>")]
    pub default: Option<toml::Value>,
    /// What else says the default: a model's generation config, or the problem of its task.
    #[serde(default)]
    pub from: Option<DefaultFrom>,
    /// The words it may be.
    #[serde(default)]
    pub words: Vec<String>,
    /// What it does, for people.
    pub about: String,
}

/// What says the default of a parameter for one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DefaultFrom {
    /// The member of its name in `generation_config.json`.
    Generation,
    /// What the labels mean: one of them, several, a number.
    Problem,
}

/// The tasks, those that replace others in their places.
///
/// # Errors
/// A task stands twice, or replaces one that is not there.
pub(super) fn in_place(tasks: Vec<TaskType>) -> Result<Vec<TaskType>, String> {
    let mut all: Vec<TaskType> = Vec::new();
    for task in tasks {
        match (task.replaces, all.iter_mut().find(|known| known.id == task.id)) {
            (true, Some(known)) => *known = task,
            (false, None) => all.push(task),
            (true, None) => {
                return Err(format!("the task `{}` replaces one that is not there", task.id));
            }
            (false, Some(_)) => return Err(format!("the task `{}` stands twice", task.id)),
        }
    }
    Ok(all)
}

impl Spec {
    /// The task of this id.
    pub fn task(&self, id: &str) -> Option<&TaskType> {
        self.tasks.iter().find(|task| task.id == id)
    }

    /// The inputs and outputs of a task under the given hyperparameters, where `rows` is the
    /// number of rows of its head's projection; `None` if there is no such task.
    pub fn task_ports(
        &self,
        id: &str,
        hparams: &Hparams,
        rows: Option<u64>,
    ) -> Option<(Vec<Port>, Vec<Port>)> {
        let task = self.task(id)?;
        let hparams = &self.complete_hparams(hparams);
        let names = StackNames { hparams, tokens: None, stack: None, layer: None };
        let ports = |ports: &[PortType]| {
            let present = ports.iter().filter(|port| {
                let when = port.when.as_deref().map(Expr::parse);
                !matches!(when, Some(Ok(when)) if !when.eval_bool(&names).unwrap_or(false))
            });
            present.map(|port| resolve(port, &names, rows)).collect()
        };
        Some((ports(&task.inputs), ports(&task.outputs)))
    }
}

fn resolve(port: &PortType, names: &dyn Names, rows: Option<u64>) -> Port {
    let dim = |dim: &String| {
        let fixed = match (dim.as_str(), rows) {
            ("rows", Some(rows)) => Some(rows),
            ("rows", None) => None,
            (name, _) => Expr::parse(name).ok().and_then(|expr| expr.eval_size(names).ok()),
        };
        fixed.map_or_else(|| Extents::Symbolic(dim.clone()), Extents::Fixed)
    };
    Port {
        name: port.name.clone(),
        dtype: port.dtype.clone(),
        shape: port.shape.iter().map(dim).collect(),
        optional: port.optional,
    }
}
