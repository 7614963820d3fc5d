//! The conversion: open, plan, execute, write beside the destination, rename when whole.

mod canonical;
mod check;
mod destination;
mod foreign;
pub(crate) mod gguf;
mod intact;
mod job;
mod package;
mod same;
pub mod target;
pub mod units;
mod verify;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest, Sha256};

use self::foreign::to_foreign;
use self::package::{repack, to_std};
use self::units::{Part, Units, UnitsReport};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::Checkpoint;
use crate::exec::container::{Container, Safetensors};
use crate::exec::staging::{Staging, free_space};
use crate::exec::write::{self, Shard, Writer, Written};
use crate::folder::{CONFIG_FILE, Opened};
use crate::format;
use crate::manifest::{FileRole, is_tokenizer_file, needs_text};
use crate::package::{
    BUFFERS_FILE, Conformance, Dropped, Loss, MANIFEST_FILE, MODEL_FILE, Model, Provenance,
    SOURCE_FILE, TENSORS_STEM,
};
use crate::plan::program::Content;
use crate::plan::{self, Step, Tensors};
use crate::spec::Spec;

pub use self::canonical::model_of;
pub(crate) use self::canonical::{canonical, canonical_or_decoded, written_files};
pub(crate) use self::package::generic_copies;
pub use self::words::{parse_dtype, parse_quant, parse_size, strip_slash, target};

/// What to convert, and how.
#[derive(Clone, Copy)]
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
    /// Whether a GGUF file may be written without the tokenizer that stands beside the source.
    pub allow_no_tokenizer: bool,
    /// Whether to read back what was written, and to compare it with the source.
    pub verify: bool,
    /// Whether to compute the outputs of source and result, and to compare them.
    pub check_outputs: bool,
    /// Whether to plan only.
    pub dry_run: bool,
    /// Whether a warning refuses the conversion.
    pub strict: bool,
    /// What is done of it, and kept for later, where it is done in units.
    pub units: Option<Units<'a>>,
    /// Ends the work, once it is set: nothing is left behind then.
    pub cancel: Option<&'a AtomicBool>,
    /// Reports progress.
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
            allow_no_tokenizer: false,
            verify: false,
            check_outputs: false,
            dry_run: false,
            strict: false,
            units: None,
            cancel: None,
            progress: &Silent,
        }
    }

    /// # Errors
    /// The work is to end.
    fn check_cancelled(&self) -> Result<()> {
        match self.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(Error::cancelled()),
            _ => Ok(()),
        }
    }
}

/// Reports the progress of long work.
pub trait Progress: Sync {
    /// A phase begins, of so many bytes.
    fn begin(&self, phase: &str, n_bytes: u64);
    /// So many more bytes are done.
    fn advance(&self, n_bytes: u64);
    /// The phase is over.
    fn end(&self);
}

/// No progress reporting.
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

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Error(err) => err.fmt(f),
            Failure::Findings(findings) => {
                let words =
                    findings.iter().map(|found| format!("{}: {}", found.rule, found.message));
                f.write_str(&words.collect::<Vec<_>>().join("; "))
            }
        }
    }
}

impl std::error::Error for Failure {}

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
    /// The shards and the digest of the plan, where it is made for units or carried out by them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<UnitsReport>,
    /// What is suspicious.
    pub findings: Vec<Diagnostic>,
}

impl Report {
    /// How many bytes of disk the conversion takes at most.
    pub fn needed_disk(&self) -> u64 {
        // Headers, JSON and carried files are small beside the tensors; 16 MiB cover them.
        self.tensor_bytes.saturating_add(16 << 20)
    }
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

/// What came of reading back what was written, and comparing it with the source.
///
/// A package is exported to the format of its source, a foreign checkpoint imported; both sides of a
/// foreign checkpoint are compared as the numbers of canonical tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Verified {
    /// The tensors that come back equal: in the same dtype every byte, in another one every number.
    pub equal: u64,
    /// Those that were changed on purpose.
    pub changed: u64,
    /// How many of them by what: `cast`, `quantized`, `decoded`, `computed`, `left out in part`.
    pub changed_by: BTreeMap<String, u64>,
    /// The greatest difference of two numbers of those that were changed; absent where none was
    /// computed.
    pub max_difference: Option<f64>,
    /// Tensors that are not written, each told of by a finding.
    pub left_out: Vec<String>,
    /// Hyperparameters that the written format does not keep as they are.
    pub hyperparameters: Vec<String>,
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
    // Planning asks nothing of the destination; the refusal comes early all the same.
    destination::check(&opened, request)?;
    check::flags(&mut opened, request)?;
    check::sidecars(&opened, request.spec)?;
    match (target::find(request.to), opened.is_package) {
        (Some(target), _) if target.keeps_names => same::write(&mut opened, request, target),
        (Some(target), _) => to_foreign(&mut opened, request, target),
        (None, is_package) if request.to == STD => match is_package {
            true => repack(&mut opened, request),
            false => to_std(&mut opened, request),
        },
        (None, _) => {
            let known: Vec<&str> = target::TARGETS.iter().map(|target| target.id).collect();
            let (to, known) = (request.to, known.join(", "));
            let message = format!("there is no format {to:?} to write: {STD}, {known}");
            Err(Error::unsupported(message).into())
        }
    }
}

/// The packages of the standard, in arguments.
pub const STD: &str = "std";

/// The format whose tensors have the names and bytes of the source.
pub const SAFETENSORS: &str = "safetensors";

/// What ends every conversion: the destination gets its name, if the source stayed what it was.
fn commit(
    staging: Staging<'_>,
    opened: &Opened,
    request: &Request<'_>,
    report: &mut Report,
) -> std::result::Result<(), Failure> {
    request.check_cancelled()?;
    opened.source.check_unchanged()?;
    check::strict(&report.findings, request)?;
    if !staging.stale().is_empty() {
        let names = staging.stale().iter().map(|path| path.display().to_string());
        let names = names.collect::<Vec<_>>().join(", ");
        let message = format!("removed what an earlier run that was killed had left: {names}");
        report.findings.push(Diagnostic::note("P032", message));
    }
    staging.commit()?;
    units::clean(request, report);
    Ok(())
}

/// The format of a checkpoint that is no package.
fn foreign_format(opened: &Opened) -> &'static str {
    format::find(opened.checkpoint.format).map_or("hf", |format| format.dialect)
}

fn write_tensors(
    opened: &Opened,
    request: &Request<'_>,
    folder: &Path,
    tensors: &Tensors,
    metadata: &BTreeMap<String, String>,
    hash_files: bool,
    report: &mut Report,
) -> std::result::Result<Written, Failure> {
    let container = Safetensors(metadata);
    let shards = package_shards(request, tensors);
    write_shards(opened, request, folder, tensors, &shards, &container, hash_files, report)
}

/// The files of tensors that a package has.
fn package_shards(request: &Request<'_>, tensors: &Tensors) -> Vec<Shard> {
    write::shards(&tensors.outputs, request.max_shard_bytes, TENSORS_STEM, "safetensors")
}

fn write_options<'a>(
    request: &Request<'a>,
    hash_files: bool,
    progress: &'a (dyn Fn(u64) + Sync),
) -> write::Options<'a> {
    write::Options { n_threads: request.n_threads, hash_files, progress, cancel: request.cancel }
}

#[allow(clippy::too_many_arguments)] // What a file is made of.
fn write_shards(
    opened: &Opened,
    request: &Request<'_>,
    folder: &Path,
    tensors: &Tensors,
    shards: &[Shard],
    container: &dyn Container,
    hash_files: bool,
    report: &mut Report,
) -> std::result::Result<Written, Failure> {
    request.progress.begin("converting", tensors.n_bytes());
    let advance = |n_bytes| request.progress.advance(n_bytes);
    let writer = Writer::new(&opened.source, &tensors.inputs, &tensors.outputs, shards, container);
    let written = writer.map_err(Failure::from).and_then(|mut writer| {
        match (request.units, &mut report.units) {
            (Some(Units { part: part @ (Part::Finish | Part::All), .. }), Some(planned)) => {
                units::join(request, part, planned, writer, folder, &advance, hash_files)
            }
            _ => {
                let all: Vec<usize> = (0..shards.len()).collect();
                writer.write(&all, folder, &write_options(request, hash_files, &advance))?;
                Ok(writer.finish(folder)?)
            }
        }
    });
    request.progress.end();
    let written = written.or_else(|err| {
        // Of a source that changed, that is the reason.
        opened.source.check_unchanged()?;
        Err(err)
    })?;
    let mut total: Option<Loss> = None;
    for (tensor, written) in report.tensors.iter_mut().zip(&written.tensors) {
        tensor.sha256 = Some(crate::base::hex::encode(&written.sha256));
        tensor.loss.clone_from(&written.loss);
        if let Some(loss) = &written.loss {
            total.get_or_insert_with(Loss::default).add(loss);
        }
    }
    report.loss = total;
    intact::tensors(opened, request, tensors, &written)?;
    report.findings.extend(intact::files(opened, &report.carried)?);
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
    let mut source = opened.source.again();
    let file = source.add(name)?;
    let bytes = source.bytes(file);
    source.check_unchanged()?;
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|err| Error::io(parent, "create the folder", err))?;
    }
    write_file(&path, bytes)?;
    let text = needs_text(name).then(|| bytes.to_vec());
    Ok((bytes.len() as u64, Sha256::digest(bytes).into(), text))
}

/// The files of a package that were carried over when it was made.
fn sidecar_files_of_package(opened: &Opened) -> Vec<String> {
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
pub(crate) fn sidecar_files(opened: &Opened, spec: &Spec) -> (Vec<String>, Vec<String>) {
    let names = opened.files.iter().map(|file| file.name.as_str());
    let others = names.filter(|name| {
        *name != CONFIG_FILE
            && !opened.weights.iter().any(|weight| weight == name)
            && !name.ends_with(".index.json")
    });
    // What a module needs is in its folder, whether or not the standard has a role for it.
    let modules = opened.module_folders();
    let is_of_module = |name: &str| {
        modules.iter().any(|folder| {
            name.strip_prefix(folder.as_str()).is_some_and(|rest| rest.starts_with('/'))
        }) && FileRole::of(name) != FileRole::Code
            && !name.ends_with(".bin")
    };
    let (carried, left): (Vec<&str>, Vec<&str>) =
        others.partition(|name| spec.file_role(name).is_some() || is_of_module(name));
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
    let mut findings = opened.checkpoint.findings.clone();
    findings.extend(left_behind(&left));
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
        units: None,
        findings,
    }
}

/// Tells of the files that are not carried over: by itself of each that has to do with text, as the
/// result may serve otherwise without it, and of all others together.
fn left_behind(left: &[String]) -> Vec<Diagnostic> {
    const WORDS: &[&str] = &["token", "vocab", "merges", "bpe", "template"];
    const MAX_NAMED: usize = 12;
    const ENDS: &[&str] = &[".spm", ".model", ".jinja"];
    let of_text = |name: &&String| {
        let lower = name.rsplit('/').next().unwrap_or_default().to_lowercase();
        is_tokenizer_file(name)
            || WORDS.iter().any(|word| lower.contains(word))
            || ENDS.iter().any(|end| lower.ends_with(end))
    };
    let (texts, others): (Vec<&String>, Vec<&String>) = left.iter().partition(of_text);
    let mut findings: Vec<Diagnostic> = texts
        .into_iter()
        .map(|name| {
            let message = format!("{name} is not carried over, and seems to be of the tokenizer");
            Diagnostic::warning("P041", message)
                .file(name)
                .help("copy it beside the result, if what serves the model needs it")
        })
        .collect();
    if !others.is_empty() {
        // The report lists them all.
        let names: Vec<&str> = others.iter().map(|name| name.as_str()).take(MAX_NAMED).collect();
        let more = match others.len().saturating_sub(MAX_NAMED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let message = format!("not carried over: {}{more}", names.join(", "));
        findings.push(Diagnostic::note("P041", message));
    }
    findings
}

/// Reads `model.json` of a package.
///
/// # Errors
/// It cannot be read, or does not keep its schema.
pub fn read_model(opened: &mut Opened) -> Result<Model> {
    read_json(opened, MODEL_FILE)?.ok_or_else(|| {
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
    read_json(opened, SOURCE_FILE)
}

fn read_json<T: serde::de::DeserializeOwned>(opened: &mut Opened, name: &str) -> Result<Option<T>> {
    let Some(json) = opened.json(name)? else { return Ok(None) };
    let path = opened.source.place(name);
    serde_json::from_value(json)
        .map(Some)
        .map_err(|err| Error::new(ErrorKind::Malformed, err.to_string()).in_file(&path))
}

fn read_buffers(opened: &mut Opened) -> Result<Option<Checkpoint>> {
    if !opened.has(BUFFERS_FILE) {
        return Ok(None);
    }
    let file = opened.source.add(BUFFERS_FILE)?;
    crate::format::safetensors::read(&opened.source, file).map(Some)
}
