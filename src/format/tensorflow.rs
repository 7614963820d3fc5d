//! TensorFlow's checkpoints of version 2: a table of names and places, and files of elements.
//!
//! ```text
//! model.ckpt.index   "" -> header    name -> dtype, shape, file, offset, size, CRC-32C
//! model.ckpt.data-00000-of-00001    elements, one tensor behind the other
//! ```
//!
//! A SavedModel keeps such a pair in `variables/`. A variable that was partitioned has an entry for
//! its whole, which only lists slices, and one for each slice. Spec:
//! `tensorflow/core/util/tensor_bundle`, `tensorflow/core/protobuf/tensor_bundle.proto`.

pub mod write;

use std::collections::BTreeMap;

use self::objects::Objects;
use super::{Format, Probe};
use crate::base::checksum::Checksum;
use crate::base::cursor::Cursor;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::name::Name;
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::tiles::Tile;
use crate::checkpoint::{
    Checkpoint, DType, Payload, StoredChecksum, Tensor, View, n_elements, row_major_strides,
};
use crate::container::protobuf::{Field, fields, varint};
use crate::container::sstable;

mod objects;
mod saved_model;

/// The format for the registry.
pub static FORMAT: Format = Format {
    id: "tf",
    name: "TensorFlow",
    endings: &["index"],
    singles: &["variables/variables.index", "saved_model/1/variables/variables.index"],
    companions: &["checkpoint", ".meta", "graph.pbtxt", "saved_model.pb", "fingerprint.pb"],
    dialect: "tf",
    probe,
    read,
    ..Format::DEFAULT
};

const INDEX_END: &str = ".index";
/// The entry of a text that says which objects have which variables.
const OBJECT_GRAPH: &str = "_CHECKPOINTABLE_OBJECT_GRAPH";
/// More files of elements than this are no checkpoint.
const MAX_SHARDS: u64 = 100_000;
/// The most dimensions of a tensor of TensorFlow.
const MAX_DIMS: usize = 254;
/// Texts in the place of a tensor.
const STRING: u64 = 7;

fn probe(_: &[u8], name: &str) -> Probe {
    // The magic number of a table stands at its end.
    if name.ends_with(INDEX_END) { Probe::Maybe } else { Probe::No }
}

fn read(source: &mut Source, file: FileId) -> Result<Checkpoint> {
    let (path, name) = (source.path(file).to_owned(), source.name(file).to_owned());
    let about = |err: Error| err.in_file(&path);
    let entries = sstable::read(source.bytes(file)).map_err(about)?;
    let mut bundle = Bundle::default();
    for (key, value, at) in &entries {
        bundle.add(key, value, *at).map_err(about)?;
    }
    let n_shards = bundle.n_shards.ok_or_else(|| {
        about(Error::new(ErrorKind::Malformed, "is a table without the header of a checkpoint"))
    })?;
    let stem = name.strip_suffix(INDEX_END).unwrap_or(&name);
    let mut shards = BTreeMap::new();
    for entry in bundle.entries.values().chain(bundle.slices.values().flatten().map(|(_, e)| e)) {
        if n_shards <= entry.shard {
            let message = format!("file {} of elements, there are {n_shards}", entry.shard);
            return Err(about(Error::new(ErrorKind::Malformed, message)));
        }
        if entry.len != 0 && !shards.contains_key(&entry.shard) {
            let name = format!("{stem}.data-{:05}-of-{n_shards:05}", entry.shard);
            let id = source.add(&name);
            let id = id.map_err(|err| err.context(&format!("the elements `{name}`")))?;
            shards.insert(entry.shard, source.extent(id));
        }
    }
    // Without elements nothing is read of any file.
    let nowhere = Extent { len: 0, ..source.extent(file) };
    let mut checkpoint = Checkpoint { format: FORMAT.id, ..Checkpoint::default() };
    let Objects { aside, names } =
        objects(&bundle, &shards, source, &mut checkpoint).map_err(about)?;
    let mut slices = std::mem::take(&mut bundle.slices);
    for (name, entry) in &bundle.entries {
        if name == OBJECT_GRAPH || aside.contains(name) {
            slices.remove(name);
            continue;
        }
        let parts = slices.get(name).into_iter().flatten().map(|(_, part)| part);
        checkpoint.checksums.extend(checksums(name, parts.chain([entry]), &shards));
        let tensor = match slices.remove(name) {
            Some(slices) => tiled(name, entry, &slices, bundle.big_endian, &shards, nowhere),
            None => whole(name, entry, bundle.big_endian, &shards, nowhere),
        };
        checkpoint.tensors.push(tensor);
    }
    // Keys lead over objects to variables. Where each has a name of its own with the layers that it is in, that
    // is the name that other files of the program have.
    let is_named =
        |tensor: &Tensor| names.get(&*tensor.name).is_some_and(|name| name.contains('/'));
    if checkpoint.tensors.iter().all(is_named) {
        for tensor in &mut checkpoint.tensors {
            tensor.name = Name::from(&names[&*tensor.name]);
        }
        for checksum in &mut checkpoint.checksums {
            checksum.tensor.clone_from(&names[&checksum.tensor]);
        }
        checkpoint.tensors.sort_by(|left, right| left.name.cmp(&right.name));
    }
    if let Some(name) = slices.keys().next() {
        let message = format!("there are slices of `{name}`, and no entry for its whole");
        checkpoint.findings.push(Diagnostic::warning("R014", message).tensor(name));
    }
    saved_model::add(source, file, &mut checkpoint)?;
    Ok(checkpoint)
}

/// The checksums of a tensor that has elements in these places. Texts have one that is taken otherwise.
fn checksums<'a>(
    name: &'a str,
    parts: impl Iterator<Item = &'a Entry>,
    shards: &BTreeMap<u64, Extent>,
) -> impl Iterator<Item = StoredChecksum> {
    let parts = parts.filter(|part| !part.is_sliced && part.len != 0 && part.dtype != STRING);
    parts.filter_map(move |part| {
        let end = part.offset.checked_add(part.len)?;
        let bytes = shards.get(&part.shard)?.part(part.offset, end)?;
        Some(StoredChecksum {
            tensor: name.to_owned(),
            bytes,
            kind: Checksum::Crc32c,
            value: part.crc?,
            is_compared_on_reading: true,
        })
    })
}

/// What the objects say of the keys, and a note on those that are no part of the model.
fn objects(
    bundle: &Bundle,
    shards: &BTreeMap<u64, Extent>,
    source: &Source,
    checkpoint: &mut Checkpoint,
) -> Result<Objects> {
    let Some(entry) = bundle.entries.get(OBJECT_GRAPH) else { return Ok(Objects::default()) };
    let shard = shards.get(&entry.shard);
    let end = entry.offset.checked_add(entry.len);
    let place = shard.zip(end).and_then(|(shard, end)| shard.part(entry.offset, end));
    if entry.dtype != STRING || entry.len == 0 {
        return Ok(Objects::default());
    }
    let Some(place) = place else {
        let message = "says that the objects end behind its file of elements: that file was cut";
        return Err(Error::new(ErrorKind::Malformed, message));
    };
    // The length of the text, four bytes of a checksum of it, and the text.
    let mut cursor = Cursor::new(source.slice(place)?, place.start);
    let len = varint(&mut cursor, "the length of a text")?;
    cursor.take(4, "a checksum")?;
    let start = cursor.offset();
    let found = objects::read(cursor.take(len, "the objects")?, start)
        .map_err(|err| err.context("the objects of the checkpoint"))?;
    let mut present = bundle.entries.keys().filter(|key| found.aside.contains(*key));
    if let Some(first) = present.next() {
        let message = format!(
            "{} tensors are left aside, as `{first}`: the state of an optimizer, metrics and \
             counters are no part of the model",
            1 + present.count()
        );
        checkpoint.findings.push(Diagnostic::note("R004", message));
    }
    Ok(found)
}

/// The start and length of a slice along each dimension.
type SliceBox = Vec<(i64, i64)>;

/// What an index says.
#[derive(Default)]
struct Bundle {
    n_shards: Option<u64>,
    big_endian: bool,
    entries: BTreeMap<String, Entry>,
    /// By the name of the whole: where each begins and how long it is, -1 for all, along each
    /// dimension.
    slices: BTreeMap<String, Vec<(SliceBox, Entry)>>,
}

/// `BundleEntryProto`.
#[derive(Default)]
struct Entry {
    dtype: u64,
    shape: Vec<u64>,
    shard: u64,
    offset: u64,
    len: u64,
    /// The CRC-32C of its bytes.
    crc: Option<u32>,
    is_sliced: bool,
}

impl Bundle {
    fn add(&mut self, key: &[u8], value: &[u8], at: u64) -> Result<()> {
        if key.is_empty() {
            let mut n_shards = 0;
            for (number, field) in fields(value, at)? {
                match (number, field) {
                    (1, Field::Varint(n)) => n_shards = n,
                    (2, Field::Varint(order)) => self.big_endian = order == 1,
                    _ => {}
                }
            }
            if MAX_SHARDS < n_shards {
                return Err(Error::limit(at, format!("{n_shards} files of elements")));
            }
            self.n_shards = Some(n_shards);
            return Ok(());
        }
        let entry = Entry::read(value, at)?;
        if key.starts_with(&[0]) {
            let (name, slice) = slice_key(key).ok_or_else(|| {
                Error::malformed(at, format!("{key:?} is no key of a slice of a variable"))
            })?;
            self.slices.entry(name).or_default().push((slice, entry));
            return Ok(());
        }
        let name = String::from_utf8(key.to_vec());
        let name = name.map_err(|_| Error::malformed(at, "the name of a tensor is no text"))?;
        self.entries.insert(name, entry);
        Ok(())
    }
}

impl Entry {
    fn read(bytes: &[u8], at: u64) -> Result<Entry> {
        let mut entry = Entry::default();
        for (number, field) in fields(bytes, at)? {
            match (number, field) {
                (1, Field::Varint(dtype)) => entry.dtype = dtype,
                (2, Field::Bytes(shape, at)) => entry.shape = dims(shape, at)?,
                (3, Field::Varint(shard)) => entry.shard = shard,
                (4, Field::Varint(offset)) => entry.offset = offset,
                (5, Field::Varint(len)) => entry.len = len,
                (6, Field::Fixed32(crc)) => entry.crc = Some(sstable::unmask(crc)),
                (7, Field::Bytes(..)) => entry.is_sliced = true,
                _ => {}
            }
        }
        Ok(entry)
    }
}

/// `TensorShapeProto`.
pub(super) fn dims(bytes: &[u8], at: u64) -> Result<Vec<u64>> {
    let mut shape = Vec::new();
    for (number, field) in fields(bytes, at)? {
        let (2, Field::Bytes(dim, at)) = (number, field) else { continue };
        let size = fields(dim, at)?.into_iter().find(|(number, _)| *number == 1);
        let size = size.map_or(Some(0), |(_, size)| size.varint());
        let size = size.filter(|&size| i64::try_from(size).is_ok());
        shape.push(size.ok_or_else(|| Error::malformed(at, "a dimension without a size"))?);
    }
    if MAX_DIMS < shape.len() {
        return Err(Error::limit(at, format!("{} dimensions", shape.len())));
    }
    Ok(shape)
}

/// The name and the slice of a key in TensorFlow's ordered code: 0, the name, the number of
/// dimensions, and for each of them the start and the length.
fn slice_key(key: &[u8]) -> Option<(String, Vec<(i64, i64)>)> {
    let mut rest = key.strip_prefix(&[0])?;
    let mut name = Vec::new();
    loop {
        match rest {
            [0, 1, after @ ..] => {
                rest = after;
                break;
            }
            [0, 0xff, after @ ..] => {
                name.push(0);
                rest = after;
            }
            [0xff, 0, after @ ..] => {
                name.push(0xff);
                rest = after;
            }
            [byte, after @ ..] => {
                name.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
    let mut cursor = Cursor::new(rest, 0);
    let len = cursor.u8("").ok().filter(|&len| len <= 2)?;
    let bytes = cursor.take(u64::from(len), "").ok()?;
    let n_dims = bytes.iter().fold(0usize, |n, &byte| (n << 8) | usize::from(byte));
    if MAX_DIMS < n_dims {
        return None;
    }
    let mut slice = Vec::new();
    for _ in 0..n_dims {
        slice.push((signed(&mut cursor)?, signed(&mut cursor)?));
    }
    cursor.is_empty().then_some((String::from_utf8(name).ok()?, slice))
}

/// A signed number in ordered code: as many ones as it has bytes, a zero, and the number; of a
/// negative one all bits are turned.
fn signed(cursor: &mut Cursor<'_>) -> Option<i64> {
    let first = cursor.u8("").ok()?;
    let turn = if first & 0x80 == 0 { 0xff } else { 0 };
    let n_bytes = (first ^ turn).leading_ones();
    // Seven bytes hold all sizes that there are.
    if 7 < n_bytes {
        return None;
    }
    let rest = cursor.take(u64::from(n_bytes - 1), "").ok()?;
    let bytes = std::iter::once(first).chain(rest.iter().copied());
    let number = bytes.fold(0u64, |number, byte| (number << 8) | u64::from(byte ^ turn));
    let number = (number & ((1 << (7 * n_bytes - 1)) - 1)).cast_signed();
    Some(if turn == 0 { number } else { -1 - number })
}

/// The numbers that TensorFlow has for dtypes.
const DTYPES: &[(u64, DType)] = &[
    (1, DType::F32),
    (2, DType::F64),
    (3, DType::I32),
    (4, DType::U8),
    (5, DType::I16),
    (6, DType::I8),
    (8, DType::C64),
    (9, DType::I64),
    (10, DType::Bool),
    (14, DType::BF16),
    (17, DType::U16),
    (18, DType::C128),
    (19, DType::F16),
    (22, DType::U32),
    (23, DType::U64),
    (24, DType::F8E5M2),
    (25, DType::F8E4M3),
];

pub(super) fn dtype(number: u64) -> Option<DType> {
    DTYPES.iter().find(|(known, _)| *known == number).map(|(_, dtype)| *dtype)
}

/// Where the elements of an entry lie.
fn storage(
    entry: &Entry,
    dtype: DType,
    shards: &BTreeMap<u64, Extent>,
    nowhere: Extent,
) -> Result<Extent, String> {
    let wanted = n_elements(&entry.shape).and_then(|n| dtype.n_bytes(n));
    if wanted != Some(entry.len) {
        let shape = &entry.shape;
        return Err(format!("{shape:?} of {dtype} does not take {} bytes", entry.len));
    }
    if entry.len == 0 {
        return Ok(nowhere);
    }
    let shard = shards.get(&entry.shard).copied().unwrap_or(nowhere);
    let end = entry.offset.checked_add(entry.len);
    end.and_then(|end| shard.part(entry.offset, end)).ok_or_else(|| {
        let Entry { len, offset, shard: number, .. } = entry;
        format!(
            "{len} bytes at {offset} pass the end of its file `.data-{number:05}-of-…`, which has {}: it \
             is cut short",
            shard.len
        )
    })
}

fn whole(
    name: &str,
    entry: &Entry,
    big_endian: bool,
    shards: &BTreeMap<u64, Extent>,
    nowhere: Extent,
) -> Tensor {
    let known = known(entry);
    let payload = known.clone().and_then(|dtype| {
        if entry.is_sliced {
            return Err("is in slices, of which there are none".to_owned());
        }
        let storage = storage(entry, dtype, shards, nowhere)?;
        let strides = row_major_strides(&entry.shape);
        Ok(match big_endian && 8 < dtype.bits() {
            true => Payload::View(Box::new(View { storage, offset: 0, strides, big_endian })),
            false => Payload::Range(storage),
        })
    });
    let payload = payload.unwrap_or_else(Payload::Unreadable);
    let (dtype, shape) = (known.unwrap_or(DType::Unknown), entry.shape.clone());
    Tensor { name: name.into(), dtype, shape, encoding: None, payload }
}

fn known(entry: &Entry) -> Result<DType, String> {
    dtype(entry.dtype).ok_or_else(|| match entry.dtype {
        STRING => "its elements are texts".to_owned(),
        number => format!("its elements are of the type {number} of TensorFlow"),
    })
}

fn tiled(
    name: &str,
    entry: &Entry,
    slices: &[(Vec<(i64, i64)>, Entry)],
    big_endian: bool,
    shards: &BTreeMap<u64, Extent>,
    nowhere: Extent,
) -> Tensor {
    let known = known(entry);
    let tile = |(slice, part): &(Vec<(i64, i64)>, Entry), dtype: DType| {
        if slice.len() != entry.shape.len() || part.dtype != entry.dtype {
            return Err("one of its slices has another dtype or number of dimensions".to_owned());
        }
        let size = |value: i64| u64::try_from(value).map_err(|_| "a slice before the start");
        let mut at = Vec::with_capacity(slice.len());
        for (axis, &(start, len)) in slice.iter().enumerate() {
            at.push(size(start)?);
            let len = if len < 0 { entry.shape[axis] } else { size(len)? };
            if part.shape.get(axis) != Some(&len) {
                return Err(format!("a slice of the shape {:?} at {slice:?}", part.shape));
            }
        }
        let data = View {
            storage: storage(part, dtype, shards, nowhere)?,
            offset: 0,
            strides: row_major_strides(&part.shape),
            big_endian: big_endian && 8 < dtype.bits(),
        };
        Ok(Tile { at, shape: part.shape.clone(), data, coding: None })
    };
    let tiles = known
        .clone()
        .and_then(|dtype| slices.iter().map(|slice| tile(slice, dtype)).collect::<Result<_, _>>());
    let payload = tiles.map_or_else(Payload::Unreadable, Payload::Tiles);
    let (dtype, shape) = (known.unwrap_or(DType::Unknown), entry.shape.clone());
    Tensor { name: name.into(), dtype, shape, encoding: None, payload }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_ordered_code_are_read() {
        let read = |bytes: &[u8]| {
            let mut cursor = Cursor::new(bytes, 0);
            signed(&mut cursor).filter(|_| cursor.is_empty())
        };
        // Of `tensorflow/core/lib/strings/ordered_code_test.cc`.
        for (number, bytes) in [
            (0, &[0x80][..]),
            (1, &[0x81]),
            (63, &[0xbf]),
            (-1, &[0x7f]),
            (-64, &[0x40]),
            (64, &[0xc0, 0x40]),
            (8191, &[0xdf, 0xff]),
            (8192, &[0xe0, 0x20, 0x00]),
            (-65, &[0x3f, 0xbf]),
        ] {
            assert_eq!(read(bytes), Some(number), "{bytes:x?}");
        }
        assert_eq!(read(&[0xff; 9]), None);
        assert_eq!(read(&[0xc0]), None);
    }
}
