//! The chunks of a dataset.

use std::collections::BTreeSet;

use super::header::{Index, is_none};
use super::{Chunk, File, MAX_OBJECTS};
use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};
use crate::checkpoint::n_elements;
use crate::checkpoint::tiles::Filter;

/// HDF5 keeps the length of a chunk in 32 bits.
const MAX_CHUNK_LEN: u64 = u32::MAX as u64;

/// A dataset in chunks.
pub(super) struct Chunks<'c> {
    pub(super) shape: &'c [u64],
    pub(super) chunk: &'c [u64],
    /// The bytes of an element.
    pub(super) width: u64,
    /// In the order in which they were applied.
    pub(super) filters: &'c [Filter],
    /// Whether chunks that pass the dataset are stored as they are.
    pub(super) plain_edges: bool,
}

impl Chunks<'_> {
    /// What is undone in a chunk whose mask names the filters that were left out.
    fn steps(&self, at: &[u64], mask: u32) -> Vec<Filter> {
        let mut sides = at.iter().zip(self.chunk).zip(self.shape);
        if self.plain_edges && sides.any(|((at, chunk), dim)| *dim < at.saturating_add(*chunk)) {
            return Vec::new();
        }
        let applied = self.filters.iter().enumerate();
        let applied = applied.filter(|(at, _)| mask.checked_shr(*at as u32).unwrap_or(0) & 1 == 0);
        applied.map(|(_, filter)| *filter).rev().collect()
    }

    /// The bytes of a chunk when decoded.
    fn len(&self, at: u64) -> Result<u64> {
        let len = n_elements(self.chunk).and_then(|n| n.checked_mul(self.width));
        let most = |&len: &u64| len <= MAX_CHUNK_LEN;
        len.filter(most).ok_or_else(|| {
            let message = format!("chunks of {:?}, which are longer than 2^32 bytes", self.chunk);
            Error::malformed(at, message)
        })
    }

    /// Where each chunk begins, in order.
    fn places(&self, file: &mut File<'_>, at: u64) -> Result<Vec<Vec<u64>>> {
        let counts: Vec<u64> =
            self.shape.iter().zip(self.chunk).map(|(dim, chunk)| dim.div_ceil(*chunk)).collect();
        let n = n_elements(&counts).filter(|&n| n <= MAX_OBJECTS as u64);
        let n = n.ok_or_else(|| Error::limit(at, format!("{counts:?} chunks")))?;
        file.count_all(at, n as usize)?;
        let strides = crate::checkpoint::row_major_strides(&counts);
        let place = |number: u64| {
            let of = strides.iter().zip(&counts).zip(self.chunk);
            of.map(|((stride, count), chunk)| number / stride % count * chunk).collect()
        };
        Ok((0..n).map(place).collect())
    }
}

impl<'a> File<'a> {
    /// The chunks of a dataset, or why they cannot be found.
    pub(super) fn chunks(
        &mut self,
        of: &Chunks<'_>,
        address: u64,
        index: &Index,
    ) -> Result<std::result::Result<Vec<Chunk>, String>> {
        let len = of.len(address)?;
        let mut chunks = Vec::new();
        match index {
            Index::Tree => self.tree(of, address, None, &mut BTreeSet::new(), &mut chunks)?,
            Index::Single(filtered) => {
                let (len, mask) = filtered.unwrap_or((len, u32::MAX));
                let at = vec![0; of.shape.len()];
                let steps = of.steps(&at, mask);
                chunks.push(self.chunk(at, address, len, steps)?);
            }
            Index::Implicit => {
                for (at, number) in of.places(self, address)?.into_iter().zip(0..) {
                    let offset = len.checked_mul(number).and_then(|n| n.checked_add(address));
                    let offset = offset.ok_or_else(|| Error::malformed(address, "too far"))?;
                    chunks.push(self.chunk(at, offset, len, Vec::new())?);
                }
            }
            Index::Fixed => return self.fixed(of, address, len),
        }
        Ok(Ok(chunks))
    }

    fn chunk(&self, at: Vec<u64>, offset: u64, len: u64, steps: Vec<Filter>) -> Result<Chunk> {
        if len != 0 {
            self.part(offset, len, "a chunk")?;
        }
        Ok(Chunk { at, offset, len, steps })
    }

    fn tree(
        &mut self,
        of: &Chunks<'_>,
        address: u64,
        above: Option<u8>,
        seen: &mut BTreeSet<u64>,
        chunks: &mut Vec<Chunk>,
    ) -> Result<()> {
        self.count(address)?;
        if !seen.insert(address) {
            return Err(Error::malformed(address, "a tree of chunks that leads into itself"));
        }
        let mut cursor = self.at(address, "a tree of chunks")?;
        let is_tree = cursor.take(4, "a signature")? == b"TREE" && cursor.u8("a kind")? == 1;
        let level = cursor.u8("a level")?;
        if !is_tree || above.is_some_and(|above| above <= level) {
            return Err(Error::malformed(address, "is no tree of chunks of this level"));
        }
        let n = cursor.u16_le("a count")?;
        self.address(&mut cursor)?;
        self.address(&mut cursor)?;
        for _ in 0..n {
            let len = u64::from(cursor.u32_le("the length of a chunk")?);
            let mask = cursor.u32_le("filters")?;
            let offset = |cursor: &mut Cursor<'_>| cursor.u64_le("the place of a chunk");
            let at = of.shape.iter().map(|_| offset(&mut cursor)).collect::<Result<Vec<u64>>>()?;
            offset(&mut cursor)?;
            let child = self.address(&mut cursor)?;
            if level == 0 {
                self.count(child)?;
                let steps = of.steps(&at, mask);
                chunks.push(self.chunk(at, child, len, steps)?);
            } else {
                self.tree(of, child, Some(level), seen, chunks)?;
            }
        }
        Ok(())
    }

    /// The chunks that a fixed array lists.
    fn fixed(
        &mut self,
        of: &Chunks<'_>,
        address: u64,
        len: u64,
    ) -> Result<std::result::Result<Vec<Chunk>, String>> {
        let mut cursor = self.at(address, "an array of chunks")?;
        if cursor.take(4, "a signature")? != b"FAHD" {
            return Err(Error::malformed(address, "is no array of chunks"));
        }
        cursor.take(1, "a version")?;
        let is_filtered = cursor.u8("a kind")? == 1;
        let width = cursor.u8("the length of an entry")?;
        let page_bits = cursor.u8("the size of a page")?;
        let n = self.length(&mut cursor)?;
        let block = self.address(&mut cursor)?;
        if is_none(block) {
            return Ok(Err("its chunks were never written".to_owned()));
        }
        if 1u64.checked_shl(u32::from(page_bits)).is_some_and(|page| page < n) {
            return Ok(Err("its chunks are in an array of several pages".to_owned()));
        }
        let mut cursor = self.at(block, "an array of chunks")?;
        if cursor.take(4, "a signature")? != b"FADB" {
            return Err(Error::malformed(block, "is no block of an array of chunks"));
        }
        cursor.take(2, "a version")?;
        self.address(&mut cursor)?;
        let places = of.places(self, address)?;
        if n < places.len() as u64 {
            let message = format!("{n} chunks are listed, there are {}", places.len());
            return Err(Error::malformed(address, message));
        }
        let mut chunks = Vec::new();
        for at in places {
            let offset = self.address(&mut cursor)?;
            let (mut stored, mut mask) = (len, u32::MAX);
            if is_filtered {
                let bytes = width.checked_sub(self.widths[0] + 4).filter(|&bytes| bytes <= 8);
                let bytes = bytes.ok_or_else(|| Error::malformed(address, "entries too short"))?;
                stored = super::uint(&mut cursor, bytes, "the length of a chunk")?;
                mask = cursor.u32_le("filters")?;
            }
            if !is_none(offset) {
                let steps = of.steps(&at, mask);
                chunks.push(self.chunk(at, offset, stored, steps)?);
            }
        }
        Ok(Ok(chunks))
    }
}
