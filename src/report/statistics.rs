//! How often each rule is broken.

use std::collections::BTreeMap;

use super::document::Document;
use super::style::level;

/// A table of the rules that are broken, the most often broken first.
pub fn text(document: &Document) -> String {
    let mut rules: BTreeMap<(&str, &str), (usize, &str)> = BTreeMap::new();
    for group in document.sections.iter().flat_map(|section| &section.groups) {
        let entry = rules.entry((group.rule, level(group.level))).or_insert((0, &group.name));
        entry.0 += group.findings;
    }
    if rules.is_empty() {
        return String::new();
    }
    let mut rows: Vec<_> = rules.into_iter().collect();
    rows.sort_by_key(|(_, (n, _))| std::cmp::Reverse(*n));
    let mut table = super::table();
    table.set_header(["findings", "rule", "name", "level"]);
    for ((rule, level), (n, name)) in rows {
        table.add_row([&n.to_string(), rule, name, level]);
    }
    format!("\n{}\n", table.trim_fmt())
}
