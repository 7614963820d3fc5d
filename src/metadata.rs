//! Keys and values that keep the kind of every number: what a GGUF file has before its tensors.
//!
//! As JSON, a value is an object with its kind as the only key, so that the way back is exact:
//! `{"u32": 32}`, `{"array": {"string": ["a", "b"]}}`. What JSON cannot spell is given in hex: a
//! float that is not finite by its bits, a text that is not UTF-8 by its bytes.

mod entries;
mod number;
mod text;
mod value;

pub use self::entries::Metadata;
pub use self::number::Number;
pub use self::text::{Text, Texts};
pub use self::value::{Array, Kind, MAX_DEPTH, Value};

#[cfg(test)]
mod tests;
