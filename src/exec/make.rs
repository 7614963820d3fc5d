//! Buffers that frameworks save beside the weights, computed from their recipes.

use half::{bf16, f16};

use crate::checkpoint::DType;
use crate::error::{Error, Result};
use crate::plan::program::{Make, Recipe};

/// A recipe that is known to fit its dtype and shape.
pub struct Made {
    dtype: DType,
    unit: usize,
    /// The length of the last axis and of the one before it.
    last: u64,
    rows: u64,
    recipe: Recipe,
    /// The bytes of the one value of [`Recipe::Constant`].
    constant: Element,
}

/// One element, in as many of the bytes as its dtype takes.
type Element = [u8; 16];

impl Made {
    /// Checks a recipe against its dtype and shape.
    ///
    /// # Errors
    /// A value does not fit the dtype, or the shape has not the axes the recipe fills.
    pub fn new(make: &Make) -> Result<Made> {
        let dtype = make.dtype;
        let last = make.shape.last().copied().unwrap_or(1);
        let rows = make.shape.iter().rev().nth(1).copied().unwrap_or(1);
        let mut constant = Element::default();
        match make.recipe {
            Recipe::Constant(value) => constant = element(dtype, value)?,
            Recipe::Iota => {
                element(dtype, last.saturating_sub(1) as f64)?;
            }
            Recipe::CausalMask { .. } => {
                if make.shape.len() < 2 {
                    return Err(Error::unsupported("a causal mask of less than two axes"));
                }
                element(dtype, 1.0)?;
            }
            Recipe::Sinusoid => {
                if make.shape.len() != 2 || !dtype.is_float() || !last.is_multiple_of(2) {
                    let message = format!("sinusoidal positions as {dtype} {:?}", make.shape);
                    return Err(Error::unsupported(message));
                }
            }
            Recipe::RopeInvFreq { theta, dim } | Recipe::Llama3Factors { theta, dim, .. } => {
                if last != dim.div_ceil(2) {
                    let message = format!(
                        "{dim} rotary dimensions have {} frequencies, the buffer {last}",
                        dim.div_ceil(2)
                    );
                    return Err(Error::unsupported(message));
                }
                if !dtype.is_float() || !(theta as f32).is_normal() || theta < 0.0 {
                    let message = format!("rotary frequencies of base {theta} as {dtype}");
                    return Err(Error::unsupported(message));
                }
            }
        }
        let unit = (dtype.bits() / 8) as usize;
        Ok(Made { dtype, unit, last, rows, recipe: make.recipe.clone(), constant })
    }

    /// The bytes of one element.
    pub fn unit(&self) -> u64 {
        self.unit as u64
    }

    /// Fills `buffer` with the bytes of the tensor from byte `start` on.
    ///
    /// # Panics
    /// The range cuts an element.
    pub fn fill(&self, start: u64, buffer: &mut [u8]) {
        let aligned = start.is_multiple_of(self.unit()) && buffer.len().is_multiple_of(self.unit);
        assert!(aligned, "cuts an element");
        let first = start / self.unit();
        for (index, bytes) in (first..).zip(buffer.chunks_exact_mut(self.unit)) {
            let element = match self.recipe {
                Recipe::Constant(_) => self.constant,
                Recipe::Llama3Factors { theta, dim, factor, turns, original } => {
                    let frequency = rope_inv_freq(theta as f32, dim, index % self.last);
                    self.number(f64::from(llama3_factor(frequency, factor, turns, original)))
                }
                Recipe::Iota => self.number((index % self.last) as f64),
                Recipe::CausalMask { window } => {
                    let (row, column) = (index / self.last % self.rows, index % self.last);
                    let visible =
                        column <= row && window.is_none_or(|window| row - column < window);
                    self.number(f64::from(u8::from(visible)))
                }
                Recipe::Sinusoid => {
                    self.number(sinusoid(index / self.last, index % self.last, self.last))
                }
                Recipe::RopeInvFreq { theta, dim } => {
                    self.number(f64::from(rope_inv_freq(theta as f32, dim, index % self.last)))
                }
            };
            bytes.copy_from_slice(&element[..self.unit]);
        }
    }

    fn number(&self, value: f64) -> Element {
        element(self.dtype, value).expect("the largest value fits, as `new` has seen")
    }
}

/// A number as a little-endian element; floats round to nearest even, integers must be exact.
fn element(dtype: DType, value: f64) -> Result<Element> {
    let mut element = Element::default();
    let mut put = |bytes: &[u8]| element[..bytes.len()].copy_from_slice(bytes);
    macro_rules! integer {
        ($type:ty) => {{
            let integer = value as $type;
            // The bound keeps `u64::MAX as f64`, which is 2^64, from passing as exact.
            if integer as f64 != value || 2f64.powi(63) <= value {
                return Err(Error::unsupported(format!("{value} is no {dtype}")));
            }
            put(&integer.to_le_bytes());
        }};
    }
    match dtype {
        DType::Bool if value == 0.0 || value == 1.0 => put(&[u8::from(value == 1.0)]),
        DType::U8 => integer!(u8),
        DType::I8 => integer!(i8),
        DType::U16 => integer!(u16),
        DType::I16 => integer!(i16),
        DType::U32 => integer!(u32),
        DType::I32 => integer!(i32),
        DType::U64 => integer!(u64),
        DType::I64 => integer!(i64),
        // From F64 in one rounding: `half` goes through F32 on some machines.
        DType::F16 => put(&f16::from_f32(super::kernel::round_to_odd(value)).to_le_bytes()),
        DType::BF16 => put(&bf16::from_f32(super::kernel::round_to_odd(value)).to_le_bytes()),
        DType::F32 | DType::C64 => put(&(value as f32).to_le_bytes()),
        DType::F64 | DType::C128 => put(&value.to_le_bytes()),
        _ => return Err(Error::unsupported(format!("{value} as {dtype}"))),
    }
    Ok(element)
}

/// One entry of a table of sinusoidal positions, rounded to F32 as torch stores it.
fn sinusoid(row: u64, column: u64, dim: u64) -> f64 {
    let half = dim / 2;
    let frequency = column % half;
    let angle = row as f64 / 10000f64.powf((2 * frequency) as f64 / dim as f64);
    let value = if column < half { angle.sin() } else { angle.cos() };
    f64::from(value as f32)
}

/// `1 / theta^(2j/dim)` in F32, bit for bit as torch 2.15 computes
/// `1.0 / (theta ** (torch.arange(0, dim, 2).float() / dim))` on x86 with AVX2.
///
/// Torch takes elements 16 at a time through SLEEF's `powf`, which is not always rounded
/// correctly, and the rest one by one through the C library's, which nearly is. With AVX-512 it
/// takes 32 at a time: where `dim / 2` is a multiple of 32 the two agree.
fn rope_inv_freq(theta: f32, dim: u64, j: u64) -> f32 {
    let exponent = (2 * j) as f32 / dim as f32;
    let vectors_end = dim.div_ceil(2) / 16 * 16;
    let power = if j < vectors_end {
        sleef_powf(theta, exponent)
    } else {
        f64::from(theta).powf(f64::from(exponent)) as f32
    };
    1.0 / power
}

/// By how much a rotary frequency is divided, rounded as torch rounds: a number over a tensor is the
/// tensor's reciprocal times the number.
fn llama3_factor(frequency: f32, factor: f64, [low, high]: [f64; 2], original: u64) -> f32 {
    let original = original as f64;
    let wavelen = (1.0 / frequency) * (2.0 * std::f64::consts::PI) as f32;
    if f64::from(wavelen) < original / high {
        return 1.0;
    }
    if original / low < f64::from(wavelen) {
        return factor as f32;
    }
    let turns = (1.0 / wavelen) * original as f32;
    let smooth = (turns - low as f32) / (high - low) as f32;
    1.0 / ((1.0 - smooth) / factor as f32 + smooth)
}

/// A number as an unevaluated sum of two F32, the second far smaller.
#[derive(Clone, Copy)]
struct Pair(f32, f32);

impl Pair {
    /// The sum, where `other` is not larger.
    fn add(self, other: Pair) -> Pair {
        let sum = self.0 + other.0;
        Pair(sum, (((self.0 - sum) + other.0) + self.1) + other.1)
    }

    /// The sum, whichever is larger.
    fn add_any(self, other: Pair) -> Pair {
        let sum = self.0 + other.0;
        let v = sum - self.0;
        Pair(sum, ((self.0 - (sum - v)) + (other.0 - v)) + (self.1 + other.1))
    }

    fn mul(self, other: Pair) -> Pair {
        let product = self.0 * other.0;
        let rest = self.0.mul_add(other.0, -product);
        Pair(product, self.0.mul_add(other.1, self.1.mul_add(other.0, rest)))
    }

    fn mul_single(self, y: f32) -> Pair {
        let product = self.0 * y;
        Pair(product, self.1.mul_add(y, self.0.mul_add(y, -product)))
    }

    fn square(self) -> Pair {
        let product = self.0 * self.0;
        let rest = self.0.mul_add(self.0, -product);
        Pair(product, (self.0 + self.0).mul_add(self.1, rest))
    }

    fn div(self, other: Pair) -> Pair {
        let t = 1.0 / other.0;
        let quotient = self.0 * t;
        let u = t.mul_add(self.0, -quotient);
        let v = (-other.1).mul_add(t, (-other.0).mul_add(t, 1.0));
        Pair(quotient, quotient.mul_add(v, self.1.mul_add(t, u)))
    }
}

/// `x^y` for a normal x, as SLEEF 3.6 computes `Sleef_powf8_u10avx2` (`sleefsimdsp.c`: `xpowf`,
/// `logkf`, `expkf`; Boost licence).
#[allow(clippy::excessive_precision)] // The constants are spelled as there.
fn sleef_powf(x: f32, y: f32) -> f32 {
    if y == 0.0 || x == 1.0 {
        return 1.0;
    }
    // ln x: x = m · 2^e with m in [0.75, 1.5).
    let e = (((x * (1.0 / 0.75)).to_bits() >> 23) & 0xff) as i32 - 0x7f;
    let m = f32::from_bits(x.to_bits().wrapping_sub((e as u32) << 23));
    let one_more = |a: f32| {
        let sum = a + m;
        let v = sum - a;
        Pair(sum, (a - (sum - v)) + (m - v))
    };
    let r = one_more(-1.0).div(one_more(1.0));
    let r2 = r.square();
    let t = 0.240320354700088500976562f32;
    let t = t.mul_add(r2.0, 0.285112679004669189453125);
    let t = t.mul_add(r2.0, 0.400007992982864379882812);
    let c = Pair(0.66666662693023681640625, 3.69183861259614332084311e-09);
    let ln = Pair(0.69314718246459960938, -1.904654323148236017e-09).mul_single(e as f32);
    let ln = ln.add(Pair(r.0 * 2.0, r.1 * 2.0));
    let ln = ln.add(r2.mul(r).mul(r2.mul_single(t).add_any(c)));

    // e^(y · ln x).
    let d = ln.mul_single(y);
    let q = ((d.0 + d.1) * std::f32::consts::LOG2_E).round_ties_even();
    let less = |d: Pair, y: f32| {
        let sum = d.0 + y;
        let v = sum - d.0;
        Pair(sum, ((d.0 - (sum - v)) + (y - v)) + d.1)
    };
    let s = less(d, q * -0.693145751953125);
    let s = less(s, q * -1.428606765330187045e-06);
    let sum = s.0 + s.1;
    let s = Pair(sum, (s.0 - sum) + s.1);
    let u = 0.00136324646882712841033936f32;
    let u = u.mul_add(s.0, 0.00836596917361021041870117);
    let u = u.mul_add(s.0, 0.0416710823774337768554688);
    let u = u.mul_add(s.0, 0.166665524244308471679688);
    let u = u.mul_add(s.0, 0.499999850988388061523438);
    let t = s.add(s.square().mul_single(u));
    let t = Pair(1.0, 0.0).add(t);
    // Two steps, as one power of two may lie outside of F32.
    let q = q as i32;
    let power = |e: i32| f32::from_bits(((e.clamp(-127, 128) + 0x7f) as u32) << 23);
    (t.0 + t.1) * power(q >> 1) * power(q - (q >> 1))
}
