//! The block types of ggml.
//!
//! A row is a whole number of blocks; a block has a fixed number of bytes and of values. The
//! layouts are those of `ggml-common.h`, the arithmetic that of gguf-py 0.19.0 (`gguf.quants`),
//! or of `ggml-quants.c` (ggml d99724f) where gguf-py has none; each result is theirs bit for bit.

mod fp4;
mod grid;
mod k;
mod k_fit;
mod lattice;
mod legacy;
mod plain;
mod ternary;

use std::fmt;

use serde::{Serialize, Serializer};

use super::number::unify_nans;
use crate::base::error::{Error, ErrorKind, Result};

/// How a number of values lies in a number of bytes.
pub struct BlockType {
    /// The id of the encoding, `ggml.q4_k`.
    pub id: &'static str,
    /// The number of the type in a GGUF file.
    pub ggml_type: u32,
    /// Values in a block.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    decode: Decode,
    encode: Option<Encode>,
}

impl PartialEq for BlockType {
    fn eq(&self, other: &BlockType) -> bool {
        self.id == other.id
    }
}

impl Eq for BlockType {}

impl fmt::Debug for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}

impl Serialize for BlockType {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id)
    }
}

/// How many blocks are encoded at a time.
const PART_BLOCKS: usize = 64;

/// Blocks to values, of lengths that fit.
type Decode = fn(&[u8], &mut [f32]);
/// Values to blocks, of lengths that fit.
type Encode = fn(&[f32], &mut [u8]);

impl BlockType {
    /// The type of this id.
    pub fn find(id: &str) -> Option<&'static BlockType> {
        BLOCK_TYPES.iter().find(|block| block.id == id)
    }

    /// The type of this number in a GGUF file.
    pub fn of_ggml_type(number: u32) -> Option<&'static BlockType> {
        BLOCK_TYPES.iter().find(|block| block.ggml_type == number)
    }

    /// The bytes of a row of `n` values, or `None` if a block would be cut or `u64` overflows.
    pub fn n_bytes(&self, n: u64) -> Option<u64> {
        let len = self.block_len as u64;
        n.is_multiple_of(len).then(|| (n / len).checked_mul(self.block_bytes as u64)).flatten()
    }

    /// Whether [`quantize`](Self::quantize) has this type.
    pub fn can_quantize(&self) -> bool {
        self.encode.is_some()
    }

    /// The values of whole blocks, into `out`.
    ///
    /// # Errors
    /// The bytes are no whole number of blocks, or `out` has another number of values.
    pub fn dequantize(&self, blocks: &[u8], out: &mut [f32]) -> Result<()> {
        self.check(blocks.len(), out.len())?;
        (self.decode)(blocks, out);
        Ok(())
    }

    /// The blocks nearest to `values`, as ggml's reference quantizer chooses them, into `out`.
    ///
    /// A scale that F16 cannot hold becomes infinite, as it does there.
    ///
    /// # Errors
    /// The values are no whole number of blocks, `out` has another number of bytes, a value is
    /// infinite or NaN, or there is no quantizer for this type.
    pub fn quantize(&self, values: &[f32], out: &mut [u8]) -> Result<()> {
        let Some(encode) = self.encode else {
            return Err(Error::unsupported(format!("nothing here quantizes to {}", self.id)));
        };
        self.check(out.len(), values.len())?;
        // In parts that stay in the cache between the question and the encoding.
        let parts = values.chunks(PART_BLOCKS * self.block_len);
        for (part, out) in parts.zip(out.chunks_mut(PART_BLOCKS * self.block_bytes)) {
            if !all_finite(part) {
                let at = values.iter().position(|value| !value.is_finite()).unwrap_or_default();
                let message =
                    format!("value {at} is {}, which {} cannot hold", values[at], self.id);
                return Err(Error::unsupported(message));
            }
            encode(part, out);
        }
        Ok(())
    }

    fn check(&self, n_bytes: usize, n_values: usize) -> Result<()> {
        let blocks = n_bytes / self.block_bytes;
        let whole = n_bytes.is_multiple_of(self.block_bytes);
        if whole && Some(n_values) == blocks.checked_mul(self.block_len) {
            return Ok(());
        }
        let (id, len, bytes) = (self.id, self.block_len, self.block_bytes);
        let message = format!(
            "{n_bytes} bytes for {n_values} values: a block of {id} is {bytes} bytes for {len}"
        );
        Err(Error::new(ErrorKind::Malformed, message))
    }
}

/// Whether all are; without a branch a value, so that it costs next to nothing.
fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    let mut bad = 0;
    for value in values {
        bad |= u32::from(value.to_bits() & EXPONENT == EXPONENT);
    }
    bad == 0
}

/// Decodes block by block. `block` says whether its scales are finite; if not, NaNs may have
/// come of them.
#[inline(always)]
fn decode<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; LEN]) -> bool,
) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        if !block(bytes, out) {
            unify_nans(out);
        }
    }
}

/// Encodes block by block.
#[inline(always)]
fn encode<const LEN: usize, const BYTES: usize>(
    values: &[f32],
    out: &mut [u8],
    block: impl Fn(&[f32; LEN], &mut [u8; BYTES]),
) {
    for (values, out) in values.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        block(values, out);
    }
}

macro_rules! block_types {
    ($($number:literal $id:literal $len:literal / $bytes:literal, $decode:path $(, $encode:path)?;)*) => {
        /// Every block type, by number.
        pub const BLOCK_TYPES: &[BlockType] = &[$(BlockType {
            id: $id,
            ggml_type: $number,
            block_len: $len,
            block_bytes: $bytes,
            decode: |bytes, out| decode::<$bytes, $len>(bytes, out, $decode),
            encode: block_types!(@encode $len $bytes $($encode)?),
        },)*];
    };
    (@encode $len:literal $bytes:literal) => { None };
    (@encode $len:literal $bytes:literal $encode:path) => {
        Some(|values, out| encode::<$len, $bytes>(values, out, $encode))
    };
}

block_types! {
    1 "ggml.f16" 1 / 2, plain::f16, plain::to_f16;
    2 "ggml.q4_0" 32 / 18, legacy::q4_0, legacy::to_q4_0;
    3 "ggml.q4_1" 32 / 20, legacy::q4_1, legacy::to_q4_1;
    6 "ggml.q5_0" 32 / 22, legacy::q5_0, legacy::to_q5_0;
    7 "ggml.q5_1" 32 / 24, legacy::q5_1, legacy::to_q5_1;
    8 "ggml.q8_0" 32 / 34, legacy::q8_0, legacy::to_q8_0;
    9 "ggml.q8_1" 32 / 36, legacy::q8_1, legacy::to_q8_1;
    10 "ggml.q2_k" 256 / 84, k::q2;
    11 "ggml.q3_k" 256 / 110, k::q3;
    12 "ggml.q4_k" 256 / 144, k::q4, k_fit::to_q4;
    13 "ggml.q5_k" 256 / 176, k::q5, k_fit::to_q5;
    14 "ggml.q6_k" 256 / 210, k::q6, k_fit::to_q6;
    15 "ggml.q8_k" 256 / 292, k::q8, k_fit::to_q8;
    16 "ggml.iq2_xxs" 256 / 66, lattice::iq2_xxs;
    17 "ggml.iq2_xs" 256 / 74, lattice::iq2_xs;
    18 "ggml.iq3_xxs" 256 / 98, lattice::iq3_xxs;
    19 "ggml.iq1_s" 256 / 50, lattice::iq1_s;
    20 "ggml.iq4_nl" 32 / 18, lattice::iq4_nl;
    21 "ggml.iq3_s" 256 / 110, lattice::iq3_s;
    22 "ggml.iq2_s" 256 / 82, lattice::iq2_s;
    23 "ggml.iq4_xs" 256 / 136, lattice::iq4_xs;
    29 "ggml.iq1_m" 256 / 56, lattice::iq1_m;
    30 "ggml.bf16" 1 / 2, plain::bf16, plain::to_bf16;
    34 "ggml.tq1_0" 256 / 54, ternary::tq1_0, ternary::to_tq1_0;
    35 "ggml.tq2_0" 256 / 66, ternary::tq2_0, ternary::to_tq2_0;
    39 "ggml.mxfp4" 32 / 17, fp4::mxfp4, fp4::to_mxfp4;
    40 "ggml.nvfp4" 64 / 36, fp4::nvfp4, fp4::to_nvfp4;
    41 "ggml.q1_0" 128 / 18, legacy::q1_0;
    42 "ggml.q2_0" 64 / 18, legacy::q2_0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_lengths_are_errors() {
        for block in BLOCK_TYPES {
            let (len, bytes) = (block.block_len, block.block_bytes);
            for (n_bytes, n_values) in [
                (bytes - 1, len),
                (bytes + 1, len),
                (bytes, len + 1),
                (bytes, len - 1),
                (2 * bytes, len),
                (0, len),
                (bytes, 0),
            ] {
                let id = block.id;
                let decoded = block.dequantize(&vec![0; n_bytes], &mut vec![0.0; n_values]);
                assert!(decoded.is_err(), "{id}: {n_bytes} bytes, {n_values} values");
                let encoded = block.quantize(&vec![0.0; n_values], &mut vec![0; n_bytes]);
                assert!(encoded.is_err(), "{id}: {n_values} values, {n_bytes} bytes");
            }
            assert!(block.dequantize(&[], &mut []).is_ok());
        }
    }

    #[test]
    fn values_that_are_no_numbers_are_errors() {
        for block in BLOCK_TYPES.iter().filter(|block| block.can_quantize()) {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = vec![0.0; block.block_len];
                values[block.block_len - 1] = bad;
                let result = block.quantize(&values, &mut vec![0; block.block_bytes]);
                assert!(result.is_err(), "{}: {bad}", block.id);
            }
        }
    }

    #[test]
    fn every_byte_pattern_decodes_without_a_panic() {
        for block in BLOCK_TYPES {
            let mut out = vec![0.0; block.block_len];
            for byte in 0..=u8::MAX {
                block.dequantize(&vec![byte; block.block_bytes], &mut out).unwrap();
                let nan = out.iter().find(|value| value.is_nan());
                assert!(nan.is_none_or(|nan| nan.to_bits() == f32::NAN.to_bits()), "{}", block.id);
            }
        }
    }

    #[test]
    fn extreme_values_quantize_without_a_panic() {
        const EXTREMES: [f32; 8] =
            [0.0, -0.0, f32::MAX, f32::MIN, 1e-45, -1e-45, f32::MIN_POSITIVE, 65520.0];
        for block in BLOCK_TYPES.iter().filter(|block| block.can_quantize()) {
            for first in EXTREMES {
                for second in EXTREMES {
                    let values: Vec<f32> =
                        [first, second].into_iter().cycle().take(2 * block.block_len).collect();
                    let mut out = vec![0; 2 * block.block_bytes];
                    block.quantize(&values, &mut out).unwrap();
                }
            }
        }
    }
}
