//! A checkpoint in the terms of the standard: the way in, before anything is written.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;

use super::components::{self, Components};
use super::facts::Bytes;
use super::read::read_whole_model;
use super::report::{ecosystem, foreign_format};
use super::request::{Failure, Request};
use super::sidecar::sidecar_files;
use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::error::Result;
use crate::checkpoint::Tensor;
use crate::folder::{self, CONFIG_FILE, FolderFile, Opened, sentence_transformers};
use crate::manifest::is_tokenizer_file;
use crate::package::{
    Conformance, DenseStep, ForeignConfig, ForeignFile, ForeignTensor, Hparams, MANIFEST_FILE,
    MODEL_FILE, Model, Provenance, SOURCE_SCHEMA, Task, Value, WayBack,
};
use crate::plan::import::{self, Import};
use crate::plan::program::Output;
use crate::plan::{self, Decode, Facts, Tensors, aliases, dialect, generic, typed};
use crate::rule::view::{PackageView, Stored};
use crate::rule::{self, Selection};
use crate::spec::Spec;
use crate::spec::dialect::Dialect;
use crate::spec::ecosystem::Ecosystem;
use crate::spec::ecosystem::config::MODEL_TYPE;

/// A checkpoint in the standard's terms: `model.json`, and the plan of the canonical tensors where
/// the checkpoint is no package. Nothing is written.
///
/// # Errors
/// It cannot be read, or it cannot be brought to the standard.
pub fn model_of(
    opened: &mut Opened,
    spec: &Spec,
    arch: Option<&str>,
) -> std::result::Result<(Model, Option<Tensors>), Failure> {
    let complete = |mut model: Model| {
        model.hyperparameters = spec.complete_hparams(&model.hyperparameters);
        model
    };
    if opened.is_package {
        return Ok((complete(read_whole_model(opened)?), None));
    }
    // The reference forward reads blocks as they are, and of parts the numbers.
    let plan = plan::Options { decode: Decode::Parts, ..plan::Options::default() };
    let request = Request { arch, plan, dry_run: true, ..Request::new(spec, Path::new(""), "std") };
    let canonical = canonical(opened, &request)?;
    Ok((complete(canonical.model), Some(canonical.tensors)))
}

/// A checkpoint in the standard's terms, before anything is written.
pub(crate) struct Canonical {
    pub(crate) tensors: Tensors,
    pub(super) buffers: Tensors,
    pub(crate) components: Components,
    pub(crate) model: Model,
    pub(super) provenance: Provenance,
    pub(super) map: Option<String>,
    pub(crate) findings: Vec<Diagnostic>,
}

impl Canonical {
    /// What is to be written and what was noticed, for whoever writes nothing: the rest takes memory.
    pub(crate) fn into_outputs(self) -> (Model, Vec<Output>, Vec<Diagnostic>) {
        (self.model, self.tensors.outputs, self.findings)
    }
}

/// Plans the way in. Of the request only the standard, the architecture, casts and `generic`
/// count.
pub(crate) fn canonical(
    opened: &mut Opened,
    request: &Request<'_>,
) -> std::result::Result<Canonical, Failure> {
    let mut findings = Vec::new();
    let format = foreign_format(opened);
    let dialect = dialect::of(request.spec, format, &opened.checkpoint);
    let (config, stored_config) = match Ecosystem::of(format).typed_keys {
        true => (Some(typed::config(request.spec, &opened.checkpoint, &opened.source)), None),
        false => config_of(opened, dialect)?.unzip(),
    };
    let files = opened.weights.iter().map(|name| {
        let len = opened.source.find(name).map_or(0, |file| opened.source.extent(file).len);
        ForeignFile { path: name.clone(), len }
    });
    let mut provenance = Provenance {
        schema: SOURCE_SCHEMA.to_owned(),
        format: match dialect {
            _ if request.generic => "generic",
            Some(dialect) => dialect.recorded(),
            None => format,
        }
        .to_owned(),
        container: opened.checkpoint.format.to_owned(),
        map: None,
        tool: concat!("llmstd ", env!("CARGO_PKG_VERSION")).to_owned(),
        tensors: Vec::new(),
        copies: Vec::new(),
        dropped: Vec::new(),
        losses: BTreeMap::new(),
        files: files.collect(),
        config: stored_config,
    };
    let mut model = Model {
        spec: request.spec.first.clone(),
        requires: Vec::new(),
        conformance: Conformance::Container,
        architecture: None,
        hyperparameters: BTreeMap::new(),
        tokens: BTreeMap::new(),
        ties: Vec::new(),
        encodings: BTreeMap::new(),
        tasks: Vec::new(),
        history: Vec::new(),
    };
    if request.generic {
        let tensors = generic::import(&opened.checkpoint, request.plan)?;
        model.encodings = encodings(&tensors);
        provenance.tensors = opened
            .checkpoint
            .tensors
            .iter()
            .map(|tensor| ForeignTensor {
                name: tensor.name.clone(),
                dtype: tensor.dtype.name().into(),
                read_as: None,
                axes: None,
            })
            .collect();
        let buffers = Tensors::default();
        let components = Components::new();
        return Ok(Canonical {
            tensors,
            buffers,
            components,
            model,
            provenance,
            map: None,
            findings,
        });
    }
    if let Some(finding) = refused_input(opened, config.as_ref()) {
        return Err(finding.into());
    }
    let Some(mut config) = config else {
        let message = "there is no config.json beside the weights, and nothing else says which \
                       architecture they are of";
        return Err(Diagnostic::error("P001", message)
            .file(CONFIG_FILE)
            .help("put the model's config.json beside them, name its folder with --config, or keep names and bytes with --generic")
            .into());
    };
    let packed = match dialect {
        Some(dialect) if dialect.apart => opened.logical()?,
        _ => None,
    };
    let stored = packed.as_ref().unwrap_or(&opened.checkpoint);
    let mut translated = match dialect {
        Some(dialect) => {
            let facts = Bytes(&opened.source);
            let same = |left: &Tensor, right: &Tensor| facts.equal(left, right);
            let mut translated = dialect::read(dialect, stored, &same)?;
            findings.extend(dialect::trim(dialect, &mut translated, &config));
            Some(translated)
        }
        None => None,
    };
    let format = dialect.map_or(format, |dialect| dialect.of.as_str());
    let compound = request.spec.compound(format, &config).filter(|_| dialect.is_none());
    if let Some(compound) = compound {
        if let Some(refusal) = compound.refusal(&config) {
            return Err(refusal.into());
        }
        config = compound.inner(&config);
        let names = compound.renames(&opened.checkpoint);
        opened.rename(&names);
    }
    let mut logical = match translated {
        Some(_) => None,
        None => opened.logical()?,
    };
    let of_dialect = translated.as_ref().map(|translated| &translated.checkpoint);
    let checkpoint = of_dialect.or(logical.as_ref()).unwrap_or(&opened.checkpoint);
    let text = compound.map(|compound| compound.text(checkpoint));
    let checkpoint = text.as_ref().unwrap_or(checkpoint);
    let map =
        import::choose(request.spec, format, checkpoint, &config, request.arch, &mut findings)?;
    if let Some(found) = aliases::find(request.spec, map, checkpoint, &config)? {
        if let Some(translated) = &mut translated {
            translated.rename(&found.names);
        } else {
            opened.rename(&found.names);
            logical = opened.logical()?;
        }
        opened.checkpoint.findings.push(found.note);
    }
    let of_dialect = translated.as_ref().map(|translated| &translated.checkpoint);
    let checkpoint = of_dialect.or(logical.as_ref()).unwrap_or(&opened.checkpoint);
    let text = compound.map(|compound| compound.text(checkpoint));
    let checkpoint = text.as_ref().unwrap_or(checkpoint);
    let numbers = typed::with_numbers(map, checkpoint, &mut opened.source);
    let checkpoint = numbers.as_ref().unwrap_or(checkpoint);
    let facts = Bytes(&opened.source);
    let Import {
        tensors,
        buffers,
        arch,
        keys,
        ties,
        mut tasks,
        map: used,
        foreign,
        copies,
        dropped,
        findings: found,
    } = import::import(request.spec, map, checkpoint, &config, &facts, request.plan)?;
    findings.extend(found);
    let embedding = embedding_task(opened, request.spec, &keys.hparams, &mut findings)?;
    let lists =
        |task: &Task| request.spec.arch(&arch).is_some_and(|arch| arch.tasks.contains(&task.id));
    match embedding {
        Some(task) if !lists(&task) => findings.push(
            Diagnostic::warning(
                "P018",
                format!("the task {:?} is left out: {arch} does not serve it", task.id),
            )
            .file(sentence_transformers::MODULES_FILE)
            .help("the modules are carried; the standard has no words for them here"),
        ),
        embedding => tasks.extend(embedding),
    }
    model.architecture = Some(arch);
    model.hyperparameters = keys.hparams;
    model.tokens = keys.tokens;
    model.ties = ties;
    model.encodings = encodings(&tensors);
    model.tasks = tasks;
    model.conformance = claim(opened, request.spec, &model, &tensors, &mut findings);
    provenance.tensors = foreign
        .into_iter()
        .flat_map(|tensor| {
            let of_dialect =
                translated.as_ref().and_then(|of| of.names.get(&*tensor.name).cloned());
            let renamed = || Some(vec![(opened.renamed.get(&*tensor.name)?.clone(), None)]);
            let Some(stored) = of_dialect.or_else(renamed) else { return vec![tensor] };
            let stored = stored.into_iter().map(|(name, axes)| {
                let read_as = Some(tensor.name.clone());
                let axes = match (axes, &tensor.axes) {
                    (Some(stored), Some(turned)) => {
                        Some(turned.iter().map(|&axis| stored[axis]).collect())
                    }
                    (stored, turned) => {
                        stored.map(Vec::into_boxed_slice).or_else(|| turned.clone())
                    }
                };
                ForeignTensor { name: name.into(), read_as, axes, ..tensor.clone() }
            });
            stored.collect()
        })
        .collect();
    provenance.copies = copies;
    provenance.dropped = dropped;
    if let Some(translated) = translated {
        findings.extend(dialect::told(&translated.aside));
        // What a recipe makes is of the mappings' own library: a dialect writes none of it.
        let made = provenance.dropped.iter_mut().filter(|of| of.back == WayBack::Made);
        for dropped in made {
            dropped.back = WayBack::Lost;
            // Under the name that the file has for it.
            if let Some((stored, _)) = translated.names.get(&dropped.name).and_then(|of| of.first())
            {
                dropped.name.clone_from(stored);
            }
        }
        provenance.dropped.extend(translated.aside);
    }
    let mut components = Components::new();
    if let Some(compound) = compound {
        let text = std::mem::take(&mut provenance.tensors);
        components = components::plan(compound, opened, text, &mut provenance)?;
    }
    provenance.map = Some(used);
    let map = Some(format!("{}/{}", map.format, map.name));
    Ok(Canonical { tensors, buffers, components, model, provenance, map, findings })
}

/// As [`canonical`], where nothing is written: if packed tensors cannot stay as they are, the model is
/// looked at as the numbers that they stand for, and a note says so.
pub(crate) fn canonical_or_decoded(
    opened: &mut Opened,
    request: &Request<'_>,
) -> std::result::Result<Canonical, Failure> {
    let found = match canonical(opened, request) {
        Err(Failure::Findings(found)) if found.iter().all(|finding| finding.rule == "P012") => {
            found
        }
        done => return done,
    };
    let plan = plan::Options { decode: Decode::All, ..request.plan };
    let decoded = canonical(opened, &Request { plan, ..*request });
    let mut canonical = decoded.map_err(|_| Failure::Findings(found.clone()))?;
    let first = found.first().map_or("", |finding| finding.message.as_str());
    let message = format!(
        "{first} ({} such); what is packed is looked at as the numbers that it stands for",
        found.len()
    );
    canonical.findings.push(Diagnostic::note("P012", message).help(plan::DECODE_HELP));
    Ok(canonical)
}

/// The config that the mappings read, and the one that the files have.
pub(crate) fn config_of(
    opened: &mut Opened,
    dialect: Option<&Dialect>,
) -> Result<Option<(Json, ForeignConfig)>> {
    let own = dialect.and_then(|dialect| dialect.config.as_ref());
    let found = opened.config()?;
    // Beside the config of the mappings' library its own says nothing new.
    let says = found.as_ref().is_some_and(|(config, _)| config.get(MODEL_TYPE).is_some());
    // Some have it in the files of the weights.
    let inner = own.and_then(|own| opened.checkpoint.metadata.get(&own.file)).cloned();
    let Some(own) = own.filter(|own| !says && (inner.is_some() || opened.has(&own.file))) else {
        let stored = |text| ForeignConfig { path: CONFIG_FILE.to_owned(), text };
        return Ok(found.map(|(config, text)| (config, stored(text))));
    };
    let inner = inner.and_then(|text| Some((serde_json::from_str(&text).ok()?, text)));
    let stated = match inner {
        Some(inner) => Some(inner),
        None if own.file.ends_with(".yaml") => opened.yaml(&own.file)?.map(|config| {
            let text = config.to_string();
            (config, text)
        }),
        None => opened.json(&own.file)?.zip(opened.text(&own.file)?),
    };
    let Some((config, text)) = stated else {
        return Ok(None);
    };
    let config = own.ours(&config, &opened.checkpoint.tensors);
    Ok(Some((config, ForeignConfig { path: own.file.clone(), text })))
}

/// What an input is that is no model by itself, and what to do with it.
fn refused_input(opened: &mut Opened, config: Option<&Json>) -> Option<Diagnostic> {
    if let Some(found) = super::check::two_of_one_name(&opened.checkpoint.findings) {
        return Some(found.clone());
    }
    let weights = opened.weights.clone();
    let of_adapter = |name: &str| {
        name.split('.').any(|part| part.starts_with("lora_") || part.starts_with("ia3_"))
    };
    let n = opened.checkpoint.tensors.iter().filter(|tensor| of_adapter(&tensor.name)).count();
    if n != 0 {
        let adapter = opened.json(ADAPTER_CONFIG).ok().flatten();
        let text = |key: &str| adapter.as_ref()?.get(key)?.as_str().map(str::to_owned);
        let kind = text("peft_type").unwrap_or_else(|| "LoRA".to_owned());
        let base = text("base_model_name_or_path").filter(|base| !base.is_empty());
        let of_base = base.map_or_else(String::new, |base| format!(" of the base {base}"));
        let message = if n == opened.checkpoint.tensors.len() {
            format!("this is a {kind} adapter{of_base}, and no model by itself")
        } else {
            format!("{n} tensors are those of a {kind} adapter{of_base}, which is not merged yet")
        };
        return Some(
            Diagnostic::error("P001", message)
                .file(weights.first().cloned().unwrap_or_default())
                .help(
                    "merge it into its base with peft, `model.merge_and_unload()`, and save that; or \
                     keep names and bytes with --generic",
                ),
        );
    }
    let [file] = weights.as_slice() else { return None };
    if let Some((number, count)) = folder::shard_number(file)
        && 1 < count
        && !ecosystem(opened).joins_shards
    {
        let message = format!("`{file}` is shard {number} of {count}, and no model by itself");
        return Some(
            Diagnostic::error("P008", message)
                .file(file)
                .help("name the folder, or the shard index"),
        );
    }
    let is_ours = config.is_none() && opened.has(MODEL_FILE) && opened.has(MANIFEST_FILE);
    is_ours.then(|| {
        let message = format!("`{file}` is a file of a package of the standard");
        Diagnostic::error("P001", message).file(file).help("name the folder")
    })
}

/// Where peft says what an adapter is of.
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// What the tensors of bytes are, as `model.json` says it.
pub(super) fn encodings(tensors: &Tensors) -> BTreeMap<String, Json> {
    let entries = tensors.encodings.iter().map(|(name, encoding)| {
        (name.to_string(), serde_json::to_value(encoding).expect("strings and numbers"))
    });
    entries.collect()
}

/// The level that a package may claim: as far as the rules go along.
fn claim(
    opened: &Opened,
    spec: &Spec,
    model: &Model,
    tensors: &Tensors,
    findings: &mut Vec<Diagnostic>,
) -> Conformance {
    let stored = Stored::planned(tensors.outputs.iter().cloned());
    let files = written_files(opened, spec);
    let has_tokenizer = files.iter().any(|file| is_tokenizer_file(&file.name));
    let view = PackageView::planned(spec, model.clone(), stored, opened.source.again(), files);
    let verdict = rule::verdict(&view, Conformance::Full, &Selection::default());
    if verdict.reached == Some(Conformance::Full) {
        return Conformance::Full;
    }
    // Without tokenizer or task a model is not meant to be more; where both are there, what is
    // wrong with them has to be told.
    if has_tokenizer && !model.tasks.is_empty() {
        let wrong = verdict.findings.into_iter().filter(|found| found.level == Level::Error);
        let told = wrong.map(|found| Diagnostic { level: Level::Warning, ..found });
        findings.extend(told);
    }
    // The plan is complete, which is what the level below asks.
    Conformance::Schema
}

/// The files beside the weights that a package of this source has: what is not written is no part of
/// it, whatever it is.
pub(crate) fn written_files(opened: &Opened, spec: &Spec) -> Vec<FolderFile> {
    let (carried, _) = sidecar_files(opened, spec);
    let mut files = opened.files.clone();
    files.retain(|file| carried.contains(&file.name));
    files
}

/// The embedding task of a sentence-transformers folder.
fn embedding_task(
    opened: &mut Opened,
    spec: &Spec,
    hparams: &Hparams,
    findings: &mut Vec<Diagnostic>,
) -> Result<Option<Task>> {
    let Some(modules) = sentence_transformers::read(&mut |path| opened.json(path), findings)?
    else {
        return Ok(None);
    };
    let hidden = match hparams.get("hidden_size") {
        Some(Value::Int(int)) => u64::try_from(*int).ok(),
        _ => None,
    };
    let rows = modules.dense.last().map_or(hidden, |dense| dense.width);
    let Some((inputs, outputs)) = spec.task_ports("embedding", hparams, rows) else {
        return Ok(None);
    };
    let dense = modules.dense.iter().enumerate().map(|(index, dense)| DenseStep {
        head: match index {
            0 => "embedding".to_owned(),
            index => format!("embedding_{}", index + 1),
        },
        activation: dense.activation.map(str::to_owned),
    });
    Ok(Some(Task {
        id: "embedding".to_owned(),
        head: None,
        pool: modules.pool.map(str::to_owned),
        normalize: Some(modules.normalize),
        activation: None,
        dense: dense.collect(),
        problem: None,
        labels: None,
        inputs,
        outputs,
    }))
}
