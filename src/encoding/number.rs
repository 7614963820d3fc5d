//! Numbers as they lie in blocks and scales.

use half::{bf16, f16};

/// The type that a library computes in: it rounds after every operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an F32.
    Bf16,
}

impl Precision {
    /// The nearest value of this type, ties to even.
    #[inline]
    pub fn round(self, value: f32) -> f32 {
        match self {
            Precision::F32 => value,
            Precision::F16 => f16::from_f32(value).to_f32(),
            Precision::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }
}

/// The value of an F16's bits.
///
/// The hardware's conversion is one instruction where there is one, behind a question whether
/// there is; this is a handful without the question, which is faster for one scale a block.
#[inline(always)]
pub(super) fn f16_to_f32(bits: u16) -> f32 {
    // Moved to its place in an F32, an F16 is 2^112 too small; the product is exact, for
    // subnormals too.
    const UP: f32 = f32::from_bits((127 + 112) << 23);
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let value = if magnitude < 0x7c00 {
        (f32::from_bits(magnitude << 13) * UP).to_bits()
    } else {
        0x7f80_0000 | magnitude << 13
    };
    f32::from_bits(sign | value)
}

/// The F16 at byte `at` of a block.
#[inline(always)]
pub(super) fn f16_at(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16_at(block, at))
}

/// The little-endian number at byte `at` of a block.
#[inline(always)]
pub(super) fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// The little-endian number at byte `at` of a block.
#[inline(always)]
pub(super) fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// The bytes of the nearest F16; infinite where there is none.
#[inline(always)]
pub(super) fn f16_bytes(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

/// Makes every NaN the same one.
#[cold]
pub(super) fn unify_nans(values: &mut [f32]) {
    for value in values.iter_mut().filter(|value| value.is_nan()) {
        *value = f32::NAN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_is_the_library_s_for_all_bits() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(bits), f16::from_bits(bits).to_f32_const());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan());
        }
    }
}
