//! Reads back the config that was written: it must say what the package says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{DenseStep, Hparams, Model, Task, Value};
use crate::plan::tasks::{self, HeadRows};
use crate::plan::{Tensors, keys};
use crate::spec::Spec;
use crate::spec::arch::Arch;
use crate::spec::ecosystem::Ecosystem;
use crate::spec::expr::{as_float, same};
use crate::spec::map::Map;
use crate::spec::names::{StackNames, plain_name};

/// Reads a config of a dialect, in the words of the mappings, that is written in the place of theirs: it
/// must say what the model is.
///
/// # Errors
/// It says something else.
pub fn check_own_config(
    spec: &Spec,
    map: &Map,
    model: &Model,
    canonical: &Tensors,
    config: &Json,
) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
    let arch = spec.arch(&map.arch).expect("a mapping's architecture is checked when it is read");
    let whole = spec.complete_hparams(&model.hyperparameters);
    let names = StackNames {
        hparams: &whole,
        tokens: Some(&model.tokens),
        stack: arch.stacks.first().map(String::as_str),
        layer: None,
    };
    let stored = |name: &str| canonical.exprs.contains_key(name);
    let mut findings = check_config(spec, map, arch, (model, &names, &stored), config)?;
    findings.extend(check_tokens(map, model, &keys::read(spec, map, arch, config)?.tokens));
    Ok(findings)
}

/// Tells which ids of special tokens the config that was written does not say.
fn check_tokens(map: &Map, model: &Model, read: &Hparams) -> Option<Diagnostic> {
    let lost = model.tokens.iter().filter(|(token, id)| match read.get(*token) {
        Some(read) => !same(read, id),
        None => true,
    });
    let lost: BTreeMap<&String, &Value> = lost.collect();
    let text = |of: &dyn Fn(&str) -> Option<String>| {
        let ids = lost.keys().map(|token| {
            let id = of(token.as_str()).unwrap_or_else(|| "nothing".to_owned());
            format!("{token} {id}")
        });
        ids.collect::<Vec<_>>().join(", ")
    };
    let shown = |id: &Value| match id {
        Value::List(ids) => ids.iter().map(Value::to_string).collect::<Vec<_>>().join(" and "),
        id => id.to_string(),
    };
    let wanted = text(&|token| model.tokens.get(token).map(shown));
    let message = format!(
        "the {} config of {} has no place for the ids of special tokens: {wanted}",
        map.format, map.name
    );
    let help = "programs take them from the tokenizer; generation_config.json, where it is carried \
                over, has them, too";
    let found = text(&|token| read.get(token).map(shown));
    let finding = Diagnostic::warning("P005", message).key("tokens").help(help);
    (!lost.is_empty()).then(|| finding.mismatch(wanted, found))
}

/// Reads the config that was written: it must say what the package says.
#[allow(clippy::type_complexity)] // What conditions speak of.
pub(super) fn check_config(
    spec: &Spec,
    map: &Map,
    arch: &Arch,
    (model, hparams, stored): (&Model, &StackNames<'_>, &dyn Fn(&str) -> bool),
    config: &Json,
) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
    let read = keys::read(spec, map, arch, config)?;
    let wanted = &model.hyperparameters;
    let names: BTreeSet<&String> = wanted.keys().chain(read.hparams.keys()).collect();
    let ignore_tie_flag = map.rules.iter().any(|rule| rule.ignore_tie_flag)
        // Where nothing is tied and there is no matrix of a head, it decides nothing.
        || Ecosystem::of(&map.format).typed_keys && model.ties.is_empty() && !stored("heads.lm.proj.weight");
    // `null`, and what it stands for.
    let is_usual = |name: &str, value: &Value| {
        let usual = map.keys.iter().find(|key| key.to == name)?.usual.as_ref()?;
        let usual = as_float(&usual.eval(hparams).ok()?)?;
        Some((as_float(value)? - usual).abs() < 1e-6)
    };
    let differ = names.into_iter().filter(|name| {
        if ignore_tie_flag && *name == "tie_embeddings" {
            return false; // The tensors say it, not the config.
        }
        let values = (wanted.get(*name), read.hparams.get(*name));
        let same = if Ecosystem::of(&map.format).typed_keys { same_single } else { same };
        match values {
            (Some(wanted), Some(read)) if same(wanted, read) => false,
            (Some(Value::Null), Some(value)) | (Some(value), Some(Value::Null)) => {
                is_usual(name, value) != Some(true)
            }
            _ => true,
        }
    });
    let inexpressible = |name: &str| {
        let is_it = |to: &str| to == name || plain_name(to) == Some(name);
        map.keys.iter().any(|key| is_it(&key.to) && key.inexpressible)
    };
    let findings: Vec<Diagnostic> = differ
        .map(|name| {
            let text = |value: Option<&Value>| {
                value.map_or_else(|| "nothing".to_owned(), Value::to_string)
            };
            let level = if inexpressible(name) { Level::Warning } else { Level::Error };
            Diagnostic::new(
                "P005",
                level,
                format!(
                    "the {} config of {} cannot say that `{name}` is {}",
                    map.format,
                    map.name,
                    text(wanted.get(name))
                ),
            )
            .key(name.clone())
            .mismatch(text(wanted.get(name)), text(read.hparams.get(name)))
        })
        .collect();
    if findings.iter().all(|found| found.level == Level::Warning) {
        Ok(findings)
    } else {
        Err(findings)
    }
}

/// Reads the tasks of the file that was planned: they must be those of the package, but for heads
/// that are left out, and for what is told.
pub(super) fn check_tasks(
    spec: &Spec,
    map: &Map,
    model: &Model,
    canonical: &Tensors,
    config: &Json,
) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
    let mut heads: BTreeMap<String, HeadRows> = BTreeMap::new();
    let stored =
        canonical.exprs.iter().map(|(name, (expr, _))| (name.as_str(), Some(&expr.layout)));
    let tied = model.ties.iter().map(|[tied, _]| (tied.as_str(), None));
    for (name, layout) in stored.chain(tied) {
        let Some((head, part)) = name.strip_prefix("heads.").and_then(|rest| rest.split_once('.'))
        else {
            continue;
        };
        let rows = heads.entry(head.to_owned()).or_default();
        rows.add(part, layout.and_then(|layout| layout.shape.first().copied()));
    }
    let read = tasks::read(spec, map, config, &model.hyperparameters, &heads, &[], &mut Vec::new());
    let is_left = |task: &&Task| {
        let head = task.head.as_deref();
        map.dropped_heads.iter().any(|dropped| head == Some(dropped.head.as_str()))
    };
    let mut findings = Vec::new();
    for task in model.tasks.iter().filter(|task| !is_left(task)) {
        let id = &task.id;
        let mut tell = |level: Level, what: &str, wanted: String, found: String| {
            let message = format!("the {} config of {} cannot say {what}", map.format, map.name);
            let finding = Diagnostic::new("P005", level, message).key(id.clone());
            findings.push(finding.mismatch(wanted, found));
        };
        let Some(read) = read.iter().find(|read| read.id == *id && read.head == task.head) else {
            // Without the head's task its tensors would be taken for another's.
            let level = if task.head.is_some() { Level::Error } else { Level::Warning };
            let pool = task.pool.as_ref().map(|pool| format!(", pooled by {pool:?}"));
            let wanted = format!("{id}{}", pool.unwrap_or_default());
            tell(level, &format!("that the model serves {wanted}"), wanted, "nothing".to_owned());
            continue;
        };
        let words = |word: &Option<String>| word.clone().unwrap_or_else(|| "none".to_owned());
        for (what, wanted, found) in [
            ("pooling", &task.pool, &read.pool),
            ("activation", &task.activation, &read.activation),
        ] {
            if wanted != found {
                let (wanted, found) = (words(wanted), words(found));
                let what = format!("that the {what} of {id} is {wanted}");
                tell(Level::Error, &what, wanted, found);
            }
        }
        // Folders have them in files of their own.
        if Ecosystem::of(&map.format).typed_keys && task.dense != read.dense {
            let steps = |task: &Task| {
                let activation = |step: &DenseStep| step.activation.clone().unwrap_or_default();
                let step = |step: &DenseStep| format!("{} {}", step.head, activation(step));
                task.dense.iter().map(step).collect::<Vec<_>>().join(", ")
            };
            let what = format!("which maps follow the pooling of {id}, and what follows each");
            tell(Level::Error, &what, steps(task), steps(read));
        }
        if let (Some(wanted), Some(found)) = (task.normalize, read.normalize)
            && wanted != found
        {
            let what = format!("whether {id} is scaled to length 1; readers do by default");
            tell(Level::Warning, &what, wanted.to_string(), found.to_string());
        }
        if task.problem != read.problem {
            let (wanted, found) = (words(&task.problem), words(&read.problem));
            tell(Level::Warning, &format!("that {id} is of {wanted} labels"), wanted, found);
        }
        if task.labels != read.labels {
            let text = |labels: &Option<Vec<String>>| labels.as_deref().unwrap_or(&[]).join(", ");
            let (wanted, found) = (text(&task.labels), text(&read.labels));
            tell(Level::Warning, &format!("the labels of {id}"), wanted, found);
        }
    }
    if findings.iter().all(|found| found.level == Level::Warning) {
        Ok(findings)
    } else {
        Err(findings)
    }
}

/// Whether two values are the same where numbers are kept as F32.
fn same_single(left: &Value, right: &Value) -> bool {
    let single = |value: &Value| match value {
        Value::Float(value) => Value::Float(f64::from(*value as f32)),
        value => value.clone(),
    };
    match (left, right) {
        (Value::List(left), Value::List(right)) => {
            left.len() == right.len()
                && left.iter().zip(right).all(|(left, right)| same_single(left, right))
        }
        (left, right) => same(&single(left), &single(right)),
    }
}
