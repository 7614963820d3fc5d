//! From the standard to a foreign layout.

mod check;
mod dtype;
mod exporter;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use self::check::{check_config, check_tasks};
use self::dtype::write_dtype;
use self::exporter::{Exporter, choices};
use super::names::{self, Instance};
use super::{DECODE_HELP, Options, PartNames, Tensors, keys, tasks, typed};
use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::limits::Backing;
use crate::base::name::Name;
use crate::checkpoint::Checkpoint;
use crate::package::{ForeignTensor, Model, Provenance};
use crate::spec::Spec;
use crate::spec::ecosystem::Ecosystem;
use crate::spec::map::{DropHead, Map};
use crate::spec::names::StackNames;

pub use self::check::check_own_config;
pub use self::dtype::{dtype_word, refuse_blocks};

/// A plan of the way out.
pub struct Export {
    /// The foreign tensors.
    pub tensors: Tensors,
    /// The foreign config.
    pub config: Json,
    /// What cannot come back, and what is suspicious.
    pub findings: Vec<Diagnostic>,
    /// The foreign tensors that are written once more for a tied one, with its canonical name.
    pub tied: BTreeMap<String, String>,
}

/// Where canonical tensors came from, when that was the format that is written.
pub struct Origin<'a> {
    /// What the exact way back needs.
    pub provenance: &'a Provenance,
    /// The foreign config.
    pub config: Option<Json>,
}

/// Plans the way out by one mapping, from canonical tensors that lie in a package or are in the
/// making. `buffers` are what the package keeps beside its tensors.
///
/// # Errors
/// Everything that keeps the plan from being complete.
pub fn export(
    spec: &Spec,
    map: &Map,
    model: &Model,
    canonical: &Tensors,
    buffers: Option<&Checkpoint>,
    origin: Option<&Origin<'_>>,
    options: Options,
) -> Result<Export, Vec<Diagnostic>> {
    let provenance = origin.map(|origin| origin.provenance);
    let original = origin.and_then(|origin| origin.config.as_ref());
    let arch = spec.arch(&map.arch).expect("a mapping's architecture is checked when it is read");
    let stored = |name: &str| canonical.exprs.contains_key(name);
    let (hparams, tokens) = (&model.hyperparameters, &model.tokens);
    let is_typed = Ecosystem::of(&map.format).typed_keys;
    let ends = |name: &str| {
        let (expr, _) = canonical.exprs.get(name)?;
        let shape = &expr.layout.shape;
        Some([shape.first(), shape.last()].map(|size| size.copied().unwrap_or(1)))
    };
    let write = |original| keys::write(spec, map, arch, hparams, tokens, original, &ends);
    // Keys of a GGUF file say together with the tensors what the model is: they come last.
    let mut config = Json::Null;
    if !is_typed {
        config = write(original)?;
        tasks::write(map, &model.tasks, &mut config);
    }

    // Conditions may ask for keys that a package leaves out.
    let whole = spec.complete_hparams(&model.hyperparameters);
    let names = StackNames {
        hparams: &whole,
        tokens: Some(&model.tokens),
        stack: arch.stacks.first().map(String::as_str),
        layer: None,
    };
    let used =
        provenance.and_then(|source| source.map.as_ref()).filter(|used| used.name == map.name);
    let backing = Backing::of(canonical.exprs.values().map(|(expr, _)| &*expr.layout.shape));
    names::check_counts(map, &names, backing, &BTreeMap::new()).map_err(|finding| vec![finding])?;
    let choices = choices(map, used, model, tasks::class_of(map, &config));
    let data = |why: String| {
        vec![Diagnostic::error("P003", format!("the mapping {}/{}: {why}", map.format, map.name))]
    };
    let instances = names::instances(map, &choices, &names, backing).map_err(data)?;
    let mut exporter = Exporter {
        spec,
        names: &names,
        options: Options {
            part_names: if is_typed { PartNames::InLine } else { PartNames::Library },
            ..options
        },
        vector_dtype: map.vector_dtype,
        stored: &canonical.exprs,
        ties: model.ties.iter().map(|[tied, stored]| (tied.as_str(), stored.as_str())).collect(),
        recorded: provenance
            .map(|source| source.tensors.iter().map(ForeignTensor::known_name).collect()),
        turned: provenance
            .into_iter()
            .flat_map(|source| &source.tensors)
            .filter_map(|tensor| Some((tensor.known_name(), tensor.axes.as_deref()?)))
            .collect(),
        used: BTreeSet::new(),
        backing,
        tied: BTreeMap::new(),
        tensors: Tensors { inputs: canonical.inputs.clone(), ..Tensors::default() },
        errors: Vec::new(),
    };
    let (alternative, usual): (Vec<&Instance<'_>>, Vec<&Instance<'_>>) =
        instances.iter().partition(|instance| instance.rule.is_alternative);
    // Where the source has the names of an alternative, the usual rule's are not written.
    let alternative: Vec<&Instance<'_>> = alternative
        .into_iter()
        .filter(|instance| instance.from.iter().all(|name| exporter.was_recorded(name)))
        .collect();
    let made: BTreeSet<&String> = alternative.iter().flat_map(|instance| &instance.to).collect();
    let has_head = |head: &String| {
        let prefix = format!("heads.{head}.");
        canonical.exprs.keys().any(|name| name.starts_with(&prefix))
    };
    let left_out: Vec<(&DropHead, String)> = map
        .dropped_heads
        .iter()
        .filter(|dropped| dropped.beside.as_ref().is_none_or(has_head))
        .map(|dropped| (dropped, format!("heads.{}.", dropped.head)))
        .collect();
    let is_left_out = |name: &String| {
        let mut left_out = left_out.iter().filter(|(dropped, _)| dropped.beside.is_some());
        left_out.any(|(_, prefix)| name.starts_with(prefix))
    };
    for instance in usual {
        if !instance.to.iter().any(|name| made.contains(name) || is_left_out(name)) {
            exporter.plan_instance(instance);
        }
    }
    for instance in alternative {
        exporter.plan_instance(instance);
    }
    let mut findings = Vec::new();
    // A file that comes back as it was is no worse than its source.
    if used.is_none() {
        let found = readers(map, &names).map_err(data)?;
        let (errors, warnings): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|found| found.level == Level::Error);
        exporter.errors.extend(errors);
        findings.extend(warnings);
    }
    for (dropped, prefix) in &left_out {
        let parts = canonical.exprs.keys().filter(|name| name.starts_with(prefix));
        let parts: Vec<&Name> =
            parts.filter(|name| !exporter.used.contains(name.as_str())).collect();
        let tied = model.ties.iter().any(|[tied, _]| tied.starts_with(prefix));
        if parts.is_empty() && !tied {
            continue;
        }
        let message = format!(
            "the head `{}` ({} tensors) is left out: {}",
            dropped.head,
            parts.len(),
            dropped.why
        );
        findings.push(Diagnostic::warning("P006", message).tensor(format!("{prefix}*")));
        exporter.used.extend(parts.into_iter().map(String::from));
    }
    for name in canonical.exprs.keys() {
        if !exporter.used.contains(name.as_str()) {
            let message =
                format!("no rule of the mapping {}/{} takes `{name}`", map.format, map.name);
            exporter.errors.push(Diagnostic::error("P006", message).tensor(name));
        }
    }
    match provenance {
        Some(source) => {
            exporter.plan_dropped(map, &choices, source, buffers, &mut findings);
        }
        None => exporter.plan_without_source(map, &choices),
    }
    let Exporter { mut tensors, errors, tied, .. } = exporter;
    if !errors.is_empty() {
        return Err(errors);
    }
    match provenance {
        Some(source) => {
            let order: BTreeMap<&str, usize> = source
                .tensors
                .iter()
                .enumerate()
                .map(|(index, tensor)| (tensor.known_name(), index))
                .collect();
            tensors.sort_by_key(|name| {
                (order.get(name).copied().unwrap_or(usize::MAX), name.to_owned())
            });
        }
        None => tensors.sort_by_key(str::to_owned),
    }
    if is_typed {
        let sized = |mut config: Json| {
            typed::add_sizes(&mut config, &tensors);
            config
        };
        // Where the source says what the model is, it is repeated as it was.
        let says = |config: &Json| {
            keys::read(spec, map, arch, config)
                .is_ok_and(|read| read.hparams == *hparams && read.tokens == *tokens)
        };
        refuse_blocks(&map.format, &tensors.encodings)?;
        config = match original.cloned().map(sized).filter(says) {
            Some(original) => original,
            None => {
                let mut config = write(original)?;
                tasks::write(map, &model.tasks, &mut config);
                sized(config)
            }
        };
    } else {
        refuse_blocks(&map.format, &tensors.encodings)?;
        spec.layouts.keep_config(&mut config, !tensors.encodings.is_empty()).map_err(|why| {
            let (name, encoding) = tensors.encodings.first_key_value().expect("some are kept");
            let message = format!("`{name}` is in {}, and {why}", encoding.id);
            vec![Diagnostic::error("P012", message).tensor(name).help(DECODE_HELP)]
        })?;
        write_dtype(&mut config, &tensors, origin.map(|origin| origin.provenance));
    }
    let renamed: BTreeMap<&str, &str> = provenance
        .into_iter()
        .flat_map(|source| &source.tensors)
        .filter_map(|tensor| Some((tensor.read_as.as_deref()?, tensor.name.as_str())))
        .collect();
    if !renamed.is_empty() {
        tensors.rename(&|name| renamed.get(name).map(|name| (*name).to_owned()));
    }
    findings.extend(check_config(spec, map, arch, (model, &names, &stored), &config)?);
    if is_typed {
        findings.extend(check_tasks(spec, map, model, canonical, &config)?);
    }
    Ok(Export { tensors, config, findings, tied })
}

/// What programs that read the format do otherwise than the model says.
///
/// # Errors
/// A condition of the mapping cannot be computed.
fn readers(map: &Map, names: &StackNames<'_>) -> Result<Vec<Diagnostic>, String> {
    let mut findings = Vec::new();
    for reader in &map.readers {
        if reader.when.eval_bool(names)? {
            let level = if reader.warn { Level::Warning } else { Level::Error };
            let message = format!("programs that read {}: {}", map.format, reader.does);
            let used = reader.when.names();
            let finding = Diagnostic::new("P042", level, message);
            findings.push(match used.first() {
                Some(key) => finding.key(*key),
                None => finding,
            });
        }
    }
    Ok(findings)
}
