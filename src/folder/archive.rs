//! Archives that hold what else is a folder: their members are read where they are.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::ops::Range;

use flate2::read::MultiGzDecoder;

use super::list::FolderFile;
use crate::base::error::{Error, Result};
use crate::base::source::{FileId, Source};
use crate::container::tar;
use crate::format::pytorch;

/// The start of what gzip packed.
const GZIP: &[u8] = b"\x1f\x8b";

/// The ends of names of archives that gzip packed.
const PACKED_ENDS: &[&str] = &[".nemo", ".tar.gz", ".tgz"];

/// An archive that is packed is unpacked into memory, up to so many bytes.
const MAX_UNPACKED_LEN: u64 = 1 << 30;

/// The digits that NeMo puts in front of the names of files, with an underscore behind.
const N_DIGITS: usize = 32;

/// A file as the folder that it holds, where it is an archive; else it is given back.
///
/// # Errors
/// The archive is broken, or is packed and too large.
pub(super) fn mount(
    source: Source,
    file: FileId,
) -> Result<std::result::Result<(Source, Vec<FolderFile>), Source>> {
    let path = source.path(file).to_owned();
    let bytes = source.bytes(file);
    let is_packed = bytes.starts_with(GZIP)
        && PACKED_ENDS.iter().any(|end| path.to_string_lossy().ends_with(end));
    let unpacked = match is_packed {
        true => Some(unpack(bytes).map_err(|err| err.in_file(&path))?),
        false => None,
    };
    let archive = unpacked.as_deref().unwrap_or(bytes);
    // What torch wrote before 0.1.10 is an archive that is one file.
    if !tar::is_archive(archive) || pytorch::probe(archive) {
        return Ok(Err(source));
    }
    let members = tar::members(archive).map_err(|err| err.in_file(&path))?;
    let members = plain_names(members);
    let files = members
        .iter()
        .map(|(name, range)| FolderFile { name: name.clone(), len: range.end - range.start })
        .collect();
    Ok(Ok((source.into_members(file, unpacked, members)?, files)))
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    let read = MultiGzDecoder::new(bytes).take(MAX_UNPACKED_LEN + 1).read_to_end(&mut unpacked);
    read.map_err(|err| Error::malformed(0, format!("what gzip packed is broken: {err}")))?;
    if MAX_UNPACKED_LEN < unpacked.len() as u64 {
        let message = format!(
            "is packed with gzip and has more than {MAX_UNPACKED_LEN} bytes; unpack it with `gunzip` and \
             name what it becomes"
        );
        return Err(Error::unsupported(message));
    }
    Ok(unpacked)
}

/// Files at the top without the digits that make their names unique, where they stay so.
fn plain_names(members: BTreeMap<String, Range<u64>>) -> BTreeMap<String, Range<u64>> {
    let plain = |name: &str| -> Option<String> {
        let (digits, rest) = name.split_at_checked(N_DIGITS)?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let rest = rest.strip_prefix('_').filter(|rest| is_hex && !rest.is_empty())?;
        (!rest.contains('/')).then(|| rest.to_owned())
    };
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for name in members.keys() {
        *counts.entry(plain(name).unwrap_or_else(|| name.clone())).or_default() += 1;
    }
    let renamed = members.into_iter().map(|(name, range)| {
        let short = plain(&name).filter(|short| counts.get(short) == Some(&1));
        (short.unwrap_or(name), range)
    });
    renamed.collect()
}
