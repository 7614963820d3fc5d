//! Maps and sets by names of a checkpoint, which may have half a million of them.
//!
//! The hash has a random key, as that of the standard library, so that no file can be made whose names
//! all fall in one place; it takes a fraction of the time on texts as short as these.

/// A map whose keys come from files.
pub type HashMap<K, V> = std::collections::HashMap<K, V, ahash::RandomState>;

/// A set whose items come from files.
pub type HashSet<T> = std::collections::HashSet<T, ahash::RandomState>;
