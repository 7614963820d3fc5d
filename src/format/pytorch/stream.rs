//! The stream of torch 0.1.10 to 1.5, which newer ones write on request.

use std::collections::BTreeMap;

use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::Checkpoint;
use crate::format::pickle::{Node, Pickle};

use super::storage::{self, Class, Record, Storages};
use super::{interpret, quote, report_trailing};

/// The magic number 0x1950a86a20f9469cfc6c as protocols 2 and newer pickle it.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// The magic number as protocols 0 and 1 pickle it.
const MAGIC_DECIMAL: &[u8] = b"L119547037146038801333356L\n.";
/// The only version of the stream there has been.
const VERSION: i64 = 1001;

/// Tells whether a file that starts with `head` is a stream of torch.
pub(super) fn probe(head: &[u8]) -> bool {
    let binary = match head {
        [0x80, protocol @ 2..=5, rest @ ..] => {
            // Protocol 4 puts a frame of 13 bytes around the number.
            let rest = match protocol {
                4.. => rest.strip_prefix(b"\x95\x0d\0\0\0\0\0\0\0").unwrap_or(rest),
                _ => rest,
            };
            rest.starts_with(MAGIC)
        }
        _ => false,
    };
    binary || head.starts_with(MAGIC_DECIMAL)
}

/// Reads a stream of torch.
pub(super) fn read(source: &Source, file: FileId) -> Result<Checkpoint> {
    let mut cursor = Cursor::new(source.bytes(file), 0);
    Pickle::read(&mut cursor).map_err(|err| err.context("the magic number"))?;

    let at = cursor.offset();
    let version = Pickle::read(&mut cursor).map_err(|err| err.context("the version"))?;
    let version = version.int(version.root());
    if version != Some(VERSION) {
        let found = version.map_or("none".to_owned(), |version| version.to_string());
        let message = format!("the stream's version is {VERSION}, {found} is there");
        return Err(Error::unsupported(message).at(at));
    }
    // The byte order in here is that of the machine, not of the storages, which torch writes with
    // the low byte first on every machine (`THPStorage_writeFileRaw`) and reads so.
    Pickle::read(&mut cursor).map_err(|err| err.context("the system's sizes"))?;
    let object = Pickle::read(&mut cursor).map_err(|err| err.context("the object"))?;
    let at = cursor.offset();
    let keys = Pickle::read(&mut cursor).map_err(|err| err.context("the storage keys"))?;
    let Some(keys_in_order) = keys.sequence(keys.root()) else {
        let message = format!("a list of storage keys is due, {} is there", keys.kind(keys.root()));
        return Err(Error::malformed(at, message));
    };

    let classes = classes_by_key(&object);
    let mut storages = Storages::new(false);
    for &key in keys_in_order {
        let at = cursor.offset();
        let key = storage::key_text(&keys, key)
            .ok_or_else(|| Error::malformed(at, "a storage key is no text"))?;
        let class = match classes.get(&key) {
            Some(Some(class)) => class,
            Some(None) => {
                let message =
                    format!("the class of storage {} is not known, nor its size", quote(&key));
                return Err(Error::unsupported(message).at(at));
            }
            None => {
                let message = format!("the object has no storage of the key {}", quote(&key));
                return Err(Error::malformed(at, message));
            }
        };
        let n_elements = cursor.i64_le("a storage's number of elements")?;
        let len = u64::try_from(n_elements).ok().and_then(|n| n.checked_mul(class.element_len));
        let Some(len) = len else {
            let message = format!("the storage {} has {n_elements} elements", quote(&key));
            return Err(Error::malformed(at, message));
        };
        let start = cursor.offset();
        cursor.take(len, &format!("the storage {}", quote(&key)))?;
        let extent = Extent { file, start, len };
        let record = Record { extent, fault: None, crc: None, file_has_checksums: false };
        storages.insert(key, record);
    }
    let mut checkpoint = interpret(source, &object, &storages)?;
    let end = source.extent(file).end();
    report_trailing("the last storage", cursor.offset(), end, &mut checkpoint.findings);
    checkpoint.metadata.insert("pytorch.container".to_owned(), "stream".to_owned());
    Ok(checkpoint)
}

/// The class that each storage was first named with, as torch keeps it.
fn classes_by_key(object: &Pickle<'_>) -> BTreeMap<String, Option<&'static Class>> {
    let mut classes = BTreeMap::new();
    for node in object.nodes() {
        let Node::Persistent(id) = node else { continue };
        let Some([kind, class, key, ..]) = object.sequence(*id) else { continue };
        if object.text(*kind) != Some("storage") {
            continue;
        }
        if let Some(key) = storage::key_text(object, *key) {
            let class =
                object.global(*class).and_then(|(module, name)| storage::class(module, name));
            classes.entry(key).or_insert(class);
        }
    }
    classes
}
