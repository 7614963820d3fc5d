//! The header of a GGUF file: version 3, little-endian.

use super::types::Type;
use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS, MAX_NAME_LEN, check_alignment, split,
};
use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::n_elements;
use crate::metadata::{Array, Metadata, Number, Value};

const VERSION: u32 = 3;

/// A tensor to write.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type.
    pub kind: Type<'a>,
    /// The dimensions of its values, slowest first.
    pub shape: &'a [u64],
}

/// What the tensors of a file begin at multiples of.
///
/// # Errors
/// The key that says it has no value that readers take.
pub fn alignment(metadata: &Metadata) -> Result<u64> {
    metadata.get(ALIGNMENT_KEY).map_or(Ok(DEFAULT_ALIGNMENT), check_alignment)
}

/// The keys of the part `number`, counted from 0, of `count` that hold `n_tensors` together.
///
/// The first part has those of the model; a single file has no others.
///
/// # Errors
/// There are more parts or tensors than the keys can count.
pub fn part_metadata(
    metadata: &Metadata,
    number: u64,
    count: u64,
    n_tensors: usize,
) -> Result<Metadata> {
    let mut part = metadata.clone();
    if count <= 1 {
        return Ok(part);
    }
    if number != 0 {
        // Each file is aligned by its own keys.
        part.retain(|key| key == ALIGNMENT_KEY);
    }
    for (key, value) in split::keys(number, count, n_tensors)? {
        part.set(key, value);
    }
    Ok(part)
}

/// Everything before the first tensor's bytes, padding included. The tensors follow in order,
/// each padded with zeros to a multiple of [`alignment`].
///
/// # Errors
/// A key or a tensor is one that readers refuse.
pub fn header(metadata: &Metadata, tensors: &[Entry<'_>]) -> Result<Vec<u8>> {
    let alignment = alignment(metadata)?;
    let mut header = MAGIC.to_vec();
    VERSION.put_le(&mut header);
    (tensors.len() as u64).put_le(&mut header);
    (metadata.len() as u64).put_le(&mut header);
    for (key, value) in metadata.iter() {
        if key.is_empty() || usize::from(u16::MAX) < key.len() {
            let message = format!("a key of {} bytes in a GGUF file", key.len());
            return Err(Error::unsupported(message));
        }
        put_text(key.as_bytes(), &mut header);
        put_value(value, &mut header);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        let about = |message: String| {
            let message = format!("`{}` in a GGUF file: {message}", tensor.name);
            Error::unsupported(message)
        };
        if MAX_NAME_LEN < tensor.name.len() {
            return Err(about(format!("names have at most {MAX_NAME_LEN} bytes")));
        }
        let n_dims = u32::try_from(tensor.shape.len()).ok().filter(|&n| n <= MAX_DIMS);
        let n_dims =
            n_dims.ok_or_else(|| about(format!("tensors have at most {MAX_DIMS} axes")))?;
        if tensor.shape.contains(&0) {
            return Err(about("no dimension is 0".to_owned()));
        }
        let (dtype, shape, _) = tensor.kind.physical(tensor.shape).map_err(about)?;
        put_text(tensor.name.as_bytes(), &mut header);
        n_dims.put_le(&mut header);
        for &dim in tensor.shape.iter().rev() {
            dim.put_le(&mut header);
        }
        tensor.kind.number().put_le(&mut header);
        offset.put_le(&mut header);
        let n_bytes = n_elements(&shape).and_then(|n| dtype.n_bytes(n));
        let end = n_bytes.and_then(|n| offset.checked_add(n)?.checked_next_multiple_of(alignment));
        offset = end.ok_or_else(|| {
            Error::new(ErrorKind::Limit, "the tensors of one file pass 2^64 bytes")
        })?;
    }
    let alignment = usize::try_from(alignment).unwrap_or(usize::MAX);
    header.resize(header.len().next_multiple_of(alignment), 0);
    Ok(header)
}

fn put_text(text: &[u8], header: &mut Vec<u8>) {
    (text.len() as u64).put_le(header);
    header.extend(text);
}

fn put_all<T: Number>(kind: u32, items: &[T], header: &mut Vec<u8>) {
    put_array_head(kind, items.len(), header);
    for item in items {
        item.put_le(header);
    }
}

fn put_array_head(kind: u32, len: usize, header: &mut Vec<u8>) {
    kind.put_le(header);
    (len as u64).put_le(header);
}

fn put_one<T: Number>(kind: u32, value: T, header: &mut Vec<u8>) {
    kind.put_le(header);
    value.put_le(header);
}

fn put_value(value: &Value, header: &mut Vec<u8>) {
    match value {
        Value::U8(value) => put_one(0, *value, header),
        Value::I8(value) => put_one(1, *value, header),
        Value::U16(value) => put_one(2, *value, header),
        Value::I16(value) => put_one(3, *value, header),
        Value::U32(value) => put_one(4, *value, header),
        Value::I32(value) => put_one(5, *value, header),
        Value::F32(value) => put_one(6, *value, header),
        Value::Bool(value) => put_one(7, *value, header),
        Value::String(text) => {
            8u32.put_le(header);
            put_text(&text.0, header);
        }
        Value::Array(array) => {
            9u32.put_le(header);
            put_array(array, header);
        }
        Value::U64(value) => put_one(10, *value, header),
        Value::I64(value) => put_one(11, *value, header),
        Value::F64(value) => put_one(12, *value, header),
    }
}

fn put_array(array: &Array, header: &mut Vec<u8>) {
    match array {
        Array::U8(items) => put_all(0, items, header),
        Array::I8(items) => put_all(1, items, header),
        Array::U16(items) => put_all(2, items, header),
        Array::I16(items) => put_all(3, items, header),
        Array::U32(items) => put_all(4, items, header),
        Array::I32(items) => put_all(5, items, header),
        Array::F32(items) => put_all(6, items, header),
        Array::Bool(items) => put_all(7, items, header),
        Array::String(texts) => {
            put_array_head(8, texts.len(), header);
            for text in texts.iter() {
                put_text(text, header);
            }
        }
        Array::Array(arrays) => {
            put_array_head(9, arrays.len(), header);
            for array in arrays {
                put_array(array, header);
            }
        }
        Array::U64(items) => put_all(10, items, header),
        Array::I64(items) => put_all(11, items, header),
        Array::F64(items) => put_all(12, items, header),
    }
}
