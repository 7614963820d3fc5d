//! Object headers, and the messages in them.

use super::{File, MAX_MESSAGES, UNDEFINED, uint};
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
    Chunked {
        address: u64,
        shape: Vec<u64>,
        width: u64,
        index: Index,
        /// Whether chunks that pass the dataset are stored as they are.
        plain_edges: bool,
    },
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
                self.n_messages += 1;
                if MAX_MESSAGES < self.n_messages {
                    let message = format!("more than {MAX_MESSAGES} messages in headers");
                    return Err(Error::limit(at, message));
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
                Layout::Chunked { address, shape, width, index: Index::Tree, plain_edges: false }
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
        let plain_edges = flags & 1 != 0;
        Ok(Layout::Chunked { address: self.address(cursor)?, shape, width, index, plain_edges })
    }
}

/// The last dimension of a chunk is the bytes of an element.
fn with_width(mut dims: Vec<u64>, at: u64) -> Result<(Vec<u64>, u64)> {
    let width = dims.pop().ok_or_else(|| Error::malformed(at, "chunks without dimensions"))?;
    Ok((dims, width))
}

/// The type of elements.
pub(super) struct Type {
    pub(super) dtype: DType,
    /// Whether there is no more said of it than its width.
    pub(super) is_opaque: bool,
    pub(super) big_endian: bool,
}

/// The type of the elements, or why they are none of a tensor.
pub(super) fn datatype(message: &Message<'_>) -> Result<std::result::Result<Type, String>> {
    if message.is_shared {
        return Ok(Err("its type is stored elsewhere in the file".to_owned()));
    }
    let mut cursor = message.cursor();
    let head = cursor.u8("the class of a type")?;
    let (class, version) = (head & 0x0f, head >> 4);
    let bits = cursor.take(3, "the bits of a type")?;
    let width = cursor.u32_le("the bytes of an element")?;
    let (high_first, signed) = (bits[0] & 1 != 0, bits[0] & 8 != 0);
    let dtype = match (class, width) {
        (0, 1 | 2 | 4 | 8) => {
            let (offset, precision) = (cursor.u16_le("an offset")?, cursor.u16_le("a precision")?);
            if (offset, u32::from(precision)) != (0, 8 * width) {
                let why =
                    format!("its integers are {precision} bits of {} from {offset} on", 8 * width);
                return Ok(Err(why));
            }
            match (width, signed) {
                (1, true) => DType::I8,
                (1, false) => DType::U8,
                (2, true) => DType::I16,
                (2, false) => DType::U16,
                (4, true) => DType::I32,
                (4, false) => DType::U32,
                (_, true) => DType::I64,
                (_, false) => DType::U64,
            }
        }
        (1, 2 | 4 | 8) => {
            let [offset, precision] =
                [cursor.u16_le("an offset")?, cursor.u16_le("a precision")?].map(u32::from);
            let mut place = || cursor.u8("the bits of a number").map(u32::from);
            let [exp_at, exp, mantissa_at, mantissa] = [place()?, place()?, place()?, place()?];
            let bias = cursor.u32_le("the bias of an exponent")?;
            // The leading bit of the mantissa is not stored, and the sign is the highest bit.
            let is_usual = bits[0] & 0x70 == 0x20
                && u32::from(bits[1]) == 8 * width - 1
                && (offset, precision) == (0, 8 * width)
                && (mantissa_at, exp_at) == (0, mantissa)
                && exp + mantissa + 1 == 8 * width
                && 1u32.checked_shl(exp.saturating_sub(1)).map(|half| half - 1) == Some(bias);
            match (is_usual, width, exp) {
                (true, 2, 5) => DType::F16,
                (true, 2, 8) => DType::BF16,
                (true, 4, 8) => DType::F32,
                (true, 8, 11) => DType::F64,
                _ => {
                    let why = format!(
                        "its numbers of {} bits have {exp} of exponent (bias {bias}) and {mantissa} \
                         of mantissa, which is none of the formats of IEEE 754, nor bfloat16",
                        8 * width
                    );
                    return Ok(Err(why));
                }
            }
        }
        // How Keras stores bfloat16, which HDF5 does not know.
        (5, 2) => DType::BF16,
        // How h5py stores truth values.
        (8, 1) if is_truth(&mut cursor, bits, version)? => DType::Bool,
        (3 | 9, _) => return Ok(Err("its elements are texts".to_owned())),
        (8, _) => return Ok(Err("its elements are words of a list".to_owned())),
        _ => return Ok(Err(format!("its elements are of class {class} and {width} bytes"))),
    };
    let big_endian = high_first && matches!(class, 0 | 1);
    Ok(Ok(Type { dtype, is_opaque: class == 5, big_endian }))
}

/// Whether the members of an enumeration of one byte are false, 0, and true, 1.
fn is_truth(cursor: &mut Cursor<'_>, bits: &[u8], version: u8) -> Result<bool> {
    if u16::from_le_bytes([bits[0], bits[1]]) != 2 {
        return Ok(false);
    }
    cursor.take(8 + 4, "the type of the members")?;
    let mut names = Vec::new();
    for _ in 0..2 {
        let mut name = Vec::new();
        loop {
            match cursor.u8("the name of a member")? {
                0 => break,
                byte => name.push(byte),
            }
        }
        if version < 3 {
            // The zero belongs to what is padded.
            let len = name.len() + 1;
            cursor.take((len.next_multiple_of(8) - len) as u64, "padding")?;
        }
        names.push(name);
    }
    let values = cursor.take(2, "the values of the members")?;
    let is = |name: &[u8], value: u8| {
        names.iter().zip(values).any(|(of, &found)| of.as_slice() == name && found == value)
    };
    Ok(is(b"FALSE", 0) && is(b"TRUE", 1))
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
