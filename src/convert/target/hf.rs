//! The folders that transformers reads: its names, in safetensors.

use super::Target;

pub(super) static TARGET: Target = Target {
    id: "hf",
    format: "safetensors",
    index_file: Some("model.safetensors.index.json"),
    ..Target::DEFAULT
};
