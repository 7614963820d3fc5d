//! Which stored tensors make one logical tensor: names, dtypes, shapes and configuration, no bytes.
//!
//! The layouts are data, `spec/1.0/layouts.toml`; only the arithmetic that a layout names is code.

mod config;
mod decode;
mod group;
mod logical;
mod packaged;
mod rules;

pub use self::group::{Grouped, Stored};
pub use self::logical::logical;
pub use self::packaged::{Packaged, matrices};
pub use self::rules::{Axis, Beside, BitsRule, LAYOUTS, Layout, Layouts, PartRule, Times, Unit};

#[cfg(test)]
mod tests;
