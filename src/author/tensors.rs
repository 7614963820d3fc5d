//! The tensors of an architecture for those who write programs that load packages: as templates, or,
//! given a foreign config, as the names and shapes themselves.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use crate::base::diagnostic::Diagnostic;
use crate::base::limits::Backing;
use crate::base::near::did_you_mean;
use crate::checkpoint::Checkpoint;
use crate::plan::{import, keys};
use crate::spec::Spec;
use crate::spec::arch::{Arch, Expected};
use crate::spec::map::Map;
use crate::spec::roles::Role;

/// What `llmstd spec tensors` prints.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TensorList {
    /// `llmstd.spec-tensors/1`.
    pub schema: &'static str,
    /// The architecture.
    pub architecture: String,
    /// The mapping that read the config, `hf/NAME`, where one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<String>,
    /// The hyperparameters that the config comes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hyperparameters: Option<crate::package::Hparams>,
    /// The tensors.
    pub tensors: Vec<ListedTensor>,
}

/// One tensor, or all that one template stands for.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ListedTensor {
    /// Its name, with variables in braces where no config was given.
    pub name: String,
    /// Its dimensions: numbers, or expressions of hyperparameters; `?` is any size.
    pub shape: Vec<String>,
    /// What the variable of the name goes through: `i = num_layers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub each: Option<String>,
    /// When it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// The head it is of: it is there where the package has that head. `*` is any head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// Whether it may be missing all the same.
    pub optional: bool,
    /// What it is.
    pub about: String,
}

fn arch<'a>(spec: &'a Spec, id: &str) -> Result<&'a Arch, Diagnostic> {
    spec.arch(id).ok_or_else(|| {
        let meant = did_you_mean(id, spec.archs.keys().map(String::as_str));
        Diagnostic::error("P001", format!("there is no architecture {id:?}{meant}"))
            .help("`llmstd spec list` shows the architectures")
    })
}

impl TensorList {
    /// Every tensor that the packages of an architecture can have.
    ///
    /// # Errors
    /// There is no such architecture.
    pub fn of_arch(spec: &Spec, id: &str) -> Result<TensorList, Diagnostic> {
        let arch = arch(spec, id)?;
        let mut tensors: Vec<ListedTensor> = Vec::new();
        for group in &arch.tensors {
            for template in &group.names {
                let role = spec.roles.iter().find(|role| is_of(role, &template.text));
                let dim = |dim: &Option<crate::spec::expr::Expr>| {
                    dim.as_ref().map_or_else(|| "?".to_owned(), |expr| expr.text.clone())
                };
                tensors.push(ListedTensor {
                    name: template.text.clone(),
                    shape: role.iter().flat_map(|role| role.shape.iter().map(dim)).collect(),
                    each: group
                        .each
                        .as_ref()
                        .map(|(name, count)| format!("{name} = {}", count.text)),
                    when: group.when.as_ref().map(|when| when.text.clone()),
                    head: group.head.clone(),
                    optional: group.optional,
                    about: role.map(|role| role.about.clone()).unwrap_or_default(),
                });
            }
        }
        let plain = |name: &str| name.replace("{i}", "0").replace("{name}", "free");
        tensors.sort_by(|left, right| spec.compare_names(&plain(&left.name), &plain(&right.name)));
        Ok(TensorList {
            schema: "llmstd.spec-tensors/1",
            architecture: arch.id.clone(),
            map: None,
            hyperparameters: None,
            tensors,
        })
    }

    /// The tensors of a model with this foreign config, with every head that the architecture names.
    ///
    /// # Errors
    /// There is no such architecture, no mapping to it fits the config, or the config does not say all that
    /// decides about tensors.
    pub fn of_config(
        spec: &Spec,
        id: &str,
        format: &str,
        config: &Json,
    ) -> Result<TensorList, Vec<Diagnostic>> {
        let arch = arch(spec, id).map_err(|finding| vec![finding])?;
        let mut findings = Vec::new();
        let empty = Checkpoint::default();
        let map: &Map = import::choose(spec, format, &empty, config, Some(id), &mut findings)
            .map_err(|finding| vec![finding])?;
        let read = keys::read(spec, map, arch, config)?;
        let heads = arch.tensors.iter().filter_map(|group| group.head.as_deref());
        let present: BTreeSet<String> =
            heads.filter(|head| *head != "*").map(|head| format!("heads.{head}.x")).collect();
        let present: BTreeSet<&str> = present.iter().map(String::as_str).collect();
        let expected = spec.expected(arch, &read.hparams, &present, Backing::config_alone());
        let mut expected = expected.map_err(|why| vec![Diagnostic::error("P003", why)])?;
        expected.sort_by(|left, right| spec.compare_names(&left.name, &right.name));
        expected.dedup_by(|left, right| left.name == right.name);
        let listed = |tensor: Expected| {
            let role = spec.role(&tensor.name);
            let head = role.as_ref().and_then(|role| role.head.clone());
            let named = tensor.name.strip_prefix("heads.").and_then(|rest| rest.split('.').next());
            ListedTensor {
                shape: tensor
                    .shape
                    .iter()
                    .map(|dim| dim.map_or_else(|| "?".to_owned(), |dim| dim.to_string()))
                    .collect(),
                each: None,
                when: None,
                head: head.or_else(|| named.map(str::to_owned)),
                optional: !tensor.required,
                about: role.map(|role| role.role.about.clone()).unwrap_or_default(),
                name: tensor.name,
            }
        };
        Ok(TensorList {
            schema: "llmstd.spec-tensors/1",
            architecture: arch.id.clone(),
            map: Some(format!("{}/{}", map.format, map.name)),
            hyperparameters: Some(read.hparams),
            tensors: expected.into_iter().map(listed).collect(),
        })
    }

    /// For people: a line for each tensor.
    pub fn to_text(&self) -> String {
        let mut text = self.architecture.clone();
        if let Some(map) = &self.map {
            let _ = write!(text, ", by {map}");
        }
        let _ = writeln!(text, ": {} tensors\n", self.tensors.len());
        for tensor in &self.tensors {
            let _ = write!(text, "{} [{}]", tensor.name, tensor.shape.join(", "));
            for (word, part) in [("for", &tensor.each), ("where", &tensor.when)] {
                if let Some(part) = part {
                    let _ = write!(text, " {word} {part}");
                }
            }
            if let Some(head) = &tensor.head {
                let _ = write!(text, " with the head {head}");
            }
            if tensor.optional {
                text.push_str(" (may be missing)");
            }
            let _ = writeln!(text, "\n    {}", tensor.about);
        }
        text
    }
}

/// Whether a template is one of a role's names.
fn is_of(role: &Role, template: &str) -> bool {
    let parts = (role.template.text.split('.'), template.split('.'));
    parts.0.clone().count() == parts.1.clone().count()
        && parts
            .0
            .zip(parts.1)
            .all(|(role, own)| role == own || role == "{stack}" || role == "{name}")
}
