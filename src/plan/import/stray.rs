//! Tensors that no rule reads, and heads that a class promises and a file lacks.
//!
//! A foreign library loads a checkpoint with both: it leaves out what it has no place for, and makes
//! up a head that is not there. Here the model is what is there. A stray is kept beside the package
//! if it stands beside a model that is whole without it; one that stands inside a layer is a part of
//! what the layer computes, and is refused.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::planner::Planner;
use crate::base::diagnostic::Diagnostic;
use crate::checkpoint::Tensor;
use crate::package::WayBack;
use crate::plan::tasks::{self, HeadRows};
use crate::spec::ecosystem::config::MODEL_TYPE;
use crate::spec::map::Map;

/// Why a stray is no canonical tensor.
/// Why a tensor stands beside the model.
pub const STRAY: &str = "no rule of the mapping reads it";

impl<'a> Planner<'a> {
    /// The error of a tensor that no rule reads.
    pub(super) fn unread(map: &Map, name: &str, config: &Json) -> Diagnostic {
        Diagnostic::error(
            "P006",
            format!("no rule of the mapping {}/{} reads `{name}`", map.format, map.name),
        )
        .tensor(name)
        .help(if config.get(MODEL_TYPE).is_some() {
            "every tensor is read by a rule or dropped by one; --generic keeps all as they are"
        } else {
            "perhaps it is of another architecture: see --arch"
        })
    }

    /// Keeps tensors that stand beside a whole model; without a whole model they are errors.
    pub(super) fn plan_strays(&mut self, map: &Map, strays: &[&'a Tensor], config: &Json) {
        if !self.errors.is_empty() {
            let unread = strays.iter().map(|tensor| Self::unread(map, &tensor.name, config));
            if self.used.len() < strays.len() {
                // Of another architecture: what that lacks of this one says nothing.
                self.errors = unread.collect();
            } else {
                self.errors.splice(0..0, unread);
            }
            return;
        }
        for tensor in strays {
            self.findings.push(
                Diagnostic::warning(
                    "P006",
                    format!(
                        "no rule of the mapping {}/{} reads `{}`, and the model is whole without it",
                        map.format, map.name, tensor.name
                    ),
                )
                .tensor(&tensor.name)
                .help("a package keeps its bytes beside the model, where nothing computes with them"),
            );
            self.drop(tensor, STRAY, WayBack::Kept);
        }
    }
}

/// Whether a name stands in a numbered layer of the mapping, `PREFIX.layers.3.…`.
pub(super) fn is_in_layer(map: &Map, prefix: &str, name: &str) -> bool {
    let starts: BTreeSet<String> = map
        .rules
        .iter()
        .flat_map(|rule| &rule.from)
        .filter_map(|from| {
            let (start, _) = from.text.split_once("{i}")?;
            let start = start
                .strip_prefix('@')
                .map_or_else(|| start.to_owned(), |rest| format!("{prefix}{rest}"));
            (!start.contains('{')).then_some(start)
        })
        .collect();
    starts.iter().any(|start| {
        let layer = name.strip_prefix(start.as_str()).and_then(|rest| rest.split('.').next());
        layer.is_some_and(|layer| !layer.is_empty() && layer.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// Warns where the class promises heads, and the file has none of them.
pub(super) fn check_promised_heads(
    map: &Map,
    config: &Json,
    heads: &BTreeMap<String, HeadRows>,
    findings: &mut Vec<Diagnostic>,
) {
    let Some(class) = tasks::class_of(map, config) else { return };
    let promised: BTreeSet<&str> = map
        .tasks
        .iter()
        .filter(|rule| rule.class.iter().any(|other| other == class))
        .filter_map(|rule| rule.head.as_deref())
        .collect();
    // A class may serve several tasks by heads of which a file has one only.
    if promised.is_empty() || promised.iter().any(|head| heads.contains_key(*head)) {
        return;
    }
    let names = promised.into_iter().collect::<Vec<_>>().join(", ");
    findings.push(
        Diagnostic::warning(
            "P018",
            format!("the class {class} promises the head `{names}`, and the checkpoint has none"),
        )
        .key("architectures")
        .help("the model is what is there: it goes without the head, and without its task"),
    );
}
