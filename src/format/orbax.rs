//! Orbax's checkpoints: arrays of zarr, in folders of their own or in one OCDBT store.
//!
//! ```text
//! _METADATA                    names of the arrays, and how they are kept
//! params.dense.kernel/.zarray  params.dense.kernel/0.0     zarr 2; zarr 3: zarr.json, c/0/0
//! manifest.ocdbt  d/…  ocdbt.process_0/d/…                 the same keys in a store
//! ```
//!
//! Spec: `orbax/checkpoint/_src/metadata/tree.py`, the specifications of zarr 2 and 3.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{Format, Probe};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::json;
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::container::ocdbt::{self, Node, Place, Value};

mod array;

/// The format for the registry.
pub static FORMAT: Format = Format {
    id: "orbax",
    name: "Orbax",
    endings: &["ocdbt"],
    singles: &[METADATA, MANIFEST],
    dialect: "orbax",
    probe,
    read,
    ..Format::DEFAULT
};

const METADATA: &str = "_METADATA";
const MANIFEST: &str = "manifest.ocdbt";
/// What a manifest begins with.
const MAGIC: &[u8] = &[0x0c, 0xdb, 0x3a, 0x2a];
/// More arrays, keys or nodes of a store than this are no checkpoint.
const MAX_ITEMS: usize = 1 << 20;
/// More bytes than this in the nodes of a store are no values of a checkpoint, which lie outside.
const MAX_INLINE_LEN: usize = 256 << 20;

fn probe(head: &[u8], name: &str) -> Probe {
    let base = name.rsplit('/').next().unwrap_or(name);
    let fits = (base == METADATA && head.starts_with(b"{")) || head.starts_with(MAGIC);
    if fits { Probe::Sure } else { Probe::No }
}

fn read(source: &mut Source, file: FileId) -> Result<Checkpoint> {
    let path = source.path(file).to_owned();
    let name = source.name(file).to_owned();
    let folder = name.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let is_manifest = source.bytes(file).starts_with(MAGIC);
    let (mut names, mut fills, mut is_store) = (None, true, is_manifest);
    if !is_manifest {
        let metadata = json::parse(source.bytes(file), 0).map_err(|err| err.in_file(&path))?;
        names = Some(arrays(&metadata).map_err(|err| err.in_file(&path))?);
        let flag = |key: &str| metadata.get(key).and_then(Json::as_bool);
        is_store = flag("use_ocdbt").unwrap_or_else(|| source.has(&format!("{folder}{MANIFEST}")));
        // Orbax says where an array of one value has no bytes.
        fills = flag("store_array_data_equal_to_fill_value") != Some(true);
    }
    let mut store = Store { folder, keys: None };
    if is_store {
        store.keys = Some(store.open(source)?);
    }
    let names = match (names, &store.keys) {
        (Some(names), _) => names,
        (None, Some(keys)) => {
            let ends = ["/.zarray", "/zarr.json"];
            let names = keys.keys().filter_map(|key| {
                ends.iter().find_map(|end| key.strip_suffix(end)).map(str::to_owned)
            });
            names.collect()
        }
        (None, None) => Vec::new(),
    };
    let mut checkpoint = Checkpoint { format: FORMAT.id, ..Checkpoint::default() };
    let mut room = MAX_ITEMS;
    for name in names {
        let tensor = array::read(source, &store, &name, fills, &mut room);
        let tensor = tensor.map_err(|err| {
            let err = err.context(&format!("the array `{name}`"));
            if err.path().is_none() { err.in_file(&path) } else { err }
        })?;
        checkpoint.tensors.push(tensor);
    }
    Ok(checkpoint)
}

/// Reads arrays of zarr that lie in folders of their names, of which every chunk is there.
///
/// # Errors
/// One is broken.
pub fn arrays_of(
    source: &mut Source,
    folder: &str,
    names: impl Iterator<Item = String>,
) -> Result<Vec<Tensor>> {
    let store = Store { folder: folder.to_owned(), keys: None };
    let mut room = MAX_ITEMS;
    let read = |name: String| {
        let tensor = array::read(source, &store, &name, false, &mut room);
        tensor.map_err(|err| err.context(&format!("the array `{name}`")))
    };
    names.map(read).collect()
}

/// The names of the arrays that metadata lists: the keys on the way to each, with dots.
fn arrays(metadata: &Json) -> Result<Vec<String>> {
    let malformed = |message: &str| Error::new(ErrorKind::Malformed, message);
    let tree = metadata.get("tree_metadata").and_then(Json::as_object);
    let tree = tree.ok_or_else(|| malformed("has no object `tree_metadata`"))?;
    if MAX_ITEMS < tree.len() {
        return Err(Error::new(ErrorKind::Limit, format!("{} arrays", tree.len())));
    }
    let mut names = Vec::with_capacity(tree.len());
    for (key, entry) in tree {
        let kind = entry.get("value_metadata").and_then(|value| value.get("value_type"));
        // Empty nodes of the tree, and texts, which lie elsewhere.
        let skipped = ["None", "Dict", "List", "NamedTuple", "Tuple", "string"];
        if kind.and_then(Json::as_str).is_some_and(|kind| skipped.contains(&kind)) {
            continue;
        }
        let keys = entry.get("key_metadata").and_then(Json::as_array);
        let keys = keys.and_then(|keys| keys.iter().map(spelled).collect::<Option<Vec<_>>>());
        let keys = keys.filter(|keys| !keys.is_empty());
        let keys = keys.ok_or_else(|| malformed(&format!("`{key}` has no `key_metadata`")))?;
        names.push(keys.join("."));
    }
    names.sort();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(malformed(&format!("two arrays are named `{}`", twice[0])));
    }
    Ok(names)
}

fn spelled(key: &Json) -> Option<String> {
    let key = key.get("key")?;
    Some(key.as_str().map_or_else(|| key.to_string(), str::to_owned))
}

/// Where keys have their values.
struct Store {
    /// The folder, with a slash, if it is not the root.
    folder: String,
    /// The keys of an OCDBT store; without one a key is a file.
    keys: Option<BTreeMap<String, Extent>>,
}

impl Store {
    /// The place of a value.
    fn find(&self, source: &mut Source, key: &str) -> Result<Option<Extent>> {
        if let Some(keys) = &self.keys {
            return Ok(keys.get(key).copied());
        }
        let name = format!("{}{key}", self.folder);
        if !source.has(&name) {
            return Ok(None);
        }
        let id = source.add(&name)?;
        Ok(Some(source.extent(id)))
    }

    /// Reads the keys of an OCDBT store.
    fn open(&self, source: &mut Source) -> Result<BTreeMap<String, Extent>> {
        let file = source.add(&format!("{}{MANIFEST}", self.folder))?;
        let root = ocdbt::manifest(source.bytes(file));
        let root = root.map_err(|err| err.in_file(source.path(file)))?;
        let mut keys = BTreeMap::new();
        let Some(root) = root else { return Ok(keys) };
        let mut nodes = vec![(root.place, root.height, Vec::new())];
        let (mut n_nodes, mut n_inline) = (0, 0);
        while let Some((place, height, prefix)) = nodes.pop() {
            n_nodes += 1;
            let extent = self.extent(source, &place)?;
            let about = |err: Error| err.in_file(&source.place(&place.file));
            if MAX_ITEMS < n_nodes || MAX_ITEMS < keys.len() + nodes.len() {
                let message = format!("more than {MAX_ITEMS} nodes or keys");
                return Err(about(Error::limit(place.offset, message)));
            }
            let node = source.slice(extent).and_then(|bytes| ocdbt::node(bytes, &place, height));
            match node.map_err(about)? {
                Node::Inner(children) => {
                    // A node of height 0 is a leaf.
                    let height = height.saturating_sub(1);
                    nodes.extend(children.into_iter().map(|(common, place)| {
                        (place, height, [prefix.as_slice(), &common].concat())
                    }));
                }
                Node::Leaf(entries) => {
                    for (key, value) in entries {
                        let key = [prefix.as_slice(), &key].concat();
                        let key = String::from_utf8(key);
                        let key = key.map_err(|_| {
                            Error::malformed(place.offset, "a key that is no text")
                                .in_file(&source.place(&place.file))
                        })?;
                        let extent = match value {
                            Value::Outside(place) => self.extent(source, &place)?,
                            Value::Inline(bytes) => {
                                n_inline += bytes.len();
                                if MAX_INLINE_LEN < n_inline {
                                    let message = format!("{n_inline} bytes of values in nodes");
                                    return Err(Error::limit(place.offset, message));
                                }
                                let name = format!("{}: {key}", place.file);
                                let id = source.add_bytes(&name, bytes);
                                source.extent(id)
                            }
                        };
                        keys.insert(key, extent);
                    }
                }
            }
        }
        Ok(keys)
    }

    fn extent(&self, source: &mut Source, place: &Place) -> Result<Extent> {
        let id = source.add(&format!("{}{}", self.folder, place.file))?;
        let whole = source.extent(id);
        let end = place.offset.checked_add(place.len);
        end.and_then(|end| whole.part(place.offset, end)).ok_or_else(|| {
            let message = format!("{} bytes wanted, the file has {} in all", place.len, whole.len);
            Error::malformed(place.offset, message).in_file(source.path(id))
        })
    }
}
