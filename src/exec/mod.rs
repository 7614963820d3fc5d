//! Carries plans out: from inputs and programs to bytes, hashes and files.
//!
//! Nothing here knows a spec, prints, or reads the environment. Memory does not grow with the
//! model: bytes that do not change go from the map of the source to the destination, all others
//! are made in buffers of a few MiB. One case needs a tensor's numbers whole: copies that take them
//! out of blocks one by one, as a transpose does. What is compressed is decoded a stored piece at a
//! time, and the latest pieces are kept.

pub mod checksum;
mod coded;
pub mod compare;
pub mod container;
pub mod digest;
pub mod gather;
pub mod hash;
pub mod kernel;
pub mod lanes;
pub mod make;
mod packed;
pub mod produce;
mod quotient;
pub mod scan;
pub mod staging;
pub mod units;
mod value;
pub mod write;

#[cfg(test)]
mod tests;
