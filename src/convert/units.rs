//! A conversion in units: each makes its share of the shards, in any order, anywhere and as often as one
//! likes; the last step joins them. What comes of it is, byte for byte, what one run makes.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::report::Report;
pub use super::report::{ShardReport, UnitsReport};
use super::request::{Failure, Request};
pub use super::unit::{Part, Unit, Units};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hex;
use crate::exec::container::Container;
use crate::exec::units::Store;
use crate::exec::write::{Shard, Writer, Written};
use crate::folder::Opened;
use crate::manifest::Tool;
use crate::plan::Tensors;

/// The shards of a plan, and its digest.
pub(super) fn plan(
    opened: &Opened,
    request: &Request<'_>,
    report: &Report,
    tensors: &Tensors,
    shards: &[Shard],
) -> Result<UnitsReport> {
    let shards: Vec<ShardReport> = shards
        .iter()
        .map(|shard| {
            let outputs = &tensors.outputs[shard.outputs.clone()];
            let bytes = outputs.iter().map(|output| output.n_bytes()).fold(0, u64::saturating_add);
            ShardReport { name: shard.name.clone(), tensors: outputs.len() as u64, bytes }
        })
        .collect();
    let mut files: Vec<(&str, u64, Option<u128>)> = Vec::new();
    let beside = opened.files.iter().map(|file| &file.name);
    for name in opened.weights.iter().chain(beside) {
        let path = opened.source.place(name);
        // A file that is made of others has no time of its own.
        let Ok(metadata) = path.metadata() else { continue };
        let since = metadata.modified().ok().and_then(|time| {
            time.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_nanos())
        });
        files.push((name, metadata.len(), since));
    }
    files.sort_unstable();
    files.dedup();
    let facts = (
        (Tool::this(), request.spec.hash(), &report.from, request.to),
        (&report.architecture, &report.map, &report.carried, &report.dropped, &report.copies),
        (files, &report.tensors, &shards),
    );
    let mut hasher = Writes(Sha256::new());
    serde_json::to_writer(&mut hasher, &facts)
        .map_err(|err| Error::new(ErrorKind::Malformed, err.to_string()))?;
    let digest = hex::encode(&hasher.0.finalize());
    Ok(UnitsReport { digest, shards, ..UnitsReport::default() })
}

/// Takes what is written into a hash.
struct Writes(Sha256);

impl std::io::Write for Writes {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Where the units of a plan put their shards: a hidden folder beside the destination.
fn store(request: &Request<'_>, digest: &str) -> Store {
    let destination: PathBuf = request.destination.components().collect();
    let name = destination.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // A name has at most 255 bytes on most systems.
    let name: String = name.chars().take(48).collect();
    let digest = digest.get(..16).unwrap_or(digest);
    Store::new(destination.with_file_name(format!(".{name}.llmstd-units-{digest}")))
}

/// Notes the plan in the report; refuses one that is not the plan that was made.
pub(super) fn note(
    opened: &Opened,
    request: &Request<'_>,
    report: &mut Report,
    tensors: &Tensors,
    shards: &[Shard],
) -> std::result::Result<(), Failure> {
    if request.units.is_none() && !request.dry_run {
        return Ok(());
    }
    let planned = plan(opened, request, report, tensors, shards)?;
    if let Some(wanted) = request.units.and_then(|units| units.digest)
        && wanted != planned.digest
    {
        let message = "the plan is of another conversion: the source, this program, the standard or \
                       the options are not those that it was made with";
        let finding = Diagnostic::error("P051", message).mismatch(wanted, &planned.digest);
        let help = "make it anew: llmstd convert SRC DST … --dry-run --format json > plan.json";
        return Err(finding.help(help).into());
    }
    report.units = Some(planned);
    Ok(())
}

/// Makes the share of a unit, if only that is to be done; whether it was.
pub(super) fn share(
    opened: &Opened,
    request: &Request<'_>,
    report: &mut Report,
    tensors: &Tensors,
    shards: &[Shard],
    container: &dyn Container,
    hash_files: bool,
) -> std::result::Result<bool, Failure> {
    let Some(Units { part: Part::Share(unit), .. }) = request.units else { return Ok(false) };
    let Some(planned) = &mut report.units else { return Ok(false) };
    let n_shards = shards.len() as u64;
    let own = (0..n_shards).filter(|number| number % unit.count == unit.number - 1);
    let own: Vec<usize> = own.map(|number| number as usize).collect();
    let n_bytes = own.iter().map(|number| planned.shards[*number].bytes).sum();
    request.progress.begin("converting", n_bytes);
    let advance = |n_bytes| request.progress.advance(n_bytes);
    let options = request.write_options(hash_files, &advance);
    let made = Writer::new(&opened.source, &tensors.inputs, &tensors.outputs, shards, container)
        .and_then(|mut writer| store(request, &planned.digest).write(&mut writer, &own, &options));
    request.progress.end();
    let made = made?;
    opened.source.check_unchanged()?;
    let names = |of: &dyn Fn(&usize) -> bool| {
        let of = own.iter().filter(|number| of(number));
        of.map(|number| shards[*number].name.clone()).collect()
    };
    planned.made = names(&|number| made.contains(number));
    planned.kept = names(&|number| !made.contains(number));
    Ok(true)
}

/// Makes what the units did not, where that is asked for, and joins all shards in a folder.
pub(super) fn join(
    request: &Request<'_>,
    part: Part,
    planned: &mut UnitsReport,
    mut writer: Writer<'_>,
    folder: &std::path::Path,
    advance: &(dyn Fn(u64) + Sync),
    hash_files: bool,
) -> std::result::Result<Written, Failure> {
    let store = store(request, &planned.digest);
    let missing = store.missing(&mut writer, hash_files)?;
    let names: Vec<String> =
        missing.iter().map(|number| planned.shards[*number].name.clone()).collect();
    if part == Part::Finish && !missing.is_empty() {
        const MAX_NAMED: usize = 8;
        let more = missing.len().saturating_sub(MAX_NAMED);
        let named = names.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
        let more = if more == 0 { String::new() } else { format!(", and {more} more") };
        let message = format!(
            "{} of {} shards are not made yet: {named}{more}",
            missing.len(),
            planned.shards.len()
        );
        let numbers: Vec<String> =
            missing.iter().take(MAX_NAMED).map(|number| (number + 1).to_string()).collect();
        let help = format!(
            "run the units that make them again: shard I is made by unit K of N where K is the rest \
             of I by N, or N where there is none; these are the shards {}",
            numbers.join(", ")
        );
        return Err(Diagnostic::error("P050", message).help(help).into());
    }
    let options = request.write_options(hash_files, advance);
    store.write(&mut writer, &missing, &options)?;
    let is_made = |name: &String| names.contains(name);
    let all = planned.shards.iter().map(|shard| shard.name.clone());
    (planned.made, planned.kept) = all.partition(is_made);
    Ok(store.join(writer, folder)?)
}

/// Removes the shards of a conversion that stands under its name.
pub(super) fn clean(request: &Request<'_>, report: &mut Report) {
    if request.units.is_none() {
        return;
    }
    let Some(planned) = &report.units else { return };
    if let Err(err) = store(request, &planned.digest).remove() {
        report.findings.push(Diagnostic::note("P032", err.to_string()));
    }
}
