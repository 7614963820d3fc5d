//! Which thread does what next.
//!
//! A chunk passes several stages, each of which takes the chunks of a file in order: the write, and the
//! hashes of tensors and file. Threads take whatever is ready, oldest chunk first, so that all of them
//! work whichever stage is the slowest. How far the stages may lie apart bounds the memory; nothing
//! depends on who was first.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::chunk::{CHUNK_LEN, Chunk, FileCursor, Pipeline};
use super::stage::Work;
use super::written::{WrittenFile, WrittenTensor};
use crate::base::error::{Error, ErrorKind, Result};
use crate::exec::hash::{Hash, update_both};

/// How many chunks are under way at once; times [`CHUNK_LEN`], the memory this module takes.
const MAX_CHUNKS: usize = 16;

/// The memory that [`write`](fn@super::write) takes for bytes under way, whatever the model.
pub const PEAK_MEMORY: u64 = (CHUNK_LEN * MAX_CHUNKS) as u64;

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

/// A consumer that takes the chunks of a lane in order.
struct Stage {
    next: usize,
    /// `None` while a thread works on it.
    work: Option<Work>,
}

struct State<'p> {
    lanes: Vec<Lane<'p>>,
    next_file: usize,
    buffers: Vec<Vec<u8>>,
    tensors: &'p mut [WrittenTensor],
    files: &'p mut [WrittenFile],
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
    pub(super) fn run(
        &self,
        tensors: &'p mut [WrittenTensor],
        files: &'p mut [WrittenFile],
    ) -> Result<()> {
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
            tensors,
            files,
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
        state.error.map_or(Ok(()), Err)
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
            if let Err(error) = self.admit(&mut guard) {
                guard.error.get_or_insert(error);
                return;
            }
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
    fn admit(&self, state: &mut State<'p>) -> Result<()> {
        let room = (MAX_CHUNKS / state.lanes.len()).max(2);
        for lane in &mut state.lanes {
            while lane.slots.len() < room {
                if lane.cursor.is_none() && state.next_file < self.wanted.len() {
                    let file = self.wanted[state.next_file];
                    let output = self.shards[file].outputs.start;
                    lane.cursor = Some(FileCursor::new(file, output));
                    state.next_file += 1;
                }
                let Some(cursor) = &mut lane.cursor else { break };
                let (chunk, header) = self.cut(cursor)?;
                if chunk.is_last_of_file {
                    lane.cursor = None;
                }
                let content = match header {
                    Some(Cow::Borrowed(bytes)) => Content::Ready(Bytes::Borrowed(bytes)),
                    Some(Cow::Owned(bytes)) => Content::Ready(Bytes::Made(Arc::new(bytes))),
                    None => Content::Wanted,
                };
                lane.slots.push_back(Slot { chunk: Arc::new(chunk), content });
            }
        }
        Ok(())
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
                    Ok(losses) => {
                        for (index, loss) in losses {
                            if let Some(sum) = &mut state.tensors[index].loss {
                                sum.add(&loss);
                            }
                        }
                    }
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
                for (index, sha256) in tensor_hashes {
                    state.tensors[index].sha256 = sha256;
                }
                for (index, checksum) in checksums {
                    state.tensors[index].checksum = checksum;
                }
                if let Some((index, sha256)) = file_hash {
                    state.files[index].sha256 = Some(sha256);
                }
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
