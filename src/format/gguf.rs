//! GGUF, the format of llama.cpp: keys with typed values, then tensors, many of them quantized.
//!
//! ```text
//! "GGUF" | version: u32 | n_tensors: u64 | n_keys: u64
//! keys:     name: string, kind: u32, value
//! tensors:  name: string, n_dims: u32, dims: u64…, type: u32, offset: u64
//! padding to the alignment, then the tensors' bytes, each padded to the alignment
//! ```
//!
//! A string is its length and its bytes. Version 1 has `u32` for every count, length and dim.
//! Files of big-endian machines have every number turned and no flag that says so. Dimensions
//! stand fastest first, here they are turned round; offsets count from the first tensor's byte.
//!
//! Programs differ in what they accept; what one of them refuses is refused here: a key or a
//! tensor twice, offsets with a hole between tensors, a dimension of 0.
//! Spec: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>; limits and order as
//! `ggml/src/gguf.cpp` has them (ggml-org/llama.cpp, commit 067d44f6).

mod header;
pub mod split;
pub mod tokenizer;
pub mod types;
pub mod write;

use std::collections::HashSet;

use self::header::{Reader, VersionedSizes};
use self::types::TYPES;
use super::{Format, Probe, Split};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, Result};
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor, View, n_elements, row_major_strides};
use crate::metadata::{Metadata, Value};

/// The ids of this reader's findings; each has a page under `spec/1.0/rules`.
mod rule {
    pub(super) const UNREADABLE_TENSOR: &str = "R003";
    pub(super) const TRAILING_BYTES: &str = "R008";
    pub(super) const LONG_NAME: &str = "R020";
    pub(super) const METADATA_OF_LATER_PART: &str = "R021";
    pub(super) const TOKENIZER: &str = "R022";
}

const MAGIC: &[u8] = b"GGUF";

/// The key of the alignment, and its value where there is no such key.
const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
/// Far more than any page; padding to it is still no work.
const MAX_ALIGNMENT: u64 = 16 << 20;

/// Keys, tensors, and values of arrays in arrays that are read at most.
const MAX_COUNT: u64 = 1_000_000;
/// `GGML_MAX_DIMS`.
const MAX_DIMS: u32 = 4;
/// Programs keep names in `GGML_MAX_NAME` = 64 bytes with a zero at the end.
const MAX_NAME_LEN: usize = 63;

/// What llama.cpp wrote before GGUF: the magic of each as it lies in the file.
const BEFORE_GGUF: &[&[u8]] = &[b"lmgg", b"fmgg", b"tjgg", b"algg"];

/// The format for the registry.
pub static FORMAT: Format = Format {
    id: "gguf",
    name: "GGUF",
    endings: &["gguf"],
    dialect: "gguf",
    is_complete: true,
    probe: |head, _| if probe(head) { Probe::Sure } else { Probe::No },
    read: |source, file| read(source, file),
    header_len: Some(header_len),
    split: Some(Split { names: split::names, join: split::join }),
    ..Format::DEFAULT
};

/// Tells whether a file that starts with `head` is of this format, or of one of those before it.
fn probe(head: &[u8]) -> bool {
    head.starts_with(MAGIC) || head.starts_with(b"FUGG") || is_before_gguf(head)
}

fn is_before_gguf(head: &[u8]) -> bool {
    BEFORE_GGUF.iter().any(|magic| head.starts_with(magic))
}

/// Reads the header of one file; of a split one, [`split::join`] puts the parts together.
///
/// # Errors
/// The file does not keep the format, or is of one that llama.cpp wrote before it; the error has
/// the byte.
pub fn read(source: &Source, file: FileId) -> Result<Checkpoint> {
    let read = read_file(source.bytes(file), source.extent(file));
    let mut checkpoint = read.map_err(|err| err.in_file(source.path(file)))?;
    for finding in &mut checkpoint.findings {
        finding.file.get_or_insert_with(|| source.name(file).to_owned());
    }
    Ok(checkpoint)
}

/// The keys of a file, whatever tensors it has.
///
/// # Errors
/// The header does not keep the format, up to the end of the keys.
pub fn keys(bytes: &[u8]) -> Result<Metadata> {
    let mut reader = Reader::new(bytes)?;
    let sizes = VersionedSizes::of(reader.version);
    reader.count("the tensors", sizes.min_tensor)?;
    let n_keys = reader.count("the keys", sizes.min_key)?;
    read_metadata(&mut reader, n_keys)
}

/// How long the header is, up to the infos of the tensors, of which these are the first bytes; `None` if it
/// goes on. What is no GGUF has none.
fn header_len(head: &[u8]) -> Option<u64> {
    if !head.starts_with(MAGIC) {
        return Some(0);
    }
    let mut reader = Reader::new(head).ok()?;
    let sizes = VersionedSizes::of(reader.version);
    let n_tensors = reader.count("the tensors", sizes.min_tensor).ok()?;
    let n_keys = reader.count("the keys", sizes.min_key).ok()?;
    read_metadata(&mut reader, n_keys).ok()?;
    read_infos(&mut reader, n_tensors).ok()?;
    Some(reader.offset())
}

/// A tensor as the header has it.
struct Info {
    name: String,
    /// Slowest first.
    shape: Vec<u64>,
    type_number: u32,
    offset: u64,
    /// Where in the header its dims and its offset stand.
    dims_at: u64,
    offset_at: u64,
}

fn read_file(bytes: &[u8], extent: Extent) -> Result<Checkpoint> {
    if is_before_gguf(bytes) {
        let message = "is a file that llama.cpp wrote before it had GGUF (before August 2023); \
                       its own `convert-llama-ggml-to-gguf.py` of that time turns it into one";
        return Err(Error::unsupported(message).at(0));
    }
    if bytes.starts_with(b"FUGG") {
        let message = "the magic is `FUGG`, `GGUF` turned round; files of big-endian machines \
                       too begin with `GGUF`";
        return Err(Error::malformed(0, message));
    }
    let mut reader = Reader::new(bytes)?;
    let sizes = VersionedSizes::of(reader.version);
    let n_tensors = reader.count("the tensors", sizes.min_tensor)?;
    let n_keys = reader.count("the keys", sizes.min_key)?;
    let metadata = read_metadata(&mut reader, n_keys)?;
    let alignment = alignment(&metadata, reader.key_places())?;
    let infos = read_infos(&mut reader, n_tensors)?;

    let mut checkpoint = Checkpoint { format: "gguf", ..Checkpoint::default() };
    let order = if reader.big_endian { "big" } else { "little" };
    for (key, value) in [
        ("GGUF.version", reader.version.to_string()),
        ("GGUF.byte_order", order.to_owned()),
        ("GGUF.alignment", alignment.to_string()),
    ] {
        checkpoint.metadata.insert(key.to_owned(), value);
    }
    // The header is at most a part of the file, so this cannot overflow.
    let data_start = reader.offset().next_multiple_of(alignment).min(extent.len);
    let is_cut = extent.len < reader.offset().next_multiple_of(alignment);
    let data = Extent { start: data_start, len: extent.len - data_start, ..extent };
    if is_cut && !infos.is_empty() {
        let message = format!("the file ends in the padding to {alignment} before the tensors");
        return Err(Error::malformed(extent.len, message));
    }
    place(&infos, data, alignment, reader.big_endian, &mut checkpoint)?;
    checkpoint.findings.extend(tokenizer::check(&metadata));
    checkpoint.typed_metadata = metadata;
    Ok(checkpoint)
}

fn read_metadata(reader: &mut Reader<'_>, n_keys: u64) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    for _ in 0..n_keys {
        let at = reader.offset();
        let key = reader.name("the name of a key")?;
        if key.is_empty() {
            return Err(Error::malformed(at, "the name of a key is empty"));
        }
        let value = reader.value(&key)?;
        reader.note_key(&key, at);
        if !metadata.push(key.clone(), value) {
            let message = format!("the key `{key}` stands twice; programs differ in which counts");
            return Err(Error::malformed(at, message));
        }
    }
    Ok(metadata)
}

/// The alignment that the keys ask for.
fn alignment(metadata: &Metadata, key_places: &header::KeyPlaces) -> Result<u64> {
    let Some(value) = metadata.get(ALIGNMENT_KEY) else { return Ok(DEFAULT_ALIGNMENT) };
    check_alignment(value).map_err(|err| err.at(key_places.alignment.unwrap_or(0)))
}

fn check_alignment(value: &Value) -> Result<u64> {
    let malformed = |message| Error::new(crate::base::error::ErrorKind::Malformed, message);
    let Value::U32(alignment) = *value else {
        let message = format!("`{ALIGNMENT_KEY}` is a u32, here it is a {}", value.kind_name());
        return Err(malformed(message));
    };
    if !alignment.is_power_of_two() || alignment % 8 != 0 {
        let message =
            format!("`{ALIGNMENT_KEY}` is {alignment}; it is a power of two and a multiple of 8");
        return Err(malformed(message));
    }
    if MAX_ALIGNMENT < alignment.into() {
        let message = format!("`{ALIGNMENT_KEY}` is {alignment}, at most {MAX_ALIGNMENT} is read");
        return Err(Error::new(crate::base::error::ErrorKind::Limit, message));
    }
    Ok(alignment.into())
}

fn read_infos(reader: &mut Reader<'_>, n_tensors: u64) -> Result<Vec<Info>> {
    let mut infos = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..n_tensors {
        let at = reader.offset();
        let name = reader.name("the name of a tensor")?;
        if !names.insert(name.clone()) {
            return Err(Error::malformed(at, format!("the tensor `{name}` stands twice")));
        }
        let dims_at = reader.offset();
        let n_dims = reader.u32("the number of dimensions")?;
        if MAX_DIMS < n_dims {
            let message = format!("tensor `{name}` has {n_dims} dimensions, at most 4 are allowed");
            return Err(Error::malformed(dims_at, message));
        }
        let mut shape = Vec::new();
        for _ in 0..n_dims {
            shape.push(reader.size("a dimension")?);
        }
        shape.reverse();
        if shape.contains(&0) {
            let message = format!("tensor `{name}` {shape:?} has a dimension of 0");
            return Err(Error::malformed(dims_at, message));
        }
        // ggml counts in i64.
        if n_elements(&shape).is_none_or(|n| i64::try_from(n).is_err()) {
            let message = format!("tensor `{name}` {shape:?} has 2^63 values or more");
            return Err(Error::malformed(dims_at, message));
        }
        let type_number = reader.u32("the type of a tensor")?;
        let offset_at = reader.offset();
        let offset = reader.u64("the offset of a tensor")?;
        infos.push(Info { name, shape, type_number, offset, dims_at, offset_at });
    }
    Ok(infos)
}

/// Finds the bytes of every tensor, which follow each other in the order of the header.
fn place(
    infos: &[Info],
    data: Extent,
    alignment: u64,
    big_endian: bool,
    checkpoint: &mut Checkpoint,
) -> Result<()> {
    // The end of the tensors so far, padded; not known behind a tensor of an unknown type.
    let mut end = Some(0u64);
    let mut last: Option<&Info> = None;
    for info in infos {
        let Info { name, offset, .. } = info;
        let malformed = |message: String| Err(Error::malformed(info.offset_at, message));
        if !offset.is_multiple_of(alignment) {
            return malformed(format!(
                "tensor `{name}` begins at {offset} of the data, no multiple of the alignment \
                 {alignment}"
            ));
        }
        let before = last.map_or("the start".to_owned(), |last| format!("`{}`", last.name));
        let least = end.unwrap_or(last.map_or(0, |last| last.offset));
        if *offset < least {
            return malformed(format!(
                "tensor `{name}` lies {} bytes over {before}",
                least - offset
            ));
        }
        if end.is_some_and(|end| end < *offset) {
            return malformed(format!(
                "{} bytes between {before} and tensor `{name}` are no tensor's",
                offset - least
            ));
        }
        last = Some(info);
        if MAX_NAME_LEN < name.len() {
            let message = format!(
                "the name `{name}` has {} bytes; llama.cpp refuses more than {MAX_NAME_LEN}",
                name.len()
            );
            checkpoint.findings.push(Diagnostic::warning(rule::LONG_NAME, message).tensor(name));
        }
        let (tensor, n_bytes) = tensor(info, data, big_endian)?;
        if let Payload::Unreadable(why) = &tensor.payload {
            let message = format!("the values of `{name}` cannot be had: {why}");
            let finding = Diagnostic::warning(rule::UNREADABLE_TENSOR, message);
            checkpoint.findings.push(finding.tensor(name));
        }
        // A type that is not known takes whatever comes before the next tensor.
        end = n_bytes.and_then(|n| offset.checked_add(n)?.checked_next_multiple_of(alignment));
        checkpoint.tensors.push(tensor);
    }
    // Some writers leave out the padding behind the last tensor.
    if let Some(end) = end.filter(|&end| end < data.len) {
        let message =
            format!("{} bytes follow the last tensor, and no program reads them", data.len - end);
        checkpoint.findings.push(
            Diagnostic::warning(rule::TRAILING_BYTES, message)
                .bytes(data.start.saturating_add(end), data.end())
                .help("find out what wrote them; a copy made by converting does not have them"),
        );
    }
    Ok(())
}

/// A tensor, and the bytes it takes where its type is known.
fn tensor(info: &Info, data: Extent, big_endian: bool) -> Result<(Tensor, Option<u64>)> {
    let name = info.name.clone();
    let kind = match TYPES.by_number(info.type_number) {
        Ok(kind) => kind,
        Err(why) => {
            if data.len < info.offset {
                return Err(outside(info, data, 0));
            }
            let payload = Payload::Unreadable(why);
            let (dtype, shape) = (DType::Unknown, info.shape.clone());
            return Ok((Tensor { name: name.into(), dtype, shape, encoding: None, payload }, None));
        }
    };
    let (dtype, shape, encoding) = kind.physical(&info.shape).map_err(|why| {
        Error::malformed(info.dims_at, format!("tensor `{name}` of {}: {why}", kind.name()))
    })?;
    let n_bytes = n_elements(&shape).and_then(|n| dtype.n_bytes(n)).unwrap_or(u64::MAX);
    let end = info.offset.checked_add(n_bytes);
    let Some(extent) = end.and_then(|end| data.part(info.offset, end)) else {
        return Err(outside(info, data, n_bytes));
    };
    let payload = if !big_endian {
        Payload::Range(extent)
    } else if encoding.is_some() {
        // Tools differ: gguf-py writes blocks as they are, its `gguf_convert_endian.py` turns the
        // numbers inside of some types.
        Payload::Unreadable(
            "the file is big-endian, and it does not say whether the numbers inside of its \
             blocks are; quantize the model on a little-endian machine"
                .to_owned(),
        )
    } else {
        let strides = row_major_strides(&shape);
        Payload::View(Box::new(View { storage: extent, offset: 0, strides, big_endian }))
    };
    let encoding = encoding.map(Box::new);
    Ok((Tensor { name: name.into(), dtype, shape, encoding, payload }, Some(n_bytes)))
}

fn outside(info: &Info, data: Extent, n_bytes: u64) -> Error {
    let message = format!(
        "tensor `{}` takes {n_bytes} bytes from {} of the data on, which has {}",
        info.name, info.offset, data.len
    );
    Error::malformed(info.offset_at, message)
}

#[cfg(test)]
mod tests;
