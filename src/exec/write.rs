//! Streams outputs into files, hashed as they pass. What a file has beside its tensors, a
//! [`Container`] says.
//!
//! The bytes of a file are cut into chunks: read in one go where the source holds the bytes
//! as they are, made piece by piece where not. Chunks pass the stages of a pipeline.

mod chunk;
mod options;
mod pipeline;
pub(super) mod shards;
mod stage;
pub(super) mod written;

use std::collections::BTreeMap;
use std::path::Path;

use self::chunk::Pipeline;
use self::shards::check_names;
use super::container::{Container, Frame, Safetensors};
use super::hash::Hash;
use super::produce::Producer;
use crate::base::error::Result;
use crate::base::source::Source;
use crate::plan::program::{Input, Output};

pub use self::options::Options;
pub use self::pipeline::PEAK_MEMORY;
pub use self::shards::{Shard, shards};
pub use self::written::{Written, WrittenFile, WrittenTensor};

/// A few tensors for one file, without threads and progress.
pub struct Plain<'a> {
    /// What is read.
    pub inputs: &'a [Input],
    /// What is written.
    pub outputs: &'a [Output],
    /// Free text of the file.
    pub metadata: &'a BTreeMap<String, String>,
}

impl Plain<'_> {
    /// Writes `stem.safetensors` in the folder `dir`.
    ///
    /// # Errors
    /// As of [`fn@write`].
    pub fn write(&self, source: &Source, dir: &Path, stem: &str) -> Result<Written> {
        let shards = shards(self.outputs, None, stem, "safetensors");
        let options = Options { n_threads: 1, hash_files: true, progress: &|_| (), cancel: None };
        let container = Safetensors(self.metadata);
        write(source, self.inputs, self.outputs, &shards, &container, dir, &options)
    }

    /// The length and the SHA-256 of the file that [`Plain::write`] writes; nothing is written.
    ///
    /// # Errors
    /// As of [`fn@write`].
    pub fn digest(&self, source: &Source) -> Result<(u64, [u8; 32])> {
        let shards = shards(self.outputs, None, "", "safetensors");
        let header = Safetensors(self.metadata).frame(self.outputs, &shards, 0)?.header;
        let (mut len, mut hash) = (header.len() as u64, Hash::default());
        hash.update(&header);
        let mut buffer = Vec::new();
        for output in self.outputs {
            let producer = Producer::new(source, self.inputs, output)?;
            for range in producer.chunks(producer.chunk_len(DIGEST_ROOM)) {
                hash.update(producer.bytes(range, &mut buffer)?);
            }
            len = len.saturating_add(producer.len());
        }
        Ok((len, hash.finish()))
    }
}

/// So many bytes of headers are kept until their files are written; of many tensors in many files, the others are
/// made again.
const MAX_HEADERS_LEN: usize = 8 << 20;

/// So many bytes of a tensor are hashed at a time.
const DIGEST_ROOM: u64 = 1 << 20;

/// Writes outputs into new files of the folder `dir`.
///
/// # Errors
/// An output cannot be produced or has no place in the container, two have the same name, or the
/// system refuses. The files that were begun are left for the caller to remove.
pub fn write(
    source: &Source,
    inputs: &[Input],
    outputs: &[Output],
    shards: &[Shard],
    container: &dyn Container,
    dir: &Path,
    options: &Options<'_>,
) -> Result<Written> {
    let mut writer = Writer::new(source, inputs, outputs, shards, container)?;
    let all: Vec<usize> = (0..shards.len()).collect();
    writer.write(&all, dir, options)?;
    writer.finish(dir)
}

/// Writes the shards of a conversion, all together or some at a time.
pub struct Writer<'a> {
    source: &'a Source,
    outputs: &'a [Output],
    shards: &'a [Shard],
    container: &'a dyn Container,
    producers: Vec<Producer<'a>>,
    frames: Vec<Frame>,
    tensors: Vec<WrittenTensor>,
    files: Vec<WrittenFile>,
}

impl<'a> Writer<'a> {
    /// Says where everything is to stand; nothing is read or written yet.
    ///
    /// # Errors
    /// An output cannot be produced or has no place in the container, or two have the same name.
    pub fn new(
        source: &'a Source,
        inputs: &'a [Input],
        outputs: &'a [Output],
        shards: &'a [Shard],
        container: &'a dyn Container,
    ) -> Result<Writer<'a>> {
        check_names(outputs, shards)?;
        let producers = outputs.iter().map(|output| Producer::new(source, inputs, output));
        let producers = producers.collect::<Result<Vec<_>>>()?;
        let mut tensors = Vec::with_capacity(outputs.len());
        let mut files = Vec::with_capacity(shards.len());
        let empty = Hash::default().finish();
        let (mut frames, mut kept_len) = (Vec::with_capacity(shards.len()), 0);
        for (file, shard) in shards.iter().enumerate() {
            let mut frame = container.frame(outputs, shards, file)?;
            let mut offset = frame.header.len() as u64;
            let mut inserts = frame.inserts.iter().peekable();
            for (number, producer) in shard.outputs.clone().zip(&producers[shard.outputs.clone()]) {
                let loss = producer.has_kernels().then(Box::default);
                let len = producer.len();
                // The frames are made of the same sums, checked.
                while let Some(insert) = inserts.next_if(|of| of.output == number && of.at == 0) {
                    offset += insert.bytes.len() as u64;
                }
                tensors.push(WrittenTensor { file, offset, len, sha256: empty, checksum: 0, loss });
                offset += len;
                while let Some(insert) = inserts.next_if(|insert| insert.output == number) {
                    offset += insert.bytes.len() as u64;
                }
            }
            files.push(WrittenFile { name: shard.name.clone(), len: offset, sha256: None });
            kept_len += frame.header.len();
            if MAX_HEADERS_LEN < kept_len && 1 < shards.len() {
                frame.header = Vec::new();
            }
            frames.push(frame);
        }
        Ok(Writer { source, outputs, shards, container, producers, frames, tensors, files })
    }

    /// Writes some of the shards into new files of the folder `dir`.
    ///
    /// # Errors
    /// As of [`fn@write`].
    pub fn write(&mut self, shards: &[usize], dir: &Path, options: &Options<'_>) -> Result<()> {
        let pipeline = Pipeline {
            source: self.source,
            producers: &self.producers,
            outputs: self.outputs,
            shards: self.shards,
            container: self.container,
            wanted: shards,
            frames: &self.frames,
            checksum: self.container.checksum(),
            dir,
            options,
        };
        pipeline.run(&mut self.tensors, &mut self.files)
    }

    /// How many shards there are.
    pub fn n_shards(&self) -> usize {
        self.shards.len()
    }

    /// What was written into a shard: the file and its tensors.
    pub fn written(&self, shard: usize) -> (&WrittenFile, &[WrittenTensor]) {
        (&self.files[shard], &self.tensors[self.shards[shard].outputs.clone()])
    }

    /// The same, to be told of one that was written before.
    pub fn written_mut(&mut self, shard: usize) -> (&mut WrittenFile, &mut [WrittenTensor]) {
        (&mut self.files[shard], &mut self.tensors[self.shards[shard].outputs.clone()])
    }

    /// Ends all shards, which are in the folder `dir`.
    ///
    /// # Errors
    /// The system refuses.
    pub fn finish(self, dir: &Path) -> Result<Written> {
        let Writer { outputs, shards, container, tensors, files, .. } = self;
        let index = (1 < shards.len()).then(|| container.index(outputs, shards)).flatten();
        let written = Written { tensors, files, index };
        container.finish(dir, outputs, shards, &written)?;
        Ok(written)
    }
}
