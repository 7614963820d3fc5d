//! The LLM Standard and its tool. (The code map follows.)

pub mod checkpoint;
pub mod container;
pub mod cursor;
pub mod diagnostic;
pub mod error;
pub mod exec;
pub mod format;
pub mod json;
pub mod package;
pub mod plan;
pub mod source;
pub mod spec;
