//! Formats: from the files of a checkpoint to its [`Checkpoint`](crate::checkpoint::Checkpoint).

pub mod pickle;
pub mod pytorch;
