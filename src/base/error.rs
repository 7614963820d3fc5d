//! Why reading could not go on.
//!
//! An [`Error`] says that the work stopped; what is wrong with a model that could be read is a
//! [`Diagnostic`](crate::base::diagnostic::Diagnostic). The two never mix.

use std::fmt;
use std::path::{Path, PathBuf};

/// The result of anything that reads or writes a checkpoint.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault it is that the work stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The world: a file is missing, a disk is full.
    Io,
    /// The input breaks its own format.
    Malformed,
    /// The input is fine, this program does not handle it.
    Unsupported,
    /// The input is larger than this program is willing to follow.
    Limit,
    /// The caller asked for the work to end.
    Cancelled,
}

impl ErrorKind {
    /// The kind in a word, for programs: `io`, `malformed`, `unsupported`, `limit`, `cancelled`.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::Io => "io",
            ErrorKind::Malformed => "malformed",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Limit => "limit",
            ErrorKind::Cancelled => "cancelled",
        }
    }
}

/// A reason to stop, with the file and the byte it was found at.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    path: Option<PathBuf>,
    offset: Option<u64>,
}

impl Error {
    /// Makes an error of the given kind.
    #[cold]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, message: message.into(), path: None, offset: None }))
    }

    /// The input breaks its own format, seen at byte `offset` of the file.
    #[cold]
    pub fn malformed(offset: u64, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Malformed, message).at(offset)
    }

    /// This program does not handle the input.
    #[cold]
    pub fn unsupported(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unsupported, message)
    }

    /// The input passes a limit, seen at byte `offset` of the file.
    #[cold]
    pub fn limit(offset: u64, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Limit, message).at(offset)
    }

    /// The caller asked for the work to end.
    #[cold]
    pub fn cancelled() -> Error {
        Error::new(ErrorKind::Cancelled, "cancelled: nothing was written")
    }

    /// The system refused an operation on `path`.
    #[cold]
    pub fn io(path: &Path, doing: &str, err: std::io::Error) -> Error {
        Error::new(ErrorKind::Io, format!("cannot {doing}: {err}")).in_file(path)
    }

    /// Sets the byte offset, unless a deeper layer already knew it.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Error {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Sets the file, unless a deeper layer already knew it.
    #[must_use]
    pub fn in_file(mut self, path: &Path) -> Error {
        self.0.path.get_or_insert_with(|| path.to_owned());
        self
    }

    /// Puts `what: ` before the message.
    #[must_use]
    pub fn context(mut self, what: &str) -> Error {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }

    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What was wanted and what was there, without file and offset.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The file, where one is to blame.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The absolute offset in the file, in bytes.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.0.path {
            write!(f, "{}: ", path.display())?;
        }
        f.write_str(&self.0.message)?;
        match self.0.offset {
            Some(offset) => write!(f, " (at byte {offset:#x})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {}
