//! Object headers, and the messages in them.

use super::{File, MAX_OBJECTS, UNDEFINED, uint};
use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};
use crate::checkpoint::DType;
use crate::checkpoint::tiles::Filter;

pub(super) const DATASPACE: u16 = 0x01;
pub(super) const LINK_INFO: u16 = 0x02;
pub(super) const DATATYPE: u16 = 0x03;
pub(super) const LINK: u16 = 0x06;
pub(super) const LAYOUT: u16 = 0x08;
pub(super) const FILTERS: u16 = 0x0b;
const CONTINUATION: u16 = 0x10;
pub(super) const SYMBOL_TABLE: u16 = 0x11;
/// The bit of a message's flags that says that it lies elsewhere.
const SHARED: u8 = 2;
/// The most dimensions that HDF5 knows.
const MAX_RANK: u8 = 32;

/// A message of a header.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) is_shared: bool,
    pub(super) bytes: &'a [u8],
    /// Where it begins.
    pub(super) at: u64,
}

impl<'a> Message<'a> {
    pub(super) fn cursor(&self) -> Cursor<'a> {
        Cursor::new(self.bytes, self.at)
    }
}

/// How the elements of a dataset are laid out.
pub(super) enum Layout {
    /// In one piece: address and length.
    Whole(u64, u64),
    /// In chunks of a shape and of elements of so many bytes.
    Chunked { address: u64, shape: Vec<u64>, width: u64, index: Index },
    /// In a way that is not read.
    Other(String),
}

/// How the chunks of a dataset are found.
pub(super) enum Index {
    /// By a B-tree of version 1.
    Tree,
    /// There is one only; its length and the filters that were left out, where it is filtered.
    Single(Option<(u64, u32)>),
    /// One behind the other.
    Implicit,
    /// By an array of their addresses.
    Fixed,
}

impl<'a> File<'a> {
    /// All messages of an object, those of its continuations behind the others.
    pub(super) fn header(&mut self, address: u64) -> Result<Vec<Message<'a>>> {
        let mut cursor = self.at(address, "an object")?;
        let mut messages = Vec::new();
        let mut blocks = Vec::new();
        let is_new = self.bytes[address as usize..].starts_with(b"OHDR");
        let mut ordered = false;
        if is_new {
            cursor.take(4, "a signature")?;
            let version = cursor.u8("the version of a header")?;
            if version != 2 {
                let message = format!("an object header of version {version}");
                return Err(Error::malformed(address, message));
            }
            let flags = cursor.u8("flags")?;
            ordered = flags & 4 != 0;
            cursor.take(if flags & 0x20 != 0 { 16 } else { 0 }, "times")?;
            cursor.take(if flags & 0x10 != 0 { 4 } else { 0 }, "sizes of attributes")?;
            let len = uint(&mut cursor, 1 << (flags & 3), "the length of a header")?;
            blocks.push((cursor.offset(), len));
        } else {
            let version = cursor.u8("the version of a header")?;
            if version != 1 {
                let message = format!("an object header of version {version}");
                return Err(Error::malformed(address, message));
            }
            cursor.take(7, "counts")?;
            let len = u64::from(cursor.u32_le("the length of a header")?);
            cursor.take(4, "padding")?;
            blocks.push((cursor.offset(), len));
        }
        let mut seen: Vec<u64> = Vec::new();
        while let Some((start, len)) = blocks.pop() {
            self.count(start)?;
            if seen.contains(&start) {
                return Err(Error::malformed(start, "a header goes on where it has been"));
            }
            seen.push(start);
            let mut block = self.part(start, len, "a header")?;
            let head = if !is_new { 8 } else { 4 + if ordered { 2 } else { 0 } };
            while head <= block.left() {
                let (kind, len, flags);
                if is_new {
                    kind = u16::from(block.u8("a message")?);
                    len = block.u16_le("its length")?;
                    flags = block.u8("its flags")?;
                    block.take(if ordered { 2 } else { 0 }, "its order")?;
                } else {
                    kind = block.u16_le("a message")?;
                    len = block.u16_le("its length")?;
                    flags = block.u8("its flags")?;
                    block.take(3, "padding")?;
                }
                let at = block.offset();
                let bytes = block.take(u64::from(len), "a message")?;
                let message = Message { kind, is_shared: flags & SHARED != 0, bytes, at };
                if kind == CONTINUATION {
                    blocks.push(self.continuation(&message, is_new)?);
                } else {
                    messages.push(message);
                }
                if MAX_OBJECTS < messages.len() {
                    return Err(Error::limit(at, "too many messages in a header"));
                }
            }
        }
        Ok(messages)
    }

    /// Where a header goes on, and for how long.
    fn continuation(&self, message: &Message<'_>, is_new: bool) -> Result<(u64, u64)> {
        let mut cursor = message.cursor();
        let (mut start, mut len) = (self.address(&mut cursor)?, self.length(&mut cursor)?);
        if is_new {
            // A signature in front, a checksum behind.
            if self.at(start, "the rest of a header")?.take(4, "a signature")? != b"OCHK" {
                return Err(Error::malformed(start, "is no rest of a header"));
            }
            let inner = len.checked_sub(8);
            (start, len) = (
                start + 4,
                inner
                    .ok_or_else(|| Error::malformed(message.at, "a rest of a header too short"))?,
            );
        }
        Ok((start, len))
    }

    pub(super) fn dataspace(&self, message: &Message<'_>) -> Result<Vec<u64>> {
        let mut cursor = message.cursor();
        let version = cursor.u8("the version of a dataspace")?;
        let rank = cursor.u8("the number of dimensions")?;
        cursor.take(1, "flags")?;
        match version {
            1 => drop(cursor.take(5, "padding")?),
            2 => {
                if cursor.u8("a kind")? == 2 {
                    return Ok(vec![0]); // There is nothing, not even one.
                }
            }
            other => {
                let message = format!("a dataspace of version {other}");
                return Err(Error::malformed(cursor.offset(), message));
            }
        }
        if MAX_RANK < rank {
            return Err(Error::malformed(message.at, format!("{rank} dimensions")));
        }
        (0..rank).map(|_| self.length(&mut cursor)).collect()
    }

    pub(super) fn layout(&self, message: &Message<'_>) -> Result<Layout> {
        let mut cursor = message.cursor();
        let version = cursor.u8("the version of a layout")?;
        if !(3..=4).contains(&version) {
            return Ok(Layout::Other(format!("its layout is of version {version}")));
        }
        Ok(match cursor.u8("the kind of a layout")? {
            0 => {
                let len = u64::from(cursor.u16_le("a length")?);
                let start = cursor.offset();
                cursor.take(len, "elements")?;
                Layout::Whole(start, len)
            }
            1 => Layout::Whole(self.address(&mut cursor)?, self.length(&mut cursor)?),
            2 if version == 3 => {
                let rank = cursor.u8("the number of dimensions")?;
                let address = self.address(&mut cursor)?;
                let dims = (0..rank).map(|_| Ok(u64::from(cursor.u32_le("a dimension")?)));
                let (shape, width) = with_width(dims.collect::<Result<_>>()?, message.at)?;
                Layout::Chunked { address, shape, width, index: Index::Tree }
            }
            2 => self.layout_of_chunks(&mut cursor)?,
            other => Layout::Other(format!("its layout is of the kind {other}")),
        })
    }

    /// What version 4 says of chunks.
    fn layout_of_chunks(&self, cursor: &mut Cursor<'_>) -> Result<Layout> {
        let at = cursor.offset();
        let flags = cursor.u8("flags")?;
        let rank = cursor.u8("the number of dimensions")?;
        let width = cursor.u8("a width")?;
        if MAX_RANK < rank || 8 < width {
            return Err(Error::malformed(at, "chunks of so many dimensions"));
        }
        let dims = (0..rank).map(|_| uint(cursor, width, "a dimension"));
        let (shape, width) = with_width(dims.collect::<Result<_>>()?, at)?;
        let index = match cursor.u8("the kind of an index")? {
            1 if flags & 2 != 0 => {
                let len = self.length(cursor)?;
                Index::Single(Some((len, cursor.u32_le("filters")?)))
            }
            1 => Index::Single(None),
            2 => Index::Implicit,
            3 => {
                cursor.take(1, "the size of a page")?;
                Index::Fixed
            }
            4 => {
                return Ok(Layout::Other("its chunks are in an extensible array".to_owned()));
            }
            5 => return Ok(Layout::Other("its chunks are in a B-tree of version 2".to_owned())),
            other => return Ok(Layout::Other(format!("its chunks have an index {other}"))),
        };
        Ok(Layout::Chunked { address: self.address(cursor)?, shape, width, index })
    }
}

/// The last dimension of a chunk is the bytes of an element.
fn with_width(mut dims: Vec<u64>, at: u64) -> Result<(Vec<u64>, u64)> {
    let width = dims.pop().ok_or_else(|| Error::malformed(at, "chunks without dimensions"))?;
    Ok((dims, width))
}

/// The type of the elements and whether the high byte comes first; or why they are none of a tensor.
pub(super) fn datatype(
    message: &Message<'_>,
) -> Result<std::result::Result<(DType, bool), String>> {
    if message.is_shared {
        return Ok(Err("its type is stored elsewhere in the file".to_owned()));
    }
    let mut cursor = message.cursor();
    let class = cursor.u8("the class of a type")? & 0x0f;
    let bits = cursor.take(3, "the bits of a type")?;
    let width = cursor.u32_le("the bytes of an element")?;
    let (high_first, signed) = (bits[0] & 1 != 0, bits[0] & 8 != 0);
    let dtype = match (class, width) {
        (0, 1) if signed => DType::I8,
        (0, 1) => DType::U8,
        (0, 2) if signed => DType::I16,
        (0, 2) => DType::U16,
        (0, 4) if signed => DType::I32,
        (0, 4) => DType::U32,
        (0, 8) if signed => DType::I64,
        (0, 8) => DType::U64,
        (1, 2) => {
            cursor.take(5, "the bits of a number")?;
            match cursor.u8("the bits of its exponent")? {
                5 => DType::F16,
                8 => DType::BF16,
                other => return Ok(Err(format!("numbers with {other} bits of exponent"))),
            }
        }
        (1, 4) => DType::F32,
        (1, 8) => DType::F64,
        // How Keras stores bfloat16, which HDF5 does not know.
        (5, 2) => return Ok(Ok((DType::BF16, false))),
        // How h5py stores truth values.
        (8, 1) => return Ok(Ok((DType::Bool, false))),
        (3 | 9, _) => return Ok(Err("its elements are texts".to_owned())),
        _ => return Ok(Err(format!("its elements are of class {class} and {width} bytes"))),
    };
    Ok(Ok((dtype, high_first)))
}

/// The filters of a dataset in the order in which they were applied; or why one is not undone here.
pub(super) fn filters(message: &Message<'_>) -> Result<Vec<std::result::Result<Filter, String>>> {
    let mut cursor = message.cursor();
    let version = cursor.u8("the version of filters")?;
    let n = cursor.u8("the number of filters")?;
    match version {
        1 => drop(cursor.take(6, "padding")?),
        2 => {}
        other => return Err(Error::malformed(message.at, format!("filters of version {other}"))),
    }
    let mut filters = Vec::new();
    for _ in 0..n {
        let id = cursor.u16_le("a filter")?;
        let name_len =
            if version == 1 || 256 <= id { cursor.u16_le("the length of its name")? } else { 0 };
        cursor.take(2, "its flags")?;
        let n_values = cursor.u16_le("the number of its values")?;
        let padded = if version == 1 { name_len.next_multiple_of(8) } else { name_len };
        cursor.take(u64::from(padded), "its name")?;
        let values = (0..n_values).map(|_| cursor.u32_le("a value of a filter"));
        let values: Vec<u32> = values.collect::<Result<_>>()?;
        if version == 1 && n_values % 2 == 1 {
            cursor.take(4, "padding")?;
        }
        filters.push(match (id, values.first()) {
            (1, _) => Ok(Filter::Zlib),
            (2, Some(&width)) if width != 0 => Ok(Filter::Shuffle(u64::from(width))),
            (3, _) => Ok(Filter::Fletcher32),
            (32015, _) => Ok(Filter::Zstd),
            (4, _) => Err("its chunks are packed by szip".to_owned()),
            (32001, _) => Err("its chunks are packed by Blosc".to_owned()),
            (32000, _) => Err("its chunks are packed by LZF".to_owned()),
            (other, _) => Err(format!("its chunks passed the filter {other}")),
        });
    }
    Ok(filters)
}

/// Whether an address is none.
pub(super) fn is_none(address: u64) -> bool {
    address == UNDEFINED
}
