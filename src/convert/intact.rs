//! A package as a source: its bytes are those that its manifest says, or nothing is made of it. What
//! is written has hashes of its own, and damage that goes through would be whole by them.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::request::{Failure, Progress, Request};
use super::verify::whole_tensors;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::Result;
use crate::base::hex::Hex;
use crate::exec::checksum::damaged;
use crate::exec::digest::digests;
use crate::exec::gather::Gather;
use crate::exec::write::Written;
use crate::folder::Opened;
use crate::manifest::Manifest;
use crate::package::MANIFEST_FILE;
use crate::plan::Tensors;
use crate::plan::program::{Input, Output};

/// Holds the tensors of a package against its manifest. What was copied as it lies has the hash that
/// it was written with; the rest is hashed here.
///
/// # Errors
/// A tensor is not the one that the manifest says.
pub(super) fn tensors(
    opened: &Opened,
    request: &Request<'_>,
    plan: &Tensors,
    written: &Written,
) -> std::result::Result<(), Failure> {
    stored_checksums(opened, false, request.progress)?;
    let Some(manifest) = manifest(opened) else { return Ok(()) };
    let mut hashed: HashMap<(usize, usize), [u8; 32]> = HashMap::new();
    for (output, written) in plan.outputs.iter().zip(&written.tensors) {
        if let Some(place) = place(opened, &plan.inputs, output)? {
            hashed.insert(place, written.sha256);
        }
    }
    let stored = whole_tensors(&opened.checkpoint)?;
    let (mut known, mut rest) = (Vec::new(), Vec::new());
    for output in &stored.outputs {
        match place(opened, &stored.inputs, output)?.and_then(|place| hashed.get(&place)) {
            Some(sha256) => known.push((output, *sha256)),
            None => rest.push(output.clone()),
        }
    }
    request.progress.begin("checking the source", rest.iter().map(Output::n_bytes).sum());
    let advance = |n_bytes| request.progress.advance(n_bytes);
    let of_rest = digests(&opened.source, &stored.inputs, &rest, request.n_threads, &advance);
    request.progress.end();
    let of_rest = of_rest?;
    let mut damaged = Vec::new();
    for (output, sha256) in known.into_iter().chain(rest.iter().zip(of_rest)) {
        let Some(entry) = manifest.tensor(&output.name) else { continue };
        let found = Hex::from(sha256);
        if entry.sha256 != found {
            let message =
                format!("the bytes of `{}` are not those that the manifest says", output.name);
            let finding = Diagnostic::error("V120", message).tensor(&output.name);
            damaged.push(finding.mismatch(&entry.sha256, found).help(
                "the package is damaged or was changed: get it again; where the change is meant, \
                 `llmstd manifest` makes a true one",
            ));
        }
    }
    if damaged.is_empty() { Ok(()) } else { Err(damaged.into()) }
}

/// Holds the bytes of a checkpoint to the checksums that its container keeps: to all, or to those
/// that the library of its format compares whenever it reads.
///
/// # Errors
/// A tensor has other ones, or cannot be read.
pub(crate) fn stored_checksums(
    opened: &Opened,
    all: bool,
    progress: &dyn Progress,
) -> std::result::Result<(), Failure> {
    let checksums = opened.checkpoint.checksums.iter();
    let checksums: Vec<_> = checksums.filter(|of| all || of.is_compared_on_reading).collect();
    if checksums.is_empty() {
        return Ok(());
    }
    progress.begin("checking the source", checksums.iter().map(|of| of.bytes.len).sum());
    let damaged = damaged(&opened.source, &checksums, &|n_bytes| progress.advance(n_bytes));
    progress.end();
    let damaged = damaged?;
    if damaged.is_empty() { Ok(()) } else { Err(damaged.into()) }
}

/// Tells of files that are carried over and are not those that the manifest says.
///
/// # Errors
/// One cannot be read.
pub(super) fn files(opened: &Opened, carried: &[String]) -> Result<Vec<Diagnostic>> {
    let Some(manifest) = manifest(opened) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for name in carried {
        let Some(entry) = manifest.files.iter().find(|file| file.path == *name) else { continue };
        let mut source = opened.source.again();
        let file = source.add(name)?;
        let sha256 = Hex::Hash(Sha256::digest(source.whole(file)?).into());
        if entry.sha256 != sha256 {
            let message =
                format!("{name} is not the file that the manifest says; it is carried over");
            let finding = Diagnostic::warning("V121", message).file(name);
            found.push(finding.mismatch(&entry.sha256, sha256).help(
                "it is damaged, or was changed: where that is meant, `llmstd manifest` makes a true manifest",
            ));
        }
    }
    Ok(found)
}

/// The manifest of a package. One that is not there or cannot be read says nothing: `validate` tells.
fn manifest(opened: &Opened) -> Option<Manifest> {
    let path = opened.source.place(MANIFEST_FILE);
    (opened.is_package && path.is_file()).then(|| Manifest::read(&path).ok().flatten()).flatten()
}

/// Where the bytes of an output lie in memory, if they are there as they are.
fn place(opened: &Opened, inputs: &[Input], output: &Output) -> Result<Option<(usize, usize)>> {
    let Some(program) = output.program(inputs) else { return Ok(None) };
    if !program.kernels.is_empty() {
        return Ok(None);
    }
    let gather = Gather::new(&opened.source, inputs, &program, output.n_bytes())?;
    Ok(gather.contiguous().map(|bytes| (bytes.as_ptr().addr(), bytes.len())))
}
