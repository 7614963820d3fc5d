//! The report of a validation.

use std::fmt::Write as _;
use std::path::Path;

use super::anchor::Anchors;
use super::document::{self, Check, Document, Group, Section, shown};
use super::fingerprint::{fingerprints, mark};
use super::group::{Group as Findings, groups};
use super::text::{counts, findings};
use super::{Context, Report, pretty, table};
use crate::base::diagnostic::{Diagnostic, Level};
use crate::rule::{HIGHER_LEVEL, NEEDS_DEEP, NEEDS_FILES, NOT_SELECTED, Outcome};
use crate::validate::{Input, InputResult, Kind, PolicyFindings, Report as OfInput, Validation};

/// From this many inputs on, text ends with a table of them.
const TABLE_FROM: usize = 3;

impl Report for Validation {
    fn text(&self, context: &Context<'_>) -> String {
        let style = context.style;
        let mut text = String::new();
        for Input { path, result } in &self.inputs {
            match result {
                InputResult::Report(report) => {
                    if style.verbose {
                        text.push_str(&checks(report));
                        for waived in &report.waived {
                            let found = &waived.finding;
                            let why = waived.why();
                            let _ = writeln!(
                                text,
                                "waived[{}]: {}\n  {why}",
                                found.rule, found.message
                            );
                        }
                    }
                    text.push_str(&findings(&report.findings, style));
                    let _ = writeln!(text, "{path}: {}", summary(report));
                }
                InputResult::Skipped(why) => _ = writeln!(text, "{path}: skipped: {why}"),
                InputResult::Error(_) => {}
            }
        }
        for policy in &self.policies {
            text.push_str(&findings(&policy.findings, style));
        }
        if TABLE_FROM <= self.inputs.len() {
            text.push_str(&inputs(self));
        }
        text
    }

    fn json(&self, context: &Context<'_>) -> serde_json::Result<String> {
        let mut marked = self.clone();
        for (Input { path, result }, to) in self.inputs.iter().zip(&mut marked.inputs) {
            let (InputResult::Report(from), InputResult::Report(to)) = (result, &mut to.result)
            else {
                continue;
            };
            let title = shown(Path::new(path), &context.root);
            let (groups, _): (Vec<_>, Vec<_>) = grouped(from).into_iter().unzip();
            let waived = from.waived.iter().map(|waived| &waived.finding);
            let found: Vec<&Diagnostic> = from.findings.iter().chain(waived).collect();
            let waived = to.waived.iter_mut().map(|waived| &mut waived.finding);
            let places = to.findings.iter_mut().chain(waived).map(|one| &mut one.fingerprint);
            mark(&groups, &fingerprints(&groups, &title), &found, places);
        }
        for (from, to) in self.policies.iter().zip(&mut marked.policies) {
            let title = shown(Path::new(&from.path), &context.root);
            let groups = groups(&from.findings);
            let found: Vec<&Diagnostic> = from.findings.iter().collect();
            let places = to.findings.iter_mut().map(|one| &mut one.fingerprint);
            mark(&groups, &fingerprints(&groups, &title), &found, places);
        }
        pretty(&marked)
    }

    fn document(&self, context: &Context<'_>) -> Document {
        let mut document = Document::new("validate", context);
        document.passes = self.passes;
        for input in &self.inputs {
            let title = shown(Path::new(&input.path), &context.root);
            let section = match &input.result {
                InputResult::Report(report) => section(&input.path, title, report, &document),
                InputResult::Skipped(why) => {
                    Section { title, summary: format!("skipped: {why}"), ..Section::default() }
                }
                InputResult::Error(why) => {
                    let summary = "could not be checked".to_owned();
                    Section { title, summary, error: Some(why.clone()), ..Section::default() }
                }
            };
            document.sections.push(section);
        }
        for policy in self.policies.iter().filter(|policy| !policy.findings.is_empty()) {
            let section = of_policy(policy, &document, context);
            document.sections.push(section);
        }
        document.headline = headline(self, &document);
        document
    }
}

fn headline(validation: &Validation, document: &Document) -> String {
    let n = validation.inputs.len();
    let is = |wanted: fn(&InputResult) -> bool| {
        validation.inputs.iter().filter(|input| wanted(&input.result)).count()
    };
    let passed = is(|result| matches!(result, InputResult::Report(report) if report.passes));
    let failed = is(|result| matches!(result, InputResult::Report(report) if !report.passes));
    let mut parts: Vec<String> = Vec::new();
    let skipped = is(|result| matches!(result, InputResult::Skipped(_)));
    let broken = is(|result| matches!(result, InputResult::Error(_)));
    for (n, word) in [
        (passed, "passed"),
        (failed, "failed"),
        (skipped, "skipped"),
        (broken, "could not be checked"),
    ] {
        if n != 0 {
            parts.push(format!("{n} {word}"));
        }
    }
    let s = if n == 1 { "" } else { "s" };
    let mut text = format!("{n} input{s}: {}", parts.join(", "));
    let counts = counts(|level| document.count(level));
    if !counts.is_empty() {
        let _ = write!(text, "; {counts}");
    }
    let waived = document.sections.iter().flat_map(|section| &section.groups);
    let waived = waived.filter(|group| group.waived.is_some()).map(|group| group.findings);
    match waived.sum() {
        0 => {}
        n => _ = write!(text, "; {n} waived"),
    }
    text
}

/// The findings about an input that are alike, and why those do not count that were waived.
fn grouped(report: &OfInput) -> Vec<(Findings<'_>, Option<String>)> {
    let counting = groups(&report.findings).into_iter().map(|group| (group, None));
    let waived = report.waived.iter().flat_map(|waived| {
        let one = groups(std::slice::from_ref(&waived.finding)).into_iter();
        one.map(|group| (group, Some(waived.why())))
    });
    counting.chain(waived).collect()
}

fn section(path: &str, title: String, report: &OfInput, document: &Document) -> Section {
    let mut anchors = Anchors::new(Path::new(path), &title);
    let (groups, waived): (Vec<_>, Vec<_>) = grouped(report).into_iter().unzip();
    let known = fingerprints(&groups, &title).into_iter().zip(waived);
    let found = groups.iter().zip(known).map(|(group, (fingerprint, waived))| {
        Group::of(group, document.name(group.rule()), fingerprint, &mut anchors, waived)
    });
    let found = found.collect();
    let kind = match report.kind {
        Kind::Package => "package of the standard",
        Kind::Foreign => "checkpoint of another format",
        Kind::Manifest => "manifest alone",
    };
    let by = if report.deep { "every byte" } else { "headers and JSON; --deep reads the bytes" };
    let mut facts = vec![
        ("kind", kind.to_owned()),
        ("architecture", report.architecture.clone().unwrap_or_else(|| "not known".to_owned())),
        ("tensors", report.tensors.to_string()),
        ("held to", format!("level {}", report.level.name())),
        ("read", by.to_owned()),
    ];
    if let Some(reached) = report.reached {
        facts.push(("reached", format!("level {}", reached.name())));
    }
    if !report.left_out.is_empty() {
        facts.push(("left out", report.left_out.join(", ")));
    }
    let checks = report.checks.iter().map(|check| Check {
        rule: check.rule,
        name: check.name,
        level: check.level.name(),
        outcome: check.outcome,
        why: check.why.map(str::to_owned),
    });
    let own = report.policy.iter().map(|check| Check {
        rule: check.rule,
        name: check.name,
        level: "policy",
        outcome: check.outcome,
        why: check.why.map(str::to_owned),
    });
    Section {
        fail_on: report.fail_on,
        summary: summary(report),
        error: None,
        facts,
        groups: found,
        checks: checks.chain(own).collect(),
        title,
    }
}

/// What is wrong with a policy, told beside its file.
fn of_policy(policy: &PolicyFindings, document: &Document, context: &Context<'_>) -> Section {
    let title = shown(Path::new(&policy.path), &context.root);
    let mut anchors = Anchors::new(Path::new(&policy.path), &title);
    let found = groups(&policy.findings);
    let all = found.iter().zip(fingerprints(&found, &title)).map(|(group, fingerprint)| {
        Group::of(group, document.name(group.rule()), fingerprint, &mut anchors, None)
    });
    let all = all.collect();
    let summary = "what it says of findings that are known".to_owned();
    Section { title, summary, groups: all, fail_on: policy.fail_on, ..Section::default() }
}

/// Every rule, and what came of it.
fn checks(report: &OfInput) -> String {
    let mut table = table();
    table.set_header(["rule", "name", "level", "outcome", "why"]);
    let word = |rule: &str, outcome: Outcome| {
        let own = report.findings.iter().filter(|finding| finding.rule == rule);
        document::word(outcome, own.map(|finding| finding.level).max())
    };
    for check in &report.checks {
        let outcome = word(check.rule, check.outcome);
        let why = check.why.unwrap_or_default();
        table.add_row([check.rule, check.name, check.level.name(), outcome, why]);
    }
    for check in &report.policy {
        let why = check.why.unwrap_or_default();
        table.add_row([check.rule, check.name, "policy", word(check.rule, check.outcome), why]);
    }
    format!("{}\n\n", table.trim_fmt())
}

/// One line for each input.
fn inputs(validation: &Validation) -> String {
    let mut table = table();
    table.set_header(["input", "result", "level", "errors", "warnings", "notes", "waived"]);
    for Input { path, result } in &validation.inputs {
        let row: [String; 6] = match result {
            InputResult::Report(report) => {
                let number = |level| report.count(level).to_string();
                [
                    if report.passes { "passed" } else { "failed" }.to_owned(),
                    report.reached.map_or("-", |level| level.name()).to_owned(),
                    number(Level::Error),
                    number(Level::Warning),
                    number(Level::Note),
                    report.waived.len().to_string(),
                ]
            }
            InputResult::Skipped(_) => ["skipped", "-", "-", "-", "-", "-"].map(str::to_owned),
            InputResult::Error(_) => ["not checked", "-", "-", "-", "-", "-"].map(str::to_owned),
        };
        table.add_row(std::iter::once(path.clone()).chain(row));
    }
    format!("\n{}\n", table.trim_fmt())
}

/// What came of one input, in a line.
fn summary(report: &OfInput) -> String {
    let mut text = String::new();
    let what = report.architecture.as_deref().unwrap_or("no architecture");
    let kind = match report.kind {
        Kind::Package => "",
        Kind::Foreign => ", not a package yet",
        Kind::Manifest => ", a manifest alone",
    };
    let _ = write!(text, "{what}, {} tensors{kind}; ", report.tensors);
    let level = report.level.name();
    let n_looked = report.n_checks(Outcome::Pass) + report.n_checks(Outcome::Fail);
    if n_looked == 0 && !report.left_out.is_empty() {
        text.push_str("no rule that is selected applies, nothing was checked; no level is claimed");
    } else if !report.left_out.is_empty() {
        let verdict = if report.valid { "nothing is wrong" } else { "some are broken" };
        let _ = write!(text, "of the rules selected, {verdict}; no level is claimed");
    } else if report.valid {
        let verb = if report.kind == Kind::Foreign { "can keep" } else { "keeps" };
        let by = match (report.kind, report.deep) {
            (Kind::Manifest, _) => " as far as a manifest tells",
            (_, true) => "",
            (_, false) => " by its headers",
        };
        let _ = write!(text, "{verb} level {level}{by}");
    } else {
        let _ = write!(text, "does not keep level {level}");
        if let Some(reached) = report.reached {
            let by = if report.deep { "" } else { " by its headers" };
            let _ = write!(text, ", only {}{by}", reached.name());
        }
    }
    if !report.deep && report.kind != Kind::Manifest {
        text.push_str(", bytes not read: --deep reads them");
    }
    match report.covered.len() {
        0 => {}
        1 => text.push_str(", 1 file by its tensors and header: --files hashes it whole"),
        n => {
            _ = write!(text, ", {n} files by their tensors and headers: --files hashes them whole")
        }
    }
    let counts = counts(|level| report.count(level));
    if !counts.is_empty() {
        let _ = write!(text, ": {counts}");
    }
    if !report.waived.is_empty() {
        let _ = write!(text, ", {} waived", report.waived.len());
    }
    let mut skipped: Vec<String> = Vec::new();
    match report.n_checks(Outcome::Skipped) {
        0 => {}
        n => skipped.push(format!("{n} skipped")),
    }
    // What was asked for and could not be done is no detail.
    let known = [NOT_SELECTED, NEEDS_DEEP, HIGHER_LEVEL, NEEDS_FILES];
    let blocked = report.checks.iter().filter(|check| check.outcome == Outcome::Skipped);
    let mut why: Vec<&str> = blocked.filter_map(|check| check.why).collect();
    why.retain(|why| !known.contains(why));
    if let Some(first) = why.first() {
        skipped.push(format!("{} of them as {first}", why.len()));
    }
    let s = if n_looked == 1 { "" } else { "s" };
    let _ = write!(text, " ({n_looked} rule{s} checked");
    for part in skipped {
        let _ = write!(text, ", {part}");
    }
    text.push(')');
    text
}
