//! Blocks of trits: -1, 0 and 1 times a scale.

use super::legacy::{inverse, magnitude, round_away};
use crate::encoding::number::{f16_at, f16_bytes};

/// Where the values of a TQ1_0 block are: the first byte, how many, and the trits of each.
/// Trit t of byte j, the most significant first, is value `first_value + t * bytes + j`.
const RUNS: [Run; 3] = [
    Run { byte: 0, bytes: 32, value: 0, trits: 5 },
    Run { byte: 32, bytes: 16, value: 160, trits: 5 },
    Run { byte: 48, bytes: 4, value: 240, trits: 4 },
];

struct Run {
    byte: usize,
    bytes: usize,
    value: usize,
    trits: usize,
}

/// A byte is a fraction of 256 whose base-3 digits are the trits: a product with 3^t brings trit t
/// to the front, and the product of what is left of that with 3 carries it over.
pub(super) fn tq1_0(block: &[u8; 54], out: &mut [f32; 256]) -> bool {
    let d = f16_at(block, 52);
    for Run { byte, bytes, value, trits } in RUNS {
        let mut power = 1u8;
        for t in 0..trits {
            for j in 0..bytes {
                let front = u16::from(block[byte + j].wrapping_mul(power));
                out[value + t * bytes + j] = d * f32::from(((front * 3) >> 8) as i8 - 1);
            }
            power = power.wrapping_mul(3);
        }
    }
    d.is_finite()
}

/// Two bits a value; byte j of a run of 32 holds values j, j + 32, j + 64 and j + 96 of 128.
pub(super) fn tq2_0(block: &[u8; 66], out: &mut [f32; 256]) -> bool {
    let d = f16_at(block, 64);
    for half in 0..2 {
        for t in 0..4 {
            for j in 0..32 {
                let q = block[32 * half + j] >> (2 * t) & 3;
                out[128 * half + 32 * t + j] = d * f32::from(q as i8 - 1);
            }
        }
    }
    d.is_finite()
}

pub(super) fn to_tq1_0(values: &[f32; 256], out: &mut [u8; 54]) {
    let d = magnitude(values);
    let id = inverse(d);
    for Run { byte, bytes, value, trits } in RUNS {
        for j in 0..bytes {
            let mut number = 0u8;
            for t in 0..trits {
                let trit = (round_away(values[value + t * bytes + j] * id) + 1) as u8;
                number = number.wrapping_mul(3).wrapping_add(trit);
            }
            // Four trits take the place of the first four of five.
            if trits == 4 {
                number = number.wrapping_mul(3);
            }
            out[byte + j] = (u32::from(number) * 256).div_ceil(243) as u8;
        }
    }
    out[52..].copy_from_slice(&f16_bytes(d));
}

pub(super) fn to_tq2_0(values: &[f32; 256], out: &mut [u8; 66]) {
    let d = magnitude(values);
    let id = inverse(d);
    for half in 0..2 {
        for j in 0..32 {
            let mut byte = 0;
            for t in 0..4 {
                let trit = (round_away(values[128 * half + 32 * t + j] * id) + 1) as u8;
                byte |= trit << (2 * t);
            }
            out[32 * half + j] = byte;
        }
    }
    out[64..].copy_from_slice(&f16_bytes(d));
}
