//! The threads of this process: one pool, of as many as were asked for.

use crate::base::error::{Error, ErrorKind, Result};

/// Makes the pool of this process, of `n` threads. Without effect where it was made or used before.
pub fn limit(n: usize) {
    // It fails only where there is one.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(n).build_global();
}

/// Does `work` on `n` threads: those of this process where it has as many, else of a pool of its own.
pub fn on<R: Send>(n: usize, work: impl FnOnce() -> R + Send) -> Result<R> {
    if rayon::current_num_threads() == n {
        return Ok(work());
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
    let pool =
        pool.map_err(|err| Error::new(ErrorKind::Io, format!("cannot start threads: {err}")))?;
    Ok(pool.install(work))
}
