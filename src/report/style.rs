//! How text looks at a terminal.

use crate::base::diagnostic::Level;

/// How text looks.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Whether text is coloured.
    pub color: bool,
    /// Whether to show everything: every check, every place.
    pub verbose: bool,
}

impl Style {
    /// Text in the colour of an ANSI code, if colours are on.
    pub fn paint(self, text: &str, code: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// Text in the colour of a level.
    pub(super) fn paint_level(self, text: &str, level: Level) -> String {
        let code = match level {
            Level::Error => "31",
            Level::Warning => "33",
            Level::Note => "36",
        };
        self.paint(text, code)
    }

    /// `most`, or no limit where everything is shown.
    pub(super) fn limit(self, most: usize) -> usize {
        if self.verbose { usize::MAX } else { most }
    }
}

/// The word for a level.
pub(super) fn level(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Note => "note",
    }
}
