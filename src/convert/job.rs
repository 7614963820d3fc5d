//! What all conversions out of the standard share: tensors, and what stands beside them, written as a
//! [`Target`] says, proven and committed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value as Json;

use super::destination::inside;
use super::destination::{mark, replaceable, stage};
use super::modules::write_modules;
use super::outputs::check_outputs;
use super::report::{Report, report};
use super::request::{Failure, Request};
use super::sidecar::{carry, write_file};
use super::target::{Content, Target};
use super::verify::{verify_foreign, verify_same};
use super::write::{commit, write_shards};
use super::{check, units};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::Error;
use crate::checkpoint::DType;
use crate::folder::Opened;
use crate::folder::sentence_transformers::parse_dense_name;
use crate::metadata::Metadata;
use crate::plan::Tensors;

/// What is to be written.
#[derive(Default)]
pub(super) struct Job {
    /// The tensors, under the names that they get.
    pub(super) tensors: Tensors,
    /// Free text of the files.
    pub(super) text: BTreeMap<String, String>,
    /// Keys with kinds.
    pub(super) keys: Metadata,
    /// The config, in the words of the programs that read it.
    pub(super) config: Json,
    /// Files that are made, by their paths.
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// The files of the source that are carried over.
    pub(super) carried: Vec<String>,
    /// Those that are left behind.
    pub(super) left: Vec<String>,
    /// Tensors that are another one under a second name, with the name that is kept.
    pub(super) copies: BTreeMap<String, String>,
    pub(super) findings: Vec<Diagnostic>,
    pub(super) architecture: Option<String>,
    pub(super) map: Option<String>,
}

/// Writes one file, or, where the name of the destination has not the ending of one, a folder with
/// the files beside the weights.
pub(super) fn write(
    opened: &mut Opened,
    request: &Request<'_>,
    target: &Target,
    job: Job,
) -> std::result::Result<Report, Failure> {
    let Job { mut tensors, text, keys, config, files, carried, left, copies, .. } = job;
    let is_file = target.is_file(request.destination);
    (target.sort)(&mut tensors);
    // Modules behind a transformer have files of their own.
    let is_module = |name: &str| parse_dense_name(name).is_some();
    tensors.move_last(is_module);
    let n_main = tensors.outputs.iter().take_while(|output| !is_module(&output.name)).count();
    let tensors = Arc::new(tensors);
    let mut report = report(opened, request, &tensors, carried, left);
    report.architecture = job.architecture;
    report.map = job.map;
    report.findings.extend(job.findings);
    report.copies = copies.iter().map(|(copy, kept)| [copy.clone(), kept.clone()]).collect();
    if is_file && n_main < tensors.outputs.len() {
        let message = "the modules behind the transformer are files of their own: name a folder";
        return Err(Error::unsupported(message).into());
    }
    let main = &tensors.outputs[..n_main];
    target.check_dtypes(main)?;
    let name = request.destination.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let stem = name.as_deref().filter(|_| is_file).unwrap_or(target.stem);
    let ending = target.ending.unwrap_or(target.format);
    let shards = (target.shards)(main, request.max_shard_bytes, stem, ending);
    check::quantized(request, &tensors)?;
    report.findings.extend(check::shard_size(request.max_shard_bytes, main, &shards)?);
    if 1 < shards.len() && (is_file || target.is_single) {
        let n = shards.len();
        let message = format!("{n} files of that size are no single file {}", report.destination);
        return Err(Error::unsupported(message + ": name a folder, or take a larger size").into());
    }
    check::before_writing(&report, request)?;
    let of_main = match n_main == tensors.outputs.len() {
        true => Arc::clone(&tensors),
        false => Arc::new(Tensors {
            inputs: tensors.inputs.clone(),
            outputs: main.to_vec(),
            ..Tensors::default()
        }),
    };
    units::note(opened, request, &mut report, &of_main, &shards)?;
    if request.dry_run {
        return Ok(report);
    }
    let content = Content {
        text: &text,
        keys: &keys,
        encodings: &tensors.encodings,
        stem,
        config: &config,
        ranks: request.ranks,
    };
    let container = (target.container)(&content);
    let of = container.as_ref();
    if units::share(opened, request, &mut report, &of_main, &shards, of, false)? {
        return Ok(report);
    }
    let staging = stage(opened, request, is_file, &replaceable)?;
    let folder = staging.path().to_owned();
    for (parent, _) in shards.iter().filter_map(|shard| shard.name.rsplit_once('/')) {
        inside(&folder, parent)?;
    }
    let written = write_shards(
        opened,
        request,
        &folder,
        &of_main,
        &shards,
        container.as_ref(),
        false,
        &mut report,
    )?;
    refuse_not_finite(&report, &tensors)?;
    write_modules(opened, &folder, &tensors, n_main, &text, &files, &mut report)?;
    if let Some((name, index)) = target.index_file.zip(written.index) {
        write_file(&folder.join(name), index.as_bytes())?;
    }
    for (name, text) in target.extra {
        write_file(&folder.join(name), text.as_bytes())?;
    }
    // Beside a single file they are there for the proof alone, and are not kept.
    for (name, bytes) in &files {
        make(&folder, name, bytes)?;
    }
    for name in &report.carried {
        carry(opened, &folder, name)?;
    }
    if request.verify {
        let verified = match target.keeps_names {
            true => {
                let is_copy = |name: &str| copies.contains_key(name);
                verify_same(opened, request, &folder, &tensors, &is_copy)?
            }
            false => verify_foreign(opened, request, &folder, &tensors, &report)?,
        };
        report.verified = Some(verified);
    }
    if request.check_outputs {
        check_outputs(opened, request, &folder, &mut report)?;
    }
    if !is_file {
        mark(&folder, target.id)?;
    }
    commit(staging, opened, request, &mut report)?;
    Ok(report)
}

/// Writes a file below a folder.
fn make(folder: &Path, name: &str, bytes: &[u8]) -> crate::base::error::Result<()> {
    if let Some((parent, _)) = name.rsplit_once('/') {
        inside(folder, parent)?;
    }
    write_file(&folder.join(name), bytes)
}

/// Refuses a tensor whose values no block can hold.
fn refuse_not_finite(report: &Report, tensors: &Tensors) -> std::result::Result<(), Failure> {
    let is_integer = |name: &str| {
        tensors.outputs.iter().any(|output| output.name == name && output.dtype == DType::I32)
    };
    let with_nans = || report.tensors.losses().filter(|(_, loss)| loss.nans != 0);
    if let Some((name, _)) = with_nans().find(|(name, _)| is_integer(name)) {
        let message = format!("`{name}` has integers that 32 bits do not hold");
        return Err(Diagnostic::error("P023", message).tensor(name).into());
    }
    let lost = with_nans().find(|(name, _)| tensors.encodings.contains_key(*name));
    let Some((name, _)) = lost else { return Ok(()) };
    let message = format!("`{name}` has values that are infinite or NaN, which no block holds");
    let help = "find out how they came into the model: `llmstd validate --deep` names their places";
    Err(Diagnostic::error("P023", message).tensor(name).help(help).into())
}
