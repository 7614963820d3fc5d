//! The tensors of `torch_dist`: those of all layers are one, along a first axis, and those of all experts
//! one along the next.

use super::halves;
use super::merge::{EXPERTS, LAYERS, usual};
use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::tiles::Tile;
use crate::checkpoint::{Checkpoint, Payload, Tensor};
use crate::format::pytorch::quote;

/// Before the rest of the name of a tensor of all experts.
const ALL_EXPERTS: &str = ".mlp.experts.experts.";

/// More layers or experts than this are no model.
const MAX_ENTRIES: u64 = 1 << 16;

/// More tensors than this are not taken apart, whatever the axes of all say.
const MAX_TENSORS: u64 = 1 << 20;

/// Whether tensors have the names that Megatron-Core gives them.
pub fn is_named_so(tensors: &[Tensor]) -> bool {
    let has = |end: &str| tensors.iter().any(|tensor| tensor.name.ends_with(end));
    has(TABLE) && has("self_attention.linear_qkv.weight")
}

/// A tensor that every model has.
const TABLE: &str = "embedding.word_embeddings.weight";

/// Takes off what trainers put in front of all names.
fn strip(tensors: &mut [Tensor]) {
    let prefix = tensors.iter().find_map(|tensor| tensor.name.strip_suffix(TABLE));
    let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty()).map(str::to_owned) else {
        return;
    };
    for tensor in tensors {
        if let Some(name) = tensor.name.strip_prefix(&prefix) {
            tensor.name = name.into();
        }
    }
}

/// Takes the tensors of layers and experts apart, each under the name that it has in the file of a
/// rank.
///
/// # Errors
/// A tensor is no such one.
pub fn unstack(checkpoint: &mut Checkpoint) -> Result<()> {
    strip(&mut checkpoint.tensors);
    halves::join(&mut checkpoint.tensors)?;
    for tensor in &mut checkpoint.tensors {
        tensor.name = usual(&tensor.name).into();
    }
    let mut tensors = Vec::with_capacity(checkpoint.tensors.len());
    let mut left = MAX_TENSORS;
    for tensor in std::mem::take(&mut checkpoint.tensors) {
        let rest = tensor.name.strip_prefix(LAYERS).map(str::to_owned);
        let of_layers = match &rest {
            Some(rest) if !rest.starts_with(|c: char| c.is_ascii_digit()) => {
                let name = |layer: u64| format!("{LAYERS}{layer}.{rest}");
                apart(tensor, &name, &mut left)?
            }
            _ => vec![tensor],
        };
        for tensor in of_layers {
            match tensor.name.clone().split_once(ALL_EXPERTS) {
                Some((layer, rest)) => {
                    let name = |expert: u64| format!("{layer}{EXPERTS}{expert}.{rest}");
                    tensors.extend(apart(tensor, &name, &mut left)?);
                }
                None => tensors.push(tensor),
            }
        }
    }
    checkpoint.tensors = tensors;
    Ok(())
}

/// A tensor for each entry of the first axis.
fn apart(tensor: Tensor, name: &dyn Fn(u64) -> String, left: &mut u64) -> Result<Vec<Tensor>> {
    let refuse =
        |why: &str| Error::new(ErrorKind::Malformed, format!("{} {why}", quote(&tensor.name)));
    let Some((&n, shape)) = tensor.shape.split_first() else {
        return Err(refuse("is to be of all layers, and has no axis for them"));
    };
    if MAX_ENTRIES < n {
        return Err(refuse(&format!(
            "has {n} entries along its first axis, at most {MAX_ENTRIES} are read"
        )));
    }
    *left = left.checked_sub(n).ok_or_else(|| {
        refuse(&format!(
            "has {n} entries along its first axis, and all tensors together have more than {MAX_TENSORS}"
        ))
    })?;
    let mut pieces: Vec<Vec<Tile>> = (0..n).map(|_| Vec::new()).collect();
    let tiles = match &tensor.payload {
        Payload::Tiles(tiles) => tiles.clone(),
        Payload::Unreadable(why) => {
            let piece = |index| Tensor {
                name: name(index).into(),
                shape: shape.to_vec(),
                payload: Payload::Unreadable(why.clone()),
                ..tensor.clone()
            };
            return Ok((0..n).map(piece).collect());
        }
        _ => {
            let data = tensor.view().map_err(|why| refuse(&why))?;
            vec![Tile {
                at: vec![0; tensor.shape.len()],
                shape: tensor.shape.clone(),
                data,
                coding: None,
            }]
        }
    };
    for tile in tiles {
        let (Some((&start, at)), Some((&len, shape))) =
            (tile.at.split_first(), tile.shape.split_first())
        else {
            return Err(refuse("has a piece without an axis"));
        };
        let stride = tile.data.strides.first().copied().unwrap_or(0);
        for index in 0..len.min(n) {
            let mut data = tile.data.clone();
            data.strides.remove(0);
            let offset = index.checked_mul(stride).and_then(|by| data.offset.checked_add(by));
            data.offset = offset.ok_or_else(|| refuse("passes its storage"))?;
            let place =
                start.checked_add(index).and_then(|at| pieces.get_mut(usize::try_from(at).ok()?));
            let place = place.ok_or_else(|| refuse("has a piece that passes it"))?;
            let (at, shape, coding) = (at.to_vec(), shape.to_vec(), tile.coding.clone());
            place.push(Tile { at, shape, data, coding });
        }
    }
    let tensors = pieces.into_iter().zip(0..).map(|(tiles, index)| Tensor {
        name: name(index).into(),
        shape: shape.to_vec(),
        payload: Payload::Tiles(tiles),
        ..tensor.clone()
    });
    Ok(tensors.collect())
}
