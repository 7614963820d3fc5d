//! Types of one value a block.

use half::{bf16, f16};

use crate::encoding::number::f16_to_f32;

#[inline(always)]
pub(super) fn f16(&bytes: &[u8; 2], [out]: &mut [f32; 1]) -> bool {
    *out = f16_to_f32(u16::from_le_bytes(bytes));
    out.is_finite()
}

#[inline(always)]
pub(super) fn to_f16(&[value]: &[f32; 1], out: &mut [u8; 2]) {
    *out = f16::from_f32(value).to_le_bytes();
}

#[inline(always)]
pub(super) fn bf16(&[low, high]: &[u8; 2], [out]: &mut [f32; 1]) -> bool {
    *out = f32::from_le_bytes([0, 0, low, high]);
    out.is_finite()
}

#[inline(always)]
pub(super) fn to_bf16(&[value]: &[f32; 1], out: &mut [u8; 2]) {
    *out = bf16::from_f32(value).to_le_bytes();
}
