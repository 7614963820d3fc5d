//! (spec)
