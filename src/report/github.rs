//! Workflow commands of GitHub Actions: what is printed so becomes an annotation of a line.

use std::fmt::Write as _;

use super::document::Group;
use super::{Context, Format, Report};
use crate::base::diagnostic::Level;
use crate::base::terminal::tame;

pub(super) static FORMAT: Format =
    Format { id: "github", about: "annotations of GitHub Actions", render };

fn render(report: &dyn Report, context: &Context<'_>) -> std::io::Result<String> {
    let document = report.document(context);
    let mut text = String::new();
    for section in &document.sections {
        for group in section.groups.iter().filter(|group| group.waived.is_none()) {
            text.push_str(&line(group));
        }
        if let Some(error) = &section.error {
            let _ = writeln!(text, "::error title=llmstd::{}", data(error));
        }
    }
    let _ = writeln!(text, "{}", plain(&document.headline));
    Ok(tame(&text, false))
}

fn line(group: &Group) -> String {
    let word = match group.level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Note => "notice",
    };
    let title = property(&format!("{} {}", group.rule, group.name));
    let mut message = group.message.clone();
    for detail in group.details.iter().take(3) {
        if let Some((expected, found)) = &detail.mismatch {
            let _ = write!(message, "\nexpected {expected}, found {found}");
        }
    }
    if let Some(help) = &group.help {
        let _ = write!(message, "\n{help}");
    }
    let file = property(&group.anchor.path);
    let line = group.anchor.line.unwrap_or(1);
    format!("::{word} file={file},line={line},title={title}::{}\n", data(&message))
}

/// The message of a command.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A property of a command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// A line that cannot be taken for a command.
fn plain(text: &str) -> String {
    text.replace(['\r', '\n'], " ").replace("::", ": :")
}
