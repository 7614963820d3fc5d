//! The bytes of a file: mapped, in memory, or a part of an archive's.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use memmap2::Mmap;

use super::missing::Watched;
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
    /// The map, and the file, which is read where bytes are only copied. The watch ends before the map.
    Mapped(Watched, Mmap, File),
    Owned(Vec<u8>),
    /// A member.
    Part(Arc<Archive>, Range<usize>),
}

impl Bytes {
    /// Maps a file.
    ///
    /// # Errors
    /// The system refuses.
    #[expect(unsafe_code, reason = "weights are read where they lie, without a copy")]
    pub(super) fn map(file: File) -> std::io::Result<Bytes> {
        // SAFETY: The map is read-only. A file that another process writes to meanwhile is
        // noticed by its time and length, pages that it cuts off by `missing`.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Bytes::Mapped(Watched::new(&map), map, file))
    }

    /// Whether something was read that could not be had.
    pub(super) fn is_damaged(&self) -> bool {
        match self {
            Bytes::Mapped(watched, ..) => watched.is_touched(),
            Bytes::Owned(_) => false,
            Bytes::Part(archive, _) => archive.bytes.is_damaged(),
        }
    }

    pub(super) fn slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(_, map, _) => map,
            Bytes::Owned(bytes) => bytes,
            Bytes::Part(archive, range) => &archive.bytes.slice()[range.clone()],
        }
    }

    /// Gives the memory back that reading a range took; what is read again is read from the file again.
    #[cfg(unix)]
    #[expect(unsafe_code, reason = "headers of many tensors are as long as what is made of them")]
    pub(super) fn forget(&self, range: Range<usize>) {
        match self {
            Bytes::Mapped(_, map, _) => {
                let (advice, len) = (memmap2::UncheckedAdvice::DontNeed, range.len());
                // SAFETY: The map is read-only and of a file, so that its pages are those of the file before
                // and after. A system that refuses keeps the memory, no more.
                let _ = unsafe { map.unchecked_advise_range(advice, range.start, len) };
            }
            Bytes::Owned(_) => {}
            Bytes::Part(archive, of) => {
                archive.bytes.forget(of.start + range.start..of.start + range.end);
            }
        }
    }

    /// Other systems give memory back by themselves.
    #[cfg(not(unix))]
    pub(super) fn forget(&self, _: Range<usize>) {}

    /// The file that they are mapped from, and where they begin in it.
    pub(super) fn on_disk(&self) -> Option<(&File, u64)> {
        match self {
            Bytes::Mapped(_, _, file) => Some((file, 0)),
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
