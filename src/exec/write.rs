//! Streams outputs into files, hashed as they pass. What a file has beside its tensors, a
//! [`Container`] says.
//!
//! The bytes of a file are cut into chunks: read in one go where the source holds the bytes
//! as they are, made piece by piece where not. A chunk passes several stages, each of which takes the
//! chunks of a file in order: the write, and the hashes of tensors and file. Threads take whatever
//! is ready, oldest chunk first, so that all of them work whichever stage is the slowest. How far the stages may lie apart bounds the memory; nothing depends on who was first.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::container::{Checksum, Container, Frame, Safetensors, Sum};
use super::hash::{Hash, update_both};
use super::produce::Producer;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::Source;
use crate::package::Loss;
use crate::plan::program::{Input, Output};

/// The bytes of a chunk: long enough that taking one costs nothing, short enough for the caches.
const CHUNK_LEN: usize = 2 << 20;
/// How many chunks are under way at once; times [`CHUNK_LEN`], the memory this module takes.
const MAX_CHUNKS: usize = 16;
/// The memory that [`fn@write`] takes for bytes under way, whatever the model.
pub const PEAK_MEMORY: u64 = (CHUNK_LEN * MAX_CHUNKS) as u64;
/// After so many bytes of a file the disk is told to take them, while others are still hashed:
/// what is left for the end is short then.
const SYNC_LEN: u64 = 64 << 20;
/// A piece at least this long is taken from the map; shorter ones are gathered in one buffer.
const MIN_BORROWED_LEN: u64 = 64 << 10;

/// One file to write, and which of the outputs it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The file's name.
    pub name: String,
    /// The outputs, which stand in the file in this order.
    pub outputs: Range<usize>,
}

/// Distributes outputs over files of at most `max_shard_bytes` of tensors each.
///
/// A tensor is never split; one that is longer than the limit gets a file of its own. Names are
/// those of Hugging Face, which are those of llama.cpp too: `stem.safetensors`, or
/// `stem-00001-of-00003.safetensors`.
pub fn shards(
    outputs: &[Output],
    max_shard_bytes: Option<u64>,
    stem: &str,
    ending: &str,
) -> Vec<Shard> {
    let max = max_shard_bytes.unwrap_or(u64::MAX);
    let empty: Range<usize> = 0..0;
    let mut ranges = vec![empty];
    let mut len = 0u64;
    for (index, output) in outputs.iter().enumerate() {
        let range = ranges.last_mut().expect("there is always one");
        let n_bytes = output.n_bytes();
        if range.start < range.end && max < len.saturating_add(n_bytes) {
            ranges.push(index..index + 1);
            len = n_bytes;
        } else {
            range.end = index + 1;
            len = len.saturating_add(n_bytes);
        }
    }
    let n = ranges.len();
    let name = |index: usize| match n {
        1 => format!("{stem}.{ending}"),
        _ => format!("{stem}-{:05}-of-{n:05}.{ending}", index + 1),
    };
    let shards = ranges.into_iter().enumerate();
    shards.map(|(index, outputs)| Shard { name: name(index), outputs }).collect()
}

/// How to write.
pub struct Options<'a> {
    /// How many threads work; the bytes do not depend on it.
    pub n_threads: usize,
    /// Whether to hash whole files beside the tensors.
    pub hash_files: bool,
    /// Hears of every batch of bytes of tensors that is written.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Ends the work with an error, once it is set.
    pub cancel: Option<&'a AtomicBool>,
}

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
        let options = Options { n_threads: 1, hash_files: false, progress: &|_| (), cancel: None };
        let container = Safetensors(self.metadata);
        write(source, self.inputs, self.outputs, &shards, &container, dir, &options)
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The tensors, in the order of the outputs.
    pub tensors: Vec<WrittenTensor>,
    /// The files, in the order of the shards.
    pub files: Vec<WrittenFile>,
    /// The text of the index file that several shards need; not written to the folder.
    pub index: Option<String>,
}

/// Where a tensor was written, and what its bytes are.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenTensor {
    /// Which of the files.
    pub file: usize,
    /// The first byte in the file.
    pub offset: u64,
    /// The number of bytes.
    pub len: u64,
    /// The SHA-256 of the bytes.
    pub sha256: [u8; 32],
    /// Its checksum, where the container keeps one.
    pub checksum: u32,
    /// What kernels lost, if it passed any.
    pub loss: Option<Loss>,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFile {
    /// Its name.
    pub name: String,
    /// The number of bytes.
    pub len: u64,
    /// The SHA-256 of the whole file, if it was asked for.
    pub sha256: Option<[u8; 32]>,
}

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
        let frames = (0..shards.len()).map(|number| container.frame(outputs, shards, number));
        let frames = frames.collect::<Result<Vec<_>>>()?;
        let mut tensors = Vec::with_capacity(outputs.len());
        let mut files = Vec::with_capacity(shards.len());
        let empty = Hash::default().finish();
        for (file, (shard, frame)) in shards.iter().zip(&frames).enumerate() {
            let mut offset = frame.header.len() as u64;
            let mut inserts = frame.inserts.iter().peekable();
            for (number, producer) in shard.outputs.clone().zip(&producers[shard.outputs.clone()]) {
                let loss = producer.has_kernels().then(Loss::default);
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
            shards: self.shards,
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

fn check_names(outputs: &[Output], shards: &[Shard]) -> Result<()> {
    let broken = |message: String| Error::new(ErrorKind::Malformed, message);
    let mut names = HashSet::with_capacity(outputs.len());
    if let Some(output) = outputs.iter().find(|output| !names.insert(&output.name)) {
        return Err(broken(format!("two outputs are named `{}`", output.name)));
    }
    let mut next = 0;
    for shard in shards {
        if shard.outputs.start != next || shard.outputs.end < next {
            return Err(broken(format!(
                "`{}` does not go on where the last shard ends",
                shard.name
            )));
        }
        next = shard.outputs.end;
    }
    if next != outputs.len() {
        return Err(broken(format!("the shards hold {next} of {} outputs", outputs.len())));
    }
    Ok(())
}

/// What all threads share and none changes.
struct Pipeline<'p, 'a> {
    source: &'p Source,
    producers: &'p [Producer<'a>],
    shards: &'p [Shard],
    /// The numbers of those that are written.
    wanted: &'p [usize],
    frames: &'p [Frame],
    checksum: Option<Checksum>,
    dir: &'p Path,
    options: &'p Options<'p>,
}

/// Consecutive bytes of one file.
struct Chunk<'p> {
    file: usize,
    /// The tensors' ranges that it is made of; none: the header.
    pieces: Vec<Piece<'p>>,
    /// The bytes of the pieces together.
    len: usize,
    is_last_of_file: bool,
}

struct Piece<'p> {
    output: usize,
    range: Range<u64>,
    /// What the container puts behind the range.
    insert: &'p [u8],
}

impl Piece<'_> {
    fn len(&self) -> usize {
        (self.range.end - self.range.start) as usize
    }
}

/// A chunk that is under way.
struct Slot<'p> {
    chunk: Arc<Chunk<'p>>,
    content: Content<'p>,
}

enum Content<'p> {
    Wanted,
    BeingMade,
    Ready(Bytes<'p>),
}

#[derive(Clone)]
enum Bytes<'p> {
    Borrowed(&'p [u8]),
    /// As many bytes of the buffer as the chunk is long.
    Made(Arc<Vec<u8>>),
}

impl Bytes<'_> {
    fn slice(&self, len: usize) -> &[u8] {
        match self {
            Bytes::Borrowed(bytes) => bytes,
            Bytes::Made(buffer) => &buffer[..len],
        }
    }
}

/// Files that are written one after the other; several lanes run side by side.
struct Lane<'p> {
    cursor: Option<FileCursor>,
    slots: VecDeque<Slot<'p>>,
    /// The number of the first of the slots, counted over all chunks of the lane.
    first: usize,
    stages: Vec<Stage>,
}

/// How far a file is cut into chunks.
struct FileCursor {
    file: usize,
    header_is_done: bool,
    output: usize,
    start: u64,
    /// The next of the bytes that the container puts in.
    insert: usize,
}

/// A consumer that takes the chunks of a lane in order.
struct Stage {
    next: usize,
    /// `None` while a thread works on it.
    work: Option<Work>,
}

enum Work {
    HashTensors(Box<Hash>),
    HashFile(Box<Hash>),
    /// Both on one thread, which takes less time than one after the other, but more than both
    /// on two threads: for where not every stage of a file has a thread of its own.
    HashBoth(Box<[Hash; 2]>),
    Checksum(Sum),
    Write(Option<Unsynced>),
}

/// A file that is being written.
struct Unsynced {
    file: File,
    /// The bytes since it was last handed to be synced.
    n_bytes: u64,
}

struct State<'p> {
    lanes: Vec<Lane<'p>>,
    next_file: usize,
    buffers: Vec<Vec<u8>>,
    tensor_hashes: Vec<(usize, [u8; 32])>,
    losses: Vec<(usize, Loss)>,
    file_hashes: Vec<(usize, [u8; 32])>,
    checksums: Vec<(usize, u32)>,
    error: Option<Error>,
    /// A thread is gone without an error, which is a panic.
    is_abandoned: bool,
}

/// What a thread takes to do.
enum Job<'p> {
    Make { lane: usize, number: usize, chunk: Arc<Chunk<'p>>, buffer: Vec<u8> },
    Pass { lane: usize, stage: usize, chunk: Arc<Chunk<'p>>, bytes: Bytes<'p>, work: Work },
}

impl<'p> Pipeline<'p, '_> {
    fn run(&self, tensors: &mut [WrittenTensor], files: &mut [WrittenFile]) -> Result<()> {
        let n_threads = self.options.n_threads.max(1);
        // Each lane needs two chunks to overlap its stages.
        let n_lanes = n_threads.min(self.wanted.len()).clamp(1, MAX_CHUNKS / 2);
        let lanes = (0..n_lanes).map(|_| {
            // The write first: it is the one that then waits for pages to be mapped.
            let mut work = vec![Work::Write(None)];
            if !self.options.hash_files {
                work.push(Work::HashTensors(Box::default()));
            } else if n_threads < 3 * n_lanes {
                work.push(Work::HashBoth(Box::default()));
            } else {
                work.extend([Work::HashTensors(Box::default()), Work::HashFile(Box::default())]);
            }
            work.extend(self.checksum.map(|kind| Work::Checksum(kind.start())));
            let stages = work.into_iter().map(|work| Stage { next: 0, work: Some(work) });
            Lane { cursor: None, slots: VecDeque::new(), first: 0, stages: stages.collect() }
        });
        let state = Mutex::new(State {
            lanes: lanes.collect(),
            next_file: 0,
            buffers: Vec::new(),
            tensor_hashes: Vec::new(),
            losses: Vec::new(),
            file_hashes: Vec::new(),
            checksums: Vec::new(),
            error: None,
            is_abandoned: false,
        });
        let changed = Condvar::new();
        std::thread::scope(|scope| {
            let (sync, written) = mpsc::channel();
            scope.spawn(|| sync_each(written, &state));
            for _ in 1..n_threads {
                let sync = sync.clone();
                scope.spawn(|| self.work(&state, &changed, sync));
            }
            self.work(&state, &changed, sync);
        });
        let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = state.error {
            return Err(error);
        }
        for (index, sha256) in state.tensor_hashes {
            tensors[index].sha256 = sha256;
        }
        for (index, checksum) in state.checksums {
            tensors[index].checksum = checksum;
        }
        for (index, loss) in state.losses {
            if let Some(sum) = &mut tensors[index].loss {
                sum.add(&loss);
            }
        }
        for (index, sha256) in state.file_hashes {
            files[index].sha256 = Some(sha256);
        }
        Ok(())
    }

    /// Does what is ready until nothing is left, or until one of the threads fails.
    fn work(&self, state: &Mutex<State<'p>>, changed: &Condvar, sync: Sender<File>) {
        struct Abandon<'s, 'p>(&'s Mutex<State<'p>>, &'s Condvar);
        impl Drop for Abandon<'_, '_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    lock(self.0).is_abandoned = true;
                }
                self.1.notify_all();
            }
        }
        let _abandon = Abandon(state, changed);
        let mut guard = lock(state);
        loop {
            if guard.error.is_some() || guard.is_abandoned {
                return;
            }
            self.admit(&mut guard);
            let Some(job) = self.take(&mut guard) else {
                if guard.lanes.iter().all(|lane| lane.slots.is_empty() && lane.cursor.is_none()) {
                    return;
                }
                guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if self.options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
                guard.error.get_or_insert_with(Error::cancelled);
                return;
            }
            drop(guard);
            guard = self.perform(job, state, &sync);
            changed.notify_all();
        }
    }

    /// Cuts new chunks while there is room.
    fn admit(&self, state: &mut State<'p>) {
        let room = (MAX_CHUNKS / state.lanes.len()).max(2);
        for lane in &mut state.lanes {
            while lane.slots.len() < room {
                if lane.cursor.is_none() && state.next_file < self.wanted.len() {
                    let file = self.wanted[state.next_file];
                    let output = self.shards[file].outputs.start;
                    let cursor =
                        FileCursor { file, header_is_done: false, output, start: 0, insert: 0 };
                    lane.cursor = Some(cursor);
                    state.next_file += 1;
                }
                let Some(cursor) = &mut lane.cursor else { break };
                let slot = self.cut(cursor);
                if slot.chunk.is_last_of_file {
                    lane.cursor = None;
                }
                lane.slots.push_back(slot);
            }
        }
    }

    /// Cuts the next chunk off a file.
    fn cut(&self, cursor: &mut FileCursor) -> Slot<'p> {
        let end = self.shards[cursor.file].outputs.end;
        let mut chunk =
            Chunk { file: cursor.file, pieces: Vec::new(), len: 0, is_last_of_file: false };
        let mut content = Content::Wanted;
        if !cursor.header_is_done {
            cursor.header_is_done = true;
            let header = &self.frames[cursor.file].header;
            chunk.len = header.len();
            content = Content::Ready(Bytes::Borrowed(header));
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
            if is_alone || !matches!(content, Content::Wanted) {
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
        Slot { chunk: Arc::new(chunk), content }
    }

    /// Takes the oldest thing that is ready to be done.
    fn take(&self, state: &mut State<'p>) -> Option<Job<'p>> {
        let mut oldest: Option<(usize, usize, Option<usize>)> = None;
        for (lane_index, lane) in state.lanes.iter().enumerate() {
            // Lanes count on their own; how far into its window a chunk is compares them.
            for (stage_index, stage) in lane.stages.iter().enumerate() {
                let age = stage.next - lane.first;
                let slot = lane.slots.get(age);
                let is_ready = slot.is_some_and(|slot| matches!(slot.content, Content::Ready(_)));
                if is_ready && stage.work.is_some() && oldest.is_none_or(|(best, ..)| age < best) {
                    oldest = Some((age, lane_index, Some(stage_index)));
                }
            }
            let wanted = lane.slots.iter().position(|slot| matches!(slot.content, Content::Wanted));
            if let Some(age) = wanted
                && oldest.is_none_or(|(best, ..)| age < best)
            {
                oldest = Some((age, lane_index, None));
            }
        }
        let (age, lane_index, stage_index) = oldest?;
        let lane = &mut state.lanes[lane_index];
        let slot = &mut lane.slots[age];
        let chunk = Arc::clone(&slot.chunk);
        let Some(stage_index) = stage_index else {
            slot.content = Content::BeingMade;
            let buffer = state.buffers.pop().unwrap_or_default();
            return Some(Job::Make { lane: lane_index, number: lane.first + age, chunk, buffer });
        };
        let Content::Ready(bytes) = &slot.content else { return None };
        let bytes = bytes.clone();
        let work = lane.stages[stage_index].work.take()?;
        Some(Job::Pass { lane: lane_index, stage: stage_index, chunk, bytes, work })
    }

    /// Does a job without holding the lock, then notes what came of it.
    fn perform<'s>(
        &self,
        job: Job<'p>,
        state: &'s Mutex<State<'p>>,
        sync: &Sender<File>,
    ) -> MutexGuard<'s, State<'p>> {
        match job {
            Job::Make { lane, number, chunk, mut buffer } => {
                let losses = self.make(&chunk, &mut buffer);
                let mut state = lock(state);
                match losses {
                    Ok(losses) => state.losses.extend(losses),
                    Err(error) => {
                        state.error.get_or_insert(error);
                    }
                }
                let lane = &mut state.lanes[lane];
                let first = lane.first;
                lane.slots[number - first].content = Content::Ready(Bytes::Made(Arc::new(buffer)));
                state
            }
            Job::Pass { lane, stage, chunk, bytes, mut work } => {
                let slice = bytes.slice(chunk.len);
                let mut tensor_hashes = Vec::new();
                let mut file_hash = None;
                let mut checksums = Vec::new();
                let mut result = Ok(());
                match &mut work {
                    Work::HashTensors(tensor) => {
                        let update = |tensor: Option<&mut Hash>, bytes: &[u8]| {
                            if let Some(tensor) = tensor {
                                tensor.update(bytes);
                            }
                        };
                        self.hash(&chunk, slice, tensor, update, &mut tensor_hashes);
                    }
                    Work::HashFile(file) => {
                        file.update(slice);
                        if chunk.is_last_of_file {
                            file_hash = Some((chunk.file, file.finish()));
                        }
                    }
                    Work::HashBoth(both) => {
                        let [tensor, file] = &mut **both;
                        if chunk.pieces.is_empty() {
                            file.update(slice);
                        }
                        let update = |tensor: Option<&mut Hash>, bytes: &[u8]| match tensor {
                            Some(tensor) => update_both(tensor, file, bytes),
                            None => file.update(bytes),
                        };
                        self.hash(&chunk, slice, tensor, update, &mut tensor_hashes);
                        if chunk.is_last_of_file {
                            file_hash = Some((chunk.file, file.finish()));
                        }
                    }
                    Work::Checksum(sum) => self.sum(&chunk, slice, sum, &mut checksums),
                    Work::Write(file) => result = self.write(file, &chunk, slice, sync),
                }
                drop(bytes);
                let mut guard = lock(state);
                let state = &mut *guard;
                state.tensor_hashes.append(&mut tensor_hashes);
                state.file_hashes.extend(file_hash);
                state.checksums.append(&mut checksums);
                if let Err(error) = result {
                    state.error.get_or_insert(error);
                }
                let lane = &mut state.lanes[lane];
                lane.stages[stage].work = Some(work);
                lane.stages[stage].next += 1;
                while lane.stages.iter().all(|stage| lane.first < stage.next) {
                    lane.first += 1;
                    let slot = lane.slots.pop_front();
                    if let Some(Content::Ready(Bytes::Made(buffer))) = slot.map(|slot| slot.content)
                    {
                        state.buffers.extend(Arc::into_inner(buffer));
                    }
                }
                guard
            }
        }
    }

    fn make(&self, chunk: &Chunk<'_>, buffer: &mut Vec<u8>) -> Result<Vec<(usize, Loss)>> {
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
    fn hash(
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
    fn sum(
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

    fn write(
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

/// Syncs files as they grow. An error is told here or never: the system reports it once.
fn sync_each(files: Receiver<File>, state: &Mutex<State<'_>>) {
    for file in files {
        if let Err(err) = file.sync_data() {
            let message = format!("cannot write to the disk: {err}");
            lock(state).error.get_or_insert(Error::new(ErrorKind::Io, message));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
