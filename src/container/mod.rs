//! Containers: what other formats keep their members in.

pub mod filter;
pub mod flatbuffers;
pub mod hdf5;
pub mod msgpack;
pub mod ocdbt;
pub mod protobuf;
pub mod sstable;
pub mod tar;
pub mod zip;
