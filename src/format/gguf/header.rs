//! The numbers, strings and values of a header, in both byte orders and all versions.

use super::{ALIGNMENT_KEY, MAGIC, MAX_COUNT};
use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};
use crate::metadata::{Array, MAX_DEPTH, Number, Text, Texts, Value};

/// A header that is longer is not read on; the largest vocabularies take 20 MB.
const MAX_HEADER_LEN: usize = 100_000_000;
/// Names of keys and tensors that are longer are not read; the spec of GGUF has this for keys.
const MAX_NAME_LEN: u64 = 65535;

/// The least bytes that things take, which bound how many there can be.
pub(super) struct VersionedSizes {
    pub(super) min_tensor: u64,
    pub(super) min_key: u64,
    min_string: u64,
    min_array: u64,
}

impl VersionedSizes {
    pub(super) fn of(version: u32) -> VersionedSizes {
        let size = if version == 1 { 4 } else { 8 };
        VersionedSizes {
            // Name, number of dimensions, type, offset.
            min_tensor: size + 4 + 4 + 8,
            // Name, kind, one byte.
            min_key: size + 4 + 1,
            min_string: size,
            min_array: 4 + size,
        }
    }
}

/// Where keys stand that are checked later.
#[derive(Default)]
pub(super) struct KeyPlaces {
    pub(super) alignment: Option<u64>,
}

/// Walks over the header of a file.
pub(super) struct Reader<'a> {
    cursor: Cursor<'a>,
    pub(super) version: u32,
    pub(super) big_endian: bool,
    /// The file goes on after what is read of it.
    is_longer: bool,
    /// Arrays in arrays so far.
    n_arrays: u64,
    key_places: KeyPlaces,
}

impl<'a> Reader<'a> {
    /// Reads the magic and the version.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Reader<'a>> {
        let head = &bytes[..bytes.len().min(MAX_HEADER_LEN)];
        let mut cursor = Cursor::new(head, 0);
        if cursor.take(MAGIC.len() as u64, "the magic")? != MAGIC {
            return Err(Error::malformed(0, "does not begin with `GGUF`"));
        }
        let version = cursor.u32_le("the version")?;
        // There is no flag: a version is small, and turned round its low half is 0.
        let big_endian = version & 0xffff == 0;
        let version = if big_endian { version.swap_bytes() } else { version };
        if !(1..=3).contains(&version) {
            let message = format!("is GGUF of version {version}; versions 1, 2 and 3 are read");
            return Err(Error::unsupported(message).at(4));
        }
        let is_longer = head.len() < bytes.len();
        let key_places = KeyPlaces::default();
        Ok(Reader { cursor, version, big_endian, is_longer, n_arrays: 0, key_places })
    }

    /// The offset of the next byte in the file.
    pub(super) fn offset(&self) -> u64 {
        self.cursor.offset()
    }

    /// Notes where a key stands.
    pub(super) fn note_key(&mut self, key: &str, at: u64) {
        if key == ALIGNMENT_KEY {
            self.key_places.alignment = Some(at);
        }
    }

    /// Where keys stand.
    pub(super) fn key_places(&self) -> &KeyPlaces {
        &self.key_places
    }

    fn take(&mut self, len: u64, field: &str) -> Result<&'a [u8]> {
        if self.is_longer && self.cursor.left() < len {
            let message = format!("{field} passes the first {MAX_HEADER_LEN} bytes of the file");
            return Err(Error::limit(self.offset(), message));
        }
        self.cursor.take(len, field)
    }

    fn number<T: Number>(&mut self, field: &str) -> Result<T> {
        let at = self.offset();
        let bytes = self.take(T::LEN as u64, field)?;
        self.decode(bytes).ok_or_else(|| {
            Error::malformed(at, format!("{field} is a bool and has the byte {bytes:02x?}"))
        })
    }

    fn decode<T: Number>(&self, bytes: &[u8]) -> Option<T> {
        if !self.big_endian {
            return T::from_le(bytes);
        }
        let mut turned = [0u8; 8];
        for (to, from) in turned.iter_mut().zip(bytes.iter().rev()) {
            *to = *from;
        }
        T::from_le(turned.get(..T::LEN)?)
    }

    pub(super) fn u32(&mut self, field: &str) -> Result<u32> {
        self.number(field)
    }

    pub(super) fn u64(&mut self, field: &str) -> Result<u64> {
        self.number(field)
    }

    /// A count, a length or a dimension.
    pub(super) fn size(&mut self, field: &str) -> Result<u64> {
        if self.version == 1 { self.u32(field).map(u64::from) } else { self.u64(field) }
    }

    /// How many of something there are that takes at least `min_len` bytes each.
    pub(super) fn count(&mut self, what: &str, min_len: u64) -> Result<u64> {
        let at = self.offset();
        let count = self.size(&format!("the number of {what}"))?;
        self.check_count(count, min_len, what, at)?;
        if MAX_COUNT < count {
            let message = format!("{what} are {count}, at most {MAX_COUNT} are read");
            return Err(Error::limit(at, message));
        }
        Ok(count)
    }

    fn check_count(&self, count: u64, min_len: u64, what: &str, at: u64) -> Result<()> {
        let left = self.cursor.left();
        if left / min_len < count {
            let message = format!(
                "{what} are {count}, which take at least {min_len} bytes each; {left} are left"
            );
            return Err(match self.is_longer {
                true => Error::limit(at, message),
                false => Error::malformed(at, message),
            });
        }
        Ok(())
    }

    fn string(&mut self, field: &str) -> Result<&'a [u8]> {
        let len = self.size(field)?;
        self.take(len, field)
    }

    /// A string that names something.
    pub(super) fn name(&mut self, field: &str) -> Result<String> {
        let at = self.offset();
        let bytes = self.string(field)?;
        if MAX_NAME_LEN < bytes.len() as u64 {
            let message = format!("{field} has {} bytes, at most {MAX_NAME_LEN}", bytes.len());
            return Err(Error::limit(at, message));
        }
        String::from_utf8(bytes.to_vec())
            .map_err(|_| Error::malformed(at, format!("{field} is not UTF-8")))
    }

    /// The kind and the value of the key `key`.
    pub(super) fn value(&mut self, key: &str) -> Result<Value> {
        let at = self.offset();
        let field = format!("the value of `{key}`");
        Ok(match self.u32(&field)? {
            0 => Value::U8(self.number(&field)?),
            1 => Value::I8(self.number(&field)?),
            2 => Value::U16(self.number(&field)?),
            3 => Value::I16(self.number(&field)?),
            4 => Value::U32(self.number(&field)?),
            5 => Value::I32(self.number(&field)?),
            6 => Value::F32(self.number(&field)?),
            7 => Value::Bool(self.number(&field)?),
            8 => Value::String(Text(self.string(&field)?.to_vec())),
            9 => Value::Array(self.array(&field, 1)?),
            10 => Value::U64(self.number(&field)?),
            11 => Value::I64(self.number(&field)?),
            12 => Value::F64(self.number(&field)?),
            kind => return Err(unknown_kind(kind, &field, at)),
        })
    }

    fn array(&mut self, field: &str, depth: usize) -> Result<Array> {
        let at = self.offset();
        if MAX_DEPTH < depth {
            let message = format!("{field} is of arrays that lie more than {MAX_DEPTH} deep");
            return Err(Error::limit(at, message));
        }
        let kind = self.u32(field)?;
        let len_at = self.offset();
        let len = self.size(field)?;
        let sizes = VersionedSizes::of(self.version);
        let what = format!("the items of {field}");
        Ok(match kind {
            0 => Array::U8(self.numbers(len, field)?),
            1 => Array::I8(self.numbers(len, field)?),
            2 => Array::U16(self.numbers(len, field)?),
            3 => Array::I16(self.numbers(len, field)?),
            4 => Array::U32(self.numbers(len, field)?),
            5 => Array::I32(self.numbers(len, field)?),
            6 => Array::F32(self.numbers(len, field)?),
            7 => Array::Bool(self.numbers(len, field)?),
            8 => {
                self.check_count(len, sizes.min_string, &what, len_at)?;
                let mut texts = Texts::default();
                for _ in 0..len {
                    texts.push(self.string(field)?);
                }
                Array::String(Box::new(texts))
            }
            9 => {
                self.check_count(len, sizes.min_array, &what, len_at)?;
                self.n_arrays = self.n_arrays.saturating_add(len);
                if MAX_COUNT < self.n_arrays {
                    let message = format!("more than {MAX_COUNT} arrays lie in arrays");
                    return Err(Error::limit(len_at, message));
                }
                let mut arrays = Vec::new();
                for _ in 0..len {
                    arrays.push(self.array(field, depth + 1)?);
                }
                Array::Array(arrays)
            }
            10 => Array::U64(self.numbers(len, field)?),
            11 => Array::I64(self.numbers(len, field)?),
            12 => Array::F64(self.numbers(len, field)?),
            kind => return Err(unknown_kind(kind, field, at)),
        })
    }

    fn numbers<T: Number>(&mut self, len: u64, field: &str) -> Result<Vec<T>> {
        let at = self.offset();
        let n_bytes = len.saturating_mul(T::LEN as u64);
        let bytes = self.take(n_bytes, field)?;
        let numbers = bytes.chunks_exact(T::LEN).map(|bytes| self.decode(bytes));
        numbers.collect::<Option<_>>().ok_or_else(|| {
            Error::malformed(at, format!("{field} is of bools and has bytes that are not 0 or 1"))
        })
    }
}

fn unknown_kind(kind: u32, field: &str, at: u64) -> Error {
    let message = format!("{field} is of the kind {kind}; known are 0 to 12");
    Error::malformed(at, message)
}
