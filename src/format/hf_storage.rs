//! Safetensors of ranks, as `torch.distributed.checkpoint.HuggingFaceStorageWriter` writes them before
//! they are put together: `shard-00002-model-00001-of-00002.safetensors` has of every tensor the box that
//! rank 2 had, and in its metadata where that begins.
//!
//! The dimensions of the whole are in no file: they are where the last box ends.
//! Spec: `torch/distributed/checkpoint/hf_storage.py`, `_hf_utils.py` of torch 2.15.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::pytorch::quote;
use super::safetensors;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::{FileId, Source};
use crate::checkpoint::tiles::{Tile, prove_cover};
use crate::checkpoint::{Checkpoint, Payload, Tensor};

/// The entry of a file's metadata that says where its boxes begin: name -> `saved_offsets`.
const OFFSETS: &str = "DCP_SHARDING_INFO";

/// The rank of a file, counted from 1, and the name of the file that it is a part of.
fn parts_of(name: &str) -> Option<(u64, &str)> {
    let (rank, whole) = name.strip_prefix("shard-")?.split_once('-')?;
    let is_one = rank.len() == 5 && whole.contains("-of-") && whole.ends_with(".safetensors");
    Some((rank.parse().ok().filter(|_| is_one)?, whole))
}

/// Whether the files of a folder are of this layout.
pub fn is_folder(names: &[&str]) -> bool {
    names.iter().any(|name| parts_of(name).is_some())
}

/// Reads the files of all ranks in a folder, and gives their names.
///
/// # Errors
/// A file is missing, damaged or of another save.
pub fn read(
    source: &mut Source,
    folder: &str,
    names: &[&str],
) -> Result<(Checkpoint, Vec<String>)> {
    let about = |source: &Source, message: String| {
        Err(Error::new(ErrorKind::Malformed, message).in_file(&source.place(folder)))
    };
    let files: Vec<(u64, &str, &str)> = names
        .iter()
        .filter_map(|name| parts_of(name).map(|(rank, whole)| (rank, whole, *name)))
        .collect();
    let ranks: BTreeSet<u64> = files.iter().map(|(rank, ..)| *rank).collect();
    let n_ranks = ranks.last().copied().unwrap_or(0);
    if let Some(missing) = (1..=n_ranks).find(|rank| !ranks.contains(rank)) {
        let last = files.last().map_or("", |(.., name)| name);
        return about(source, format!("has `{last}`, and no file of rank {missing}"));
    }
    let mut weights = Vec::with_capacity(files.len());
    let mut boxes: BTreeMap<String, Boxes> = BTreeMap::new();
    for (_, _, name) in &files {
        let full = format!("{folder}{name}");
        let file = source.add(&full)?;
        let part = safetensors::read(source, file)?;
        let wrong = |message: String| {
            Err(Error::new(ErrorKind::Malformed, message).in_file(source.path(file)))
        };
        let offsets = part.metadata.get(OFFSETS).map(|text| serde_json::from_str::<Json>(text));
        let Some(Ok(offsets)) = offsets else {
            return wrong(format!("has no `{OFFSETS}` in its metadata that is JSON"));
        };
        for tensor in part.tensors {
            let at = offsets.get(&*tensor.name).and_then(|entry| entry.get("saved_offsets"));
            let at = at
                .and_then(Json::as_array)
                .and_then(|list| list.iter().map(Json::as_u64).collect::<Option<Vec<u64>>>());
            let at = at.filter(|at| at.len() == tensor.shape.len());
            let Some(at) = at else {
                let name = quote(&tensor.name);
                return wrong(format!("says not where its box of {name} begins"));
            };
            let place = boxes.entry(tensor.name.to_string()).or_default();
            if let Err(message) = place.add(source, file, tensor, at) {
                return wrong(message);
            }
        }
        weights.push(full);
    }
    let mut checkpoint = Checkpoint { format: safetensors::FORMAT.id, ..Checkpoint::default() };
    let said = &mut checkpoint.metadata;
    said.insert("trainer".to_owned(), "PyTorch DCP, shards of safetensors".to_owned());
    said.insert("trainer.ranks".to_owned(), n_ranks.to_string());
    for (name, Boxes { first, shape, tiles }) in boxes {
        let Some((_, first)) = first else { continue };
        if let Err(fault) = prove_cover(&shape, &tiles) {
            let file = |tile: &Tile| format!(" in `{}`", source.name(tile.data.storage.file));
            let why = fault.tell(&shape, &tiles, &file);
            return about(source, format!("the parts of {} do not fit: {why}", quote(&name)));
        }
        let payload = Payload::Tiles(tiles);
        checkpoint.tensors.push(Tensor { name: name.into(), shape, payload, ..first });
    }
    Ok((checkpoint, weights))
}

/// What files have of one tensor.
#[derive(Default)]
struct Boxes {
    first: Option<(FileId, Tensor)>,
    /// Where the last box ends.
    shape: Vec<u64>,
    tiles: Vec<Tile>,
}

impl Boxes {
    fn add(
        &mut self,
        source: &Source,
        file: FileId,
        tensor: Tensor,
        at: Vec<u64>,
    ) -> std::result::Result<(), String> {
        let name = quote(&tensor.name);
        let data = tensor.view().map_err(|why| format!("{name} {why}"))?;
        let ends = at.iter().zip(&tensor.shape).map(|(at, len)| at.checked_add(*len));
        let ends = ends.collect::<Option<Vec<u64>>>();
        let ends = ends.ok_or_else(|| format!("its box of {name} is too large"))?;
        let (other, first) = self.first.get_or_insert_with(|| (file, tensor.clone()));
        if (first.dtype, first.shape.len()) != (tensor.dtype, tensor.shape.len()) {
            return Err(format!(
                "has {name} as {} {:?}, and `{}` as {} {:?}: they are of two models",
                tensor.dtype,
                tensor.shape,
                source.name(*other),
                first.dtype,
                first.shape
            ));
        }
        self.shape.resize(ends.len(), 0);
        for (len, end) in self.shape.iter_mut().zip(ends) {
            *len = end.max(*len);
        }
        self.tiles.push(Tile { at, shape: tensor.shape, data, coding: None });
        Ok(())
    }
}
