//! The tar files that torch wrote before 0.1.10.
//!
//! ```text
//! sys_info   versions and sizes
//! storages   count  (pickle (key, location, class)  count i64  elements)*  pickle [(key, key of the whole, offset, count)]
//! tensors    count  (pickle (key, key of a storage, class)  axes i32  4 bytes  sizes i64*  strides i64*  offset i64)*
//! pickle     the object, with the keys of tensors in it
//! ```
//!
//! Numbers stand with the low byte first; counts and lists are pickles. Spec: `torch/serialization.py`,
//! `_legacy_load.legacy_load`.

use std::collections::BTreeMap;

use crate::base::cursor::Cursor;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor};
use crate::container::tar;
use crate::format::pickle::{NodeId, Pickle};

use super::locate::locate;
use super::storage::{self, Class, Record, Storages, key_text};
use super::{interpret, quote};

/// The members, of which the first may be any.
const MEMBERS: &[&str] = &["sys_info", "pickle", "tensors", "storages"];
/// The most dimensions that torch allows a tensor.
const MAX_DIMS: i32 = 64;

/// Whether a file that starts with `head` is such a tar file.
pub(super) fn probe(head: &[u8]) -> bool {
    let name = head.get(..100).unwrap_or_default().split(|&byte| byte == 0).next();
    let base = name.map(|name| name.strip_prefix(b"./").unwrap_or(name));
    tar::is_archive(head) && MEMBERS.iter().any(|member| base == Some(member.as_bytes()))
}

/// Reads such a tar file.
pub(super) fn read(source: &Source, file: FileId) -> Result<Checkpoint> {
    let bytes = source.bytes(file);
    let members = tar::members(bytes)?;
    let cursor = |name: &str| -> Result<Cursor<'_>> {
        let range = members.get(name).ok_or_else(|| {
            let message = format!("a tar file of torch has the member {name}, this one does not");
            Error::new(ErrorKind::Malformed, message)
        })?;
        let extent = Extent { start: range.start, len: range.end - range.start, file };
        Ok(Cursor::new(source.slice(extent)?, range.start))
    };
    let mut storages = Storages::new(false);
    let mut classes = BTreeMap::new();
    let about = |what: &'static str| move |err: Error| err.context(what);
    read_storages(&mut cursor("storages")?, file, &mut storages, &mut classes)
        .map_err(about("storages"))?;
    read_tensors(&mut cursor("tensors")?, &mut storages, &classes).map_err(about("tensors"))?;
    let pickle = Pickle::read(&mut cursor("pickle")?).map_err(about("pickle"))?;
    let mut checkpoint = interpret(source, &pickle, &storages)?;
    checkpoint.metadata.insert("pytorch.container".to_owned(), "tar".to_owned());
    Ok(checkpoint)
}

type Classes = BTreeMap<String, &'static Class>;

fn read_storages(
    cursor: &mut Cursor<'_>,
    file: FileId,
    storages: &mut Storages,
    classes: &mut Classes,
) -> Result<()> {
    for _ in 0..count(cursor)? {
        let at = cursor.offset();
        let pickle = Pickle::read(cursor)?;
        let [key, _, class] = members(&pickle, at)?;
        let key = key_of(&pickle, key, at)?;
        let class = pickle.global(class).and_then(|(module, name)| storage::class(module, name));
        let class = class.ok_or_else(|| {
            let message =
                format!("the class of storage {} is not known, nor its size", quote(&key));
            Error::unsupported(message).at(at)
        })?;
        let n = cursor.i64_le("a storage's number of elements")?;
        let len = u64::try_from(n).ok().and_then(|n| n.checked_mul(class.element_len));
        let len = len.ok_or_else(|| {
            Error::malformed(at, format!("the storage {} has {n} elements", quote(&key)))
        })?;
        let start = cursor.offset();
        cursor.take(len, &format!("the storage {}", quote(&key)))?;
        insert(storages, &key, Extent { file, start, len });
        classes.insert(key, class);
    }
    let at = cursor.offset();
    let views = Pickle::read(cursor)?;
    let list = views.sequence(views.root());
    let list = list.ok_or_else(|| Error::malformed(at, "a list of parts of storages is due"))?;
    for &view in list {
        let part = || {
            let [key, whole, offset, n] = *views.sequence(view)? else { return None };
            let (key, whole) = (key_text(&views, key)?, key_text(&views, whole)?);
            let (offset, n) = (storage::count(&views, offset)?, storage::count(&views, n)?);
            let class = *classes.get(&whole)?;
            let start = offset.checked_mul(class.element_len)?;
            let end = offset.checked_add(n)?.checked_mul(class.element_len)?;
            Some((key, class, storages.get(&whole)?.extent.part(start, end)?))
        };
        let (key, class, extent) = part().ok_or_else(|| {
            Error::malformed(at, "a part of a storage that is not there, or passes its end")
        })?;
        insert(storages, &key, extent);
        classes.insert(key, class);
    }
    Ok(())
}

fn insert(storages: &mut Storages, key: &str, extent: Extent) {
    let record = Record { extent, fault: None, crc: None, file_has_checksums: false };
    storages.insert(key.to_owned(), record);
}

fn read_tensors(cursor: &mut Cursor<'_>, storages: &mut Storages, classes: &Classes) -> Result<()> {
    for _ in 0..count(cursor)? {
        let at = cursor.offset();
        let pickle = Pickle::read(cursor)?;
        let [key, storage, _] = members(&pickle, at)?;
        let (key, of) = (key_of(&pickle, key, at)?, key_of(&pickle, storage, at)?);
        let n_dims = cursor.u32_le("the number of dimensions")?.cast_signed();
        if !(0..=MAX_DIMS).contains(&n_dims) {
            return Err(Error::malformed(at, format!("{} has {n_dims} dimensions", quote(&key))));
        }
        cursor.take(4, "padding")?;
        let mut counts = |what: &str, n: i32| -> Result<Vec<u64>> {
            let read = (0..n).map(|_| {
                let count = cursor.i64_le(what)?;
                u64::try_from(count)
                    .map_err(|_| Error::malformed(at, format!("{what} of {count} elements")))
            });
            read.collect()
        };
        let (shape, strides) = (counts("a size", n_dims)?, counts("a stride", n_dims)?);
        let offset = counts("an offset", 1)?[0];
        let (dtype, payload) = match (storages.get(&of), classes.get(&of)) {
            (Some(record), Some(class)) => {
                let place = match class.fault {
                    Some(fault) => Err(fault.to_owned()),
                    None => locate(record.extent, offset, &shape, strides, class, false),
                };
                (class.dtype, place.unwrap_or_else(Payload::Unreadable))
            }
            _ => {
                let why = format!("its storage {} is not in the file", quote(&of));
                (DType::Unknown, Payload::Unreadable(why))
            }
        };
        let tensor = Tensor { name: String::new().into(), dtype, shape, encoding: None, payload };
        storages.tensors.insert(key, tensor);
    }
    Ok(())
}

/// A pickle of the number of what follows; each takes bytes of its own.
fn count(cursor: &mut Cursor<'_>) -> Result<u64> {
    let at = cursor.offset();
    let pickle = Pickle::read(cursor)?;
    storage::count(&pickle, pickle.root()).ok_or_else(|| Error::malformed(at, "a number is due"))
}

/// The three members of a tuple.
fn members(pickle: &Pickle<'_>, at: u64) -> Result<[NodeId; 3]> {
    let found = pickle.sequence(pickle.root()).and_then(|of| <[NodeId; 3]>::try_from(of).ok());
    found.ok_or_else(|| Error::malformed(at, "a key, a second one and a class are due"))
}

fn key_of(pickle: &Pickle<'_>, key: NodeId, at: u64) -> Result<String> {
    key_text(pickle, key).ok_or_else(|| Error::malformed(at, "a key is no number"))
}
