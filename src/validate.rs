//! Validation of a package, or of a foreign checkpoint, end to end: open, apply the rules, report.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::error::{Error, ErrorKind, Result};
use crate::convert::{self, Failure, Progress, Request};
use crate::folder;
use crate::package::Conformance;
use crate::rule::view::{PackageView, Stored, is_package};
use crate::rule::{self, Check, Outcome, RULES, Selection, Verdict};
use crate::spec::Spec;

/// What to validate, and how.
pub struct Options<'a> {
    /// The level to hold it to; what it claims if there is none.
    pub level: Option<Conformance>,
    /// Whether to read every byte.
    pub deep: bool,
    /// Which rules count.
    pub selection: &'a Selection,
    /// How many threads read; the report does not depend on it.
    pub n_threads: usize,
    /// Reports progress.
    pub progress: &'a dyn Progress,
}

/// What validation says of one or more inputs.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Validation {
    /// `llmstd.validate/1`.
    pub schema: &'static str,
    /// Whether everything could be checked and nothing is wrong.
    pub valid: bool,
    /// Each input, in the order they were named.
    pub inputs: Vec<Input>,
}

/// The schema of [`Validation`].
pub const SCHEMA: &str = "llmstd.validate/1";

/// One input.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Input {
    /// Its path.
    pub path: String,
    /// What was found.
    #[serde(flatten)]
    pub result: InputResult,
}

/// What came of one input.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InputResult {
    /// It was checked.
    Report(Box<Report>),
    /// It could not be checked; why.
    Error(String),
}

/// What validation says of one input.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Report {
    /// Whether nothing is wrong.
    pub valid: bool,
    /// What it is.
    pub kind: Kind,
    /// The architecture, where it says one.
    pub architecture: Option<String>,
    /// The level it was held to.
    pub level: Conformance,
    /// The level that it claims.
    pub claimed: Option<Conformance>,
    /// The highest level, of those it was held to, that no selected rule speaks against.
    pub reached: Option<Conformance>,
    /// Whether every byte was read.
    pub deep: bool,
    /// The number of tensors.
    pub tensors: usize,
    /// What was checked.
    pub checks: Vec<Check>,
    /// What was found.
    pub findings: Vec<Diagnostic>,
}

/// What an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A package of the standard.
    Package,
    /// A checkpoint of another format: it is held to what it would become.
    Foreign,
}

impl Report {
    /// How many findings there are of a weight.
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    /// How many rules came out so.
    pub fn n_checks(&self, outcome: Outcome) -> usize {
        self.checks.iter().filter(|check| check.outcome == outcome).count()
    }
}

impl Validation {
    /// Puts inputs together.
    pub fn of(inputs: Vec<Input>) -> Validation {
        let valid = |input: &Input| match &input.result {
            InputResult::Report(report) => report.valid,
            InputResult::Error(_) => false,
        };
        Validation { schema: SCHEMA, valid: inputs.iter().all(valid), inputs }
    }
}

/// Validates one input. What is wrong with it is in the report.
///
/// # Errors
/// It is not there, the system refuses to read it, or it is of no format known here.
pub fn validate(path: &Path, spec: &Spec, options: &Options<'_>) -> Result<Report> {
    let metadata = path.metadata().map_err(|err| Error::io(path, "open", err))?;
    if metadata.is_dir() && is_package(path, &folder::list(path)?) {
        return validate_package(path, spec, options);
    }
    validate_foreign(path, spec, options)
}

fn validate_package(path: &Path, spec: &Spec, options: &Options<'_>) -> Result<Report> {
    let mut view = PackageView::open(spec, path)?;
    if options.deep {
        options.progress.begin("reading", view.n_bytes());
        let advance = |n_bytes| options.progress.advance(n_bytes);
        let read = view.read_bytes(options.n_threads, &advance);
        options.progress.end();
        read?;
    }
    let claimed = view.claimed();
    // What cannot be read claims nothing; its container is told of.
    let level = options.level.or(claimed).unwrap_or(Conformance::Container);
    let verdict = rule::verdict(&view, level, options.selection);
    Ok(report(Kind::Package, &view, level, verdict, Vec::new(), options))
}

fn report(
    kind: Kind,
    view: &PackageView<'_>,
    level: Conformance,
    verdict: Verdict,
    planned: Vec<Diagnostic>,
    options: &Options<'_>,
) -> Report {
    let Verdict { checks, findings: found, mut reached } = verdict;
    let mut findings = planned;
    findings.extend(view.findings.iter().cloned());
    findings.retain(|finding| options.selection.has(finding.rule));
    if findings.iter().any(|finding| finding.level == Level::Error) {
        reached = None;
    }
    findings.extend(found);
    Report {
        valid: findings.iter().all(|finding| finding.level != Level::Error),
        kind,
        architecture: view.model.good().and_then(|model| model.architecture.clone()),
        level,
        claimed: if kind == Kind::Package { view.claimed() } else { None },
        reached,
        deep: view.is_deep(),
        tensors: view.n_tensors(),
        checks,
        findings,
    }
}

/// A foreign checkpoint keeps the standard if a complete plan makes a package of it that does.
fn validate_foreign(path: &Path, spec: &Spec, options: &Options<'_>) -> Result<Report> {
    let damaged = |err: Error| match err.kind() {
        ErrorKind::Malformed | ErrorKind::Limit => {
            let level = options.level.unwrap_or(Conformance::Container);
            let found = vec![unreadable(path, &err)];
            Ok(refused(level, 0, found, options))
        }
        ErrorKind::Io | ErrorKind::Unsupported | ErrorKind::Cancelled => Err(err),
    };
    let mut opened = match folder::open(path) {
        Ok(opened) => opened,
        Err(err) => return damaged(err),
    };
    let noticed = opened.checkpoint.findings.clone();
    let n_tensors = opened.checkpoint.tensors.len();
    let request = Request {
        generic: options.level == Some(Conformance::Container),
        n_threads: options.n_threads,
        dry_run: true,
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
            let container = !request.generic && convert::canonical(&mut opened, &generic).is_ok();
            let mut report = refused(level, n_tensors, found, options);
            report.reached = container.then_some(Conformance::Container);
            return Ok(report);
        }
    };
    let level = options.level.unwrap_or(examined.model.conformance);
    let tensors = examined.tensors.outputs.iter().map(Stored::planned).collect();
    // What the conversion tells by rules that are applied here is not told twice.
    let mut planned = examined.findings;
    planned.retain(|finding| rule::rule(finding.rule).is_none_or(|rule| level < rule.level));
    let root = opened.source.root().to_owned();
    let mut view = PackageView::planned(spec, examined.model, tensors, &root, opened.files);
    view.findings = noticed;
    let verdict = rule::verdict(&view, level, options.selection);
    Ok(report(Kind::Foreign, &view, level, verdict, planned, options))
}

/// The report of a foreign checkpoint that there is no plan for.
fn refused(
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
        why: Some("there is no complete plan"),
        findings: findings.iter().filter(|finding| finding.rule == rule.id).count(),
    });
    let mut checks: Vec<Check> = checks.collect();
    for check in checks.iter_mut().filter(|check| check.findings != 0) {
        (check.outcome, check.why) = (Outcome::Fail, None);
    }
    Report {
        valid: findings.iter().all(|finding| finding.level != Level::Error),
        kind: Kind::Foreign,
        architecture: None,
        level,
        claimed: None,
        reached: None,
        deep: false,
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
