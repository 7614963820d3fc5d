//! Reads the bytes of a package: hashes, and what the values of tensors are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Counted, MIN_COVERED_LEN, PackageView, Part, ScannedTensor, Stored};
use crate::base::error::Result;
use crate::base::source::FileId;
use crate::checkpoint::DType;
use crate::exec::container::safetensors_header;
use crate::exec::scan::{Job, Piece, scan};
use crate::manifest::{FileEntry, TensorEntry};

impl<'a> PackageView<'a> {
    /// The bytes that [`PackageView::read_bytes`] reads.
    pub fn n_bytes(&self) -> u64 {
        self.files.values().fold(0, |sum, len| sum.saturating_add(*len))
    }

    /// Reads every byte of every file, for the rules that need them.
    ///
    /// A tensor file that is as this program writes it is hashed as a whole only with `whole_files`:
    /// its tensors are, and its header is held to what follows from the manifest.
    ///
    /// # Errors
    /// A tensor lies outside its file, where what is known to do so is left out before; or a file
    /// was changed meanwhile.
    pub fn read_bytes(
        &mut self,
        whole_files: bool,
        n_threads: usize,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        let mut jobs = Vec::new();
        let mut owners = Vec::new();
        let listed = self.listed();
        let names: Vec<String> = self.files.keys().cloned().collect();
        for name in &names {
            let Some(file) = self.source.find(name) else { continue };
            let shard = self.shards.iter().position(|shard| shard.name == *name);
            let tensors = shard.map_or_else(Vec::new, |_| self.pieces_of(name, file));
            let pieces = tensors.iter().map(|(tensor, dtype)| Piece {
                start: tensor.start,
                len: tensor.len,
                dtype: *dtype,
            });
            let is_whole = whole_files || !self.is_covered(name, file, &listed);
            if !is_whole {
                self.covered.push(name.clone());
            }
            jobs.push(Job { file, pieces: pieces.collect(), is_whole });
            let tensors: Vec<ScannedTensor> =
                tensors.into_iter().map(|(tensor, _)| tensor).collect();
            owners.push((name.clone(), shard, tensors));
        }
        let scans = scan(&self.source, &jobs, n_threads, progress)?;
        self.source.check_unchanged()?;
        let stored: BTreeMap<&str, &Stored> =
            self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        for ((name, shard, tensors), scan) in owners.into_iter().zip(scans) {
            self.scans.extend(scan.sha256.map(|sha256| (name.clone(), sha256)));
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

    /// The tensors that the manifest puts into each file.
    fn listed(&self) -> BTreeMap<Arc<str>, Vec<usize>> {
        let mut listed: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
        let entries = self.manifest.good().into_iter().flat_map(|manifest| &manifest.tensors);
        for (index, entry) in entries.enumerate() {
            if let Some(file) = &entry.file {
                listed.entry(Arc::clone(file)).or_default().push(index);
            }
        }
        listed
    }

    /// Whether the hashes of tensors leave no byte of a long tensor file open: it is as long as the
    /// manifest says, and begins with the header that this program writes for what the manifest says.
    fn is_covered(
        &self,
        name: &str,
        file: FileId,
        listed: &BTreeMap<Arc<str>, Vec<usize>>,
    ) -> bool {
        let bytes = self.source.bytes(file);
        let Some((manifest, own)) = self.manifest.good().zip(listed.get(name)) else {
            return false;
        };
        let same_len = |entry: &FileEntry| entry.path == name && entry.len == bytes.len() as u64;
        let is_good = self
            .shards
            .iter()
            .any(|shard| shard.name == name && matches!(shard.header, Part::Good(_)));
        if (bytes.len() as u64) < MIN_COVERED_LEN
            || !is_good
            || !manifest.files.iter().any(same_len)
        {
            return false;
        }
        let mut entries: Vec<&TensorEntry> = own.iter().map(|at| &manifest.tensors[*at]).collect();
        entries.sort_by_key(|entry| (entry.start, entry.len));
        let tensors = entries.iter().map(|entry| {
            let dtype = DType::parse(&entry.dtype).unwrap_or(DType::Unknown);
            (entry.name.as_str(), dtype, entry.shape.as_slice())
        });
        // A package says in its files which version of the standard they keep, and nothing else.
        let metadata = BTreeMap::from([("llmstd".to_owned(), manifest.spec.clone())]);
        safetensors_header(tensors, &metadata).is_ok_and(|header| bytes.starts_with(&header))
    }

    /// The tensor files that were not hashed as a whole, as the hashes of their tensors and their
    /// header leave no byte open.
    pub fn covered(&self) -> &[String] {
        &self.covered
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
        let of_header = self.tensors.iter().filter(|tensor| *tensor.file == *name);
        let mut pieces: Vec<(ScannedTensor, DType)> = of_header
            .map(|tensor| {
                let (name, start, len) = (tensor.name.clone(), tensor.start, tensor.len);
                (ScannedTensor { name: name.to_string(), start, len }, tensor.dtype)
            })
            .collect();
        if pieces.is_empty() {
            let entries = self.manifest.good().into_iter().flat_map(|manifest| &manifest.tensors);
            let entries = entries.filter(|entry| entry.file.as_deref() == Some(name));
            let placed = entries.filter_map(|entry| {
                let dtype = DType::parse(&entry.dtype).unwrap_or(DType::Unknown);
                let (name, len) = (entry.name.clone(), entry.len);
                Some((ScannedTensor { name: name.to_string(), start: entry.start?, len }, dtype))
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
