//! Progress bars, on terminals only.

use std::io::IsTerminal as _;
use std::sync::Mutex;

use crate::convert::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Global;

/// A bar on standard error.
pub(crate) struct Bar {
    bar: Mutex<ProgressBar>,
    hidden: bool,
}

impl Bar {
    /// A bar that is drawn only where someone can see it.
    pub(crate) fn new(global: &Global) -> Bar {
        let hidden = global.quiet || !std::io::stderr().is_terminal();
        Bar { bar: Mutex::new(ProgressBar::hidden()), hidden }
    }

    fn with(&self, f: impl FnOnce(&mut ProgressBar)) {
        if !self.hidden
            && let Ok(mut bar) = self.bar.lock()
        {
            f(&mut bar);
        }
    }
}

impl Progress for Bar {
    fn begin(&self, phase: &str, n_bytes: u64) {
        self.with(|bar| {
            let style = ProgressStyle::with_template(
                "{msg:>10} [{bar:32}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
            );
            *bar = ProgressBar::with_draw_target(Some(n_bytes), ProgressDrawTarget::stderr());
            if let Ok(style) = style {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_message(phase.to_owned());
        });
    }

    fn advance(&self, n_bytes: u64) {
        self.with(|bar| bar.inc(n_bytes));
    }

    fn end(&self) {
        self.with(|bar| bar.finish_and_clear());
    }
}
