//! What the findings of each rule weigh: `rules.toml`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Spec;
use super::listing::Page;
use crate::base::diagnostic::Level;
use crate::base::near;
use crate::package::Conformance;

/// One rule.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleRow {
    /// Its number.
    pub id: String,
    /// Its name, which is also that of its page.
    pub name: String,
    /// The level of conformance that it belongs to; none for rules of readers, planning and tokenizers.
    pub level: Option<Conformance>,
    /// What its findings can be, the gravest first.
    pub severity: Vec<Level>,
    /// When a finding is a warning in place of an error.
    pub warns: Option<String>,
    /// Whether it needs every byte of the tensors.
    #[serde(default)]
    pub deep: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RulesFile {
    pub(super) rule: Vec<RuleRow>,
}

impl Spec {
    /// What the findings of a rule weigh; `None` for a kind of change, which has a class instead.
    pub fn rule_row(&self, id: &str) -> Option<&RuleRow> {
        self.rules.iter().find(|row| row.id == id)
    }

    /// Holds the number of a rule, or the beginning of one, against those there are.
    ///
    /// # Errors
    /// No rule begins so; says which are near.
    pub fn check_rule(&self, start: &str) -> Result<(), String> {
        let known = |page: &Page| page.rule.starts_with(start);
        if !start.is_empty() && self.pages().iter().any(known) {
            return Ok(());
        }
        Err(self.no_rule(start))
    }

    /// Says that no rule has this number or name, and which are near.
    pub fn no_rule(&self, wanted: &str) -> String {
        let pages = self.pages();
        let near = |page: &Page| {
            let distance =
                near::distance(wanted, &page.rule).min(near::distance(wanted, &page.name));
            (distance, page.rule.clone())
        };
        let mut near: Vec<(usize, String)> = pages.iter().map(near).collect();
        near.sort_unstable();
        let near: Vec<&str> = near.iter().take(3).map(|(_, rule)| rule.as_str()).collect();
        format!(
            "there is no rule {wanted:?}; near it are {}, and `llmstd explain` lists all",
            near.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::rule::RULES;

    #[test]
    fn the_table_has_what_the_validator_applies() {
        let spec = Spec::current();
        let listed = spec.rules.iter().filter_map(|row| {
            let level = row.level?;
            Some((row.id.as_str(), row.name.as_str(), level, row.severity[0], row.deep))
        });
        let applied: Vec<_> = RULES
            .iter()
            .map(|rule| (rule.id, rule.name, rule.level, rule.weight, rule.deep))
            .collect();
        assert_eq!(listed.collect::<Vec<_>>(), applied);
    }

    #[test]
    fn the_table_has_every_page_but_those_of_changes() {
        let spec = Spec::current();
        let pages: Vec<(String, String)> = spec
            .pages()
            .into_iter()
            .filter(|page| !page.rule.starts_with('D'))
            .map(|page| (page.rule, page.name))
            .collect();
        let rows: Vec<(String, String)> =
            spec.rules.iter().map(|row| (row.id.clone(), row.name.clone())).collect();
        assert_eq!(rows, pages);
        for row in &spec.rules {
            assert!(row.severity.is_sorted_by(|left, right| right < left), "{row:?}");
            let warns = row.level.is_some()
                && row.severity.contains(&Level::Error)
                && row.severity.contains(&Level::Warning);
            assert_eq!(row.warns.is_some(), warns, "{row:?}");
        }
    }

    /// What the source makes of each rule, by the words that make a finding.
    #[test]
    fn no_finding_weighs_what_the_table_does_not_have() {
        let mut texts = Vec::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
        // `rule::NAME` stands for a number; one name may stand for several, in several formats.
        let mut named: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for text in &texts {
            for (at, _) in text.match_indices("const ") {
                let line = text[at + 6..].lines().next().unwrap_or_default();
                if let Some((name, id)) = line.split_once(": &str = \"") {
                    named.entry(name).or_default().insert(id.trim_end_matches("\";"));
                }
            }
        }
        let spec = Spec::current();
        let mut seen = 0;
        for text in &texts {
            for (words, level) in
                [("error(", Level::Error), ("warning(", Level::Warning), ("note(", Level::Note)]
            {
                for (at, call) in text.match_indices(&format!("Diagnostic::{words}")) {
                    let first = text[at + call.len()..].trim_start();
                    let first = first.split([',', ')']).next().unwrap_or_default();
                    let ids = match first.strip_prefix('"') {
                        Some(id) => BTreeSet::from([id.trim_end_matches('"')]),
                        None => match first.rsplit_once("::") {
                            Some((_, name)) => named.get(name).cloned().unwrap_or_default(),
                            None => continue,
                        },
                    };
                    let mut rows = ids.iter().filter_map(|id| spec.rule_row(id)).peekable();
                    if rows.peek().is_some() {
                        seen += 1;
                        assert!(rows.any(|row| row.severity.contains(&level)), "{first} {words}");
                    }
                }
            }
        }
        assert!(60 < seen, "{seen} found");
    }

    fn collect(folder: &Path, texts: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, texts);
            } else if path.extension().is_some_and(|end| end == "rs") {
                texts.push(fs::read_to_string(&path).unwrap());
            }
        }
    }
}
