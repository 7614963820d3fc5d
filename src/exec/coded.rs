//! Bytes that are coded in the file: decoded as a whole when they are first read, and kept for as
//! long as there is room.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::error::Result;
use crate::base::source::Extent;
use crate::checkpoint::tiles::Coding;
use crate::container::filter;

/// Decoded storages of one output are kept up to so many bytes together; the one that is read is
/// kept in any case. A chunk of HDF5 or zarr has a few MiB at most where libraries choose its size.
const MAX_KEPT: usize = 32 << 20;

/// A storage that is coded.
pub(super) struct Coded<'a> {
    name: &'a str,
    path: &'a Path,
    extent: Extent,
    bytes: &'a [u8],
    coding: &'a Coding,
}

impl<'a> Coded<'a> {
    /// The bytes of the extent, of the tensor of this name.
    pub(super) fn new(
        name: &'a str,
        path: &'a Path,
        extent: Extent,
        bytes: &'a [u8],
        coding: &'a Coding,
    ) -> Coded<'a> {
        Coded { name, path, extent, bytes, coding }
    }

    /// The number of decoded bytes.
    pub(super) fn len(&self) -> u64 {
        self.coding.len
    }

    fn decode(&self) -> Result<Vec<u8>> {
        let decoded = filter::decode(self.coding, self.bytes).map_err(|err| {
            err.context(&format!("`{}`", self.name)).at(self.extent.start).in_file(self.path)
        })?;
        Ok(decoded.into_owned())
    }
}

/// What is decoded of the storages of one output, the latest last.
#[derive(Default)]
pub(super) struct Decoded(Mutex<Vec<(Extent, Arc<Vec<u8>>)>>);

impl Decoded {
    /// The decoded bytes of a storage.
    ///
    /// # Errors
    /// They cannot be decoded.
    pub(super) fn of(&self, coded: &Coded<'_>) -> Result<Arc<Vec<u8>>> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut kept = lock();
            if let Some(at) = kept.iter().position(|(extent, _)| *extent == coded.extent) {
                let found = kept.remove(at);
                let bytes = Arc::clone(&found.1);
                kept.push(found);
                return Ok(bytes);
            }
        }
        // Threads that want the same at the same time decode it each for itself.
        let bytes = Arc::new(coded.decode()?);
        let mut kept = lock();
        let mut room = MAX_KEPT.saturating_sub(bytes.len());
        let n_dropped = kept.len()
            - kept
                .iter()
                .rev()
                .take_while(|(_, bytes)| {
                    let fits = bytes.len() <= room;
                    room = room.saturating_sub(bytes.len());
                    fits
                })
                .count();
        kept.drain(..n_dropped);
        kept.push((coded.extent, Arc::clone(&bytes)));
        Ok(bytes)
    }

    /// Gives back what was decoded.
    pub(super) fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
