//! Writes the tensors into a folder, and gives the destination its name.

use std::collections::BTreeMap;
use std::path::Path;

use super::report::Report;
use super::request::{Failure, Request};
use super::units::{self, Part, Units};
use crate::base::diagnostic::Diagnostic;
use crate::exec::container::{Container, Safetensors};
use crate::exec::staging::Staging;
use crate::exec::write::{self, Shard, Writer, Written};
use crate::folder::Opened;
use crate::package::{Loss, TENSORS_STEM};
use crate::plan::Tensors;

/// What ends every conversion: the destination gets its name, if the source stayed what it was.
pub(super) fn commit(
    staging: Staging<'_>,
    opened: &Opened,
    request: &Request<'_>,
    report: &mut Report,
) -> std::result::Result<(), Failure> {
    request.check_cancelled()?;
    opened.source.check_unchanged()?;
    crate::convert::check::strict(&report.findings, request)?;
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

pub(super) fn write_tensors(
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
pub(super) fn package_shards(request: &Request<'_>, tensors: &Tensors) -> Vec<Shard> {
    write::shards(&tensors.outputs, request.max_shard_bytes, TENSORS_STEM, "safetensors")
}

#[allow(clippy::too_many_arguments)] // What a file is made of.
pub(super) fn write_shards(
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
                writer.write(&all, folder, &request.write_options(hash_files, &advance))?;
                Ok(writer.finish(folder)?)
            }
        }
    });
    request.progress.end();
    let mut written = written.or_else(|err| {
        // Of a source that changed, that is the reason.
        opened.source.check_unchanged()?;
        Err(err)
    })?;
    let mut total: Option<Loss> = None;
    for loss in written.tensors.iter().filter_map(|written| written.loss.as_deref()) {
        total.get_or_insert_with(Loss::default).add(loss);
    }
    report.loss = total;
    crate::convert::intact::tensors(opened, request, tensors, &written)?;
    report.tensors.note(std::mem::take(&mut written.tensors));
    report.findings.extend(crate::convert::intact::files(opened, &report.carried)?);
    Ok(written)
}
