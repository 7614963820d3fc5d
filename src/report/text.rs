//! For people at a terminal.

use std::fmt::Write as _;

use super::group::{groups, names};
use super::style::level;
use super::{Context, Format, Report, Style};
use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::terminal::tame;

pub(super) static FORMAT: Format = Format { id: "text", about: "for people", render };

fn render(report: &dyn Report, context: &Context<'_>) -> std::io::Result<String> {
    let mut text = report.text(context);
    if context.statistics {
        text.push_str(&super::statistics::text(&report.document(context)));
    }
    Ok(tame(&text, context.style.color))
}

/// Things of one kind that are shown before the others are counted.
const SHOWN: usize = 5;

/// Findings for people, alike ones together: what, where, what to do.
pub fn findings(findings: &[Diagnostic], style: Style) -> String {
    let limit = style.limit(SHOWN);
    let mut text = String::new();
    for group in groups(findings) {
        let alike = group.alike();
        let mut n_told = 0;
        for kind in alike.iter().take(limit) {
            n_told += kind.rows;
            let label = format!("{}[{}]", level(group.level()), group.rule());
            let label = style.paint_level(&label, group.level());
            let _ = write!(text, "{label}: {}", kind.message);
            let _ = match kind.rows {
                1 => writeln!(text),
                rows => writeln!(text, "  ×{rows}"),
            };
            if let Some(file) = &kind.file {
                let bytes = kind.bytes.map(|[start, end]| format!(" bytes {start}..{end}"));
                let _ = writeln!(text, "  at: {file}{}", bytes.unwrap_or_default());
            }
            if let Some((expected, found)) = &kind.mismatch {
                let _ = writeln!(text, "  expected: {expected}\n  found: {found}");
            }
        }
        let n_more = group.findings.len() - n_told;
        if n_more != 0 {
            let _ = writeln!(text, "  … and {n_more} more like it; -v shows all");
            let names = names(alike.iter().skip(limit).flat_map(|kind| &kind.tensors));
            for name in names.iter().take(limit) {
                let _ = writeln!(text, "    {}  ×{}", name.cells[0], name.rows);
            }
            if limit < names.len() {
                let _ = writeln!(text, "    … {} names in all", names.len());
            }
        }
        if let Some(help) = group.help() {
            let _ = writeln!(text, "  help: {help}");
        }
    }
    text
}

/// `1 error, 2 warnings`, without what there is none of.
pub(super) fn counts(count: impl Fn(Level) -> usize) -> String {
    let words = [Level::Error, Level::Warning, Level::Note].into_iter();
    let words = words.filter_map(|one| match count(one) {
        0 => None,
        1 => Some(format!("1 {}", level(one))),
        n => Some(format!("{n} {}s", level(one))),
    });
    words.collect::<Vec<_>>().join(", ")
}
