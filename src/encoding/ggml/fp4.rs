//! Blocks of 4-bit floats under an 8-bit float.

/// Twice the values of E2M1, so that they are integers; scales are halved for it.
pub(crate) const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of 2^(exponent - 127). 255, which stands for NaN elsewhere, is 2^127 to ggml.
#[inline(always)]
fn half_e8m0(exponent: u8) -> f32 {
    match exponent {
        0 | 1 => f32::from_bits(0x0020_0000 << exponent),
        _ => f32::from_bits(u32::from(exponent - 1) << 23),
    }
}

/// Half of an unsigned E4M3. NaN without a sign is 0 to ggml; with one it is a number.
fn half_e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (bits >> 3 & 15, f32::from(bits & 7));
    match (bits, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa * (0.5 / 512.0),
        _ => (1.0 + mantissa / 8.0) * f32::from_bits((u32::from(exponent) + 127 - 8) << 23),
    }
}

/// The unsigned E4M3 that ggml rounds to: half away from zero by the next bit alone, and the
/// largest at most.
fn to_e4m3(value: f32) -> u8 {
    const MAX: u8 = 0x7e;
    let value = value.min(448.0);
    let bits = value.to_bits();
    let exponent = (bits >> 23) as i32 - 127 + 7;
    if exponent <= 0 {
        return ((value * 512.0 + 0.5) as u8).min(7);
    }
    // A mantissa that rounds up to 8 carries into the exponent.
    let rounded = (exponent << 3) + (bits >> 20 & 7) as i32 + (bits >> 19 & 1) as i32;
    if exponent >= 15 || rounded >= 15 << 3 { MAX } else { rounded as u8 }
}

/// The index of the value nearest to `value / d`, the first of equals.
#[inline(always)]
fn nearest(value: f32, d: f32) -> u8 {
    let mut best = (0, (f32::from(E2M1_DOUBLED[0]) * d - value).abs());
    for (index, &step) in E2M1_DOUBLED.iter().enumerate().skip(1) {
        let error = (f32::from(step) * d - value).abs();
        if error < best.1 {
            best = (index as u8, error);
        }
    }
    best.0
}

#[inline(always)]
pub(super) fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) -> bool {
    let d = half_e8m0(block[0]);
    for j in 0..16 {
        let byte = usize::from(block[1 + j]);
        out[j] = d * f32::from(E2M1_DOUBLED[byte & 15]);
        out[j + 16] = d * f32::from(E2M1_DOUBLED[byte >> 4]);
    }
    true
}

#[inline(always)]
pub(super) fn to_mxfp4(values: &[f32; 32], out: &mut [u8; 17]) {
    let max = super::legacy::magnitude(values);
    // The logarithm is rounded to F32 before it is cut, as in the reference: just under a power
    // of two it is that power's. Under 2^-125 the reference's exponent wraps around to scales
    // near 2^128; here it stays at the smallest.
    let log = f64::from(max).log2() as f32;
    let exponent = if max > 0.0 { (log.floor() - 2.0 + 127.0) as u8 } else { 0 };
    let d = half_e8m0(exponent);
    out[0] = exponent;
    for j in 0..16 {
        out[1 + j] = nearest(values[j], d) | nearest(values[j + 16], d) << 4;
    }
}

/// Four scales, then the nibbles of each 16 values: byte j of 8 holds values j and j + 8.
#[inline(always)]
pub(super) fn nvfp4(block: &[u8; 36], out: &mut [f32; 64]) -> bool {
    for part in 0..4 {
        let d = half_e4m3(block[part]);
        for j in 0..8 {
            let byte = usize::from(block[4 + 8 * part + j]);
            out[16 * part + j] = d * f32::from(E2M1_DOUBLED[byte & 15]);
            out[16 * part + j + 8] = d * f32::from(E2M1_DOUBLED[byte >> 4]);
        }
    }
    true
}

pub(super) fn to_nvfp4(values: &[f32; 64], out: &mut [u8; 36]) {
    for (part, values) in values.as_chunks::<16>().0.iter().enumerate() {
        let scale = to_e4m3(super::legacy::magnitude(values) / 6.0);
        let d = half_e4m3(scale);
        out[part] = scale;
        for j in 0..8 {
            out[4 + 8 * part + j] = nearest(values[j], d) | nearest(values[j + 8], d) << 4;
        }
    }
}
