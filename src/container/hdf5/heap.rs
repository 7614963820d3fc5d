//! Fractal heaps: objects of any length at offsets of a space that is laid over blocks in rows, each row
//! of blocks twice as large as the one before.
//!
//! ```text
//! FRHP  widths, sizes, root       FHIB  addresses of blocks, row by row        FHDB  objects
//! rows 0 and 1 have blocks of the first size; row r has blocks of 2^(r-1) times that
//! ```

use super::header::is_none;
use super::{File, uint};
use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};

/// How deep blocks of addresses lie in each other.
const MAX_DEPTH: usize = 32;

/// What is to be known of a heap to find an object.
pub(super) struct Heap {
    at: u64,
    /// The bytes of an offset and of a length in an id.
    widths: [u8; 2],
    /// The blocks of a row, a power of two.
    row_len: u64,
    /// The bytes of a block of the first row, and of the largest with objects; powers of two.
    block_lens: [u64; 2],
    root: u64,
    /// The rows of the root; 0 where it has objects itself.
    n_rows: u64,
}

impl<'a> File<'a> {
    pub(super) fn fractal_heap(&self, address: u64) -> Result<Heap> {
        let malformed = |message: &str| Error::malformed(address, message);
        let mut cursor = self.at(address, "a heap")?;
        if cursor.take(4, "a signature")? != b"FRHP" || cursor.u8("a version")? != 0 {
            return Err(malformed("is no heap of version 0"));
        }
        cursor.take(2, "the length of an id")?;
        let filters_len = cursor.u16_le("the length of filters")?;
        cursor.take(1, "flags")?;
        let max_object = u64::from(cursor.u32_le("the size of an object")?);
        self.length(&mut cursor)?;
        self.address(&mut cursor)?;
        self.length(&mut cursor)?;
        self.address(&mut cursor)?;
        for _ in 0..8 {
            self.length(&mut cursor)?;
        }
        let row_len = u64::from(cursor.u16_le("the blocks of a row")?);
        let block_lens = [self.length(&mut cursor)?, self.length(&mut cursor)?];
        let bits = cursor.u16_le("the bits of an offset")?;
        cursor.take(2, "the first rows")?;
        let root = self.address(&mut cursor)?;
        let n_rows = u64::from(cursor.u16_le("the rows of the root")?);
        if filters_len != 0 {
            return Err(Error::unsupported("an HDF5 group whose links are in a heap with filters"));
        }
        let is_power = |n: &u64| n.is_power_of_two() && *n < 1 << 40;
        if !is_power(&row_len)
            || !block_lens.iter().all(is_power)
            || block_lens[1] < block_lens[0]
            || !(1..=64).contains(&bits)
        {
            return Err(malformed("is a heap of blocks whose sizes are no powers of two"));
        }
        let offset_width = bits.div_ceil(8) as u8;
        let largest = (block_lens[1].ilog2()).div_ceil(8) as u8;
        let of_object = (max_object.max(1).ilog2() / 8 + 1) as u8;
        let widths = [offset_width, largest.min(of_object)];
        Ok(Heap { at: address, widths, row_len, block_lens, root, n_rows })
    }

    /// The bytes of the object of an id.
    pub(super) fn heap_object(&self, heap: &Heap, id: &[u8]) -> Result<Cursor<'a>> {
        let malformed = |message: &str| Error::malformed(heap.at, message);
        let mut cursor = Cursor::new(id, heap.at);
        match cursor.u8("an id")? & 0xf0 {
            0 => {}
            0x10 | 0x20 => {
                return Err(Error::unsupported("an HDF5 group with a link outside of its heap"));
            }
            _ => return Err(malformed("has an id of no known kind")),
        }
        let offset = uint(&mut cursor, heap.widths[0], "an offset")?;
        let len = uint(&mut cursor, heap.widths[1], "a length")?;
        let (mut block, mut n_rows, mut start) = (heap.root, heap.n_rows, 0u64);
        for _ in 0..MAX_DEPTH {
            if is_none(block) {
                return Err(malformed("an object in a block that is not there"));
            }
            let inside = offset.checked_sub(start).ok_or_else(|| malformed("offsets that fall"))?;
            if n_rows == 0 {
                let end = inside.checked_add(len).filter(|&end| end <= heap.block_lens[1]);
                if end.is_none() || len == 0 {
                    return Err(malformed("an object that passes its block"));
                }
                let head = self.at(block, "a block of a heap")?.take(4, "a signature")?;
                if head != b"FHDB" {
                    return Err(Error::malformed(block, "is no block of a heap"));
                }
                let at = block.checked_add(inside).ok_or_else(|| malformed("too far"))?;
                return self.part(at, len, "an object of a heap");
            }
            let [first, largest] = heap.block_lens;
            let row_bytes = first.saturating_mul(heap.row_len);
            let (row, row_start) = match inside / row_bytes {
                0 => (0, 0),
                times => (u64::from(times.ilog2()) + 1, row_bytes << times.ilog2()),
            };
            if n_rows <= row || 60 < row {
                return Err(malformed("an object behind the rows of its heap"));
            }
            let block_len = first.checked_shl(row.saturating_sub(1) as u32).unwrap_or(0);
            if block_len == 0 {
                return Err(malformed("rows of blocks that are too large"));
            }
            let column = (inside - row_start) / block_len;
            let entry = row * heap.row_len + column;
            let mut cursor = self.at(block, "a block of addresses")?;
            if cursor.take(4, "a signature")? != b"FHIB" {
                return Err(Error::malformed(block, "is no block of addresses"));
            }
            cursor.take(1, "a version")?;
            self.address(&mut cursor)?;
            cursor.take(u64::from(heap.widths[0]), "an offset")?;
            cursor.take(entry.saturating_mul(u64::from(self.widths[0])), "addresses")?;
            block = self.address(&mut cursor)?;
            start += row_start + column * block_len;
            n_rows = match block_len <= largest {
                true => 0,
                // As many rows as fill the block.
                false => u64::from((block_len / row_bytes).max(1).ilog2()) + 1,
            };
        }
        Err(malformed("blocks that lie too deep in each other"))
    }
}
