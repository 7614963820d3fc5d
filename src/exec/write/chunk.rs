//! The bytes of a file, cut into chunks.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use super::options::Options;
use super::shards::Shard;
use crate::base::checksum::Checksum;
use crate::base::error::Result;
use crate::base::source::Source;
use crate::exec::container::{Container, Frame};
use crate::exec::produce::Producer;
use crate::plan::program::Output;

/// The bytes of a chunk: long enough that taking one costs nothing, short enough for the caches.
pub(super) const CHUNK_LEN: usize = 2 << 20;

/// A piece at least this long is taken from the map; shorter ones are gathered in one buffer.
const MIN_BORROWED_LEN: u64 = 64 << 10;

/// What all threads share and none changes.
pub(super) struct Pipeline<'p, 'a> {
    pub(super) source: &'p Source,
    pub(super) producers: &'p [Producer<'a>],
    pub(super) outputs: &'p [Output],
    pub(super) shards: &'p [Shard],
    pub(super) container: &'p dyn Container,
    /// The numbers of those that are written.
    pub(super) wanted: &'p [usize],
    pub(super) frames: &'p [Frame],
    pub(super) checksum: Option<Checksum>,
    pub(super) dir: &'p Path,
    pub(super) options: &'p Options<'p>,
}

/// Consecutive bytes of one file.
pub(super) struct Chunk<'p> {
    pub(super) file: usize,
    /// The tensors' ranges that it is made of; none: the header.
    pub(super) pieces: Vec<Piece<'p>>,
    /// The bytes of the pieces together.
    pub(super) len: usize,
    pub(super) is_last_of_file: bool,
}

pub(super) struct Piece<'p> {
    pub(super) output: usize,
    pub(super) range: Range<u64>,
    /// What the container puts behind the range.
    pub(super) insert: &'p [u8],
}

impl Piece<'_> {
    pub(super) fn len(&self) -> usize {
        (self.range.end - self.range.start) as usize
    }
}

/// How far a file is cut into chunks.
pub(super) struct FileCursor {
    file: usize,
    header_is_done: bool,
    output: usize,
    start: u64,
    /// The next of the bytes that the container puts in.
    insert: usize,
}

impl FileCursor {
    /// The start of a file, whose first output is this.
    pub(super) fn new(file: usize, output: usize) -> FileCursor {
        FileCursor { file, header_is_done: false, output, start: 0, insert: 0 }
    }
}

impl<'p> Pipeline<'p, '_> {
    /// What a file begins with.
    fn header(&self, file: usize) -> Result<Cow<'p, [u8]>> {
        match self.frames[file].header.as_slice() {
            [] => Ok(Cow::Owned(self.container.frame(self.outputs, self.shards, file)?.header)),
            kept => Ok(Cow::Borrowed(kept)),
        }
    }

    /// Cuts the next chunk off a file; with its bytes, where they are the file's header.
    ///
    /// # Errors
    /// None that the header of the file did not have when its length was asked for.
    pub(super) fn cut(
        &self,
        cursor: &mut FileCursor,
    ) -> Result<(Chunk<'p>, Option<Cow<'p, [u8]>>)> {
        let end = self.shards[cursor.file].outputs.end;
        let mut chunk =
            Chunk { file: cursor.file, pieces: Vec::new(), len: 0, is_last_of_file: false };
        let mut header = None;
        if !cursor.header_is_done {
            cursor.header_is_done = true;
            let bytes = self.header(cursor.file)?;
            chunk.len = bytes.len();
            header = Some(bytes);
        }
        let mut scratch_len = 0;
        let mut is_alone = false;
        while cursor.output < end {
            let producer = &self.producers[cursor.output];
            let inserts = &self.frames[cursor.file].inserts;
            let insert = inserts.get(cursor.insert).filter(|of| of.output == cursor.output);
            let until = insert.map_or(producer.len(), |insert| insert.at.min(producer.len()));
            let left = until.saturating_sub(cursor.start);
            if left == 0 && insert.is_none() {
                (cursor.output, cursor.start) = (cursor.output + 1, 0);
                continue;
            }
            if is_alone || header.is_some() {
                break;
            }
            if let Some(insert) = insert.filter(|_| left == 0) {
                let range = cursor.start..cursor.start;
                chunk.pieces.push(Piece { output: cursor.output, range, insert: &insert.bytes });
                chunk.len += insert.bytes.len();
                cursor.insert += 1;
                continue;
            }
            let is_empty = chunk.pieces.is_empty();
            let borrowed_len = left.min(producer.chunk_len(CHUNK_LEN as u64));
            let borrowed = (MIN_BORROWED_LEN <= left)
                .then(|| producer.borrow(cursor.start..cursor.start + borrowed_len))
                .flatten();
            let piece_len = match borrowed {
                Some(_) if !is_empty => break,
                // Alone in its chunk, which is then read in one go.
                Some(_) => {
                    is_alone = true;
                    borrowed_len
                }
                None => {
                    // Scratch space comes after the bytes, and serves one piece after the other.
                    let room = CHUNK_LEN.saturating_sub(chunk.len);
                    let piece_len = left.min(producer.chunk_len(room as u64));
                    let piece_scratch_len = producer.scratch_len(piece_len as usize);
                    scratch_len = piece_scratch_len.max(scratch_len);
                    let is_full = CHUNK_LEN < chunk.len + piece_len as usize + scratch_len;
                    let is_scrap = piece_len < left && room < CHUNK_LEN / 2;
                    if !is_empty && (is_full || is_scrap) {
                        break;
                    }
                    piece_len
                }
            };
            let range = cursor.start..cursor.start + piece_len;
            chunk.pieces.push(Piece { output: cursor.output, range, insert: &[] });
            // At most a chunk, or one element.
            chunk.len += piece_len as usize;
            cursor.start += piece_len;
        }
        chunk.is_last_of_file = cursor.output == end;
        Ok((chunk, header))
    }
}
