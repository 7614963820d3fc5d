//! Tensors of a dialect that hold several of the mappings, as those: nothing is moved.

use crate::checkpoint::tiles::Tile;
use crate::checkpoint::{Payload, Tensor, View, row_major_strides};
use crate::spec::dialect::Dialect;
use crate::spec::dialect::stacked::Several;

/// More layers than these no model has.
const MAX_LAYERS: u64 = 1 << 16;

/// The tensors that one holds, with their names in the dialect; `None` of one that is itself.
pub(super) fn several(dialect: &Dialect, tensor: &Tensor) -> Option<Vec<(String, Tensor)>> {
    match dialect.several(&tensor.name)? {
        Several::Layers(axis, [front, rest]) => {
            let n = tensor.shape.get(axis).copied().filter(|n| *n <= MAX_LAYERS)?;
            let one = |layer: u64| {
                let entry = without_axis(part(tensor, axis, layer, 1), axis);
                (format!("{front}{layer}{rest}"), entry)
            };
            Some((0..n).map(one).collect())
        }
        Several::Shares(names) => {
            let n = names.len() as u64;
            let rows = tensor.shape.first().copied().filter(|rows| n != 0 && rows % n == 0)? / n;
            let shares = names.into_iter().zip(0..);
            Some(shares.map(|(name, at)| (name, part(tensor, 0, at * rows, rows))).collect())
        }
    }
}

/// So many entries along an axis from one on; there are as many.
fn part(tensor: &Tensor, axis: usize, start: u64, len: u64) -> Tensor {
    // What passes 64 bits was refused with the whole.
    let moved = |view: &View, by: u64| View {
        offset: view.offset.saturating_add(by.saturating_mul(view.strides[axis])),
        ..view.clone()
    };
    let payload = match &tensor.payload {
        Payload::Range(storage) => {
            let strides = row_major_strides(&tensor.shape);
            let whole = View { storage: *storage, offset: 0, strides, big_endian: false };
            Payload::View(Box::new(moved(&whole, start)))
        }
        Payload::View(view) => Payload::View(Box::new(moved(view, start))),
        Payload::Tiles(tiles) => {
            let end = start + len;
            let inside = tiles.iter().filter_map(|tile| {
                let (first, last) = (tile.at[axis], tile.at[axis] + tile.shape[axis]);
                let (from, to) = (first.max(start), last.min(end));
                if to <= from {
                    return None;
                }
                let mut tile = Tile { data: moved(&tile.data, from - first), ..tile.clone() };
                tile.at[axis] = from - start;
                tile.shape[axis] = to - from;
                Some(tile)
            });
            Payload::Tiles(inside.collect())
        }
        other @ (Payload::Parts(..) | Payload::Unreadable(_)) => other.clone(),
    };
    let mut shape = tensor.shape.clone();
    shape[axis] = len;
    Tensor { shape, payload, ..tensor.clone() }
}

/// A tensor without an axis of one entry.
fn without_axis(mut tensor: Tensor, axis: usize) -> Tensor {
    tensor.shape.remove(axis);
    match &mut tensor.payload {
        Payload::View(view) => _ = view.strides.remove(axis),
        Payload::Tiles(tiles) => {
            for tile in tiles {
                tile.at.remove(axis);
                tile.shape.remove(axis);
                tile.data.strides.remove(axis);
            }
        }
        Payload::Range(_) | Payload::Parts(..) | Payload::Unreadable(_) => {}
    }
    tensor
}
