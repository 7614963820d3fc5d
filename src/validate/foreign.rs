//! Foreign checkpoints, held to the rules by what they would become.

use std::path::Path;

use super::census::foreign_census;
use super::options::Options;
use super::package::report;
use super::report::{Kind, Report};
use super::selected::left_out;
use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::Source;
use crate::convert::{self, Failure, Request};
use crate::folder::{self, How, Opened};
use crate::package::{Conformance, Model};
use crate::plan;
use crate::rule::surroundings::Surroundings;
use crate::rule::view::{PackageView, Stored};
use crate::rule::{self, About, Check, NOT_SELECTED, Outcome, RULES};
use crate::spec::Spec;

/// A foreign checkpoint keeps the standard if a complete plan makes a package of it that does.
pub(super) fn validate_foreign(path: &Path, spec: &Spec, options: &Options<'_>) -> Result<Report> {
    let damaged = |err: Error| match err.kind() {
        ErrorKind::Malformed | ErrorKind::Limit => {
            let level = options.level.unwrap_or(Conformance::Container);
            let found = vec![unreadable(path, &err)];
            let mut report = refused(spec, level, 0, found, options);
            if let Ok(files) = folder::list(path) {
                let around = Surroundings::of_files(&files);
                let view = PackageView::unplanned(spec, Source::new(path), around);
                add_rules(&mut report, &view, About::Folder, options);
            }
            Ok(report)
        }
        ErrorKind::Io | ErrorKind::Unsupported | ErrorKind::Cancelled => Err(err),
    };
    let how = How { format: options.format, ..spec.how() };
    let mut opened = match folder::open_as(path, &how) {
        Ok(opened) => opened,
        Err(err) => return damaged(err),
    };
    let noticed = opened.checkpoint.findings.clone();
    let n_tensors = opened.checkpoint.tensors.len();
    let request = Request {
        generic: options.level == Some(Conformance::Container),
        n_threads: options.n_threads,
        dry_run: true,
        plan: plan::Options { is_final: true, ..plan::Options::default() },
        progress: options.progress,
        ..Request::new(spec, Path::new(""), "std")
    };
    let examined = match convert::canonical_or_decoded(&mut opened, &request) {
        Ok(examined) => examined,
        Err(Failure::Error(err)) => return damaged(err),
        Err(Failure::Findings(mut found)) => {
            found.splice(0..0, noticed);
            let level = options.level.unwrap_or(Conformance::Schema);
            // Names and bytes can be kept without an architecture.
            let generic = Request { generic: true, ..request };
            let generic = match request.generic {
                true => None,
                false => convert::canonical(&mut opened, &generic).ok(),
            };
            let mut report = refused(spec, level, n_tensors, found, options);
            let claims = left_out(spec, Conformance::Container, options.selection).is_empty();
            report.reached = (generic.is_some() && claims).then_some(Conformance::Container);
            let around = Surroundings::of(&opened);
            let view = PackageView::unplanned(spec, opened.source.again(), around);
            add_rules(&mut report, &view, About::Folder, options);
            if options.deep
                && let Some(generic) = generic
            {
                look_at_values(&mut report, &mut opened, generic.model, spec, options)?;
            }
            return Ok(report);
        }
    };
    let (model, outputs, mut planned) = examined.into_outputs();
    let level = options.level.unwrap_or(model.conformance);
    let tensors = Stored::planned(outputs.into_iter());
    // What the conversion tells by rules that are applied here is not told twice.
    planned.retain(|finding| rule::rule(finding.rule).is_none_or(|rule| level < rule.level));
    let stated = match opened.checkpoint.typed_metadata.get("general.license") {
        Some(crate::metadata::Value::String(licence)) => Some(licence.to_string()),
        _ => None,
    };
    let mut unread = None;
    if options.deep {
        match foreign_census(&mut opened, options) {
            Ok(census) => unread = Some(census),
            Err(Failure::Error(err)) => return damaged(err),
            Err(Failure::Findings(found)) => planned.extend(found),
        }
    }
    let files = convert::written_files(&opened, spec);
    let mut view = PackageView::planned(spec, model, tensors, opened.source.again(), files)
        .within(Surroundings::of(&opened));
    view.findings = noticed;
    if let Some(census) = unread {
        view.count(census);
    }
    let verdict = rule::verdict(&view, level, options.selection);
    Ok(report(Kind::Foreign, &view, level, verdict, planned, stated, options))
}

/// Reads the values of a foreign checkpoint that there is no plan for, and adds what the rules about
/// values say of them.
fn look_at_values(
    report: &mut Report,
    opened: &mut Opened,
    generic: Model,
    spec: &Spec,
    options: &Options<'_>,
) -> Result<()> {
    let census = match foreign_census(opened, options) {
        Ok(census) => census,
        Err(Failure::Error(err)) => return Err(err),
        // What cannot be read is told of already, or else is told of now.
        Err(Failure::Findings(found)) => {
            let new = |found: &Diagnostic| !report.findings.contains(found);
            let new: Vec<Diagnostic> = found.into_iter().filter(new).collect();
            report.findings.extend(new);
            return Ok(());
        }
    };
    let mut view =
        PackageView::planned(spec, generic, Vec::new(), opened.source.again(), Vec::new());
    view.count(census);
    add_rules(report, &view, About::Values, options);
    report.deep = true;
    Ok(())
}

/// Adds what the rules about one thing say, where there is no plan for the others to look at.
fn add_rules(report: &mut Report, view: &PackageView<'_>, about: About, options: &Options<'_>) {
    let is_about = |id: &str| rule::rule(id).is_some_and(|rule| rule.about == about);
    let verdict = rule::verdict(view, Conformance::Full, options.selection);
    for (check, looked) in report.checks.iter_mut().zip(verdict.checks) {
        if is_about(check.rule) {
            *check = looked;
            let refuses = |reached: &mut Conformance| check.refuses() && check.level <= *reached;
            report.reached.take_if(refuses);
        }
    }
    report.findings.extend(verdict.findings.into_iter().filter(|found| is_about(found.rule)));
    report.valid = report.findings.iter().all(|finding| finding.level != Level::Error);
    report.passes = report.valid;
}

/// The report of a foreign checkpoint that there is no plan for.
fn refused(
    spec: &Spec,
    level: Conformance,
    tensors: usize,
    mut findings: Vec<Diagnostic>,
    options: &Options<'_>,
) -> Report {
    findings.retain(|finding| options.selection.has(finding.rule));
    let checks = RULES.iter().map(|rule| Check {
        rule: rule.id,
        name: rule.name,
        level: rule.level,
        outcome: Outcome::Skipped,
        why: Some(match options.selection.has(rule.id) {
            true => "there is no complete plan",
            false => NOT_SELECTED,
        }),
        findings: findings.iter().filter(|finding| finding.rule == rule.id).count(),
    });
    let mut checks: Vec<Check> = checks.collect();
    for check in checks.iter_mut().filter(|check| check.findings != 0) {
        (check.outcome, check.why) = (Outcome::Fail, None);
    }
    let valid = findings.iter().all(|finding| finding.level != Level::Error);
    Report {
        valid,
        passes: valid,
        fail_on: Level::Error,
        waived: Vec::new(),
        policy: Vec::new(),
        contents: None,
        kind: Kind::Foreign,
        architecture: None,
        level,
        claimed: None,
        reached: None,
        deep: false,
        covered: Vec::new(),
        complete: false,
        left_out: left_out(spec, level, options.selection),
        tensors,
        checks,
        findings,
    }
}

fn unreadable(path: &Path, err: &Error) -> Diagnostic {
    let inside = err.path().map(|file| file.strip_prefix(path).unwrap_or(file));
    let inside = inside.filter(|file| !file.as_os_str().is_empty());
    let name = inside.unwrap_or(path).display().to_string();
    let rule = rule::rule("V101").expect("a test holds every rule that is named");
    rule::unreadable(rule, &name, err)
        .help("get the file again; `llmstd inspect` shows what can be read of it")
}
