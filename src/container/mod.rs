//! Containers: what other formats keep their members in.

pub mod zip;
