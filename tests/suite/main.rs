//! One program for all tests of the crate's outside: it is linked once, and its tests share the processors.
//!
//! `cargo test --test suite families::` runs those of one file.

mod answers;
mod around;
mod claims;
mod cli;
mod compounds;
mod conformance;
mod convert;
mod dialects;
mod diff;
mod families;
mod folders;
mod formats;
mod forward;
mod fuzz;
mod gguf;
mod hostile;
mod inputs;
mod interface;
mod judge;
mod labs;
mod limits;
mod modules;
mod mutation;
mod oracle;
mod policy;
mod quantized;
mod readme;
#[cfg(feature = "remote")]
mod remote;
mod report;
mod safety;
mod sample;
mod schemas;
mod spec_check;
mod spellings;
mod supply;
#[path = "../../fuzz/targets.rs"]
mod targets;
mod tiles;
mod tokenizer;
mod trainers;
mod trainers_more;
mod units;
mod validate;
mod verify;
mod versions;
mod wild;
