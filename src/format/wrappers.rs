//! What wrappers of modules put into the names of what they wrap.

/// Parts that wrappers put into names, at any depth, each of them one segment.
pub const PARTS: &[&str] = &[
    "_orig_mod.",                  // `torch.compile`.
    "_fsdp_wrapped_module.",       // FSDP.
    "_checkpoint_wrapped_module.", // Activation checkpointing.
];

/// The part that DataParallel, DistributedDataParallel and DeepSpeed put before names. Modules of
/// other kinds are called so too: it is taken off only where that is proven to be right.
pub const MODULE: &str = "module.";

/// A name without the segments that equal one of `parts`.
pub fn without_parts(name: &str, parts: &[&str]) -> String {
    if !parts.iter().any(|part| name.contains(part)) {
        return name.to_owned();
    }
    name.split_inclusive('.').filter(|of| !parts.contains(of)).collect()
}

/// The segment by which sentence-transformers has the transformer of a model.
pub const INNER_MODEL: &str = "auto_model.";
