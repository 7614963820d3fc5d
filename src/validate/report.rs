//! What validation says.

use schemars::JsonSchema;
use serde::Serialize;

use super::contents::Contents;
use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::{Check, Outcome};

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
#[non_exhaustive]
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
    /// Whether a rule, or all that begin so, were looked at: one that was not cannot show that it holds.
    pub fn looked_at(&self, rule: &str) -> bool {
        let standard = self.checks.iter().map(|check| (check.rule, check.outcome));
        let own = self.policy.iter().map(|check| (check.rule, check.outcome));
        let mut named = standard.chain(own).filter(|(id, _)| id.starts_with(rule)).peekable();
        named.peek().is_none() || named.all(|(_, outcome)| outcome != Outcome::Skipped)
    }

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
