//! The hashes of logical tensors, which are not written for it.

use super::compare::lcm;
use super::lanes::{Produced, Stream, hash_streams};
use super::produce::Producer;
use crate::base::error::Result;
use crate::base::source::{FileId, Source};
use crate::plan::program::{Input, Output};

/// A tensor's bytes are made this many at a time.
const CHUNK_LEN: u64 = 1 << 20;
/// Of two tensors that are compared as they are hashed, so many at a time, which stay in the cache.
const TWIN_CHUNK_LEN: u64 = 256 << 10;

/// Returns the SHA-256 of one logical tensor: row-major, packed, little-endian.
///
/// # Errors
/// It cannot be produced.
pub fn digest(source: &Source, inputs: &[Input], output: &Output) -> Result<[u8; 32]> {
    let one = digests(source, inputs, std::slice::from_ref(output), 1, &|_| ())?;
    Ok(one[0])
}

/// Returns the SHA-256 of each logical tensor, in order, on `n_threads` threads.
///
/// `progress` is called with the number of bytes of every batch that is done.
///
/// # Errors
/// One cannot be produced.
pub fn digests(
    source: &Source,
    inputs: &[Input],
    outputs: &[Output],
    n_threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<[u8; 32]>> {
    let [of_outputs, _] = digests_and_files(source, inputs, outputs, &[], n_threads, progress)?;
    Ok(of_outputs)
}

/// As [`digests`], and behind them the SHA-256 of each of these files, hashed meanwhile.
///
/// # Errors
/// As of [`digests`].
pub fn digests_and_files(
    source: &Source,
    inputs: &[Input],
    outputs: &[Output],
    files: &[FileId],
    n_threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Digests> {
    let order = longest_first(outputs);
    // A file is longer than its tensors, and what takes the longest begins first.
    let open = |job: usize, buffer| match files.get(job) {
        Some(file) => Ok(Bytes::File(source.whole(*file)?, buffer)),
        None => {
            let output = &outputs[order[job - files.len()]];
            let producer = Producer::new(source, inputs, output)?;
            Ok(Bytes::Output(Produced::new(producer, CHUNK_LEN, buffer)))
        }
    };
    let n_jobs = files.len() + outputs.len();
    let mut of_files = hash_streams(n_jobs, n_threads, open, progress)?;
    let of_outputs = of_files.split_off(files.len());
    let mut digests = vec![[0; 32]; outputs.len()];
    for (index, (digest, ())) in order.into_iter().zip(of_outputs) {
        digests[index] = digest;
    }
    Ok([digests, of_files.into_iter().map(|(digest, ())| digest).collect()])
}

/// The bytes of a file, or of an output.
enum Bytes<'a> {
    File(&'a [u8], Vec<u8>),
    Output(Produced<'a>),
}

impl Stream for Bytes<'_> {
    type Known = ();

    fn next(&mut self) -> Result<Option<&[u8]>> {
        match self {
            Bytes::File(bytes, _) => {
                let (chunk, rest) = bytes.split_at(bytes.len().min(CHUNK_LEN as usize));
                *bytes = rest;
                Ok((!chunk.is_empty()).then_some(chunk))
            }
            Bytes::Output(output) => output.next(),
        }
    }

    fn end(self) -> ((), Vec<u8>) {
        match self {
            Bytes::File(_, buffer) => ((), buffer),
            Bytes::Output(output) => output.end(),
        }
    }
}

/// The places of outputs, so that no thread is left alone with the longest.
fn longest_first(outputs: &[Output]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..outputs.len()).collect();
    let n_bytes = |output: &Output| {
        let n = crate::checkpoint::n_elements(&output.shape);
        n.and_then(|n| output.dtype.n_bytes(n)).unwrap_or(0)
    };
    order.sort_by_key(|&index| std::cmp::Reverse(n_bytes(&outputs[index])));
    order
}

/// The digests of two lists: the tensors of two sides, or tensors and files.
pub type Digests = [Vec<[u8; 32]>; 2];

/// One side of a comparison: its tensors, and where they are read.
pub struct Side<'a> {
    /// The files.
    pub source: &'a Source,
    /// The inputs that the outputs' copies count in.
    pub inputs: &'a [Input],
    /// The tensors.
    pub outputs: &'a [Output],
}

impl<'a> Side<'a> {
    fn producer(&self, index: usize) -> Result<Producer<'a>> {
        Producer::new(self.source, self.inputs, &self.outputs[index])
    }
}

/// Returns the SHA-256 of each logical tensor of two sides. `pairs` are places of tensors of one
/// dtype and shape: their bytes are compared as they are hashed, and the second is hashed by itself
/// only where they differ.
///
/// `progress` is called with the number of bytes of every batch of the first that is done, and of all others.
///
/// # Errors
/// One cannot be produced.
pub fn digests_of_two(
    one: &Side<'_>,
    other: &Side<'_>,
    pairs: &[[usize; 2]],
    n_threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Digests> {
    let mut twins: Vec<Option<usize>> = vec![None; one.outputs.len()];
    for &[of_one, of_other] in pairs {
        twins[of_one] = Some(of_other);
    }
    let order = longest_first(one.outputs);
    let open = |job: usize, buffer| {
        let index = order[job];
        let twin = twins[index].map(|twin| other.producer(twin)).transpose()?;
        Ok(Twins::new(one.producer(index)?, twin, buffer))
    };
    let hashed = hash_streams(one.outputs.len(), n_threads, open, progress)?;
    let mut of_one = vec![[0; 32]; one.outputs.len()];
    let mut of_other: Vec<Option<[u8; 32]>> = vec![None; other.outputs.len()];
    for (index, (digest, is_same)) in order.into_iter().zip(hashed) {
        of_one[index] = digest;
        if let Some(twin) = twins[index].filter(|_| is_same) {
            of_other[twin] = Some(digest);
        }
    }
    let missing = other.outputs.iter().zip(&of_other).filter(|(_, digest)| digest.is_none());
    let missing: Vec<Output> = missing.map(|(output, _)| output.clone()).collect();
    let rest = digests(other.source, other.inputs, &missing, n_threads, progress)?;
    let mut rest = rest.into_iter();
    let of_other = of_other.into_iter().filter_map(|digest| digest.or_else(|| rest.next()));
    Ok([of_one, of_other.collect()])
}

/// The bytes of an output, compared with those of another as they pass.
struct Twins<'a> {
    one: Producer<'a>,
    other: Option<Producer<'a>>,
    at: u64,
    step: u64,
    buffers: [Vec<u8>; 2],
    is_same: bool,
}

impl<'a> Twins<'a> {
    fn new(one: Producer<'a>, other: Option<Producer<'a>>, buffer: Vec<u8>) -> Twins<'a> {
        let other = other.filter(|other| other.len() == one.len());
        let unit = lcm(one.unit(), other.as_ref().map_or(1, Producer::unit));
        let step = (TWIN_CHUNK_LEN / unit).max(1).saturating_mul(unit);
        let is_same = other.is_some();
        Twins { one, other, at: 0, step, buffers: [buffer, Vec::new()], is_same }
    }
}

impl Stream for Twins<'_> {
    type Known = bool;

    fn next(&mut self) -> Result<Option<&[u8]>> {
        let start = self.at;
        if self.one.len() <= start {
            return Ok(None);
        }
        self.at = self.one.len().min(start.saturating_add(self.step));
        let [of_one, of_other] = &mut self.buffers;
        let bytes = self.one.bytes(start..self.at, of_one)?;
        if let Some(other) = self.other.as_ref().filter(|_| self.is_same) {
            self.is_same = other.bytes(start..self.at, of_other)? == bytes;
        }
        Ok(Some(bytes))
    }

    fn end(self) -> (bool, Vec<u8>) {
        let [buffer, _] = self.buffers;
        (self.is_same, buffer)
    }
}
