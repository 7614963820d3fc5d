//! Mappings: how a foreign layout's names, transforms and config keys become the standard's.

mod file;
mod resolve;
mod rules;

use schemars::JsonSchema;
use serde::Deserialize;

use super::expr::Expr;
use crate::base::error::Result;

<<<<<<< HEAD
pub(super) use self::file::{HeadFile, MapFile};
pub(super) use self::resolve::{place, resolve, resolve_head};
pub use self::rules::{
    Alias, ClassDefault, DTypeName, DropHead, DropRule, Each, Head, KeyRule, MakeRule, Map, Op,
    Reader, Rule, Spell, TaskRule, Write,
};
=======
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

/// How some foreign tensors become some canonical ones.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The variables it is repeated over.
    pub each: Vec<(String, Each)>,
    /// The variable that makes the foreign side a list.
    pub over: Option<(String, Expr)>,
    /// The foreign names.
    pub from: Vec<Template>,
    /// Foreign names that may hold the same bytes again.
    pub also: Vec<Template>,
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

/// The values of one variable.
#[derive(Clone, Debug)]
pub enum Each {
    /// 0 to before the value of an expression, or the entries of a list it gives.
    Count(Expr),
    /// Given texts; tuples are read as `{x.0}`, `{x.1}`.
    Texts(Vec<Vec<String>>),
}

/// An operation of the way in; the way out inverts it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// Permutes the axes; swaps the last two if none are given; leaves 1-D tensors alone.
    Transpose {
        /// For each axis of the result, the axis it comes from.
        perm: Option<Vec<usize>>,
    },
    /// Regroups the dimensions.
    Reshape {
        /// The foreign shape.
        from: Vec<Expr>,
        /// The shape after it.
        to: Vec<Expr>,
    },
    /// Cuts one tensor into several.
    Split {
        /// The axis.
        axis: usize,
        /// The sizes of the pieces.
        sizes: Vec<Expr>,
    },
    /// Puts several tensors of one shape on a new axis.
    Stack {
        /// The new axis.
        #[serde(default)]
        axis: usize,
    },
    /// Interleaved rotary pairs to half-split ones, on the rows of each head.
    RopeHalf {
        /// The number of heads.
        heads: Expr,
        /// The rotary dimensions of each.
        dim: Expr,
        /// Whether they are the last of the head, not the first.
        #[serde(default)]
        last: bool,
    },
    /// The first and the second half of the rows of each head change places.
    SwapHalves {
        /// The number of heads.
        heads: Expr,
    },
    /// Rows q, then k, then v.
    QkvConcat,
    /// Rows in groups: the q heads of a group, its k head, its v head.
    QkvGrouped,
    /// Rows in blocks, each with its share of several tensors.
    Blocks {
        /// The number of blocks.
        n: Expr,
        /// The number of tensors.
        parts: usize,
    },
    /// Two tensors in turn along an axis, first the even entries.
    Pairs {
        /// The axis.
        axis: usize,
    },
    /// Rows that nothing reads, before the others.
    UnusedRows {
        /// How many.
        n: Expr,
    },
    /// Operations for each of several tensors apart.
    Each {
        /// One list for each tensor.
        ops: Vec<Vec<Op>>,
    },
    /// Adds a constant, in F32.
    Add {
        /// The constant.
        c: Expr,
    },
    /// Multiplies by a constant, in F32.
    Scale {
        /// The constant.
        c: Expr,
    },
    /// `−e^x`.
    NegExp,
    /// `ln(−x)`.
    LnNeg,
}
>>>>>>> next

impl<'de> Deserialize<'de> for Expr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Expr, D::Error> {
        #[derive(Deserialize, JsonSchema)]
        #[serde(untagged)]
        enum Text {
            Int(i64),
            Float(f64),
            Source(String),
        }
        let text = match Text::deserialize(deserializer)? {
            Text::Int(int) => int.to_string(),
            Text::Float(float) => format!("{float:?}"),
            Text::Source(text) => text,
        };
        Expr::parse(&text).map_err(serde::de::Error::custom)
    }
}
