//! OCDBT, the key-value store of TensorStore: a manifest that leads to a B+tree whose leaves have
//! values, or say where in which file they are.
//!
//! ```text
//! magic u32 (big-endian)  length u64  version  compression   body   CRC-32C u32
//! ```
//!
//! Spec: `tensorstore/kvstore/ocdbt/index.rst`. Files are named relative to the manifest. Every height
//! is one below that of the node above, and what is followed is counted, so that no tree leads into
//! itself.

use super::filter;
use super::protobuf::varint;
use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};

const MANIFEST: u32 = 0x0cdb_3a2a;
const NODE: u32 = 0x0cdb_20de;
/// A node that is compressed becomes no longer than this, the default of the format.
const MAX_BODY_LEN: u64 = 100_000_000;
/// Files, keys or versions of one node.
const MAX_ITEMS: u64 = 1 << 20;
/// All keys or paths of a node together.
const MAX_TEXT_LEN: usize = 64 << 20;
/// The longest key or path.
const MAX_KEY_LEN: u64 = 65_535;
/// The checksum at the end.
const FOOTER_LEN: usize = 4;

/// A range of bytes of a file of the store.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its name, from the folder of the manifest on.
    pub file: String,
    /// What stands before the names of the files of what lies there.
    pub base: String,
    /// The first byte.
    pub offset: u64,
    /// The number of bytes.
    pub len: u64,
}

/// The root of the newest version.
#[derive(Debug)]
pub struct Root {
    /// Where it is.
    pub place: Place,
    /// How many levels lie below it.
    pub height: u8,
}

/// A node of the tree.
#[derive(Debug)]
pub enum Node {
    /// Keys, without what is common to all of the node, and values.
    Leaf(Vec<(Vec<u8>, Value)>),
    /// What is common to all keys of a node below, and where that is.
    Inner(Vec<(Vec<u8>, Place)>),
}

/// The value of a key.
#[derive(Debug)]
pub enum Value {
    /// Bytes of the node.
    Inline(Vec<u8>),
    /// Bytes of a file.
    Outside(Place),
}

/// The newest version of a manifest; `None` where there is none yet.
///
/// # Errors
/// The bytes are no manifest, or one that leads to others.
pub fn manifest(bytes: &[u8]) -> Result<Option<Root>> {
    let body = body(bytes, MANIFEST, "a manifest")?;
    let mut cursor = Cursor::new(&body, 0);
    cursor.take(16, "an id")?;
    if varint(&mut cursor, "the kind of the manifest")? != 0 {
        return Err(Error::unsupported("an OCDBT store with numbered manifests"));
    }
    varint(&mut cursor, "the length of values")?;
    varint(&mut cursor, "the length of nodes")?;
    cursor.u8("the arity of versions")?;
    if varint(&mut cursor, "the compression of nodes")? != 0 {
        cursor.take(4, "its level")?;
    }
    let files = Files::read(&mut cursor, "")?;
    let n = count(&mut cursor, "the number of versions")?;
    for _ in 0..n {
        varint(&mut cursor, "a generation")?;
    }
    let heights = cursor.take(n, "the heights of trees")?;
    let places = files.places(&mut cursor, n)?;
    let root = heights.last().zip(places.into_iter().last());
    Ok(root.map(|(&height, place)| Root { place, height }))
}

/// The node of a height that a place has; `bytes` are those of the place.
///
/// # Errors
/// The bytes are no such node.
pub fn node(bytes: &[u8], place: &Place, height: u8) -> Result<Node> {
    let body = body(bytes, NODE, "a node")?;
    let mut cursor = Cursor::new(&body, 0);
    let found = cursor.u8("the height of a node")?;
    if found != height {
        let message = format!("a node of the height {found}, where one of {height} should be");
        return Err(Error::malformed(place.offset, message));
    }
    let files = Files::read(&mut cursor, &place.base)?;
    let n = count(&mut cursor, "the number of entries")?;
    if height == 0 { leaf(&mut cursor, &files, n) } else { inner(&mut cursor, &files, n) }
}

fn leaf(cursor: &mut Cursor<'_>, files: &Files, n: u64) -> Result<Node> {
    let keys = Texts::lengths(cursor, n)?.read(cursor)?;
    let lens = numbers(cursor, n, "the length of a value")?;
    let kinds = numbers(cursor, n, "the kind of a value")?;
    if kinds.iter().any(|kind| 1 < *kind) {
        return Err(Error::malformed(cursor.offset(), "a value of no known kind"));
    }
    let n_outside = kinds.iter().filter(|kind| **kind == 1).count() as u64;
    let ids = numbers(cursor, n_outside, "a file")?;
    let offsets = numbers(cursor, n_outside, "an offset")?;
    let mut outside = ids.into_iter().zip(offsets);
    let mut entries = Vec::with_capacity(keys.len());
    for ((key, len), kind) in keys.into_iter().zip(lens).zip(kinds) {
        let place = if kind == 1 { outside.next() } else { None };
        let value = match place {
            Some((id, offset)) => Value::Outside(files.place(id, offset, len)?),
            None => Value::Inline(Vec::new()),
        };
        entries.push((key, value, len));
    }
    let entries = entries.into_iter().map(|(key, value, len)| match value {
        Value::Inline(_) => Ok((key, Value::Inline(cursor.take(len, "a value")?.to_vec()))),
        outside => Ok((key, outside)),
    });
    Ok(Node::Leaf(entries.collect::<Result<_>>()?))
}

fn inner(cursor: &mut Cursor<'_>, files: &Files, n: u64) -> Result<Node> {
    let lengths = Texts::lengths(cursor, n)?;
    let common = numbers(cursor, n, "the length of what is common")?;
    let keys = lengths.read(cursor)?;
    let places = files.places(cursor, n)?;
    let mut children = Vec::with_capacity(keys.len());
    for ((mut key, common), place) in keys.into_iter().zip(common).zip(places) {
        let common = usize::try_from(common).ok().filter(|&common| common <= key.len());
        key.truncate(common.ok_or_else(|| {
            Error::malformed(cursor.offset(), "more is common to keys than the first has")
        })?);
        children.push((key, place));
    }
    Ok(Node::Inner(children))
}

/// What stands between header and checksum, decoded.
fn body(bytes: &[u8], magic: u32, what: &str) -> Result<Vec<u8>> {
    let mut cursor = Cursor::new(bytes, 0);
    let found = u32::from_le_bytes(*four(cursor.take(4, "a magic number")?)).swap_bytes();
    if found != magic {
        let message = format!("{found:08x}, where {what} of OCDBT begins with {magic:08x}");
        return Err(Error::malformed(0, message));
    }
    let len = cursor.u64_le("a length")?;
    if len != bytes.len() as u64 {
        let message = format!("{what} says that it has {len} bytes, it has {}", bytes.len());
        return Err(Error::malformed(4, message));
    }
    let version = varint(&mut cursor, "a version")?;
    if version != 0 {
        return Err(Error::unsupported(format!("{what} of version {version} of OCDBT")));
    }
    let compression = varint(&mut cursor, "a compression")?;
    let start = usize::try_from(cursor.offset()).unwrap_or(usize::MAX);
    let end = bytes.len().checked_sub(FOOTER_LEN).filter(|end| start <= *end);
    let end =
        end.ok_or_else(|| Error::malformed(start as u64, format!("{what} without an end")))?;
    let stored = u32::from_le_bytes(*four(&bytes[end..]));
    let sum = crc32c::crc32c(&bytes[..end]);
    if sum != stored {
        let message = format!("the checksum of {what} is {sum:08x}, the file says {stored:08x}");
        return Err(Error::malformed(end as u64, message));
    }
    match compression {
        0 => Ok(bytes[start..end].to_vec()),
        1 => filter::unpack_zstd(&bytes[start..end], MAX_BODY_LEN),
        other => Err(Error::unsupported(format!("{what} with the compression {other} of OCDBT"))),
    }
}

fn four(bytes: &[u8]) -> &[u8; 4] {
    bytes.first_chunk().unwrap_or(&[0; 4])
}

fn count(cursor: &mut Cursor<'_>, what: &str) -> Result<u64> {
    let at = cursor.offset();
    let n = varint(cursor, what)?;
    // Each takes a byte at least.
    if MAX_ITEMS.min(cursor.left()) < n {
        return Err(Error::limit(at, format!("{what} is {n}, {} bytes are left", cursor.left())));
    }
    Ok(n)
}

fn numbers(cursor: &mut Cursor<'_>, n: u64, what: &str) -> Result<Vec<u64>> {
    (0..n).map(|_| varint(cursor, what)).collect()
}

/// Texts of which each leaves out what it has in common with the one before.
struct Texts {
    prefixes: Vec<u64>,
    suffixes: Vec<u64>,
}

impl Texts {
    fn lengths(cursor: &mut Cursor<'_>, n: u64) -> Result<Texts> {
        let mut prefixes = vec![0; usize::from(n != 0)];
        prefixes.extend(numbers(cursor, n.saturating_sub(1), "the length of a prefix")?);
        Ok(Texts { prefixes, suffixes: numbers(cursor, n, "the length of a suffix")? })
    }

    fn read(self, cursor: &mut Cursor<'_>) -> Result<Vec<Vec<u8>>> {
        let (mut texts, mut last, mut total) = (Vec::new(), Vec::<u8>::new(), 0usize);
        for (prefix, suffix) in self.prefixes.into_iter().zip(self.suffixes) {
            let at = cursor.offset();
            let prefix = usize::try_from(prefix).ok().filter(|&prefix| prefix <= last.len());
            let prefix = prefix.ok_or_else(|| {
                Error::malformed(at, "more is common to two names than the first has")
            })?;
            if MAX_KEY_LEN < suffix.saturating_add(prefix as u64) {
                return Err(Error::limit(at, format!("a name of more than {MAX_KEY_LEN} bytes")));
            }
            last.truncate(prefix);
            last.extend(cursor.take(suffix, "a name")?);
            total += last.len();
            if MAX_TEXT_LEN < total {
                return Err(Error::limit(at, format!("names of more than {MAX_TEXT_LEN} bytes")));
            }
            texts.push(last.clone());
        }
        Ok(texts)
    }
}

/// The files that a node names.
struct Files(Vec<(String, String)>);

impl Files {
    fn read(cursor: &mut Cursor<'_>, above: &str) -> Result<Files> {
        let n = count(cursor, "the number of files")?;
        let lengths = Texts::lengths(cursor, n)?;
        let bases = numbers(cursor, n, "the length of a folder")?;
        let at = cursor.offset();
        let paths = lengths.read(cursor)?.into_iter().zip(bases).map(|(path, base)| {
            let path = String::from_utf8(path).ok()?;
            let base = path.get(..usize::try_from(base).ok()?)?;
            Some((format!("{above}{path}"), format!("{above}{base}")))
        });
        let paths: Option<Vec<_>> = paths.collect();
        let paths = paths.ok_or_else(|| Error::malformed(at, "the name of a file is no text"))?;
        Ok(Files(paths))
    }

    fn place(&self, id: u64, offset: u64, len: u64) -> Result<Place> {
        let file = usize::try_from(id).ok().and_then(|id| self.0.get(id));
        let (file, base) = file.cloned().ok_or_else(|| {
            Error::malformed(0, format!("file {id} of a node that names {}", self.0.len()))
        })?;
        Ok(Place { file, base, offset, len })
    }

    /// Where nodes are.
    fn places(&self, cursor: &mut Cursor<'_>, n: u64) -> Result<Vec<Place>> {
        let ids = numbers(cursor, n, "a file")?;
        let offsets = numbers(cursor, n, "an offset")?;
        let lens = numbers(cursor, n, "a length")?;
        let places = ids.into_iter().zip(offsets).zip(lens);
        places.map(|((id, offset), len)| self.place(id, offset, len)).collect()
    }
}
