//! What `model.json` says: architecture, hyperparameters, tokens, tasks; and the versions.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::rules;
use super::tensors::Compared;
use super::{Change, architecture};
use crate::manifest::{Manifest, Semantics};
use crate::package::{Hparams, Port, Task, Value};
use crate::spec::Spec;
use crate::spec::expr::{as_float, same};

/// The length of sequences, which no computation reads.
const CONTEXT: &str = "max_positions";

pub(super) fn compare(
    old: &Manifest,
    new: &Manifest,
    tensors: &Compared,
    spec: &Spec,
    changes: &mut Vec<Change>,
) {
    versions(old, new, changes);
    let (old_arch, new_arch) = (architecture(old), architecture(new));
    if old_arch != new_arch {
        let word = |arch: Option<&str>| arch.unwrap_or("not known").to_owned();
        let message = format!("the architecture is {}, it was {}", word(new_arch), word(old_arch));
        let change = Change::new(rules::ARCHITECTURE_CHANGED, "architecture", message);
        changes.push(change.values(old_arch, new_arch));
    }
    let nothing = nothing();
    let old = old.model.as_ref().unwrap_or(&nothing);
    let new = new.model.as_ref().unwrap_or(&nothing);
    features(old, new, changes);
    // Against a model of which nothing is known, every key would be one that came or went.
    if old_arch.is_some() && new_arch.is_some() {
        hyperparameters(old, new, tensors, spec, changes);
    }
    tokens(&old.tokens, &new.tokens, changes);
    tasks(&old.tasks, &new.tasks, changes);
}

/// What is said of a model without `model.json`.
fn nothing() -> Semantics {
    Semantics {
        conformance: crate::package::Conformance::Container,
        requires: Vec::new(),
        architecture: None,
        hyperparameters: Hparams::new(),
        tokens: Hparams::new(),
        ties: Vec::new(),
        encodings: BTreeMap::new(),
        tasks: Vec::new(),
    }
}

fn versions(old: &Manifest, new: &Manifest, changes: &mut Vec<Change>) {
    if old.spec != new.spec {
        let major = |version: &str| version.split('.').next().map(str::to_owned);
        let rule = if major(&old.spec) == major(&new.spec) {
            rules::SPEC_MINOR_CHANGED
        } else {
            rules::SPEC_MAJOR_CHANGED
        };
        let message = format!("version {} of the standard, it was {}", new.spec, old.spec);
        changes.push(Change::new(rule, "spec", message).values(&old.spec, &new.spec));
    }
    if let (Some(old), Some(new)) = (&old.model, &new.model)
        && old.conformance != new.conformance
    {
        let (old, new) = (old.conformance, new.conformance);
        let message = format!("conformance {}, it was {}", new.name(), old.name());
        let change = Change::new(rules::CONFORMANCE_CHANGED, "conformance", message);
        changes.push(change.values(old, new));
    }
}

fn features(old: &Semantics, new: &Semantics, changes: &mut Vec<Change>) {
    let set = |model: &Semantics| model.requires.iter().cloned().collect::<BTreeSet<String>>();
    let (old, new) = (set(old), set(new));
    for feature in new.difference(&old) {
        let message = format!("readers must know the feature {feature:?}");
        changes.push(Change::new(rules::FEATURE_REQUIRED, feature, message).values((), feature));
    }
    for feature in old.difference(&new) {
        let message = format!("readers need not know the feature {feature:?} any more");
        changes.push(Change::new(rules::FEATURE_DROPPED, feature, message).values(feature, ()));
    }
}

fn hyperparameters(
    old: &Semantics,
    new: &Semantics,
    tensors: &Compared,
    spec: &Spec,
    changes: &mut Vec<Change>,
) {
    let shaping = shaping(spec, new.architecture.as_deref());
    for (key, before, after) in both(&old.hyperparameters, &new.hyperparameters) {
        let base = key.rsplit_once('.').map_or(key.as_str(), |(stack, base)| match stack {
            "encoder" | "decoder" => base,
            _ => key,
        });
        let (rule, message) = match (before, after) {
            (Some(before), Some(after)) if same(before, after) => continue,
            // The tensors that came or went for it say what that means.
            _ if base == "tie_embeddings" && tensors.ties => continue,
            (Some(before), Some(after)) => {
                let rule = match as_float(before).zip(as_float(after)) {
                    Some((old, new)) if base == CONTEXT && old < new => rules::CONTEXT_GROWN,
                    Some(_) if base == CONTEXT => rules::CONTEXT_SHRUNK,
                    // Where all shapes are the same, nothing tells a loader.
                    _ if tensors.same_table => rules::SEMANTICS_CHANGED,
                    _ if shaping.contains(base) => rules::DIMENSION_CHANGED,
                    _ => rules::HYPERPARAMETER_CHANGED,
                };
                (rule, format!("{key} is {}, it was {}", text(after), text(before)))
            }
            (None, Some(after)) => (
                rules::HYPERPARAMETER_ADDED,
                format!("{key} is {}, it was not stated", text(after)),
            ),
            (Some(before), None) => (
                rules::HYPERPARAMETER_REMOVED,
                format!("{key} is not stated, it was {}", text(before)),
            ),
            (None, None) => continue,
        };
        changes.push(Change::new(rule, key, message).values(before, after));
    }
}

/// The hyperparameters that shapes, or the existence of tensors, depend on.
fn shaping(spec: &Spec, architecture: Option<&str>) -> BTreeSet<String> {
    let sizes = spec.roles.iter().flat_map(|role| role.shape.iter().flatten());
    let mut keys: BTreeSet<String> =
        sizes.flat_map(|size| size.names()).map(str::to_owned).collect();
    if let Some(arch) = architecture.and_then(|id| spec.arch(id)) {
        keys.extend(arch.conditions().flat_map(|expr| expr.names()).map(str::to_owned));
    }
    keys
}

/// A value for people; long lists are cut.
fn text(value: &Value) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn tokens(old: &Hparams, new: &Hparams, changes: &mut Vec<Change>) {
    for (name, before, after) in both(old, new) {
        let stated = |value: Option<&Value>| value.filter(|value| **value != Value::Null).cloned();
        let (before, after) = (stated(before), stated(after));
        let (rule, message) = match (&before, &after) {
            (None, None) => continue,
            (Some(before), Some(after)) if same(before, after) => continue,
            (Some(before), Some(after)) => (
                rules::TOKEN_CHANGED,
                format!("the {name} token is {}, it was {}", text(after), text(before)),
            ),
            (Some(before), None) => {
                (rules::TOKEN_REMOVED, format!("there is no {name} token, it was {}", text(before)))
            }
            (None, Some(after)) => {
                (rules::TOKEN_ADDED, format!("the {name} token is {}, there was none", text(after)))
            }
        };
        changes.push(Change::new(rule, name, message).values(before, after));
    }
}

/// Tasks by id; several of one id by their order.
fn keyed(tasks: &[Task]) -> Vec<(String, &Task)> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut keyed = Vec::with_capacity(tasks.len());
    for task in tasks {
        let n = seen.entry(&task.id).or_default();
        *n += 1;
        let key = if *n == 1 { task.id.clone() } else { format!("{}#{n}", task.id) };
        keyed.push((key, task));
    }
    keyed
}

fn tasks(old: &[Task], new: &[Task], changes: &mut Vec<Change>) {
    let (old_order, new_order) = (keyed(old), keyed(new));
    let old_tasks: BTreeMap<String, &Task> = old_order.iter().cloned().collect();
    let new_tasks: BTreeMap<String, &Task> = new_order.iter().cloned().collect();
    for (id, before, after) in both(&old_tasks, &new_tasks) {
        match (before, after) {
            (Some(before), Some(after)) => task(id, before, after, changes),
            (Some(_), None) => {
                let message = format!("the task {id} is gone");
                changes.push(Change::new(rules::TASK_REMOVED, id, message));
            }
            _ => {
                let message = format!("the task {id} is new");
                changes.push(Change::new(rules::TASK_ADDED, id, message));
            }
        }
    }
    let common = |order: &[(String, &Task)], other: &BTreeMap<String, &Task>| {
        let ids = order.iter().map(|(id, _)| id.clone());
        ids.filter(|id| other.contains_key(id)).collect::<Vec<_>>()
    };
    let first = |order: &[(String, &Task)]| order.first().map(|(id, _)| id.clone());
    let (before, after) = (first(&old_order), first(&new_order));
    let moved = common(&old_order, &new_tasks) != common(&new_order, &old_tasks);
    if let (Some(before), Some(after)) = (before, after)
        && (before != after || moved)
    {
        let message = match before == after {
            true => "the tasks stand in another order".to_owned(),
            false => format!("the first task is {after}, it was {before}"),
        };
        let change = Change::new(rules::DEFAULT_TASK_CHANGED, "tasks", message);
        changes.push(change.values(before, after));
    }
}

fn task(id: &str, old: &Task, new: &Task, changes: &mut Vec<Change>) {
    let mut meaning = |key: &str, old: serde_json::Value, new: serde_json::Value| {
        if old != new {
            let word = |value: &serde_json::Value| match value {
                serde_json::Value::Null => "not stated".to_owned(),
                value => value.to_string(),
            };
            let message = format!("{key} of {id} is {}, it was {}", word(&new), word(&old));
            let change = Change::new(rules::TASK_MEANING_CHANGED, format!("{id}.{key}"), message);
            changes.push(change.values(old, new));
        }
    };
    meaning("head", json(&old.head), json(&new.head));
    meaning("pool", json(&old.pool), json(&new.pool));
    meaning("normalize", json(&old.normalize), json(&new.normalize));
    meaning("activation", json(&old.activation), json(&new.activation));
    meaning("problem", json(&old.problem), json(&new.problem));
    if old.labels != new.labels {
        let change =
            Change::new(rules::LABELS_CHANGED, format!("{id}.labels"), labels(id, old, new));
        changes.push(change.values(&old.labels, &new.labels));
    }
    let ports = |ports: &[Port]| -> BTreeMap<String, Port> {
        ports.iter().map(|port| (port.name.clone(), port.clone())).collect()
    };
    for (name, before, after) in both(&ports(&old.inputs), &ports(&new.inputs)) {
        let subject = format!("{id}.{name}");
        let (rule, message) = match (before, after) {
            (None, Some(after)) if after.optional => (
                rules::INPUT_OPTIONAL,
                format!("{id} takes the new input {name}, which may be left out"),
            ),
            (None, _) => (rules::INPUT_REQUIRED, format!("{id} wants the new input {name}")),
            (Some(_), None) => {
                (rules::INPUT_REMOVED, format!("{id} takes no input {name} any more"))
            }
            (Some(before), Some(after)) => {
                port(&subject, "input", before, after, changes);
                match (before.optional, after.optional) {
                    (true, false) => (
                        rules::INPUT_REQUIRED,
                        format!("{id} wants {name}, which could be left out"),
                    ),
                    (false, true) => {
                        (rules::INPUT_OPTIONAL, format!("{name} of {id} may be left out now"))
                    }
                    _ => continue,
                }
            }
        };
        changes.push(Change::new(rule, subject, message).values(before, after));
    }
    for (name, before, after) in both(&ports(&old.outputs), &ports(&new.outputs)) {
        let subject = format!("{id}.{name}");
        let (rule, message) = match (before, after) {
            (Some(before), Some(after)) => {
                port(&subject, "output", before, after, changes);
                continue;
            }
            (Some(_), None) => {
                (rules::OUTPUT_REMOVED, format!("{id} gives no output {name} any more"))
            }
            _ => (rules::OUTPUT_ADDED, format!("{id} gives the new output {name}")),
        };
        changes.push(Change::new(rule, subject, message).values(before, after));
    }
    let order = |ports: &[Port], other: &[Port]| -> Vec<String> {
        let names = ports.iter().map(|port| port.name.clone());
        names.filter(|name| other.iter().any(|other| other.name == *name)).collect()
    };
    for (word, old, new) in
        [("inputs", &old.inputs, &new.inputs), ("outputs", &old.outputs, &new.outputs)]
    {
        let (before, after) = (order(old, new), order(new, old));
        if before != after {
            let message = format!("the {word} of {id} stand in another order");
            let change = Change::new(rules::PORT_CHANGED, format!("{id}.{word}"), message);
            changes.push(change.values(before, after));
        }
    }
}

fn port(subject: &str, word: &str, old: &Port, new: &Port, changes: &mut Vec<Change>) {
    if (&old.dtype, &old.shape) == (&new.dtype, &new.shape) {
        return;
    }
    let text = |port: &Port| format!("{} {}", port.dtype, json(&port.shape));
    let message = format!("the {word} {subject} is {}, it was {}", text(new), text(old));
    changes.push(Change::new(rules::PORT_CHANGED, subject, message).values(text(old), text(new)));
}

/// What happened to the labels of a task: the first row that means something else.
fn labels(id: &str, old: &Task, new: &Task) -> String {
    let (Some(old), Some(new)) = (&old.labels, &new.labels) else {
        let verb = if new.labels.is_some() { "names" } else { "does not name" };
        return format!("{id} {verb} its labels now");
    };
    let n = |count: usize| format!("{count} label{}", if count == 1 { "" } else { "s" });
    match old.iter().zip(new).position(|(old, new)| old != new) {
        Some(row) => format!("row {row} of {id} is {:?}, it was {:?}", new[row], old[row]),
        None => format!("{id} has {}, it had {}", n(new.len()), n(old.len())),
    }
}

fn json(value: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Every key of two maps, in order, with the value that each has for it.
pub(super) fn both<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> Vec<(&'a K, Option<&'a V>, Option<&'a V>)> {
    let keys: BTreeSet<&K> = old.keys().chain(new.keys()).collect();
    keys.into_iter().map(|key| (key, old.get(key), new.get(key))).collect()
}
