//! What was checked and what was found, as every form but text and JSON shows it.

use std::collections::BTreeMap;
use std::path::Path;

use super::Context;
use super::anchor::{Anchor, Anchors};
use super::group::{Alike, Group as Findings};
use crate::base::diagnostic::Level;
use crate::rule::Outcome;
use crate::spec::listing::Page;

/// A report as a document.
#[derive(Clone, Debug)]
pub struct Document {
    /// The command that made it, `validate`.
    pub command: &'static str,
    /// What it comes to, in one line.
    pub headline: String,
    /// Whether nothing that was found is as bad as what was asked to fail on, and all could be done.
    pub passes: bool,
    /// Each input, or the comparison.
    pub sections: Vec<Section>,
    /// The pages of the rules, by number.
    pub pages: BTreeMap<String, Page>,
}

/// One input, or one comparison.
#[derive(Clone, Debug)]
pub struct Section {
    /// The least level of a finding that fails.
    pub fail_on: Level,
    /// Its path; of a comparison, both.
    pub title: String,
    /// What came of it, in one line.
    pub summary: String,
    /// Why it could not be done.
    pub error: Option<String>,
    /// What is known of it.
    pub facts: Vec<(&'static str, String)>,
    /// What was found, the worst first.
    pub groups: Vec<Group>,
    /// What was checked, in the order of the rules.
    pub checks: Vec<Check>,
}

/// A rule, and what came of it.
#[derive(Clone, Debug)]
pub struct Check {
    /// Its number.
    pub rule: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it belongs to: a level of conformance, or a class of changes.
    pub level: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// Why it did not look.
    pub why: Option<String>,
}

/// What one rule found, about as many tensors as there are.
#[derive(Clone, Debug)]
pub struct Group {
    /// The rule's number.
    pub rule: &'static str,
    /// The rule's name.
    pub name: String,
    /// How much it weighs.
    pub level: Level,
    /// What is found, in a sentence.
    pub message: String,
    /// What is found, thing by thing; at most [`MOST_DETAILS`].
    pub details: Vec<Alike>,
    /// How many findings it stands for.
    pub findings: usize,
    /// How many of them the details do not show.
    pub untold: usize,
    /// The tensors, those that differ in numbers alone as one.
    pub tensors: Vec<String>,
    /// What to do now, or why it weighs that much.
    pub help: Option<String>,
    /// The line of a text file that a reader of changes is shown.
    pub anchor: Anchor,
    /// The same for the same fault at the same place, however it is worded.
    pub fingerprint: String,
    /// Why it does not count: the reason of a waiver, or that it is in the baseline.
    pub waived: Option<String>,
}

/// Details of one group that a report shows. With more, nobody reads one.
pub const MOST_DETAILS: usize = 25;

impl Document {
    /// An empty document.
    pub(super) fn new(command: &'static str, context: &Context<'_>) -> Document {
        let pages = context.spec.pages().into_iter().map(|page| (page.rule.clone(), page));
        Document {
            command,
            headline: String::new(),
            passes: true,
            sections: Vec::new(),
            pages: pages.collect(),
        }
    }

    /// The name of a rule.
    pub(super) fn name(&self, rule: &str) -> String {
        self.pages.get(rule).map(|page| page.name.clone()).unwrap_or_default()
    }

    /// How many findings of a level count.
    pub(super) fn count(&self, level: Level) -> usize {
        let groups = self.sections.iter().flat_map(|section| &section.groups);
        groups
            .filter(|one| one.level == level && one.waived.is_none())
            .map(|one| one.findings)
            .sum()
    }
}

impl Default for Section {
    fn default() -> Section {
        Section {
            fail_on: Level::Error,
            title: String::new(),
            summary: String::new(),
            error: None,
            facts: Vec::new(),
            groups: Vec::new(),
            checks: Vec::new(),
        }
    }
}

impl Section {
    /// Whether something was found that fails, or it could not be done.
    pub fn fails(&self) -> bool {
        let counts = |group: &Group| group.waived.is_none() && self.fail_on <= group.level;
        self.error.is_some() || self.groups.iter().any(counts)
    }

    /// The rules that were not applied, by the reason, the most first.
    pub fn not_applied(&self) -> Vec<(String, Vec<&'static str>)> {
        let mut reasons: Vec<(String, Vec<&'static str>)> = Vec::new();
        for check in &self.checks {
            if !matches!(check.outcome, Outcome::Skipped | Outcome::NotApplicable) {
                continue;
            }
            let why = check.why.clone().unwrap_or_default();
            match reasons.iter_mut().find(|(known, _)| *known == why) {
                Some((_, rules)) => rules.push(check.rule),
                None => reasons.push((why, vec![check.rule])),
            }
        }
        reasons.sort_by_key(|(_, rules)| std::cmp::Reverse(rules.len()));
        reasons
    }

    /// What came of a rule, in a word.
    pub fn word(&self, check: &Check) -> &'static str {
        let groups = self.groups.iter();
        let own = groups.filter(|group| group.rule == check.rule && group.waived.is_none());
        word(check.outcome, own.map(|group| group.level).max())
    }

    /// What was checked, in a sentence.
    pub fn checked(&self) -> String {
        const WORDS: [(&str, bool); 6] = [
            ("passed", true),
            ("failed", true),
            ("warned", false),
            ("noted", false),
            ("skipped", true),
            ("not applicable", true),
        ];
        let words: Vec<&str> = self.checks.iter().map(|check| self.word(check)).collect();
        let parts = WORDS.iter().filter_map(|(word, always)| {
            let n = words.iter().filter(|one| *one == word).count();
            (*always || 0 < n).then(|| format!("{n} {word}"))
        });
        parts.collect::<Vec<String>>().join(", ")
    }
}

/// What came of a rule, in a word: one that found what does not fail has not just passed.
pub(super) fn word(outcome: Outcome, worst: Option<Level>) -> &'static str {
    match (outcome, worst) {
        (Outcome::Pass, Some(Level::Warning | Level::Error)) => "warned",
        (Outcome::Pass, Some(Level::Note)) => "noted",
        _ => outcome.word(),
    }
}

impl Group {
    /// A group of findings.
    pub(super) fn of(
        findings: &Findings<'_>,
        name: String,
        fingerprint: String,
        anchors: &mut Anchors,
        waived: Option<String>,
    ) -> Group {
        let mut details = findings.alike();
        let message = match details.as_slice() {
            [one] if one.rows == 1 => one.message.clone(),
            [one] => format!("{} (×{})", one.message, one.rows),
            [one, ..] => {
                format!("{} findings: {} …", findings.findings.len(), one.message)
            }
            [] => String::new(),
        };
        let n_findings = findings.findings.len();
        details.truncate(MOST_DETAILS);
        let told: usize = details.iter().map(|detail| detail.rows).sum();
        let anchor = anchors.of(findings.findings[0]);
        Group {
            rule: findings.rule(),
            name,
            level: findings.level(),
            message,
            details,
            findings: n_findings,
            untold: n_findings - told,
            tensors: findings.tensors().into_iter().map(|one| one.cells[0].clone()).collect(),
            help: findings.help(),
            anchor,
            fingerprint,
            waived,
        }
    }
}

/// A path as a report tells it: relative to the root where it lies below, with `/` between.
pub fn shown(path: &Path, root: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    let text = path.display().to_string();
    let text = if std::path::MAIN_SEPARATOR == '\\' { text.replace('\\', "/") } else { text };
    match text.trim_start_matches("./") {
        "" => ".".to_owned(),
        text => text.to_owned(),
    }
}
