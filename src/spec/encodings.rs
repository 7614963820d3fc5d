//! How quantized tensors are packed: `encodings.toml`.
//!
//! Readers of GGUF files know the same table without a spec, as it belongs to the format.

pub use crate::format::gguf::types::{Block, Types as Encodings};
