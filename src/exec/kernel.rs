//! Value ops: what happens to each element after the gather, and what is lost by it.
//!
//! Between two casts values are kept in F32, or in F64 where the elements are F64, so that
//! rounding to the dtype happens once, when it is asked for.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::quotient::quotient;
use super::value::Value;
use crate::base::error::{Error, Result};
use crate::checkpoint::DType;
use crate::encoding::BlockType;
use crate::encoding::grouped::pairs_to_halves;
use crate::package::Loss;
use crate::plan::program::Kernel;

/// A chain of kernels between two float dtypes, with its inverse; or from one to blocks; or from
/// one order inside of blocks to another.
pub struct Chain {
    from: DType,
    to: DType,
    kernels: Vec<Kernel>,
    inverse: Vec<Kernel>,
    /// What the numbers, F32 at the end of the kernels, are packed in.
    blocks: Option<&'static BlockType>,
}

/// How many elements pass through the kernels at a time: what stays in the nearest cache.
pub(super) const BLOCK: usize = 512;

impl Chain {
    /// The chain that takes elements of `from` through the kernels to elements of `to`.
    ///
    /// # Errors
    /// A dtype that takes part is none that this program computes with, or the kernels do not
    /// end at `to`.
    pub fn new(from: DType, kernels: &[Kernel], to: DType) -> Result<Chain> {
        if (from, kernels, to) == (DType::U8, &[Kernel::Halves], DType::U8) {
            return Ok(Chain {
                from,
                to,
                kernels: kernels.to_vec(),
                inverse: vec![],
                blocks: None,
            });
        }
        if is_narrowing(from, kernels, to) {
            let (kernels, inverse) = (kernels.to_vec(), vec![]);
            return Ok(Chain { from, to, kernels, inverse, blocks: None });
        }
        let (kernels, to, blocks) = match kernels.split_last() {
            Some((Kernel::Quantize(blocks), before)) if to == DType::U8 => {
                (before, DType::F32, Some(*blocks))
            }
            _ => (kernels, to, None),
        };
        let mut dtype = from;
        let mut inverse = Vec::with_capacity(kernels.len());
        for &kernel in kernels {
            if !dtype.is_float() {
                return Err(Error::unsupported(format!("computing with {dtype} elements")));
            }
            if let Kernel::Quantize(_) | Kernel::Halves = kernel {
                let message = "what is packed in blocks goes through no more kernels";
                return Err(Error::unsupported(message));
            }
            inverse.push(kernel.inverse(dtype));
            if let Kernel::Cast(next) = kernel {
                dtype = next;
            }
        }
        if !dtype.is_float() {
            return Err(Error::unsupported(format!("computing with {dtype} elements")));
        }
        // Numbers of fewer bits become blocks without a cast between.
        if dtype != to && (blocks.is_none() || dtype == DType::F64) {
            return Err(Error::unsupported(format!("the kernels end at {dtype}, not at {to}")));
        }
        inverse.reverse();
        let mut kernels = kernels.to_vec();
        if blocks.is_none() {
            // What is cast last is rounded as it is written.
            kernels.pop_if(|last| *last == Kernel::Cast(to));
            inverse.pop_if(|last| *last == Kernel::Cast(from));
        }
        Ok(Chain { from, to, kernels, inverse, blocks })
    }

    /// The bytes of the least that passes alone, before and after: an element, or a block.
    pub fn units(&self) -> (usize, usize) {
        if self.is_halves() {
            return (MXFP4_BYTES, MXFP4_BYTES);
        }
        let from = (self.from.bits() / 8) as usize;
        match self.blocks {
            Some(blocks) => (blocks.block_len * from, blocks.block_bytes),
            None => (from, (self.to.bits() / 8) as usize),
        }
    }

    /// The elements of such a unit.
    pub fn per_unit(&self) -> u64 {
        self.blocks.map_or(1, |blocks| blocks.block_len as u64)
    }

    /// Takes every element of `input`, of which the first is number `at` of the tensor, to its place in `output`,
    /// and counts what is lost.
    ///
    /// # Panics
    /// The two have not the same number of elements.
    pub fn apply(&self, input: &[u8], output: &mut [u8], at: u64) -> Loss {
        if self.is_halves() {
            return halves(input, output);
        }
        if let Some(blocks) = self.blocks {
            return self.quantize(blocks, input, output, at);
        }
        if is_narrowing(self.from, &self.kernels, self.to) {
            return narrow(input, output);
        }
        let casts = self.kernels.contains(&Kernel::Cast(DType::F64));
        if casts || [self.from, self.to].contains(&DType::F64) {
            self.apply_in::<f64>(input, output, at)
        } else {
            self.apply_in::<f32>(input, output, at)
        }
    }

    /// How many elements from one on are of the source, and not zeros behind it.
    fn theirs(&self, at: u64) -> usize {
        let from = self.kernels.iter().find_map(|kernel| match kernel {
            Kernel::ZeroFrom(from) => Some(from.saturating_sub(at)),
            _ => None,
        });
        from.and_then(|from| usize::try_from(from).ok()).unwrap_or(usize::MAX)
    }

    fn is_halves(&self) -> bool {
        self.kernels == [Kernel::Halves]
    }

    /// A block with a value that is not finite becomes zeros, and its NaNs are counted: no block
    /// type holds such values, so the caller has to refuse the tensor.
    fn quantize(
        &self,
        blocks: &'static BlockType,
        input: &[u8],
        output: &mut [u8],
        mut at: u64,
    ) -> Loss {
        let (from, to) = self.units();
        assert_eq!(input.len() / from, output.len() / to, "as many blocks out as in");
        let mut loss = Loss::default();
        let step = (BLOCK / blocks.block_len).max(1);
        let (mut values, mut back) = ([0f32; BLOCK], [0f32; BLOCK]);
        for (input, output) in input.chunks(step * from).zip(output.chunks_mut(step * to)) {
            let n = input.len() / from * blocks.block_len;
            let (values, back) = (&mut values[..n], &mut back[..n]);
            decode(self.from, input, values);
            run(&self.kernels, self.from, values, at);
            at += n as u64;
            loss.elements += n as u64;
            if blocks.quantize(values, output).is_err() {
                output.fill(0);
                loss.nans += values.iter().filter(|value| !value.is_finite()).count() as u64;
                continue;
            }
            blocks.dequantize(output, back).expect("the blocks that were just made");
            loss.changed += count(values.iter().zip(&*back).map(|(value, back)| value != back));
            let worst = worst_error(values, back);
            loss.max_relative_error = loss.max_relative_error.max(worst);
        }
        loss
    }

    fn apply_in<V: Value>(&self, input: &[u8], output: &mut [u8], mut at: u64) -> Loss {
        let (from, to) = self.units();
        assert_eq!(input.len() / from, output.len() / to, "as many elements out as in");
        let mut loss = Loss::default();
        let (mut back, mut few) = ([0u8; BLOCK * 8], [0u8; BLOCK * 8]);
        let (mut before, mut values) = ([V::default(); BLOCK], [V::default(); BLOCK]);
        for (input, output) in input.chunks(BLOCK * from).zip(output.chunks_mut(BLOCK * to)) {
            let n = input.len() / from;
            let (before, values) = (&mut before[..n], &mut values[..n]);
            decode(self.from, input, before);
            values.copy_from_slice(before);
            run(&self.kernels, self.from, values, at);
            encode(self.to, values, output);

            decode(self.to, output, values);
            let first = at;
            at += n as u64;
            loss.elements += n as u64;
            let (input, before, values) = match self.inverse.as_slice() {
                // What is the same after a cast is lost by none.
                [] => {
                    let n = keep_changed(before, values, input, &mut few);
                    (&few[..n * from], &mut before[..n], &mut values[..n])
                }
                _ => (input, before, values),
            };
            if before.is_empty() {
                continue;
            }
            let n = before.len();
            let pairs = || before.iter().zip(&*values);
            loss.infinities +=
                count(pairs().map(|(before, after)| after.is_infinite() && before.is_finite()));
            loss.nans += count(pairs().map(|(before, after)| after.is_nan() && !before.is_nan()));
            run(&self.inverse, self.to, values, first);
            let back = &mut back[..input.len()];
            encode(self.from, values, back);
            let theirs = self.theirs(first).min(n);
            back[theirs * from..].copy_from_slice(&input[theirs * from..]);
            if back != input {
                decode(self.from, back, values);
                loss.changed += match from {
                    2 => n_different::<2>(input, back),
                    4 => n_different::<4>(input, back),
                    _ => n_different::<8>(input, back),
                };
                let worst = worst_error(before, values);
                loss.max_relative_error = loss.max_relative_error.max(worst);
            }
        }
        loss
    }
}

/// Puts the values that a cast changed first, with their bytes in `few`, and returns how many they are: few, as a rule.
fn keep_changed<V: Value>(
    before: &mut [V],
    after: &mut [V],
    bytes: &[u8],
    few: &mut [u8],
) -> usize {
    const LANES: usize = 16;
    let len = bytes.len().checked_div(before.len()).unwrap_or(0);
    let mut n = 0;
    for start in (0..before.len()).step_by(LANES) {
        let end = before.len().min(start + LANES);
        if V::are_same(&before[start..end], &after[start..end]) {
            continue;
        }
        for place in start..end {
            if !V::are_same(&before[place..=place], &after[place..=place]) {
                (before[n], after[n]) = (before[place], after[place]);
                few[n * len..][..len].copy_from_slice(&bytes[place * len..][..len]);
                n += 1;
            }
        }
    }
    n
}

/// How many of a block are so. Not a sum whose overflow is checked, as that does not vectorize.
fn count(are_so: impl Iterator<Item = bool>) -> u64 {
    are_so.fold(0u32, |n, is_so| n.wrapping_add(u32::from(is_so))).into()
}

/// The largest relative error that is finite.
fn worst_error<V: Value>(before: &[V], after: &[V]) -> f64 {
    // Positive floats are in the order of their bits, and those vectorize.
    let finite = |bits: i32| if bits < f32::INFINITY.to_bits() as i32 { bits } else { 0 };
    let pairs = before.iter().zip(after);
    let errors =
        pairs.map(|(before, after)| finite(after.relative_error(*before).to_bits() as i32));
    f32::from_bits(errors.fold(0, i32::max) as u32).into()
}

/// The bytes of an MXFP4 block: its scale, and 32 values.
const MXFP4_BYTES: usize = 17;

fn halves(input: &[u8], output: &mut [u8]) -> Loss {
    assert_eq!(input.len(), output.len(), "as many blocks out as in");
    let (from, to) = (input.as_chunks::<MXFP4_BYTES>().0, output.as_chunks_mut().0);
    for ([scale, pairs @ ..], to) in from.iter().zip(to) {
        let to: &mut [u8; MXFP4_BYTES] = to;
        to[0] = *scale;
        to[1..].copy_from_slice(&pairs_to_halves(*pairs));
    }
    Loss { elements: 32 * from.len() as u64, ..Loss::default() }
}

fn is_narrowing(from: DType, kernels: &[Kernel], to: DType) -> bool {
    (from, kernels, to) == (DType::I64, &[Kernel::Cast(DType::I32)], DType::I32)
}

/// Integers of half the bits. What they do not hold is counted as no numbers, and the caller has to refuse it.
fn narrow(input: &[u8], output: &mut [u8]) -> Loss {
    let (from, to) = (input.as_chunks::<8>().0, output.as_chunks_mut::<4>().0);
    assert_eq!(from.len(), to.len(), "as many elements out as in");
    let mut loss = Loss { elements: from.len() as u64, ..Loss::default() };
    for (from, to) in from.iter().zip(to) {
        let short = i32::try_from(i64::from_le_bytes(*from));
        loss.nans += u64::from(short.is_err());
        *to = short.unwrap_or_default().to_le_bytes();
    }
    loss
}

fn n_different<const N: usize>(a: &[u8], b: &[u8]) -> u64 {
    let pairs = a.as_chunks::<N>().0.iter().zip(b.as_chunks::<N>().0);
    count(pairs.map(|(a, b)| a != b))
}

/// Runs kernels over values that are exact in their precision, F64 for `dtype` F64, else F32.
///
/// A sum, product or quotient of two F32, computed in F64 and rounded to F32, is the one that
/// F32 arithmetic gives.
///
/// The first value is element number `at`.
fn run<V: Value>(kernels: &[Kernel], mut dtype: DType, values: &mut [V], at: u64) {
    let place = |at_most: usize, element: u64| {
        usize::try_from(element.saturating_sub(at)).unwrap_or(usize::MAX).min(at_most)
    };
    let n = values.len();
    let run_of = |run: Option<[u64; 2]>| match run {
        Some([from, to]) => place(n, from)..place(n, to),
        None => 0..n,
    };
    for &kernel in kernels {
        let wide = dtype == DType::F64;
        let round = |c: f64| if wide { c } else { f64::from(c as f32) };
        match kernel {
            Kernel::Add(c) => each(values, wide, round(c), |x, c| x + c),
            Kernel::Scale(c) => each(values, wide, round(c), |x, c| x * c),
            Kernel::Divide(c) => each(values, wide, round(c), |x, c| x / c),
            Kernel::Product { run, c: [a, b] } => {
                let values = &mut values[run_of(run)];
                each(values, wide, round(a), |x, a| x * a);
                each(values, wide, round(b), |x, b| x * b);
            }
            Kernel::Quotient { run, c: [a, b] } if wide => {
                each(&mut values[run_of(run)], wide, 1.0, |x, _| x / b / a);
            }
            Kernel::Quotient { run, c: [a, b] } => {
                let c = [a as f32, b as f32];
                each(&mut values[run_of(run)], wide, 1.0, |x, _| quotient(x as f32, c).into());
            }
            Kernel::ZeroFrom(from) => values[place(n, from)..].fill(V::default()),
            Kernel::NegExp => each(values, wide, 0.0, |x, _| -x.exp()),
            Kernel::LnNeg => each(values, wide, 0.0, |x, _| (-x).ln()),
            Kernel::Cast(next) => {
                // To a dtype that holds all values of this one, there is nothing to round.
                if next != dtype && !matches!((dtype, next), (DType::BF16 | DType::F16, DType::F32))
                {
                    let mut bits = [0u8; BLOCK * 8];
                    let bits = &mut bits[..values.len() * (next.bits() / 8) as usize];
                    encode(next, values, bits);
                    decode(next, bits, values);
                }
                dtype = next;
            }
            // They are of chains of their own, or at the end of one, and are done there.
            Kernel::Quantize(_) | Kernel::Halves => {}
        }
    }
}

fn each<V: Value>(values: &mut [V], wide: bool, c: f64, f: impl Fn(f64, f64) -> f64) {
    if wide {
        values.iter_mut().for_each(|x| *x = V::from_double(f(x.to_f64(), c)));
    } else {
        values.iter_mut().for_each(|x| *x = V::from_single(f(x.to_f64(), c) as f32));
    }
}

/// Reads at most a block of little-endian elements.
pub(super) fn decode<V: Value>(dtype: DType, bytes: &[u8], values: &mut [V]) {
    match dtype {
        DType::F64 => {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                *value = V::from_double(f64::from_le_bytes(*bytes));
            }
        }
        DType::F32 => {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                *value = V::from_single(f32::from_le_bytes(*bytes));
            }
        }
        DType::BF16 => {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                let bits = u32::from(u16::from_le_bytes(*bytes)) << 16;
                *value = V::from_single(f32::from_bits(bits));
            }
        }
        _ => {
            let mut halves = [f16::ZERO; BLOCK];
            let mut singles = [0f32; BLOCK];
            let (halves, singles) = (&mut halves[..values.len()], &mut singles[..values.len()]);
            for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
                *half = f16::from_le_bytes(*bytes);
            }
            halves.convert_to_f32_slice(singles);
            for (value, single) in values.iter_mut().zip(singles) {
                *value = V::from_single(*single);
            }
        }
    }
}

/// Writes at most a block of values, rounded to nearest even.
fn encode<V: Value>(dtype: DType, values: &[V], bytes: &mut [u8]) {
    match dtype {
        DType::F64 => {
            for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
                *bytes = value.to_f64().to_le_bytes();
            }
        }
        DType::F32 => {
            for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
                *bytes = value.to_f32().to_le_bytes();
            }
        }
        DType::BF16 => {
            for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
                *bytes = bf16::from_f32(value.to_odd_f32()).to_le_bytes();
            }
        }
        _ => {
            let mut halves = [f16::ZERO; BLOCK];
            let mut singles = [0f32; BLOCK];
            let (halves, singles) = (&mut halves[..values.len()], &mut singles[..values.len()]);
            halves.convert_from_f32_slice(V::to_odd_singles(values, singles));
            for (half, bytes) in halves.iter().zip(bytes.as_chunks_mut().0) {
                *bytes = half.to_le_bytes();
            }
        }
    }
}
