//! Whether a file is still the one that was opened.

use std::fs::Metadata;
use std::path::Path;
use std::time::SystemTime;

use crate::base::error::{Error, ErrorKind};

/// What tells that a file is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) len: u64,
    pub(super) modified: Option<SystemTime>,
    /// The device and the number of the file on it, where the system has that.
    pub(super) identity: Option<(u64, u64)>,
}

impl State {
    pub(super) fn of(metadata: &Metadata) -> State {
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt as _;
            Some((metadata.dev(), metadata.ino()))
        };
        #[cfg(not(unix))]
        let identity = None;
        State { len: metadata.len(), modified: metadata.modified().ok(), identity }
    }

    /// What happened to a file that is `now` this.
    pub(super) fn difference(self, now: State) -> Option<String> {
        Some(match now {
            now if now == self => return None,
            now if now.identity != self.identity => "another file has its name now".to_owned(),
            now if now.len != self.len => {
                format!("it had {} bytes and has {} now", self.len, now.len)
            }
            _ => "it was written to".to_owned(),
        })
    }
}

/// The error for a file that did not stay what it was.
pub(super) fn changed(path: &Path, what: &str) -> Error {
    let message = format!("changed while it was read: {what}; try again when nothing writes to it");
    Error::new(ErrorKind::Io, message).in_file(path)
}
