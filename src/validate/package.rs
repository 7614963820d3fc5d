//! Packages and manifests, held to the rules.

use std::path::Path;

use super::census::census;
use super::contents::Contents;
use super::options::Options;
use super::report::{Kind, Report};
use super::selected::left_out;
use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::error::Result;
use crate::base::mirror;
use crate::convert;
use crate::folder;
use crate::package::{Conformance, MANIFEST_FILE};
use crate::rule::view::PackageView;
use crate::rule::{self, Check, Outcome, Verdict};
use crate::spec::Spec;

/// Whether a file is a manifest, or was meant to be one.
pub(super) fn is_manifest(path: &Path) -> bool {
    let is_json = path.extension().is_some_and(|end| end == "json");
    let words = b"llmstd.manifest";
    is_json
        && (path.file_name().is_some_and(|name| name == MANIFEST_FILE)
            || mirror::whole(path).is_ok()
                && std::fs::read(path)
                    .is_ok_and(|text| text.windows(words.len()).any(|window| window == words)))
}

/// A manifest alone is held to what it says of a package that is elsewhere.
pub(super) fn validate_manifest(path: &Path, spec: &Spec, options: &Options<'_>) -> Result<Report> {
    let view = PackageView::of_manifest(spec, path)?;
    let level = options.level.or(view.claimed()).unwrap_or(Conformance::Container);
    let verdict = rule::verdict(&view, level, options.selection);
    let mut report = report(Kind::Manifest, &view, level, verdict, Vec::new(), None, options);
    report.claimed = view.claimed();
    Ok(report)
}

pub(super) fn validate_package(path: &Path, spec: &Spec, options: &Options<'_>) -> Result<Report> {
    let mut view = PackageView::open(spec, path)?;
    if options.deep {
        options.progress.begin("reading", view.n_bytes());
        let advance = |n_bytes| options.progress.advance(n_bytes);
        let read = view.read_bytes(options.whole_files, options.n_threads, &advance);
        options.progress.end();
        read?;
        // What its tensors stand for, where they are packed; a damaged one is told of by its hash.
        if let Ok(opened) = folder::open_as(path, &spec.how())
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

pub(super) fn report(
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
