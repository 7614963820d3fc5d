//! What to convert, how, what reports progress, and why nothing came of it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ranks::Ranks;
use super::unit::Units;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, Result};
use crate::exec::write;
use crate::plan;
use crate::spec::Spec;

/// What to convert, and how.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The standard.
    pub spec: &'a Spec,
    /// The destination.
    pub destination: &'a Path,
    /// The format to write: `std`, or a foreign one.
    pub to: &'a str,
    /// The architecture, where the config does not say it.
    pub arch: Option<&'a str>,
    /// Whether to keep names and bytes as they are, without an architecture.
    pub generic: bool,
    /// Casts.
    pub plan: plan::Options,
    /// Over how many ranks what is written is cut.
    pub ranks: Ranks,
    /// The most bytes of tensors in one file.
    pub max_shard_bytes: Option<u64>,
    /// How many threads work; the bytes do not depend on it.
    pub n_threads: usize,
    /// Whether to replace the destination.
    pub force: bool,
    /// Whether a GGUF file may be written without the tokenizer that stands beside the source.
    pub allow_no_tokenizer: bool,
    /// Whether to read back what was written, and to compare it with the source.
    pub verify: bool,
    /// Whether to compute the outputs of source and result, and to compare them.
    pub check_outputs: bool,
    /// Whether to plan only.
    pub dry_run: bool,
    /// Whether a warning refuses the conversion.
    pub strict: bool,
    /// What is done of it, and kept for later, where it is done in units.
    pub units: Option<Units<'a>>,
    /// Ends the work, once it is set: nothing is left behind then.
    pub cancel: Option<&'a AtomicBool>,
    /// Reports progress.
    pub progress: &'a dyn Progress,
}

impl<'a> Request<'a> {
    /// A plain conversion on one thread: nothing is cast, proven or replaced.
    pub fn new(spec: &'a Spec, destination: &'a Path, to: &'a str) -> Request<'a> {
        Request {
            spec,
            destination,
            to,
            arch: None,
            generic: false,
            plan: plan::Options::default(),
            ranks: Ranks::ONE,
            max_shard_bytes: None,
            n_threads: 1,
            force: false,
            allow_no_tokenizer: false,
            verify: false,
            check_outputs: false,
            dry_run: false,
            strict: false,
            units: None,
            cancel: None,
            progress: &Silent,
        }
    }

    /// How files are written, and who reports how far it is.
    pub(super) fn write_options(
        &self,
        hash_files: bool,
        progress: &'a (dyn Fn(u64) + Sync),
    ) -> write::Options<'a> {
        write::Options { n_threads: self.n_threads, hash_files, progress, cancel: self.cancel }
    }

    /// # Errors
    /// The work is to end.
    pub(super) fn check_cancelled(&self) -> Result<()> {
        match self.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(Error::cancelled()),
            _ => Ok(()),
        }
    }
}

/// Reports the progress of long work.
pub trait Progress: Sync {
    /// A phase begins, of so many bytes.
    fn begin(&self, phase: &str, n_bytes: u64);
    /// So many more bytes are done.
    fn advance(&self, n_bytes: u64);
    /// The phase is over.
    fn end(&self);
}

/// No progress reporting.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

/// Why nothing was converted.
#[derive(Debug)]
pub enum Failure {
    /// The work stopped.
    Error(Error),
    /// The plan is not complete.
    Findings(Vec<Diagnostic>),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Error(err) => err.fmt(f),
            Failure::Findings(findings) => {
                let words =
                    findings.iter().map(|found| format!("{}: {}", found.rule, found.message));
                f.write_str(&words.collect::<Vec<_>>().join("; "))
            }
        }
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(err: Error) -> Failure {
        Failure::Error(err)
    }
}

impl From<Vec<Diagnostic>> for Failure {
    fn from(findings: Vec<Diagnostic>) -> Failure {
        Failure::Findings(findings)
    }
}

impl From<Diagnostic> for Failure {
    fn from(finding: Diagnostic) -> Failure {
        Failure::Findings(vec![finding])
    }
}

/// The packages of the standard, in arguments.
pub const STD: &str = "std";

/// The format whose tensors have the names and bytes of the source.
pub(super) const SAFETENSORS: &str = "safetensors";
