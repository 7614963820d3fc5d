//! Floats of 4 bits: MXFP4 and NVFP4.

use super::matrix::{byte_shape, centered, len, matrix, with_last};
use crate::base::error::Result;
use crate::checkpoint::DType;
use crate::encoding::decoder::{Decoder, Grid, Quants};
use crate::encoding::number::Precision;
use crate::encoding::part::{Part, malformed};
use crate::encoding::small::E2M1;

/// What the scale of all blocks does to NVFP4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalScale {
    /// Block scales are divided by it: compressed-tensors' `weight_global_scale`.
    Divides,
    /// They are multiplied with it: ModelOpt's `weight_scale_2`, torchao's `per_tensor_scale`.
    Multiplies,
}

/// NVFP4: `weight` U8 (or U32 of four such), two E2M1 a byte, the first in the low half; `scale` F8_E4M3, one for 16;
/// and one F32 for all. Computed in F32, the scales first.
///
/// # Errors
/// The shapes do not fit each other.
pub fn nvfp4<'a>(
    packed: Part<'a>,
    scale: Part,
    global: Option<(Part, GlobalScale)>,
) -> Result<Decoder<'a>> {
    scale.expect("the scale", &[DType::F8E4M3, DType::U8])?;
    let scale = Part { dtype: DType::F8E4M3, ..scale };
    let mut decoder = e2m1_pairs(packed.bytes, &byte_shape(&packed)?, scale, 16)?;
    if let Some((global, effect)) = global {
        let global = global.numbers("the global scale")?;
        let [global] = global[..] else {
            return Err(malformed(format!("{} global scales, expected one", global.len())));
        };
        for scale in &mut decoder.scale.values {
            *scale = match effect {
                GlobalScale::Divides => *scale / global,
                GlobalScale::Multiplies => *scale * global,
            };
        }
    }
    Ok(decoder)
}

/// MXFP4 in two tensors: `weight [.., in / 2]` U8 (or U32 of four such) and `scale [.., in / 32]`, E8M0.
///
/// # Errors
/// The shapes do not fit each other.
pub fn mxfp4<'a>(packed: Part<'a>, scale: Part) -> Result<Decoder<'a>> {
    scale.expect("the scales", &[DType::U8, DType::F8E8M0])?;
    let scale = Part { dtype: DType::F8E8M0, ..scale };
    e2m1_pairs(packed.bytes, &byte_shape(&packed)?, scale, 32)
}

/// gpt-oss MXFP4: `blocks [.., in / 32, 16]` U8, the first value of a byte in its low half, and
/// `scales [.., in / 32]`, E8M0. The values are `[.., in]` as the rows lie, not transposed.
///
/// # Errors
/// The shapes do not fit each other.
pub fn mxfp4_blocks<'a>(blocks: Part<'a>, scales: Part) -> Result<Decoder<'a>> {
    let [lead @ .., 16] = blocks.shape else {
        return Err(malformed(format!("blocks are {:?}, expected 16 bytes", blocks.shape)));
    };
    let Some(bytes) = lead.last().and_then(|groups| groups.checked_mul(16)) else {
        return Err(malformed(format!("blocks are {:?}", blocks.shape)));
    };
    if lead != scales.shape {
        let message = format!("scales are {:?} for blocks {:?}", scales.shape, blocks.shape);
        return Err(malformed(message));
    }
    blocks.expect("blocks", &[DType::U8])?;
    scales.expect("scales", &[DType::U8, DType::F8E8M0])?;
    let flat = [&lead[..lead.len() - 1], &[bytes]].concat();
    e2m1_pairs(blocks.bytes, &flat, Part { dtype: DType::F8E8M0, ..scales }, 32)
}

/// Two E2M1 a byte, the first in the low half, under one scale for `block` of them.
fn e2m1_pairs<'a>(
    bytes: &'a [u8],
    shape: &[u64],
    scale: Part,
    block: usize,
) -> Result<Decoder<'a>> {
    let packed = Part { dtype: DType::U8, shape, bytes };
    let (dims, matrix_rows) = matrix("the weight", &packed, 2)?;
    let [lead @ .., _] = shape else { return Err(malformed("the weight has no axes")) };
    let fits = match scale.shape {
        [scale_lead @ .., groups] => {
            scale_lead == lead && groups.checked_mul(block as u64) == Some(dims[1] as u64)
        }
        [] => false,
    };
    if !fits || len(dims)? != bytes.len() * 2 {
        return Err(malformed(format!("the scale is {:?} for {shape:?} bytes", scale.shape)));
    }
    Ok(Decoder {
        shape: with_last(shape, dims[1]),
        len: len(dims)?,
        row_len: dims[1],
        quants: Quants::Nibbles { bytes, table: E2M1, high_first: false },
        scale: Grid::of("the scale", &scale, matrix_rows, dims, None)?,
        zero: None,
        formula: centered(Precision::F32),
    })
}

/// The nibbles of an MXFP4 block from pairs (byte j holds values 2 j and 2 j + 1; OpenAI, and the
/// standard) to halves (values j and j + 16; ggml).
pub fn pairs_to_halves(pairs: [u8; 16]) -> [u8; 16] {
    let value = |i: usize| pairs[i / 2] >> (4 * (i % 2)) & 15;
    std::array::from_fn(|j| value(j) | value(j + 16) << 4)
}

/// The inverse of [`pairs_to_halves`].
pub fn halves_to_pairs(halves: [u8; 16]) -> [u8; 16] {
    let value = |i: usize| halves[i % 16] >> (4 * (i / 16)) & 15;
    std::array::from_fn(|j| value(2 * j) | value(2 * j + 1) << 4)
}
