//! Values of any number of bits in words of 32: GPTQ, AWQ, compressed-tensors.

use super::matrix::{centered, group_of_columns, len, transposed};
use crate::base::error::{Error, Result};
use crate::checkpoint::DType;
use crate::encoding::decoder::{AWQ_PLACE, Decoder, Grid, Quants, word};
use crate::encoding::part::{Part, malformed};

/// How GPTQ files store zeros: the first version one less, modulo 2^bits (AutoGPTQ, and
/// GPTQModel's `checkpoint_format: gptq`); the second as they are (`gptq_v2`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GptqVersion {
    /// Zeros are stored less one.
    V1,
    /// Zeros are stored as they are.
    V2,
}

/// GPTQ: `qweight [in * bits / 32, out]`, `qzeros [groups, out * bits / 32]`,
/// `scales [groups, out]`, and with act-order `g_idx [in]`, the group of each input.
///
/// `w = scales * (q - zeros)`, computed in the type of the scales.
///
/// # Errors
/// The shapes do not fit each other, the bits are none of 2, 3, 4 and 8, or a group is none.
pub fn gptq<'a>(
    [qweight, qzeros, scales]: [Part<'a>; 3],
    g_idx: Option<Part>,
    bits: usize,
    group_size: Option<usize>,
    version: GptqVersion,
) -> Result<Decoder<'a>> {
    if ![2, 3, 4, 8].contains(&bits) {
        return Err(Error::unsupported(format!("GPTQ of {bits} bits")));
    }
    qweight.expect("qweight", &[DType::I32, DType::U32])?;
    qzeros.expect("qzeros", &[DType::I32, DType::U32])?;
    let [words, outputs] = qweight.dims("qweight")?;
    let [groups, zero_words] = qzeros.dims("qzeros")?;
    let word_bits = words.checked_mul(32).unwrap_or(0);
    let inputs = word_bits / bits;
    let fits = scales.dims("scales")? == [groups, outputs]
        && word_bits == inputs * bits
        && zero_words.checked_mul(32) == outputs.checked_mul(bits)
        && groups > 0
        && inputs > 0
        && outputs > 0;
    if !fits {
        let shapes = [qweight.shape, qzeros.shape, scales.shape];
        return Err(malformed(format!("{shapes:?} is no GPTQ of {bits} bits")));
    }

    let mask = (1u32 << bits) - 1;
    let added = u32::from(version == GptqVersion::V1);
    let zero = |group: usize, output: usize| {
        let (at, shift) = (output * bits / 32, output * bits % 32);
        let low = word(qzeros.bytes, group * zero_words + at);
        let high =
            if shift + bits > 32 { word(qzeros.bytes, group * zero_words + at + 1) } else { 0 };
        let both = u64::from(low) | u64::from(high) << 32;
        ((((both >> shift) as u32 & mask) + added) & mask) as f32
    };
    let zeros = (0..outputs).flat_map(|output| (0..groups).map(move |group| (group, output)));
    let zeros = zeros.map(|(group, output)| zero(group, output)).collect();
    let scale_values = transposed(&scales.numbers("scales")?, groups, outputs);

    let group_size = group_size.unwrap_or_else(|| inputs.div_ceil(groups)).max(1);
    let mut scale = Grid::by_row(scale_values, outputs, groups, group_size);
    let mut zero = Grid::by_row(zeros, outputs, groups, group_size);
    match g_idx {
        Some(g_idx) => {
            let group_of = group_of_columns(&g_idx, inputs, groups)?;
            zero.group_of = Some(group_of.clone());
            scale.group_of = Some(group_of);
        }
        None if inputs.div_ceil(group_size) != groups => {
            let message = format!("{groups} groups of {group_size} for {inputs} inputs");
            return Err(malformed(message));
        }
        None => {}
    }
    Ok(Decoder {
        shape: vec![outputs as u64, inputs as u64],
        len: len([outputs, inputs])?,
        row_len: inputs,
        quants: Quants::Columns { bytes: qweight.bytes, bits, stride: outputs },
        scale,
        zero: Some(zero),
        formula: centered(scales.precision()),
    })
}

/// AWQ in the order of its GEMM kernels: `qweight [in, out / 8]`, `qzeros [groups, out / 8]`,
/// `scales [groups, out]`, four bits. `w = (q - zeros) * scales` in the type of the scales.
///
/// # Errors
/// The shapes do not fit each other.
pub fn awq<'a>([qweight, qzeros, scales]: [Part<'a>; 3]) -> Result<Decoder<'a>> {
    qweight.expect("qweight", &[DType::I32, DType::U32])?;
    qzeros.expect("qzeros", &[DType::I32, DType::U32])?;
    let [inputs, words] = qweight.dims("qweight")?;
    let [groups, outputs] = scales.dims("scales")?;
    let fits = qzeros.dims("qzeros")? == [groups, words]
        && words.checked_mul(8) == Some(outputs)
        && groups > 0
        && outputs > 0
        && inputs > 0
        && inputs.is_multiple_of(groups);
    if !fits {
        let shapes = [qweight.shape, qzeros.shape, scales.shape];
        return Err(malformed(format!("{shapes:?} is no AWQ of 4 bits")));
    }
    let zeros = (0..outputs).flat_map(|output| (0..groups).map(move |group| (group, output)));
    let zeros = zeros.map(|(group, output)| {
        let word = word(qzeros.bytes, group * words + output / 8);
        (word >> (4 * AWQ_PLACE[output % 8]) & 15) as f32
    });
    let scale_values = transposed(&scales.numbers("scales")?, groups, outputs);
    let group_size = inputs / groups;
    Ok(Decoder {
        shape: vec![outputs as u64, inputs as u64],
        len: len([outputs, inputs])?,
        row_len: inputs,
        quants: Quants::Awq { bytes: qweight.bytes, stride: words },
        scale: Grid::by_row(scale_values, outputs, groups, group_size),
        zero: Some(Grid::by_row(zeros.collect(), outputs, groups, group_size)),
        formula: centered(scales.precision()),
    })
}

/// compressed-tensors `pack-quantized`: `weight_packed` I32, a stream of `bits` a row with an
/// offset of half the range; `weight_scale [out, groups]`; `weight_shape`, the true shape; and
/// `weight_zero_point`, packed down the rows. `w = (q - zero) * scale` in the scale's type.
///
/// # Errors
/// The shapes do not fit each other, or the bits are not 1 to 8, or neither stated nor plain from
/// rows of whole words.
pub fn pack_quantized<'a>(
    packed: Part<'a>,
    scale: Part,
    shape: Part,
    zero: Option<Part>,
    g_idx: Option<Part>,
    bits: Option<usize>,
) -> Result<Decoder<'a>> {
    packed.expect("weight_packed", &[DType::I32])?;
    let [rows, words] = packed.dims("weight_packed")?;
    let sizes: Vec<i64> = match shape.dtype {
        DType::I64 => shape.bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
        DType::I32 => {
            shape.bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect()
        }
        dtype => return Err(malformed(format!("weight_shape is {dtype}"))),
    };
    let cols = match *sizes {
        [r, c] if usize::try_from(r) == Ok(rows) => usize::try_from(c).unwrap_or(0),
        _ => 0,
    };
    // Where groups of modules have other bits each, they follow from rows of whole words.
    let word_bits = words.saturating_mul(32);
    let follows =
        word_bits.checked_div(cols).filter(|bits| bits.checked_mul(cols) == Some(word_bits));
    let bits = bits.or(follows).ok_or_else(|| malformed("nothing says how many bits it has"))?;
    if !(1..=8).contains(&bits) {
        return Err(Error::unsupported(format!("pack-quantized of {bits} bits")));
    }
    if cols == 0 || rows == 0 || cols.checked_mul(bits).map(|n| n.div_ceil(32)) != Some(words) {
        let message = format!("weight_packed is {:?} for {sizes:?}", packed.shape);
        return Err(malformed(message));
    }
    let dims = [rows, cols];
    let formula = centered(scale.precision());
    let mut scale = Grid::of("weight_scale", &scale, rows, dims, None)?;
    let offset = -(1i32 << (bits - 1));
    let mut zero = match zero {
        None => None,
        Some(zero) => {
            zero.expect("weight_zero_point", &[DType::I32])?;
            let groups = scale.dims[1];
            let words = (rows * bits).div_ceil(32);
            if zero.dims("weight_zero_point")? != [words, groups] || scale.dims[0] != rows {
                let message = format!("weight_zero_point is {:?}", zero.shape);
                return Err(malformed(message));
            }
            // Down the rows: the stream of a group is a column of words.
            let stream = Quants::Columns { bytes: zero.bytes, bits, stride: groups };
            let mut values = vec![0.0; rows * groups];
            let mut column = vec![0.0; rows];
            for group in 0..groups {
                stream.read(group, rows, 0, &mut column);
                for (row, value) in column.iter().enumerate() {
                    values[row * groups + group] = value + offset as f32;
                }
            }
            Some(Grid::by_row(values, rows, groups, scale.col_block))
        }
    };
    if let Some(g_idx) = g_idx {
        let group_of = group_of_columns(&g_idx, cols, scale.dims[1])?;
        if let Some(zero) = &mut zero {
            zero.group_of = Some(group_of.clone());
        }
        scale.group_of = Some(group_of);
    }
    Ok(Decoder {
        shape: vec![rows as u64, cols as u64],
        len: len(dims)?,
        row_len: cols,
        quants: Quants::Bits { bytes: packed.bytes, bits, row_bytes: 4 * words, offset },
        scale,
        zero,
        formula,
    })
}
