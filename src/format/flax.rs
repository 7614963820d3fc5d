//! Flax's msgpack files: a tree of maps whose leaves are arrays.
//!
//! ```text
//! {"encoder": {"dense": {"kernel": ext 1 [[3, 4], "float32", bytes]}}}
//! ```
//!
//! Names are the keys on the way to a leaf, with dots between them. Arrays of more than 2^30 bytes
//! are maps of flat pieces. Spec: `flax/serialization.py`.

pub mod write;

use std::collections::BTreeMap;

use super::{Format, Probe};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, Result};
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::tiles::{Tile, boxes_of_run};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor, View, row_major_strides};
use crate::container::msgpack::{self, Value};

/// The format for the registry.
pub static FORMAT: Format = Format {
    id: "flax",
    name: "Flax",
    endings: &["msgpack"],
    singles: &["flax_model.msgpack"],
    dialect: "flax",
    probe,
    read,
    ..Format::DEFAULT
};

/// The numbers that Flax gave its types.
const ARRAY: i8 = 1;
const SCALAR: i8 = 3;

/// The key of a map that is an array in pieces.
const CHUNKED: &str = "__msgpack_chunked_array__";

/// What JAX has at most, and NumPy from version 2 on.
const MAX_RANK: usize = 64;

/// Whether bytes begin like a map whose first key is text.
pub(super) fn is_map(head: &[u8]) -> bool {
    matches!(head, [0x81..=0x8f, 0xa0..=0xbf | 0xd9, ..] | [0xde, _, _, 0xa0..=0xbf | 0xd9, ..])
}

fn probe(head: &[u8], name: &str) -> Probe {
    if is_map(head) && name.ends_with(".msgpack") { Probe::Sure } else { Probe::No }
}

fn read(source: &mut Source, file: FileId) -> Result<Checkpoint> {
    let Tree { mut checkpoint, elsewhere } = tree(source, file)?;
    checkpoint.tensors.extend(elsewhere.into_iter().map(|(name, place)| {
        let why = format!("it is an array of zarr, in {place:?}");
        let payload = Payload::Unreadable(why);
        Tensor {
            name: name.into(),
            dtype: DType::Unknown,
            shape: Vec::new(),
            encoding: None,
            payload,
        }
    }));
    Ok(checkpoint)
}

/// What a tree has.
pub(super) struct Tree {
    /// Its arrays, and the words that are no arrays as metadata.
    pub(super) checkpoint: Checkpoint,
    /// Arrays that are only described: their names, and the folders that they are in.
    pub(super) elsewhere: Vec<(String, String)>,
}

/// Reads the tree of a file.
pub(super) fn tree(source: &Source, file: FileId) -> Result<Tree> {
    let extent = source.extent(file);
    let checkpoint = Checkpoint { format: FORMAT.id, ..Checkpoint::default() };
    let mut tree = Tree { checkpoint, elsewhere: Vec::new() };
    let read = msgpack::read(source.bytes(file), extent.start);
    let walked = read.and_then(|value| walk(&value, "", extent, &mut tree));
    walked.map_err(|err| err.in_file(source.path(file)))?;
    for finding in &mut tree.checkpoint.findings {
        finding.file.get_or_insert_with(|| source.name(file).to_owned());
    }
    Ok(tree)
}

/// The folder of an array of zarr that a map describes, if it is such a map.
fn described(pairs: &[(Value<'_>, Value<'_>)]) -> Option<String> {
    let find = |pairs: &[(Value<'_>, Value<'_>)], wanted: &str| {
        let found = pairs.iter().find(|(key, _)| key.as_str() == Some(wanted));
        found.and_then(|(_, value)| value.as_str().map(str::to_owned))
    };
    find(pairs, "driver").filter(|driver| driver == "zarr")?;
    let store = pairs.iter().find(|(key, _)| key.as_str() == Some("kvstore"));
    let inner = store.and_then(|(_, value)| match value {
        Value::Map(pairs) => find(pairs, "path"),
        _ => None,
    });
    // Older ones have the path beside the driver.
    inner.filter(|path| !path.is_empty()).or_else(|| find(pairs, "path"))
}

fn walk(value: &Value<'_>, path: &str, extent: Extent, tree: &mut Tree) -> Result<()> {
    let about = |err: Error| err.context(&format!("`{path}`"));
    if let Value::Map(pairs) = value
        && let Some(folder) = described(pairs)
    {
        tree.elsewhere.push((path.to_owned(), folder));
        return Ok(());
    }
    let checkpoint = &mut tree.checkpoint;
    match value {
        Value::Map(pairs) if pairs.iter().any(|(key, _)| key.as_str() == Some(CHUNKED)) => {
            checkpoint.tensors.push(chunked(path, pairs, extent).map_err(about)?);
        }
        Value::Map(pairs) => {
            let mut keys = std::collections::BTreeSet::new();
            for (key, value) in pairs {
                let Some(key) = key.as_str() else {
                    let message = "a key is no text";
                    return Err(about(Error::malformed(extent.start, message)));
                };
                if !keys.insert(key) {
                    let message = format!("the key `{key}` is there twice");
                    return Err(about(Error::malformed(extent.start, message)));
                }
                let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                walk(value, &path, extent, tree)?;
            }
        }
        Value::Ext(ARRAY | SCALAR, bytes, at) => {
            let array = array(bytes, *at, extent).map_err(about)?;
            checkpoint.tensors.push(array.tensor(path.to_owned()));
        }
        Value::Nil => {}
        Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Str(_) => {
            let text = match value {
                Value::Bool(value) => value.to_string(),
                Value::Int(int) => int.to_string(),
                Value::Float(float) => format!("{float:?}"),
                _ => value.as_str().unwrap_or_default().to_owned(),
            };
            checkpoint.metadata.insert(path.to_owned(), text);
        }
        Value::Bin(..) | Value::Array(_) | Value::Ext(..) => {
            let message = format!("`{path}` is no array, and is left aside");
            checkpoint.findings.push(Diagnostic::note("R014", message));
        }
    }
    Ok(())
}

/// An array that lies in one piece.
struct Array {
    dtype: Result<DType, String>,
    shape: Vec<u64>,
    storage: Extent,
}

fn array(bytes: &[u8], at: u64, extent: Extent) -> Result<Array> {
    let malformed = |message: &str| Error::malformed(at, message);
    let Value::Array(items) = msgpack::read(bytes, at)? else {
        return Err(malformed("an array is a list of its shape, its dtype and its bytes"));
    };
    let [Value::Array(shape), dtype, Value::Bin(elements, start)] = items.as_slice() else {
        return Err(malformed("an array is a list of its shape, its dtype and its bytes"));
    };
    let shape: Option<Vec<u64>> = shape.iter().map(Value::as_u64).collect();
    let shape = shape.ok_or_else(|| malformed("a dimension is no number"))?;
    refuse_rank(&shape, at)?;
    let name = dtype.as_str().ok_or_else(|| malformed("the name of the dtype is no text"))?;
    let dtype = self::dtype(name)
        .ok_or_else(|| format!("its elements are of the dtype {name:?}, which nothing here reads"));
    let storage = Extent { start: *start, len: elements.len() as u64, ..extent };
    Ok(Array { dtype, shape, storage })
}

impl Array {
    fn tensor(self, name: String) -> Tensor {
        let Array { dtype, shape, storage } = self;
        let (dtype, payload) = match dtype {
            Ok(dtype) => (dtype, Payload::Range(storage)),
            Err(why) => (DType::Unknown, Payload::Unreadable(why)),
        };
        let mut tensor = Tensor { name: name.into(), dtype, shape, encoding: None, payload };
        let wanted = tensor.n_bytes();
        if dtype != DType::Unknown && wanted != Some(storage.len) {
            let wanted = wanted.map_or("more than 2^64".to_owned(), |n| n.to_string());
            let message = format!("takes {wanted} bytes, the file has {}", storage.len);
            tensor.payload = Payload::Unreadable(message);
        }
        tensor
    }
}

/// Refuses arrays of more dimensions than NumPy and JAX have.
fn refuse_rank(shape: &[u64], at: u64) -> Result<()> {
    match shape.len() {
        0..=MAX_RANK => Ok(()),
        rank => Err(Error::malformed(at, format!("an array of {rank} dimensions"))),
    }
}

/// The numbered entries of a map, in the order of their numbers.
fn numbered<'v, 'a>(value: &'v Value<'a>) -> Option<Vec<&'v Value<'a>>> {
    let Value::Map(pairs) = value else { return None };
    let mut entries = BTreeMap::new();
    for (key, value) in pairs {
        entries.insert(key.as_str()?.parse::<u64>().ok()?, value);
    }
    let counts = entries.keys().copied().eq(0..pairs.len() as u64);
    counts.then(|| entries.into_values().collect())
}

/// An array in flat pieces, which go on one behind the other.
fn chunked(path: &str, pairs: &[(Value<'_>, Value<'_>)], extent: Extent) -> Result<Tensor> {
    let malformed = |message: &str| Error::malformed(extent.start, message);
    let find = |wanted: &str| {
        let found = pairs.iter().find(|(key, _)| key.as_str() == Some(wanted));
        found.and_then(|(_, value)| numbered(value))
    };
    let shape = find("shape").and_then(|dims| dims.into_iter().map(Value::as_u64).collect());
    let shape: Vec<u64> =
        shape.ok_or_else(|| malformed("an array in pieces has a `shape` of numbers"))?;
    refuse_rank(&shape, extent.start)?;
    let chunks = find("chunks").ok_or_else(|| {
        malformed("an array in pieces has `chunks`, numbered from 0 on without a gap")
    })?;
    let (mut dtype, mut tiles, mut start) = (None, Vec::new(), 0u64);
    for chunk in chunks {
        let Value::Ext(ARRAY, bytes, at) = chunk else {
            return Err(malformed("a piece of an array is no array"));
        };
        let piece = array(bytes, *at, extent)?;
        let of = piece.dtype.map_err(Error::unsupported)?;
        if *dtype.get_or_insert(of) != of {
            return Err(Error::malformed(*at, "pieces of an array are of different dtypes"));
        }
        let n = crate::checkpoint::n_elements(&piece.shape);
        let n = n.filter(|&n| of.n_bytes(n) == Some(piece.storage.len)).ok_or_else(|| {
            let message = format!("{:?} of {of} in {} bytes", piece.shape, piece.storage.len);
            Error::malformed(*at, message)
        })?;
        let boxes = boxes_of_run(&shape, start, n)
            .ok_or_else(|| Error::malformed(*at, format!("more elements than {shape:?}")))?;
        tiles.extend(boxes.into_iter().map(|(at, shape, offset)| Tile {
            data: View {
                storage: piece.storage,
                offset,
                strides: row_major_strides(&shape),
                big_endian: false,
            },
            at,
            shape,
            coding: None,
        }));
        // The run was inside of the tensor.
        start += n;
    }
    let dtype = dtype.ok_or_else(|| malformed("an array in pieces has none"))?;
    let payload = Payload::Tiles(tiles);
    Ok(Tensor { name: path.into(), dtype, shape, encoding: None, payload })
}

/// The names that NumPy and `ml_dtypes` have for dtypes; of two the first is written.
const DTYPES: &[(&str, DType)] = &[
    ("bool", DType::Bool),
    ("uint8", DType::U8),
    ("int8", DType::I8),
    ("uint16", DType::U16),
    ("int16", DType::I16),
    ("uint32", DType::U32),
    ("int32", DType::I32),
    ("uint64", DType::U64),
    ("int64", DType::I64),
    ("float16", DType::F16),
    ("bfloat16", DType::BF16),
    // Before NumPy knew the name, two bytes of no kind.
    ("V2", DType::BF16),
    ("|V2", DType::BF16),
    ("float32", DType::F32),
    ("float64", DType::F64),
    ("complex64", DType::C64),
    ("complex128", DType::C128),
    ("float8_e4m3fn", DType::F8E4M3),
    ("float8_e5m2", DType::F8E5M2),
    ("float8_e4m3fnuz", DType::F8E4M3Fnuz),
    ("float8_e5m2fnuz", DType::F8E5M2Fnuz),
    ("float8_e8m0fnu", DType::F8E8M0),
];

/// A dtype by its name.
pub(super) fn dtype(name: &str) -> Option<DType> {
    DTYPES.iter().find(|(known, _)| *known == name).map(|(_, dtype)| *dtype)
}
