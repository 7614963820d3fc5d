//! The folders that Mistral's own code reads: one file of safetensors, with the config of its own.

use super::Target;

pub(super) static TARGET: Target = Target {
    id: "mistral",
    format: "safetensors",
    stem: "consolidated",
    is_split: false,
    is_single: true,
    ..Target::DEFAULT
};
