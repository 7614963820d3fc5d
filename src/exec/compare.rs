//! Logical tensors, compared and hashed without being written.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::produce::Producer;
use crate::error::Result;
use crate::plan::program::{Input, Output};
use crate::source::Source;

/// A tensor's bytes are made this many at a time.
const CHUNK_LEN: u64 = 1 << 20;

/// One logical tensor: an output, the plan's inputs and the source they are read from.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    /// The files.
    pub source: &'a Source,
    /// The inputs that the output's copies count in.
    pub inputs: &'a [Input],
    /// The tensor.
    pub output: &'a Output,
}

/// Returns the first byte in which two logical tensors differ, in row-major order.
///
/// Where one is the beginning of the other, that is the byte after the shorter one's last.
///
/// # Errors
/// One of the two cannot be produced.
pub fn first_difference(a: Operand<'_>, b: Operand<'_>) -> Result<Option<u64>> {
    let a = Producer::new(a.source, a.inputs, a.output)?;
    let b = Producer::new(b.source, b.inputs, b.output)?;
    let common_len = a.len().min(b.len());
    // Every unit is a power of two or divides its tensor; 64-bit products keep both aligned.
    let step = lcm(a.unit(), b.unit());
    let step = (CHUNK_LEN / step).max(1).saturating_mul(step);
    let (mut buffer_a, mut buffer_b) = (Vec::new(), Vec::new());
    let mut start = 0;
    while start < common_len {
        let end = start.saturating_add(step);
        let bytes_a = a.bytes(start..end.min(a.len()), &mut buffer_a);
        let bytes_b = b.bytes(start..end.min(b.len()), &mut buffer_b);
        let n = bytes_a.len().min(bytes_b.len());
        if bytes_a[..n] != bytes_b[..n] {
            let same = bytes_a.iter().zip(bytes_b).take_while(|(a, b)| a == b).count();
            return Ok(Some(start + same as u64));
        }
        start = end;
    }
    Ok((a.len() != b.len()).then_some(common_len))
}

fn lcm(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a.max(1), b.max(1));
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a.max(1) / x).saturating_mul(b.max(1))
}

/// Returns the SHA-256 of one logical tensor: row-major, packed, little-endian.
///
/// # Errors
/// It cannot be produced.
pub fn digest(source: &Source, inputs: &[Input], output: &Output) -> Result<[u8; 32]> {
    digest_with(source, inputs, output, &mut Vec::new(), &|_| ())
}

fn digest_with(
    source: &Source,
    inputs: &[Input],
    output: &Output,
    buffer: &mut Vec<u8>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<[u8; 32]> {
    let producer = Producer::new(source, inputs, output)?;
    let mut hasher = Sha256::new();
    for range in producer.chunks(CHUNK_LEN) {
        let len = range.end - range.start;
        hasher.update(producer.bytes(range, buffer));
        progress(len);
    }
    Ok(hasher.finalize().into())
}

/// Returns the SHA-256 of each logical tensor, in order, on `n_threads` threads.
///
/// `progress` hears of every batch of bytes that is done.
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
    // Long tensors first, so that no thread is left alone with the longest.
    let mut order: Vec<usize> = (0..outputs.len()).collect();
    let n_bytes = |output: &Output| {
        let n = crate::checkpoint::n_elements(&output.shape);
        n.and_then(|n| output.dtype.n_bytes(n)).unwrap_or(0)
    };
    order.sort_by_key(|&index| std::cmp::Reverse(n_bytes(&outputs[index])));
    let results: Mutex<Vec<Option<Result<[u8; 32]>>>> =
        Mutex::new(outputs.iter().map(|_| None).collect());
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..n_threads.clamp(1, outputs.len().max(1)) {
            scope.spawn(|| {
                let mut buffer = Vec::new();
                while !failed.load(Ordering::Relaxed)
                    && let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let output = &outputs[index];
                    let result = digest_with(source, inputs, output, &mut buffer, progress);
                    if result.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    results.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(result);
                }
            });
        }
    });
    let mut digests = Vec::with_capacity(outputs.len());
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    if failed.into_inner() {
        let error = results.into_iter().flatten().find_map(Result::err);
        return Err(error.expect("the flag is set where an error is stored"));
    }
    for result in results {
        digests.push(result.expect("without an error every output was taken")?);
    }
    Ok(digests)
}
