//! A checkpoint of a mapping, made up.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::check::messages;
use super::choose::Class;
use super::{ROWS, Sample};
use crate::author::tiny;
use crate::base::limits::Backing;
use crate::checkpoint::DType;
use crate::package::{
    Conformance, DenseStep, Dropped, ForeignTensor, Hparams, MapUsed, Model, Provenance,
    SOURCE_SCHEMA, Task, Value, WayBack,
};
use crate::plan::names::{self, Bound, Choices};
use crate::plan::{self, import};
use crate::spec::Spec;
use crate::spec::map::{Each, Map};
use crate::spec::names::StackNames;

/// The sample of a config and a class.
pub(super) fn sample(
    spec: &Spec,
    map: &Map,
    config: &Json,
    class: &Class<'_>,
    label: &str,
) -> std::result::Result<Sample, String> {
    let arch = spec.arch(&map.arch).ok_or("it leads to no architecture")?;
    // Keys may be told by the class of a head.
    let mut config = config.clone();
    if let (Some(name), Some(config)) = (class.name, config.as_object_mut()) {
        config.insert("architectures".to_owned(), vec![name].into());
    }
    let keys = plan::keys::read(spec, map, arch, &config);
    let keys = keys.map_err(|findings| messages(label, findings))?;
    let mut hparams = keys.hparams;
    let whole = spec.complete_hparams(&hparams);
    let names = StackNames {
        hparams: &whole,
        tokens: Some(&keys.tokens),
        stack: arch.stacks.first().map(String::as_str),
        layer: None,
    };
    let own = class.tasks.iter().find_map(|task| task.prefix.as_ref());
    let prefix = own.or(map.prefixes.first()).cloned().unwrap_or_default();
    let choices = Choices { prefix, spellings: Vec::new() };
    let mut instances = names::instances(map, &choices, &names, Backing::config_alone())?;
    instances.retain(|instance| !instance.rule.is_alternative);

    let heads: BTreeSet<String> =
        class.heads.iter().map(|head| format!("heads.{head}.x")).collect();
    let present: BTreeSet<&str> = heads.iter().map(String::as_str).collect();
    let expected = spec.expected(arch, &hparams, &present, Backing::config_alone())?;
    let tied = hparams.get("tie_embeddings") == Some(&Value::Bool(true));
    let made: BTreeSet<&str> =
        instances.iter().flat_map(|instance| &instance.to).map(String::as_str).collect();
    let mut tensors: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for tensor in &expected {
        if tensor.required || made.contains(tensor.name.as_str()) {
            let shape = shape(&tensor.name, &tensor.shape, &hparams);
            tensors.insert(tensor.name.clone(), shape);
        }
    }
    let mut ties = Vec::new();
    let mut parts = BTreeSet::new();
    let mut foreign = Vec::new();
    let mut of_ids: BTreeSet<String> = BTreeSet::new();
    for instance in &instances {
        if let (Some(target), true) = (&instance.rule.tie, tied || instance.rule.ignore_tie_flag)
            && let Some(name) = instance.to.first()
            && class.heads.iter().any(|head| name.starts_with(&format!("heads.{head}.")))
        {
            tensors.remove(name);
            ties.push([name.clone(), target.clone()]);
        } else if !instance.to.iter().all(|name| tensors.contains_key(name)) {
            continue;
        }
        let rule = map.rules.iter().position(|rule| std::ptr::eq(rule, instance.rule));
        let words = instance.bindings.iter().filter(|(name, _)| {
            let texts = |(each, values): &(String, Each)| {
                matches!(values, Each::Texts(_)) && name.split('.').next() == Some(each)
            };
            instance.rule.each.iter().any(texts)
        });
        let words = words.map(|(_, word)| word.clone()).collect();
        parts.insert((rule.ok_or("a rule of another mapping")?, words));
        let names = instance.from.iter().chain(&instance.also).cloned();
        if instance.to.iter().any(|name| spec.role(name).is_some_and(|role| role.role.is_ids)) {
            of_ids.extend(names.clone());
        }
        foreign.extend(names);
    }
    let modules = (1..)
        .take_while(|n| foreign.iter().any(|name| name.starts_with(&format!("dense.{n}/"))))
        .count();
    let dropped = buffers(map, &choices, &names)?;
    foreign.extend(dropped.iter().map(|dropped| dropped.name.clone()));
    if hparams.contains_key("tie_embeddings") {
        hparams.insert("tie_embeddings".to_owned(), Value::Bool(!ties.is_empty() || tied));
    }
    let tasks = tasks(spec, &hparams, class, &tensors, modules);
    let foreign = foreign.into_iter();
    let source = Provenance {
        schema: SOURCE_SCHEMA.to_owned(),
        format: map.format.clone(),
        container: "safetensors".to_owned(),
        map: Some(MapUsed {
            name: map.name.clone(),
            revision: map.revision,
            spec_hash: spec.hash().to_owned(),
            prefix: choices.prefix,
            spellings: Vec::new(),
        }),
        tool: concat!("llmstd ", env!("CARGO_PKG_VERSION")).to_owned(),
        tensors: foreign
            .map(|name| {
                let dtype = if of_ids.contains(&name) { DType::I64 } else { DType::F32 };
                ForeignTensor {
                    name: name.into(),
                    dtype: dtype.name().into(),
                    read_as: None,
                    axes: None,
                }
            })
            .collect(),
        copies: Vec::new(),
        dropped,
        losses: BTreeMap::new(),
        files: Vec::new(),
        config: None,
    };
    let model = Model {
        spec: spec.first.clone(),
        requires: Vec::new(),
        conformance: Conformance::Schema,
        architecture: Some(arch.id.clone()),
        hyperparameters: hparams,
        tokens: keys.tokens,
        ties,
        encodings: BTreeMap::new(),
        tasks,
        history: Vec::new(),
    };
    let label = match class.name {
        Some(name) => format!("{label}, {name}"),
        None => label.to_owned(),
    };
    let tensors = tensors.into_iter().collect();
    Ok(Sample { label, model, source, tensors, parts, modules })
}

/// The shape of a canonical tensor; of dimensions that are open, those of heads are rows of labels,
/// and the inner ones are as wide as the model.
pub(super) fn shape(name: &str, expected: &[Option<u64>], hparams: &Hparams) -> Vec<u64> {
    let hidden = tiny::count(hparams, "hidden_size").unwrap_or(1);
    // Modules that follow one another are as wide as each other; a head's projection has labels.
    let open = |axis: usize| match (
        name.ends_with(".proj.weight") || name.ends_with(".proj.bias"),
        axis,
    ) {
        (true, 0) => ROWS,
        _ => hidden,
    };
    expected.iter().enumerate().map(|(axis, dim)| dim.unwrap_or_else(|| open(axis))).collect()
}

/// The buffers of the foreign layout, in the dtype that frameworks keep each in.
fn buffers(
    map: &Map,
    choices: &Choices,
    names: &StackNames<'_>,
) -> std::result::Result<Vec<Dropped>, String> {
    let mut dropped = Vec::new();
    for drop in names::drops(map, choices, names, &BTreeSet::new(), Backing::config_alone())? {
        let Some(rule) = &drop.drop.make else { continue };
        let dtype = if rule.function == "iota" { DType::I64 } else { DType::F32 };
        let bound = Bound { names, bindings: &drop.bindings };
        // A buffer of what this config does not have has no shape.
        let Ok(made) = import::make(rule, dtype, &bound) else { continue };
        if made.shape.contains(&0) || dropped.iter().any(|other: &Dropped| other.name == drop.name)
        {
            continue;
        }
        dropped.push(Dropped {
            name: drop.name.clone(),
            dtype: dtype.name().to_owned(),
            shape: made.shape,
            encoding: None,
            why: drop.drop.why.clone(),
            back: WayBack::Made,
            component: None,
        });
    }
    Ok(dropped)
}

pub(super) fn tasks(
    spec: &Spec,
    hparams: &Hparams,
    class: &Class<'_>,
    tensors: &BTreeMap<String, Vec<u64>>,
    modules: usize,
) -> Vec<Task> {
    let mut tasks = Vec::new();
    for rule in &class.tasks {
        if tasks.iter().any(|task: &Task| task.id == rule.id && task.head == rule.head) {
            continue; // Another pooling, which the config chooses.
        }
        let rows = rule
            .head
            .as_ref()
            .and_then(|head| tensors.get(&format!("heads.{head}.proj.weight"))?.first().copied());
        let Some((inputs, outputs)) = spec.task_ports(&rule.id, hparams, rows) else { continue };
        let labels = rows.filter(|_| rule.labels);
        let label = |rows| (0..rows).map(|row| format!("LABEL_{row}")).collect();
        tasks.push(Task {
            id: rule.id.clone(),
            head: rule.head.clone(),
            pool: rule.pool.clone(),
            normalize: rule.normalize,
            activation: rule.activation.clone(),
            dense: Vec::new(),
            problem: labels.map(|_| "single".to_owned()),
            labels: labels.map(label),
            inputs,
            outputs,
        });
    }
    let hidden = tiny::count(hparams, "hidden_size");
    if let (1.., Some((inputs, outputs))) = (modules, spec.task_ports("embedding", hparams, hidden))
    {
        let head = |n: usize| match n {
            0 => "embedding".to_owned(),
            n => format!("embedding_{}", n + 1),
        };
        let step = |n| DenseStep { head: head(n), activation: Some("tanh".to_owned()) };
        tasks.push(Task {
            id: "embedding".to_owned(),
            head: None,
            pool: Some("mean".to_owned()),
            normalize: Some(false),
            activation: None,
            dense: (0..modules).map(step).collect(),
            problem: None,
            labels: None,
            inputs,
            outputs,
        });
    }
    tasks
}
