//! Work that takes long, on a thread of its own: this one goes on hearing signals, so that Ctrl-C ends a
//! call as it ends Python's own.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use llmstd::folder::How;
use llmstd::spec::Spec;
use pyo3::prelude::*;

use crate::errors::Fault;

/// How long a signal may wait.
const STEP: Duration = Duration::from_millis(50);

/// Whether the work is to end.
pub(crate) type Cancel = Arc<AtomicBool>;

/// What happens to work when a signal comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnSignal {
    /// It looks at the flag, and is waited for: it removes what it has half written.
    Cancel,
    /// It only reads. It is left to its end, and nobody takes what it finds.
    Leave,
}

/// Does the work without the interpreter's lock.
///
/// # Errors
/// What the work says; or the exception of a signal's handler, `KeyboardInterrupt`.
pub(crate) fn run<T: Send + 'static>(
    py: Python<'_>,
    on_signal: OnSignal,
    work: impl FnOnce(&Cancel) -> Result<T, Fault> + Send + 'static,
) -> PyResult<T> {
    let cancel = Cancel::default();
    let (sender, mut receiver) = channel();
    let own = Arc::clone(&cancel);
    let thread = std::thread::spawn(move || {
        // Nobody listens any more after a signal.
        let _ = sender.send(work(&own));
    });
    loop {
        let (got, same) = py.detach(move || (receiver.recv_timeout(STEP), receiver));
        receiver = same;
        match got {
            Ok(done) => return done.map_err(|fault| fault.raise(py)),
            Err(RecvTimeoutError::Timeout) => {
                let Err(signal) = py.check_signals() else { continue };
                if on_signal == OnSignal::Cancel {
                    cancel.store(true, Ordering::Relaxed);
                    // What it says is that it was cancelled.
                    let _ = py.detach(|| thread.join());
                }
                return Err(signal);
            }
            Err(RecvTimeoutError::Disconnected) => {
                let message = "llmstd ended in the middle of its work; this is a fault of llmstd";
                return Err(pyo3::exceptions::PyRuntimeError::new_err(message));
            }
        }
    }
}

/// The standard of this version, or in this folder; the current one if nothing is said.
pub(crate) fn spec(named: Option<&str>) -> Result<Spec, Fault> {
    Ok(Spec::named(named)?)
}

/// What is to be known of an input beside its path.
pub(crate) fn how<'h>(
    format: Option<&str>,
    config: Option<&'h Path>,
    step: Option<&'h str>,
    spec: &'h Spec,
) -> Result<How<'h>, Fault> {
    Ok(How { format: self::format(format)?, config, step, ..spec.how() })
}

/// How many threads work, unless it is said.
pub(crate) fn n_threads(asked: Option<usize>) -> usize {
    let available = || std::thread::available_parallelism().map_or(1, usize::from);
    asked.filter(|n| *n != 0).unwrap_or_else(available)
}

/// The format of a word.
pub(crate) fn format(word: Option<&str>) -> Result<Option<&'static llmstd::format::Format>, Fault> {
    let Some(word) = word else { return Ok(None) };
    llmstd::format::find(word).map(Some).ok_or_else(|| {
        let known: Vec<&str> = llmstd::format::FORMATS.iter().map(|format| format.id).collect();
        Fault::Argument(format!("there is no format {word:?}: {}", known.join(", ")))
    })
}
