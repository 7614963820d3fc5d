//! How ggml's reference quantizers choose the scales of K-blocks.
//!
//! Each part of a block is fitted for itself: scales near the obvious one are tried, for each the
//! best line through (quant, value) is found by weighted least squares, and the one with the
//! smallest error wins. Sums in F32 depend on their order, so a part cannot be summed faster than
//! one value after the other; but all parts of a block can be summed at once, a part a lane, with
//! the same bits as one by one.

use super::k::scales_and_mins;
use crate::encoding::number::{f16_at, f16_bytes};

/// One number for each part of a block.
type Lanes<const N: usize> = [f32; N];

/// Below this, values are as good as zero.
const TINY: f32 = 1e-15;

/// The nearest integer, ties to even; meaningless past 2^22, and the same there as in the
/// reference.
#[inline(always)]
fn nearest(value: f32) -> i32 {
    ((value + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// `[part][value]` to `[value][part]`.
#[inline(always)]
fn transpose<const PARTS: usize, const LEN: usize>(values: &[f32; 256]) -> [Lanes<PARTS>; LEN] {
    let mut lanes = [[0.0; PARTS]; LEN];
    for (part, values) in values.as_chunks::<LEN>().0.iter().enumerate() {
        for (lane, &value) in lanes.iter_mut().zip(values) {
            lane[part] = value;
        }
    }
    lanes
}

/// A line for each of eight parts, `scale * quant - min`, and the quants.
struct Lines {
    scale: Lanes<8>,
    min: Lanes<8>,
    quants: [[i32; 8]; 32],
}

/// Fits lines to the parts of a block. Tried are the scales that would make `max_quant + first`,
/// `max_quant + first + 0.1` … the largest quant, `1 + more` of them.
#[inline(always)]
fn fit_lines(values: &[f32; 256], max_quant: i32, first: f32, more: i32) -> Lines {
    let x: [Lanes<8>; 32] = transpose(values);

    let mut sum_x2 = [0.0; 8];
    for x in &x {
        for p in 0..8 {
            sum_x2[p] += x[p] * x[p];
        }
    }
    let average = sum_x2.map(|sum| (sum / 32.0).sqrt());
    let w: [Lanes<8>; 32] =
        std::array::from_fn(|i| std::array::from_fn(|p| average[p] + x[i][p].abs()));

    let (mut min, mut max) = (x[0], x[0]);
    let mut sum_w = w[0];
    let mut sum_x: Lanes<8> = std::array::from_fn(|p| sum_w[p] * x[0][p]);
    for (x, w) in x.iter().zip(&w).skip(1) {
        for p in 0..8 {
            min[p] = if x[p] < min[p] { x[p] } else { min[p] };
            max[p] = if max[p] < x[p] { x[p] } else { max[p] };
            sum_w[p] += w[p];
            sum_x[p] += w[p] * x[p];
        }
    }
    for min in &mut min {
        *min = if *min > 0.0 { 0.0 } else { *min };
    }
    let flat: [bool; 8] = std::array::from_fn(|p| max[p] == min[p]);
    let start = min;

    let mut inverse: Lanes<8> = std::array::from_fn(|p| max_quant as f32 / (max[p] - min[p]));
    let mut scale = inverse.map(|inverse| 1.0 / inverse);
    let mut quants = quantize(&x, &inverse, &min, max_quant);
    let mut least = error(&x, &w, &quants, &scale, &min);

    for step in 0..=more {
        let largest = first + 0.1 * step as f32 + max_quant as f32;
        for p in 0..8 {
            inverse[p] = largest / (max[p] - min[p]);
        }
        let tried = quantize(&x, &inverse, &min, max_quant);

        let (mut sum_l, mut sum_l2, mut sum_xl) = ([0.0; 8], [0.0; 8], [0.0; 8]);
        for ((x, w), l) in x.iter().zip(&w).zip(&tried) {
            for p in 0..8 {
                let l = l[p] as f32;
                sum_l[p] += w[p] * l;
                sum_l2[p] += w[p] * l * l;
                sum_xl[p] += w[p] * l * x[p];
            }
        }

        let (mut try_scale, mut try_min, mut solvable) = ([0.0; 8], [0.0; 8], [false; 8]);
        for p in 0..8 {
            let determinant = sum_w[p] * sum_l2[p] - sum_l[p] * sum_l[p];
            solvable[p] = determinant > 0.0;
            try_scale[p] = (sum_w[p] * sum_xl[p] - sum_x[p] * sum_l[p]) / determinant;
            try_min[p] = (sum_l2[p] * sum_x[p] - sum_l[p] * sum_xl[p]) / determinant;
            if try_min[p] > 0.0 {
                try_min[p] = 0.0;
                try_scale[p] = sum_xl[p] / sum_l2[p];
            }
        }

        let errors = error(&x, &w, &tried, &try_scale, &try_min);
        let better: [bool; 8] = std::array::from_fn(|p| solvable[p] && errors[p] < least[p]);
        if better != [false; 8] {
            for (quants, tried) in quants.iter_mut().zip(&tried) {
                for p in 0..8 {
                    quants[p] = if better[p] { tried[p] } else { quants[p] };
                }
            }
            for p in 0..8 {
                if better[p] {
                    (least[p], scale[p], min[p]) = (errors[p], try_scale[p], try_min[p]);
                }
            }
        }
    }

    // A part of one value only has no scale, whatever came of dividing by nothing.
    for p in (0..8).filter(|&p| flat[p]) {
        (scale[p], min[p]) = (0.0, start[p]);
        quants.iter_mut().for_each(|quants| quants[p] = 0);
    }
    Lines { scale, min: min.map(|min| -min), quants }
}

#[inline(always)]
fn quantize(
    x: &[Lanes<8>; 32],
    inverse: &Lanes<8>,
    min: &Lanes<8>,
    max_quant: i32,
) -> [[i32; 8]; 32] {
    let mut quants = [[0; 8]; 32];
    for (quants, x) in quants.iter_mut().zip(x) {
        for p in 0..8 {
            quants[p] = nearest(inverse[p] * (x[p] - min[p])).clamp(0, max_quant);
        }
    }
    quants
}

#[inline(always)]
fn error(
    x: &[Lanes<8>; 32],
    w: &[Lanes<8>; 32],
    quants: &[[i32; 8]; 32],
    scale: &Lanes<8>,
    min: &Lanes<8>,
) -> Lanes<8> {
    let mut error = [0.0; 8];
    for ((x, w), quants) in x.iter().zip(w).zip(quants) {
        for p in 0..8 {
            let difference = scale[p] * quants[p] as f32 + min[p] - x[p];
            error[p] += w[p] * (difference * difference);
        }
    }
    error
}

/// Writes scales and minimums, 16 bytes, and gives the quants that fit them.
#[inline(always)]
fn with_lines(values: &[f32; 256], max_quant: i32, lines: Lines, head: &mut [u8]) -> [u8; 256] {
    let top = |lanes: Lanes<8>| lanes.into_iter().fold(0.0, |max, x| if x > max { x } else { max });
    let six_bits = |lanes: Lanes<8>, top: f32| {
        let inverse = if top > 0.0 { 63.0 / top } else { 0.0 };
        lanes.map(|lane| (nearest(inverse * lane) as u8).min(63))
    };
    let (top_scale, top_min) = (top(lines.scale), top(lines.min));
    let (scales, mins) = (six_bits(lines.scale, top_scale), six_bits(lines.min, top_min));
    head[..2].copy_from_slice(&f16_bytes(top_scale / 63.0));
    head[2..4].copy_from_slice(&f16_bytes(top_min / 63.0));
    for j in 0..4 {
        head[4 + j] = scales[j] | scales[j + 4] >> 4 << 6;
        head[8 + j] = mins[j] | mins[j + 4] >> 4 << 6;
        head[12 + j] = scales[j + 4] & 15 | mins[j + 4] << 4;
    }

    // Once more, with the scales as they were rounded; where one became nothing, as fitted.
    let (d, min) = (f16_at(head, 0), f16_at(head, 2));
    let (scales, mins) = scales_and_mins(head, 4);
    let mut quants = [0; 256];
    for (part, (quants, values)) in
        quants.as_chunks_mut::<32>().0.iter_mut().zip(values.as_chunks::<32>().0).enumerate()
    {
        let dl = d * f32::from(scales[part]);
        let ml = min * f32::from(mins[part]);
        for (j, (quant, value)) in quants.iter_mut().zip(values).enumerate() {
            *quant = if dl == 0.0 {
                lines.quants[j][part]
            } else {
                nearest((value + ml) / dl).clamp(0, max_quant)
            } as u8;
        }
    }
    quants
}

#[inline(always)]
pub(super) fn to_q4(values: &[f32; 256], out: &mut [u8; 144]) {
    let (head, q) = out.split_at_mut(16);
    let quants = with_lines(values, 15, fit_lines(values, 15, -1.0, 20), head);
    pack_fours(&quants, q);
}

pub(super) fn to_q5(values: &[f32; 256], out: &mut [u8; 176]) {
    let (head, q) = out.split_at_mut(16);
    let quants = with_lines(values, 31, fit_lines(values, 31, -0.5, 15), head);
    let (high, q) = q.split_at_mut(32);
    for (j, high) in high.iter_mut().enumerate() {
        *high = (0..8).fold(0, |bits, part| bits | (quants[32 * part + j] >> 4) << part);
    }
    pack_fours(&quants, q);
}

/// Byte j of 32 holds the low bits of quants j and j + 32 of 64.
#[inline(always)]
fn pack_fours(quants: &[u8; 256], out: &mut [u8]) {
    for (quants, out) in quants.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for j in 0..32 {
            out[j] = quants[j] & 15 | quants[j + 32] << 4;
        }
    }
}

/// The scale of each part of 16, and the quants, 32 and more for what is not negative.
#[inline(always)]
fn fit_scales(values: &[f32; 256]) -> (Lanes<16>, [[i32; 16]; 16]) {
    let x: [Lanes<16>; 16] = transpose(values);
    let (mut largest, mut max) = ([0.0; 16], [0.0; 16]);
    for x in &x {
        for p in 0..16 {
            if x[p].abs() > largest[p] {
                (largest[p], max[p]) = (x[p].abs(), x[p]);
            }
        }
    }

    let quantize = |inverse: &Lanes<16>| {
        let mut quants = [[0; 16]; 16];
        let (mut sum_lx, mut sum_l2) = ([0.0; 16], [0.0; 16]);
        for (quants, x) in quants.iter_mut().zip(&x) {
            for p in 0..16 {
                let quant = nearest(inverse[p] * x[p]).clamp(-32, 31);
                quants[p] = quant + 32;
                let (w, l) = (x[p] * x[p], quant as f32);
                sum_lx[p] += w * x[p] * l;
                sum_l2[p] += w * l * l;
            }
        }
        (quants, sum_lx, sum_l2)
    };

    let (mut quants, sum_lx, sum_l2) = quantize(&max.map(|max| -32.0 / max));
    let mut scale: Lanes<16> =
        std::array::from_fn(|p| if sum_l2[p] == 0.0 { 0.0 } else { sum_lx[p] / sum_l2[p] });
    let mut best: Lanes<16> = std::array::from_fn(|p| scale[p] * sum_lx[p]);
    for step in (-9..=9).filter(|&step| step != 0) {
        let (tried, sum_lx, sum_l2) = quantize(&max.map(|max| -(32.0 + 0.1 * step as f32) / max));
        let better: [bool; 16] =
            std::array::from_fn(|p| sum_l2[p] > 0.0 && sum_lx[p] * sum_lx[p] > best[p] * sum_l2[p]);
        if better != [false; 16] {
            for (quants, tried) in quants.iter_mut().zip(&tried) {
                for p in 0..16 {
                    quants[p] = if better[p] { tried[p] } else { quants[p] };
                }
            }
            for p in (0..16).filter(|&p| better[p]) {
                scale[p] = sum_lx[p] / sum_l2[p];
                best[p] = scale[p] * sum_lx[p];
            }
        }
    }

    for p in (0..16).filter(|&p| largest[p] < TINY) {
        scale[p] = 0.0;
        quants.iter_mut().for_each(|quants| quants[p] = 0);
    }
    (scale, quants)
}

#[inline(always)]
pub(super) fn to_q6(values: &[f32; 256], out: &mut [u8; 210]) {
    let (scale, fitted) = fit_scales(values);
    let (mut largest, mut max) = (0.0, 0.0);
    for scale in scale {
        if scale.abs() > largest {
            (largest, max) = (scale.abs(), scale);
        }
    }
    out.fill(0);
    if largest < TINY {
        return;
    }

    let inverse = -128.0 / max;
    out[208..].copy_from_slice(&f16_bytes(1.0 / inverse));
    let d = f16_at(out, 208);
    let mut quants = [0; 256];
    for (part, (quants, values)) in
        quants.as_chunks_mut::<16>().0.iter_mut().zip(values.as_chunks::<16>().0).enumerate()
    {
        let rounded = nearest(inverse * scale[part]).min(127) as i8;
        out[192 + part] = rounded as u8;
        let dl = d * f32::from(rounded);
        for (j, (quant, value)) in quants.iter_mut().zip(values).enumerate() {
            *quant =
                if dl == 0.0 { fitted[j][part] } else { nearest(value / dl).clamp(-32, 31) + 32 }
                    as u8;
        }
    }

    for (half, q) in quants.as_chunks::<128>().0.iter().enumerate() {
        for j in 0..64 {
            out[64 * half + j] = q[j] & 15 | q[j + 64] << 4;
        }
        for j in 0..32 {
            let high = [0, 1, 2, 3].map(|t| q[32 * t + j] >> 4 << (2 * t));
            out[128 + 32 * half + j] = high[0] | high[1] | high[2] | high[3];
        }
    }
}

pub(super) fn to_q8(values: &[f32; 256], out: &mut [u8; 292]) {
    let (mut largest, mut max) = (0.0, 0.0);
    for &value in values {
        if value.abs() > largest {
            (largest, max) = (value.abs(), value);
        }
    }
    out.fill(0);
    if largest == 0.0 {
        return;
    }

    let inverse = -127.0 / max;
    let (d, rest) = out.split_at_mut(4);
    let (q, sums) = rest.split_at_mut(256);
    d.copy_from_slice(&(1.0f32 / inverse).to_le_bytes());
    let parts = values.as_chunks::<16>().0.iter().zip(q.as_chunks_mut::<16>().0);
    for ((values, q), sum) in parts.zip(sums.as_chunks_mut::<2>().0) {
        let mut total = 0i16;
        for (q, value) in q.iter_mut().zip(values) {
            let quant = nearest(inverse * value).min(127) as i8;
            *q = quant as u8;
            total += i16::from(quant);
        }
        *sum = total.to_le_bytes();
    }
}
