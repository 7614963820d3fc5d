//! The tensors of `fsdp_dtensor`: those of each layer and expert have names of their own, and the two halves of the
//! first map of a gated MLP are two. Spec: NVIDIA/Megatron-LM `megatron/core/transformer/fsdp_dtensor_checkpoint.py`
//! of Megatron-Core 0.16.

use std::collections::HashMap;

use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::tiles::Tile;
use crate::checkpoint::{Payload, Tensor};
use crate::format::pytorch::quote;

/// The ends of the names of the gate's rows and of the other map's.
const ENDS: [&str; 2] = ["_w", "_v"];

/// The first map of an MLP.
const MAP: &str = "linear_fc1.";

/// Puts halves together, each under the name of the whole.
///
/// # Errors
/// A half is alone, or the two do not fit.
pub(super) fn join(tensors: &mut Vec<Tensor>) -> Result<()> {
    let (mut gates, mut others) = (Vec::new(), HashMap::new());
    for tensor in std::mem::take(tensors) {
        let whole = |end: &str| {
            let name = tensor.name.strip_suffix(end).filter(|name| name.contains(MAP));
            name.map(str::to_owned)
        };
        match ENDS.map(whole) {
            [Some(name), _] => gates.push((name, tensor)),
            [_, Some(name)] => drop(others.insert(name, tensor)),
            _ => tensors.push(tensor),
        }
    }
    for (name, gate) in gates {
        let other = others.remove(&name).ok_or_else(|| alone(&name, ENDS))?;
        tensors.push(Tensor { name: name.into(), ..joined(gate, other)? });
    }
    match others.into_keys().min() {
        Some(name) => Err(alone(&name, [ENDS[1], ENDS[0]])),
        None => Ok(()),
    }
}

fn alone(name: &str, [there, missing]: [&str; 2]) -> Error {
    let (there, missing) = (format!("{name}{there}"), format!("{name}{missing}"));
    let message = format!("has {}, and {} is missing", quote(&there), quote(&missing));
    Error::new(ErrorKind::Malformed, message)
}

fn joined(gate: Tensor, other: Tensor) -> Result<Tensor> {
    let refuse = |why: &str| {
        let message = format!("{} and {} {why}", quote(&gate.name), quote(&other.name));
        Error::new(ErrorKind::Malformed, message)
    };
    if (gate.dtype, &gate.shape) != (other.dtype, &other.shape) || gate.shape.is_empty() {
        return Err(refuse("are not two halves of one tensor"));
    }
    let rows = gate.shape[0];
    let mut shape = gate.shape.clone();
    shape[0] = rows.checked_mul(2).ok_or_else(|| refuse("have too many rows"))?;
    let mut tiles = Vec::new();
    for (tensor, by) in [(&gate, 0), (&other, rows)] {
        let own = match &tensor.payload {
            Payload::Unreadable(why) => {
                let payload = Payload::Unreadable(why.clone());
                return Ok(Tensor { shape, payload, ..gate.clone() });
            }
            Payload::Tiles(tiles) => tiles.clone(),
            _ => {
                let data = tensor.view().map_err(|why| refuse(&why))?;
                let at = vec![0; tensor.shape.len()];
                vec![Tile { at, shape: tensor.shape.clone(), data, coding: None }]
            }
        };
        for mut tile in own {
            let start =
                tile.at.first_mut().ok_or_else(|| refuse("have a piece without an axis"))?;
            *start =
                start.checked_add(by).ok_or_else(|| refuse("have a piece that passes them"))?;
            tiles.push(tile);
        }
    }
    Ok(Tensor { shape, payload: Payload::Tiles(tiles), ..gate })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, DType};

    fn names(given: &[&str]) -> Result<Vec<String>> {
        let tensor = |name: &&str| Tensor {
            name: (*name).to_owned().into(),
            dtype: DType::F32,
            shape: vec![4, 2],
            encoding: None,
            payload: Payload::Unreadable("no bytes".to_owned()),
        };
        let tensors = given.iter().map(tensor).collect();
        let mut checkpoint = Checkpoint { tensors, ..Checkpoint::default() };
        super::super::unstack(&mut checkpoint)?;
        Ok(checkpoint.tensors.into_iter().map(|tensor| tensor.name.into()).collect())
    }

    #[test]
    fn experts_in_groups_are_named_as_those_apart_and_no_half_is_alone() {
        let layer = "decoder.layers.0.mlp.";
        let of = |rest: &str| format!("{layer}{rest}");
        let found = names(&[&of("experts.linear_fc1.weight1"), &of("experts.linear_fc2.weight1")]);
        let expert = |map: &str| of(&format!("experts.local_experts.1.{map}.weight"));
        assert_eq!(found.unwrap(), [expert("linear_fc1"), expert("linear_fc2")]);
        let found =
            names(&[&of("experts.linear_fc1.weight1_v"), &of("experts.linear_fc1.weight1_w")]);
        assert_eq!(found.unwrap(), [expert("linear_fc1")]);
        for (there, missing) in [("_w", "_v"), ("_v", "_w")] {
            let err = names(&[&of(&format!("linear_fc1.weight{there}"))]).unwrap_err().to_string();
            assert!(err.contains(&format!("linear_fc1.weight{missing}` is missing")), "{err}");
        }
    }
}
