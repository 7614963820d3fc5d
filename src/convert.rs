//! The conversion: open, plan, execute, write beside the destination, rename when whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::checkpoint::{Checkpoint, DType, Tensor};
use crate::diagnostic::{Diagnostic, Level};
use crate::encoding::{BLOCK_TYPES, BlockType};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::compare::{Operand, digests, first_difference};
use crate::exec::staging::{Staging, free_space};
use crate::exec::write::{self, Container, Shard, Written};
use crate::format::folder::{self, CONFIG_FILE, Opened};
use crate::format::gguf::types::TYPES;
use crate::format::modules::{self, MODULES_FILE};
use crate::format::safetensors;
use crate::forward::{self, Inputs, Outputs, Planned};
use crate::manifest::{
    FileFacts, Manifest, ManifestInput, TensorFacts, is_tokenizer_file, needs_text,
};
use crate::metadata::Metadata;
use crate::package::{
    BUFFERS_FILE, Conformance, DenseStep, Dropped, Event, ForeignConfig, ForeignFile,
    ForeignTensor, Hparams, Loss, MANIFEST_FILE, METADATA_FILE, MODEL_FILE, Model, Provenance,
    SOURCE_FILE, SOURCE_SCHEMA, TENSORS_STEM, Task, Value,
};
use crate::plan::export::Origin;
use crate::plan::import::Import;
use crate::plan::program::{Content, Make, Output, whole};
use crate::plan::{self, Decode, Exactness, Facts, Step, Tensors, export, generic, import, typed};
use crate::rule::subject::{Stored, Subject};
use crate::rule::{self, Selection};
use crate::source::Source;
use crate::spec::Spec;
use crate::spec::expr::as_int;
use crate::spec::map::Map;

pub(crate) mod gguf;

/// What to convert, and how.
pub struct Request<'a> {
    /// The standard.
    pub spec: &'a Spec,
    /// The destination.
    pub destination: &'a Path,
    /// The format to write: `std`, or a foreign one.
    pub to: &'a str,
    /// The architecture, where the config does not say it.
    pub arch: Option<&'a str>,
    /// Whether to keep names and bytes as they are, without an architecture.
    pub generic: bool,
    /// Casts.
    pub plan: plan::Options,
    /// The most bytes of tensors in one file.
    pub max_shard_bytes: Option<u64>,
    /// How many threads work; the bytes do not depend on it.
    pub n_threads: usize,
    /// Whether to replace the destination.
    pub force: bool,
    /// Whether to prove the way back by hash.
    pub verify: bool,
    /// Whether to compute the outputs of source and result, and to compare them.
    pub check_outputs: bool,
    /// Whether to plan only.
    pub dry_run: bool,
    /// Hears of progress.
    pub progress: &'a dyn Progress,
}

impl<'a> Request<'a> {
    /// A plain conversion on one thread: nothing is cast, proven or replaced.
    pub fn new(spec: &'a Spec, destination: &'a Path, to: &'a str) -> Request<'a> {
        Request {
            spec,
            destination,
            to,
            arch: None,
            generic: false,
            plan: plan::Options::default(),
            max_shard_bytes: None,
            n_threads: 1,
            force: false,
            verify: false,
            check_outputs: false,
            dry_run: false,
            progress: &Silent,
        }
    }
}

/// Hears of the progress of long work.
pub trait Progress: Sync {
    /// A phase begins, of so many bytes.
    fn begin(&self, phase: &str, n_bytes: u64);
    /// So many more bytes are done.
    fn advance(&self, n_bytes: u64);
    /// The phase is over.
    fn end(&self);
}

/// Nobody watches.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

/// Why nothing was converted.
#[derive(Debug)]
pub enum Failure {
    /// The work stopped.
    Error(Error),
    /// The plan is not complete.
    Findings(Vec<Diagnostic>),
}

impl From<Error> for Failure {
    fn from(err: Error) -> Failure {
        Failure::Error(err)
    }
}

impl From<Vec<Diagnostic>> for Failure {
    fn from(findings: Vec<Diagnostic>) -> Failure {
        Failure::Findings(findings)
    }
}

impl From<Diagnostic> for Failure {
    fn from(finding: Diagnostic) -> Failure {
        Failure::Findings(vec![finding])
    }
}

/// What was, or would be, done.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Report {
    /// `llmstd.convert/1`.
    pub schema: &'static str,
    /// The input.
    pub source: String,
    /// The format and container of the input.
    pub from: String,
    /// The format of the output.
    pub to: String,
    /// The architecture, if there is one.
    pub architecture: Option<String>,
    /// The mapping, `hf/NAME`, if there is one.
    pub map: Option<String>,
    /// The output.
    pub destination: String,
    /// Whether it was only planned.
    pub dry_run: bool,
    /// The level of conformance of a package.
    pub conformance: Option<Conformance>,
    /// The tensors that are written, and how each is made.
    pub tensors: Vec<TensorReport>,
    /// Bytes of tensors.
    pub tensor_bytes: u64,
    /// Most bytes of memory for tensors under way, whatever the size of the model.
    pub peak_memory: u64,
    /// Bytes free on the disk of the destination, where the system says so.
    pub free_disk: Option<u64>,
    /// The foreign tensors that the standard does not store, and how each comes back.
    pub dropped: Vec<Dropped>,
    /// The foreign tensors that repeat another one: `[copy, canonical name]`.
    pub copies: Vec<[String; 2]>,
    /// Files carried over byte for byte.
    pub carried: Vec<String>,
    /// Files left behind.
    pub left: Vec<String>,
    /// What value ops and casts changed, over all tensors.
    pub loss: Option<Loss>,
    /// What `--verify` proved.
    pub verified: Option<Verified>,
    /// How far the outputs of source and result are apart, by `--check-outputs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<OutputDifference>>,
    /// What is suspicious.
    pub findings: Vec<Diagnostic>,
}

/// One tensor that is written.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TensorReport {
    /// How it is made.
    #[serde(flatten)]
    pub step: Step,
    /// Its dtype.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// What its bytes are, where they are blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// The storages it is read from.
    pub read: Vec<ReadRange>,
    /// Its SHA-256, when it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What value ops and casts changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
}

/// A range of a file that a tensor is read from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct ReadRange {
    /// The file.
    pub file: String,
    /// The first byte, and one past the last, of the storage.
    pub bytes: [u64; 2],
}

/// What the way back gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Verified {
    /// The foreign tensors that come back with the same SHA-256.
    pub equal: u64,
    /// Those that were changed on purpose, by a cast or a value op.
    pub changed: u64,
}

/// How far an output of the result is from that of the source.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct OutputDifference {
    /// The output, `causal-lm.logits`.
    pub name: String,
    /// The greatest difference of two elements.
    pub max_abs: f32,
    /// The greatest element of the source's output, without its sign.
    pub scale: f32,
}

/// Converts a checkpoint.
///
/// # Errors
/// It cannot be read, the plan is not complete, or the destination cannot be written. Nothing is
/// left under the destination's name then.
pub fn convert(mut opened: Opened, request: &Request<'_>) -> std::result::Result<Report, Failure> {
    if request.dry_run {
        // Planning asks nothing of the destination; the refusal comes early all the same.
        check_destination(request)?;
    }
    if let Some(blocks) = request.plan.quantize
        && request.to != export::GGUF
    {
        let message = format!("{} is packed in GGUF files only: add --to gguf", blocks.id);
        return Err(Error::unsupported(message).into());
    }
    if request.generic && request.plan.decode != Decode::Nothing && opened.logical()?.is_some() {
        let message = "it has tensors that are stored as several, which --generic takes one by one";
        return Err(Diagnostic::error("P012", message)
            .help("leave out --generic to decode them, or --decode to keep them")
            .into());
    }
    match (request.to, opened.is_package) {
        ("std", true) => repack(&mut opened, request),
        ("std", false) => to_std(&mut opened, request),
        (format, _) => to_foreign(&mut opened, request, format),
    }
}

fn check_destination(request: &Request<'_>) -> Result<()> {
    if request.destination.symlink_metadata().is_ok() && !request.force {
        let message = "exists already; --force replaces it";
        return Err(Error::new(ErrorKind::Io, message).in_file(request.destination));
    }
    Ok(())
}

/// Answers the planner's questions from the bytes.
struct Bytes<'a>(&'a Source);

impl Facts for Bytes<'_> {
    fn equal(&self, left: &Tensor, right: &Tensor) -> Result<bool> {
        let (left_input, left) = whole(left, 0)?;
        let (right_input, right) = whole(right, 0)?;
        let left = Operand { source: self.0, inputs: &[left_input], output: &left };
        let right = Operand { source: self.0, inputs: &[right_input], output: &right };
        Ok(first_difference(left, right)?.is_none())
    }

    fn made(&self, tensor: &Tensor, make: &Make) -> Result<bool> {
        let (input, stored) = whole(tensor, 0)?;
        let made = Output {
            name: tensor.name.clone(),
            dtype: make.dtype,
            shape: make.shape.clone(),
            content: Content::Make(make.clone()),
        };
        let stored = Operand { source: self.0, inputs: &[input], output: &stored };
        let made = Operand { source: self.0, inputs: &[], output: &made };
        Ok(first_difference(stored, made)?.is_none())
    }
}

/// A checkpoint in the standard's terms: `model.json`, and the plan of the canonical tensors where
/// the checkpoint is no package. Nothing is written.
///
/// # Errors
/// It cannot be read, or it cannot be brought to the standard.
pub fn terms(
    opened: &mut Opened,
    spec: &Spec,
    arch: Option<&str>,
) -> std::result::Result<(Model, Option<Tensors>), Failure> {
    if opened.is_package {
        return Ok((read_whole_model(opened)?, None));
    }
    // The reference forward reads blocks as they are, and of parts the numbers.
    let plan = plan::Options { decode: Decode::Parts, ..plan::Options::default() };
    let request = Request { arch, plan, dry_run: true, ..Request::new(spec, Path::new(""), "std") };
    let canonical = canonical(opened, &request)?;
    Ok((canonical.model, Some(canonical.tensors)))
}

/// A checkpoint in the standard's terms, before anything is written.
pub(crate) struct Canonical {
    pub(crate) tensors: Tensors,
    buffers: Tensors,
    pub(crate) model: Model,
    provenance: Provenance,
    map: Option<String>,
    pub(crate) findings: Vec<Diagnostic>,
}

/// Plans the way in. Of the request only the standard, the architecture, casts and `generic`
/// count.
pub(crate) fn canonical(
    opened: &mut Opened,
    request: &Request<'_>,
) -> std::result::Result<Canonical, Failure> {
    let mut findings = Vec::new();
    let format = foreign_format(opened);
    let (config, config_text) = match format {
        export::GGUF => {
            (Some(typed::config(request.spec, &opened.checkpoint, &opened.source)), None)
        }
        _ => opened.config()?.unzip(),
    };
    let files = opened.weights.iter().map(|name| {
        let len = opened.source.find(name).map_or(0, |file| opened.source.extent(file).len);
        ForeignFile { path: name.clone(), len }
    });
    let mut provenance = Provenance {
        schema: SOURCE_SCHEMA.to_owned(),
        format: if request.generic { "generic" } else { format }.to_owned(),
        container: opened.checkpoint.format.to_owned(),
        map: None,
        tool: concat!("llmstd ", env!("CARGO_PKG_VERSION")).to_owned(),
        tensors: Vec::new(),
        copies: Vec::new(),
        dropped: Vec::new(),
        losses: BTreeMap::new(),
        files: files.collect(),
        config: config_text.map(|text| ForeignConfig { path: CONFIG_FILE.to_owned(), text }),
    };
    let mut model = Model {
        spec: request.spec.version.clone(),
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
                dtype: tensor.dtype.name().to_owned(),
            })
            .collect();
        let buffers = Tensors::default();
        return Ok(Canonical { tensors, buffers, model, provenance, map: None, findings });
    }
    let Some(config) = config else {
        let message = "there is no config.json beside the weights, and nothing else says which \
                       architecture they are of";
        return Err(Diagnostic::error("P001", message)
            .file(CONFIG_FILE)
            .help("put the model's config.json beside them, or keep names and bytes with --generic")
            .into());
    };
    let logical = opened.logical()?;
    let checkpoint = logical.as_ref().unwrap_or(&opened.checkpoint);
    let map =
        import::choose(request.spec, format, checkpoint, &config, request.arch, &mut findings)?;
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
    tasks.extend(embedding_task(opened, request.spec, &keys.hparams, &mut findings)?);
    model.architecture = Some(arch);
    model.hyperparameters = keys.hparams;
    model.tokens = keys.tokens;
    model.ties = ties;
    model.encodings = encodings(&tensors);
    model.tasks = tasks;
    model.conformance = claim(opened, request.spec, &model, &tensors, &mut findings);
    provenance.tensors = foreign;
    provenance.copies = copies;
    provenance.dropped = dropped;
    provenance.map = Some(used);
    let map = Some(format!("{}/{}", map.format, map.name));
    Ok(Canonical { tensors, buffers, model, provenance, map, findings })
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
    let decoded = canonical(opened, &Request { plan, ..copy_of(request) });
    let mut canonical = decoded.map_err(|_| Failure::Findings(found.clone()))?;
    let first = found.first().map_or("", |finding| finding.message.as_str());
    let message = format!(
        "{first} ({} such); what is packed is looked at as the numbers that it stands for",
        found.len()
    );
    canonical.findings.push(Diagnostic::note("P012", message).help(plan::DECODE_HELP));
    Ok(canonical)
}

/// The format of a checkpoint that is no package.
fn foreign_format(opened: &Opened) -> &'static str {
    if opened.checkpoint.format == export::GGUF { export::GGUF } else { "hf" }
}

/// What the tensors of bytes are, as `model.json` says it.
fn encodings(tensors: &Tensors) -> BTreeMap<String, Json> {
    let entries = tensors.encodings.iter().map(|(name, encoding)| {
        (name.clone(), serde_json::to_value(encoding).expect("strings and numbers"))
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
    let stored = tensors.outputs.iter().map(Stored::planned).collect();
    let root = opened.source.root();
    let subject = Subject::planned(spec, model.clone(), stored, root, opened.files.clone());
    let verdict = rule::verdict(&subject, Conformance::Full, &Selection::default());
    if verdict.reached == Some(Conformance::Full) {
        return Conformance::Full;
    }
    // Without tokenizer or task a model is not meant to be more; where both are there, what is
    // wrong with them has to be told.
    let has_tokenizer = opened.files.iter().any(|file| is_tokenizer_file(&file.name));
    if has_tokenizer && !model.tasks.is_empty() {
        let wrong = verdict.findings.into_iter().filter(|found| found.level == Level::Error);
        let told = wrong.map(|found| Diagnostic { level: Level::Warning, ..found });
        findings.extend(told);
    }
    // The plan is complete, which is what the level below asks.
    Conformance::Schema
}

/// The embedding task of a sentence-transformers folder.
fn embedding_task(
    opened: &mut Opened,
    spec: &Spec,
    hparams: &Hparams,
    findings: &mut Vec<Diagnostic>,
) -> Result<Option<Task>> {
    let Some(modules) = modules::read(opened, findings)? else { return Ok(None) };
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

/// The files that say how a model embeds, for a source that says it otherwise.
fn embedding_modules(model: &Model) -> Vec<(String, Json)> {
    let plain =
        |task: &&Task| task.id == "embedding" && task.head.is_none() && task.dense.is_empty();
    let task = model.tasks.iter().find(plain);
    let width = model.hyperparameters.get("hidden_size").and_then(as_int);
    let width = width.and_then(|width| u64::try_from(width).ok());
    let files = task.zip(width).and_then(|(task, width)| {
        modules::files(task.pool.as_deref()?, task.normalize == Some(true), width)
    });
    files.unwrap_or_default()
}

fn to_std(opened: &mut Opened, request: &Request<'_>) -> std::result::Result<Report, Failure> {
    let mut canonical = canonical(opened, request)?;
    canonical.model.history.push(event(request));
    let (carried, left) = beside(opened, request.spec);
    let mut report = report(opened, request, &canonical.tensors, carried, left);
    report.architecture.clone_from(&canonical.model.architecture);
    report.map.clone_from(&canonical.map);
    report.conformance = Some(canonical.model.conformance);
    report.dropped.clone_from(&canonical.provenance.dropped);
    report.copies.clone_from(&canonical.provenance.copies);
    report.findings.append(&mut canonical.findings);
    check_space(&report)?;
    if request.dry_run {
        return Ok(report);
    }
    let Canonical { tensors, buffers, model, provenance, .. } = canonical;
    let staging = Staging::new(request.destination, request.force)?;
    let package = Package {
        model: &model,
        provenance: Some(&provenance),
        tensors: &tensors,
        buffers: &buffers,
    };
    write_package(opened, request, staging.path(), &package, &mut report)?;
    if request.verify {
        report.verified = Some(verify(opened, request, staging.path(), &tensors)?);
    }
    if request.check_outputs {
        check_outputs(opened, request, staging.path(), &mut report)?;
    }
    staging.commit()?;
    Ok(report)
}

fn event(request: &Request<'_>) -> Event {
    let mut details = BTreeMap::new();
    details.insert("spec_hash".to_owned(), request.spec.hash.clone());
    if let Some(dtype) = request.plan.dtype {
        details.insert("dtype".to_owned(), dtype.name().to_owned());
    }
    Event { op: "convert".to_owned(), details }
}

/// Writes a package anew: other shards, another dtype.
fn repack(opened: &mut Opened, request: &Request<'_>) -> std::result::Result<Report, Failure> {
    let mut model = read_whole_model(opened)?;
    let provenance = read_provenance(opened)?;
    let mut tensors = Tensors::default();
    for tensor in &opened.checkpoint.tensors {
        let (strand, dtype) = tensors.read(tensor).map_err(|why| {
            Diagnostic::error(
                "P017",
                format!("the values of `{}` cannot be had: {why}", tensor.name),
            )
        })?;
        let step = Step {
            name: tensor.name.clone(),
            from: vec![tensor.name.clone()],
            ops: "copy".to_owned(),
            class: Exactness::E,
        };
        tensors.write(&tensor.name, strand, dtype, request.plan, step)?;
    }
    tensors.sort_by_key(|name| request.spec.order(name));
    model.encodings = encodings(&tensors);
    for (op, is_asked) in
        [("decode", request.plan.decode != Decode::Nothing), ("cast", request.plan.dtype.is_some())]
    {
        if is_asked {
            model.history.push(Event { op: op.to_owned(), ..event(request) });
        }
    }
    let mut buffers = Tensors::default();
    if let Some(kept) = read_buffers(opened)? {
        buffers = generic_copies(&kept)?;
    }
    let carried = beside_package(opened);
    let mut report = report(opened, request, &tensors, carried, Vec::new());
    report.architecture.clone_from(&model.architecture);
    report.conformance = Some(model.conformance);
    check_space(&report)?;
    if request.dry_run {
        return Ok(report);
    }
    let staging = Staging::new(request.destination, request.force)?;
    let package = Package {
        model: &model,
        provenance: provenance.as_ref(),
        tensors: &tensors,
        buffers: &buffers,
    };
    write_package(opened, request, staging.path(), &package, &mut report)?;
    if request.verify {
        report.verified = Some(verify_same(opened, request, staging.path(), &tensors)?);
    }
    if request.check_outputs {
        check_outputs(opened, request, staging.path(), &mut report)?;
    }
    staging.commit()?;
    Ok(report)
}

/// The tensors of a checkpoint as they are, under their own names.
pub(crate) fn generic_copies(checkpoint: &Checkpoint) -> std::result::Result<Tensors, Failure> {
    let mut tensors = Tensors::default();
    for tensor in &checkpoint.tensors {
        let (strand, dtype) = tensors
            .read(tensor)
            .map_err(|why| Diagnostic::error("P017", format!("`{}`: {why}", tensor.name)))?;
        let step = Step {
            name: tensor.name.clone(),
            from: vec![tensor.name.clone()],
            ops: "copy".to_owned(),
            class: Exactness::E,
        };
        tensors.write(&tensor.name, strand, dtype, plan::Options::default(), step)?;
    }
    Ok(tensors)
}

struct Package<'a> {
    model: &'a Model,
    provenance: Option<&'a Provenance>,
    tensors: &'a Tensors,
    buffers: &'a Tensors,
}

fn write_package(
    opened: &Opened,
    request: &Request<'_>,
    folder: &Path,
    package: &Package<'_>,
    report: &mut Report,
) -> std::result::Result<(), Failure> {
    let metadata = BTreeMap::from([("llmstd".to_owned(), request.spec.version.clone())]);
    let written = write_tensors(opened, request, folder, package.tensors, &metadata, true, report)?;
    if !package.buffers.outputs.is_empty() {
        let (parent, file) = BUFFERS_FILE.split_once('/').expect("it lies in a folder");
        let buffers = write::Plain {
            inputs: &package.buffers.inputs,
            outputs: &package.buffers.outputs,
            metadata: &BTreeMap::new(),
        };
        let stem = file.trim_end_matches(".safetensors");
        buffers.write(&opened.source, &inside(folder, parent)?, stem)?;
    }
    let mut files: Vec<(String, Carried)> = Vec::new();
    for file in &written.files {
        let sha256 = file.sha256.expect("files of a package are hashed");
        files.push((file.name.clone(), (file.len, sha256, None)));
    }
    let mut text_file = |name: &str, text: String| -> Result<()> {
        write_file(&folder.join(name), text.as_bytes())?;
        let sha256: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        files.push((name.to_owned(), (text.len() as u64, sha256, Some(text.into_bytes()))));
        Ok(())
    };
    if let Some(index) = &written.index {
        text_file(&format!("{TENSORS_STEM}.safetensors.index.json"), index.clone())?;
    }
    text_file(MODEL_FILE, json_text(package.model))?;
    if let Some((name, bytes)) = gguf::keys_file(opened)? {
        write_file(&folder.join(name), &bytes)?;
        let sha256: [u8; 32] = Sha256::digest(&bytes).into();
        files.push((name.to_owned(), (bytes.len() as u64, sha256, Some(bytes))));
    }
    for name in &report.carried {
        files.push((name.clone(), carry(opened, folder, name)?));
    }
    if let Some(provenance) = package.provenance {
        // What says where a package came from is no part of what it is.
        let mut provenance = provenance.clone();
        for tensor in &report.tensors {
            if let Some(loss) = &tensor.loss {
                provenance.losses.entry(tensor.step.name.clone()).or_default().add(loss);
            }
        }
        write_file(&folder.join(SOURCE_FILE), json_text(&provenance).as_bytes())?;
    }
    files.sort_by(|left, right| left.0.cmp(&right.0));
    let tensors = package.tensors.outputs.iter().zip(&written.tensors);
    let manifest = Manifest::build(ManifestInput {
        spec: &request.spec.version,
        model: Some(package.model),
        tensors: tensors
            .map(|(output, tensor)| TensorFacts {
                name: output.name.clone(),
                dtype: output.dtype,
                shape: output.shape.clone(),
                len: tensor.len,
                sha256: tensor.sha256,
                place: Some((written.files[tensor.file].name.clone(), tensor.offset)),
            })
            .collect(),
        files: files
            .iter()
            .map(|(path, (len, sha256, text))| FileFacts {
                path: path.clone(),
                len: *len,
                sha256: *sha256,
                text: text.as_deref(),
            })
            .collect(),
    });
    write_file(&folder.join(MANIFEST_FILE), manifest.to_text().as_bytes())?;
    Ok(())
}

fn write_tensors(
    opened: &Opened,
    request: &Request<'_>,
    folder: &Path,
    tensors: &Tensors,
    metadata: &BTreeMap<String, String>,
    hash_files: bool,
    report: &mut Report,
) -> Result<Written> {
    let shards =
        write::shards(&tensors.outputs, request.max_shard_bytes, TENSORS_STEM, "safetensors");
    let container = Container::Safetensors(metadata);
    write_shards(opened, request, folder, tensors, &shards, container, hash_files, report)
}

#[allow(clippy::too_many_arguments)] // What a file is made of.
fn write_shards(
    opened: &Opened,
    request: &Request<'_>,
    folder: &Path,
    tensors: &Tensors,
    shards: &[Shard],
    container: Container<'_>,
    hash_files: bool,
    report: &mut Report,
) -> Result<Written> {
    request.progress.begin("converting", tensors.n_bytes());
    let advance = |n_bytes| request.progress.advance(n_bytes);
    let options = write::Options { n_threads: request.n_threads, hash_files, progress: &advance };
    let written = write::write(
        &opened.source,
        &tensors.inputs,
        &tensors.outputs,
        shards,
        container,
        folder,
        &options,
    );
    request.progress.end();
    let written = written?;
    let mut total: Option<Loss> = None;
    for (tensor, written) in report.tensors.iter_mut().zip(&written.tensors) {
        tensor.sha256 = Some(crate::hex::encode(&written.sha256));
        tensor.loss.clone_from(&written.loss);
        if let Some(loss) = &written.loss {
            total.get_or_insert_with(Loss::default).add(loss);
        }
    }
    report.loss = total;
    Ok(written)
}

/// The text of a JSON file of a package.
fn json_text<T: Serialize>(value: &T) -> String {
    let text = serde_json::to_string_pretty(value).expect("our own types have string keys");
    format!("{text}\n")
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|err| Error::io(path, "write", err))
}

/// The length of a file, its SHA-256, and its text where a manifest looks into it.
type Carried = (u64, [u8; 32], Option<Vec<u8>>);

/// Copies a file of the source beside the tensors.
fn carry(opened: &Opened, folder: &Path, name: &str) -> Result<Carried> {
    let mut source = Source::new(opened.source.root());
    let file = source.add(name)?;
    let bytes = source.bytes(file);
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|err| Error::io(parent, "create the folder", err))?;
    }
    write_file(&path, bytes)?;
    let text = needs_text(name).then(|| bytes.to_vec());
    Ok((bytes.len() as u64, Sha256::digest(bytes).into(), text))
}

/// The files of a package that were carried over when it was made.
fn beside_package(opened: &Opened) -> Vec<String> {
    let own = [MODEL_FILE, MANIFEST_FILE, SOURCE_FILE, BUFFERS_FILE];
    let names = opened.files.iter().map(|file| &file.name);
    let carried = names.filter(|name| {
        !own.contains(&name.as_str())
            && !opened.weights.contains(name)
            && !name.ends_with(".index.json")
    });
    carried.cloned().collect()
}

/// The files beside the weights: those that are carried over, and those that are left behind.
pub(crate) fn beside(opened: &Opened, spec: &Spec) -> (Vec<String>, Vec<String>) {
    let names = opened.files.iter().map(|file| file.name.as_str());
    let others = names.filter(|name| {
        *name != CONFIG_FILE
            && !opened.weights.iter().any(|weight| weight == name)
            && !name.ends_with(".index.json")
    });
    let (carried, left): (Vec<&str>, Vec<&str>) =
        others.partition(|name| spec.file_role(name).is_some());
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    (owned(carried), owned(left))
}

fn report(
    opened: &Opened,
    request: &Request<'_>,
    tensors: &Tensors,
    carried: Vec<String>,
    left: Vec<String>,
) -> Report {
    let reports = tensors.outputs.iter().zip(&tensors.steps).map(|(output, step)| {
        let mut read = BTreeSet::new();
        if let Content::Gather(program) = &output.content {
            for copy in &program.copies {
                for storage in tensors.inputs[copy.input].storages() {
                    let file = opened.source.name(storage.file).to_owned();
                    read.insert(ReadRange { file, bytes: [storage.start, storage.end()] });
                }
            }
        }
        TensorReport {
            step: step.clone(),
            dtype: output.dtype.name().to_owned(),
            shape: output.shape.clone(),
            encoding: tensors.encodings.get(&output.name).map(|encoding| encoding.id.clone()),
            read: read.into_iter().collect(),
            sha256: None,
            loss: None,
        }
    });
    let kind = if opened.is_package { "std" } else { foreign_format(opened) };
    Report {
        schema: "llmstd.convert/1",
        source: opened.source.root().display().to_string(),
        from: format!("{kind} ({})", opened.checkpoint.format),
        to: request.to.to_owned(),
        architecture: None,
        map: None,
        destination: request.destination.display().to_string(),
        dry_run: request.dry_run,
        conformance: None,
        tensors: reports.collect(),
        tensor_bytes: tensors.n_bytes(),
        peak_memory: write::PEAK_MEMORY,
        free_disk: free_space(request.destination),
        dropped: Vec::new(),
        copies: Vec::new(),
        carried,
        left,
        loss: None,
        verified: None,
        outputs: None,
        findings: opened.checkpoint.findings.clone(),
    }
}

/// Refuses a plan that the disk has no room for.
fn check_space(report: &Report) -> std::result::Result<(), Failure> {
    // Headers, JSON and carried files are small beside the tensors; 16 MiB cover them.
    let needed = report.tensor_bytes.saturating_add(16 << 20);
    match report.free_disk {
        Some(free) if free < needed => Err(Diagnostic::error(
            "P014",
            format!(
                "the disk of {} has {free} bytes free, {needed} are needed",
                report.destination
            ),
        )
        .mismatch(format!("{needed} bytes"), format!("{free} bytes"))
        .help("free some space, or choose a destination on another disk")
        .into()),
        _ => Ok(()),
    }
}

fn to_foreign(
    opened: &mut Opened,
    request: &Request<'_>,
    format: &str,
) -> std::result::Result<Report, Failure> {
    let plan = export_plan(opened, request, format)?;
    if let Some(metadata) = &plan.metadata
        && format == export::GGUF
    {
        return gguf::write(opened, request, metadata, &plan);
    }
    let ExportPlan { mut tensors, config, modules, tokenizer, carried, left, findings, .. } = plan;
    let (architecture, map) = (plan.architecture, plan.map);
    // Modules beside the transformer have files of their own.
    tensors.move_last(|name| modules::parse_dense_name(name).is_some());
    let is_main = |output: &&Output| modules::parse_dense_name(&output.name).is_none();
    let n_main = tensors.outputs.iter().take_while(is_main).count();
    let mut report = report(opened, request, &tensors, carried, left);
    report.architecture = architecture;
    report.map = map;
    report.findings.extend(findings);
    check_space(&report)?;
    if request.dry_run {
        return Ok(report);
    }
    let staging = Staging::new(request.destination, request.force)?;
    // Readers of this format take files without metadata, or with this one.
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let main = Tensors {
        inputs: tensors.inputs.clone(),
        outputs: tensors.outputs[..n_main].to_vec(),
        ..Tensors::default()
    };
    let written =
        write_tensors(opened, request, staging.path(), &main, &metadata, false, &mut report)?;
    write_modules(opened, staging.path(), &tensors, n_main, &metadata, &mut report)?;
    if let Some(index) = &written.index {
        let name = format!("{TENSORS_STEM}.safetensors.index.json");
        write_file(&staging.path().join(name), index.as_bytes())?;
    }
    if let Some(config) = config {
        write_file(&staging.path().join(CONFIG_FILE), config.as_bytes())?;
    }
    for (name, json) in &modules {
        if let Some((parent, _)) = name.rsplit_once('/') {
            inside(staging.path(), parent)?;
        }
        write_file(&staging.path().join(name), json_text(json).as_bytes())?;
    }
    for name in &report.carried {
        carry(opened, staging.path(), name)?;
    }
    for (name, text) in &tokenizer {
        write_file(&staging.path().join(name), text.as_bytes())?;
    }
    if tokenizer.is_empty()
        && let Some((name, bytes)) = gguf::keys_file(opened)?
    {
        write_file(&staging.path().join(name), &bytes)?;
    }
    if request.verify {
        report.verified = Some(verify_foreign(opened, request, staging.path(), &tensors)?);
    }
    if request.check_outputs {
        check_outputs(opened, request, staging.path(), &mut report)?;
    }
    staging.commit()?;
    Ok(report)
}

/// Writes the tensors of the modules that follow the transformer, each module's into its folder.
fn write_modules(
    opened: &mut Opened,
    folder: &Path,
    tensors: &Tensors,
    first: usize,
    metadata: &BTreeMap<String, String>,
    report: &mut Report,
) -> Result<()> {
    if first == tensors.outputs.len() {
        return Ok(());
    }
    let listed = opened.json(MODULES_FILE)?.unwrap_or(Json::Null);
    let paths = modules::dense_paths(&listed);
    let number = |output: &Output| modules::parse_dense_name(&output.name).map_or(0, |(n, _)| n);
    let mut start = first;
    for part in tensors.outputs[first..].chunk_by(|left, right| number(left) == number(right)) {
        let n = number(&part[0]);
        let Some(path) = n.checked_sub(1).and_then(|index| paths.get(index)) else {
            let message =
                format!("{MODULES_FILE} lists {} dense modules, this is number {n}", paths.len());
            return Err(Error::new(ErrorKind::Malformed, message).in_file(opened.source.root()));
        };
        let renamed: Vec<Output> = part
            .iter()
            .map(|output| {
                let name = modules::parse_dense_name(&output.name).map_or("", |(_, name)| name);
                Output { name: name.to_owned(), ..output.clone() }
            })
            .collect();
        let module = write::Plain { inputs: &tensors.inputs, outputs: &renamed, metadata };
        let written = module.write(&opened.source, &inside(folder, path)?, TENSORS_STEM)?;
        for (tensor, written) in report.tensors[start..].iter_mut().zip(&written.tensors) {
            tensor.sha256 = Some(crate::hex::encode(&written.sha256));
        }
        start += part.len();
    }
    Ok(())
}

/// A folder below another one, which is made; the path comes from a file and stays inside.
fn inside(folder: &Path, path: &str) -> Result<PathBuf> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || path.is_empty() {
        let message = format!("the path {path:?} does not stay inside the folder");
        return Err(Error::new(ErrorKind::Malformed, message).in_file(folder));
    }
    let path = folder.join(path);
    fs::create_dir_all(&path).map_err(|err| Error::io(&path, "create the folder", err))?;
    Ok(path)
}

struct ExportPlan {
    tensors: Tensors,
    config: Option<String>,
    /// The keys of a GGUF file.
    metadata: Option<Metadata>,
    /// What makes an embedding, where no such file is carried over.
    modules: Vec<(String, Json)>,
    /// The files of a tokenizer that are made of the keys of the source.
    tokenizer: Vec<(&'static str, String)>,
    carried: Vec<String>,
    left: Vec<String>,
    findings: Vec<Diagnostic>,
    architecture: Option<String>,
    map: Option<String>,
}

/// The way out, from a package or straight from a foreign checkpoint.
fn export_plan(
    opened: &mut Opened,
    request: &Request<'_>,
    format: &str,
) -> std::result::Result<ExportPlan, Failure> {
    let known: BTreeSet<&str> =
        request.spec.maps.keys().map(|(format, _)| format.as_str()).collect();
    if !known.contains(format) {
        let known: Vec<&str> = known.into_iter().collect();
        let message = format!("there is no format {format:?} to write: std, {}", known.join(", "));
        return Err(Error::unsupported(message).into());
    }
    let (model, provenance, canonical_tensors, buffers, mut findings, left);
    let (kept, mut carried);
    if opened.is_package {
        kept = gguf::kept(opened)?;
        model = read_whole_model(opened)?;
        provenance = read_provenance(opened)?;
        buffers = read_buffers(opened)?;
        canonical_tensors = Tensors::of_checkpoint(&opened.checkpoint)?;
        findings = Vec::new();
        carried = beside_package(opened);
        left = Vec::new();
    } else {
        // A cast belongs to the tensors that are written, not to those in between, whose numbers
        // are never made.
        let plan = plan::Options { decode: Decode::All, ..plan::Options::default() };
        let inner = Request { plan, ..copy_of(request) };
        let canonical = canonical(opened, &inner)?;
        model = canonical.model;
        provenance = Some(canonical.provenance);
        buffers = None;
        canonical_tensors = canonical.tensors;
        findings = canonical.findings;
        (carried, left) = beside(opened, request.spec);
        kept = (foreign_format(opened) == export::GGUF)
            .then(|| opened.checkpoint.typed_metadata.clone());
    }
    let source = provenance.as_ref().filter(|source| source.format == format);
    let Some(architecture) = &model.architecture else {
        let tensors = generic_export(&canonical_tensors, provenance.as_ref(), request.plan)?;
        if format != export::GGUF {
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
    let map = export_map(request.spec, format, architecture, source)?;
    let origin = source.map(|provenance| {
        let config = match format {
            export::GGUF => kept.as_ref().map(typed::keys),
            _ => provenance
                .config
                .as_ref()
                .and_then(|config| serde_json::from_str(&config.text).ok()),
        };
        Origin { provenance, config }
    });
    // Buffers that no recipe gives are read from where they are: the package, or the source.
    let own_buffers = (!opened.is_package).then(|| copy_checkpoint(&opened.checkpoint));
    let mut exported = export::export(
        request.spec,
        map,
        &model,
        &canonical_tensors,
        buffers.as_ref().or(own_buffers.as_ref()),
        origin.as_ref(),
        request.plan,
    )?;
    findings.extend(exported.findings.iter().cloned());
    let (mut config, mut keys, mut tokenizer) = (None, None, Vec::new());
    if format == export::GGUF {
        let kept = kept.filter(|_| source.is_some());
        keys = Some(gguf::metadata(opened, request, kept, &mut exported, map, &mut findings)?);
    } else {
        let text = serde_json::to_string_pretty(&exported.config).unwrap_or_default();
        config = Some(format!("{text}\n"));
        if let Some(kept) = kept.filter(|_| !opened.has(gguf::TOKENIZER_FILE)) {
            tokenizer = gguf::tokenizer_files(opened, request.spec, &kept, &mut findings);
        }
        // What stands in those files is there once.
        carried.retain(|name| tokenizer.is_empty() || name != METADATA_FILE);
    }
    let modules = match carried.iter().any(|name| name == MODULES_FILE) {
        true => Vec::new(),
        false => embedding_modules(&model),
    };
    Ok(ExportPlan {
        tensors: exported.tensors,
        config,
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

fn copy_of<'a>(request: &Request<'a>) -> Request<'a> {
    Request { ..*request }
}

fn copy_checkpoint(checkpoint: &Checkpoint) -> Checkpoint {
    Checkpoint {
        format: checkpoint.format,
        tensors: checkpoint.tensors.clone(),
        ..Checkpoint::default()
    }
}

/// The mapping of the way out: the one of the way in, or the first of the architecture.
fn export_map<'a>(
    spec: &'a Spec,
    format: &str,
    architecture: &str,
    source: Option<&Provenance>,
) -> std::result::Result<&'a Map, Failure> {
    let used = source.and_then(|source| source.map.as_ref());
    if let Some(map) = used.and_then(|used| spec.map(format, &used.name)) {
        return Ok(map);
    }
    // A mapping named like its architecture is the plainest.
    let mut maps =
        spec.maps.values().filter(|map| map.format == format && map.arch == architecture);
    let plain = spec.map(format, architecture);
    plain.or_else(|| maps.next()).ok_or_else(|| {
        Diagnostic::error("P001", format!("there is no {format} mapping of {architecture}"))
            .help("`llmstd spec list` shows what there is")
            .into()
    })
}

/// Tensors of an unknown architecture, under the names they came with.
fn generic_export(
    canonical: &Tensors,
    provenance: Option<&Provenance>,
    options: plan::Options,
) -> std::result::Result<Tensors, Failure> {
    let mut tensors = Tensors { inputs: canonical.inputs.clone(), ..Tensors::default() };
    for (name, (strand, dtype)) in &canonical.strands {
        let foreign = name.strip_prefix("extra.").unwrap_or(name);
        let step = Step {
            name: foreign.to_owned(),
            from: vec![name.clone()],
            ops: "copy".to_owned(),
            class: Exactness::E,
        };
        tensors.write(foreign, strand.clone(), *dtype, options, step)?;
    }
    let order: BTreeMap<&str, usize> = provenance
        .iter()
        .flat_map(|source| source.tensors.iter().enumerate())
        .map(|(index, tensor)| (tensor.name.as_str(), index))
        .collect();
    tensors.sort_by_key(|name| (order.get(name).copied().unwrap_or(usize::MAX), name.to_owned()));
    Ok(tensors)
}

/// Reads `model.json` of a package.
///
/// # Errors
/// It cannot be read, or does not keep its schema.
pub fn read_model(opened: &mut Opened) -> Result<Model> {
    typed(opened, MODEL_FILE)?.ok_or_else(|| {
        Error::new(ErrorKind::Malformed, "there is no model.json").in_file(opened.source.root())
    })
}

/// Reads `model.json` of a package whose weights are to be used: what it says of packed tensors has
/// to be so.
fn read_whole_model(opened: &mut Opened) -> Result<Model> {
    let model = read_model(opened)?;
    let packed = opened.checkpoint.tensors.iter().filter(|tensor| tensor.encoding.is_some());
    let packed: BTreeSet<&str> = packed.map(|tensor| tensor.name.as_str()).collect();
    match model.encodings.keys().find(|name| !packed.contains(name.as_str())) {
        Some(name) => {
            let message = format!(
                "the encoding of `{name}` is not that of its tensor: see `llmstd validate`"
            );
            Err(Error::new(ErrorKind::Malformed, message)
                .in_file(&opened.source.root().join(MODEL_FILE)))
        }
        None => Ok(model),
    }
}

/// Reads `source.json` of a package, if it has one.
///
/// # Errors
/// It cannot be read, or does not keep its schema.
pub fn read_provenance(opened: &mut Opened) -> Result<Option<Provenance>> {
    typed(opened, SOURCE_FILE)
}

fn typed<T: serde::de::DeserializeOwned>(opened: &mut Opened, name: &str) -> Result<Option<T>> {
    let Some(json) = opened.json(name)? else { return Ok(None) };
    let path = opened.source.root().join(name);
    serde_json::from_value(json)
        .map(Some)
        .map_err(|err| Error::new(ErrorKind::Malformed, err.to_string()).in_file(&path))
}

fn read_buffers(opened: &mut Opened) -> Result<Option<Checkpoint>> {
    if !opened.has(BUFFERS_FILE) {
        return Ok(None);
    }
    let file = opened.source.add(BUFFERS_FILE)?;
    safetensors::read(&opened.source, file).map(Some)
}

/// Runs the way back from a package that was just written, and compares each foreign tensor with
/// the original by hash.
fn verify(
    opened: &Opened,
    request: &Request<'_>,
    folder: &Path,
    written: &Tensors,
) -> std::result::Result<Verified, Failure> {
    let mut package = folder::open(folder)?;
    let back_request =
        Request { plan: plan::Options::default(), generic: false, ..copy_of(request) };
    let plan = export_plan(&mut package, &back_request, foreign_format(opened))?;
    // What was changed on purpose does not come back.
    let changed: BTreeSet<&str> = written
        .steps
        .iter()
        .filter(|step| Exactness::E < step.class)
        .flat_map(|step| step.from.iter().map(String::as_str))
        .collect();
    let lost = |name: &str| {
        plan.findings
            .iter()
            .any(|finding| finding.rule == "P015" && finding.tensor.as_deref() == Some(name))
    };
    compare_all(opened, &package.source, &plan.tensors, request, &changed, &lost)
}

/// Reads a foreign folder that was just written, and compares each tensor with the plan it was
/// written by.
fn verify_foreign(
    opened: &Opened,
    request: &Request<'_>,
    folder: &Path,
    tensors: &Tensors,
) -> std::result::Result<Verified, Failure> {
    let written = folder::open(folder)?;
    let whole = whole_tensors(&written.checkpoint)?;
    let theirs = digests_of(&written.source, &whole, request)?;
    let ours = digests_of(&opened.source, tensors, request)?;
    let mut verified = Verified { equal: 0, changed: 0 };
    for (name, hash) in &ours {
        if theirs.get(name) != Some(hash) {
            return Err(round_trip_error(name, "was not written as planned").into());
        }
        verified.equal += 1;
    }
    if theirs.len() != ours.len() {
        return Err(round_trip_error("", "there are more tensors than planned").into());
    }
    Ok(verified)
}

/// Compares a package that was written anew with the one it was made from.
fn verify_same(
    opened: &Opened,
    request: &Request<'_>,
    folder: &Path,
    tensors: &Tensors,
) -> std::result::Result<Verified, Failure> {
    let written = folder::open(folder)?;
    let whole = whole_tensors(&written.checkpoint)?;
    // Of a tensor that was decoded, all parts that it was read from are gone.
    let changed = tensors.steps.iter().filter(|step| Exactness::E < step.class);
    let changed: BTreeSet<&str> =
        changed.flat_map(|step| step.from.iter().chain([&step.name])).map(String::as_str).collect();
    compare_all(opened, &written.source, &whole, request, &changed, &|_| false)
}

fn whole_tensors(checkpoint: &Checkpoint) -> Result<Tensors> {
    let mut tensors = Tensors::default();
    for (index, tensor) in checkpoint.stored().enumerate() {
        let (input, output) = whole(tensor, index)?;
        tensors.inputs.push(input);
        tensors.outputs.push(output);
    }
    Ok(tensors)
}

fn digests_of(
    source: &Source,
    tensors: &Tensors,
    request: &Request<'_>,
) -> Result<BTreeMap<String, [u8; 32]>> {
    request.progress.begin("verifying", tensors.n_bytes());
    let advance = |n_bytes| request.progress.advance(n_bytes);
    let hashes = digests(source, &tensors.inputs, &tensors.outputs, request.n_threads, &advance);
    request.progress.end();
    let names = tensors.outputs.iter().map(|output| output.name.clone());
    Ok(names.zip(hashes?).collect())
}

fn compare_all(
    opened: &Opened,
    back_source: &Source,
    back: &Tensors,
    request: &Request<'_>,
    changed: &BTreeSet<&str>,
    lost: &dyn Fn(&str) -> bool,
) -> std::result::Result<Verified, Failure> {
    let originals = whole_tensors(&opened.checkpoint)?;
    let wanted = digests_of(&opened.source, &originals, request)?;
    let found = digests_of(back_source, back, request)?;
    let mut verified = Verified { equal: 0, changed: 0 };
    for (name, hash) in &wanted {
        match found.get(name) {
            Some(back) if back == hash => verified.equal += 1,
            _ if changed.contains(name.as_str()) || lost(name) => verified.changed += 1,
            Some(_) => {
                let original = originals.outputs.iter().find(|output| output.name == *name);
                let returned = back.outputs.iter().find(|output| output.name == *name);
                let place = original.zip(returned).and_then(|(original, returned)| {
                    let original = Operand {
                        source: &opened.source,
                        inputs: &originals.inputs,
                        output: original,
                    };
                    let returned =
                        Operand { source: back_source, inputs: &back.inputs, output: returned };
                    first_difference(original, returned).ok().flatten()
                });
                let place =
                    place.map(|byte| format!(" from its byte {byte} on")).unwrap_or_default();
                return Err(round_trip_error(name, &format!("comes back changed{place}")).into());
            }
            None => {
                return Err(round_trip_error(name, "does not come back").into());
            }
        }
    }
    let extra = found.keys().find(|name| !wanted.contains_key(*name));
    if let Some(extra) = extra {
        return Err(round_trip_error(extra, "comes back and was not there").into());
    }
    Ok(verified)
}

/// Outputs of source and result may be apart by rounding: by so much of the greatest number.
const OUTPUT_TOLERANCE: f32 = 1e-4;

/// Computes the outputs of the source and of what was written, for the same pseudo-random inputs.
/// A difference is an error, but where a cast was asked for.
fn check_outputs(
    opened: &mut Opened,
    request: &Request<'_>,
    folder: &Path,
    report: &mut Report,
) -> std::result::Result<(), Failure> {
    let mut written = folder::open(folder)?;
    // One input for both: what a format says of special tokens is not asked here.
    let (source, inputs) = outputs(opened, request, None)?;
    let (result, _) = outputs(&mut written, request, Some(inputs))?;
    let result = result.named();
    // A cast was asked for, or was told of what the format does not keep.
    let plan = &request.plan;
    let is_meant = plan.dtype.is_some()
        || plan.quantize.is_some()
        || report.findings.iter().any(|found| ["P005", "P006"].contains(&found.rule));
    let mut differences = Vec::new();
    for (name, source) in source.named() {
        let result = result.iter().find(|(other, _)| *other == name).map(|(_, result)| result);
        let result = result.filter(|result| result.shape == source.shape);
        let Some(result) = result else {
            if report.findings.iter().any(|found| found.rule == "P006") {
                continue; // A head that the format has no place for.
            }
            return Err(
                outputs_error(Level::Error, &name, "does not come out of the result").into()
            );
        };
        let pairs = source.data.iter().zip(&result.data);
        let max_abs = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, greater);
        let scale = source.data.iter().map(|x| x.abs()).fold(0.0, greater);
        if max_abs.is_nan() || OUTPUT_TOLERANCE * scale < max_abs {
            let level = if is_meant { Level::Warning } else { Level::Error };
            let what = format!("differs by up to {max_abs:e} where the greatest number is {scale}");
            let finding = outputs_error(level, &name, &what);
            if level == Level::Error {
                return Err(finding.into());
            }
            report.findings.push(finding);
        }
        differences.push(OutputDifference { name, max_abs, scale });
    }
    report.outputs = Some(differences);
    Ok(())
}

/// The greater of two numbers; NaN if one is.
fn greater(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) }
}

fn outputs(
    opened: &mut Opened,
    request: &Request<'_>,
    inputs: Option<Inputs>,
) -> std::result::Result<(Outputs<f32>, Inputs), Failure> {
    let (model, plan) = terms(opened, request.spec, request.arch)?;
    let weights = match &plan {
        Some(plan) => Planned::of_plan(&opened.source, plan),
        None => Planned::of_checkpoint(&opened.source, &opened.checkpoint)?,
    };
    let tasks: Vec<&Task> = model.tasks.iter().collect();
    let inputs = inputs.map_or_else(|| Inputs::sample(&model), Ok)?;
    Ok((forward::run(&model, &weights, &inputs, &tasks)?, inputs))
}

fn outputs_error(level: Level, name: &str, what: &str) -> Diagnostic {
    Diagnostic::new("P022", level, format!("the output {name} {what}")).help(
        "an error means that nothing was written and the mapping is wrong: please report it with \
         this message; a warning tells what a cast costs, or what the format does not keep",
    )
}

fn round_trip_error(name: &str, what: &str) -> Diagnostic {
    Diagnostic::error("P021", format!("the way back fails: `{name}` {what}"))
        .tensor(name)
        .help("nothing was written; please report the mapping with this message")
}

/// A size of the command line: `5GB`, `500MB`, `1GiB`, or bytes.
///
/// # Errors
/// The text is no size.
pub fn parse_size(text: &str) -> std::result::Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let factor: u64 = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" => 1_000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "T" | "TB" => 1_000_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        "TIB" => 1 << 40,
        other => return Err(format!("{other:?} is no unit of size: B, KB, MB, GB, KiB, MiB, GiB")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no size, like 5GB"))?;
    number
        .checked_mul(factor)
        .filter(|&size| size != 0)
        .ok_or_else(|| format!("{text:?} is no size"))
}

/// A dtype of the command line: `bf16`, `float16`, `F32`.
///
/// # Errors
/// The text names no dtype that can be cast to.
pub fn parse_dtype(text: &str) -> std::result::Result<DType, String> {
    let lower = text.to_ascii_lowercase();
    let short = lower.replace("bfloat", "bf").replace("float", "f");
    let dtype = match short.as_str() {
        "f16" | "half" => DType::F16,
        "bf16" => DType::BF16,
        "f32" => DType::F32,
        "f64" => DType::F64,
        _ => return Err(format!("{text:?} is no dtype to cast to: f16, bf16, f32, f64")),
    };
    Ok(dtype)
}

/// A type of blocks of the command line: `q8_0`, `Q4_K`.
///
/// # Errors
/// The text names none that this program packs numbers in.
pub fn parse_quant(text: &str) -> std::result::Result<&'static BlockType, String> {
    let id = format!("ggml.{}", text.to_ascii_lowercase());
    // Others are of activations, or are no blocks.
    let is_of_weights = |id| TYPES.block(id).is_some_and(|block| block.file_type.is_some());
    let can = |blocks: &&BlockType| blocks.can_quantize() && is_of_weights(blocks.id);
    BlockType::find(&id).filter(can).ok_or_else(|| {
        let known =
            BLOCK_TYPES.iter().filter(can).map(|blocks| blocks.id.trim_start_matches("ggml."));
        format!("{text:?} is no type to pack in: {}", known.collect::<Vec<_>>().join(", "))
    })
}

/// The path of a request's destination without a trailing slash.
pub fn tidy(path: &Path) -> PathBuf {
    path.components().collect()
}
