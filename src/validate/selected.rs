//! Which rules are applied, and what is said of those that are not.

use std::path::Path;

use super::report::Report;
use crate::base::error::Error;
use crate::package::Conformance;
use crate::rule::{Check, NOT_SELECTED, RULES, Selection};
use crate::spec::Spec;

/// The rules of readers and of the planner, which have no line among the checks.
pub(super) fn reader_rules(spec: &Spec) -> impl Iterator<Item = String> {
    let ids = spec.pages().into_iter().map(|page| page.rule);
    ids.filter(|id| id.starts_with(['P', 'R', 'T']))
}

pub(super) fn nothing_applied(path: &Path, report: &Report) -> Error {
    let why = |check: &Check| Some((check.rule, check.why.filter(|why| *why != NOT_SELECTED)?));
    let mut why: Vec<String> =
        report.checks.iter().filter_map(why).map(|(rule, why)| format!("{rule}: {why}")).collect();
    let n_more = why.len().saturating_sub(3);
    why.truncate(3);
    if n_more != 0 {
        why.push(format!("and {n_more} more"));
    }
    let why = if why.is_empty() { "the selection has none".to_owned() } else { why.join("; ") };
    let message = format!(
        "nothing was checked: no rule that is selected could be applied at level {} ({why})",
        report.level.name()
    );
    Error::unsupported(message).in_file(path)
}

/// The rules that the selection leaves out, of those that a level needs.
pub(super) fn left_out(spec: &Spec, level: Conformance, selection: &Selection) -> Vec<String> {
    let rules = RULES.iter().filter(|rule| rule.level <= level).map(|rule| rule.id.to_owned());
    rules.chain(reader_rules(spec)).filter(|id| !selection.has(id)).collect()
}
