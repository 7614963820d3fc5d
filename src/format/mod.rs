//! Formats: from the files of a checkpoint to its [`Checkpoint`](crate::checkpoint::Checkpoint),
//! headers only.

pub mod gguf;
pub mod known;
pub mod pickle;
pub mod pytorch;
pub mod safetensors;
pub mod wrappers;
