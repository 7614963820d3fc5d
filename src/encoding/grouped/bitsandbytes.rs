//! The payloads of bitsandbytes.

use serde::Deserialize;

use super::matrix::centered;
use super::scaled::{Compute, scaled_bytes};
use crate::base::error::Result;
use crate::checkpoint::{DType, n_elements};
use crate::encoding::decoder::{Decoder, Formula, Grid, Quants};
use crate::encoding::number::Precision;
use crate::encoding::part::{Part, malformed};

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
pub(crate) fn stated_shape(quant_state: &[u8]) -> Option<Vec<u64>> {
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
