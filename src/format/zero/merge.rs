//! Puts the pieces of all ranks together to parameters.

use std::collections::{BTreeMap, BTreeSet};

use super::state::{Flat, ModelState, OptimizerState, malformed};
use crate::base::error::{Error, Result};
use crate::base::source::Source;
use crate::checkpoint::tiles::{Tile, boxes_of_run, prove_cover};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor, View, n_elements, row_major_strides};
use crate::format::pytorch::{self, quote};

/// A run of a flat vector.
struct Run<'f> {
    flat: &'f Flat,
    start: u64,
    len: u64,
}

/// The parameters, cut out of the flat vectors of all ranks.
pub(super) fn merged(
    source: &Source,
    states: &[ModelState],
    parts: &[OptimizerState],
) -> Result<Checkpoint> {
    let (state, part) = (&states[0], &parts[0]);
    let about = |err: Error| err.in_file(source.path(state.file));
    let mut tensors = if part.stage == 3 {
        pieces_of_each(state, parts).map_err(about)?
    } else {
        one_after_the_other(state, parts).map_err(about)?
    };
    for (index, (name, shape, fragment)) in state.frozen.iter().enumerate() {
        if part.stage != 3 {
            if fragment.shape != *shape {
                let message =
                    format!("the frozen {} has the shape {:?}", quote(name), fragment.shape);
                return Err(about(malformed(&message)));
            }
            tensors.push(Tensor { name: name.clone().into(), ..fragment.clone() });
            continue;
        }
        let fragments = states.iter().map(|state| match state.frozen.get(index) {
            Some((of, _, fragment)) if of == name => Flat::of(fragment),
            _ => Err(malformed(&format!("has no frozen {}", quote(name)))
                .in_file(source.path(state.file))),
        });
        let fragments: Vec<Flat> = fragments.collect::<Result<_>>().map_err(about)?;
        let runs = fragments.iter().map(|flat| Run { flat, start: 0, len: flat.len }).collect();
        tensors.push(parameter(name, shape, runs).map_err(about)?);
    }
    for (name, of) in &state.shared {
        if let Some(tensor) = tensors.iter().find(|tensor| tensor.name == *of).cloned() {
            tensors.push(Tensor { name: name.clone().into(), ..tensor });
        }
    }
    // At stage 1 DeepSpeed keeps frozen parameters in the module alone.
    let module = state.module.iter();
    tensors
        .extend(module.filter(|of| part.stage != 3 || state.buffers.contains(&*of.name)).cloned());
    let mut names = BTreeSet::new();
    tensors.retain(|tensor| names.insert(tensor.name.clone()));
    let mut metadata = BTreeMap::from([
        ("trainer".to_owned(), format!("DeepSpeed ZeRO {}", part.stage)),
        ("trainer.ranks".to_owned(), part.world.to_string()),
    ]);
    if let Some(step) = state.step {
        metadata.insert("trainer.step".to_owned(), step.to_string());
    }
    Ok(Checkpoint { format: pytorch::FORMAT.id, tensors, metadata, ..Checkpoint::default() })
}

/// Stages 1 and 2: a vector for each group, in which the parameters follow each other.
fn one_after_the_other(state: &ModelState, parts: &[OptimizerState]) -> Result<Vec<Tensor>> {
    let part = &parts[0];
    if state.groups.len() != part.flats.len() {
        let (n, of) = (state.groups.len(), part.flats.len());
        return Err(malformed(&format!("it has {n} groups of parameters, the vectors {of}")));
    }
    let mut tensors = Vec::new();
    for (index, group) in state.groups.iter().enumerate() {
        let flats: Vec<&Flat> = parts.iter().map(|part| &part.flats[index]).collect();
        let paddings = part.paddings.get(index);
        if paddings.is_some_and(|paddings| paddings.len() != group.len()) {
            return Err(malformed("it has not one padding for each parameter of a group"));
        }
        let mut next = 0u64;
        for (place, (name, shape)) in group.iter().enumerate() {
            let n = n_elements(shape);
            let end = n.and_then(|n| next.checked_add(n));
            let end = end.ok_or_else(|| too_large(name, shape))?;
            tensors.push(parameter(name, shape, runs_of(&flats, next, end))?);
            let padding = paddings.map_or(0, |paddings| paddings[place]);
            next = end.checked_add(padding).ok_or_else(|| too_large(name, shape))?;
        }
        let total = flats.iter().try_fold(0u64, |sum, flat| sum.checked_add(flat.len));
        // The ends are rounded in two ways, by up to this many elements.
        let align = part.world.saturating_mul(2).max(1);
        if total.map(|total| total.div_ceil(align)) != Some(next.div_ceil(align)) {
            let total = total.unwrap_or(u64::MAX);
            return Err(malformed(&format!(
                "the parameters of group {index} take {next} elements, and the ranks have {total}"
            )));
        }
    }
    Ok(tensors)
}

/// The runs of vectors that follow each other from one element to another.
fn runs_of<'f>(flats: &[&'f Flat], start: u64, end: u64) -> Vec<Run<'f>> {
    let mut runs = Vec::new();
    let mut passed = 0u64;
    for &flat in flats {
        let (from, to) = (start.max(passed), end.min(passed.saturating_add(flat.len)));
        if from < to {
            runs.push(Run { flat, start: from - passed, len: to - from });
        }
        passed = passed.saturating_add(flat.len);
    }
    runs
}

/// Stage 3: a piece of each parameter on each rank, at the same place.
fn pieces_of_each(state: &ModelState, parts: &[OptimizerState]) -> Result<Vec<Tensor>> {
    let world = parts[0].world.max(1);
    let flats: Vec<Vec<&Flat>> = parts.iter().map(|part| part.flats.iter().collect()).collect();
    let mut tensors = Vec::new();
    let mut next = 0u64;
    for (name, shape) in state.groups.iter().flatten() {
        let n = n_elements(shape).ok_or_else(|| too_large(name, shape))?;
        let len = n.div_ceil(world);
        let end = next.checked_add(len).ok_or_else(|| too_large(name, shape))?;
        let runs = flats.iter().flat_map(|flats| runs_of(flats, next, end)).collect();
        tensors.push(parameter(name, shape, runs)?);
        next = end;
    }
    let total = flats[0].iter().try_fold(0u64, |sum, flat| sum.checked_add(flat.len));
    if total != Some(next) {
        let total = total.unwrap_or(u64::MAX);
        return Err(malformed(&format!(
            "the parameters take {next} elements of each rank, and the ranks have {total}"
        )));
    }
    Ok(tensors)
}

fn too_large(name: &str, shape: &[u64]) -> Error {
    malformed(&format!("{} of the shape {shape:?} has more than 2^64 elements", quote(name)))
}

/// A parameter whose elements are those of the runs; behind them there may be padding.
fn parameter(name: &str, shape: &[u64], runs: Vec<Run<'_>>) -> Result<Tensor> {
    let n = n_elements(shape).ok_or_else(|| too_large(name, shape))?;
    let mut dtype = None;
    let mut tiles = Vec::new();
    let mut passed = 0u64;
    for run in runs {
        if *dtype.get_or_insert(run.flat.dtype) != run.flat.dtype {
            return Err(malformed(&format!("{} has parts of different dtypes", quote(name))));
        }
        let len = run.len.min(n - passed);
        let boxes = boxes_of_run(shape, passed, len).unwrap_or_default();
        for (at, shape, offset) in boxes {
            // What a run has lies inside of its storage.
            let offset = run.flat.data.offset + run.start + offset;
            let data = View { offset, strides: row_major_strides(&shape), ..run.flat.data.clone() };
            tiles.push(Tile { at, shape, data, coding: None });
        }
        passed += len;
    }
    let dtype = dtype.unwrap_or(DType::F32);
    prove_cover(shape, &tiles).map_err(|_| {
        malformed(&format!("{} has {n} elements, and the ranks have {passed} of it", quote(name)))
    })?;
    Ok(Tensor {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
        encoding: None,
        payload: Payload::Tiles(tiles),
    })
}
