//! What a file of a package is for, by its path.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::format;
use crate::package::{METADATA_FILE, MODEL_FILE, SOURCE_FILE, component_of};
use crate::spec::files::{self, Ids};

pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// What a file is for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum FileRole {
    /// It holds tensors, or says which file does.
    Tensors,
    /// It configures the model.
    Config,
    /// It belongs to the tokenizer.
    Tokenizer,
    /// It is a chat template.
    Template,
    /// It is a licence.
    License,
    /// It is for people.
    Docs,
    /// It is a component beside the text model: a tower, or what joins one to it.
    Component,
    /// It says where the package came from.
    Source,
    /// It is a program.
    Code,
    /// None of these.
    Other,
}

impl FileRole {
    /// What a file of this path is for.
    pub fn of(path: &str) -> FileRole {
        let lower = path.to_ascii_lowercase();
        let base = lower.rsplit('/').next().unwrap_or(&lower);
        let (stem, end) = base.rsplit_once('.').unwrap_or((base, ""));
        if path == SOURCE_FILE || path.starts_with("source/") {
            return FileRole::Source;
        }
        if component_of(path).is_some() {
            return FileRole::Component;
        }
        if base.ends_with(".safetensors") || base.ends_with(".index.json") {
            return FileRole::Tensors;
        }
        // Some formats are known by name only.
        if format::of_ending(end).is_some() || matches!(end, "h5" | "onnx") {
            return FileRole::Tensors;
        }
        match files::role_of(path).or_else(|| files::role_of(base)).map(|role| role.role.as_str()) {
            Some("tokenizer") => return FileRole::Tokenizer,
            Some("template") => return FileRole::Template,
            _ => {}
        }
        if ["license", "licence", "copying", "notice", "usage_policy", "use_policy"]
            .iter()
            .any(|word| stem.starts_with(word) || base.starts_with(word))
        {
            return FileRole::License;
        }
        if matches!(end, "md" | "rst" | "pdf" | "png" | "jpg" | "jpeg" | "svg" | "gif") {
            return FileRole::Docs;
        }
        if matches!(end, "py" | "pyc" | "so" | "dll" | "sh" | "js" | "ipynb") {
            return FileRole::Code;
        }
        if path == MODEL_FILE || matches!(end, "json" | "toml" | "yaml" | "yml") {
            return FileRole::Config;
        }
        FileRole::Other
    }
}

/// Whether `Manifest::build` looks into a file of this path.
pub fn needs_text(path: &str) -> bool {
    let role = FileRole::of(path);
    role == FileRole::Template || path == TOKENIZER_CONFIG || path == METADATA_FILE
}

/// Whether a file of this path decides which ids a text becomes.
pub fn is_tokenizer_file(path: &str) -> bool {
    files::role_of(path).is_some_and(|role| role.ids.is_some())
}

/// Whether a file of this path is a tokenizer by itself.
pub fn is_whole_tokenizer(path: &str) -> bool {
    files::role_of(path).is_some_and(|role| role.ids == Some(Ids::Whole))
}
