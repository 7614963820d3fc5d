//! Validation of a package, or of a foreign checkpoint, end to end: open, apply the rules, report.

pub mod below;

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::{Extent, Source};
use crate::checkpoint::{Checkpoint, Payload};
use crate::convert::{self, Failure, Progress, Request, Silent};
use crate::exec::scan;
use crate::folder::{self, How, Opened};
use crate::format::Format;
use crate::package::{Conformance, MANIFEST_FILE, Model};
use crate::plan::Tensors;
use crate::plan::program::Output;
use crate::rule::surroundings::Surroundings;
use crate::rule::view::{Counted, PackageView, Stored, is_package};
use crate::rule::{self, About, Check, NOT_SELECTED, Outcome, RULES, Selection, Verdict};
use crate::spec::Spec;

/// What to validate, and how.
pub struct Options<'a> {
    /// The level to hold it to; what it claims if there is none.
    pub level: Option<Conformance>,
    /// Whether to read every byte.
    pub deep: bool,
    /// Whether to hash long tensor files as a whole too, whose every byte the hashes of tensors cover.
    pub whole_files: bool,
    /// Which rules count.
    pub selection: &'a Selection,
    /// How many threads read; the report does not depend on it.
    pub n_threads: usize,
    /// Reports progress.
    pub progress: &'a dyn Progress,
    /// The format that is read, where a folder has several.
    pub format: Option<&'static Format>,
}

impl<'a> Options<'a> {
    /// Headers and JSON, at the level that is claimed, on one thread.
    pub fn new(selection: &'a Selection) -> Options<'a> {
        Options {
            level: None,
            deep: false,
            whole_files: false,
            selection,
            n_threads: 1,
            progress: &Silent,
            format: None,
        }
    }
}

/// What validation says of one or more inputs.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Validation {
    /// `llmstd.validate/1`.
    pub schema: &'static str,
    /// Whether everything could be checked and nothing is wrong.
    pub valid: bool,
    /// Whether everything could be checked and nothing was found that the policy fails on.
    pub passes: bool,
    /// Each input, in the order they were named.
    pub inputs: Vec<Input>,
    /// What is wrong with policies and baselines themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyFindings>,
}

/// What is wrong with a policy or a baseline: what it says and nothing fits.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PolicyFindings {
    /// The file.
    pub path: String,
    /// What was found.
    pub findings: Vec<Diagnostic>,
    /// The least level that fails.
    pub fail_on: Level,
}

impl PolicyFindings {
    /// Whether nothing was found that fails.
    pub fn passes(&self) -> bool {
        self.findings.iter().all(|finding| finding.level < self.fail_on)
    }
}

/// A rule of the policy, and what came of it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PolicyCheck {
    /// The rule's number.
    pub rule: &'static str,
    /// The rule's name.
    pub name: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// Why it was not applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'static str>,
    /// How many findings it has.
    pub findings: usize,
}

/// What an input holds, which policies are about.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Contents {
    /// How many plain tensors there are of each dtype.
    pub dtypes: BTreeMap<String, u64>,
    /// How many packed tensors there are of each encoding.
    pub encodings: BTreeMap<String, u64>,
    /// The bytes of all tensors.
    pub bytes: u64,
    /// The tasks that it serves.
    pub tasks: Vec<String>,
    /// The licences that are stated: at the head of `README.md`, or in the metadata.
    pub licences: Vec<String>,
    /// The digests of its manifest.
    pub digests: BTreeMap<&'static str, String>,
}

impl Contents {
    fn of(view: &PackageView<'_>) -> Contents {
        let mut contents = Contents::default();
        let encodings = view.model.good().map(|model| &model.encodings);
        for tensor in &view.tensors {
            contents.bytes = contents.bytes.saturating_add(tensor.len);
            let entry = encodings.and_then(|encodings| encodings.get(&tensor.name));
            let n = match entry {
                Some(entry) => {
                    let id = entry.get("encoding").and_then(serde_json::Value::as_str);
                    contents.encodings.entry(id.unwrap_or("not known").to_owned()).or_default()
                }
                // A scale or a zero point belongs to its encoding.
                None if view.whole_of(&tensor.name).is_some() => continue,
                None => contents.dtypes.entry(tensor.dtype.name().to_owned()).or_default(),
            };
            *n += 1;
        }
        if let Some(model) = view.model.good() {
            contents.tasks = model.tasks.iter().map(|task| task.id.clone()).collect();
        }
        if let Some(manifest) = view.manifest.good() {
            let each = manifest.digests.each().into_iter();
            contents.digests =
                each.filter_map(|(name, digest)| Some((name, digest?.to_owned()))).collect();
        }
        let card = view.bytes(CARD_FILE).unwrap_or_default();
        contents.licences = licences(&String::from_utf8_lossy(card));
        contents
    }
}

/// The model card, with its licence at the head.
const CARD_FILE: &str = "README.md";

/// The licences that the head of a model card states: `license: mit`, or a list.
fn licences(card: &str) -> Vec<String> {
    let mut lines = card.lines();
    if lines.next().map(str::trim_end) != Some("---") {
        return Vec::new();
    }
    let clean = |word: &str| word.trim().trim_matches(['"', '\'', '[', ']']).to_owned();
    let head: Vec<&str> = lines.take_while(|line| line.trim_end() != "---").collect();
    let mut found = Vec::new();
    for (at, line) in head.iter().enumerate() {
        let Some(said) = line.strip_prefix("license:") else { continue };
        if said.trim().is_empty() {
            let below = head[at + 1..].iter().map_while(|line| line.trim().strip_prefix("- "));
            found.extend(below.map(clean));
        } else {
            found.extend(said.split(',').map(clean));
        }
    }
    found.retain(|word| !word.is_empty());
    found
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
    /// It was found below a folder and is nothing to check; why.
    Skipped(String),
}

/// A finding that does not count.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Waived {
    /// The finding.
    #[serde(flatten)]
    pub finding: Diagnostic,
    /// Why it does not count.
    pub reason: String,
    /// The last day on which it does not count, `2026-12-31`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

impl Waived {
    /// Why it does not count, and how long.
    pub fn why(&self) -> String {
        match &self.expires {
            Some(day) => format!("{}, until {day}", self.reason),
            None => self.reason.clone(),
        }
    }
}

/// What validation says of one input.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Report {
    /// Whether nothing is wrong by the standard.
    pub valid: bool,
    /// Whether nothing was found that the policy fails on; without a policy, whether it is valid.
    pub passes: bool,
    /// The least level of a finding that fails.
    pub fail_on: Level,
    /// What it is.
    pub kind: Kind,
    /// The architecture, where it says one.
    pub architecture: Option<String>,
    /// The level it was held to.
    pub level: Conformance,
    /// The level that it claims.
    pub claimed: Option<Conformance>,
    /// The highest level, of those it was held to, of which no rule was left out and that nothing
    /// that was read speaks against.
    pub reached: Option<Conformance>,
    /// Whether every byte was read. Without, hashes and values are not looked at.
    pub deep: bool,
    /// The tensor files whose own hash in the manifest was not computed: their tensors were hashed,
    /// and their headers are, byte for byte, what follows from the manifest. `--files` hashes them too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub covered: Vec<String>,
    /// Whether every rule of the level was applied, or had nothing to be applied to: none was left
    /// out, needed bytes that were not read, or could not look.
    pub complete: bool,
    /// The rules of the level, and of the readers, that the selection leaves out.
    pub left_out: Vec<String>,
    /// The number of tensors.
    pub tensors: usize,
    /// What was checked.
    pub checks: Vec<Check>,
    /// What it holds; absent where it is too damaged to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contents: Option<Contents>,
    /// What the policy asked of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy: Vec<PolicyCheck>,
    /// What was found, by the rules of the standard and of the policy.
    pub findings: Vec<Diagnostic>,
    /// What was found and does not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waived: Vec<Waived>,
}

/// What an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A package of the standard.
    Package,
    /// A checkpoint of another format: it is held to what it would become.
    Foreign,
    /// The manifest of a package, without its files.
    Manifest,
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
    ///
    /// An input is valid if it was checked and nothing is wrong with it.
    pub fn of(inputs: Vec<Input>) -> Validation {
        Validation::with_policies(inputs, Vec::new())
    }

    /// Puts inputs together, and what is wrong with the policies; a finding there of `fail_on` or
    /// worse fails too.
    pub fn with_policies(inputs: Vec<Input>, policies: Vec<PolicyFindings>) -> Validation {
        let all = |holds: fn(&Report) -> bool| {
            inputs.iter().all(|input| match &input.result {
                InputResult::Report(report) => holds(report),
                InputResult::Error(_) => false,
                InputResult::Skipped(_) => true,
            })
        };
        let kept = policies.iter().all(PolicyFindings::passes);
        let (valid, passes) = (all(|report| report.valid), all(|report| report.passes) && kept);
        Validation { schema: SCHEMA, valid, passes, inputs, policies }
    }
}

/// Validates one input. What is wrong with it is in the report.
///
/// # Errors
/// It is not there, the system refuses to read it, it is of no format known here, or none of the
/// rules that were selected could be applied to it.
pub fn validate(path: &Path, spec: &Spec, options: &Options<'_>) -> Result<Report> {
    let metadata = path.metadata().map_err(|err| Error::io(path, "open", err))?;
    let report = if metadata.is_dir() && is_package(path, &folder::list(path)?) {
        validate_package(path, spec, options)?
    } else if metadata.is_file() && is_manifest(path) {
        validate_manifest(path, spec, options)?
    } else {
        validate_foreign(path, spec, options)?
    };
    let applied = report.checks.iter().any(|check| check.outcome != Outcome::Skipped);
    // The readers look whatever comes after them.
    if !applied
        && report.findings.is_empty()
        && !reader_rules(spec).any(|id| options.selection.has(&id))
    {
        return Err(nothing_applied(path, &report));
    }
    Ok(report)
}

/// The rules of readers and of the planner, which have no line among the checks.
fn reader_rules(spec: &Spec) -> impl Iterator<Item = String> {
    let ids = spec.pages().into_iter().map(|page| page.rule);
    ids.filter(|id| id.starts_with(['P', 'R', 'T']))
}

fn nothing_applied(path: &Path, report: &Report) -> Error {
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

/// Whether a file is a manifest, or was meant to be one.
fn is_manifest(path: &Path) -> bool {
    let is_json = path.extension().is_some_and(|end| end == "json");
    let words = b"llmstd.manifest";
    is_json
        && (path.file_name().is_some_and(|name| name == MANIFEST_FILE)
            || std::fs::read(path)
                .is_ok_and(|text| text.windows(words.len()).any(|window| window == words)))
}

/// A manifest alone is held to what it says of a package that is elsewhere.
fn validate_manifest(path: &Path, spec: &Spec, options: &Options<'_>) -> Result<Report> {
    let view = PackageView::of_manifest(spec, path)?;
    let level = options.level.or(view.claimed()).unwrap_or(Conformance::Container);
    let verdict = rule::verdict(&view, level, options.selection);
    let mut report = report(Kind::Manifest, &view, level, verdict, Vec::new(), None, options);
    report.claimed = view.claimed();
    Ok(report)
}

fn validate_package(path: &Path, spec: &Spec, options: &Options<'_>) -> Result<Report> {
    let mut view = PackageView::open(spec, path)?;
    if options.deep {
        options.progress.begin("reading", view.n_bytes());
        let advance = |n_bytes| options.progress.advance(n_bytes);
        let read = view.read_bytes(options.whole_files, options.n_threads, &advance);
        options.progress.end();
        read?;
        // What its tensors stand for, where they are packed; a damaged one is told of by its hash.
        if let Ok(opened) = folder::open(path)
            && let Ok(tensors) = convert::generic_copies(&opened.checkpoint)
        {
            let packed = |name: &str| tensors.encodings.contains_key(name);
            view.count(census(&opened, &opened.checkpoint, &tensors, &packed, options)?);
        }
    }
    let claimed = view.claimed();
    // What cannot be read claims nothing; its container is told of.
    let level = options.level.or(claimed).unwrap_or(Conformance::Container);
    let verdict = rule::verdict(&view, level, options.selection);
    Ok(report(Kind::Package, &view, level, verdict, Vec::new(), None, options))
}

fn report(
    kind: Kind,
    view: &PackageView<'_>,
    level: Conformance,
    verdict: Verdict,
    planned: Vec<Diagnostic>,
    stated: Option<String>,
    options: &Options<'_>,
) -> Report {
    let Verdict { checks, findings: found, mut reached } = verdict;
    let mut findings = planned;
    findings.extend(view.findings.iter().cloned());
    findings.retain(|finding| options.selection.has(finding.rule));
    let left_out = left_out(view.spec, level, options.selection);
    let readers = left_out.iter().any(|id| rule::rule(id).is_none());
    if readers || findings.iter().any(|finding| finding.level == Level::Error) {
        reached = None;
    }
    findings.extend(found);
    let applied = |check: &Check| level < check.level || check.outcome != Outcome::Skipped;
    let valid = findings.iter().all(|finding| finding.level != Level::Error);
    let mut contents = Contents::of(view);
    contents.licences.extend(stated);
    Report {
        valid,
        passes: valid,
        fail_on: Level::Error,
        waived: Vec::new(),
        policy: Vec::new(),
        contents: Some(contents),
        kind,
        architecture: view.model.good().and_then(|model| model.architecture.clone()),
        level,
        claimed: if kind == Kind::Package { view.claimed() } else { None },
        reached,
        deep: view.is_deep(),
        covered: view.covered().to_vec(),
        complete: left_out.is_empty() && checks.iter().all(applied),
        left_out,
        tensors: view.n_tensors(),
        checks,
        findings,
    }
}

/// The rules that the selection leaves out, of those that a level needs.
fn left_out(spec: &Spec, level: Conformance, selection: &Selection) -> Vec<String> {
    let rules = RULES.iter().filter(|rule| rule.level <= level).map(|rule| rule.id.to_owned());
    rules.chain(reader_rules(spec)).filter(|id| !selection.has(id)).collect()
}

/// What the values of tensors are; of packed ones, those that they stand for. Looks at the tensors
/// of these names alone.
fn census(
    opened: &Opened,
    checkpoint: &Checkpoint,
    tensors: &Tensors,
    wanted: &dyn Fn(&str) -> bool,
    options: &Options<'_>,
) -> Result<Vec<Counted>> {
    let mut outputs = tensors.numbers_of_all();
    outputs.retain(|output| wanted(&output.name) && !output.shape.contains(&0));
    let places: BTreeMap<&str, Extent> = checkpoint
        .tensors
        .iter()
        .filter_map(|tensor| Some((tensor.name.as_str(), place(&tensor.payload)?)))
        .collect();
    options.progress.begin("reading", outputs.iter().map(Output::n_bytes).sum());
    let advance = |n_bytes| options.progress.advance(n_bytes);
    let values =
        scan::census(&opened.source, &tensors.inputs, &outputs, options.n_threads, &advance);
    options.progress.end();
    let values = values?;
    opened.source.check_unchanged()?;
    let counted = outputs.iter().zip(values).map(|(output, scan)| {
        let extent = places.get(output.name.as_str());
        Counted {
            name: output.name.clone(),
            file: extent.map_or("", |extent| opened.source.name(extent.file)).to_owned(),
            bytes: extent.map_or([0, 0], |extent| [extent.start, extent.end()]),
            dtype: output.dtype,
            shape: output.shape.clone(),
            values: scan.values,
            sha256: scan.sha256,
        }
    });
    Ok(counted.collect())
}

/// Where a tensor begins to be stored.
fn place(payload: &Payload) -> Option<Extent> {
    match payload {
        Payload::Range(extent) => Some(*extent),
        Payload::View(view) => Some(view.storage),
        Payload::Parts(parts) => parts.iter().find_map(|part| place(&part.tensor.payload)),
        Payload::Tiles(tiles) => tiles.first().map(|tile| tile.data.storage),
        Payload::Unreadable(_) => None,
    }
}

/// The values of a foreign checkpoint under its own names, or why they cannot be had.
fn foreign_census(
    opened: &mut Opened,
    options: &Options<'_>,
) -> std::result::Result<Vec<Counted>, Failure> {
    convert::stored_checksums(opened, true, options.progress)?;
    let logical = opened.logical()?;
    let checkpoint = logical.as_ref().unwrap_or(&opened.checkpoint);
    let tensors = convert::generic_copies(checkpoint)?;
    Ok(census(opened, checkpoint, &tensors, &|_| true, options)?)
}

/// A foreign checkpoint keeps the standard if a complete plan makes a package of it that does.
fn validate_foreign(path: &Path, spec: &Spec, options: &Options<'_>) -> Result<Report> {
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
    let how = How { format: options.format, ..How::default() };
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
    let level = options.level.unwrap_or(examined.model.conformance);
    let tensors = examined.tensors.outputs.iter().map(Stored::planned).collect();
    // What the conversion tells by rules that are applied here is not told twice.
    let mut planned = examined.findings;
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
    let mut view =
        PackageView::planned(spec, examined.model, tensors, opened.source.again(), files)
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
