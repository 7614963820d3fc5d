//! IQ blocks: points of a fixed grid, by number, with signs and scales apart.

use super::grid;
use crate::encoding::number::{f16_at, f16_to_f32, u16_at, u32_at};

/// The signs of 8 values in 7 bits: the eighth makes the number of negative ones even.
#[inline(always)]
fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// Writes `scale * point`, negated where a bit of `signs` says so.
#[inline(always)]
fn signed(out: &mut [f32], scale: f32, point: &[i8], signs: u8) {
    for (j, (out, &step)) in out.iter_mut().zip(point).enumerate() {
        let negative = u32::from(signs >> j & 1) << 31;
        *out = f32::from_bits((scale * f32::from(step)).to_bits() ^ negative);
    }
}

/// The four bits that number `i` has in `bytes`, the low half first.
#[inline(always)]
fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 2] >> (4 * (i % 2)) & 15
}

// 256 values are 32 groups of 8, or 8 parts of 32.

pub(super) fn iq2_xxs(block: &[u8; 66], out: &mut [f32; 256]) -> bool {
    let d = f16_at(block, 0);
    for (part, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let at = 2 + 8 * part;
        let word = u32_at(block, at + 4);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
        for (group, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let point = &grid::IQ2_XXS[usize::from(block[at + group])];
            signed(out, scale, point, even_signs(word >> (7 * group)));
        }
    }
    d.is_finite()
}

pub(super) fn iq2_xs(block: &[u8; 74], out: &mut [f32; 256]) -> bool {
    let d = f16_at(block, 0);
    for (group, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = d * (0.5 + f32::from(nibble(&block[66..], group / 2))) * 0.25;
        let q = u16_at(block, 2 + 2 * group);
        let point = &grid::IQ2_XS[usize::from(q & 511)];
        signed(out, scale, point, even_signs(u32::from(q >> 9)));
    }
    d.is_finite()
}

pub(super) fn iq2_s(block: &[u8; 82], out: &mut [f32; 256]) -> bool {
    let d = f16_at(block, 0);
    for (group, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = d * (0.5 + f32::from(nibble(&block[74..], group / 2))) * 0.25;
        let high = block[66 + group / 4] >> (2 * (group % 4)) & 3;
        let index = usize::from(block[2 + group]) | usize::from(high) << 8;
        signed(out, scale, &grid::IQ2_S[index], block[34 + group]);
    }
    d.is_finite()
}

pub(super) fn iq3_xxs(block: &[u8; 98], out: &mut [f32; 256]) -> bool {
    let d = f16_at(block, 0);
    for (group, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let word = u32_at(block, 66 + 4 * (group / 4));
        let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
        let signs = even_signs(word >> (7 * (group % 4)));
        let (first, second) = out.split_at_mut(4);
        let index = |half: usize| usize::from(block[2 + 2 * group + half]);
        signed(first, scale, &grid::IQ3_XXS[index(0)], signs);
        signed(second, scale, &grid::IQ3_XXS[index(1)], signs >> 4);
    }
    d.is_finite()
}

pub(super) fn iq3_s(block: &[u8; 110], out: &mut [f32; 256]) -> bool {
    let d = f16_at(block, 0);
    for (group, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = d * f32::from(1 + 2 * nibble(&block[106..], group / 4));
        let signs = block[74 + group];
        let (first, second) = out.split_at_mut(4);
        let index = |half: usize| {
            let number = 2 * group + half;
            let high = block[66 + number / 8] >> (number % 8) & 1;
            usize::from(block[2 + number]) | usize::from(high) << 8
        };
        signed(first, scale, &grid::IQ3_S[index(0)], signs);
        signed(second, scale, &grid::IQ3_S[index(1)], signs >> 4);
    }
    d.is_finite()
}

/// What the points of IQ1 are moved by.
const DELTA: f32 = 0.125;

pub(super) fn iq1_s(block: &[u8; 50], out: &mut [f32; 256]) -> bool {
    let d = f16_at(block, 0);
    for (group, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let high = u16_at(block, 34 + 2 * (group / 4));
        let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
        let delta = if high & 0x8000 == 0 { DELTA } else { -DELTA };
        let index = u16::from(block[2 + group]) | (high >> (3 * (group % 4)) & 7) << 8;
        for (out, &step) in out.iter_mut().zip(&grid::IQ1[usize::from(index)]) {
            *out = scale * (f32::from(step) + delta);
        }
    }
    d.is_finite()
}

/// The F16 scale lies in the upper four bits of each of the four numbers that hold the scales of
/// 16 values.
pub(super) fn iq1_m(block: &[u8; 56], out: &mut [f32; 256]) -> bool {
    let words = [0, 2, 4, 6].map(|at| u16_at(block, 48 + at));
    let [a, b, c, e] = words.map(|word| word & 0xf000);
    let d = f16_to_f32(a >> 12 | b >> 8 | c >> 4 | e);
    for (group, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let part = group / 2;
        let scale = d * f32::from(2 * (words[part / 4] >> (3 * (part % 4)) & 7) + 1);
        let high = nibble(&block[32..48], group);
        let delta = if high & 8 == 0 { DELTA } else { -DELTA };
        let index = usize::from(block[group]) | usize::from(high & 7) << 8;
        for (out, &step) in out.iter_mut().zip(&grid::IQ1[index]) {
            *out = scale * (f32::from(step) + delta);
        }
    }
    d.is_finite()
}

pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) -> bool {
    let d = f16_at(block, 0);
    for j in 0..16 {
        let byte = usize::from(block[2 + j]);
        out[j] = d * f32::from(grid::IQ4[byte & 15]);
        out[j + 16] = d * f32::from(grid::IQ4[byte >> 4]);
    }
    d.is_finite()
}

pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) -> bool {
    let d = f16_at(block, 0);
    let high = u16_at(block, 2);
    for (part, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let up = (high >> (2 * part) & 3) as u8;
        let scale = d * f32::from((nibble(&block[4..8], part) | up << 4) as i8 - 32);
        for j in 0..16 {
            let byte = usize::from(block[8 + 16 * part + j]);
            out[j] = scale * f32::from(grid::IQ4[byte & 15]);
            out[j + 16] = scale * f32::from(grid::IQ4[byte >> 4]);
        }
    }
    d.is_finite()
}
