//! What is refused before anything is planned: flags without effect, and files that are in the way.

use super::report::{Report, ecosystem};
use super::request::{Failure, Request};
use super::target;
use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::error::{Error, ErrorKind, Result};
use crate::exec::write::Shard;
use crate::folder::{CONFIG_FILE, Opened};
use crate::plan::program::Output;
use crate::plan::{Decode, Step, Tensors};
use crate::spec::Spec;
use crate::spec::ecosystem::Ecosystem;

/// Refuses a plan that nothing is to be written of: for its warnings, where none is allowed, or for
/// lack of disk.
///
/// # Errors
/// The findings that stand against it.
pub(super) fn before_writing(
    report: &Report,
    request: &Request<'_>,
) -> std::result::Result<(), Failure> {
    strict(&report.findings, request)?;
    // Of two copies that an index tells apart the one that it names is kept.
    if let Some(found) = two_of_one_name(&report.findings).filter(|found| found.rule == "R006") {
        return Err(found.clone().into());
    }
    match report.free_disk {
        Some(free) if free < report.needed_disk() && !request.dry_run => {
            let needed = report.needed_disk();
            let place = &report.destination;
            let message = format!("the disk of {place} has {free} bytes free, {needed} are needed");
            Err(Diagnostic::error("P014", message)
                .mismatch(format!("{needed} bytes"), format!("{free} bytes"))
                .help("free some space, or choose a destination on another disk")
                .into())
        }
        _ => Ok(()),
    }
}

/// What a reader found where two tensors of a checkpoint have one name, and only one of them is kept.
pub(super) fn two_of_one_name(findings: &[Diagnostic]) -> Option<&Diagnostic> {
    let rules = ["R006", "R016"];
    findings.iter().find(|found| rules.contains(&found.rule) && found.level == Level::Error)
}

/// Refuses warnings, where none is allowed.
///
/// # Errors
/// The warnings, as errors.
pub(super) fn strict(
    findings: &[Diagnostic],
    request: &Request<'_>,
) -> std::result::Result<(), Failure> {
    let warnings = findings.iter().filter(|found| found.level == Level::Warning);
    let refused: Vec<Diagnostic> =
        warnings.map(|found| Diagnostic { level: Level::Error, ..found.clone() }).collect();
    if request.strict && !refused.is_empty() { Err(refused.into()) } else { Ok(()) }
}

/// Refuses what a request asks for and cannot have an effect on this input.
///
/// # Errors
/// The first of such flags.
pub(super) fn flags(
    opened: &mut Opened,
    request: &Request<'_>,
) -> std::result::Result<(), Failure> {
    let plan = &request.plan;
    let useless = |flag: &str, why: &str, help: &str| -> Failure {
        let message = format!("{flag} has no effect: {why}");
        Diagnostic::error("P030", message).help(help).into()
    };
    let target = super::target::find(request.to);
    for (kind, flag, n) in request.ranks.each() {
        if n != 1 && !target.is_some_and(|target| target.ranks.contains(&kind)) {
            let of = super::target::TARGETS.iter().filter(|target| target.ranks.contains(&kind));
            let of: Vec<String> = of.map(|target| format!("--to {}", target.id)).collect();
            let why = format!("a model that is written as {} is not cut so", request.to);
            return Err(useless(
                &format!("{flag} {n}"),
                &why,
                &format!("it is for {}", of.join(", ")),
            ));
        }
    }
    if request.dry_run {
        let writes = [("--verify", request.verify), ("--check-outputs", request.check_outputs)];
        if let Some((flag, _)) = writes.iter().find(|(_, is_asked)| *is_asked) {
            let why = "it looks at what was written, and --dry-run writes nothing";
            return Err(useless(flag, why, "leave out one of the two"));
        }
    }
    let own_names = target::find(request.to).filter(|target| target.keeps_names);
    if request.check_outputs && own_names.is_some_and(|of| of.is_file(request.destination)) {
        let why = "it computes with the config of what was written, and one file has none";
        let help = "name a folder, which the config goes into; or leave it out";
        return Err(useless("--check-outputs", why, help));
    }
    if request.n_threads == 0 {
        return Err(useless("--threads 0", "no thread does no work", "say 1 or more"));
    }
    if plan.lossy && plan.dtype.is_none() {
        let why = "it allows a cast, and no --dtype asks for one";
        return Err(useless("--lossy", why, "add --dtype, or leave --lossy out"));
    }
    if request.arch.is_some() && (request.generic || own_names.is_some()) {
        let other = match own_names {
            Some(target) if !request.generic => format!("--to {}", target.id),
            _ => "--generic".to_owned(),
        };
        let why = format!("{other} asks for no architecture");
        return Err(useless("--arch", &why, "leave out one of the two"));
    }
    if request.arch.is_some() && opened.is_package {
        let why = "model.json of a package says which architecture it is of";
        return Err(useless("--arch", why, "leave it out"));
    }
    if request.generic && opened.is_package {
        let why = "a package is written under the names that it has";
        return Err(useless("--generic", why, "leave it out"));
    }
    if plan.quantize.is_some() && !Ecosystem::of(request.to).blocks {
        let message = "blocks are packed in GGUF files only";
        return Err(useless("--quant", message, "add --to gguf, or name the destination x.gguf"));
    }
    let logical = opened.logical()?;
    let tensors = &logical.as_ref().unwrap_or(&opened.checkpoint).tensors;
    let n_packed = tensors.iter().filter(|tensor| tensor.encoding.is_some()).count();
    let n_plain = tensors.iter().filter(|tensor| tensor.dtype.is_float()).count();
    if plan.decode != Decode::Nothing && n_packed == 0 {
        let why = "no tensor of the source is packed";
        return Err(useless("--decode", why, "leave it out"));
    }
    if request.generic && plan.decode != Decode::Nothing && !ecosystem(opened).blocks {
        let message = "it has tensors that are stored as several, which --generic takes one by one";
        return Err(Diagnostic::error("P012", message)
            .help("leave out --generic to decode them, or --decode to keep them")
            .into());
    }
    if plan.dtype.is_some() && plan.decode == Decode::Nothing && n_plain == 0 && n_packed != 0 {
        let why = "every tensor of the source is packed, and stays so";
        return Err(useless("--dtype", why, "add --decode, or leave it out"));
    }
    Ok(())
}

/// Refuses `--quant` where no tensor is packed by it.
///
/// # Errors
/// It was asked for, and packs none.
pub(super) fn quantized(
    request: &Request<'_>,
    tensors: &Tensors,
) -> std::result::Result<(), Failure> {
    let is_packed = |step: &Step| step.ops.contains("quantize(");
    match request.plan.quantize {
        Some(blocks) if !tensors.steps.iter().any(is_packed) => {
            let message = format!(
                "--quant {} has no effect: the matrices of the source are blocks already, which \
                 stay as they are, or have rows that are no whole blocks",
                blocks.id.trim_start_matches("ggml.")
            );
            let help = "leave it out; or add --decode, which makes numbers of blocks first";
            Err(Diagnostic::error("P030", message).help(help).into())
        }
        _ => Ok(()),
    }
}

/// The smallest size of a file that is taken for meant: a header of one tensor takes as much.
const MIN_SHARD_BYTES: u64 = 1024;

/// Refuses a limit of file sizes that no file keeps, and tells of tensors that pass it.
///
/// # Errors
/// The limit is shorter than a header, or than every tensor.
pub(super) fn shard_size(
    max: Option<u64>,
    outputs: &[Output],
    shards: &[Shard],
) -> std::result::Result<Option<Diagnostic>, Failure> {
    let Some(max) = max else { return Ok(None) };
    let longest = outputs.iter().max_by_key(|output| output.n_bytes());
    let Some(longest) = longest.filter(|longest| max < longest.n_bytes()) else { return Ok(None) };
    let n_longer = outputs.iter().filter(|output| max < output.n_bytes()).count();
    let found = format!("`{}` has {} bytes", longest.name, longest.n_bytes());
    if max < MIN_SHARD_BYTES || n_longer == outputs.len() {
        let message = format!(
            "--max-shard-size {max} has no effect: a tensor is never cut, and no file of {max} \
             bytes holds one"
        );
        return Err(Diagnostic::error("P030", message)
            .mismatch(format!("at least {} bytes", longest.n_bytes()), max)
            .help(format!("{found}: take a size above that"))
            .into());
    }
    let n_files = shards.len();
    let message = format!(
        "{n_longer} of {} tensors are longer than --max-shard-size {max} and get files of their \
         own, of {n_files} in all; {found}",
        outputs.len()
    );
    Ok(Some(Diagnostic::warning("P031", message)))
}

/// Refuses a folder or a broken link where a file that would be carried over should be: it would
/// be lost without a word.
///
/// # Errors
/// There is one, or the folder cannot be listed.
pub(super) fn sidecars(opened: &Opened, spec: &Spec) -> Result<()> {
    if !opened.path.is_dir() {
        return Ok(());
    }
    let root = opened.source.root();
    let entries = std::fs::read_dir(root).map_err(|err| Error::io(root, "list", err))?;
    for entry in entries {
        let entry = entry.map_err(|err| Error::io(root, "list", err))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if opened.has(&name) || (name != CONFIG_FILE && spec.file_role(&name).is_none()) {
            continue;
        }
        let path = entry.path();
        let metadata = path.metadata().map_err(|err| Error::io(&path, "open", err))?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "a folder" } else { "no regular file" };
            let message = format!("is {what}, and the file of this name would be carried over");
            return Err(Error::new(ErrorKind::Io, message).in_file(&path));
        }
    }
    Ok(())
}
