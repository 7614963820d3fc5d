//! (container)
