//! Validation rules, one file each, and the verdict over all of them.
//!
//! A rule looks at a [`PackageView`], tells what is wrong, and says when it could not look. None
//! opens a file: what can be read was read before, as far as it could be.

pub mod view;
pub mod vocabulary;

use schemars::JsonSchema;
use serde::Serialize;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MODEL_FILE};

pub use self::view::PackageView;

/// One rule of validation. Its page is `spec/1.0/rules/ID-NAME.md`.
pub struct Rule {
    /// Its number: `V1xx` for the level container, `V2xx` for schema, `V3xx` for full.
    pub id: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The level of conformance that it belongs to.
    pub level: Conformance,
    /// How much its findings weigh.
    pub weight: Level,
    /// Whether it needs every byte of the weights.
    pub deep: bool,
    /// Looks, and adds what it finds.
    check: fn(&PackageView<'_>, &mut Vec<Diagnostic>) -> Checked,
}

/// Whether a rule could look.
pub type Checked = Result<(), NotChecked>;

/// Why a rule did not look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotChecked {
    /// There is nothing here that it is about.
    NotApplicable(&'static str),
    /// What it needs could not be read, which another rule tells of.
    Blocked(&'static str),
}

impl Rule {
    /// A finding of this rule.
    pub fn finding(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(self.id, self.weight, message)
    }
}

macro_rules! rules {
    ($($module:ident)*) => {
        $(mod $module;)*

        /// Every rule, in the order of their numbers.
        pub static RULES: &[&Rule] = &[$(&$module::RULE,)*];
    };
}

rules! {
    v101_unreadable_file
    v102_model_json
    v103_manifest_json
    v104_manifest_contradiction
    v105_listed_file
    v106_unlisted_file
    v107_tensor_entry
    v108_tensor_twice
    v109_shard_index
    v110_file_metadata
    v111_path_outside
    v112_tensor_name
    v113_tensor_order
    v114_source_json
    v115_executable_file
    v116_spec_version
    v117_required_feature
    v118_manifest_model
    v119_name_collision
    v120_tensor_hash
    v121_file_hash
    v122_not_finite
    v123_all_zero
    v124_model_form
    v201_architecture
    v202_hyperparameter
    v203_tensor_missing
    v204_tensor_unexpected
    v205_tensor_shape
    v206_witness
    v207_tie
    v208_layers
    v209_mixed_dtypes
    v210_token_id
    v211_encoding
    v212_tensor_dtype
    v301_tokenizer_missing
    v302_tokenizer_unreadable
    v303_vocabulary_size
    v304_task
    v305_task_head
    v306_task_ports
    v307_task_pool
    v308_special_token
}

/// The rule of this number.
pub fn rule(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id).copied()
}

/// Which rules to apply.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Numbers, or their beginnings, of the rules that count; all where it is empty.
    pub select: Vec<String>,
    /// Numbers, or their beginnings, of the rules that do not count.
    pub ignore: Vec<String>,
}

impl Selection {
    /// Whether the rule of this number counts.
    pub fn has(&self, id: &str) -> bool {
        let fits = |list: &[String]| list.iter().any(|start| id.starts_with(start.as_str()));
        (self.select.is_empty() || fits(&self.select)) && !fits(&self.ignore)
    }
}

/// One line of what was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Check {
    /// The rule's number.
    pub rule: &'static str,
    /// The rule's name.
    pub name: &'static str,
    /// The level of conformance that it belongs to.
    pub level: Conformance,
    /// What came of it.
    pub outcome: Outcome,
    /// Why it was not applied, or not passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'static str>,
    /// How many findings it has.
    pub findings: usize,
}

/// What came of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It looked, and nothing breaks it.
    Pass,
    /// It found an error.
    Fail,
    /// It did not look.
    Skipped,
    /// There is nothing it is about.
    NotApplicable,
}

/// What all rules say of one view.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Each rule, in order.
    pub checks: Vec<Check>,
    /// What they found, in the order of the rules.
    pub findings: Vec<Diagnostic>,
    /// The highest level that was looked at and that nothing speaks against.
    pub reached: Option<Conformance>,
}

/// Applies every rule of a level and of the levels below it.
///
/// This is the one place that decides whether something keeps the standard.
pub fn verdict(view: &PackageView<'_>, level: Conformance, selection: &Selection) -> Verdict {
    let mut verdict = Verdict { checks: Vec::new(), findings: Vec::new(), reached: None };
    let mut refused: Option<Conformance> = None;
    for rule in RULES {
        let mut found = Vec::new();
        let skipped = if !selection.has(rule.id) {
            Some("it is not selected")
        } else if level < rule.level {
            Some("it belongs to a higher level")
        } else if rule.deep && !view.is_deep() {
            Some("it needs --deep")
        } else {
            None
        };
        let (outcome, why) = match skipped {
            Some(why) => (Outcome::Skipped, Some(why)),
            None if view.is_planned() && rule.level == Conformance::Container => {
                (Outcome::NotApplicable, Some("it is about packages"))
            }
            None => match (rule.check)(view, &mut found) {
                _ if found.iter().any(|finding| finding.level == Level::Error) => {
                    (Outcome::Fail, None)
                }
                Ok(()) => (Outcome::Pass, None),
                Err(NotChecked::NotApplicable(why)) => (Outcome::NotApplicable, Some(why)),
                Err(NotChecked::Blocked(why)) => (Outcome::Skipped, Some(why)),
            },
        };
        let blocked = outcome == Outcome::Skipped && skipped.is_none();
        if outcome == Outcome::Fail || blocked {
            refused = Some(refused.map_or(rule.level, |refused| refused.min(rule.level)));
        }
        if view.is_planned() {
            // What would stand in model.json has no file to point to yet.
            for finding in &mut found {
                finding.file.take_if(|file| file == MODEL_FILE);
            }
        }
        let (id, name) = (rule.id, rule.name);
        let findings = found.len();
        verdict.checks.push(Check { rule: id, name, level: rule.level, outcome, why, findings });
        verdict.findings.append(&mut found);
    }
    let levels = [Conformance::Container, Conformance::Schema, Conformance::Full];
    verdict.reached = levels
        .into_iter()
        .rfind(|&reached| reached <= level && refused.is_none_or(|refused| reached < refused));
    verdict
}

/// A file that does not keep its form, as a finding.
pub fn unreadable(rule: &Rule, name: &str, err: &crate::base::error::Error) -> Diagnostic {
    let finding = rule.finding(format!("{name}: {}", err.message())).file(name);
    match err.offset() {
        Some(offset) => finding.bytes(offset, offset.saturating_add(1)),
        None => finding,
    }
}
