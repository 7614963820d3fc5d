//! HDF5 files: a tree of groups with datasets at its leaves, read from its headers alone.
//!
//! Superblocks 0 to 3; groups as symbol tables, as link messages and as links in a heap; contiguous, compact and chunked
//! layouts. Every address is held against the file, no object is entered while it is being walked, and
//! the number of objects and chunks is bounded.
//!
//! Spec: "HDF5 File Format Specification Version 3.0", The HDF Group.

mod chunks;
mod group;
mod header;
mod heap;
mod tree;

use std::collections::BTreeSet;

use self::group::Target;
use self::header::{Layout, Message};
use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};
use crate::checkpoint::DType;
use crate::checkpoint::tiles::Filter;

/// What every file begins with.
pub const SIGNATURE: &[u8] = b"\x89HDF\r\n\x1a\n";
/// How deep groups lie in each other.
const MAX_DEPTH: usize = 64;
/// Objects of a file, chunks of a dataset, blocks of a header: more are no checkpoint.
const MAX_OBJECTS: usize = 1 << 20;
/// Messages of all headers, each time that one is read: an object has less than ten.
const MAX_MESSAGES: usize = 1 << 24;
/// The bytes of all names and paths together.
const MAX_NAMES_LEN: usize = 256 << 20;
/// An address that says that there is none.
const UNDEFINED: u64 = u64::MAX;

/// An array of a file.
#[derive(Debug)]
pub struct Dataset {
    /// The names of the groups it lies in and its own, with slashes.
    pub path: String,
    /// Its dimensions, slowest first.
    pub shape: Vec<u64>,
    /// Its elements, or why they are none of a tensor.
    pub elements: std::result::Result<Elements, String>,
}

/// The elements of a dataset.
#[derive(Debug)]
pub struct Elements {
    /// Their type.
    pub dtype: DType,
    /// Whether the file says no more of the type than how many bytes an element has.
    pub is_opaque: bool,
    /// Whether the high byte comes first.
    pub big_endian: bool,
    /// Where they are.
    pub place: Place,
}

/// Where the elements of a dataset are; offsets count from the start of the file.
#[derive(Debug)]
pub enum Place {
    /// In one piece: the first byte, and how many there are.
    Whole(u64, u64),
    /// In boxes of one size.
    Chunks {
        /// The dimensions of each.
        shape: Vec<u64>,
        /// The boxes.
        chunks: Vec<Chunk>,
    },
}

/// A box of elements.
#[derive(Debug)]
pub struct Chunk {
    /// The index of its first element along each dimension.
    pub at: Vec<u64>,
    /// The first byte.
    pub offset: u64,
    /// The number of bytes in the file.
    pub len: u64,
    /// What has to be undone, in this order.
    pub steps: Vec<Filter>,
}

/// A file being read.
struct File<'a> {
    bytes: &'a [u8],
    /// Where addresses count from.
    base: u64,
    /// The bytes of an address and of a length.
    widths: [u8; 2],
    n_objects: usize,
    n_messages: usize,
    /// The bytes of the names that were read.
    len_names: usize,
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// The datasets, in the order of the groups.
    pub datasets: Vec<Dataset>,
    /// The paths that are links to other paths, which are not followed.
    pub links: Vec<String>,
}

/// Reads what there is from headers alone. `bytes` are the whole file.
///
/// # Errors
/// The file is damaged, or made in a way that nothing here reads.
pub fn read(bytes: &[u8]) -> Result<Contents> {
    let (mut file, root) = superblock(bytes)?;
    let mut contents = Contents::default();
    file.walk(root, "", &mut Vec::new(), &mut contents)?;
    Ok(contents)
}

fn superblock(bytes: &[u8]) -> Result<(File<'_>, u64)> {
    let mut cursor = Cursor::new(bytes, 0);
    if cursor.take(8, "the signature")? != SIGNATURE {
        return Err(Error::malformed(0, "does not begin with the signature of HDF5"));
    }
    let version = cursor.u8("the version of the superblock")?;
    let mut file =
        File { bytes, base: 0, widths: [8, 8], n_objects: 0, n_messages: 0, len_names: 0 };
    match version {
        0 | 1 => {
            cursor.take(4, "versions")?;
            file.widths = [cursor.u8("a width")?, cursor.u8("a width")?];
            cursor.take(1 + 4 + 4, "sizes of groups")?;
            if version == 1 {
                cursor.take(4, "sizes of groups")?;
            }
        }
        2 | 3 => {
            file.widths = [cursor.u8("a width")?, cursor.u8("a width")?];
            cursor.take(1, "flags")?;
        }
        other => {
            return Err(Error::unsupported(format!("HDF5 with a superblock of version {other}")));
        }
    }
    if file.widths.iter().any(|width| ![2, 4, 8].contains(width)) {
        return Err(Error::malformed(cursor.offset(), "addresses of so many bytes"));
    }
    file.base = file.address(&mut cursor)?;
    if file.base != 0 {
        return Err(Error::unsupported("HDF5 behind something else in its file"));
    }
    let _ = file.address(&mut cursor)?;
    let end = file.address(&mut cursor)?;
    if end != UNDEFINED && (bytes.len() as u64) < end {
        let message = format!("has {} bytes, and says that it has {end}", bytes.len());
        return Err(Error::malformed(cursor.offset(), message));
    }
    if version < 2 {
        file.address(&mut cursor)?; // Of the driver.
        file.address(&mut cursor)?; // Of the name of the root.
    }
    let root = file.address(&mut cursor)?;
    Ok((file, root))
}

impl<'a> File<'a> {
    /// A walk over the bytes from an address on.
    fn at(&self, address: u64, what: &str) -> Result<Cursor<'a>> {
        let start = usize::try_from(address).ok().filter(|&start| start < self.bytes.len());
        let start = start.ok_or_else(|| {
            Error::malformed(address, format!("{what} lies behind the end of the file"))
        })?;
        Ok(Cursor::new(&self.bytes[start..], address))
    }

    /// As [`File::at`], over so many bytes.
    fn part(&self, address: u64, len: u64, what: &str) -> Result<Cursor<'a>> {
        let bytes = self.at(address, what)?.take(len, what)?;
        Ok(Cursor::new(bytes, address))
    }

    fn address(&self, cursor: &mut Cursor<'_>) -> Result<u64> {
        let width = self.widths[0];
        let address = uint(cursor, width, "an address")?;
        let none = if width == 8 { u64::MAX } else { (1 << (8 * u32::from(width))) - 1 };
        Ok(if address == none { UNDEFINED } else { address })
    }

    fn length(&self, cursor: &mut Cursor<'_>) -> Result<u64> {
        uint(cursor, self.widths[1], "a length")
    }

    /// Counts one more of what a file may have many of.
    fn count(&mut self, at: u64) -> Result<()> {
        self.count_all(at, 1)
    }

    /// Counts as many more.
    fn count_all(&mut self, at: u64, n: usize) -> Result<()> {
        self.n_objects = self.n_objects.saturating_add(n);
        if MAX_OBJECTS < self.n_objects {
            return Err(Error::limit(at, format!("more than {MAX_OBJECTS} objects")));
        }
        Ok(())
    }

    /// Counts the bytes of one more name.
    fn count_name(&mut self, at: u64, len: usize) -> Result<()> {
        self.len_names = self.len_names.saturating_add(len);
        if MAX_NAMES_LEN < self.len_names {
            return Err(Error::limit(at, format!("names of more than {MAX_NAMES_LEN} bytes")));
        }
        Ok(())
    }

    fn walk(
        &mut self,
        address: u64,
        path: &str,
        above: &mut Vec<u64>,
        contents: &mut Contents,
    ) -> Result<()> {
        self.count(address)?;
        if MAX_DEPTH < above.len() {
            let message = format!("groups lie more than {MAX_DEPTH} deep in each other");
            return Err(Error::limit(address, message));
        }
        if above.contains(&address) {
            return Err(Error::malformed(address, format!("the group `{path}` lies in itself")));
        }
        let messages = self.header(address)?;
        let links = self.links(&messages)?;
        let Some(links) = links else {
            if messages.iter().any(|message| message.kind == header::DATASPACE) {
                contents.datasets.push(self.dataset(path, &messages)?);
            }
            return Ok(());
        };
        above.push(address);
        let mut names = BTreeSet::new();
        for (name, target) in links {
            if !names.insert(name.clone()) {
                let message = format!("`{path}` has two objects named `{name}`");
                return Err(Error::malformed(address, message));
            }
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            self.count_name(address, path.len())?;
            match target {
                Target::Object(target) => self.walk(target, &path, above, contents)?,
                Target::Name => contents.links.push(path),
                Target::Elsewhere(why) => {
                    let dataset = Dataset { path, shape: Vec::new(), elements: Err(why) };
                    contents.datasets.push(dataset);
                }
            }
        }
        above.pop();
        Ok(())
    }

    fn dataset(&mut self, path: &str, messages: &[Message<'a>]) -> Result<Dataset> {
        let find = |kind: u16| messages.iter().find(|message| message.kind == kind);
        let about = |err: Error| err.context(&format!("`{path}`"));
        let dims = find(header::DATASPACE).map(|message| self.dataspace(message)).transpose();
        let shape = dims.map_err(about)?.unwrap_or_default();
        let elements = match (find(header::DATATYPE), find(header::LAYOUT)) {
            (Some(kind), Some(layout)) => {
                let kind = header::datatype(kind).map_err(about)?;
                match kind {
                    Ok(header::Type { dtype, is_opaque, big_endian }) => {
                        let filters = find(header::FILTERS);
                        let place = self.place(layout, filters, &shape, dtype).map_err(about)?;
                        place.map(|place| Elements { dtype, is_opaque, big_endian, place })
                    }
                    Err(why) => Err(why),
                }
            }
            _ => Err("its header says no type and no layout".to_owned()),
        };
        Ok(Dataset { path: path.to_owned(), shape, elements })
    }

    /// Where the elements are, or why they cannot be had.
    fn place(
        &mut self,
        layout: &Message<'a>,
        filters: Option<&Message<'a>>,
        shape: &[u64],
        dtype: DType,
    ) -> Result<std::result::Result<Place, String>> {
        let end = self.bytes.len() as u64;
        Ok(match self.layout(layout)? {
            _ if shape.contains(&0) => Ok(Place::Whole(0, 0)),
            Layout::Whole(UNDEFINED, _) | Layout::Chunked { address: UNDEFINED, .. } => {
                Err("its elements were never written".to_owned())
            }
            Layout::Whole(offset, len) => {
                if offset.checked_add(len).is_none_or(|last| end < last) {
                    let message = format!("{len} bytes from {offset} on, the file has {end}");
                    return Err(Error::malformed(layout.at, message));
                }
                Ok(Place::Whole(offset, len))
            }
            Layout::Other(why) => Err(why),
            Layout::Chunked { address, shape: chunk, width, index, plain_edges } => {
                if chunk.len() != shape.len() || Some(width) != dtype.n_bytes(1) {
                    let message = format!("chunks of {chunk:?} of {width} bytes in {shape:?}");
                    return Err(Error::malformed(layout.at, message));
                }
                if chunk.contains(&0) {
                    return Err(Error::malformed(layout.at, "chunks without elements"));
                }
                let filters = match filters {
                    Some(message) => header::filters(message)?,
                    None => Vec::new(),
                };
                let unknown = filters.iter().find_map(|filter| filter.as_ref().err());
                if let Some(why) = unknown {
                    return Ok(Err(why.clone()));
                }
                let filters: Vec<Filter> = filters.into_iter().flatten().collect();
                let filters = &filters;
                let chunks = chunks::Chunks { shape, chunk: &chunk, width, filters, plain_edges };
                match self.chunks(&chunks, address, &index)? {
                    Ok(chunks) => Ok(Place::Chunks { shape: chunk, chunks }),
                    Err(why) => Err(why),
                }
            }
        })
    }
}

/// A number of a few bytes, low byte first.
fn uint(cursor: &mut Cursor<'_>, width: u8, what: &str) -> Result<u64> {
    let bytes = cursor.take(u64::from(width), what)?;
    Ok(bytes.iter().rev().fold(0, |number, &byte| (number << 8) | u64::from(byte)))
}
