//! The kinds of change: what each means, for whom, and how much it weighs.

use schemars::JsonSchema;
use serde::Serialize;

/// How compatible a new version is with the old one. Each class is worse than those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// The same model.
    Identical,
    /// Only what no program computes with.
    Metadata,
    /// The same structure and interface, other values in the weights.
    Weights,
    /// Everything that used the old version can use the new one.
    Compatible,
    /// Something that used the old version fails, or computes something else.
    Breaking,
}

impl Class {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Class::Identical => "identical",
            Class::Metadata => "metadata",
            Class::Weights => "weights",
            Class::Compatible => "compatible",
            Class::Breaking => "breaking",
        }
    }
}

/// Whom a change concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Consumer {
    /// Code that loads the tensors by name, shape and dtype.
    Loaders,
    /// Clients: what they send, what they get, which ids a text becomes, how a prompt is rendered.
    Callers,
    /// Whoever expects the same numbers for the same input.
    Results,
    /// Adapters, quantizations and deltas that were made on the old version.
    Adapters,
    /// Whoever answers for licences and provenance.
    Audit,
}

impl Consumer {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Consumer::Loaders => "loaders",
            Consumer::Callers => "callers",
            Consumer::Results => "results",
            Consumer::Adapters => "adapters",
            Consumer::Audit => "audit",
        }
    }
}

/// One kind of change.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its number; `llmstd explain` has its page.
    pub id: &'static str,
    /// Its name, which is also that of its page.
    pub name: &'static str,
    /// How much it weighs.
    pub class: Class,
    /// Whom it concerns.
    pub concerns: &'static [Consumer],
    /// Why it weighs that much.
    pub reason: &'static str,
}

macro_rules! rules {
    ($($rule:ident $id:literal $name:literal $class:ident [$($consumer:ident)*] $reason:literal;)*) => {
        $(#[doc = $reason] pub const $rule: &Rule = &Rule {
            id: $id,
            name: $name,
            class: Class::$class,
            concerns: &[$(Consumer::$consumer),*],
            reason: $reason,
        };)*

        /// Every rule, in the order of their numbers: of two that weigh the same, the first
        /// decides the verdict.
        pub const RULES: &[&Rule] = &[$($rule),*];
    };
}

rules! {
    ARCHITECTURE_CHANGED "D101" "architecture-changed" Breaking [Loaders Results Adapters]
        "another architecture is other code";
    SEMANTICS_CHANGED "D102" "semantics-changed" Breaking [Results Adapters]
        "loads silently, computes something else: no shape depends on it, so every loader takes the tensors";
    DIMENSION_CHANGED "D103" "dimension-changed" Breaking [Loaders Results Adapters]
        "shapes or tensors depend on it, so code set up for the old size does not take the new tensors";
    HYPERPARAMETER_ADDED "D104" "hyperparameter-added" Breaking [Results Adapters]
        "code made for the old version does not know that it has to compute with it";
    HYPERPARAMETER_REMOVED "D105" "hyperparameter-removed" Breaking [Results Adapters]
        "code made for the old version goes on computing with it";
    CONTEXT_GROWN "D106" "context-grown" Compatible [Callers]
        "whatever fitted the old length fits the new one";
    CONTEXT_SHRUNK "D107" "context-shrunk" Breaking [Callers]
        "inputs of the old length are beyond what the new version was made for";
    FEATURE_REQUIRED "D108" "feature-required" Breaking [Loaders]
        "a reader that does not know the feature must refuse the package";
    FEATURE_DROPPED "D109" "feature-dropped" Compatible [Loaders]
        "a reader that knows the feature reads the package without it too";
    HYPERPARAMETER_CHANGED "D110" "hyperparameter-changed" Breaking [Results Adapters]
        "it computes something else, and no shape tells of it";
    TENSOR_REMOVED "D111" "tensor-removed" Breaking [Loaders Results Adapters]
        "loaders look for it and do not find it";
    TENSOR_ADDED "D112" "tensor-added" Breaking [Loaders Results]
        "strict loaders refuse it, others leave it out and compute without it";
    TENSOR_RENAMED "D113" "tensor-renamed" Breaking [Loaders Adapters]
        "the bytes are the same, but loaders and adapters look under the old name";
    TENSOR_RESHAPED "D114" "tensor-reshaped" Breaking [Loaders Results Adapters]
        "loaders set up for the old shape refuse it";
    ENCODING_CHANGED "D115" "encoding-changed" Breaking [Loaders Adapters]
        "the same bytes mean other numbers, so loaders have to decode them otherwise";
    DTYPE_CHANGED "D116" "dtype-changed" Breaking [Loaders Results]
        "neither dtype holds all values of the other, so loaders have to read it otherwise";
    DTYPE_NARROWED "D117" "dtype-narrowed" Compatible [Loaders Results]
        "loaders cast between float dtypes; results differ by rounding";
    DTYPE_WIDENED "D118" "dtype-widened" Compatible [Loaders]
        "loaders cast between float dtypes; the new one holds every value of the old one";
    VALUES_CHANGED "D119" "values-changed" Weights [Results Adapters]
        "it loads into the same code and serves the same interface, with other results";
    VALUES_NOT_FINITE "D120" "values-not-finite" Breaking [Results]
        "a NaN or an infinity spreads to everything that is computed from it";
    LAYOUT_CHANGED "D121" "layout-changed" Breaking [Results Adapters]
        "the same numbers in another order: loads silently, computes something else";
    TIES_CHANGED "D122" "ties-changed" Breaking [Loaders Results]
        "two tensors that were one are two, or the other way, and their values differ";
    TIE_STORED "D123" "tie-stored" Compatible [Loaders]
        "the values are the same; they are stored once or twice";
    HEAD_ADDED "D124" "head-added" Compatible [Loaders]
        "a head that nothing old asks for; loaders may leave it out";
    TOKEN_CHANGED "D130" "token-changed" Breaking [Callers Results]
        "sequences begin, end or are padded with another id";
    TOKEN_REMOVED "D131" "token-removed" Breaking [Callers]
        "clients that rely on the id find none";
    TOKEN_ADDED "D132" "token-added" Compatible [Callers]
        "an id with a meaning where the old version named none";
    TOKENIZER_CHANGED "D140" "tokenizer-changed" Breaking [Callers Results Adapters]
        "a text may become other ids, for which the weights were not trained";
    TOKENIZER_REMOVED "D141" "tokenizer-removed" Breaking [Callers]
        "tools that load it from this file find none";
    TOKENIZER_ADDED "D142" "tokenizer-added" Compatible [Callers]
        "it can be loaded from one more file; the others are as they were";
    TOKENIZER_SETTING_CHANGED "D143" "tokenizer-setting-changed" Breaking [Callers Results]
        "the setting decides which ids a text becomes";
    TOKENIZER_RESPELLED "D144" "tokenizer-respelled" Metadata []
        "the file has other bytes and says the same";
    TOKENS_APPENDED "D145" "tokens-appended" Compatible [Callers]
        "old ids keep their meaning; only texts that contain a new token are split otherwise";
    TOKEN_IDS_CHANGED "D146" "token-ids-changed" Breaking [Callers Results Adapters]
        "an id stands for another token than the one the weights were trained for";
    SPECIAL_TOKEN_CHANGED "D147" "special-token-changed" Breaking [Callers Results]
        "tools put another token at the beginning, the end or in the gaps";
    TOKENIZER_CONFIG_CHANGED "D148" "tokenizer-config-changed" Compatible [Callers]
        "it decides no ids; padding, truncation or clean-up of decoded text may differ";
    TEMPLATE_CHANGED "D150" "template-changed" Breaking [Callers]
        "the same conversation becomes another prompt";
    TEMPLATE_REMOVED "D151" "template-removed" Breaking [Callers]
        "clients that ask for it by name find none";
    TEMPLATE_ADDED "D152" "template-added" Compatible [Callers]
        "a template that nothing old asks for";
    TASK_REMOVED "D160" "task-removed" Breaking [Callers]
        "clients ask for it and are refused";
    TASK_ADDED "D161" "task-added" Compatible [Callers]
        "a task that nothing old asks for";
    DEFAULT_TASK_CHANGED "D162" "default-task-changed" Breaking [Callers]
        "clients that name no task are served another one";
    INPUT_REQUIRED "D163" "input-required" Breaking [Callers]
        "old requests lack it";
    INPUT_REMOVED "D164" "input-removed" Breaking [Callers]
        "old requests send what is no longer taken";
    INPUT_OPTIONAL "D165" "input-optional" Compatible [Callers]
        "old requests are complete as they are";
    OUTPUT_REMOVED "D166" "output-removed" Breaking [Callers]
        "clients read it and it is not there";
    OUTPUT_ADDED "D167" "output-added" Compatible [Callers]
        "an output that nothing old reads";
    PORT_CHANGED "D168" "port-changed" Breaking [Callers]
        "clients send or expect another dtype or shape";
    LABELS_CHANGED "D169" "labels-changed" Breaking [Callers Results]
        "a row of the output means another label";
    TASK_MEANING_CHANGED "D170" "task-meaning-changed" Breaking [Callers Results]
        "the same request is answered by another computation";
    LICENCE_CHANGED "D180" "licence-changed" Metadata [Audit]
        "nothing computes with it, but it may no longer allow what you do";
    DOCS_CHANGED "D181" "docs-changed" Metadata [Audit]
        "it is for people";
    CONFIG_FILE_CHANGED "D182" "config-file-changed" Compatible [Callers]
        "the model computes the same; tools that read the file may have other defaults";
    UNKNOWN_CONFIG_CHANGED "D183" "unknown-config-changed" Breaking [Loaders Results]
        "nobody here knows what the file decides, so it may load silently and compute something else";
    FILE_CHANGED "D184" "file-changed" Metadata []
        "the standard gives it no meaning";
    COMPONENT_CHANGED "D185" "component-changed" Breaking [Results]
        "what the model makes of pictures or of sound is another; of text it computes the same";
    PACKING_CHANGED "D190" "packing-changed" Identical []
        "the same tensors in other files or another order";
    SPEC_MAJOR_CHANGED "D191" "spec-major-changed" Breaking [Loaders]
        "a reader of one major version of the standard does not know the other";
    SPEC_MINOR_CHANGED "D192" "spec-minor-changed" Metadata [Loaders]
        "minor versions of the standard only add; what a reader must know is listed in `requires`";
    CONFORMANCE_CHANGED "D193" "conformance-changed" Metadata [Audit]
        "the package claims another level of the standard; what is behind it is listed by itself";
}

/// The rule of this number.
pub fn rule(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id).copied()
}
