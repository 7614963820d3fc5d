//! The modules that follow a transformer, each in a folder of its own.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;

use super::destination::inside;
use super::report::Report;
use crate::base::error::{Error, ErrorKind, Result};
use crate::exec::write;
use crate::folder::Opened;
use crate::folder::sentence_transformers::{self, MODULES_FILE};
use crate::package::TENSORS_STEM;
use crate::plan::Tensors;
use crate::plan::program::Output;

/// Writes the tensors of the modules that follow the transformer, each module's into its folder.
pub(super) fn write_modules(
    opened: &mut Opened,
    folder: &Path,
    tensors: &Tensors,
    first: usize,
    metadata: &BTreeMap<String, String>,
    files: &[(String, Vec<u8>)],
    report: &mut Report,
) -> Result<()> {
    if first == tensors.outputs.len() {
        return Ok(());
    }
    // Where the source has none it is made, with what else is written.
    let made = files.iter().find(|(name, _)| name == MODULES_FILE);
    let listed = match made.and_then(|(_, bytes)| serde_json::from_slice(bytes).ok()) {
        Some(made) => made,
        None => opened.json(MODULES_FILE)?.unwrap_or(Json::Null),
    };
    let paths = sentence_transformers::dense_paths(&listed);
    let number = |output: &Output| {
        sentence_transformers::parse_dense_name(&output.name).map_or(0, |(n, _)| n)
    };
    for part in tensors.outputs[first..].chunk_by(|left, right| number(left) == number(right)) {
        let n = number(&part[0]);
        let Some(path) = n.checked_sub(1).and_then(|index| paths.get(index)) else {
            let message =
                format!("{MODULES_FILE} lists {} dense modules, this is number {n}", paths.len());
            return Err(Error::new(ErrorKind::Malformed, message).in_file(opened.source.root()));
        };
        let renamed: Vec<Output> = part
            .iter()
            .map(|output| {
                let name = sentence_transformers::parse_dense_name(&output.name)
                    .map_or("", |(_, name)| name);
                Output { name: name.into(), ..output.clone() }
            })
            .collect();
        let module = write::Plain { inputs: &tensors.inputs, outputs: &renamed, metadata };
        let written = module.write(&opened.source, &inside(folder, path)?, TENSORS_STEM)?;
        report.tensors.note(written.tensors);
    }
    Ok(())
}
