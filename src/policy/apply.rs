//! A policy over the reports of a run.

use std::path::Path;

use super::baseline::Ledger;
use super::file::{Rules, Waiver};
use super::{Policy, require};
use crate::base::diagnostic::{Diagnostic, Level};
use crate::validate::{PolicyFindings, Report, Waived};

const WAIVER_STALE: &str = "L001";
const WAIVER_EXPIRED: &str = "L002";
const BASELINE_STALE: &str = "L003";

/// A policy in use: which of its waivers were needed.
pub struct Run<'a> {
    policy: &'a Policy,
    today: &'a str,
    /// Of each waiver: whether an input was looked at that it is about, and whether it fitted.
    waivers: Vec<(bool, bool)>,
}

impl<'a> Run<'a> {
    /// A run on a day, `2026-11-28`.
    pub fn new(policy: &'a Policy, today: &'a str) -> Run<'a> {
        Run { policy, today, waivers: vec![(false, false); policy.waivers().len()] }
    }

    fn expired(&self, waiver: &Waiver) -> bool {
        waiver.expires.as_deref().is_some_and(|day| day < self.today)
    }

    /// Takes the findings out that are waived.
    fn waive(&mut self, input: &Path, report: &mut Report) {
        let path = self.policy.relative(input);
        let policy = self.policy;
        let about = |waiver: &Waiver| {
            waiver.path.as_ref().is_none_or(|pattern| super::matches(pattern, &path))
        };
        for (waiver, (looked, _)) in policy.waivers().iter().zip(&mut self.waivers) {
            *looked |= about(waiver) && report.looked_at(&waiver.rule);
        }
        let findings = std::mem::take(&mut report.findings);
        for finding in findings {
            let mut why = None;
            for (index, waiver) in policy.waivers().iter().enumerate() {
                if !about(waiver) || !fits(waiver, &finding) {
                    continue;
                }
                self.waivers[index].1 = true;
                if !self.expired(waiver) {
                    why.get_or_insert(waiver);
                }
            }
            match why {
                Some(waiver) => {
                    let (reason, expires) = (waiver.reason.clone(), waiver.expires.clone());
                    report.waived.push(Waived { finding, reason, expires });
                }
                None => report.findings.push(finding),
            }
        }
    }

    /// What is wrong with the policy itself, once every input was looked at.
    pub fn findings(&self) -> PolicyFindings {
        let file = self.policy.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut findings = Vec::new();
        for (index, waiver) in self.policy.waivers().iter().enumerate() {
            let (looked, used) = self.waivers[index];
            let mut finding = match (used, looked) {
                (true, _) if self.expired(waiver) => {
                    let day = waiver.expires.as_deref().unwrap_or_default();
                    let message = format!(
                        "the waiver of {} ({}) ended on {day}: what it is about counts again",
                        waiver.rule, waiver.reason
                    );
                    Diagnostic::warning(WAIVER_EXPIRED, message)
                        .help("mend what it is about, or give it another day")
                }
                (false, true) => {
                    let message = format!(
                        "the waiver of {} ({}) fits nothing that was found",
                        waiver.rule, waiver.reason
                    );
                    Diagnostic::warning(WAIVER_STALE, message).help("take it out")
                }
                _ => continue,
            };
            if let Some([start, end]) = self.policy.waivers_at.get(index) {
                finding = finding.bytes(*start, *end);
            }
            findings.push(finding.file(&file).key(format!("/waiver/{index}")));
        }
        let fail_on = self.policy.base_rules().fail_on.unwrap_or(Level::Error);
        PolicyFindings { path: self.policy.path.display().to_string(), findings, fail_on }
    }
}

fn fits(waiver: &Waiver, finding: &Diagnostic) -> bool {
    let place = |pattern: &String| {
        let pattern = glob::Pattern::new(pattern).ok();
        let places = [&finding.tensor, &finding.file, &finding.key].into_iter().flatten();
        pattern.is_some_and(|pattern| places.into_iter().any(|place| pattern.matches(place)))
    };
    finding.rule.starts_with(&waiver.rule) && waiver.place.as_ref().is_none_or(place)
}

/// Applies rules, waivers and a baseline to the report of one input.
pub fn apply(
    input: &Path,
    report: &mut Report,
    rules: &Rules,
    run: Option<&mut Run<'_>>,
    baseline: Option<&mut Ledger>,
) {
    require::apply(report, rules);
    for finding in &mut report.findings {
        let fits = rules.severity.iter().filter(|(id, _)| finding.rule.starts_with(id.as_str()));
        if let Some((_, level)) = fits.max_by_key(|(id, _)| id.len()) {
            finding.level = *level;
        }
    }
    if let Some(run) = run {
        run.waive(input, report);
    }
    if let Some(baseline) = baseline {
        baseline.apply(input, report);
    }
    report.fail_on = rules.fail_on.unwrap_or(Level::Error);
    report.passes = report.findings.iter().all(|finding| finding.level < report.fail_on);
}

/// What a baseline has that is not found any more.
pub fn stale(path: &Path, baseline: &Ledger, fail_on: Level) -> PolicyFindings {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let findings = baseline.gone().map(|known| {
        let message = format!(
            "{} of {} ({}) is in the baseline and is not found any more",
            known.rule, known.input, known.place
        );
        Diagnostic::note(BASELINE_STALE, message)
            .file(&file)
            .key(format!("{} {}", known.input, known.fingerprint))
            .help("write the baseline anew with --write-baseline")
    });
    let (path, findings) = (path.display().to_string(), findings.collect());
    PolicyFindings { path, findings, fail_on }
}
