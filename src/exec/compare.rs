//! Logical tensors, compared and hashed without being written.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::kernel::{BLOCK, decode};
use super::produce::Producer;
use crate::base::error::{Error, Result};
use crate::base::source::Source;
use crate::plan::program::{Input, Output};

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
        let bytes_a = a.bytes(start..end.min(a.len()), &mut buffer_a)?;
        let bytes_b = b.bytes(start..end.min(b.len()), &mut buffer_b)?;
        let n = bytes_a.len().min(bytes_b.len());
        if bytes_a[..n] != bytes_b[..n] {
            let same = bytes_a.iter().zip(bytes_b).take_while(|(a, b)| a == b).count();
            return Ok(Some(start + same as u64));
        }
        start = end;
    }
    Ok((a.len() != b.len()).then_some(common_len))
}

/// How far the values of two logical tensors of one shape are apart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Values {
    /// How many elements there are.
    pub elements: u64,
    /// How many are not the same number; of dtypes that this program does not compute with, how
    /// many have other bytes.
    pub changed: u64,
    /// The largest difference of two finite values; absent where none was computed.
    pub max_difference: Option<f64>,
    /// The largest difference relative to the old value, over finite old values but 0.
    pub max_relative_difference: Option<f64>,
    /// How many are NaN or infinite, in the first and in the second.
    pub not_finite: [u64; 2],
}

/// Compares two logical tensors of one shape, element by element.
///
/// A NaN is the same number as any other NaN here, and 0 as -0: bytes are what hashes compare.
///
/// # Errors
/// One of the two cannot be produced, or the numbers of their elements differ.
pub fn values(a: Operand<'_>, b: Operand<'_>) -> Result<Values> {
    let (from, to) = (a.output.dtype, b.output.dtype);
    let a = Producer::new(a.source, a.inputs, a.output)?;
    let b = Producer::new(b.source, b.inputs, b.output)?;
    let computes = from.is_float() && to.is_float();
    // The bytes of what is compared as one.
    let (unit_a, unit_b) = match computes {
        true => (from.bits() / 8, to.bits() / 8),
        false => (a.unit(), b.unit()),
    };
    let n = a.len() / unit_a;
    if n != b.len() / unit_b || (!computes && unit_a != unit_b) {
        return Err(Error::unsupported(format!("comparing {from} values with {to} values")));
    }
    let mut values = Values { elements: n, ..Values::default() };
    let (mut buffer_a, mut buffer_b) = (Vec::new(), Vec::new());
    let step = (CHUNK_LEN / unit_a.max(unit_b)).max(1);
    let mut start = 0;
    while start < n {
        let end = n.min(start.saturating_add(step));
        let bytes_a = a.bytes(start * unit_a..end * unit_a, &mut buffer_a)?;
        let bytes_b = b.bytes(start * unit_b..end * unit_b, &mut buffer_b)?;
        if computes {
            let blocks_a = bytes_a.chunks(BLOCK * unit_a as usize);
            let blocks_b = bytes_b.chunks(BLOCK * unit_b as usize);
            for (block_a, block_b) in blocks_a.zip(blocks_b) {
                let (mut old, mut new) = ([0f64; BLOCK], [0f64; BLOCK]);
                let n = block_a.len() / unit_a as usize;
                decode(from, block_a, &mut old[..n]);
                decode(to, block_b, &mut new[..n]);
                values.add(&old[..n], &new[..n]);
            }
        } else {
            let pairs = bytes_a.chunks(unit_a as usize).zip(bytes_b.chunks(unit_b as usize));
            values.changed += pairs.filter(|(a, b)| a != b).count() as u64;
        }
        start = end;
    }
    Ok(values)
}

impl Values {
    fn add(&mut self, old: &[f64], new: &[f64]) {
        let worst = |worst: &mut Option<f64>, value: f64| {
            *worst = Some(worst.map_or(value, |worst: f64| worst.max(value)));
        };
        for (&old, &new) in old.iter().zip(new) {
            self.not_finite[0] += u64::from(!old.is_finite());
            self.not_finite[1] += u64::from(!new.is_finite());
            if old == new || (old.is_nan() && new.is_nan()) {
                continue;
            }
            self.changed += 1;
            if old.is_finite() && new.is_finite() {
                // Two finite doubles may lie further apart than any double.
                let difference = (new - old).abs().min(f64::MAX);
                worst(&mut self.max_difference, difference);
                if old != 0.0 {
                    let relative = (difference / old.abs()).min(f64::MAX);
                    worst(&mut self.max_relative_difference, relative);
                }
            }
        }
    }
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
        hasher.update(producer.bytes(range, buffer)?);
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
