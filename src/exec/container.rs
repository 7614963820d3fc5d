//! What files have beside their tensors: what they begin with, what stands between, and what is known
//! only when all is written.
//!
//! A safetensors file is `u64 header_len | JSON header, padded with spaces | tensors in order,
//! without gaps` (<https://huggingface.co/docs/safetensors>); the tensors start on a multiple of
//! 64. A GGUF file too is a header and the tensors in order, each padded with zeros.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::write::shards::Shard;
use super::write::written::Written;
use crate::base::checksum::Checksum;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::name::Name;
use crate::checkpoint::{DType, Encoding, n_elements};
use crate::format::gguf;
use crate::metadata::Metadata;
use crate::plan::program::Output;

/// The longest header that the reference reader takes (safetensors 0.8).
const MAX_HEADER_LEN: usize = 100_000_000;

/// A kind of file that holds tensors, with what one such file has beside them.
pub trait Container: Sync {
    /// What the shard `number` is beside its tensors.
    ///
    /// # Errors
    /// A tensor has no place in such a file.
    fn frame(&self, outputs: &[Output], shards: &[Shard], number: usize) -> Result<Frame>;

    /// What is summed up over the bytes of each tensor.
    fn checksum(&self) -> Option<Checksum> {
        None
    }

    /// The text of the file that says which shard a tensor is in.
    fn index(&self, _outputs: &[Output], _shards: &[Shard]) -> Option<String> {
        None
    }

    /// Ends what was written into the folder: what could not be said before.
    ///
    /// # Errors
    /// The system refuses.
    fn finish(
        &self,
        _dir: &Path,
        _outputs: &[Output],
        _shards: &[Shard],
        _written: &Written,
    ) -> Result<()> {
        Ok(())
    }
}

/// The bytes of a file that are no tensor's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// What it begins with.
    pub header: Vec<u8>,
    /// What stands between, in the order of the file.
    pub inserts: Vec<Insert>,
}

/// Bytes that are put in before, within or behind a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insert {
    /// Which of all outputs.
    pub output: usize,
    /// Before which byte of it; its length: behind it.
    pub at: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Safetensors, with free text.
#[derive(Clone, Copy, Debug)]
pub struct Safetensors<'a>(pub &'a BTreeMap<String, String>);

impl Container for Safetensors<'_> {
    fn frame(&self, outputs: &[Output], shards: &[Shard], number: usize) -> Result<Frame> {
        let outputs = outputs[shards[number].outputs.clone()].iter();
        let entries = outputs.map(|of| (of.name.as_str(), of.dtype, of.shape.as_slice()));
        let header = safetensors_header(entries, self.0)?;
        Ok(Frame { header, inserts: Vec::new() })
    }

    fn index(&self, outputs: &[Output], shards: &[Shard]) -> Option<String> {
        Some(index(outputs, shards, &|name| name.into()))
    }
}

/// GGUF.
#[derive(Clone, Copy, Debug)]
pub struct Gguf<'a> {
    /// The keys of the model.
    pub metadata: &'a Metadata,
    /// What the tensors of bytes are, by name.
    pub encodings: &'a BTreeMap<Name, Encoding>,
}

impl Container for Gguf<'_> {
    fn frame(&self, outputs: &[Output], shards: &[Shard], number: usize) -> Result<Frame> {
        let range = shards[number].outputs.clone();
        let entries = outputs[range.clone()].iter().map(|of| gguf_entry(of, self.encodings));
        let entries = entries.collect::<Result<Vec<_>>>()?;
        let (n, count) = (number as u64, shards.len() as u64);
        let part = gguf::write::part_metadata(self.metadata, n, count, outputs.len())?;
        let header = gguf::write::header(&part, &entries)?;
        let alignment = gguf::write::alignment(self.metadata)?;
        let inserts = range.filter_map(|output| {
            let at = outputs[output].n_bytes();
            // Less than the alignment, which is small.
            let padding = (at.next_multiple_of(alignment) - at) as usize;
            (padding != 0).then(|| Insert { output, at, bytes: vec![0; padding] })
        });
        Ok(Frame { header, inserts: inserts.collect() })
    }
}

fn gguf_entry<'a>(
    output: &'a Output,
    encodings: &'a BTreeMap<Name, Encoding>,
) -> Result<gguf::write::Entry<'a>> {
    let Output { name, dtype, shape, .. } = output;
    let encoding = encodings.get(name);
    let unknown = || {
        let what = encoding.map_or(dtype.name(), |encoding| &encoding.id);
        Error::unsupported(format!("`{name}` of {what} in a GGUF file"))
    };
    let kind = gguf::types::TYPES.of(*dtype, encoding).ok_or_else(unknown)?;
    let logical = encoding.map_or(shape, |encoding| &encoding.shape);
    let physical = kind.physical(logical).ok();
    if physical.is_none_or(|(of, bytes, _)| (of, &bytes) != (*dtype, shape)) {
        let message = format!("`{name}` is {dtype} {shape:?}, not {logical:?} of {}", kind.name());
        return Err(Error::new(ErrorKind::Malformed, message));
    }
    Ok(gguf::write::Entry { name, kind, shape: logical })
}

/// A tensor, as the header of a safetensors file spells it.
#[derive(Serialize)]
struct Entry<'a> {
    dtype: &'a str,
    shape: &'a [u64],
    data_offsets: [u64; 2],
}

/// The length and the JSON that a file of tensors begins with, given by name, dtype and shape, padded
/// to a multiple of 64 bytes.
///
/// # Errors
/// A tensor has no place in such a file, or the header passes what readers take.
pub fn safetensors_header<'a>(
    tensors: impl Iterator<Item = (&'a str, DType, &'a [u64])>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    // As text at once: as values in memory, the entries of many tensors take ten times as much.
    let mut header = vec![0u8; 8];
    header.push(b'{');
    if !metadata.is_empty() {
        header.extend_from_slice(b"\"__metadata__\":");
        serde_json::to_writer(&mut header, metadata).expect("memory takes it");
    }
    let mut offset = 0u64;
    for (name, dtype, shape) in tensors {
        if matches!(dtype, DType::C128 | DType::Unknown) || name == "__metadata__" {
            let message = format!("`{name}` of {dtype} in a safetensors file");
            return Err(Error::unsupported(message));
        }
        let n_bytes = n_elements(shape).and_then(|n| dtype.n_bytes(n));
        let end = n_bytes.and_then(|n_bytes| offset.checked_add(n_bytes)).ok_or_else(|| {
            Error::new(ErrorKind::Limit, "the tensors of one file pass 2^64 bytes")
        })?;
        if header.len() != 9 {
            header.push(b',');
        }
        serde_json::to_writer(&mut header, name).expect("memory takes it");
        let entry = Entry { dtype: dtype.name(), shape, data_offsets: [offset, end] };
        header.push(b':');
        serde_json::to_writer(&mut header, &entry).expect("memory takes it");
        offset = end;
    }
    header.push(b'}');
    header.resize(header.len().next_multiple_of(64), b' ');
    let json_len = header.len() - 8;
    if MAX_HEADER_LEN < json_len {
        let message = format!(
            "a header of {json_len} bytes, readers take {MAX_HEADER_LEN}; a smaller limit for \
             shards makes more files with shorter headers"
        );
        return Err(Error::new(ErrorKind::Limit, message));
    }
    header[..8].copy_from_slice(&(json_len as u64).to_le_bytes());
    Ok(header)
}

#[derive(Serialize)]
struct Index<'a> {
    metadata: Sizes,
    weight_map: BTreeMap<Cow<'a, str>, &'a str>,
}

#[derive(Serialize)]
struct Sizes {
    total_size: u64,
}

/// The text of `model.safetensors.index.json`, as Hugging Face writes it; `spelled` is how it spells
/// the name of a tensor.
pub fn index(
    outputs: &[Output],
    shards: &[Shard],
    spelled: &dyn Fn(&str) -> Cow<'_, str>,
) -> String {
    let mut weight_map = BTreeMap::new();
    for shard in shards {
        for output in &outputs[shard.outputs.clone()] {
            weight_map.insert(spelled(&output.name), shard.name.as_str());
        }
    }
    let total_size: u64 = outputs.iter().map(Output::n_bytes).sum();
    let index = Index { metadata: Sizes { total_size }, weight_map };
    let mut text = serde_json::to_string_pretty(&index).expect("strings and numbers are JSON");
    text.push('\n');
    text
}
