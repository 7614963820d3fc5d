//! How one logical tensor is stored as several: an entry of `layouts.toml`, which `encoding` reads.

use schemars::JsonSchema;
use serde::Deserialize;

/// How one logical tensor is stored as several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// The id of the encoding.
    pub id: String,
    /// What it is, for people.
    pub about: String,
    /// Where that is defined: project, version, place.
    pub source: String,
    /// Values of `quantization_config.quant_method`.
    #[serde(default)]
    pub methods: Vec<String>,
    /// The only value of the configuration's format or mode, where there is one.
    pub format: Option<String>,
    /// The class that torchao's metadata names.
    pub torchao: Option<String>,
    /// The suffix of the logical name.
    #[serde(default)]
    pub name: String,
    /// The blocks in line that have the same scales and values in another order, MXFP4: 32 values,
    /// the payload's pairs of nibbles as halves, behind a scale of a byte.
    pub blocks: Option<String>,
    /// Whether the logical tensor has its last two axes the other way round than the parts.
    #[serde(default)]
    pub transposed: bool,
    /// The arithmetic.
    pub decode: String,
    /// What is stored, the payload first.
    pub parts: Vec<PartRule>,
    /// Axes that must be equal.
    #[serde(default)]
    pub same: Vec<[Axis; 2]>,
    /// The last axes of the logical shape.
    #[serde(default)]
    pub shape: Vec<Axis>,
    /// What the bits follow from.
    pub bits: Option<BitsRule>,
}

/// One stored tensor of a layout.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartRule {
    /// What it is to the arithmetic.
    pub role: String,
    /// How its name ends; torchao's are named by the metadata.
    #[serde(default)]
    pub suffix: String,
    /// The dtypes it may have, spelled as in safetensors.
    pub dtypes: Vec<String>,
    /// Whether it may be absent.
    #[serde(default)]
    pub optional: bool,
    /// Whether it has something for each row of the values, in their order, along its first axis
    /// behind those of a stack.
    #[serde(default)]
    pub rows: bool,
}

/// An axis of a part.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// The role of the part.
    pub part: String,
    /// Which axis, 1 for the last.
    pub axis: usize,
    /// How many values an element holds.
    pub times: Option<Times>,
}

/// How many values an element holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Times {
    /// So many.
    Number(u64),
    /// `byte` or `word`: as many as fit.
    Unit(Unit),
}

/// What values are packed into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// 8 bits.
    Byte,
    /// 32 bits.
    Word,
}

/// Two axes whose quotient says how many bits a value has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BitsRule {
    /// Words of 32 bits.
    pub words: Axis,
    /// Values in them.
    pub values: Axis,
}
