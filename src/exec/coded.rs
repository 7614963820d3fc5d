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
pub(super) struct Decoded(Mutex<Vec<(Key, Arc<Vec<u8>>)>>);

/// The same bytes of a file may be decoded in several ways.
type Key = (Extent, Coding);

impl Decoded {
    /// The decoded bytes of a storage.
    ///
    /// # Errors
    /// They cannot be decoded.
    pub(super) fn of(&self, coded: &Coded<'_>) -> Result<Arc<Vec<u8>>> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut kept = lock();
            let same = |(extent, coding): &Key| *extent == coded.extent && coding == coded.coding;
            if let Some(at) = kept.iter().position(|(key, _)| same(key)) {
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
        kept.push(((coded.extent, coded.coding.clone()), Arc::clone(&bytes)));
        Ok(bytes)
    }

    /// Gives back what was decoded.
    pub(super) fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::source::Source;
    use crate::checkpoint::tiles::Filter;

    #[test]
    fn the_same_bytes_are_decoded_in_each_way_that_is_asked_for() {
        let source = Source::from_bytes("x", &[1, 2, 3, 4]);
        let extent = source.extent(source.files().next().unwrap());
        let decoded = Decoded::default();
        let of = |width| {
            let coding = Coding { steps: vec![Filter::Shuffle(width)], len: 4 };
            let coded = Coded::new("x", Path::new("x"), extent, &[1, 2, 3, 4], &coding);
            decoded.of(&coded).unwrap().to_vec()
        };
        assert_eq!(of(2), [1, 3, 2, 4]);
        assert_eq!(of(4), [1, 2, 3, 4]);
        assert_eq!(of(2), [1, 3, 2, 4]);
    }
}
