//! How quantized tensors are packed: `encodings.toml`.
//!
//! Readers of GGUF files know the same table without a spec, as it belongs to the format.

use crate::format::gguf::types::TYPES;
pub use crate::format::gguf::types::{Block, Types as Encodings};

/// Holds a table of blocks against the arithmetic here, which is code: one that says otherwise would have no effect.
///
/// # Errors
/// It does; what it says and what is computed with.
pub(super) fn check(encodings: &Encodings) -> Result<(), String> {
    let words = |block: &Block| {
        let Block { ggml, len, bytes, .. } = block;
        format!("the type {ggml} of {len} values in {bytes} bytes")
    };
    for carried in &TYPES.blocks {
        let own = encodings.block(&carried.id);
        if let Some(block) = own.filter(|block| words(block) != words(carried)) {
            let (id, own, carried) = (&block.id, words(block), words(carried));
            return Err(format!("{id} is {own}, and this program computes with {carried}"));
        }
    }
    Ok(())
}
