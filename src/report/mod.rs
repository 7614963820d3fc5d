//! From results to text for people. JSON is printed from the same values.

pub mod diff;
pub mod fold;
pub mod text;
