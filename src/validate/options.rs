//! What to validate, and how.

use crate::convert::{Progress, Silent};
use crate::format::Format;
use crate::package::Conformance;
use crate::rule::Selection;

/// What to validate, and how.
pub struct Options<'a> {
    /// The level to hold it to; what it claims if there is none.
    pub level: Option<Conformance>,
    /// Whether to read every byte.
    pub deep: bool,
    /// Whether to hash long tensor files as a whole too, whose every byte the hashes of tensors cover.
    pub whole_files: bool,
    /// Which rules count.
    pub selection: &'a Selection,
    /// How many threads read; the report does not depend on it.
    pub n_threads: usize,
    /// Reports progress.
    pub progress: &'a dyn Progress,
    /// The format that is read, where a folder has several.
    pub format: Option<&'static Format>,
}

impl<'a> Options<'a> {
    /// Headers and JSON, at the level that is claimed, on one thread.
    pub fn new(selection: &'a Selection) -> Options<'a> {
        Options {
            level: None,
            deep: false,
            whole_files: false,
            selection,
            n_threads: 1,
            progress: &Silent,
            format: None,
        }
    }
}
