//! Blocks of one scale, with or without a minimum.

use crate::encoding::number::{f16_at, f16_bytes, u32_at};

// Quants of four bits: byte j of 16 holds value j low and value j + 16 high.

#[inline(always)]
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) -> bool {
    let d = f16_at(block, 0);
    for j in 0..16 {
        let byte = block[2 + j];
        out[j] = d * f32::from((byte & 15) as i8 - 8);
        out[j + 16] = d * f32::from((byte >> 4) as i8 - 8);
    }
    d.is_finite()
}

#[inline(always)]
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) -> bool {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for j in 0..16 {
        let byte = block[4 + j];
        out[j] = d * f32::from(byte & 15) + m;
        out[j + 16] = d * f32::from(byte >> 4) + m;
    }
    d.is_finite() && m.is_finite()
}

// Of five bits: as of four, and the fifth bits of all 32 in one number.

#[inline(always)]
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) -> bool {
    let d = f16_at(block, 0);
    let high = u32_at(block, 2);
    for j in 0..16 {
        let byte = u32::from(block[6 + j]);
        let (low, up) = (byte & 15 | (high >> j & 1) << 4, byte >> 4 | (high >> (j + 16) & 1) << 4);
        out[j] = d * (low as i32 - 16) as f32;
        out[j + 16] = d * (up as i32 - 16) as f32;
    }
    d.is_finite()
}

#[inline(always)]
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) -> bool {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let high = u32_at(block, 4);
    for j in 0..16 {
        let byte = u32::from(block[8 + j]);
        let (low, up) = (byte & 15 | (high >> j & 1) << 4, byte >> 4 | (high >> (j + 16) & 1) << 4);
        out[j] = d * low as f32 + m;
        out[j + 16] = d * up as f32 + m;
    }
    d.is_finite() && m.is_finite()
}

#[inline(always)]
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) -> bool {
    let d = f16_at(block, 0);
    for j in 0..32 {
        out[j] = f32::from(block[2 + j] as i8) * d;
    }
    d.is_finite()
}

/// What is multiplied with Q4 and Q5; the second F16 is the sum of the values, and redundant.
#[inline(always)]
pub(super) fn q8_1(block: &[u8; 36], out: &mut [f32; 32]) -> bool {
    let d = f16_at(block, 0);
    for j in 0..32 {
        out[j] = f32::from(block[4 + j] as i8) * d;
    }
    d.is_finite()
}

/// One bit a value: set is the scale, unset its negative.
#[inline(always)]
pub(super) fn q1_0(block: &[u8; 18], out: &mut [f32; 128]) -> bool {
    let d = f16_at(block, 0);
    for (j, out) in out.iter_mut().enumerate() {
        *out = if block[2 + j / 8] >> (j % 8) & 1 == 1 { d } else { -d };
    }
    d.is_finite()
}

/// Two bits a value, four values a byte, lowest first: -1, 0, 1, 2.
#[inline(always)]
pub(super) fn q2_0(block: &[u8; 18], out: &mut [f32; 64]) -> bool {
    let d = f16_at(block, 0);
    for (j, out) in out.iter_mut().enumerate() {
        *out = f32::from((block[2 + j / 4] >> (2 * (j % 4)) & 3) as i8 - 1) * d;
    }
    d.is_finite()
}

#[inline(always)]
pub(super) fn to_q4_0(values: &[f32; 32], out: &mut [u8; 18]) {
    let d = furthest(values) / -8.0;
    let id = inverse(d);
    let q = values.map(|value| ((value * id + 8.5) as u8).min(15));
    out[..2].copy_from_slice(&f16_bytes(d));
    pack_nibbles(&q, &mut out[2..]);
}

#[inline(always)]
pub(super) fn to_q4_1(values: &[f32; 32], out: &mut [u8; 20]) {
    let (min, max) = bounds(values);
    let d = (max - min) / 15.0;
    let id = inverse(d);
    let q = values.map(|value| (((value - min) * id + 0.5) as u8).min(15));
    out[..2].copy_from_slice(&f16_bytes(d));
    out[2..4].copy_from_slice(&f16_bytes(min));
    pack_nibbles(&q, &mut out[4..]);
}

#[inline(always)]
pub(super) fn to_q5_0(values: &[f32; 32], out: &mut [u8; 22]) {
    let d = furthest(values) / -16.0;
    let id = inverse(d);
    let q = values.map(|value| ((value * id + 16.5) as u8).min(31));
    out[..2].copy_from_slice(&f16_bytes(d));
    out[2..6].copy_from_slice(&fifth_bits(&q));
    pack_nibbles(&q, &mut out[6..]);
}

#[inline(always)]
pub(super) fn to_q5_1(values: &[f32; 32], out: &mut [u8; 24]) {
    let (min, max) = bounds(values);
    let d = (max - min) / 31.0;
    let id = inverse(d);
    let q = values.map(|value| (((value - min) * id + 0.5) as u8).min(31));
    out[..2].copy_from_slice(&f16_bytes(d));
    out[2..4].copy_from_slice(&f16_bytes(min));
    out[4..8].copy_from_slice(&fifth_bits(&q));
    pack_nibbles(&q, &mut out[8..]);
}

#[inline(always)]
pub(super) fn to_q8_0(values: &[f32; 32], out: &mut [u8; 34]) {
    let d = magnitude(values) / 127.0;
    let id = inverse(d);
    out[..2].copy_from_slice(&f16_bytes(d));
    for j in 0..32 {
        out[2 + j] = round_away(values[j] * id) as u8;
    }
}

#[inline(always)]
pub(super) fn to_q8_1(values: &[f32; 32], out: &mut [u8; 36]) {
    let d = magnitude(values) / 127.0;
    let id = inverse(d);
    let mut sum = 0;
    for j in 0..32 {
        let q = round_away(values[j] * id);
        out[4 + j] = q as u8;
        sum += i32::from(q);
    }
    out[..2].copy_from_slice(&f16_bytes(d));
    out[2..4].copy_from_slice(&f16_bytes(sum as f32 * d));
}

/// The first of the values furthest from zero.
#[inline(always)]
fn furthest(values: &[f32; 32]) -> f32 {
    let max = magnitude(values);
    values.iter().copied().find(|value| value.abs() == max).unwrap_or(0.0)
}

/// The largest absolute value.
#[inline(always)]
pub(super) fn magnitude(values: &[f32]) -> f32 {
    // In eight lanes: a maximum does not depend on the order, and one chain would be slow.
    let mut lanes = [0.0f32; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            let value = value.abs();
            *lane = if *lane < value { value } else { *lane };
        }
    }
    lanes
        .iter()
        .chain(rest)
        .fold(0.0, |max, value| if max < value.abs() { value.abs() } else { max })
}

/// The smallest and the largest, each the first of its equals: of 0 and -0 too.
#[inline(always)]
fn bounds(values: &[f32; 32]) -> (f32, f32) {
    let mut bounds = (values[0], values[0]);
    for &value in values {
        if value < bounds.0 {
            bounds.0 = value;
        }
        if bounds.1 < value {
            bounds.1 = value;
        }
    }
    bounds
}

/// `1 / d`, and 0 for 0.
#[inline(always)]
pub(super) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The nearest integer, ties away from zero; for magnitudes under 128.
///
/// `f32::round` is a call into a library on machines without an instruction for it, and its cast
/// saturates, which costs as much again.
#[inline(always)]
pub(super) fn round_away(value: f32) -> i8 {
    // Adding 1.5 * 2^23 leaves no bit for a fraction: the sum is rounded, ties to even, and its
    // lowest bits are the integer in two's complement.
    const MAGIC: f32 = 12_582_912.0;
    let magnitude = value.abs();
    let even = (magnitude + MAGIC) - MAGIC;
    let away = if magnitude - even == 0.5 { even + 1.0 } else { even };
    (away.copysign(value) + MAGIC).to_bits() as i8
}

#[inline(always)]
fn pack_nibbles(q: &[u8; 32], out: &mut [u8]) {
    for (j, out) in out.iter_mut().enumerate() {
        *out = q[j] & 15 | q[j + 16] << 4;
    }
}

#[inline(always)]
fn fifth_bits(q: &[u8; 32]) -> [u8; 4] {
    let bits = q.iter().enumerate().fold(0u32, |bits, (j, &q)| bits | u32::from(q >> 4) << j);
    bits.to_le_bytes()
}
