//! Validation of a package, or of a foreign checkpoint, end to end: open, apply the rules, report.

pub mod below;
mod census;
mod contents;
mod foreign;
mod options;
mod package;
mod report;
mod selected;

use std::path::Path;

use self::foreign::validate_foreign;
use self::package::{is_manifest, validate_manifest, validate_package};
use self::selected::{nothing_applied, reader_rules};
use crate::base::error::{Error, Result};
use crate::folder;
use crate::rule::view::is_package;
use crate::rule::{Check, NOT_SELECTED, Outcome};
use crate::spec::Spec;

pub use self::contents::Contents;
pub(crate) use self::contents::licences;
pub use self::options::Options;
pub use self::report::{
    Input, InputResult, Kind, PolicyCheck, PolicyFindings, Report, SCHEMA, Validation, Waived,
};

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
    let any = |outcome| {
        let selected = |check: &&Check| check.why != Some(NOT_SELECTED);
        report.checks.iter().filter(selected).any(|check| check.outcome == outcome)
    };
    let looked = any(Outcome::Pass) || any(Outcome::Fail);
    // A rule that is about something else, say labels of a model that has none, was not held up.
    let idle = any(Outcome::NotApplicable) && !any(Outcome::Skipped);
    // The readers look whatever comes after them.
    if !(looked || idle)
        && report.findings.is_empty()
        && !reader_rules(spec).any(|id| options.selection.has(&id))
    {
        return Err(nothing_applied(path, &report));
    }
    Ok(report)
}
