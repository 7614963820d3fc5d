//! Hashes many streams of bytes on several threads, two at a time on each: as [`super::hash`] says,
//! two take hardly longer than one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::hash::{Hash, update_two};
use super::produce::Producer;
use crate::base::error::Result;

/// Bytes that come in pieces.
pub trait Stream: Sized {
    /// What is known of them at the end, beside their hash.
    type Known: Send;

    /// The next of them; `None` behind the last.
    ///
    /// # Errors
    /// They cannot be had.
    fn next(&mut self) -> Result<Option<&[u8]>>;

    /// What is known of them, and the buffer that they were made in.
    fn end(self) -> (Self::Known, Vec<u8>);
}

/// A stream that is being hashed.
struct Lane<S> {
    job: usize,
    stream: S,
    hash: Hash,
}

/// The SHA-256 of each stream, and what else is known of it, in the order of the jobs. `open` begins
/// the stream of a job, with a buffer that it may use.
///
/// Jobs are taken in their order on each of `n_threads` threads: the longest should stand first.
/// `progress` is called with the number of bytes of every batch that is done.
///
/// # Errors
/// One of the streams cannot be begun or had.
pub fn hash_streams<S: Stream>(
    n_jobs: usize,
    n_threads: usize,
    open: impl Fn(usize, Vec<u8>) -> Result<S> + Sync,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<([u8; 32], S::Known)>> {
    let next_job = AtomicUsize::new(0);
    let has_failed = AtomicBool::new(false);
    let results = Mutex::new(Vec::with_capacity(n_jobs));
    let work = || -> Result<()> {
        let mut buffers = vec![Vec::new(), Vec::new()];
        let mut lanes: [Option<Lane<S>>; 2] = [None, None];
        let mut done = Vec::new();
        while !has_failed.load(Ordering::Relaxed) {
            for lane in lanes.iter_mut().filter(|lane| lane.is_none()) {
                let job = next_job.fetch_add(1, Ordering::Relaxed);
                if job < n_jobs {
                    let stream = open(job, buffers.pop().unwrap_or_default())?;
                    *lane = Some(Lane { job, stream, hash: Hash::default() });
                }
            }
            let ended = match &mut lanes {
                [None, None] => break,
                [Some(one), Some(other)] => {
                    let bytes = [one.stream.next()?, other.stream.next()?];
                    let n_bytes = bytes.iter().flatten().map(|bytes| bytes.len() as u64).sum();
                    let both = bytes.map(Option::unwrap_or_default);
                    update_two([&mut one.hash, &mut other.hash], both);
                    progress(n_bytes);
                    bytes.map(|bytes| bytes.is_none())
                }
                [one, other] => {
                    let alone = one.as_mut().or(other.as_mut()).expect("one of the two is there");
                    let bytes = alone.stream.next()?;
                    let n_bytes = bytes.map(|bytes| {
                        alone.hash.update(bytes);
                        bytes.len() as u64
                    });
                    progress(n_bytes.unwrap_or(0));
                    [n_bytes.is_none(); 2]
                }
            };
            for (lane, _) in lanes.iter_mut().zip(ended).filter(|(_, ended)| *ended) {
                let Some(Lane { job, stream, mut hash }) = lane.take() else { continue };
                let (known, buffer) = stream.end();
                buffers.push(buffer);
                done.push((job, (hash.finish(), known)));
            }
        }
        results.lock().unwrap_or_else(PoisonError::into_inner).append(&mut done);
        Ok(())
    };
    let work = || work().inspect_err(|_| has_failed.store(true, Ordering::Relaxed));
    let n_threads = n_threads.clamp(1, n_jobs.div_ceil(2).max(1));
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..n_threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        others.into_iter().fold(own, |result, thread| match thread.join() {
            Ok(of_thread) => result.and(of_thread),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|(job, _)| *job);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// The bytes of an output, in row-major order.
pub(super) struct Produced<'a> {
    producer: Producer<'a>,
    at: u64,
    step: u64,
    buffer: Vec<u8>,
}

impl<'a> Produced<'a> {
    /// Its bytes in pieces of about `chunk_len`, made in `buffer` where they do not lie in a file.
    pub(super) fn new(producer: Producer<'a>, chunk_len: u64, buffer: Vec<u8>) -> Produced<'a> {
        let step = producer.chunk_len(chunk_len);
        Produced { producer, at: 0, step, buffer }
    }
}

impl Stream for Produced<'_> {
    type Known = ();

    fn next(&mut self) -> Result<Option<&[u8]>> {
        let start = self.at;
        if self.producer.len() <= start {
            return Ok(None);
        }
        self.at = self.producer.len().min(start.saturating_add(self.step));
        self.producer.bytes(start..self.at, &mut self.buffer).map(Some)
    }

    fn end(self) -> ((), Vec<u8>) {
        ((), self.buffer)
    }
}
