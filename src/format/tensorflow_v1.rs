//! TensorFlow's checkpoints of version 1: one table of names, slices and their elements.
//!
//! ```text
//! ""    -> SavedTensorSlices 1 meta { 1 tensor { 1 name, 2 shape, 3 type, 4 slice } }
//! slice -> SavedTensorSlices 2 data { 1 name, 2 slice { 1 extent { 1 start, 2 length } }, 3 tensor }
//! ```
//!
//! Spec: `tensorflow/core/util/saved_tensor_slice.proto`, `tensor_slice_writer.h`.

use std::collections::BTreeMap;

use super::tensorflow::{dims, dtype};
use super::{Format, Probe};
use crate::base::error::{Error, Result};
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::tiles::{Coding, Filter, Tile};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor, View, n_elements, row_major_strides};
use crate::container::protobuf::{Field, walk};
use crate::container::sstable;

/// The format for the registry.
pub static FORMAT: Format = Format {
    id: "tf1",
    name: "TensorFlow 1",
    endings: &["ckpt"],
    dialect: "tf",
    probe,
    read,
    ..Format::DEFAULT
};

/// The most slices of all variables.
const MAX_SLICES: usize = 1 << 20;

fn probe(head: &[u8], _: &str) -> Probe {
    // An entry whose key is empty, the length of its value, and the field `meta`.
    let [0, 0, rest @ ..] = head else { return Probe::No };
    let len = rest.iter().take(5).take_while(|byte| 0x80 <= **byte).count();
    if rest.get(len + 1) == Some(&0x0a) { Probe::Sure } else { Probe::No }
}

/// A variable, and its slices.
#[derive(Default)]
struct Variable {
    dtype: u64,
    shape: Vec<u64>,
    tiles: Vec<Tile>,
    wrong: Option<String>,
}

fn read(source: &mut Source, file: FileId) -> Result<Checkpoint> {
    let path = source.path(file).to_owned();
    let about = |err: Error| err.in_file(&path);
    let entries = sstable::read(source.bytes(file)).map_err(about)?;
    let mut variables: BTreeMap<String, Variable> = BTreeMap::new();
    let mut n_slices = 0;
    for (key, value, at) in entries {
        // Values of blocks that are packed are none of the file's bytes.
        let end = at.checked_add(value.len() as u64);
        let place = end.and_then(|end| source.extent(file).part(at, end));
        let is_there = place.is_some_and(|place| source.slice(place).is_ok_and(|of| of == value));
        let place = match place.filter(|_| is_there) {
            Some(place) => place,
            None => {
                let name = format!("{}: entry {n_slices}", source.name(file));
                let id = source.add_bytes(&name, value.clone());
                source.extent(id)
            }
        };
        for field in walk(&value, place.start) {
            match field.map_err(about)? {
                (1, Field::Bytes(meta, at)) if key.is_empty() => {
                    variables = self::meta(meta, at).map_err(about)?;
                }
                (2, Field::Bytes(data, at)) => {
                    n_slices += 1;
                    if MAX_SLICES < n_slices {
                        return Err(about(Error::limit(at, "more slices than are followed")));
                    }
                    slice(data, at, place, &mut variables).map_err(about)?;
                }
                _ => {}
            }
        }
    }
    let mut checkpoint = Checkpoint { format: FORMAT.id, ..Checkpoint::default() };
    for (name, variable) in variables {
        let known = dtype(variable.dtype).ok_or_else(|| {
            format!("its elements are of the type {} of TensorFlow", variable.dtype)
        });
        let (dtype, payload) = match (known, variable.wrong) {
            (Err(why), _) => (DType::Unknown, Payload::Unreadable(why)),
            (Ok(dtype), Some(why)) => (dtype, Payload::Unreadable(why)),
            (Ok(dtype), None) => (dtype, Payload::Tiles(variable.tiles)),
        };
        let shape = variable.shape;
        checkpoint.tensors.push(Tensor {
            name: name.into(),
            dtype,
            shape,
            encoding: None,
            payload,
        });
    }
    Ok(checkpoint)
}

fn meta(bytes: &[u8], base: u64) -> Result<BTreeMap<String, Variable>> {
    let mut variables = BTreeMap::new();
    for field in walk(bytes, base) {
        let (1, Field::Bytes(tensor, at)) = field? else { continue };
        let (mut name, mut variable) = (String::new(), Variable::default());
        for field in walk(tensor, at) {
            match field? {
                (1, Field::Bytes(text, _)) => name = String::from_utf8_lossy(text).into_owned(),
                (2, Field::Bytes(shape, at)) => variable.shape = dims(shape, at)?,
                (3, Field::Varint(dtype)) => variable.dtype = dtype,
                _ => {}
            }
        }
        if variables.insert(name.clone(), variable).is_some() {
            return Err(Error::malformed(at, format!("two variables are named `{name}`")));
        }
    }
    Ok(variables)
}

/// A `SavedSlice`; `place` is the entry that it is in.
fn slice(
    bytes: &[u8],
    base: u64,
    place: Extent,
    variables: &mut BTreeMap<String, Variable>,
) -> Result<()> {
    let (mut name, mut extents, mut tensor) = (String::new(), Vec::new(), None);
    for field in walk(bytes, base) {
        match field? {
            (1, Field::Bytes(text, _)) => name = String::from_utf8_lossy(text).into_owned(),
            (2, Field::Bytes(slice, at)) => {
                for field in walk(slice, at) {
                    let (1, Field::Bytes(extent, at)) = field? else { continue };
                    let (mut start, mut len) = (0, None);
                    for field in walk(extent, at) {
                        match field? {
                            (1, Field::Varint(number)) => start = number,
                            (2, Field::Varint(number)) => len = Some(number),
                            _ => {}
                        }
                    }
                    extents.push((start, len));
                }
            }
            (3, Field::Bytes(message, at)) => tensor = Some((message, at)),
            _ => {}
        }
    }
    let Some(variable) = variables.get_mut(&name) else {
        return Err(Error::malformed(base, format!("a slice of `{name}`, which is not listed")));
    };
    let Some(dtype) = dtype(variable.dtype) else { return Ok(()) };
    if extents.len() != variable.shape.len() {
        return Err(Error::malformed(base, format!("a slice of `{name}` of other dimensions")));
    }
    let at = extents.iter().map(|(start, _)| *start).collect();
    let shape = extents.iter().zip(&variable.shape);
    let shape: Vec<u64> = shape.map(|((_, len), dim)| len.unwrap_or(*dim)).collect();
    let found = match tensor {
        Some((message, at)) => elements(message, at, dtype, &shape, place)?,
        None => Err("a slice of it has no elements".to_owned()),
    };
    match found {
        Ok((storage, coding)) => variable.tiles.push(Tile {
            at,
            data: View {
                storage,
                offset: 0,
                strides: row_major_strides(&shape),
                big_endian: false,
            },
            shape,
            coding,
        }),
        Err(why) => variable.wrong = Some(why),
    }
    Ok(())
}

/// Where a `TensorProto` has its elements, or why they cannot be had.
fn elements(
    bytes: &[u8],
    base: u64,
    dtype: DType,
    shape: &[u64],
    place: Extent,
) -> Result<std::result::Result<(Extent, Option<Coding>), String>> {
    let width = dtype.n_bytes(1).unwrap_or(0);
    let (wanted, is_numbers) = match dtype {
        DType::F32 => (5, false),
        DType::F64 => (6, false),
        DType::I64 => (10, true),
        DType::Bool => (11, true),
        DType::F16 | DType::BF16 => (13, true),
        DType::U32 => (16, true),
        DType::U64 => (17, true),
        DType::C64 => (9, false),
        DType::C128 => (12, false),
        _ => (7, true),
    };
    let Some(len) = n_elements(shape).and_then(|n| dtype.n_bytes(n)) else {
        return Ok(Err(format!("a slice {shape:?} of {dtype} has more bytes than 2^64")));
    };
    for field in walk(bytes, base) {
        let (number, Field::Bytes(found, at)) = field? else { continue };
        let n = found.len() as u64;
        let storage = Extent { start: at, len: n, ..place };
        if number == 4 || (number == wanted && !is_numbers) {
            let why = format!("a slice {shape:?} of {dtype} has {n} bytes");
            return Ok(if n == len { Ok((storage, None)) } else { Err(why) });
        }
        if number == wanted {
            // Every number is a byte at least.
            if n < len / width.max(1) {
                return Ok(Err(format!("a slice {shape:?} of {dtype} has {n} bytes of numbers")));
            }
            let coding = Coding { steps: vec![Filter::Varints(width)], len };
            return Ok(Ok((storage, Some(coding))));
        }
    }
    Ok(match len {
        0 => Ok((Extent { start: base, len: 0, ..place }, None)),
        _ => Err("a slice of it has no elements".to_owned()),
    })
}
