//! The leaves of tensors.

use sha2::{Digest, Sha256};

/// The leaf of a tensor over its name, dtype, shape and bytes.
pub fn leaf(name: &str, dtype: &str, shape: &[u64], sha256: &[u8; 32]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    update_text(&mut hasher, "llmstd.tensor.v1");
    update_text(&mut hasher, name);
    update_content(&mut hasher, dtype, shape, sha256);
    hasher.finalize().into()
}

/// The leaf of a tensor over its dtype, shape and bytes: the same under any name.
pub fn content_leaf(dtype: &str, shape: &[u64], sha256: &[u8; 32]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    update_text(&mut hasher, "llmstd.content.v1");
    update_content(&mut hasher, dtype, shape, sha256);
    hasher.finalize().into()
}

fn update_text(hasher: &mut Sha256, text: &str) {
    hasher.update((text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

fn update_content(hasher: &mut Sha256, dtype: &str, shape: &[u64], sha256: &[u8; 32]) {
    update_text(hasher, dtype);
    hasher.update((shape.len() as u64).to_le_bytes());
    for dim in shape {
        hasher.update(dim.to_le_bytes());
    }
    hasher.update(sha256);
}
