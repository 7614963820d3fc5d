//! Tensors whose axes stand in another order than the rules of a mapping read.

use std::collections::BTreeMap;

use super::layout::Layout;
use super::names::{self, Bound, Choices};
use super::ops::TensorExpr;
use crate::base::limits::Backing;
use crate::checkpoint::{Payload, Tensor, View, row_major_strides};
use crate::spec::expr::Names;
use crate::spec::map::Map;

/// The tensors of a file that its program wrote with their axes in another order, each as the rules
/// read it, with the axis of the file for each of the rules'. Shapes tell, those of all that belong
/// together: one alone may be square.
///
/// # Errors
/// A variable has no value.
pub(super) fn turned<'m>(
    map: &'m Map,
    choices: &Choices,
    names: &dyn Names,
    backing: Backing,
    foreign: &BTreeMap<&str, &Tensor>,
) -> Result<BTreeMap<String, (Tensor, &'m [usize])>, String> {
    let mut found = BTreeMap::new();
    for rule in &map.turned {
        for bindings in names::choose(&rule.each, names, backing)? {
            let bound = Bound { names, bindings: &bindings };
            let mut here = Vec::new();
            for (name, shape) in rule.names.iter().zip(&rule.shapes) {
                let name = names::spell(&name.fill(&bindings)?, choices);
                let Some(&tensor) = foreign.get(name.as_str()) else { continue };
                // A shape without a number is none that a tensor has.
                let shape = shape.iter().map(|axis| axis.eval_size(&bound).ok());
                let is_so = shape.eq(tensor.shape.iter().map(|&axis| Some(axis)))
                    && !matches!(tensor.payload, Payload::Parts(..));
                here.extend(is_so.then_some((name, tensor)));
            }
            if here.len() == rule.names.len() {
                let here = here.into_iter();
                found.extend(
                    here.map(|(name, tensor)| (name, (permuted(tensor, &rule.axes), &*rule.axes))),
                );
            }
        }
    }
    Ok(found)
}

/// A tensor with its axes in another order; those that are not named have one entry.
pub(super) fn permuted(tensor: &Tensor, axes: &[usize]) -> Tensor {
    let pick = |of: &[u64]| -> Vec<u64> {
        axes.iter().filter_map(|&axis| of.get(axis).copied()).collect()
    };
    let view = |view: &View| View { strides: pick(&view.strides), ..view.clone() };
    let payload = match &tensor.payload {
        Payload::Range(storage) => Payload::View(Box::new(View {
            storage: *storage,
            offset: 0,
            strides: pick(&row_major_strides(&tensor.shape)),
            big_endian: false,
        })),
        Payload::View(of) => Payload::View(Box::new(view(of))),
        Payload::Tiles(tiles) => {
            let mut tiles = tiles.clone();
            for tile in &mut tiles {
                (tile.at, tile.shape) = (pick(&tile.at), pick(&tile.shape));
                tile.data = view(&tile.data);
            }
            Payload::Tiles(tiles)
        }
        other @ (Payload::Parts(..) | Payload::Unreadable(_)) => other.clone(),
    };
    Tensor { shape: pick(&tensor.shape), payload, ..tensor.clone() }
}

/// What a mapping writes, with the axes in the order of the file: the inverse of [`permuted`].
pub(super) fn back(expr: TensorExpr, axes: &[usize]) -> Result<TensorExpr, String> {
    // They stand in a file that anyone may have written.
    const MOST: usize = 64;
    let is_order = axes.len() == expr.layout.shape.len()
        && axes.iter().enumerate().all(|(at, axis)| *axis < MOST && !axes[..at].contains(axis));
    if !is_order {
        let rank = expr.layout.shape.len();
        return Err(format!("{axes:?} is no order of {rank} axes, which source.json says"));
    }
    let n = axes.iter().max().map_or(0, |axis| axis + 1);
    expr.movable()?;
    // The axes that have one entry come first, then are put where they belong.
    let single: Vec<usize> = (0..n).filter(|axis| !axes.contains(axis)).collect();
    let layout = single.iter().fold(expr.layout, |layout, _| Layout::insert_axis(layout, 0));
    let order: Vec<usize> = (0..n)
        .map(|theirs| match axes.iter().position(|&axis| axis == theirs) {
            Some(ours) => single.len() + ours,
            None => single.iter().position(|&axis| axis == theirs).unwrap_or(0),
        })
        .collect();
    Ok(TensorExpr { layout: layout.transpose(&order)?, kernels: expr.kernels })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_that_are_none_are_refused() {
        let expr = || TensorExpr::new(Layout::of_input(0, 0, &[2, 3], &[3, 1]));
        assert_eq!(back(expr(), &[1, 0]).unwrap().layout.shape, [3, 2]);
        assert_eq!(back(expr(), &[0, 2]).unwrap().layout.shape, [2, 1, 3]);
        for axes in [&[0][..], &[0, 0], &[0, 1, 2], &[0, usize::MAX]] {
            assert!(back(expr(), axes).is_err(), "{axes:?}");
        }
    }
}
