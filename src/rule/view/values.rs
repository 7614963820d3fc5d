//! Reads the bytes of a package: hashes, and what the values of tensors are.

use std::collections::{BTreeMap, BTreeSet};

use super::{Counted, PackageView, ScannedTensor, Stored};
use crate::base::error::Result;
use crate::base::source::FileId;
use crate::checkpoint::DType;
use crate::exec::scan::{Job, Piece, scan};

impl<'a> PackageView<'a> {
    /// The bytes that [`PackageView::read_bytes`] reads.
    pub fn n_bytes(&self) -> u64 {
        self.files.values().fold(0, |sum, len| sum.saturating_add(*len))
    }

    /// Reads every byte of every file, for the rules that need them.
    ///
    /// # Errors
    /// A tensor lies outside its file, where what is known to do so is left out before; or a file
    /// was changed meanwhile.
    pub fn read_bytes(&mut self, n_threads: usize, progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
        let mut jobs = Vec::new();
        let mut owners = Vec::new();
        for name in self.files.keys() {
            let Some(file) = self.source.find(name) else { continue };
            let shard = self.shards.iter().position(|shard| shard.name == *name);
            let tensors = shard.map_or_else(Vec::new, |_| self.pieces_of(name, file));
            let pieces = tensors.iter().map(|(tensor, dtype)| Piece {
                start: tensor.start,
                len: tensor.len,
                dtype: *dtype,
            });
            jobs.push(Job { file, pieces: pieces.collect() });
            let tensors: Vec<ScannedTensor> =
                tensors.into_iter().map(|(tensor, _)| tensor).collect();
            owners.push((name.clone(), shard, tensors));
        }
        let scans = scan(&self.source, &jobs, n_threads, progress)?;
        self.source.check_unchanged()?;
        let stored: BTreeMap<&str, &Stored> =
            self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        for ((name, shard, tensors), scan) in owners.into_iter().zip(scans) {
            self.scans.insert(name.clone(), scan.sha256);
            if let Some(shard) = shard {
                let counted =
                    tensors.iter().zip(&scan.pieces).filter(|(tensor, _)| tensor.len != 0);
                self.census.extend(counted.map(|(tensor, piece)| {
                    let stored = stored.get(tensor.name.as_str());
                    Counted {
                        name: tensor.name.clone(),
                        file: name.clone(),
                        bytes: [tensor.start, tensor.start.saturating_add(tensor.len)],
                        dtype: stored.map_or(DType::Unknown, |stored| stored.dtype),
                        shape: stored.map_or_else(Vec::new, |stored| stored.shape.clone()),
                        values: piece.values,
                        sha256: piece.sha256,
                    }
                }));
                self.shards[shard].scan = Some((tensors, scan));
            }
        }
        self.deep = true;
        Ok(())
    }

    /// Says what the values of tensors are, which somebody else has read: those of a foreign
    /// checkpoint, or those that packed tensors stand for.
    pub fn count(&mut self, census: Vec<Counted>) {
        let names: BTreeSet<&str> = census.iter().map(|counted| counted.name.as_str()).collect();
        self.census.retain(|counted| !names.contains(counted.name.as_str()));
        self.census.extend(census);
        self.deep = true;
    }

    /// The tensors of a file, by its header, or by the manifest where the header cannot be read.
    fn pieces_of(&self, name: &str, file: FileId) -> Vec<(ScannedTensor, DType)> {
        let of_header = self.tensors.iter().filter(|tensor| tensor.file == name);
        let mut pieces: Vec<(ScannedTensor, DType)> = of_header
            .map(|tensor| {
                let (name, start, len) = (tensor.name.clone(), tensor.start, tensor.len);
                (ScannedTensor { name, start, len }, tensor.dtype)
            })
            .collect();
        if pieces.is_empty() {
            let entries = self.manifest.good().into_iter().flat_map(|manifest| &manifest.tensors);
            let entries = entries.filter(|entry| entry.file.as_deref() == Some(name));
            let placed = entries.filter_map(|entry| {
                let dtype = DType::parse(&entry.dtype).unwrap_or(DType::Unknown);
                let (name, len) = (entry.name.clone(), entry.len);
                Some((ScannedTensor { name, start: entry.start?, len }, dtype))
            });
            pieces = placed.collect();
        }
        pieces.sort_by_key(|(tensor, _)| (tensor.start, tensor.len));
        // What lies outside the file, or over its neighbour, cannot be read as said.
        let mut at = 0;
        let file_len = self.source.extent(file).len;
        pieces.retain(|(tensor, _)| {
            let end = tensor.start.checked_add(tensor.len);
            let fits = at <= tensor.start && end.is_some_and(|end| end <= file_len);
            if fits {
                at = end.unwrap_or(at);
            }
            fits
        });
        pieces
    }

    /// Whether every byte was read.
    pub fn is_deep(&self) -> bool {
        self.deep
    }

    /// The SHA-256 of a file, where every byte was read.
    pub fn sha256(&self, name: &str) -> Option<&[u8; 32]> {
        self.scans.get(name)
    }
}
