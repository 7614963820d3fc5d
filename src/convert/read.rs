//! Reads the JSON files of a package that is converted.

use std::collections::BTreeSet;

use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::Checkpoint;
use crate::folder::Opened;
use crate::package::{BUFFERS_FILE, MODEL_FILE, Model, Provenance, SOURCE_FILE};

/// Reads `model.json` of a package.
///
/// # Errors
/// It cannot be read, or does not keep its schema.
pub fn read_model(opened: &mut Opened) -> Result<Model> {
    read_json(opened, MODEL_FILE)?.ok_or_else(|| {
        Error::new(ErrorKind::Malformed, "there is no model.json").in_file(opened.source.root())
    })
}

/// Reads `model.json` of a package whose weights are to be used: what it says of packed tensors has
/// to be so.
pub(super) fn read_whole_model(opened: &mut Opened) -> Result<Model> {
    let model = read_model(opened)?;
    let packed = opened.checkpoint.tensors.iter().filter(|tensor| tensor.encoding.is_some());
    let packed: BTreeSet<&str> = packed.map(|tensor| tensor.name.as_str()).collect();
    match model.encodings.keys().find(|name| !packed.contains(name.as_str())) {
        Some(name) => {
            let message = format!(
                "the encoding of `{name}` is not that of its tensor: see `llmstd validate`"
            );
            Err(Error::new(ErrorKind::Malformed, message)
                .in_file(&opened.source.root().join(MODEL_FILE)))
        }
        None => Ok(model),
    }
}

/// Reads `source.json` of a package, if it has one.
///
/// # Errors
/// It cannot be read, or does not keep its schema.
pub(super) fn read_provenance(opened: &mut Opened) -> Result<Option<Provenance>> {
    read_json(opened, SOURCE_FILE)
}

fn read_json<T: serde::de::DeserializeOwned>(opened: &mut Opened, name: &str) -> Result<Option<T>> {
    let Some(json) = opened.json(name)? else { return Ok(None) };
    let path = opened.source.place(name);
    serde_json::from_value(json)
        .map(Some)
        .map_err(|err| Error::new(ErrorKind::Malformed, err.to_string()).in_file(&path))
}

pub(super) fn read_buffers(opened: &mut Opened) -> Result<Option<Checkpoint>> {
    if !opened.has(BUFFERS_FILE) {
        return Ok(None);
    }
    let file = opened.source.add(BUFFERS_FILE)?;
    crate::format::safetensors::read(&opened.source, file).map(Some)
}
