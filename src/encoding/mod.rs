//! The arithmetic of quantized payloads: pure functions on bytes, which know of no file.
//!
//! Two families. In [`ggml`] a tensor is a run of blocks, each with its scales inside, so one
//! [`BlockType`] says all there is to say. In the layouts of safetensors checkpoints one tensor is
//! several, a payload and its scales; [`layout`] finds which belong together, and [`grouped`]
//! computes with them.
//!
//! Decoding gives F32. Where a library computes in a narrower type, every step is rounded to it as
//! the library does (`Precision`), so that the values are the library's own bit for bit and a
//! cast to that type loses nothing. NaN is always the one NaN `0x7fc00000`: which NaN the
//! arithmetic gives is left open by IEEE 754 and differs between machines.

pub mod ggml;
pub mod grouped;
pub mod layout;

mod decoder;
mod number;
mod part;
mod small;

pub use decoder::Decoder;
pub use ggml::{BLOCK_TYPES, BlockType};
pub use part::Part;

#[cfg(test)]
mod tests;
