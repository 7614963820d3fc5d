//! Containers: what other formats keep their members in.

pub mod filter;
pub mod zip;
