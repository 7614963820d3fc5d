//! What every room stands on: errors and findings, files and bytes, JSON.

pub mod canonical_json;
pub mod checksum;
pub mod cursor;
pub mod diagnostic;
pub mod error;
pub mod hash;
pub mod hex;
pub mod json;
pub mod limits;
pub mod mirror;
pub mod name;
pub mod near;
pub mod source;
pub mod terminal;
pub mod threads;
pub mod yaml;
