//! What was found once and is not to be told again: a file that is committed and gets shorter.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hex;
use crate::validate::{Report, Waived};

/// The schema of [`Baseline`].
pub const SCHEMA: &str = "llmstd.baseline/1";

/// Findings that are known, sorted.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// `llmstd.baseline/1`.
    pub schema: String,
    /// The findings.
    pub findings: Vec<Known>,
}

/// Findings of one rule at one place.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// The input, relative to the folder of the baseline.
    pub input: String,
    /// The rule.
    pub rule: String,
    /// The tensor, or the file, and the key: for people.
    pub place: String,
    /// What it is known by: it does not depend on wording.
    pub fingerprint: String,
    /// How many there are.
    pub count: usize,
}

/// A baseline in use: what is left of it.
#[derive(Clone, Debug)]
pub struct Ledger {
    folder: std::path::PathBuf,
    left: BTreeMap<(String, String), (Known, usize)>,
    /// What was looked for: what no rule looked for is not gone.
    looked: BTreeSet<(String, String)>,
}

/// What a finding is known by.
fn fingerprint(finding: &Diagnostic) -> String {
    let mut hash = Sha256::new();
    for part in ["llmstd.finding/1", finding.rule, &finding.place()] {
        hash.update(part);
        hash.update([0]);
    }
    hex::encode(&hash.finalize())[..32].to_owned()
}

/// The folder that inputs are told relative to.
fn folder(path: &Path) -> std::path::PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.parent().unwrap_or(Path::new("/")).to_owned()
}

impl Baseline {
    /// What was found in inputs, for a baseline at `path`. What is waived is not in it.
    pub fn of<'a>(path: &Path, reports: impl Iterator<Item = (&'a str, &'a Report)>) -> Baseline {
        let folder = folder(path);
        let mut known: BTreeMap<(String, String), Known> = BTreeMap::new();
        for (input, report) in reports {
            let input = super::relative(Path::new(input), &folder);
            for finding in &report.findings {
                let fingerprint = fingerprint(finding);
                let entry = known.entry((input.clone(), fingerprint.clone())).or_insert(Known {
                    input: input.clone(),
                    rule: finding.rule.to_owned(),
                    place: finding.place(),
                    fingerprint,
                    count: 0,
                });
                entry.count += 1;
            }
        }
        let mut findings: Vec<Known> = known.into_values().collect();
        findings.sort();
        Baseline { schema: SCHEMA.to_owned(), findings }
    }

    /// The file.
    pub fn to_text(&self) -> String {
        format!("{}\n", serde_json::to_string_pretty(self).unwrap_or_default())
    }
}

impl Ledger {
    /// Reads a baseline.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Ledger> {
        let text = std::fs::read(path).map_err(|err| Error::io(path, "read", err))?;
        let malformed = |message: String| Error::new(ErrorKind::Malformed, message).in_file(path);
        let baseline: Baseline =
            serde_json::from_slice(&text).map_err(|err| malformed(err.to_string()))?;
        if baseline.schema != SCHEMA {
            let message =
                format!("is no baseline: its schema is {:?}, not {SCHEMA}", baseline.schema);
            return Err(malformed(message));
        }
        let mut left = BTreeMap::new();
        for known in baseline.findings {
            let (key, count) = ((known.input.clone(), known.fingerprint.clone()), known.count);
            left.insert(key, (known, count));
        }
        Ok(Ledger { folder: folder(path), left, looked: BTreeSet::new() })
    }

    /// Moves the findings that are known to those that do not count.
    pub(super) fn apply(&mut self, input: &Path, report: &mut Report) {
        let input = super::relative(input, &self.folder);
        let findings = std::mem::take(&mut report.findings);
        for finding in findings {
            let entry = self.left.get_mut(&(input.clone(), fingerprint(&finding)));
            match entry.filter(|(_, left)| *left != 0) {
                Some((_, left)) => {
                    *left -= 1;
                    let reason = "in the baseline".to_owned();
                    report.waived.push(Waived { finding, reason, expires: None });
                }
                None => report.findings.push(finding),
            }
        }
        let known = self.left.iter().filter(|(_, (known, _))| known.input == input);
        let looked = known.filter(|(_, (known, _))| report.looked_at(&known.rule));
        self.looked.extend(looked.map(|(key, _)| key.clone()));
    }

    /// What is in the baseline, of the inputs and rules that were looked at, and is not found any more.
    pub(super) fn gone(&self) -> impl Iterator<Item = &Known> {
        let left =
            self.left.iter().filter(|(key, (_, left))| *left != 0 && self.looked.contains(*key));
        left.map(|(_, (known, _))| known)
    }
}
