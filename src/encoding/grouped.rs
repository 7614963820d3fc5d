//! The layouts of quantized safetensors checkpoints, each as a [`Decoder`].
//!
//! A weight is `[out, in]` where nothing else is said. Lengths and shapes are compared before
//! anything is read, so a decoder cannot reach past its parts.

use serde::Deserialize;

use super::decoder::{AWQ_PLACE, Decoder, Formula, Grid, Quants, word};
use super::number::Precision;
use super::part::{Part, malformed};
use super::small::{self, E2M1};
use crate::base::error::{Error, Result};
use crate::checkpoint::{DType, n_elements};

/// Rows and columns of a stack of matrices: `[rows of all, columns]`, and rows of one.
fn matrix(name: &str, part: &Part, values_per_element: usize) -> Result<([usize; 2], usize)> {
    let [.., rows, cols] = *part.shape else {
        return Err(malformed(format!("{name} is {:?}, expected a matrix", part.shape)));
    };
    let size = |dim: u64| usize::try_from(dim).ok();
    let all = n_elements(part.shape).and_then(|n| n.checked_div(cols)).and_then(size);
    let dims = all.zip(size(cols).and_then(|cols| cols.checked_mul(values_per_element)));
    match dims.zip(size(rows)) {
        Some(((all, cols), rows)) if cols > 0 && rows > 0 => Ok(([all, cols], rows)),
        _ => Err(malformed(format!("{name} is {:?}, which is empty or too large", part.shape))),
    }
}

/// `shape` with another last dimension.
fn with_last(shape: &[u64], last: usize) -> Vec<u64> {
    let lead = &shape[..shape.len().saturating_sub(1)];
    lead.iter().copied().chain([last as u64]).collect()
}

fn len([rows, cols]: [usize; 2]) -> Result<usize> {
    rows.checked_mul(cols).ok_or_else(|| malformed("more values than can be counted"))
}

fn centered(precision: Precision) -> Formula {
    Formula::Centered { difference: precision, product: precision }
}

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

fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
}

fn group_of_columns(part: &Part, columns: usize, groups: usize) -> Result<Vec<usize>> {
    part.expect("g_idx", &[DType::I32])?;
    if part.dims("g_idx")? != [columns] {
        return Err(malformed(format!("g_idx is {:?} for {columns} columns", part.shape)));
    }
    let group = |&bytes: &[u8; 4]| {
        let group = i32::from_le_bytes(bytes);
        usize::try_from(group)
            .ok()
            .filter(|&group| group < groups)
            .ok_or_else(|| malformed(format!("g_idx has group {group}, there are {groups}")))
    };
    part.bytes.as_chunks().0.iter().map(group).collect()
}

/// What bitsandbytes keeps as JSON in `quant_state.bitsandbytes__nf4` or `__fp4`.
#[derive(Debug, Deserialize)]
struct QuantState {
    blocksize: usize,
    shape: Vec<u64>,
    #[serde(default)]
    nested_blocksize: Option<usize>,
    #[serde(default)]
    nested_offset: Option<f64>,
}

/// The shape that the JSON of bitsandbytes states.
pub(super) fn stated_shape(quant_state: &[u8]) -> Option<Vec<u64>> {
    serde_json::from_slice::<QuantState>(quant_state).ok().map(|state| state.shape)
}

/// bitsandbytes NF4 and FP4: `weight` U8, two values a byte, the first in the high half; `absmax`,
/// one a block; `quant_map [16]`; `quant_state`, JSON with the shape. Nested, `absmax` is itself
/// quantized to U8, with `nested_absmax` and `nested_quant_map [256]`.
///
/// `w = quant_map[q] * absmax` in F32.
///
/// # Errors
/// The JSON does not say what it must, or the shapes do not fit it.
pub fn bitsandbytes_4bit<'a>(
    weight: Part<'a>,
    absmax: Part,
    quant_map: Part,
    quant_state: &[u8],
    nested: Option<[Part; 2]>,
) -> Result<Decoder<'a>> {
    let state: QuantState = serde_json::from_slice(quant_state)
        .map_err(|err| malformed(format!("the quant state: {err}")))?;
    let n = n_elements(&state.shape).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let block = state.blocksize;
    if n == 0 || block == 0 || !block.is_multiple_of(2) || weight.bytes.len() != n.div_ceil(2) {
        let (bytes, shape) = (weight.bytes.len(), &state.shape);
        return Err(malformed(format!("{bytes} bytes for {shape:?} in blocks of {block}")));
    }
    let table = quant_map.numbers("quant_map")?;
    let table: [f32; 16] =
        table.try_into().map_err(|_| malformed("quant_map has not 16 values"))?;

    let blocks = n.div_ceil(block);
    let mut scales = absmax.numbers("absmax")?;
    if let Some([nested_absmax, nested_map]) = nested {
        absmax.expect("absmax", &[DType::U8])?;
        let (map, factors) =
            (nested_map.numbers("nested_quant_map")?, nested_absmax.numbers("nested_absmax")?);
        let block = state.nested_blocksize.unwrap_or(0);
        let Some(offset) = state.nested_offset else {
            return Err(malformed("the quant state has no nested_offset"));
        };
        if map.len() != 256 || block == 0 || factors.len() != scales.len().div_ceil(block) {
            return Err(malformed("the nested absmax does not fit its blocks"));
        }
        for (i, (scale, &byte)) in scales.iter_mut().zip(absmax.bytes).enumerate() {
            *scale = map[usize::from(byte)] * factors[i / block] + offset as f32;
        }
    }
    if scales.len() != blocks {
        return Err(malformed(format!("{} scales for {blocks} blocks", scales.len())));
    }
    Ok(Decoder {
        shape: state.shape,
        len: n,
        row_len: block,
        quants: Quants::Nibbles { bytes: weight.bytes, table, high_first: true },
        scale: Grid::by_row(scales, blocks, 1, block),
        zero: None,
        formula: centered(Precision::F32),
    })
}

/// bitsandbytes LLM.int8: `weight` I8, `SCB [out]`, the largest of each row.
/// `w = q * SCB * (1 / 127)` in F32.
///
/// # Errors
/// The shapes do not fit each other.
pub fn bitsandbytes_int8<'a>(weight: Part<'a>, scb: Part) -> Result<Decoder<'a>> {
    weight.expect("the weight", &[DType::I8])?;
    let mut decoder = scaled_bytes(weight, scb, None, None, Compute::F32)?;
    decoder.formula = Formula::Factor(1.0 / 127.0);
    Ok(decoder)
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

/// The shape in bytes of packed nibbles; MLX keeps them in words.
fn byte_shape(packed: &Part) -> Result<Vec<u64>> {
    packed.expect("the weight", &[DType::U8, DType::I8, DType::U32])?;
    let mut shape = packed.shape.to_vec();
    if let (DType::U32, Some(last)) = (packed.dtype, shape.last_mut()) {
        *last = last.saturating_mul(4);
    }
    Ok(shape)
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
