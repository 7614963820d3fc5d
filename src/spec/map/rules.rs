//! A mapping as it is used: everything that its files say, laid together.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;

use super::op::Op;
use crate::checkpoint::DType;
use crate::package::{DenseStep, Value};
use crate::spec::expr::Expr;
use crate::spec::template::Template;

/// The mapping of one foreign layout of one family.
#[derive(Clone, Debug, Default)]
pub struct Map {
    /// The foreign format, `hf`.
    pub format: String,
    /// The mapping's name, unique in its format.
    pub name: String,
    /// The architecture it leads to.
    pub arch: String,
    /// Counts the changes of this mapping that changed its output.
    pub revision: u32,
    /// Which values of the foreign config choose it: all of one line must hold.
    pub matches: BTreeMap<String, Vec<String>>,
    /// Of several mappings that the foreign config chooses by the same values, which one: a
    /// condition on the config.
    pub when: Option<Expr>,
    /// When a config that names no family is of this one, though the names fit others as well.
    pub claims_untyped: Option<Expr>,
    /// The dtype that tensors of one axis have in files of the format, whatever the others have.
    pub vector_dtype: Option<DType>,
    /// Keys of the format that are lists of a number for each block, which rules read and write as
    /// tensors `blk.{i}.KEY` without axes.
    pub per_block_arrays: Vec<String>,
    /// Tokens with a role that only the family knows of: texts by the name of the role in the format.
    pub tokenizer: BTreeMap<String, String>,
    /// What every name that starts with `@` has in front, in the order to try.
    pub prefixes: Vec<String>,
    /// Other spellings of names' ends.
    pub spells: Vec<Spell>,
    /// Other words in names, tensor by tensor: those of programs that have their own.
    pub aliases: Vec<Alias>,
    /// Tensors whose axes some programs have in another order.
    pub turned: Vec<Turned>,
    /// The tensors.
    pub rules: Vec<Rule>,
    /// Buffers that the standard does not store.
    pub drops: Vec<DropRule>,
    /// Heads that the foreign format has no place for.
    pub dropped_heads: Vec<DropHead>,
    /// Models that programs which read the format compute otherwise, or do not open.
    pub readers: Vec<Reader>,
    /// The config keys.
    pub keys: Vec<KeyRule>,
    /// The tasks by head and class.
    pub tasks: Vec<TaskRule>,
    /// Classes of the foreign framework without a head.
    pub base_classes: Vec<String>,
    /// Constant entries of a foreign config that is written.
    pub config: BTreeMap<String, toml::Value>,
    /// Entries of a foreign config that are taken out before it is written anew.
    pub clear: Vec<String>,
    /// Entries of a foreign config that are never written, unless that of the source has them.
    pub unwritten: Vec<String>,
    /// Paths of the foreign config that change no output, with all below them.
    pub inert: BTreeSet<String>,
    /// Meanings of foreign words that several keys share, by name.
    pub words: BTreeMap<String, toml::Table>,
}

/// By what a mapping is chosen.
#[derive(Clone, Debug)]
pub struct Head {
    /// The architecture it leads to.
    pub arch: String,
    /// Which values of the foreign config choose it: all of one line must hold.
    pub matches: BTreeMap<String, Vec<String>>,
    /// Of several mappings that the foreign config chooses by the same values, which one.
    pub when: Option<Expr>,
}

/// Another spelling of the ends of names, decided once for a file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spell {
    /// The end that the rules use.
    pub ours: String,
    /// The end that some files use.
    pub theirs: String,
}

/// A piece of names that some programs spell in another way. A name of a file that no rule reads is
/// read by the name with our piece in its place, where a rule reads that one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alias {
    /// The piece that the rules use.
    pub ours: String,
    /// The piece that some files use.
    pub theirs: String,
}

/// Tensors that some programs write with their axes in another order than the rules read.
#[derive(Clone, Debug)]
pub struct Turned {
    /// The variables it is repeated over.
    pub each: Vec<(String, Each)>,
    /// The foreign names.
    pub names: Vec<Template>,
    /// The shape of each in such a file. Only a file where all have it is one.
    pub shapes: Vec<Vec<Expr>>,
    /// For each axis that the rules read, the one of the file.
    pub axes: Vec<usize>,
}

/// How some foreign tensors become some canonical ones.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The variables it is repeated over.
    pub each: Vec<(String, Each)>,
    /// The variable that makes the foreign side a list, or those names of `also` that have it.
    pub over: Option<(String, Expr)>,
    /// The foreign names.
    pub from: Vec<Template>,
    /// Foreign names that may hold the same bytes again.
    pub also: Vec<Template>,
    /// When those are written too where no source says which there were.
    pub also_when: Option<Expr>,
    /// The canonical names.
    pub to: Vec<Template>,
    /// Foreign names of which one has to be in the file for the rule to read it.
    pub requires_any: Vec<Template>,
    /// Foreign names of which none may be in the file.
    pub requires_none: Vec<Template>,
    /// The canonical tensor that this one may be tied to.
    pub tie: Option<String>,
    /// Whether bytes alone say if it is tied, as the config's flag means something else. On the
    /// way out it is then written although it repeats another tensor.
    pub ignore_tie_flag: bool,
    /// What happens on the way in.
    pub ops: Vec<Op>,
    /// Whether it reads what some programs write in place of what another rule reads. On the way out
    /// it is used only where the source had its names, and the other rule then is not.
    pub is_alternative: bool,
    /// The only dtype that readers of the foreign format take there.
    pub dtype: Option<DType>,
    /// When the rule holds.
    pub when: Option<Expr>,
}

impl Rule {
    /// Whether its foreign side is a list; else it is other names that it is repeated over.
    pub fn is_list(&self) -> bool {
        self.over.as_ref().is_some_and(|(over, _)| self.from.iter().any(|name| name.has(over)))
    }
}

/// The values of one variable.
#[derive(Clone, Debug)]
pub enum Each {
    /// 0 to before the value of an expression, or the entries of a list it gives.
    Count(Expr),
    /// Given texts; tuples are read as `{x.0}`, `{x.1}`.
    Texts(Vec<Vec<String>>),
}

/// A foreign buffer that the standard does not store.
#[derive(Clone, Debug)]
pub struct DropRule {
    /// The variables it is repeated over.
    pub each: Vec<(String, Each)>,
    /// The foreign name; with `*` at its end every name that begins so.
    pub name: Template,
    /// When there is such a buffer.
    pub when: Option<Expr>,
    /// How to compute it; without one it is dropped for good, or kept.
    pub make: Option<MakeRule>,
    /// Whether its bytes are kept beside the package, as nothing computes them.
    pub kept: bool,
    /// Whether readers compute it by a formula: one in half precision is rounded, and theirs is not.
    pub computed: bool,
    /// Foreign names of which one has to be in the file.
    pub requires_any: Vec<Template>,
    /// Whether readers miss it: then it is written where no source says what to write.
    pub emit_without_source: bool,
    /// Why it is no part of the model.
    pub why: String,
}

/// A head that the foreign format has no place for: a model is written without it, with a warning.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DropHead {
    /// The head's name.
    pub head: String,
    /// Another head, whose place the format has for one of the two alone.
    pub beside: Option<String>,
    /// Why readers do without it.
    pub why: String,
}

/// What programs that read the format do with some models otherwise than the models say.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reader {
    /// The models, by their hyperparameters.
    pub when: Expr,
    /// What the programs do, as the end of a sentence about them.
    pub does: String,
    /// Whether the file is written nevertheless, with a warning.
    #[serde(default)]
    pub warn: bool,
}

/// How to compute a buffer.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MakeRule {
    /// The recipe: `constant`, `list`, `iota`, `causal_mask`, `rope_inv_freq`, `llama3_factors`,
    /// `sinusoid`.
    #[serde(rename = "fn")]
    pub function: String,
    /// The shape.
    pub shape: Vec<Expr>,
    /// The value of a constant.
    pub value: Option<Expr>,
    /// The values of a list.
    pub values: Option<Expr>,
    /// The dtype, where readers take one only.
    pub dtype: Option<DTypeName>,
    /// The window of a mask.
    pub window: Option<Expr>,
    /// The rotary base.
    pub theta: Option<Expr>,
    /// The rotary dimensions.
    pub dim: Option<Expr>,
}

/// A dtype by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct DTypeName(#[schemars(with = "String")] pub DType);

impl TryFrom<String> for DTypeName {
    type Error = String;

    fn try_from(name: String) -> std::result::Result<DTypeName, String> {
        let dtype = DType::parse(&name).ok_or_else(|| format!("there is no dtype {name:?}"))?;
        Ok(DTypeName(dtype))
    }
}

/// How a hyperparameter is read from and written to the foreign config.
#[derive(Clone, Debug)]
pub struct KeyRule {
    /// The hyperparameter; `tokens.` leads to the token ids, `_` to a value for other rules.
    pub to: String,
    /// The paths in the foreign config, in the order to try.
    pub from: Vec<String>,
    /// Whether a stored `null` is a value and not an absence.
    pub null: bool,
    /// What the foreign words mean; of several with one meaning the first is written.
    pub words: Vec<(String, Value)>,
    /// The value from the foreign one, `x`.
    pub expr: Option<Expr>,
    /// The foreign value from this one, `x`.
    pub back: Option<Expr>,
    /// The value where the foreign config has none.
    pub otherwise: Option<Expr>,
    /// A list where the foreign config has none.
    pub each: Option<EachEntry>,
    /// The foreign class's defaults, by the version of the writer.
    pub defaults: Vec<ClassDefault>,
    /// The value whatever the foreign config says.
    pub value: Option<Expr>,
    /// When the hyperparameter exists.
    pub when: Option<Expr>,
    /// Where it is written; to the first path of `from` if nothing is said.
    pub write: Option<Vec<Write>>,
    /// Whether the foreign format has no place for the value, but for the one that is read back: a
    /// model with another one is written all the same, with a warning.
    pub inexpressible: bool,
    /// The value that `null` stands for: a model that has it is the same as one that has none.
    pub usual: Option<Expr>,
    /// For a value `_`: canonical tensors of which any one being stored is what is written, as
    /// true or false, where no source says it.
    pub stored: Vec<String>,
    /// For a value `_`: the canonical tensor whose rows are what is written, where it is stored and no
    /// source says it.
    pub rows_of: Option<String>,
    /// The same of its last dimension.
    pub columns_of: Option<String>,
}

/// A list that is made entry by entry.
#[derive(Clone, Debug)]
pub struct EachEntry {
    /// How many entries.
    pub count: Expr,
    /// Entry `i`.
    pub value: Expr,
    /// Paths with `{i}` that state single entries.
    pub from: Vec<String>,
    /// Entry `i` where what they stand in is there, and this one is not.
    pub rest: Expr,
}

impl EachEntry {
    /// Its expressions.
    pub fn exprs(&self) -> [&Expr; 3] {
        [&self.count, &self.value, &self.rest]
    }
}

/// A path with the place of an entry put in for `{i}`.
pub fn entry_path(path: &str, i: u64) -> String {
    path.replace("{i}", &i.to_string())
}

/// A default of the foreign class.
#[derive(Clone, Debug)]
pub struct ClassDefault {
    /// The writers it holds for, `transformers < 5`; all if nothing is said.
    pub when: Option<String>,
    /// The value.
    pub value: Value,
}

/// A place of the foreign config that a hyperparameter is written to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Write {
    /// Always.
    Path(String),
    /// Under a condition, or with another value.
    Rule {
        /// The path.
        path: String,
        /// When.
        when: Option<Expr>,
        /// The value written; `x` is the standard's, `foreign` what stands in its place otherwise.
        value: Option<Expr>,
    },
}

/// A task that a foreign class or head serves.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskRule {
    /// The task's id.
    pub id: String,
    /// The head's name.
    pub head: Option<String>,
    /// Heads that must be there too.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Heads whose dense maps the pooled vector goes through, one after the other and with nothing between: a
    /// task with them is there only where all of them are.
    #[serde(default)]
    pub dense: Vec<String>,
    /// The foreign classes, the one to write first.
    pub class: Vec<String>,
    /// What names that start with `@` have in front in files of these classes, if not the mapping's
    /// first prefix.
    pub prefix: Option<String>,
    /// The pooling.
    pub pool: Option<String>,
    /// The activation between the head's dense map and its projection.
    pub activation: Option<String>,
    /// Whether the readers of the format scale an embedding to length 1, which no file says.
    pub normalize: Option<bool>,
    /// Whether the foreign config has labels for it.
    #[serde(default)]
    pub labels: bool,
    /// Where the foreign config lists them in the order of the head's rows; without it they are
    /// the `id2label` of the classes.
    pub label_list: Option<String>,
    /// Entries of the foreign config that go with it. Of several rules for one task and head
    /// that one holds whose entries the config has; the first one where it has none of them. A
    /// task without a head is there only where the config has them.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub config: BTreeMap<String, toml::Value>,
}

impl TaskRule {
    /// The maps of the pooled vector.
    #[must_use]
    pub fn dense_steps(&self) -> Vec<DenseStep> {
        let step = |head: &String| DenseStep { head: head.clone(), activation: None };
        self.dense.iter().map(step).collect()
    }
}
