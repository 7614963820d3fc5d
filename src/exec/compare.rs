//! Logical tensors, compared without being written.

use schemars::JsonSchema;
use serde::Serialize;

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
    /// The norm of the difference by the norm of the old values, over pairs of finite values; absent
    /// where none was computed or every old value is 0.
    pub relative_l2: Option<f64>,
    /// The cosine of the angle between the two, over pairs of finite values; absent where none was
    /// computed or one of the two is 0.
    pub cosine: Option<f64>,
    /// How many are NaN or infinite, in the first and in the second.
    pub not_finite: [u64; 2],
}

/// Sums over pairs of finite values.
#[derive(Default)]
struct Sums {
    old: f64,
    new: f64,
    product: f64,
    difference: f64,
}

impl Sums {
    fn add(&mut self, old: f64, new: f64) {
        self.old += old * old;
        self.new += new * new;
        self.product += old * new;
        self.difference += (new - old) * (new - old);
    }

    fn relative_l2(&self) -> Option<f64> {
        Some((self.difference / self.old).sqrt()).filter(|ratio| ratio.is_finite())
    }

    fn cosine(&self) -> Option<f64> {
        let cosine = self.product / (self.old.sqrt() * self.new.sqrt());
        Some(cosine.clamp(-1.0, 1.0)).filter(|cosine| cosine.is_finite())
    }
}

/// Compares two logical tensors of one shape, element by element.
///
/// A NaN is the same number as any other NaN here, and 0 as -0: bytes are what hashes compare.
///
/// # Errors
/// One of the two cannot be produced, or the numbers of their elements differ.
pub fn values(a: Operand<'_>, b: Operand<'_>) -> Result<Values> {
    values_of(a, b, true)
}

/// As [`values`], where the first tensor may go on behind what the second has.
///
/// # Errors
/// One of the two cannot be produced, or the first has fewer elements.
pub fn values_of_first(a: Operand<'_>, b: Operand<'_>) -> Result<Values> {
    values_of(a, b, false)
}

fn values_of(a: Operand<'_>, b: Operand<'_>, is_whole: bool) -> Result<Values> {
    let (from, to) = (a.output.dtype, b.output.dtype);
    let a = Producer::new(a.source, a.inputs, a.output)?;
    let b = Producer::new(b.source, b.inputs, b.output)?;
    let computes = from.is_float() && to.is_float();
    // The bytes of what is compared as one.
    let (unit_a, unit_b) = match computes {
        true => (from.bits() / 8, to.bits() / 8),
        false => (a.unit(), b.unit()),
    };
    let (n, n_old) = (b.len() / unit_b, a.len() / unit_a);
    if n_old < n || (is_whole && n_old != n) || (!computes && unit_a != unit_b) {
        return Err(Error::unsupported(format!("comparing {from} values with {to} values")));
    }
    let mut values = Values { elements: n, ..Values::default() };
    let mut sums = Sums::default();
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
                values.add(&old[..n], &new[..n], &mut sums);
            }
        } else {
            let pairs = bytes_a.chunks(unit_a as usize).zip(bytes_b.chunks(unit_b as usize));
            values.changed += pairs.filter(|(a, b)| a != b).count() as u64;
        }
        start = end;
    }
    if computes {
        (values.relative_l2, values.cosine) = (sums.relative_l2(), sums.cosine());
    }
    Ok(values)
}

impl Values {
    fn add(&mut self, old: &[f64], new: &[f64], sums: &mut Sums) {
        // Sums without branches, which the compiler turns into vector instructions.
        let finite =
            |values: &[f64]| values.iter().fold(true, |all, value| all & value.is_finite());
        if finite(old) & finite(new) {
            self.add_finite(old, new, sums);
        } else {
            self.add_any(old, new, sums);
        }
    }

    fn add_finite(&mut self, old: &[f64], new: &[f64], sums: &mut Sums) {
        let mut lanes = <[FiniteLane; N_LANES]>::default();
        let (old, old_rest) = old.as_chunks::<N_LANES>();
        let (new, new_rest) = new.as_chunks::<N_LANES>();
        for (old, new) in old.iter().zip(new) {
            for ((lane, &old), &new) in lanes.iter_mut().zip(old).zip(new) {
                lane.add(old, new);
            }
        }
        for lane in lanes {
            sums.old += lane.old;
            sums.new += lane.new;
            sums.product += lane.product;
            sums.difference += lane.squares;
            self.changed += lane.changed as u64;
            if 0.0 < lane.changed {
                worst(&mut self.max_difference, lane.difference);
            }
            if 0.0 < lane.related {
                worst(&mut self.max_relative_difference, lane.relative.min(f64::MAX));
            }
        }
        self.add_any(old_rest, new_rest, sums);
    }

    fn add_any(&mut self, old: &[f64], new: &[f64], sums: &mut Sums) {
        for (&old, &new) in old.iter().zip(new) {
            self.not_finite[0] += u64::from(!old.is_finite());
            self.not_finite[1] += u64::from(!new.is_finite());
            if old.is_finite() && new.is_finite() {
                sums.add(old, new);
            }
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

fn worst(worst: &mut Option<f64>, value: f64) {
    *worst = Some(worst.map_or(value, |worst: f64| worst.max(value)));
}

/// Elements are summed up in so many lanes, which do not wait for each other.
const N_LANES: usize = 8;

/// What is known of every eighth pair of finite values. Counts are whole numbers here too, as lanes
/// are of one kind.
#[derive(Clone, Copy, Default)]
struct FiniteLane {
    old: f64,
    new: f64,
    product: f64,
    squares: f64,
    changed: f64,
    related: f64,
    difference: f64,
    relative: f64,
}

impl FiniteLane {
    #[inline(always)]
    fn add(&mut self, old: f64, new: f64) {
        let apart = new - old;
        self.old += old * old;
        self.new += new * new;
        self.product += old * new;
        self.squares += apart * apart;
        let one_if = |holds: bool| if holds { 1.0 } else { 0.0 };
        let difference = apart.abs().min(f64::MAX);
        let (is_changed, has_old) = (old != new, old != 0.0);
        let relative = if has_old { difference / old.abs() } else { 0.0 };
        self.changed += one_if(is_changed);
        self.related += one_if(is_changed & has_old);
        self.difference = if self.difference < difference { difference } else { self.difference };
        self.relative = if self.relative < relative { relative } else { self.relative };
    }
}

pub(super) fn lcm(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a.max(1), b.max(1));
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a.max(1) / x).saturating_mul(b.max(1))
}
