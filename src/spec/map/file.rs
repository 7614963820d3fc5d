//! The form of the files of a mapping.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::op::Op;
use super::rules::{Alias, DTypeName, DropHead, MakeRule, Reader, Spell, TaskRule, Write};
use crate::spec::expr::Expr;

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MapFile {
    #[serde(default)]
    pub(super) map: MapHead,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub(super) config: BTreeMap<String, toml::Value>,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, BTreeMap<String, serde_json::Value>>")]
    pub(super) words: BTreeMap<String, toml::Table>,
    #[serde(default)]
    pub(super) tokenizer: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) alias: Vec<Alias>,
    #[serde(default)]
    pub(super) turned: Vec<TurnedFile>,
    #[serde(default)]
    pub(super) rule: Vec<RuleFile>,
    #[serde(default)]
    pub(super) drop: Vec<DropFile>,
    #[serde(default)]
    pub(super) drop_head: Vec<DropHead>,
    #[serde(default)]
    pub(super) reader: Vec<Reader>,
    #[serde(default)]
    pub(super) key: Vec<KeyFile>,
    #[serde(default)]
    pub(super) task: Vec<TaskRule>,
}

/// The table that a file begins with.
#[derive(Clone, Deserialize)]
pub(crate) struct HeadFile {
    #[serde(default)]
    pub(super) map: MapHead,
}

#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MapHead {
    #[serde(default)]
    pub(super) extends: Vec<String>,
    #[serde(default)]
    pub(super) arch: String,
    pub(super) revision: Option<u32>,
    #[serde(default, rename = "match")]
    pub(super) matches: BTreeMap<String, Words>,
    pub(super) when: Option<Expr>,
    pub(super) claims_untyped: Option<Expr>,
    pub(super) vector_dtype: Option<DTypeName>,
    #[serde(default)]
    pub(super) per_block_arrays: Vec<String>,
    /// What stands for the `@` that paths of keys begin with.
    pub(super) keys: Option<String>,
    #[serde(default)]
    pub(super) prefix: Vec<String>,
    #[serde(default)]
    pub(super) spell: Vec<Spell>,
    #[serde(default)]
    pub(super) base_class: Vec<String>,
    #[serde(default)]
    pub(super) clear: Vec<String>,
    #[serde(default)]
    pub(super) unwritten: Vec<String>,
    #[serde(default)]
    pub(super) inert: Vec<String>,
    /// `from` texts of rules, names of drops and `to` texts of keys of the mappings this one
    /// extends that do not hold here.
    #[serde(default)]
    pub(super) without: Vec<String>,
    /// Where it was read from: project and version.
    #[serde(default)]
    #[allow(dead_code)] // For people who read the file.
    pub(super) source: String,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Words {
    One(String),
    Many(Vec<String>),
}

impl Words {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Words::One(word) => vec![word],
            Words::Many(words) => words,
        }
    }
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TurnedFile {
    #[serde(default)]
    pub(super) each: BTreeMap<String, EachFile>,
    pub(super) names: Vec<String>,
    pub(super) shapes: Vec<Vec<Expr>>,
    pub(super) axes: Vec<usize>,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleFile {
    #[serde(default)]
    pub(super) each: BTreeMap<String, EachFile>,
    #[serde(default)]
    pub(super) over: BTreeMap<String, Expr>,
    pub(super) from: Vec<String>,
    #[serde(default)]
    pub(super) also: Vec<String>,
    pub(super) also_when: Option<Expr>,
    pub(super) to: Vec<String>,
    #[serde(default)]
    pub(super) requires_any: Vec<String>,
    #[serde(default)]
    pub(super) requires_none: Vec<String>,
    pub(super) tie: Option<String>,
    #[serde(default)]
    pub(super) ignore_tie_flag: bool,
    #[serde(default)]
    pub(super) ops: Vec<Op>,
    #[serde(default)]
    pub(super) alternative: bool,
    pub(super) dtype: Option<DTypeName>,
    pub(super) when: Option<Expr>,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum EachFile {
    Count(String),
    Words(Vec<String>),
    Tuples(Vec<Vec<String>>),
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DropFile {
    #[serde(default)]
    pub(super) each: BTreeMap<String, EachFile>,
    pub(super) name: String,
    pub(super) when: Option<Expr>,
    pub(super) make: Option<MakeRule>,
    #[serde(default)]
    pub(super) kept: bool,
    #[serde(default)]
    pub(super) computed: bool,
    #[serde(default)]
    pub(super) requires_any: Vec<String>,
    #[serde(default)]
    pub(super) emit_without_source: bool,
    pub(super) why: String,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyFile {
    pub(super) to: String,
    #[serde(default)]
    pub(super) from: Vec<String>,
    #[serde(default)]
    pub(super) null: bool,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub(super) words: toml::Table,
    /// The name of shared meanings, which those of `words` come before.
    pub(super) words_of: Option<String>,
    pub(super) expr: Option<Expr>,
    pub(super) back: Option<Expr>,
    #[serde(rename = "else")]
    pub(super) otherwise: Option<Expr>,
    pub(super) each: Option<EachValue>,
    #[serde(default)]
    pub(super) default: Vec<DefaultFile>,
    pub(super) value: Option<Expr>,
    pub(super) when: Option<Expr>,
    pub(super) write: Option<Vec<Write>>,
    #[serde(default)]
    pub(super) inexpressible: bool,
    pub(super) usual: Option<Expr>,
    #[serde(default)]
    pub(super) stored: Vec<String>,
    pub(super) rows_of: Option<String>,
    pub(super) columns_of: Option<String>,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EachValue {
    pub(super) i: Expr,
    pub(super) value: Expr,
    #[serde(default)]
    pub(super) from: Vec<String>,
    pub(super) rest: Option<Expr>,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DefaultFile {
    pub(super) when: Option<String>,
    #[schemars(with = "serde_json::Value")]
    pub(super) value: toml::Value,
}
