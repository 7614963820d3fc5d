//! The known layouts, as `layouts.toml` describes them.

use std::sync::{Arc, LazyLock};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::DType;
use crate::checkpoint::layout::Layout;

/// The text of those that this program carries.
const CARRIED: &str = include_str!("../../../spec/1.0/layouts.toml");

/// The known layouts.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Layouts {
    /// In the order in which they are looked for.
    pub layout: Vec<Arc<Layout>>,
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

impl Layouts {
    /// The layouts that this program carries. They belong to the libraries that write them, not to a
    /// version of the standard: what has no standard at hand reads by these.
    pub fn carried() -> Arc<Layouts> {
        static LAYOUTS: LazyLock<Arc<Layouts>> = LazyLock::new(|| {
            Arc::new(Layouts::parse(CARRIED).expect("a test parses the embedded file"))
        });
        Arc::clone(&LAYOUTS)
    }

    /// The layout of this id.
    pub fn find(&self, id: &str) -> Option<&Arc<Layout>> {
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
        layouts.checked()
    }

    /// The layouts themselves, where they can be read by.
    ///
    /// # Errors
    /// One has no parts, or a part of a dtype that there is not.
    pub fn checked(self) -> Result<Layouts> {
        for layout in &self.layout {
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
        Ok(self)
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
