//! The files that vectors stand for: sources whose values follow from their names, and safetensors
//! files as lists of tensors.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::{DType, n_elements};

/// A tensor of a file that is taken apart, or put together.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    /// Its name.
    pub(super) name: String,
    /// The name of its dtype.
    pub(super) dtype: String,
    /// Its dimensions, slowest first.
    pub(super) shape: Vec<u64>,
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
}

/// A foreign checkpoint whose values follow from the names of its tensors.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Source {
    /// The files beside the tensors: JSON, or text.
    pub(super) files: Map<String, Json>,
    /// Name, dtype and shape of each tensor.
    pub(super) tensors: Vec<(String, String, Vec<u64>)>,
}

/// Something in a vector that does not hold together.
pub(super) fn bad(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, why.into())
}

/// The bytes of a tensor of a source. With x₀ the first four bytes of the SHA-256 of the name,
/// little-endian, and x₍ₖ₊₁₎ = 1664525·xₖ + 1013904223 modulo 2³², element k of a float is
/// (⌊x₍ₖ₊₁₎ / 2²⁴⌋ − 128) / 256, and byte k of any other dtype ⌊x₍ₖ₊₁₎ / 2²⁴⌋; of BOOL its
/// least bit.
///
/// # Errors
/// There is no such dtype, or the tensor is too large for a vector.
fn values(name: &str, dtype: &str, shape: &[u64]) -> Result<Vec<u8>> {
    use sha2::{Digest, Sha256};
    let known = DType::parse(dtype).ok_or_else(|| bad(format!("there is no dtype {dtype:?}")))?;
    let n_elements = n_elements(shape).filter(|n| *n <= 1 << 20);
    let n_elements =
        n_elements.ok_or_else(|| bad(format!("`{name}` is too large for a vector")))?;
    let hash = Sha256::digest(name.as_bytes());
    let mut x = u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]);
    let mut next = move || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    };
    let mut bytes = Vec::new();
    for _ in 0..n_elements {
        let mut number = || (f32::from(next()) - 128.0) / 256.0;
        match known {
            DType::F32 => bytes.extend(number().to_le_bytes()),
            DType::F64 => bytes.extend(f64::from(number()).to_le_bytes()),
            DType::F16 => bytes.extend(half::f16::from_f32(number()).to_le_bytes()),
            DType::BF16 => bytes.extend(half::bf16::from_f32(number()).to_le_bytes()),
            DType::Bool => bytes.push(next() & 1),
            other => bytes.extend((0..other.bits() / 8).map(|_| next())),
        }
    }
    Ok(bytes)
}

impl Source {
    /// Writes the checkpoint into a folder that is there.
    ///
    /// # Errors
    /// A tensor is of no dtype, or the folder cannot be written.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        for (name, content) in &self.files {
            let text = match content {
                Json::String(text) => text.clone(),
                json => json.to_string(),
            };
            write(&folder.join(name), text.as_bytes())?;
        }
        let tensors = self.tensors.iter().map(|(name, dtype, shape)| {
            let bytes = values(name, dtype, shape)?;
            Ok(Tensor { name: name.clone(), dtype: dtype.clone(), shape: shape.clone(), bytes })
        });
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        write_tensors(&folder.join("model.safetensors"), &tensors, &json!({"format": "pt"}))
    }
}

/// Writes a file, and the folders above it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|err| Error::io(parent, "create the folder", err))?;
    }
    fs::write(path, bytes).map_err(|err| Error::io(path, "write", err))
}

/// The bytes of a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|err| Error::io(path, "read", err))
}

/// A file of tensors: the header padded with spaces, so that data begins at a multiple of 64 bytes.
pub(super) fn write_tensors(path: &Path, tensors: &[Tensor], metadata: &Json) -> Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), metadata.clone());
    let mut at = 0;
    for Tensor { name, dtype, shape, bytes } in tensors {
        let end = at + bytes.len();
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]});
        header.insert(name.clone(), entry);
        at = end;
    }
    let mut header = Json::Object(header).to_string().into_bytes();
    header.resize((header.len() + 8).next_multiple_of(64) - 8, b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(tensors.iter().flat_map(|tensor| &tensor.bytes));
    write(path, &file)
}

/// The tensors of a file with the first byte of each, and its metadata.
pub(super) fn read_tensors(path: &Path) -> Result<(Vec<(Tensor, u64)>, Json)> {
    let bytes = read(path)?;
    let torn = || bad(format!("{} is no file of tensors", path.display()));
    let (len, rest) = bytes.split_first_chunk::<8>().ok_or_else(torn)?;
    let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| torn())?;
    let (header, data) = rest.split_at_checked(len).ok_or_else(torn)?;
    let mut header: Map<String, Json> = serde_json::from_slice(header).map_err(|_| torn())?;
    let metadata = header.shift_remove("__metadata__").unwrap_or_else(|| json!({}));
    let mut tensors = Vec::new();
    for (name, entry) in header {
        #[derive(Deserialize)]
        struct Entry {
            dtype: String,
            shape: Vec<u64>,
            data_offsets: [usize; 2],
        }
        let Entry { dtype, shape, data_offsets: [start, end] } =
            serde_json::from_value(entry).map_err(|_| torn())?;
        let bytes = data.get(start..end).ok_or_else(torn)?.to_vec();
        tensors.push((Tensor { name, dtype, shape, bytes }, (8 + len + start) as u64));
    }
    tensors.sort_by_key(|(_, start)| *start);
    Ok((tensors, metadata))
}
