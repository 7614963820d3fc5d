//! What recipes make, element by element.

use super::program::Recipe;

impl Recipe {
    /// The element at a row and a column of the last two axes, of `last` columns.
    pub fn value(&self, (row, column): (u64, u64), last: u64) -> f64 {
        match *self {
            Recipe::Constant(value) => value,
            Recipe::List(ref values) => {
                usize::try_from(column).ok().and_then(|at| values.get(at)).copied().unwrap_or(0.0)
            }
            Recipe::Iota => column as f64,
            Recipe::CausalMask { window } => {
                let visible = column <= row && window.is_none_or(|window| row - column < window);
                f64::from(u8::from(visible))
            }
            Recipe::Sinusoid => sinusoid(row, column, last),
            Recipe::RopeInvFreq { theta, dim } => {
                f64::from(rope_inv_freq(theta as f32, dim, column))
            }
            // What does not turn in the layers that are stretched is left alone.
            Recipe::Llama3Factors { dim, .. } if dim.div_ceil(2) <= column => 1.0,
            Recipe::Llama3Factors { theta, dim, factor, turns, original } => {
                let frequency = rope_inv_freq(theta as f32, dim, column);
                f64::from(llama3_factor(frequency, factor, turns, original))
            }
        }
    }
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
    if f64::from(wavelen) <= original / high {
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
