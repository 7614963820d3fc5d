//! What is done with the bytes of a chunk: they are made, hashed, summed up and written.

use std::fs::File;
use std::io::Write as _;
use std::sync::mpsc::Sender;

use super::chunk::{Chunk, Piece, Pipeline};
use crate::base::checksum::Sum;
use crate::base::error::{Error, Result};
use crate::exec::hash::Hash;
use crate::package::Loss;

/// After so many bytes of a file the disk is told to take them, while others are still hashed:
/// what is left for the end is short then.
const SYNC_LEN: u64 = 64 << 20;

/// A stage that a chunk passes, with what it keeps from one chunk to the next.
pub(super) enum Work {
    HashTensors(Box<Hash>),
    HashFile(Box<Hash>),
    /// Both on one thread, which takes less time than one after the other, but more than both
    /// on two threads: for where not every stage of a file has a thread of its own.
    HashBoth(Box<[Hash; 2]>),
    Checksum(Sum),
    Write(Option<Unsynced>),
}

/// A file that is being written.
pub(super) struct Unsynced {
    file: File,
    /// The bytes since it was last handed to be synced.
    n_bytes: u64,
}

impl Pipeline<'_, '_> {
    pub(super) fn make(
        &self,
        chunk: &Chunk<'_>,
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<(usize, Loss)>> {
        let scratch_len = |piece: &Piece<'_>| self.producers[piece.output].scratch_len(piece.len());
        let want = chunk.len + chunk.pieces.iter().map(scratch_len).max().unwrap_or(0);
        if buffer.len() < want {
            buffer.resize(want, 0);
        }
        let (mut bytes, scratch) = buffer.split_at_mut(chunk.len);
        let mut losses = Vec::new();
        for piece in &chunk.pieces {
            let (filled, rest) = bytes.split_at_mut(piece.len());
            let (insert, rest) = rest.split_at_mut(piece.insert.len());
            insert.copy_from_slice(piece.insert);
            bytes = rest;
            if filled.is_empty() {
                continue;
            }
            let producer = &self.producers[piece.output];
            if let Some(bytes) = producer.borrow(piece.range.clone()) {
                self.source.copy(bytes, filled)?;
                continue;
            }
            let loss = producer.fill(piece.range.start, filled, scratch)?;
            losses.extend(loss.map(|loss| (piece.output, loss)));
        }
        Ok(losses)
    }

    /// Gives the bytes of each tensor in a chunk to its hash by `update`; what the container puts in
    /// between has none.
    pub(super) fn hash(
        &self,
        chunk: &Chunk<'_>,
        mut bytes: &[u8],
        tensor: &mut Hash,
        mut update: impl FnMut(Option<&mut Hash>, &[u8]),
        hashes: &mut Vec<(usize, [u8; 32])>,
    ) {
        for piece in &chunk.pieces {
            let (head, rest) = bytes.split_at(piece.len());
            let (insert, rest) = rest.split_at(piece.insert.len());
            if !head.is_empty() {
                update(Some(&mut *tensor), head);
                if piece.range.end == self.producers[piece.output].len() {
                    hashes.push((piece.output, tensor.finish()));
                }
            }
            if !insert.is_empty() {
                update(None, insert);
            }
            bytes = rest;
        }
    }

    /// Adds the bytes of each tensor in a chunk to its checksum.
    pub(super) fn sum(
        &self,
        chunk: &Chunk<'_>,
        mut bytes: &[u8],
        sum: &mut Sum,
        sums: &mut Vec<(usize, u32)>,
    ) {
        for piece in &chunk.pieces {
            let (head, rest) = bytes.split_at(piece.len());
            bytes = &rest[piece.insert.len()..];
            sum.update(head);
            if !head.is_empty() && piece.range.end == self.producers[piece.output].len() {
                sums.push((piece.output, sum.finish()));
            }
        }
    }

    pub(super) fn write(
        &self,
        file: &mut Option<Unsynced>,
        chunk: &Chunk<'_>,
        bytes: &[u8],
        sync: &Sender<File>,
    ) -> Result<()> {
        let path = self.dir.join(&self.shards[chunk.file].name);
        if chunk.pieces.is_empty() {
            let created = File::options().write(true).create_new(true).open(&path);
            let created = created.map_err(|err| Error::io(&path, "create", err))?;
            *file = Some(Unsynced { file: created, n_bytes: 0 });
        }
        let open = file.as_mut().expect("a header comes before all other chunks of its file");
        open.file.write_all(bytes).map_err(|err| Error::io(&path, "write", err))?;
        open.n_bytes += bytes.len() as u64;
        if SYNC_LEN <= open.n_bytes {
            open.n_bytes = 0;
            let file = open.file.try_clone().map_err(|err| Error::io(&path, "write", err))?;
            // The other end waits for as long as there is a sender.
            let _ = sync.send(file);
        }
        if !chunk.pieces.is_empty() {
            let n_bytes: usize = chunk.pieces.iter().map(Piece::len).sum();
            (self.options.progress)(n_bytes as u64);
        }
        if chunk.is_last_of_file {
            *file = None;
        }
        Ok(())
    }
}
