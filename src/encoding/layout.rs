//! Which stored tensors make one logical tensor: names, dtypes, shapes and configuration, no bytes.
//!
//! The layouts are data, `spec/1.0/layouts.toml`; only the arithmetic that a layout names is code.

mod config;
mod decode;
mod group;
mod logical;
mod packaged;
mod rules;

pub use self::group::Stored;
pub use self::logical::logical;
pub use self::packaged::matrices;
pub use self::rules::Layouts;

#[cfg(test)]
mod tests;
