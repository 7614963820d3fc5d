//! Markdown for a comment on a change: the verdict, a table, and the details folded away.

use std::fmt::Write as _;

use super::document::{Group, Section};
use super::style::level;
use super::{Context, Format, Report};
use crate::base::terminal::tame;

pub(super) static FORMAT: Format =
    Format { id: "markdown", about: "a comment on a pull request", render };

/// Hosts cut comments at 65,536 characters; what is longer is said to be.
const MAX_LEN: usize = 60_000;

fn render(report: &dyn Report, context: &Context<'_>) -> std::io::Result<String> {
    let document = report.document(context);
    let sign = if document.passes { "✅" } else { "❌" };
    let mut text = format!("### {sign} llmstd {}\n\n", document.command);
    let _ = writeln!(text, "{}\n", escape(&document.headline));
    if 1 < document.sections.len() {
        let mut n_rows_cut = 0;
        text.push_str("| | input | result |\n| --- | --- | --- |\n");
        for section in &document.sections {
            let sign = if section.fails() { "❌" } else { "✅" };
            let (title, summary) = (code(&section.title), escape(&section.summary));
            let row = format!("| {sign} | {title} | {summary} |\n");
            // Half of a comment is for what was found.
            if MAX_LEN / 2 < text.len() + row.len() {
                n_rows_cut += 1;
            } else {
                text.push_str(&row);
            }
        }
        if n_rows_cut != 0 {
            let _ = writeln!(text, "| | {n_rows_cut} more | not shown: a comment has a limit |");
        }
        text.push('\n');
    }
    let mut n_cut = 0;
    for section in &document.sections {
        let part = self::section(section);
        if MAX_LEN < text.len() + part.len() {
            n_cut += 1;
        } else {
            text.push_str(&part);
        }
    }
    if n_cut != 0 {
        let _ = writeln!(text, "_{n_cut} more inputs are not shown: a comment has a limit._");
    }
    Ok(tame(&text, false))
}

fn section(section: &Section) -> String {
    let mut text = format!("#### {}\n\n", code(&section.title));
    if let Some(error) = &section.error {
        let _ = writeln!(text, "It could not be checked: {}\n", escape(error));
        return text;
    }
    let _ = writeln!(text, "{}\n", escape(&section.summary));
    for (name, value) in &section.facts {
        let _ = writeln!(text, "- {name}: {}", escape(value));
    }
    if !section.facts.is_empty() {
        text.push('\n');
    }
    for group in &section.groups {
        text.push_str(&self::group(group));
    }
    if !section.checks.is_empty() {
        let _ = writeln!(text, "<details><summary>Rules: {}</summary>\n", section.checked());
        for (why, rules) in section.not_applied() {
            let _ = writeln!(text, "- {}: {}", escape(&why), rules.join(", "));
        }
        let passed = section.checks.iter().filter(|check| section.word(check) == "passed");
        let passed: Vec<&str> = passed.map(|check| check.rule).collect();
        let _ = writeln!(text, "- passed: {}\n\n</details>\n", passed.join(", "));
    }
    text
}

fn group(group: &Group) -> String {
    let mut text = format!(
        "<details><summary><b>{} {}</b> {}: {}</summary>\n\n",
        level(group.level),
        group.rule,
        html(&group.name),
        html(&group.message)
    );
    for detail in &group.details {
        let _ = write!(text, "- {}", escape(&detail.message));
        if 1 < detail.rows {
            let _ = write!(text, " (×{})", detail.rows);
        }
        if let Some((expected, found)) = &detail.mismatch {
            let _ = write!(text, " – expected {}, found {}", code(expected), code(found));
        }
        text.push('\n');
    }
    if group.untold != 0 {
        let _ = writeln!(text, "- … and {} more like it", group.untold);
    }
    if let Some(why) = &group.waived {
        let _ = writeln!(text, "\nWaived: {}", escape(why));
    }
    if let Some(help) = &group.help {
        let _ = writeln!(text, "\n{}", escape(help));
    }
    text.push_str("\n</details>\n\n");
    text
}

/// Text in which nothing is Markdown, HTML, or a mention of a person.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\n' | '\r' => escaped.push(' '),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '@' => escaped.push_str("&#64;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' => {
                escaped.push('\\');
                escaped.push(c);
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// Text inside an HTML element.
fn html(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('@', "&#64;").replace(['\n', '\r'], " ")
}

/// Text as code, also in a table.
fn code(text: &str) -> String {
    format!("<code>{}</code>", escape(text))
}
