//! K-blocks: 256 values under F16 scales, in parts with scales of their own of 4, 6 or 8 bits.

use crate::encoding::number::{f16_at, u32_at};

/// Two bits a value. Scales and minimums share a byte for each 16 values.
pub(super) fn q2(block: &[u8; 84], out: &mut [f32; 256]) -> bool {
    let (d, min) = (f16_at(block, 80), f16_at(block, 82));
    let (scales, q) = (&block[..16], &block[16..80]);
    for (part, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let dl = d * f32::from(scales[part] & 15);
        let ml = min * f32::from(scales[part] >> 4);
        let (bytes, shift) = two_bits(q, part);
        for (out, byte) in out.iter_mut().zip(bytes) {
            *out = dl * f32::from(byte >> shift & 3) - ml;
        }
    }
    d.is_finite() && min.is_finite()
}

/// Three bits a value, the third of each apart; unset it takes 4 away.
pub(super) fn q3(block: &[u8; 110], out: &mut [f32; 256]) -> bool {
    let d = f16_at(block, 108);
    let (high, q, scales) = (&block[..32], &block[32..96], &block[96..108]);
    for (part, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        // Six bits a scale: the low four in eight bytes, the high two in four.
        let low = scales[part % 8] >> (4 * (part / 8)) & 15;
        let up = scales[8 + part % 4] >> (2 * (part / 4)) & 3;
        let dl = d * f32::from((low | up << 4) as i8 - 32);
        let (bytes, shift) = two_bits(q, part);
        let high = &high[16 * (part % 2)..][..16];
        for ((out, byte), high) in out.iter_mut().zip(bytes).zip(high) {
            let below = (high >> (part / 2) & 1 ^ 1) << 2;
            *out = dl * f32::from((byte >> shift & 3) as i8 - below as i8);
        }
    }
    d.is_finite()
}

/// Where the two bits of the 16 values of a part are: byte j of 32 holds values j, j + 32, j + 64
/// and j + 96 of 128.
#[inline(always)]
fn two_bits(q: &[u8], part: usize) -> (&[u8], usize) {
    (&q[32 * (part / 8) + 16 * (part % 2)..][..16], 2 * (part / 2 % 4))
}

/// The six bits of scale and minimum of each 32 values. The first four of each have a byte, whose
/// upper two bits belong to the last four.
#[inline(always)]
pub(super) fn scales_and_mins(block: &[u8], at: usize) -> ([u8; 8], [u8; 8]) {
    let (low, mid, high) = (u32_at(block, at), u32_at(block, at + 4), u32_at(block, at + 8));
    const SIX: u32 = 0x3f3f_3f3f;
    const FOUR: u32 = 0x0f0f_0f0f;
    const TWO: u32 = 0x3030_3030;
    let halves =
        |first: u32, second: u32| (u64::from(first) | u64::from(second) << 32).to_le_bytes();
    (
        halves(low & SIX, high & FOUR | low >> 2 & TWO),
        halves(mid & SIX, high >> 4 & FOUR | mid >> 2 & TWO),
    )
}

/// Four bits a value: byte j of 32 holds values j and j + 32 of 64.
#[inline(always)]
pub(super) fn q4(block: &[u8; 144], out: &mut [f32; 256]) -> bool {
    let (d, min) = (f16_at(block, 0), f16_at(block, 2));
    let (scales, mins) = scales_and_mins(block, 4);
    let q = block[16..].as_chunks::<32>().0;
    for (pair, (q, out)) in q.iter().zip(out.as_chunks_mut::<64>().0).enumerate() {
        let dl = d * f32::from(scales[2 * pair]);
        let ml = min * f32::from(mins[2 * pair]);
        for j in 0..32 {
            out[j] = dl * f32::from(q[j] & 15) - ml;
        }
        let dl = d * f32::from(scales[2 * pair + 1]);
        let ml = min * f32::from(mins[2 * pair + 1]);
        for j in 0..32 {
            out[j + 32] = dl * f32::from(q[j] >> 4) - ml;
        }
    }
    d.is_finite() && min.is_finite()
}

/// As of four bits, and the fifth bits apart: bit i of byte j is that of value 32 i + j.
#[inline(always)]
pub(super) fn q5(block: &[u8; 176], out: &mut [f32; 256]) -> bool {
    let (d, min) = (f16_at(block, 0), f16_at(block, 2));
    let (scales, mins) = scales_and_mins(block, 4);
    let high = &block[16..48];
    for (part, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let dl = d * f32::from(scales[part]);
        let ml = min * f32::from(mins[part]);
        let q = &block[48 + 32 * (part / 2)..][..32];
        for j in 0..32 {
            let low = q[j] >> (4 * (part % 2)) & 15;
            out[j] = dl * f32::from(low | (high[j] >> part & 1) << 4) - ml;
        }
    }
    d.is_finite() && min.is_finite()
}

/// Six bits a value, four and two of them apart.
#[inline(always)]
pub(super) fn q6(block: &[u8; 210], out: &mut [f32; 256]) -> bool {
    let d = f16_at(block, 208);
    for (part, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        // Of each 128 values, byte j of 64 holds the low bits of j and j + 64; byte j of 32 the
        // high bits of j, j + 32, j + 64 and j + 96.
        let (half, part_of_half) = (part / 8, part % 8);
        let low = &block[64 * half + 16 * (part_of_half % 4)..][..16];
        let high = &block[128 + 32 * half + 16 * (part % 2)..][..16];
        let (low_shift, high_shift) = (4 * (part_of_half / 4), 2 * (part_of_half / 2));
        let dl = d * f32::from(block[192 + part] as i8);
        for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
            let q = low >> low_shift & 15 | (high >> high_shift & 3) << 4;
            *out = dl * f32::from(q as i8 - 32);
        }
    }
    d.is_finite()
}

/// What is multiplied with K-blocks; the sums of the values, at the end, are redundant.
pub(super) fn q8(block: &[u8; 292], out: &mut [f32; 256]) -> bool {
    let d = f32::from_bits(u32_at(block, 0));
    for (out, &q) in out.iter_mut().zip(&block[4..]) {
        *out = d * f32::from(q as i8);
    }
    d.is_finite()
}
