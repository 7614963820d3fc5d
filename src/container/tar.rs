//! Tar archives: where their members are. Nothing is unpacked.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::{Component, Path};

use crate::base::error::{Error, ErrorKind, Result};

/// Where the sign of an archive stands, of POSIX as of GNU.
const MAGIC: (usize, &[u8]) = (257, b"ustar");

/// More members than this are no checkpoint.
const MAX_MEMBERS: usize = 100_000;

/// A path longer than this is none of a checkpoint.
const MAX_NAME_LEN: usize = 4096;

/// Whether bytes begin like an archive.
pub fn is_archive(bytes: &[u8]) -> bool {
    bytes.get(MAGIC.0..).is_some_and(|rest| rest.starts_with(MAGIC.1))
}

/// The members of an archive that are files, by their paths in it.
///
/// # Errors
/// The archive is broken or cut short, has no files, or two of a name; a path leads out or is too long; or a
/// member is a link or stored without its holes.
pub fn members(bytes: &[u8]) -> Result<BTreeMap<String, Range<u64>>> {
    let broken = |err: std::io::Error| {
        Error::new(ErrorKind::Malformed, format!("the tar archive is broken: {err}"))
    };
    let mut archive = tar::Archive::new(Cursor::new(bytes));
    let mut members = BTreeMap::new();
    for entry in archive.entries_with_seek().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let at = entry.raw_header_position();
        let name_len = entry.path_bytes().len();
        if MAX_NAME_LEN < name_len {
            let message = format!(
                "the name of a member has {name_len} bytes, at most {MAX_NAME_LEN} are read"
            );
            return Err(Error::limit(at, message));
        }
        let has_holes = has_holes(&mut entry).map_err(broken)?;
        let path = entry.path().map_err(broken)?;
        let name = name_of(&path).ok_or_else(|| {
            let message = format!("the member {path:?} does not stay inside the archive");
            Error::new(ErrorKind::Malformed, message)
        })?;
        let kind = entry.header().entry_type();
        let refused = |what: &str| {
            let message =
                format!("the member {name:?} is {what}: unpack the archive and name the folder");
            Err(Error::unsupported(message).at(at))
        };
        match kind {
            _ if has_holes => return refused("stored without its holes (sparse)"),
            kind if kind.is_file() => {}
            kind if kind.is_dir() => continue,
            kind if kind.is_symlink() || kind.is_hard_link() => return refused("a link"),
            _ => return refused("no file"),
        }
        let start = entry.raw_file_position();
        let end = start.checked_add(entry.size()).filter(|end| *end <= bytes.len() as u64);
        let end = end.ok_or_else(|| {
            let message = format!(
                "the member {name:?} has {} bytes from {start} on, the archive {} in all: it is cut short",
                entry.size(),
                bytes.len()
            );
            Error::malformed(start, message)
        })?;
        if MAX_MEMBERS < members.len() {
            return Err(Error::limit(start, format!("more than {MAX_MEMBERS} members")));
        }
        if members.insert(name.clone(), start..end).is_some() {
            return Err(Error::malformed(start, format!("two members are named {name:?}")));
        }
    }
    if members.is_empty() {
        return Err(Error::new(ErrorKind::Malformed, "the tar archive has no files"));
    }
    Ok(members)
}

/// Whether a member is stored without its holes, as GNU or as POSIX say it.
fn has_holes<R: Read>(entry: &mut tar::Entry<'_, R>) -> std::io::Result<bool> {
    if entry.header().entry_type().is_gnu_sparse() {
        return Ok(true);
    }
    let Some(extensions) = entry.pax_extensions()? else { return Ok(false) };
    for extension in extensions {
        if extension?.key_bytes().starts_with(b"GNU.sparse.") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A path with slashes, without `.`; none of one that climbs out.
fn name_of(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(names: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, data) in names {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append(&header, *data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn members_are_found_and_none_leads_out() {
        let bytes = archive(&[("./a.yaml", b"one"), ("folder/b", b"twelve bytes")]);
        assert!(is_archive(&bytes));
        let found = members(&bytes).unwrap();
        let slice = |name: &str| {
            let range = found[name].clone();
            &bytes[range.start as usize..range.end as usize]
        };
        assert_eq!((slice("a.yaml"), slice("folder/b")), (&b"one"[..], &b"twelve bytes"[..]));
        let err = members(&bytes[..1026]).unwrap_err().to_string();
        assert!(err.contains("archive"), "{err}");
        for name in ["../x", "/x", "a/../../x"] {
            let err = members(&archive(&[(name, b"")])).unwrap_err().to_string();
            assert!(err.contains("does not stay inside"), "{err}");
        }
        let err = members(&archive(&[("a", b""), ("./a", b"")])).unwrap_err().to_string();
        assert!(err.contains("two members"), "{err}");
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        builder.append_data(&mut header, "x/".repeat(2500), &b""[..]).unwrap();
        let err = members(&builder.into_inner().unwrap()).unwrap_err().to_string();
        assert!(err.contains("5000 bytes, at most 4096") && err.len() < 200, "{err}");
        let err = members(&archive(&[])).unwrap_err().to_string();
        assert!(err.contains("archive"), "{err}");
    }

    #[test]
    fn holes_are_not_taken_for_what_is_there() {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions([("GNU.sparse.major", &b"1"[..])]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(3);
        builder.append_data(&mut header, "GNUSparseFile.1/x", &b"map"[..]).unwrap();
        let err = members(&builder.into_inner().unwrap()).unwrap_err().to_string();
        assert!(err.contains("without its holes"), "{err}");
    }
}
