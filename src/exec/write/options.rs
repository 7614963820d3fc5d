//! How to write.

use std::sync::atomic::AtomicBool;

/// How to write.
pub struct Options<'a> {
    /// How many threads work; the bytes do not depend on it.
    pub n_threads: usize,
    /// Whether to hash whole files beside the tensors.
    pub hash_files: bool,
    /// Hears of every batch of bytes of tensors that is written.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Ends the work with an error, once it is set.
    pub cancel: Option<&'a AtomicBool>,
}
