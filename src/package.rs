//! The standard package on disk: the names of its files, and `model.json` as a type.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::base::name::Name;
use crate::checkpoint::DType;

/// What the package is: architecture, hyperparameters, tasks.
pub const MODEL_FILE: &str = "model.json";
/// The hashes and digests.
pub const MANIFEST_FILE: &str = "manifest.json";
/// Where the package came from, and what the exact way back needs.
pub const SOURCE_FILE: &str = "source.json";
/// The stem of the tensor files.
pub const TENSORS_STEM: &str = "model";

/// Whether JSON is a `model.json` of the standard: other tools write files of that name too.
pub fn is_model(json: &Json) -> bool {
    json.get("spec").is_some() && json.get("conformance").is_some()
}

/// Whether the text of a `model.json` is of the standard, or was meant to be: one that is damaged still has some
/// of its words.
pub fn is_meant_as_model(text: &[u8]) -> bool {
    has(text, "\"conformance\"") || has(text, "\"hyperparameters\"")
}

/// Whether the text of a `manifest.json` is of the standard, or was meant to be.
pub fn is_meant_as_manifest(text: &[u8]) -> bool {
    has(text, "llmstd.manifest") || (has(text, "\"digests\"") && is_meant_as_model(text))
}

fn has(text: &[u8], words: &str) -> bool {
    text.windows(words.len()).any(|window| window == words.as_bytes())
}

/// How much of the standard a package keeps. Each level holds the one before it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Conformance {
    /// Well-formed, safe, hashed.
    Container,
    /// Also of a known architecture, complete and consistent.
    Schema,
    /// Also with a tokenizer and at least one task.
    Full,
}

impl Conformance {
    /// The level's name.
    pub fn name(self) -> &'static str {
        match self {
            Conformance::Container => "container",
            Conformance::Schema => "schema",
            Conformance::Full => "full",
        }
    }
}

/// The value of a hyperparameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Value {
    /// No value: the feature is off.
    Null,
    /// A switch.
    Bool(bool),
    /// A count.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// One of a closed set of words.
    Symbol(String),
    /// Several, in order.
    List(Vec<Value>),
}

/// Hyperparameters by name; names have dots where keys belong together.
pub type Hparams = BTreeMap<String, Value>;

/// `model.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Model {
    /// The version of the standard, `1.0.0`.
    pub spec: String,
    /// Features of later minor versions that a reader must know to open the package.
    #[serde(default)]
    pub requires: Vec<String>,
    /// The level the package was written to.
    pub conformance: Conformance,
    /// The architecture's id; absent where only the container is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Every hyperparameter of the architecture, written out.
    #[serde(default)]
    pub hyperparameters: Hparams,
    /// Token ids with a meaning: `bos`, `eos` (a list), `pad`, `unk`, `sep`, `cls`, `mask`,
    /// `decoder_start`.
    #[serde(default)]
    pub tokens: Hparams,
    /// Tensors that are stored once under the second name: `[tied, stored]`.
    #[serde(default)]
    pub ties: Vec<[String; 2]>,
    /// Quantized payloads by tensor name.
    #[serde(default)]
    pub encodings: BTreeMap<String, serde_json::Value>,
    /// What the model can be asked.
    #[serde(default)]
    pub tasks: Vec<Task>,
    /// What was done to the package, oldest first.
    #[serde(default)]
    pub history: Vec<Event>,
}

/// One thing the model can be asked, with its interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Task {
    /// The task's id in `tasks.toml`, `causal-lm`.
    pub id: String,
    /// The head that serves it, `lm` for the tensors `heads.lm.*`; absent where none is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// Which positions make one vector of a sequence: `first`, `last`, `eos`, `mean`, `max`, `pooler`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Whether an embedding is scaled to length 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<bool>,
    /// The activation between the head's dense map and its projection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<String>,
    /// Maps of the pooled vector, in order, before it is scaled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dense: Vec<DenseStep>,
    /// What the labels mean: `single`, `multi`, `regression`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The labels, in the order of the head's rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// What goes in.
    pub inputs: Vec<Port>,
    /// What comes out.
    pub outputs: Vec<Port>,
}

/// One map of a pooled vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DenseStep {
    /// The head that it is, `embedding` for the tensors `heads.embedding.dense.*`.
    pub head: String,
    /// The activation after it; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<String>,
}

/// One named input or output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The name clients use.
    pub name: String,
    /// The dtype, `I64`.
    pub dtype: String,
    /// The dimensions: numbers, or words where the client chooses (`batch`, `sequence`).
    pub shape: Vec<Extents>,
    /// Whether it may be left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// One dimension of a [`Port`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Extents {
    /// Fixed by the model.
    Fixed(u64),
    /// Chosen by the client; equal words are equal dimensions.
    Symbolic(String),
}

/// One entry of the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// What was done: `convert`, `cast`, `migrate`.
    pub op: String,
    /// The details, in words a person can read.
    #[serde(flatten)]
    pub details: BTreeMap<String, String>,
}

/// The schema of [`Provenance`].
pub const SOURCE_SCHEMA: &str = "llmstd.source/1";

/// `source.json`: where a package came from, and what the exact way back needs. It is not needed
/// to run the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Provenance {
    /// `SOURCE_SCHEMA`.
    pub schema: String,
    /// The foreign format, `hf`.
    pub format: String,
    /// The container of its tensors, `safetensors` or `pytorch`.
    pub container: String,
    /// The mapping, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<MapUsed>,
    /// The program that converted, with its version.
    pub tool: String,
    /// The foreign tensors, in their order.
    pub tensors: Vec<ForeignTensor>,
    /// Foreign tensors that hold what another one holds: `[copy, canonical name]`.
    #[serde(default)]
    pub copies: Vec<[String; 2]>,
    /// Foreign tensors that the standard does not store.
    #[serde(default)]
    pub dropped: Vec<Dropped>,
    /// What value ops and casts changed, by canonical name; tensors that were only moved have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub losses: BTreeMap<String, Loss>,
    /// The foreign files.
    pub files: Vec<ForeignFile>,
    /// The foreign config, verbatim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ForeignConfig>,
}

/// What value ops and casts did to the elements of one tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// How many elements there are.
    pub elements: u64,
    /// How many have other bits after the ops and their inverses.
    pub changed: u64,
    /// How many became infinite.
    pub infinities: u64,
    /// How many became NaN.
    pub nans: u64,
    /// The largest relative difference of a value that came back changed, over finite values.
    pub max_relative_error: f64,
}

impl Loss {
    /// Adds what happened to other elements.
    pub fn add(&mut self, other: &Loss) {
        self.elements += other.elements;
        self.changed += other.changed;
        self.infinities += other.infinities;
        self.nans += other.nans;
        self.max_relative_error = self.max_relative_error.max(other.max_relative_error);
    }
}

/// The mapping that a package was made by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MapUsed {
    /// Its name.
    pub name: String,
    /// Its revision.
    pub revision: u32,
    /// SHA-256 of the standard's data files.
    pub spec_hash: String,
    /// What foreign names had in front.
    pub prefix: String,
    /// Spellings of names' ends: `[the mapping's, the file's]`.
    #[serde(default)]
    pub spellings: Vec<[String; 2]>,
}

/// A tensor of the foreign checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForeignTensor {
    /// Its name.
    pub name: Name,
    /// Its dtype.
    #[serde(deserialize_with = "DType::read_name")]
    pub dtype: Cow<'static, str>,
    /// The name that the mapping reads it by, where that is another: without what a wrapper put
    /// there, or with the mapping's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_as: Option<Name>,
    /// The axes of the file that the mapping reads it by, in its order, where that is another; what is
    /// not named has one entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub axes: Option<Box<[usize]>>,
}

impl ForeignTensor {
    /// The name that the mapping reads it by.
    pub fn known_name(&self) -> &str {
        self.read_as.as_deref().unwrap_or(&self.name)
    }
}

/// A foreign tensor that the standard does not store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    /// Its name.
    pub name: String,
    /// Its dtype.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// The id of the encoding of its blocks, whose bytes these are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Why it is no part of the model.
    pub why: String,
    /// How it comes back.
    pub back: WayBack,
    /// The component of a compound that it is of: its bytes are kept in that one's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
}

/// How a dropped tensor comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WayBack {
    /// From the mapping's recipe; its bytes were compared.
    Made,
    /// From [`BUFFERS_FILE`], as its bytes are not what the recipe gives.
    Kept,
    /// It does not.
    Lost,
}

/// Every key of the GGUF file that a package came from, as a GGUF file without tensors. The
/// tokenizer is among them, and llama.cpp reads such files as vocabularies.
pub const METADATA_FILE: &str = "tokenizer.gguf";

/// Where dropped tensors that no recipe gives are kept.
pub const BUFFERS_FILE: &str = "source/buffers.safetensors";

/// The folder of the components that stand beside a text model.
pub const COMPONENTS_FOLDER: &str = "components";

/// The file in which the tensors of a component are kept.
pub fn component_file(name: &str) -> String {
    format!("{COMPONENTS_FOLDER}/{name}.safetensors")
}

/// The name of the component that a file of a package has.
pub fn component_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix(COMPONENTS_FOLDER)?.strip_prefix('/')?;
    name.strip_suffix(".safetensors").filter(|name| !name.is_empty() && !name.contains('/'))
}

/// A file of the foreign checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForeignFile {
    /// Its path, relative to the input.
    pub path: String,
    /// Its length in bytes.
    pub len: u64,
}

/// A config as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForeignConfig {
    /// Its path, relative to the input.
    pub path: String,
    /// Its text.
    pub text: String,
}
