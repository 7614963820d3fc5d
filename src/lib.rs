//! The LLM Standard and its tool. (The code map follows.)

pub mod canonical_json;
pub mod checkpoint;
pub mod container;
pub mod convert;
pub mod cursor;
pub mod diagnostic;
pub mod error;
pub mod exec;
pub mod format;
pub mod inspect;
pub mod json;
pub mod manifest;
pub mod metadata;
pub mod package;
pub mod plan;
pub mod report;
pub mod source;
pub mod spec;
