//! Safetensors with the names and bytes of the source.

use super::Target;
use crate::convert::request::SAFETENSORS;

pub(super) static TARGET: Target = Target {
    id: SAFETENSORS,
    format: SAFETENSORS,
    keeps_names: true,
    ending: Some(SAFETENSORS),
    index_file: Some("model.safetensors.index.json"),
    ..Target::DEFAULT
};
