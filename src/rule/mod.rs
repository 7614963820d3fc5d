//! Validation rules, one file each or one for the rules about one kind of file, and the verdict over
//! all of them.
//!
//! A rule looks at a [`PackageView`], tells what is wrong, and says when it could not look. None
//! opens a file: what can be read was read before, as far as it could be.

mod code;
mod pickle;
pub mod surroundings;
mod template;
mod tokenizer_file;
mod v101_unreadable_file;
mod v102_model_json;
mod v103_manifest_json;
mod v104_manifest_contradiction;
mod v105_listed_file;
mod v106_unlisted_file;
mod v107_tensor_entry;
mod v108_tensor_twice;
mod v109_shard_index;
mod v110_file_metadata;
mod v111_path_outside;
mod v112_tensor_name;
mod v113_tensor_order;
mod v114_source_json;
mod v115_executable_file;
mod v116_spec_version;
mod v117_required_feature;
mod v118_manifest_model;
mod v119_name_collision;
mod v120_tensor_hash;
mod v121_file_hash;
mod v122_not_finite;
mod v123_all_zero;
mod v124_model_form;
mod v201_architecture;
mod v202_hyperparameter;
mod v203_tensor_missing;
mod v204_tensor_unexpected;
mod v205_tensor_shape;
mod v206_witness;
mod v207_tie;
mod v208_layers;
mod v209_mixed_dtypes;
mod v210_token_id;
mod v211_encoding;
mod v212_tensor_dtype;
mod v301_tokenizer_missing;
mod v302_tokenizer_unreadable;
mod v303_vocabulary_size;
mod v304_task;
mod v305_task_head;
mod v306_task_ports;
mod v307_task_pool;
mod v308_special_token;
mod v40_files;
mod v41_generation;
mod v42_tokenizer;
mod v44_template;
mod v45_labels;
mod v46_config;
mod v49_values;
pub mod view;

use schemars::JsonSchema;
use serde::Serialize;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MANIFEST_FILE, MODEL_FILE};

pub use self::view::PackageView;

/// Which positions make one vector of a sequence: the words of a task's `pool`.
pub const POOLS: &[&str] = &["first", "last", "eos", "mean", "max", "pooler", "late", "end"];

/// What labels mean: the words of a task's `problem`.
pub const PROBLEMS: &[&str] = &["single", "multi", "regression"];

/// The tokens with a meaning. Each has one id, `eos` a list.
pub const TOKENS: &[&str] = &["bos", "eos", "pad", "unk", "sep", "cls", "mask", "decoder_start"];

/// What is done to packages: the words of an event's `op`.
pub const EVENTS: &[&str] = &["convert", "cast", "decode", "repack", "migrate"];

/// One rule of validation. Its page is `spec/1.0/rules/ID-NAME.md`.
pub struct Rule {
    /// Its number: `V1xx` for the level container, `V2xx` for schema, `V3xx` for full; `V4xx` for
    /// what stands around the tensors, and for their values.
    pub id: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The level of conformance that it belongs to.
    pub level: Conformance,
    /// How much its findings weigh.
    pub weight: Level,
    /// Whether it needs every byte of the weights.
    pub deep: bool,
    /// What it looks at.
    pub about: About,
    /// Looks, and adds what it finds.
    check: fn(&PackageView<'_>, &mut Vec<Diagnostic>) -> Checked,
}

/// What a rule looks at, which decides where it is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The files of a package: a foreign checkpoint has none of them.
    Package,
    /// The model: a package, a manifest, or what a complete plan would make of a foreign checkpoint.
    Model,
    /// What stands around the tensors: any folder, whether or not there is a plan for it.
    Folder,
    /// The values of tensors, whatever they lie in.
    Values,
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
    /// A rule of a level about what stands around the tensors.
    const fn of_folder(
        level: Conformance,
        id: &'static str,
        name: &'static str,
        weight: Level,
        check: fn(&PackageView<'_>, &mut Vec<Diagnostic>) -> Checked,
    ) -> Rule {
        Rule { id, name, level, weight, deep: false, about: About::Folder, check }
    }

    /// One of the level full.
    const fn around(
        id: &'static str,
        name: &'static str,
        weight: Level,
        check: fn(&PackageView<'_>, &mut Vec<Diagnostic>) -> Checked,
    ) -> Rule {
        Rule::of_folder(Conformance::Full, id, name, weight, check)
    }

    /// A finding of this rule.
    pub fn finding(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(self.id, self.weight, message)
    }
}

/// Every rule, in the order of their numbers.
pub static RULES: &[&Rule] = &[
    &v101_unreadable_file::RULE,
    &v102_model_json::RULE,
    &v103_manifest_json::RULE,
    &v104_manifest_contradiction::RULE,
    &v105_listed_file::RULE,
    &v106_unlisted_file::RULE,
    &v107_tensor_entry::RULE,
    &v108_tensor_twice::RULE,
    &v109_shard_index::RULE,
    &v110_file_metadata::RULE,
    &v111_path_outside::RULE,
    &v112_tensor_name::RULE,
    &v113_tensor_order::RULE,
    &v114_source_json::RULE,
    &v115_executable_file::RULE,
    &v116_spec_version::RULE,
    &v117_required_feature::RULE,
    &v118_manifest_model::RULE,
    &v119_name_collision::RULE,
    &v120_tensor_hash::RULE,
    &v121_file_hash::RULE,
    &v122_not_finite::RULE,
    &v123_all_zero::RULE,
    &v124_model_form::RULE,
    &v201_architecture::RULE,
    &v202_hyperparameter::RULE,
    &v203_tensor_missing::RULE,
    &v204_tensor_unexpected::RULE,
    &v205_tensor_shape::RULE,
    &v206_witness::RULE,
    &v207_tie::RULE,
    &v208_layers::RULE,
    &v209_mixed_dtypes::RULE,
    &v210_token_id::RULE,
    &v211_encoding::RULE,
    &v212_tensor_dtype::RULE,
    &v301_tokenizer_missing::RULE,
    &v302_tokenizer_unreadable::RULE,
    &v303_vocabulary_size::RULE,
    &v304_task::RULE,
    &v305_task_head::RULE,
    &v306_task_ports::RULE,
    &v307_task_pool::RULE,
    &v308_special_token::RULE,
    &v40_files::POINTER,
    &v40_files::PARTIAL,
    &v40_files::PAGE,
    &v40_files::EMPTY,
    &v40_files::REMOTE_CODE,
    &v40_files::CODE_FILE,
    &v40_files::MISSING_CODE,
    &v40_files::PICKLE,
    &v40_files::ADAPTER_BASE,
    &v40_files::BROKEN_JSON,
    &v40_files::COPY,
    &v41_generation::OUTSIDE,
    &v41_generation::DISAGREES,
    &v41_generation::TWICE,
    &v41_generation::PARAMETER,
    &v41_generation::UNUSED,
    &v41_generation::LENGTH,
    &v42_tokenizer::SPECIAL_TEXT,
    &v42_tokenizer::ADDED,
    &v42_tokenizer::UNKNOWN,
    &v42_tokenizer::VOCABULARIES,
    &v42_tokenizer::MERGES,
    &v42_tokenizer::UNKNOWN_TEXT,
    &v42_tokenizer::AROUND_TEXT,
    &v42_tokenizer::TWO_IDS,
    &v42_tokenizer::LENGTH,
    &v42_tokenizer::TRUNCATION,
    &v42_tokenizer::FEW,
    &v42_tokenizer::POOLING,
    &v42_tokenizer::BANDS,
    &v44_template::SYNTAX,
    &v44_template::UNSAFE,
    &v44_template::MARKER,
    &v44_template::UNSET,
    &v44_template::TWO,
    &v44_template::FILTER,
    &v44_template::DEFAULT,
    &v45_labels::INVERSE,
    &v45_labels::GAPS,
    &v45_labels::TWICE,
    &v46_config::UNBACKED,
    &v46_config::UNDECLARED,
    &v46_config::ROPE,
    &v46_config::CONTEXT,
    &v46_config::DTYPE,
    &v49_values::CONSTANT,
    &v49_values::ZERO_TAIL,
    &v49_values::HUGE,
    &v49_values::SUBNORMAL,
    &v49_values::TENSOR_COPY,
];

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

impl Check {
    /// Whether it speaks against its level: it failed, or what it needs could not be read.
    pub fn refuses(&self) -> bool {
        const NOT_ASKED: &[&str] = &[NOT_SELECTED, HIGHER_LEVEL, NEEDS_DEEP, NEEDS_FILES];
        match self.outcome {
            Outcome::Fail => true,
            Outcome::Skipped => self.why.is_some_and(|why| !NOT_ASKED.contains(&why)),
            Outcome::Pass | Outcome::NotApplicable => false,
        }
    }
}

/// What came of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
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

impl Outcome {
    /// As people read it.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Pass => "passed",
            Outcome::Fail => "failed",
            Outcome::Skipped => "skipped",
            Outcome::NotApplicable => "not applicable",
        }
    }
}

/// What all rules say of one view.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verdict {
    /// Each rule, in order.
    pub checks: Vec<Check>,
    /// What they found, in the order of the rules.
    pub findings: Vec<Diagnostic>,
    /// The highest level of which no rule was left out by the selection, and that nothing that was
    /// read speaks against.
    pub reached: Option<Conformance>,
}

/// Why a rule that the selection leaves out was not applied.
pub const NOT_SELECTED: &str = "it is not selected";

/// Why a rule of a higher level than is asked for was not applied.
pub const HIGHER_LEVEL: &str = "it belongs to a higher level";

/// Why a rule about bytes was not applied where they were not read.
pub const NEEDS_DEEP: &str = "it needs --deep";

/// Why a rule about files was not applied to a manifest alone.
pub const NEEDS_FILES: &str = "a manifest alone does not tell";

/// The rules that a manifest is enough for: about itself, and about what it says of the model, the
/// tensors and which files there are.
const BY_MANIFEST: &[&str] = &[
    "V103", "V104", "V112", "V116", "V117", "V201", "V202", "V203", "V204", "V205", "V206", "V207",
    "V208", "V209", "V210", "V211", "V212", "V301", "V304", "V305", "V306", "V307",
];

/// Applies every rule of a level and of the levels below it.
///
/// This is the one place that decides whether something keeps the standard.
pub fn verdict(view: &PackageView<'_>, level: Conformance, selection: &Selection) -> Verdict {
    let mut verdict = Verdict { checks: Vec::new(), findings: Vec::new(), reached: None };
    let mut refused: Option<Conformance> = None;
    for rule in RULES {
        let mut found = Vec::new();
        let is_left_out = !selection.has(rule.id);
        let skipped = if is_left_out {
            Some(NOT_SELECTED)
        } else if level < rule.level {
            Some(HIGHER_LEVEL)
        } else if view.is_alone() && !BY_MANIFEST.contains(&rule.id) {
            Some(NEEDS_FILES)
        } else if rule.deep && !view.is_deep() {
            Some(NEEDS_DEEP)
        } else {
            None
        };
        let (outcome, why) = match skipped {
            Some(why) => (Outcome::Skipped, Some(why)),
            None if view.is_planned() && rule.about == About::Package => {
                (Outcome::NotApplicable, Some(view::NO_PACKAGE))
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
        if view.is_planned() {
            // What would stand in model.json has no file to point to yet.
            for finding in &mut found {
                finding.file.take_if(|file| file == MODEL_FILE);
            }
        }
        let (id, name) = (rule.id, rule.name);
        if view.is_alone() {
            // The manifest says what model.json said.
            for finding in &mut found {
                finding.file.take_if(|file| [MODEL_FILE, MANIFEST_FILE].contains(&file.as_str()));
            }
        }
        let findings = found.len();
        let check = Check { rule: id, name, level: rule.level, outcome, why, findings };
        // What was not asked for is not proven.
        if check.refuses() || (is_left_out && rule.level <= level) {
            refused = Some(refused.map_or(rule.level, |refused| refused.min(rule.level)));
        }
        verdict.checks.push(check);
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
