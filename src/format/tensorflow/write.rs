//! The table of a checkpoint of version 2, as TensorFlow writes it.

use super::DTYPES;
use crate::base::error::{Error, Result};
use crate::checkpoint::DType;
use crate::container::protobuf::{put_bytes, put_fixed32, put_number};
use crate::container::sstable::{self, mask};

/// A tensor of a checkpoint.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// The name of its variable.
    pub name: &'a str,
    /// Its dtype.
    pub dtype: DType,
    /// Its dimensions, slowest first.
    pub shape: &'a [u64],
    /// The file of its elements.
    pub shard: u64,
    /// Where they begin in the file.
    pub offset: u64,
    /// How many bytes they take.
    pub len: u64,
    /// Their CRC-32C, unmasked.
    pub crc: u32,
}

/// Whether TensorFlow has a dtype.
pub fn has(dtype: DType) -> bool {
    number(dtype).is_some()
}

fn number(dtype: DType) -> Option<u64> {
    DTYPES.iter().find(|(_, of)| *of == dtype).map(|(number, _)| *number)
}

/// The name of the file `number`, counted from 0, of the `count` that hold the elements.
pub fn shard_name(stem: &str, number: usize, count: usize) -> String {
    format!("{stem}.data-{number:05}-of-{count:05}")
}

/// The bytes of the `.index` file.
///
/// # Errors
/// TensorFlow does not have a dtype.
pub fn index(n_shards: u64, entries: &[Entry<'_>]) -> Result<Vec<u8>> {
    // BundleHeaderProto: the low byte first, which is 0; the version of the writer.
    let mut header = Vec::new();
    put_number(1, n_shards, &mut header);
    put_bytes(3, &[8, 1], &mut header);
    let mut rows: Vec<(&[u8], Vec<u8>)> = vec![(b"", header)];
    for entry in entries {
        rows.push((entry.name.as_bytes(), entry.message()?));
    }
    rows.sort_by_key(|(name, _)| *name);
    Ok(sstable::write(rows.into_iter()))
}

/// The text of the file `checkpoint`, by which a folder's newest checkpoint is found.
pub fn checkpoint(stem: &str) -> String {
    format!("model_checkpoint_path: {stem:?}\nall_model_checkpoint_paths: {stem:?}\n")
}

impl Entry<'_> {
    /// `BundleEntryProto`.
    fn message(&self) -> Result<Vec<u8>> {
        let Entry { name, dtype, shape, .. } = self;
        let unknown = || Error::unsupported(format!("`{name}` of {dtype} in TensorFlow"));
        let mut message = Vec::new();
        put_number(1, number(*dtype).ok_or_else(unknown)?, &mut message);
        let mut dims = Vec::new();
        for size in *shape {
            let mut dim = Vec::new();
            put_number(1, *size, &mut dim);
            put_bytes(2, &dim, &mut dims);
        }
        put_bytes(2, &dims, &mut message);
        put_number(3, self.shard, &mut message);
        put_number(4, self.offset, &mut message);
        put_number(5, self.len, &mut message);
        put_fixed32(6, mask(self.crc), &mut message);
        Ok(message)
    }
}
