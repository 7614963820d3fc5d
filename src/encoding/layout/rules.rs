//! The known layouts, as `layouts.toml` describes them.

use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::DType;

/// The layouts that this program carries. They belong to the libraries that write them, not to a
/// version of the standard.
pub static LAYOUTS: LazyLock<Layouts> = LazyLock::new(|| {
    let text = include_str!("../../../spec/1.0/layouts.toml");
    Layouts::parse(text).expect("a test parses the embedded file")
});

/// The known layouts.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Layouts {
    /// In the order in which they are looked for.
    pub layout: Vec<Layout>,
    /// The keys of a config that say how tensors are packed.
    pub config: Vec<String>,
    /// Endings of tensors that say how activations are quantized while a model runs.
    pub runtime: Vec<String>,
    /// Files that say in place of a config how tensors are packed.
    pub beside: Vec<Beside>,
}

/// A file that says in place of a config how tensors are packed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Beside {
    /// Its name.
    pub file: String,
    /// The method that it does not name.
    pub method: String,
}

/// How one logical tensor is stored as several.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Times {
    /// So many.
    Number(u64),
    /// `byte` or `word`: as many as fit.
    Unit(Unit),
}

/// What values are packed into.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// 8 bits.
    Byte,
    /// 32 bits.
    Word,
}

/// Two axes whose quotient says how many bits a value has.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BitsRule {
    /// Words of 32 bits.
    pub words: Axis,
    /// Values in them.
    pub values: Axis,
}

impl Layouts {
    /// The layout of this id.
    pub fn find(&self, id: &str) -> Option<&Layout> {
        self.layout.iter().find(|layout| layout.id == id)
    }

    /// Layouts from the text of a `layouts.toml`.
    ///
    /// # Errors
    /// The text does not keep the form; the message says where.
    pub fn parse(text: &str) -> Result<Layouts> {
        let layouts: Layouts = toml::from_str(text).map_err(|err| {
            Error::new(ErrorKind::Malformed, format!("layouts.toml: {}", err.message()))
        })?;
        for layout in &layouts.layout {
            let unknown = layout
                .parts
                .iter()
                .flat_map(|part| &part.dtypes)
                .find(|d| DType::parse(d).is_none());
            if let Some(dtype) = unknown {
                let message = format!("layouts.toml: {}: there is no dtype {dtype:?}", layout.id);
                return Err(Error::new(ErrorKind::Malformed, message));
            }
            if layout.parts.is_empty() {
                let message = format!("layouts.toml: {} has no parts", layout.id);
                return Err(Error::new(ErrorKind::Malformed, message));
            }
        }
        Ok(layouts)
    }
}

impl Layout {
    /// The name of a part of a tensor in a package.
    pub fn standard_name(&self, name: &str, role: &str) -> String {
        match self.parts.first() {
            Some(payload) if payload.role == role => name.to_owned(),
            _ => format!("{name}.{role}"),
        }
    }

    /// The name that the library gives a part, if a name alone says what it is.
    pub fn library_name(&self, name: &str, role: &str) -> Option<String> {
        let rule = self.parts.iter().find(|part| part.role == role && self.torchao.is_none())?;
        Some(format!("{}{}", name.strip_suffix(&self.name)?, rule.suffix))
    }
}
