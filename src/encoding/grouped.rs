//! The layouts of quantized safetensors checkpoints, each as a `Decoder`.
//!
//! A weight is `[out, in]` where nothing else is said. Lengths and shapes are compared before
//! anything is read, so a decoder cannot reach past its parts.

mod bitsandbytes;
mod fp4;
mod matrix;
mod scaled;
mod words;

pub(super) use self::bitsandbytes::stated_shape;
pub use self::bitsandbytes::{bitsandbytes_4bit, bitsandbytes_int8};
pub use self::fp4::{GlobalScale, halves_to_pairs, mxfp4, mxfp4_blocks, nvfp4, pairs_to_halves};
pub use self::scaled::{Compute, mlx, scaled_bytes, torchao_int4};
pub use self::words::{GptqVersion, awq, gptq, pack_quantized};
