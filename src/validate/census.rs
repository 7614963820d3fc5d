//! What the values of tensors are.

use std::collections::BTreeMap;

use super::options::Options;
use crate::base::error::Result;
use crate::base::source::Extent;
use crate::checkpoint::{Checkpoint, Payload};
use crate::convert::{self, Failure};
use crate::exec::scan;
use crate::folder::Opened;
use crate::plan::Tensors;
use crate::plan::program::Output;
use crate::rule::view::Counted;

/// What the values of tensors are; of packed ones, those that they stand for. Looks at the tensors
/// of these names alone.
pub(super) fn census(
    opened: &Opened,
    checkpoint: &Checkpoint,
    tensors: &Tensors,
    wanted: &dyn Fn(&str) -> bool,
    options: &Options<'_>,
) -> Result<Vec<Counted>> {
    let mut outputs = tensors.numbers_of_all();
    outputs.retain(|output| wanted(&output.name) && !output.shape.contains(&0));
    let places: BTreeMap<&str, Extent> = checkpoint
        .tensors
        .iter()
        .filter_map(|tensor| Some((tensor.name.as_str(), place(&tensor.payload)?)))
        .collect();
    options.progress.begin("reading", outputs.iter().map(Output::n_bytes).sum());
    let advance = |n_bytes| options.progress.advance(n_bytes);
    let values =
        scan::census(&opened.source, &tensors.inputs, &outputs, options.n_threads, &advance);
    options.progress.end();
    let values = values?;
    opened.source.check_unchanged()?;
    let counted = outputs.iter().zip(values).map(|(output, scan)| {
        let extent = places.get(output.name.as_str());
        Counted {
            name: output.name.to_string(),
            file: extent.map_or("", |extent| opened.source.name(extent.file)).to_owned(),
            bytes: extent.map_or([0, 0], |extent| [extent.start, extent.end()]),
            dtype: output.dtype,
            shape: output.shape.clone(),
            values: scan.values,
            sha256: scan.sha256,
        }
    });
    Ok(counted.collect())
}

/// Where a tensor begins to be stored.
fn place(payload: &Payload) -> Option<Extent> {
    match payload {
        Payload::Range(extent) => Some(*extent),
        Payload::View(view) => Some(view.storage),
        Payload::Parts(_, parts) => parts.iter().find_map(|part| place(&part.tensor.payload)),
        Payload::Tiles(tiles) => tiles.first().map(|tile| tile.data.storage),
        Payload::Unreadable(_) => None,
    }
}

/// The values of a foreign checkpoint under its own names, or why they cannot be had.
pub(super) fn foreign_census(
    opened: &mut Opened,
    options: &Options<'_>,
) -> std::result::Result<Vec<Counted>, Failure> {
    convert::stored_checksums(opened, true, options.progress)?;
    let logical = opened.logical()?;
    let checkpoint = logical.as_ref().unwrap_or(&opened.checkpoint);
    let tensors = convert::generic_copies(checkpoint)?;
    Ok(census(opened, checkpoint, &tensors, &|_| true, options)?)
}
