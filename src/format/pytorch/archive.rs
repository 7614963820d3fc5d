//! The zip container of torch 1.6 and newer, and of TorchScript.

use std::borrow::Cow;

use crate::base::cursor::Cursor;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, Result};
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::Checkpoint;
use crate::container::zip::{Member, Method, Zip};
use crate::format::pickle::{self, Pickle};

use super::exported::{self, OLD_STATE};
use super::storage::{Record, Storages};
use super::{interpret, quote, report_trailing, rule};

/// The longest `byteorder` record; the words it can hold are shorter.
const MAX_BYTE_ORDER_LEN: u64 = 64;

/// A PyTorch archive whose pickle is not read yet.
pub(super) struct Archive<'s> {
    unpacked: Cow<'s, [u8]>,
    /// Where the pickle begins in the file.
    start: u64,
    pub(super) storages: Storages,
    pub(super) findings: Vec<Diagnostic>,
    is_big_endian: bool,
    is_script: bool,
}

/// Reads a PyTorch archive.
pub(super) fn read(source: &Source, file: FileId) -> Result<Checkpoint> {
    let whole = source.extent(file);
    let zip = Zip::read(source.slice(whole)?)?;
    if exported::is_program(&zip) {
        return exported::read(source, &zip, whole);
    }
    // Before torch 2.8 a program had what `torch.save` wrote as one of its members.
    let old = zip.members().iter().find(|member| {
        member.method == Method::Stored && member.name.rsplit('/').next() == Some(OLD_STATE)
    });
    let part = old.and_then(|of| whole.part(of.start, of.start.checked_add(of.packed_len)?));
    let mut archive = Archive::open(source, part.unwrap_or(whole))?;
    let mut findings = std::mem::take(&mut archive.findings);
    let (pickle, end) = archive.pickle()?;
    let unpacked_end = archive.start.saturating_add(archive.unpacked.len() as u64);
    report_trailing("the pickle in data.pkl", end, unpacked_end, &mut findings);
    let mut checkpoint = interpret(source, &pickle, &archive.storages)?;
    let mut insert = |key: &str, value: &str| {
        checkpoint.metadata.insert(key.to_owned(), value.to_owned());
    };
    insert("pytorch.container", "zip");
    if archive.is_big_endian {
        insert("pytorch.byteorder", "big");
    }
    if part.is_some() {
        insert("pytorch.kind", "torch.export");
    }
    if archive.is_script {
        insert("pytorch.kind", "TorchScript");
    }
    findings.append(&mut checkpoint.findings);
    checkpoint.findings = findings;
    Ok(checkpoint)
}

impl<'s> Archive<'s> {
    /// Opens the archive that a part of a file is.
    pub(super) fn open(source: &'s Source, extent: Extent) -> Result<Archive<'s>> {
        let bytes = source.slice(extent)?;
        let zip = Zip::read(bytes)?;
        // torch takes the folder of the first member, and looks nowhere else.
        let first = zip.members().first().map_or("", |member| member.name.as_str());
        let top = first.split_once('/').map_or("", |(top, _)| top);
        let at_top = |name: &str| zip.find(&format!("{top}/{name}"));
        let Some(member) = at_top("data.pkl") else { return Err(explain_other(&zip, top)) };

        let mut findings = Vec::new();
        for (first, second) in zip.case_twins() {
            let message = format!(
                "the members {} and {} differ only in the case of letters; torch takes them for one",
                quote(first),
                quote(second)
            );
            let help = "do not load this file; ask its maker for one without the second member";
            findings.push(Diagnostic::warning(rule::MEMBER_NAME_CASE, message).help(help));
        }
        let unpacked = member.unpack(bytes, pickle::MAX_LEN)?;
        let start = extent.start.saturating_add(member.start);
        // `set_crc32_options(False)` writes zeros for checksums.
        if member.crc != 0 && !member.matches(&unpacked) {
            let message =
                format!("the checksum of {} is not that of its bytes", quote(&member.name));
            findings.push(
                Diagnostic::warning(rule::CHECKSUM_MISMATCH, message)
                    .bytes(start, start.saturating_add(member.packed_len))
                    .help("the file is damaged or was edited; get it again"),
            );
        }
        let is_big_endian = match at_top("byteorder") {
            Some(record) => is_big_endian(record, bytes)?,
            None => false,
        };
        let mut storages = Storages::new(is_big_endian);
        let folder = format!("{top}/data/");
        for record in zip.members() {
            if let Some(key) = record.name.strip_prefix(&folder) {
                storages.insert(key.to_owned(), record_of(record, extent, member.crc != 0));
            }
        }
        let is_script = at_top("constants.pkl").is_some();
        Ok(Archive { unpacked, start, storages, findings, is_big_endian, is_script })
    }

    /// Its pickle, and where that ends in the file.
    pub(super) fn pickle(&self) -> Result<(Pickle<'_>, u64)> {
        let mut cursor = Cursor::new(&self.unpacked, self.start);
        let pickle = Pickle::read(&mut cursor).map_err(|err| err.context("data.pkl"))?;
        Ok((pickle, cursor.offset()))
    }
}

fn is_big_endian(record: &Member, bytes: &[u8]) -> Result<bool> {
    match &*record.unpack(bytes, MAX_BYTE_ORDER_LEN)? {
        b"little" => Ok(false),
        b"big" => Ok(true),
        other => {
            let message =
                format!("the byte order is `{}`; `little` or `big` is due", other.escape_ascii());
            Err(Error::malformed(record.start, message))
        }
    }
}

fn record_of(member: &Member, archive: Extent, checksums: bool) -> Record {
    let fault = match member.method {
        Method::Stored => None,
        _ => Some(
            "unsupported: compressed storage; unpack the file with a zip tool and pack it again \
             without compression"
                .to_owned(),
        ),
    };
    Record {
        extent: Extent {
            start: archive.start.saturating_add(member.start),
            len: member.packed_len,
            ..archive
        },
        fault,
        crc: Some(member.crc),
        file_has_checksums: checksums,
    }
}

/// Says what a zip file without `data.pkl` is, as far as its members tell.
fn explain_other(zip: &Zip, top: &str) -> Error {
    let has = |name: &str| zip.find(&format!("{top}/{name}")).is_some();
    let ends = |end: &str| zip.members().iter().any(|member| member.name.ends_with(end));
    if has("archive_format") {
        return Error::unsupported(
            "this is a program of `torch.export` without weights; name the file that has them",
        );
    }
    if has("model.json") {
        return Error::unsupported(
            "this is a TorchScript file of torch before 1.2; load it with `torch.jit.load` and \
             save its `state_dict`",
        );
    }
    if ends(".npy") {
        return Error::unsupported("this is an `.npz` file of NumPy, not one of PyTorch");
    }
    let message = format!(
        "a PyTorch archive has a member {}, this zip file does not",
        quote(&format!("{}/data.pkl", if top.is_empty() { "archive" } else { top }))
    );
    Error::malformed(0, message)
}
