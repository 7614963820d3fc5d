//! Bytes and nibbles with scales for blocks of them.

use super::matrix::{centered, len, matrix, transposed, with_last};
use crate::base::error::{Error, Result};
use crate::checkpoint::DType;
use crate::encoding::decoder::{Decoder, Formula, Grid, Quants};
use crate::encoding::number::Precision;
use crate::encoding::part::{Part, malformed};
use crate::encoding::small;

/// Integers or small floats of a byte each under scales of any grain: one for all, one a row, one
/// a block; FP8 of DeepSeek (128 x 128), of compressed-tensors, of torchao; INT8 of both.
///
/// `block` is the configured size of blocks, where there is one; it matters where blocks are cut
/// at the edge. Scales of U8 are E8M0, as in MXFP8.
///
/// FP8 is computed in F32, as transformers 5.23 and torchao 0.18 do, if `compute` is F32;
/// compressed-tensors 0.20 computes in the scale's type.
///
/// # Errors
/// The shapes do not fit each other, or a type is none of those.
pub fn scaled_bytes<'a>(
    weight: Part<'a>,
    scale: Part,
    zero: Option<Part>,
    block: Option<[usize; 2]>,
    compute: Compute,
) -> Result<Decoder<'a>> {
    let (dims, matrix_rows) = matrix("the weight", &weight, 1)?;
    let Some(table) = small::table(weight.dtype) else {
        return Err(malformed(format!("the weight is {}, not of a byte", weight.dtype)));
    };
    let scale = match scale.dtype {
        DType::U8 => Part { dtype: DType::F8E8M0, ..scale },
        _ => scale,
    };
    let formula = match compute {
        Compute::F32 => centered(Precision::F32),
        Compute::AsScale => centered(scale.precision()),
        Compute::As(difference) => {
            let wide = difference == scale.precision();
            Formula::Centered {
                difference,
                product: if wide { difference } else { Precision::F32 },
            }
        }
    };
    Ok(Decoder {
        shape: weight.shape.to_vec(),
        len: len(dims)?,
        row_len: dims[1],
        quants: Quants::Bytes { bytes: weight.bytes, table: Box::new(table) },
        scale: Grid::of("the scale", &scale, matrix_rows, dims, block)?,
        zero: zero
            .map(|zero| Grid::of("the zero point", &zero, matrix_rows, dims, block))
            .transpose()?,
        formula,
    })
}

/// What a library computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compute {
    /// F32, whatever takes part.
    F32,
    /// The type of the scale.
    AsScale,
    /// This type up to the product, which torch promotes to F32 where the scale is of another.
    As(Precision),
}

/// torchao's Int4Tensor: `qdata [out, in / 2]`, signed, the first value of a byte in its low half;
/// `scale` and `zero_point` `[groups, out]`. `w = q * scale + zero_point` in their type.
///
/// # Errors
/// The shapes do not fit each other.
pub fn torchao_int4<'a>(qdata: Part<'a>, scale: Part, zero: Part) -> Result<Decoder<'a>> {
    qdata.expect("qdata", &[DType::U8, DType::I8])?;
    let [rows, bytes] = qdata.dims("qdata")?;
    let [groups, outputs] = scale.dims("scale")?;
    let cols = bytes.saturating_mul(2);
    let fits = outputs == rows && zero.shape == scale.shape && cols > 0 && rows > 0 && groups > 0;
    if !fits || !cols.is_multiple_of(groups) {
        let shapes = [qdata.shape, scale.shape, zero.shape];
        return Err(malformed(format!("{shapes:?} is no Int4Tensor")));
    }
    let by_row = |name: &str, part: &Part| -> Result<Grid> {
        let values = transposed(&part.numbers(name)?, groups, rows);
        Ok(Grid::by_row(values, rows, groups, cols / groups))
    };
    Ok(Decoder {
        shape: vec![rows as u64, cols as u64],
        len: len([rows, cols])?,
        row_len: cols,
        quants: Quants::Nibbles {
            bytes: qdata.bytes,
            table: std::array::from_fn(|q| if q < 8 { q as f32 } else { q as f32 - 16.0 }),
            high_first: false,
        },
        scale: by_row("scale", &scale)?,
        zero: Some(by_row("zero_point", &zero)?),
        formula: Formula::Line(scale.precision()),
    })
}

/// MLX affine groups: `weight` U32 `[.., in * bits / 32]`, the lowest bits first, `scales` and
/// `biases` `[.., groups]`. `w = scale * q + bias` in the scales' type.
///
/// # Errors
/// The shapes do not fit each other, or the bits are none of 2, 3, 4, 5, 6 and 8.
pub fn mlx<'a>(weight: Part<'a>, scales: Part, biases: Part, bits: usize) -> Result<Decoder<'a>> {
    if ![2, 3, 4, 5, 6, 8].contains(&bits) {
        return Err(Error::unsupported(format!("MLX of {bits} bits")));
    }
    weight.expect("the weight", &[DType::U32])?;
    let ([rows, word_bits], matrix_rows) = matrix("the weight", &weight, 32)?;
    let dims = [rows, word_bits / bits];
    if scales.shape != biases.shape || scales.dtype != biases.dtype || dims[1] * bits != word_bits {
        let shapes = [weight.shape, scales.shape, biases.shape];
        return Err(malformed(format!("{shapes:?} is no MLX of {bits} bits")));
    }
    Ok(Decoder {
        shape: with_last(weight.shape, dims[1]),
        len: len(dims)?,
        row_len: dims[1],
        quants: Quants::Bits { bytes: weight.bytes, bits, row_bytes: word_bits / 8, offset: 0 },
        scale: Grid::of("scales", &scales, matrix_rows, dims, None)?,
        zero: Some(Grid::of("biases", &biases, matrix_rows, dims, None)?),
        formula: Formula::Line(scales.precision()),
    })
}
