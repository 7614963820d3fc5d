//! Mappings: how a foreign layout's names, transforms and config keys become the standard's.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::expr::Expr;
use super::template::Template;
use super::{bad, from_toml};
use crate::base::error::Result;
use crate::base::limits::MAX_EXTENDS;
use crate::checkpoint::DType;
use crate::package::Value;

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
    /// A list where the foreign config has none: a variable's count, and the value for each.
    pub each: Option<(Expr, Expr)>,
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

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MapFile {
    #[serde(default)]
    map: MapHead,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    config: BTreeMap<String, toml::Value>,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, BTreeMap<String, serde_json::Value>>")]
    words: BTreeMap<String, toml::Table>,
    #[serde(default)]
    tokenizer: BTreeMap<String, String>,
    #[serde(default)]
    alias: Vec<Alias>,
    #[serde(default)]
    rule: Vec<RuleFile>,
    #[serde(default)]
    drop: Vec<DropFile>,
    #[serde(default)]
    drop_head: Vec<DropHead>,
    #[serde(default)]
    reader: Vec<Reader>,
    #[serde(default)]
    key: Vec<KeyFile>,
    #[serde(default)]
    task: Vec<TaskRule>,
}

/// The table that a file begins with.
#[derive(Clone, Deserialize)]
pub(super) struct HeadFile {
    #[serde(default)]
    map: MapHead,
}

#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MapHead {
    #[serde(default)]
    extends: Vec<String>,
    #[serde(default)]
    arch: String,
    revision: Option<u32>,
    #[serde(default, rename = "match")]
    matches: BTreeMap<String, Words>,
    when: Option<Expr>,
    claims_untyped: Option<Expr>,
    vector_dtype: Option<DTypeName>,
    #[serde(default)]
    per_block_arrays: Vec<String>,
    /// What stands for the `@` that paths of keys begin with.
    keys: Option<String>,
    #[serde(default)]
    prefix: Vec<String>,
    #[serde(default)]
    spell: Vec<Spell>,
    #[serde(default)]
    base_class: Vec<String>,
    #[serde(default)]
    clear: Vec<String>,
    #[serde(default)]
    inert: Vec<String>,
    /// `from` texts of rules, names of drops and `to` texts of keys of the mappings this one
    /// extends that do not hold here.
    #[serde(default)]
    without: Vec<String>,
    /// Where it was read from: project and version.
    #[serde(default)]
    #[allow(dead_code)] // For people who read the file.
    source: String,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

impl Words {
    fn into_vec(self) -> Vec<String> {
        match self {
            Words::One(word) => vec![word],
            Words::Many(words) => words,
        }
    }
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    #[serde(default)]
    each: BTreeMap<String, EachFile>,
    #[serde(default)]
    over: BTreeMap<String, Expr>,
    from: Vec<String>,
    #[serde(default)]
    also: Vec<String>,
    to: Vec<String>,
    #[serde(default)]
    requires_any: Vec<String>,
    #[serde(default)]
    requires_none: Vec<String>,
    tie: Option<String>,
    #[serde(default)]
    ignore_tie_flag: bool,
    #[serde(default)]
    ops: Vec<Op>,
    #[serde(default)]
    alternative: bool,
    dtype: Option<DTypeName>,
    when: Option<Expr>,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum EachFile {
    Count(String),
    Words(Vec<String>),
    Tuples(Vec<Vec<String>>),
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DropFile {
    #[serde(default)]
    each: BTreeMap<String, EachFile>,
    name: String,
    when: Option<Expr>,
    make: Option<MakeRule>,
    #[serde(default)]
    kept: bool,
    #[serde(default)]
    requires_any: Vec<String>,
    #[serde(default)]
    emit_without_source: bool,
    why: String,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    to: String,
    #[serde(default)]
    from: Vec<String>,
    #[serde(default)]
    null: bool,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    words: toml::Table,
    /// The name of shared meanings, which those of `words` come before.
    words_of: Option<String>,
    expr: Option<Expr>,
    back: Option<Expr>,
    #[serde(rename = "else")]
    otherwise: Option<Expr>,
    each: Option<EachValue>,
    #[serde(default)]
    default: Vec<DefaultFile>,
    value: Option<Expr>,
    when: Option<Expr>,
    write: Option<Vec<Write>>,
    #[serde(default)]
    inexpressible: bool,
    usual: Option<Expr>,
    #[serde(default)]
    stored: Vec<String>,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EachValue {
    i: Expr,
    value: Expr,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DefaultFile {
    when: Option<String>,
    #[schemars(with = "serde_json::Value")]
    value: toml::Value,
}

/// The format and the file of a name that a mapping of `format` extends: `hf/llama` is of another one.
pub(super) fn place<'n>(format: &'n str, name: &'n str) -> (&'n str, &'n str) {
    name.split_once('/').unwrap_or((format, name))
}

/// The name of a file that another extends, which is of the format of that one where it says none.
fn parent(of: &str, name: &str) -> String {
    match of.split_once('/') {
        Some((format, _)) if !name.contains('/') => format!("{format}/{name}"),
        _ => name.to_owned(),
    }
}

/// What the files say of a mapping before they say what it does.
///
/// # Errors
/// A file is missing, does not keep the form, or they extend each other in a circle.
pub(super) fn resolve_head(
    format: &str,
    name: &str,
    load: &dyn Fn(&str) -> Result<HeadFile>,
) -> Result<Head> {
    fn arch(
        format: &str,
        name: &str,
        load: &dyn Fn(&str) -> Result<HeadFile>,
        depth: usize,
    ) -> Result<String> {
        if MAX_EXTENDS < depth {
            let why = "mappings extend each other too deep, or in a circle";
            return Err(bad(&format!("map/{format}/{name}.toml"), why));
        }
        let file = load(name)?.map;
        if !file.arch.is_empty() {
            return Ok(file.arch);
        }
        let mut found = String::new();
        for of in &file.extends {
            let of_parent = arch(format, &parent(name, of), load, depth + 1)?;
            if !of_parent.is_empty() {
                found = of_parent;
            }
        }
        Ok(found)
    }
    let head = load(name)?.map;
    let arch = arch(format, name, load, 0)?;
    Ok(Head { arch, matches: words_of(head.matches), when: head.when })
}

fn words_of(matches: BTreeMap<String, Words>) -> BTreeMap<String, Vec<String>> {
    matches.into_iter().map(|(path, words)| (path, words.into_vec())).collect()
}

pub(super) fn resolve(
    format: &str,
    name: &str,
    load: &dyn Fn(&str) -> Result<MapFile>,
) -> Result<Map> {
    let mut map = Map { format: format.to_owned(), name: name.to_owned(), ..Map::default() };
    let mut place = String::new();
    merge(&mut map, name, load, 0, &mut place)?;
    map.name = name.to_owned();
    map.place_keys(&place);
    if map.prefixes.is_empty() {
        map.prefixes.push(String::new());
    }
    Ok(map)
}

impl Map {
    /// Puts the text that `@` stands for into the paths of keys.
    fn place_keys(&mut self, place: &str) {
        let put = |path: &mut String| {
            if let Some(rest) = path.strip_prefix('@') {
                *path = format!("{place}{rest}");
            }
        };
        for key in &mut self.keys {
            key.from.iter_mut().for_each(put);
            for write in key.write.iter_mut().flatten() {
                match write {
                    Write::Path(path) | Write::Rule { path, .. } => put(path),
                }
            }
        }
        let place_all = |config: &mut BTreeMap<String, toml::Value>| {
            let placed = std::mem::take(config).into_iter().map(|(mut path, value)| {
                put(&mut path);
                (path, value)
            });
            *config = placed.collect();
        };
        place_all(&mut self.config);
        for task in &mut self.tasks {
            place_all(&mut task.config);
            task.label_list.iter_mut().for_each(put);
        }
    }
}

/// Lays the file `name` over what `map` has, after the files it extends.
fn merge(
    map: &mut Map,
    name: &str,
    load: &dyn Fn(&str) -> Result<MapFile>,
    depth: usize,
    place: &mut String,
) -> Result<()> {
    let fail = |why: &str| bad(&format!("map/{}/{name}.toml", map.format), why);
    if MAX_EXTENDS < depth {
        return Err(fail("mappings extend each other too deep, or in a circle"));
    }
    let MapFile {
        map: head,
        config,
        words,
        tokenizer,
        alias,
        rule,
        drop,
        drop_head,
        reader,
        key,
        task,
    } = load(name)?;
    let format = map.format.clone();
    let fail = |why: &str| bad(&format!("map/{format}/{name}.toml"), why);
    for of in &head.extends {
        merge(map, &parent(name, of), load, depth + 1, place)?;
    }
    for text in &head.without {
        let before = map.rules.len() + map.drops.len() + map.keys.len() + map.tasks.len();
        map.rules.retain(|rule| !rule.from.iter().any(|from| from.text == *text));
        map.drops.retain(|drop| drop.name.text != *text);
        map.keys.retain(|key| key.to != *text);
        map.tasks.retain(|task| task.id != *text);
        if map.inert.remove(text) {
            continue;
        }
        if map.rules.len() + map.drops.len() + map.keys.len() + map.tasks.len() == before {
            return Err(fail(&format!("there was no `{text}` to leave out")));
        }
    }
    if !head.arch.is_empty() {
        map.arch = head.arch;
    }
    map.revision = head.revision.unwrap_or(1);
    // A family is never recognised by what recognises the one it extends.
    map.matches = words_of(head.matches);
    map.claims_untyped = head.claims_untyped;
    map.when = head.when;
    map.vector_dtype = head.vector_dtype.map(|name| name.0).or(map.vector_dtype);
    if !head.per_block_arrays.is_empty() {
        map.per_block_arrays = head.per_block_arrays;
    }
    if let Some(keys) = head.keys {
        *place = keys;
    }
    for (ours, theirs) in [
        (&mut map.prefixes, head.prefix),
        (&mut map.base_classes, head.base_class),
        (&mut map.clear, head.clear),
    ] {
        if !theirs.is_empty() {
            *ours = theirs;
        }
    }
    if !head.spell.is_empty() {
        map.spells = head.spell;
    }
    for alias in alias {
        if !map.aliases.contains(&alias) {
            map.aliases.push(alias);
        }
    }
    map.inert.extend(head.inert);
    map.words.extend(words);
    map.config.extend(config);
    map.tokenizer.extend(tokenizer);
    for rule in rule {
        map.rules.push(rule_of(rule).map_err(|why| fail(&why))?);
    }
    for file in drop {
        let name = Template::parse(&file.name).map_err(|why| fail(&why))?;
        let each = each_of(file.each).map_err(|why| fail(&why))?;
        map.drops.retain(|drop| drop.name != name);
        if file.kept && (file.make.is_some() || file.emit_without_source) {
            return Err(fail("what is kept is not made"));
        }
        let requires_any = file.requires_any.iter().map(|text| Template::parse(text));
        let requires_any =
            requires_any.collect::<std::result::Result<_, _>>().map_err(|why| fail(&why))?;
        let DropFile { when, make, kept, emit_without_source, why, .. } = file;
        map.drops.push(DropRule {
            each,
            name,
            when,
            make,
            kept,
            requires_any,
            emit_without_source,
            why,
        });
    }
    for reader in reader {
        map.readers.retain(|known| known.does != reader.does);
        map.readers.push(reader);
    }
    for dropped in drop_head {
        map.dropped_heads.retain(|known| known.head != dropped.head);
        map.dropped_heads.push(dropped);
    }
    for file in key {
        let key = key_of(file, &map.words).map_err(|why| fail(&why))?;
        match map.keys.iter_mut().find(|known| known.to == key.to) {
            Some(known) => *known = key,
            None => map.keys.push(key),
        }
    }
    if !task.is_empty() {
        // Classes belong to one family: its tasks are told anew, never added to.
        map.tasks = task;
    }
    Ok(())
}

fn rule_of(file: RuleFile) -> std::result::Result<Rule, String> {
    let mut each = each_of(file.each)?;
    let uses_p = |texts: &[String]| texts.iter().any(|text| text.contains("{p}"));
    if uses_p(&file.from) || uses_p(&file.to) {
        let leaves = ["weight", "bias"].map(|leaf| vec![leaf.to_owned()]).to_vec();
        each.push(("p".to_owned(), Each::Texts(leaves)));
    }
    let templates = |texts: &[String]| {
        texts.iter().map(|text| Template::parse(text)).collect::<std::result::Result<Vec<_>, _>>()
    };
    let mut over = file.over.into_iter();
    let (first, second) = (over.next(), over.next());
    if second.is_some() {
        return Err("a rule is a list over one variable at most".to_owned());
    }
    Ok(Rule {
        each,
        over: first,
        from: templates(&file.from)?,
        also: templates(&file.also)?,
        to: templates(&file.to)?,
        requires_any: templates(&file.requires_any)?,
        requires_none: templates(&file.requires_none)?,
        tie: file.tie,
        ignore_tie_flag: file.ignore_tie_flag,
        ops: file.ops,
        is_alternative: file.alternative,
        dtype: file.dtype.map(|name| name.0),
        when: file.when,
    })
}

fn each_of(file: BTreeMap<String, EachFile>) -> std::result::Result<Vec<(String, Each)>, String> {
    let each = file.into_iter().map(|(variable, each)| {
        let each = match each {
            EachFile::Count(expr) => Each::Count(Expr::parse(&expr)?),
            EachFile::Words(words) => {
                Each::Texts(words.into_iter().map(|word| vec![word]).collect())
            }
            EachFile::Tuples(tuples) => Each::Texts(tuples),
        };
        Ok((variable, each))
    });
    each.collect()
}

fn key_of(
    file: KeyFile,
    shared: &BTreeMap<String, toml::Table>,
) -> std::result::Result<KeyRule, String> {
    let mut words = file.words;
    if let Some(name) = &file.words_of {
        let shared = shared.get(name).ok_or_else(|| format!("there are no words `{name}`"))?;
        for (word, value) in shared {
            words.entry(word).or_insert_with(|| value.clone());
        }
    }
    let words = words.iter().map(|(word, value)| Ok((word.clone(), from_toml(value)?)));
    let defaults = file
        .default
        .into_iter()
        .map(|default| Ok(ClassDefault { when: default.when, value: from_toml(&default.value)? }));
    Ok(KeyRule {
        words: words.collect::<std::result::Result<_, String>>()?,
        defaults: defaults.collect::<std::result::Result<_, String>>()?,
        from: file.from,
        // An id that is null says that there is none; the class's is for a config that is silent.
        null: file.null || file.to.starts_with("tokens."),
        to: file.to,
        expr: file.expr,
        back: file.back,
        otherwise: file.otherwise,
        each: file.each.map(|each| (each.i, each.value)),
        value: file.value,
        when: file.when,
        write: file.write,
        inexpressible: file.inexpressible,
        usual: file.usual,
        stored: file.stored,
    })
}
