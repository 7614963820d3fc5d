//! Formats: from files to a [`Checkpoint`](crate::checkpoint::Checkpoint), headers only.

pub mod folder;
pub mod safetensors;
