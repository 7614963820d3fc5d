//! What the way out writes, planned: from a package, or straight from a foreign checkpoint.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::canonical::canonical;
use super::components;
use super::gguf;
use super::read::{read_buffers, read_provenance, read_whole_model};
use super::report::ecosystem;
use super::request::{Failure, Request};
use super::sidecar::{sidecar_files, sidecar_files_of_package};
use crate::base::diagnostic::Diagnostic;
use crate::base::name::Name;
use crate::checkpoint::{Checkpoint, Encoding, Payload, Tensor};
use crate::folder::Opened;
use crate::folder::sentence_transformers::{self, MODULES_FILE};
use crate::metadata::Metadata;
use crate::package::{DenseStep, ForeignConfig, METADATA_FILE, Model, Provenance};
use crate::plan::export::{self, Origin};
use crate::plan::import::STRAY;
use crate::plan::program::Output;
use crate::plan::{self, Decode, Step, Tensors, dialect, typed};
use crate::spec::Spec;
use crate::spec::dialect::Dialect;
use crate::spec::ecosystem::Ecosystem;
use crate::spec::expr::as_int;
use crate::spec::map::Map;
use crate::spec::names::StackNames;

/// The files that say how a model embeds, for a source that says it otherwise.
fn embedding_modules(model: &Model, tensors: &Tensors) -> Vec<(String, Json)> {
    let task = model.tasks.iter().find(|task| task.id == "embedding" && task.head.is_none());
    let width = model.hyperparameters.get("hidden_size").and_then(as_int);
    let width = width.and_then(|width| u64::try_from(width).ok());
    let files = task.zip(width).and_then(|(task, width)| {
        let shape = |step: &DenseStep, part: &str| {
            let name = format!("heads.{}.dense.{part}", step.head);
            Some(tensors.exprs.get(&*name)?.0.layout.shape.clone())
        };
        let map = |step: &DenseStep| {
            let bias = shape(step, "bias").is_some();
            let shape = shape(step, "weight")?.try_into().ok()?;
            Some(sentence_transformers::Map { shape, bias, activation: step.activation.clone() })
        };
        let maps = task.dense.iter().map(map).collect::<Option<Vec<_>>>()?;
        let pool = task.pool.as_deref()?;
        sentence_transformers::files(pool, task.normalize == Some(true), width, &maps)
    });
    files.unwrap_or_default()
}

/// What is to be written.
pub(super) struct ExportPlan {
    pub(super) tensors: Tensors,
    pub(super) config: Option<String>,
    /// The file, one of `modules`, that stands in the place of that config.
    pub(super) own_config: Option<String>,
    /// The keys of a GGUF file.
    pub(super) metadata: Option<Metadata>,
    /// What makes an embedding, where no such file is carried over.
    pub(super) modules: Vec<(String, Json)>,
    /// The files of a tokenizer that are made of the keys of the source.
    pub(super) tokenizer: Vec<(&'static str, String)>,
    pub(super) carried: Vec<String>,
    pub(super) left: Vec<String>,
    pub(super) findings: Vec<Diagnostic>,
    pub(super) architecture: Option<String>,
    pub(super) map: Option<String>,
}

/// The way out, from a package or straight from a foreign checkpoint.
pub(super) fn export_plan(
    opened: &mut Opened,
    request: &Request<'_>,
    format: &str,
) -> std::result::Result<ExportPlan, Failure> {
    let (model, provenance, canonical_tensors, buffers, mut findings, left);
    let (kept, mut carried);
    if opened.is_package {
        kept = gguf::kept(opened)?;
        model = read_whole_model(opened)?;
        provenance = read_provenance(opened)?;
        // What no mapping reads comes back from where it is kept.
        let mut kept = read_buffers(opened)?;
        for of in components::read(opened, provenance.as_ref())?.into_values() {
            kept.get_or_insert_with(Checkpoint::default).tensors.extend(of.tensors);
        }
        buffers = kept;
        canonical_tensors = Tensors::of_checkpoint(&opened.checkpoint)?;
        findings = Vec::new();
        carried = sidecar_files_of_package(opened);
        left = Vec::new();
    } else {
        // A cast belongs to the tensors that are written, not to those in between, whose numbers
        // are never made.
        let plan = plan::Options { decode: Decode::All, ..plan::Options::default() };
        let inner = Request { plan, ..*request };
        let canonical = canonical(opened, &inner)?;
        model = canonical.model;
        provenance = Some(canonical.provenance);
        buffers = None;
        canonical_tensors = canonical.tensors;
        findings = canonical.findings;
        (carried, left) = sidecar_files(opened, request.spec);
        kept = ecosystem(opened).typed_keys.then(|| opened.checkpoint.typed_metadata.clone());
    }
    let recorded = provenance.as_ref().filter(|source| source.format == format);
    let Some(architecture) = &model.architecture else {
        let tensors = generic_export(&canonical_tensors, provenance.as_ref(), request.plan)?;
        if !Ecosystem::of(format).typed_keys {
            export::refuse_blocks(format, &tensors.encodings)?;
        } else if kept.is_none() {
            let message = "a GGUF file says which architecture it is of, and nothing says it here";
            return Err(Diagnostic::error("P001", message)
                .help("convert the source without --generic, with --arch if need be")
                .into());
        }
        let config = provenance.and_then(|source| source.config).map(|config| config.text);
        return Ok(ExportPlan {
            tensors,
            config,
            own_config: None,
            metadata: kept,
            modules: Vec::new(),
            tokenizer: Vec::new(),
            carried,
            left,
            findings,
            architecture: None,
            map: None,
        });
    };
    // What is only read back may be of more architectures than are written.
    let is_written = request.to == format;
    let dialect = match request.spec.dialect_to_write(format, architecture) {
        None if !is_written => {
            let names = recorded.iter().flat_map(|record| &record.tensors);
            let names: Vec<&str> = names.map(|tensor| tensor.name.as_str()).collect();
            request.spec.dialect_only_read(format, &names)
        }
        dialect => dialect,
    };
    let translated = recorded.filter(|_| dialect.is_some()).map(dialect::record);
    let source = translated.as_ref().map(|(record, _)| record).or(recorded);
    let format_asked = format;
    if is_written
        && dialect.is_none()
        && request.spec.dialects.iter().any(|dialect| dialect.recorded() == format)
    {
        return Err(no_map(request.spec, format, architecture).into());
    }
    let format = dialect.map_or(format, |dialect| dialect.of.as_str());
    let maps = export_maps(request.spec, format, architecture, source, provenance.as_ref())?;
    if dialect.is_some() {
        refuse_packed(format_asked, &canonical_tensors.encodings, request)?;
    }
    let outer = source.filter(|_| dialect.is_none()).and_then(|source| {
        let config: Json = serde_json::from_str(&source.config.as_ref()?.text).ok()?;
        Some((request.spec.compound(format, &config)?, config))
    });
    let origin = source.map(|provenance| {
        let config = match &outer {
            _ if Ecosystem::of(format).typed_keys => kept.as_ref().map(typed::keys),
            Some((compound, config)) => Some(compound.inner(config)),
            None => provenance.config.as_ref().and_then(|config| origin_config(config, dialect)),
        };
        Origin { provenance, config }
    });
    // Buffers that no recipe gives are read from where they are: the package, or the source.
    let own_buffers = (!opened.is_package).then(|| copy_checkpoint(&opened.checkpoint));
    let plan = |map| {
        export::export(
            request.spec,
            map,
            &model,
            &canonical_tensors,
            buffers.as_ref().or(own_buffers.as_ref()),
            origin.as_ref(),
            request.plan,
        )
    };
    let (mut map, mut exported) = (maps[0], plan(maps[0]));
    for other in &maps[1..] {
        if exported.is_ok() {
            break;
        }
        // What the plainest mapping has no words for, another one of the architecture may have.
        if let Ok(found) = plan(other) {
            (map, exported) = (other, Ok(found));
        }
    }
    let mut exported = exported?;
    findings.extend(exported.findings.iter().cloned());
    if source.is_none() {
        leave_out_strays(provenance.as_ref(), format, &mut findings);
        findings.extend(components::left_out(opened, provenance.as_ref(), format));
    }
    let (mut config, mut keys, mut tokenizer) = (None, None, Vec::new());
    if Ecosystem::of(format).typed_keys {
        let kept = kept.filter(|_| source.is_some());
        keys = Some(gguf::metadata(opened, request, kept, &mut exported, map, &mut findings)?);
    } else {
        if let Some((compound, config)) = &outer {
            exported.config =
                components::config(request.spec, map, &model, &exported.config, compound, config);
        }
        let text = serde_json::to_string_pretty(&exported.config).unwrap_or_default();
        config = Some(format!("{text}\n"));
        if let Some(kept) = kept.filter(|_| !opened.has(gguf::TOKENIZER_FILE)) {
            tokenizer = gguf::tokenizer_files(opened, request.spec, &kept, &mut findings);
        }
        // What stands in those files is there once.
        carried.retain(|name| tokenizer.is_empty() || name != METADATA_FILE);
    }
    let (mut extra, mut own_config) = (None, None);
    if let Some(dialect) = dialect {
        let names = StackNames {
            hparams: &model.hyperparameters,
            tokens: Some(&model.tokens),
            stack: None,
            layer: None,
        };
        let stored = translated.as_ref().map(|(_, stored)| stored.clone()).unwrap_or_default();
        exported.tensors =
            dialect::write(request.spec, dialect, &names, &exported, &stored, request.plan)?;
        if let Some(own) = &dialect.config {
            let theirs = own.theirs(&exported.config).map_err(|why| {
                Diagnostic::error("P005", format!("{} cannot be written: {why}", own.file))
            })?;
            if own.alone && is_written {
                let said = own.ours(&theirs, &shapes(&exported.tensors));
                findings.extend(export::check_own_config(
                    request.spec,
                    map,
                    &model,
                    &canonical_tensors,
                    &said,
                )?);
                config = None;
                own_config = Some(own.file.clone());
            }
            extra = Some((own.file.clone(), theirs));
        }
    }
    let modules = match carried.iter().any(|name| name == MODULES_FILE) {
        true => Vec::new(),
        false => embedding_modules(&model, &canonical_tensors),
    };
    let modules = modules.into_iter().chain(extra).collect();
    Ok(ExportPlan {
        tensors: exported.tensors,
        config,
        own_config,
        metadata: keys,
        modules,
        tokenizer,
        carried,
        left,
        findings,
        architecture: model.architecture.clone(),
        map: Some(format!("{}/{}", map.format, map.name)),
    })
}

/// What is written, as tensors of which the shapes alone are known.
fn shapes(tensors: &Tensors) -> Vec<Tensor> {
    let tensor = |output: &Output| Tensor {
        name: output.name.clone(),
        dtype: output.dtype,
        shape: output.shape.clone(),
        encoding: None,
        payload: Payload::Unreadable("it is not written yet".to_owned()),
    };
    tensors.outputs.iter().map(tensor).collect()
}

/// Tells of tensors beside the model, for which a format that the source is not of has no place.
fn leave_out_strays(provenance: Option<&Provenance>, format: &str, findings: &mut Vec<Diagnostic>) {
    let dropped = provenance.into_iter().flat_map(|source| &source.dropped);
    for stray in dropped.filter(|dropped| dropped.why == STRAY) {
        // What the way in said of them is of packages.
        findings.retain(|found| {
            found.rule != "P006" || found.tensor.as_ref().is_none_or(|name| *name != stray.name)
        });
        let message = format!(
            "`{}` stands beside the model, which is whole without it, and is left out of {format}",
            stray.name
        );
        let finding = Diagnostic::warning("P006", message).tensor(&stray.name);
        findings.push(finding.help("a package keeps its bytes; nothing computes with them"));
    }
}

/// The config of the source, in the words that the mappings read.
fn origin_config(config: &ForeignConfig, dialect: Option<&Dialect>) -> Option<Json> {
    let json = serde_json::from_str(&config.text).ok()?;
    match dialect.and_then(|dialect| dialect.config.as_ref()) {
        Some(own) if own.file == config.path => Some(own.ours(&json, &[])),
        _ => Some(json),
    }
}

/// Refuses tensors that are packed, where names and axes are those of plain ones.
fn refuse_packed(
    format: &str,
    encodings: &BTreeMap<Name, Encoding>,
    request: &Request<'_>,
) -> std::result::Result<(), Failure> {
    let packed = encodings.iter().next().filter(|_| request.plan.decode == Decode::Nothing);
    let Some((name, encoding)) = packed else { return Ok(()) };
    let (id, n) = (&encoding.id, encodings.len());
    let message = format!("`{name}` is in {id}, which no reader of {format} knows ({n} such)");
    Err(Diagnostic::error("P012", message).tensor(name).help(plan::DECODE_HELP).into())
}

fn copy_checkpoint(checkpoint: &Checkpoint) -> Checkpoint {
    Checkpoint {
        format: checkpoint.format,
        tensors: checkpoint.tensors.clone(),
        signatures: checkpoint.signatures.clone(),
        ..Checkpoint::default()
    }
}

/// The mappings of the way out, in the order to try: the one of the way in, or those of the architecture,
/// first of them the one that is named like that of the source, which may be of another format.
fn export_maps<'a>(
    spec: &'a Spec,
    format: &str,
    architecture: &str,
    source: Option<&Provenance>,
    origin: Option<&Provenance>,
) -> std::result::Result<Vec<&'a Map>, Failure> {
    let used = source.and_then(|source| source.map.as_ref());
    if let Some(map) = used.and_then(|used| spec.map(format, &used.name)) {
        return Ok(vec![map]);
    }
    let maps = spec.maps_to(format, architecture);
    let mut maps: Vec<&Map> = maps.collect();
    // A mapping named like its architecture is the plainest.
    let family = origin.and_then(|origin| origin.map.as_ref()).map(|map| map.name.as_str());
    maps.sort_by_key(|map| (family != Some(map.name.as_str()), map.name != architecture));
    if maps.is_empty() {
        return Err(no_map(spec, format, architecture).into());
    }
    Ok(maps)
}

/// An architecture is not written in a format.
fn no_map(spec: &Spec, format: &str, architecture: &str) -> Diagnostic {
    let dialects = spec.dialects.iter().filter(|dialect| dialect.recorded() == format);
    let written: Vec<&str> = dialects.flat_map(Dialect::architectures).collect();
    let message = format!("there is no {format} mapping of {architecture}");
    let help = match written.is_empty() {
        true => "`llmstd spec list` shows what there is".to_owned(),
        false => format!("what is written as {format}: {}", written.join(", ")),
    };
    Diagnostic::error("P001", message).help(help)
}

/// Tensors of an unknown architecture, under the names they came with.
fn generic_export(
    canonical: &Tensors,
    provenance: Option<&Provenance>,
    options: plan::Options,
) -> std::result::Result<Tensors, Failure> {
    let mut tensors = Tensors { inputs: canonical.inputs.clone(), ..Tensors::default() };
    for (name, (expr, dtype)) in &canonical.exprs {
        let foreign = name.strip_prefix("extra.").unwrap_or(name);
        let step = Step::copy(name);
        tensors.write(foreign, expr.clone(), *dtype, options, step)?;
    }
    let order: BTreeMap<&str, usize> = provenance
        .iter()
        .flat_map(|source| source.tensors.iter().enumerate())
        .map(|(index, tensor)| (tensor.name.as_str(), index))
        .collect();
    tensors.sort_by_key(|name| (order.get(name).copied().unwrap_or(usize::MAX), name.to_owned()));
    Ok(tensors)
}
