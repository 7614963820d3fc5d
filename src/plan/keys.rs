//! Hyperparameters from a foreign config, and back.

mod path;
mod read;
mod why;
mod write;
mod writer;

pub(super) use self::path::from_json;
pub use self::path::{lookup, stated};
pub(crate) use self::path::{remove, set};
pub use self::read::{Keys, read};
pub(super) use self::why::{switched_off, told};
pub use self::write::write;

#[cfg(test)]
mod tests;
