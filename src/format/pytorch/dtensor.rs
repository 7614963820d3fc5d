//! Distributed tensors: the part of a rank, and where it lies in the whole.
//!
//! A `DTensor` is pickled with its local tensor, the device mesh with this rank's coordinate on it,
//! and a placement for each dimension of the mesh. A `ShardedTensor` says where its shards begin.
//!
//! Spec: `torch/distributed/tensor/_utils.py`, `placement_types.py`, `device_mesh.py` and
//! `torch/distributed/_shard/sharded_tensor/api.py` of torch 2.15.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::checkpoint::tiles::Tile;
use crate::checkpoint::{DType, Payload, Tensor, View};
use crate::format::pickle::{NodeId, Pickle};

/// The most dimensions of a mesh; clusters have five.
const MAX_MESH_DIMS: usize = 16;

/// The most runs of rows that one part may have: a strided placement makes as many as ranks that
/// share the dimension.
const MAX_RUNS: usize = 4096;

/// The most shards of one rank; torch makes one.
const MAX_SHARDS: usize = 64;

/// The key of the metadata of a file for the mesh of its tensors.
pub(crate) const MESH: &str = "pytorch.mesh";
/// The key of the metadata of a file for the rank that wrote it.
pub(crate) const RANK: &str = "pytorch.rank";

/// The processes that a tensor lies on, as one of them sees it.
#[derive(Debug)]
struct Mesh {
    /// The size of each dimension.
    sizes: Vec<u64>,
    names: Vec<String>,
    /// Where on it this rank is, if the file says it.
    coordinate: Option<Vec<u64>>,
    rank: Option<i64>,
}

impl Mesh {
    /// A `DeviceMesh`.
    fn read(pickle: &Pickle<'_>, id: NodeId) -> Option<Mesh> {
        let attribute = |name: &str| pickle.attribute(id, name);
        let dims = |ids: NodeId| -> Option<&[NodeId]> {
            pickle.members(ids).filter(|dims| dims.len() <= MAX_MESH_DIMS)
        };
        let sizes: Vec<u64> = match (attribute("mesh"), attribute("_layout")) {
            // A tensor of the ranks, until torch 2.9.
            (Some(mesh), _) => tensor_sizes(pickle, mesh)?,
            (None, Some(layout)) => match pickle.attribute(layout, "axes") {
                Some(axes) => {
                    let size = |&axis| product(pickle, pickle.attribute(axis, "shape")?);
                    dims(axes)?.iter().map(size).collect::<Option<_>>()?
                }
                None => match pickle.attribute(layout, "shape")? {
                    shape if pickle.int(shape).is_some() => vec![product(pickle, shape)?],
                    shape => {
                        let size = |&size| product(pickle, size);
                        dims(shape)?.iter().map(size).collect::<Option<_>>()?
                    }
                },
            },
            (None, None) => return None,
        };
        if MAX_MESH_DIMS < sizes.len() {
            return None;
        }
        let names = ["_mesh_dim_names", "mesh_dim_names"].into_iter().find_map(attribute);
        let names = names.and_then(dims).unwrap_or_default().iter();
        let names = names.filter_map(|&name| pickle.text(name)).map(super::cut);
        let coordinate = attribute("_coordinate_on_dim").and_then(|at| pickle.sizes(at));
        let inside = |at: &Vec<u64>| {
            at.len() == sizes.len() && at.iter().zip(&sizes).all(|(at, size)| at < size)
        };
        Some(Mesh {
            names: names.map(str::to_owned).collect(),
            coordinate: coordinate.filter(inside),
            rank: attribute("_rank").and_then(|rank| pickle.int(rank)),
            sizes,
        })
    }

    /// The sizes with their names, for people: `dp 2 × tp 2`.
    fn tell(&self) -> String {
        let size = |(index, size): (usize, &u64)| match self.names.get(index) {
            Some(name) => format!("{name} {size}"),
            None => size.to_string(),
        };
        self.sizes.iter().enumerate().map(size).collect::<Vec<_>>().join(" × ")
    }
}

/// The largest mesh that a pickle names, and the rank that wrote it, as metadata of the file.
pub(super) fn describe(pickle: &Pickle<'_>, metadata: &mut BTreeMap<String, String>) {
    let meshes = pickle.ids().filter(|&id| pickle.class_name(id) == Some("DeviceMesh"));
    let meshes = meshes.filter_map(|id| Mesh::read(pickle, id));
    let Some(mesh) =
        meshes.reduce(
            |largest, mesh| {
                if largest.sizes.len() < mesh.sizes.len() { mesh } else { largest }
            },
        )
    else {
        return;
    };
    metadata.insert(MESH.to_owned(), mesh.tell());
    if let Some(rank) = mesh.rank {
        metadata.insert(RANK.to_owned(), rank.to_string());
    }
}

/// A size that may be factored: `2`, `(2, 2)`.
fn product(pickle: &Pickle<'_>, id: NodeId) -> Option<u64> {
    if let Some(int) = pickle.int(id) {
        return u64::try_from(int).ok();
    }
    pickle.sizes(id)?.into_iter().try_fold(1u64, u64::checked_mul)
}

/// The shape of a plain tensor that a node is.
fn tensor_sizes(pickle: &Pickle<'_>, id: NodeId) -> Option<Vec<u64>> {
    let crate::format::pickle::Node::Object(object) = pickle.node(id) else { return None };
    let [_, _, size, ..] = pickle.sequence(object.args)? else { return None };
    pickle.sizes(*size)
}

/// The rows of each dimension that this rank has, in its order.
type Rows = Vec<Vec<Range<u64>>>;

/// A `DTensor` of this shape, whose attributes are `state`; `local` reads a tensor.
///
/// # Errors
/// The reason why its part cannot be placed.
pub(super) fn parts(
    pickle: &Pickle<'_>,
    dtype: DType,
    shape: &[u64],
    state: NodeId,
    local: impl FnOnce(NodeId) -> Option<Tensor>,
) -> Result<Payload, String> {
    let local = pickle.value(state, "_local_tensor").and_then(local);
    let local = local.ok_or("it is distributed, and has no local tensor")?;
    if let Payload::Unreadable(reason) = local.payload {
        return Err(reason);
    }
    if local.dtype != dtype {
        return Err(format!("it has elements of {dtype}, its local tensor of {}", local.dtype));
    }
    let spec = pickle.value(state, "_spec").ok_or("it is distributed, and does not say how")?;
    let mesh = pickle.attribute(spec, "mesh").and_then(|mesh| Mesh::read(pickle, mesh));
    let mesh = mesh.ok_or("its device mesh has a form that is not known")?;
    let placements = pickle.attribute(spec, "placements");
    let placements = placements.and_then(|placements| pickle.members(placements));
    let placements = placements.filter(|placements| placements.len() == mesh.sizes.len());
    let placements = placements.ok_or("it has not one placement for each dimension of its mesh")?;
    // Of one process nothing is to be found out.
    let origin = vec![0; mesh.sizes.len()];
    let alone = mesh.sizes.iter().all(|&size| size == 1).then_some(&origin);
    let coordinate = mesh.coordinate.as_ref().or(alone);
    let coordinate = coordinate.ok_or("its device mesh does not say which rank wrote the file")?;
    let mut rows: Rows = shape.iter().map(|&len| std::iter::once(0..len).collect()).collect();
    for ((&placement, &size), &at) in placements.iter().zip(&mesh.sizes).zip(coordinate) {
        place(pickle, placement, size, at, &mut rows)?;
    }
    let len = |rows: &Vec<Range<u64>>| rows.iter().map(|run| run.end - run.start).sum::<u64>();
    let wanted: Vec<u64> = rows.iter().map(len).collect();
    if wanted != local.shape {
        return Err(format!(
            "the part of this rank of {shape:?} on the mesh {} has the shape {wanted:?}, and its \
             local tensor {:?}",
            mesh.tell(),
            local.shape
        ));
    }
    tiles(&rows, &local)
}

/// Takes of the rows those that rank `at` of `size` has by a placement.
fn place(
    pickle: &Pickle<'_>,
    placement: NodeId,
    size: u64,
    at: u64,
    rows: &mut Rows,
) -> Result<(), String> {
    let kind = pickle.class_name(placement).unwrap_or_default();
    let number = |names: [&str; 2]| {
        let found = names.into_iter().find_map(|name| pickle.attribute(placement, name));
        found.and_then(|id| pickle.int(id))
    };
    let strides = match kind {
        "Replicate" => return Ok(()),
        "Shard" => 1,
        "_StridedShard" => number(["split_factor", "_split_factor"])
            .and_then(|factor| u64::try_from(factor).ok())
            .filter(|&factor| 0 < factor && factor <= MAX_RUNS as u64)
            .ok_or("its strided placement has no factor")?,
        "Partial" | "_Partial" => {
            return Err("each rank has a summand of it, not a part (`Partial`); save it after \
                        `redistribute` or `full_tensor`"
                .to_owned());
        }
        _ => return Err(format!("its placement {} is not known", super::quote(kind))),
    };
    let dim = number(["dim", "_dim"]).and_then(|dim| usize::try_from(dim).ok());
    let own = dim.and_then(|dim| rows.get_mut(dim));
    let own = own.ok_or("its placement is on a dimension that it does not have")?;
    // First for the ranks that a strided placement lets go before, then for those of this one.
    let mut taken = Vec::new();
    let whole: u64 = own.iter().map(|run| run.end - run.start).sum();
    for stride in 0..strides {
        let outer = chunk(whole, strides, stride);
        let inner = chunk(outer.end - outer.start, size, at);
        cut(own, outer.start + inner.start..outer.start + inner.end, &mut taken);
        if MAX_RUNS < taken.len() {
            return Err(format!("its part is in more than {MAX_RUNS} runs"));
        }
    }
    *own = taken;
    Ok(())
}

/// The entries of piece `at` of `n`, as `torch.chunk` cuts: the last ones may be shorter or empty.
fn chunk(len: u64, n: u64, at: u64) -> Range<u64> {
    let size = len.div_ceil(n.max(1));
    let start = size.saturating_mul(at).min(len);
    start..size.saturating_add(start).min(len)
}

/// The runs of `rows` that its entries `wanted` are, behind those of `taken`.
fn cut(rows: &[Range<u64>], wanted: Range<u64>, taken: &mut Vec<Range<u64>>) {
    let mut passed = 0;
    for run in rows {
        let len = run.end - run.start;
        let (from, to) = (wanted.start.max(passed), wanted.end.min(passed + len));
        if from < to {
            let part = run.start + (from - passed)..run.start + (to - passed);
            match taken.last_mut() {
                Some(last) if last.end == part.start => last.end = part.end,
                _ => taken.push(part),
            }
        }
        passed += len;
    }
}

/// One tile for each box of rows.
fn tiles(rows: &Rows, local: &Tensor) -> Result<Payload, String> {
    let data = local.view()?;
    let n = rows.iter().try_fold(1usize, |n, runs| n.checked_mul(runs.len()));
    if n.is_none_or(|n| MAX_RUNS < n) {
        return Err(format!("its part is in more than {MAX_RUNS} boxes"));
    }
    // Where each box begins in the whole and in the local tensor, and its shape.
    let mut boxes = vec![(Vec::new(), Vec::new(), data.offset)];
    for (runs, stride) in rows.iter().zip(&data.strides) {
        let mut grown = Vec::with_capacity(boxes.len() * runs.len());
        for (at, shape, offset) in &boxes {
            let mut passed = 0u64;
            for run in runs {
                let len = run.end - run.start;
                // The rows of the local tensor lie inside its storage.
                let offset = offset + passed * stride;
                grown.push((
                    [&at[..], &[run.start]].concat(),
                    [&shape[..], &[len]].concat(),
                    offset,
                ));
                passed += len;
            }
        }
        boxes = grown;
    }
    let tile = |(at, shape, offset)| Tile {
        at,
        shape,
        data: View { offset, ..data.clone() },
        coding: None,
    };
    Ok(Payload::Tiles(boxes.into_iter().map(tile).collect()))
}

/// The shards of this rank of a `ShardedTensor` of this shape; `local` reads a tensor.
///
/// # Errors
/// The reason why they cannot be placed.
pub(super) fn shards(
    pickle: &Pickle<'_>,
    shape: &[u64],
    dtype: DType,
    shards: NodeId,
    metadata: NodeId,
    local: impl Fn(NodeId) -> Option<Tensor>,
) -> Result<Payload, String> {
    let whole = pickle.attribute(metadata, "size").and_then(|size| pickle.sizes(size));
    if whole.as_deref() != Some(shape) {
        return Err(format!("it is sharded, of the shape {shape:?}, and its metadata {whole:?}"));
    }
    let shards = pickle.members(shards).filter(|shards| shards.len() <= MAX_SHARDS);
    let shards = shards.ok_or("it is sharded, and its shards have a form that is not known")?;
    let mut tiles = Vec::new();
    for &shard in shards {
        let entry = pickle.attribute(shard, "tensor").and_then(&local);
        let entry = entry.ok_or("one of its shards has no tensor")?;
        let place = pickle.attribute(shard, "metadata").ok_or("one of its shards has no place")?;
        let sizes = |name: &str| pickle.attribute(place, name).and_then(|id| pickle.sizes(id));
        let at = sizes("shard_offsets").filter(|at| at.len() == shape.len());
        let at = at.ok_or("one of its shards does not say where it begins")?;
        if sizes("shard_sizes").as_ref() != Some(&entry.shape) || entry.dtype != dtype {
            return Err("one of its shards has another shape or dtype than it says".to_owned());
        }
        tiles.push(Tile { at, data: entry.view()?, shape: entry.shape, coding: None });
    }
    Ok(Payload::Tiles(tiles))
}
