//! What stands around the tensors of a msgpack file, as `flax.serialization` writes it.

use super::{ARRAY, CHUNKED, DTYPES};
use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::{DType, n_elements};
use crate::container::msgpack::{
    put_array, put_bin_head, put_bool, put_ext_head, put_map, put_str, put_uint,
};

/// Longer arrays are cut in pieces of so many bytes, which is Flax's own limit.
pub const MAX_CHUNK_LEN: u64 = 1 << 30;

/// How deep maps may lie in each other; the reader follows a few more.
const MAX_DEPTH: usize = 48;

/// A tensor to write.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name, whose parts between dots are keys.
    pub name: &'a str,
    /// Its dtype.
    pub dtype: DType,
    /// Its dimensions, slowest first.
    pub shape: &'a [u64],
}

/// Bytes that stand before a byte of a tensor: which tensor, which byte of it.
pub type Insert = (usize, u64, Vec<u8>);

/// The keys on the way to a tensor, by which a file is in order.
pub fn keys(name: &str) -> Vec<&str> {
    name.split('.').collect()
}

/// What Flax calls a dtype, where it has it.
pub fn dtype_name(dtype: DType) -> Option<&'static str> {
    DTYPES.iter().find(|(_, of)| *of == dtype).map(|(name, _)| *name)
}

/// What stands between the bytes of tensors, which are in the order of their [`keys`].
///
/// # Errors
/// A tensor has a dtype that Flax does not have, or a name that is a map of others too.
pub fn inserts(tensors: &[Entry<'_>], max_chunk_len: u64) -> Result<Vec<Insert>> {
    let keys: Vec<Vec<&str>> = tensors.iter().map(|tensor| keys(tensor.name)).collect();
    let mut writer = Writer { tensors, keys: &keys, max_chunk_len, left: Vec::new(), done: vec![] };
    writer.map(0, tensors.len(), 0)?;
    Ok(writer.done)
}

/// The bytes of a file without tensors.
pub fn empty() -> Vec<u8> {
    vec![0x80]
}

struct Writer<'a> {
    tensors: &'a [Entry<'a>],
    keys: &'a [Vec<&'a str>],
    max_chunk_len: u64,
    /// What comes before the next byte of a tensor.
    left: Vec<u8>,
    done: Vec<Insert>,
}

impl Writer<'_> {
    /// A map of the tensors `from..to`, which share the keys before `depth`.
    fn map(&mut self, from: usize, to: usize, depth: usize) -> Result<()> {
        let wrong = |message: String| Error::new(ErrorKind::Malformed, message);
        let name = |at: usize| self.tensors.get(at).map_or("", |tensor| tensor.name);
        if MAX_DEPTH < depth {
            let message = format!("`{}` has more than {MAX_DEPTH} parts", name(from));
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let groups: Vec<&[Vec<&str>]> =
            self.keys[from..to].chunk_by(|a, b| a.get(depth) == b.get(depth)).collect();
        let n = u32::try_from(groups.len());
        put_map(n.map_err(|_| wrong("more than 2^32 keys".to_owned()))?, &mut self.left);
        let mut start = from;
        for group in groups {
            let end = start + group.len();
            let first = &group[0];
            let key = first.get(depth).copied().filter(|key| !key.is_empty());
            let key =
                key.ok_or_else(|| wrong(format!("`{}` has a part without a name", name(start))))?;
            put_str(key, &mut self.left)?;
            match (first.len() == depth + 1, group.len()) {
                (true, 1) => self.tensor(start)?,
                (true, _) => {
                    let message = format!(
                        "`{}` is a tensor, and a map of `{}`",
                        name(start),
                        name(start + 1)
                    );
                    return Err(wrong(message));
                }
                (false, _) => self.map(start, end, depth + 1)?,
            }
            start = end;
        }
        Ok(())
    }

    fn tensor(&mut self, at: usize) -> Result<()> {
        let Entry { name, dtype, shape } = self.tensors[at];
        let wrong = || Error::unsupported(format!("`{name}` of {dtype} {shape:?} in Flax"));
        let word = dtype_name(dtype).ok_or_else(wrong)?;
        let n = n_elements(shape).ok_or_else(wrong)?;
        let n_bytes = dtype.n_bytes(n).ok_or_else(wrong)?;
        if n_bytes <= self.max_chunk_len {
            return self.array(at, 0, word, shape, n_bytes);
        }
        let width = dtype.bits() / 8;
        let chunk = (self.max_chunk_len / width).max(1);
        let n_chunks = u32::try_from(n.div_ceil(chunk)).map_err(|_| wrong())?;
        put_map(3, &mut self.left);
        put_str(CHUNKED, &mut self.left)?;
        put_bool(true, &mut self.left);
        put_str("shape", &mut self.left)?;
        // No more dimensions than the list of the other arrays holds.
        put_map(shape.len() as u32, &mut self.left);
        for (axis, dim) in shape.iter().enumerate() {
            put_str(&axis.to_string(), &mut self.left)?;
            put_uint(*dim, &mut self.left);
        }
        put_str("chunks", &mut self.left)?;
        put_map(n_chunks, &mut self.left);
        for number in 0..u64::from(n_chunks) {
            put_str(&number.to_string(), &mut self.left)?;
            let start = number * chunk;
            let len = chunk.min(n - start);
            self.array(at, start * width, word, &[len], len * width)?;
        }
        Ok(())
    }

    /// What stands before `len` bytes of a tensor, from `start` on.
    fn array(&mut self, at: usize, start: u64, word: &str, shape: &[u64], len: u64) -> Result<()> {
        let mut head = Vec::new();
        put_array(3, &mut head);
        put_array(shape.len() as u32, &mut head);
        for dim in shape {
            put_uint(*dim, &mut head);
        }
        put_str(word, &mut head)?;
        put_bin_head(len, &mut head)?;
        put_ext_head(ARRAY, head.len() as u64 + len, &mut self.left)?;
        self.left.extend(head);
        self.done.push((at, start, std::mem::take(&mut self.left)));
        Ok(())
    }
}
