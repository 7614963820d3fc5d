//! What stands around the weights: what wrappers of modules put into names, and the keys of training
//! programs beside and above a state dict.

/// Keys under which training programs keep the state dict, the surest first.
pub const WRAPPERS: &[&str] = &[
    "app",              // The tutorial on distributed checkpoints.
    "state_dict",       // Lightning, and many others.
    "model_state_dict", // PyTorch's tutorial on checkpoints.
    "model",            // fairseq, timm, detectron2, OpenAI.
    "module",           // DeepSpeed.
    "model_state",
    "net",
    "network",
    "weights",
    "params",
];

/// How often a state dict may be wrapped.
pub const MAX_WRAPPERS: usize = 4;

/// Top-level keys that hold tensors which are no weights.
pub const NO_WEIGHTS: &[&str] = &[
    "amp",
    "amp_scaling_state",
    "callbacks",
    "dataloader",
    "ema_optimizer",
    "grad_scaler",
    "last_optimizer_state",
    "loops",
    "lr_scheduler",
    "lr_schedulers",
    "lr_scheduler_state_dict",
    "native_amp_scaling_state",
    "optim",
    "optimizer",
    "optimizer_state",
    "optimizer_state_dict",
    "optimizer_states",
    "optimizers",
    "random_rng_state",
    "rng_state",
    "rng_states",
    "scaler",
    "scheduler",
    "scheduler_state_dict",
    "train_state",
];

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
