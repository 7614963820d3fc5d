//! Findings as text.

use std::fmt::Write as _;

use crate::base::diagnostic::{Diagnostic, Level};

/// Findings for people, alike ones together: what, where, what to do. At most `limit` places of
/// each kind are shown.
pub fn findings(findings: &[Diagnostic], limit: usize, color: bool) -> String {
    let mut groups: Vec<Vec<&Diagnostic>> = Vec::new();
    for finding in findings {
        let known = groups.iter_mut().find(|group| {
            group[0].rule == finding.rule
                && group[0].level == finding.level
                && group[0].help == finding.help
                && finding.tensor.is_some()
                && group[0].tensor.is_some()
        });
        match known {
            Some(group) => group.push(finding),
            None => groups.push(vec![finding]),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group[0].level));
    let mut text = String::new();
    for group in groups {
        for (index, finding) in group.iter().enumerate() {
            if limit <= index {
                let _ = writeln!(text, "  … and {} more like it", group.len() - index);
                break;
            }
            let (word, code) = match finding.level {
                Level::Error => ("error", "31"),
                Level::Warning => ("warning", "33"),
                Level::Note => ("note", "36"),
            };
            let label = format!("{word}[{}]", finding.rule);
            let label = if color { format!("\u{1b}[{code}m{label}\u{1b}[0m") } else { label };
            let _ = writeln!(text, "{label}: {}", finding.message);
            let bytes = finding.bytes.map(|[start, end]| format!(" bytes {start}..{end}"));
            if let Some(file) = &finding.file {
                let _ = writeln!(text, "  at: {file}{}", bytes.unwrap_or_default());
            }
            if let Some((expected, found)) = finding.expected.as_ref().zip(finding.found.as_ref()) {
                let _ = writeln!(text, "  expected: {expected}\n  found: {found}");
            }
        }
        if let Some(help) = &group[0].help {
            let _ = writeln!(text, "  help: {help}");
        }
    }
    text
}
