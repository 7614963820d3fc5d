//! The bytes of a file: mapped, in memory, or a part of an archive's.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use memmap2::Mmap;

use super::state::State;

/// A file that has the files of an input as its members.
pub(super) struct Archive {
    pub(super) path: PathBuf,
    pub(super) bytes: Bytes,
    pub(super) state: Option<State>,
    /// The places of members in the bytes, none of which passes the end.
    pub(super) members: BTreeMap<String, Range<usize>>,
}

/// Where bytes lie.
pub(super) enum Bytes {
    /// The map, and the file, which is read where bytes are only copied.
    Mapped(Mmap, File),
    Owned(Vec<u8>),
    /// A member.
    Part(Arc<Archive>, Range<usize>),
}

impl Bytes {
    pub(super) fn slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map, _) => map,
            Bytes::Owned(bytes) => bytes,
            Bytes::Part(archive, range) => &archive.bytes.slice()[range.clone()],
        }
    }

    /// The file that they are mapped from, and where they begin in it.
    pub(super) fn on_disk(&self) -> Option<(&File, u64)> {
        match self {
            Bytes::Mapped(_, file) => Some((file, 0)),
            Bytes::Owned(_) => None,
            Bytes::Part(archive, range) => {
                let (file, start) = archive.bytes.on_disk()?;
                Some((file, start + range.start as u64))
            }
        }
    }
}

/// Reads `into.len()` bytes from `offset` on.
#[cfg(unix)]
pub(super) fn read_at(file: &File, into: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, offset)
}

/// Reads `into.len()` bytes from `offset` on.
#[cfg(not(unix))]
pub(super) fn read_at(file: &File, into: &mut [u8], offset: u64) -> std::io::Result<()> {
    use std::io::{Seek as _, SeekFrom};
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(into)
}
