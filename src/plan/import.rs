//! From a foreign checkpoint to the standard.

mod choose;
mod cover;
mod dropped;
mod make;
mod planner;
mod rule;
mod stray;
mod tie;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use self::planner::{Planner, data_error};
use self::tie::Tie;
use super::keys::{self, Keys};
use super::{Facts, Options, Tensors, axes, by_name, names, tasks, unread};
use crate::base::diagnostic::Diagnostic;
use crate::checkpoint::Checkpoint;
use crate::package::{Dropped, ForeignTensor, MapUsed, Task, Value};
use crate::spec::Spec;
use crate::spec::map::Map;
use crate::spec::names::StackNames;

pub use self::choose::choose;
pub(crate) use self::make::make;
pub use self::stray::STRAY;

/// A plan of the way in.
pub struct Import {
    /// The tensors of the package.
    pub tensors: Tensors,
    /// Foreign buffers that are kept beside the package, as no recipe gives their bytes.
    pub buffers: Tensors,
    /// The architecture.
    pub arch: String,
    /// The hyperparameters and the ids of special tokens.
    pub keys: Keys,
    /// Tensors that are stored once under the second name.
    pub ties: Vec<[String; 2]>,
    /// What the model can be asked.
    pub tasks: Vec<Task>,
    /// The mapping, and what it chose.
    pub map: MapUsed,
    /// The foreign tensors, in their order.
    pub foreign: Vec<ForeignTensor>,
    /// Foreign tensors that hold what another one holds.
    pub copies: Vec<[String; 2]>,
    /// Foreign tensors that the standard does not store.
    pub dropped: Vec<Dropped>,
    /// What is suspicious.
    pub findings: Vec<Diagnostic>,
}

/// Plans the way in by one mapping.
///
/// # Errors
/// Everything that keeps the plan from being complete.
pub fn import(
    spec: &Spec,
    map: &Map,
    checkpoint: &Checkpoint,
    config: &Json,
    facts: &dyn Facts,
    options: Options,
) -> Result<Import, Vec<Diagnostic>> {
    let arch = spec.arch(&map.arch).expect("a mapping's architecture is checked when it is read");
    let mut keys = keys::read(spec, map, arch, config)?;
    let present: BTreeSet<&str> =
        checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    // Conditions may ask for keys that a package leaves out.
    let hparams = spec.complete_hparams(&keys.hparams);
    let (tokens, origins) = (keys.tokens.clone(), keys.origins.clone());
    let stack_names =
        |stack| StackNames { hparams: &hparams, tokens: Some(&tokens), stack, layer: None };
    let main = arch.stacks.first().map(String::as_str);
    let names = stack_names(main);
    let backing = names::backing(checkpoint);
    names::check_counts(map, &names, backing, &origins).map_err(|finding| vec![finding])?;
    let data = |why: String| match keys::switched_off(spec, &names, &origins, &why) {
        None => vec![data_error(map, &why)],
        Some(cause) => {
            let message =
                format!("every model of {} has what the config leaves out: {cause}", map.name);
            vec![Diagnostic::error("P003", message).help("correct the config; no value is guessed")]
        }
    };
    let choices = names::choices(map, &present, &names, backing, &data)?;
    let mut instances = names::instances(map, &choices, &names, backing).map_err(&data)?;
    instances.retain(|instance| instance.holds(&present));
    let drops = names::drops(map, &choices, &names, &present, backing).map_err(&data)?;
    let mut foreign = by_name(checkpoint);
    let turned = axes::turned(map, &choices, &names, backing, &foreign).map_err(&data)?;
    for (name, (tensor, _)) in &turned {
        foreign.insert(name, tensor);
    }

    let mut planner = Planner {
        spec,
        arch,
        facts,
        options,
        foreign,
        backing,
        names: &names,
        hparams: &hparams,
        origins: &origins,
        used: BTreeMap::new(),
        tensors: Tensors::default(),
        buffers: Tensors::default(),
        copies: Vec::new(),
        dropped: Vec::new(),
        findings: Vec::new(),
        errors: Vec::new(),
    };
    let strays = planner.cover(map, checkpoint, &choices.prefix, &instances, &drops, config);
    for instance in &instances {
        planner.plan_instance(instance);
    }
    let mut tied = hparams.get("tie_embeddings") == Some(&Value::Bool(true));
    let mut ties = Vec::new();
    for instance in instances.iter().filter(|instance| instance.rule.tie.is_some()) {
        let tie = Tie { map, config, prefix: &choices.prefix, instances: &instances };
        planner.plan_tie(&tie, instance, &mut tied, &mut ties);
    }
    for drop in &drops {
        planner.plan_drop(drop);
    }
    if hparams.contains_key("tie_embeddings") {
        keys.hparams.insert("tie_embeddings".to_owned(), Value::Bool(tied));
    }
    planner.check_complete(&instances, &keys.hparams, &ties);
    planner.blame_class(map, config);
    planner.plan_strays(map, &strays, config);

    let heads = planner.heads(map, tasks::class_of(map, config), &ties);
    let Planner { mut tensors, buffers, copies, dropped, mut findings, errors, .. } = planner;
    if !errors.is_empty() {
        return Err(errors);
    }
    tensors.sort_by_key(|name| spec.order(name));
    stray::check_promised_heads(map, config, &heads, &mut findings);
    findings.extend(unread::findings(spec, map, config));
    findings.extend(unread::not_packed(config, checkpoint));
    let said = &checkpoint.signatures;
    let tasks = tasks::read(spec, map, config, &keys.hparams, &heads, said, &mut findings);
    let foreign = checkpoint.stored().map(|tensor| ForeignTensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype.name().into(),
        read_as: None,
        axes: turned.get(&*tensor.name).map(|(_, axes)| (*axes).into()),
    });
    Ok(Import {
        tensors,
        buffers,
        arch: arch.id.clone(),
        keys,
        ties,
        tasks,
        map: MapUsed {
            name: map.name.clone(),
            revision: map.revision,
            spec_hash: spec.hash().to_owned(),
            prefix: choices.prefix,
            spellings: choices.spellings,
        },
        foreign: foreign.collect(),
        copies,
        dropped,
        findings,
    })
}
