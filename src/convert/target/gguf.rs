//! GGUF: the keys of a model and its tensors in one file, or in parts.

use super::Target;
use crate::exec::container::Gguf;
use crate::spec::ecosystem::GGUF;

pub(super) static TARGET: Target = Target {
    id: GGUF.format,
    format: GGUF.format,
    ending: Some("gguf"),
    container: |content| Box::new(Gguf { metadata: content.keys, encodings: content.encodings }),
    ..Target::DEFAULT
};
