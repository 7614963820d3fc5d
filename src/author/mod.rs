//! Tools on the data files themselves: what a mapping says in names, tiny checkpoints that exercise
//! it, checks that need both, and the draft of a new one. Each takes the format of the mapping.

pub mod check;
pub mod conformance;
pub mod draft;
pub mod names;
pub mod sample;
pub mod tensors;
pub mod tiny;
