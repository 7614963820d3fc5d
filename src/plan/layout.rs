//! Where each element of a tensor in the making comes from.
//!
//! A [`Layout`] is a shape and a set of boxes that fill it. Each layout op of the standard turns
//! layouts into layouts, and none of them touches an element. At the end a layout is the list of
//! strided copies that the executor runs.

mod boxes;

use self::boxes::{BoxDim, IndexBox, MAX_BOXES};
use super::program::{Dim, StridedCopy};
use crate::checkpoint::{n_elements, row_major_strides};

pub use self::boxes::{InputBox, Refusal};

/// A tensor in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Its dimensions.
    pub shape: Vec<u64>,
    boxes: Vec<IndexBox>,
}

impl Layout {
    /// An input as it is: strides in units from `offset` of its storage.
    pub fn of_input(input: usize, offset: u64, shape: &[u64], strides: &[u64]) -> Layout {
        let at = vec![0; shape.len()];
        let (box_shape, strides) = (shape.to_vec(), strides.to_vec());
        Layout::of_boxes(shape, vec![InputBox { input, offset, at, shape: box_shape, strides }])
    }

    /// Inputs that each hold a box of the tensor, and every element together, as was proven.
    pub fn of_boxes(shape: &[u64], boxes: Vec<InputBox>) -> Layout {
        let boxes = boxes.into_iter().filter(|part| !part.shape.contains(&0)).map(|part| {
            let dims = part.shape.iter().zip(&part.strides).enumerate();
            let dims = dims
                .filter(|(_, (len, _))| **len != 1)
                .map(|(axis, (&len, &stride))| BoxDim { axis, len, step: 1, stride });
            let dims = dims.collect();
            IndexBox { input: part.input, offset: part.offset, start: part.at, dims }
        });
        Layout { shape: shape.to_vec(), boxes: boxes.collect() }
    }

    /// The copies that fill the tensor.
    pub fn copies(&self) -> Vec<StridedCopy> {
        let strides = row_major_strides(&self.shape);
        let copies = self.boxes.iter().map(|part| {
            let dims = part.dims.iter().map(|dim| Dim {
                len: dim.len,
                input_stride: dim.stride,
                output_stride: dim.step * strides[dim.axis],
            });
            let mut dims: Vec<Dim> = dims.collect();
            dims.sort_by_key(|dim| std::cmp::Reverse(dim.output_stride));
            let mut merged: Vec<Dim> = Vec::with_capacity(dims.len());
            for dim in dims {
                match merged.last_mut() {
                    Some(outer)
                        if outer.output_stride == dim.output_stride * dim.len
                            && outer.input_stride == dim.input_stride * dim.len =>
                    {
                        *outer = Dim { len: outer.len * dim.len, ..dim };
                    }
                    _ => merged.push(dim),
                }
            }
            StridedCopy {
                input: part.input,
                input_offset: part.offset,
                output_offset: part.start.iter().zip(&strides).map(|(at, by)| at * by).sum(),
                dims: merged,
            }
        });
        let mut copies: Vec<StridedCopy> = copies.collect();
        copies.sort_by_key(|copy| copy.output_offset);
        copies
    }

    /// Whether the boxes hold as many elements as the shape.
    pub fn is_full(&self) -> bool {
        let filled: Option<u64> = self.boxes.iter().try_fold(0u64, |sum, part| {
            sum.checked_add(part.dims.iter().try_fold(1u64, |n, dim| n.checked_mul(dim.len))?)
        });
        filled.is_some() && filled == n_elements(&self.shape)
    }

    /// Permutes the axes: axis `k` of the result is axis `perm[k]` of this.
    pub fn transpose(mut self, perm: &[usize]) -> Result<Layout, Refusal> {
        let mut to = vec![usize::MAX; self.shape.len()];
        for (new, &old) in perm.iter().enumerate() {
            match to.get_mut(old) {
                Some(place) if *place == usize::MAX => *place = new,
                _ => return Err(format!("{perm:?} is no order of {} axes", self.shape.len())),
            }
        }
        if perm.len() != self.shape.len() {
            return Err(format!("{perm:?} is no order of {} axes", self.shape.len()));
        }
        self.shape = perm.iter().map(|&old| self.shape[old]).collect();
        for part in &mut self.boxes {
            part.start = perm.iter().map(|&old| part.start[old]).collect();
            part.dims.iter_mut().for_each(|dim| dim.axis = to[dim.axis]);
            part.sort();
        }
        Ok(self)
    }

    /// Regroups the dimensions; the number of elements stays.
    pub fn reshape(mut self, to: &[u64]) -> Result<Layout, Refusal> {
        if n_elements(&self.shape) != n_elements(to) {
            return Err(format!("{:?} cannot become {to:?}: not as many elements", self.shape));
        }
        if to.contains(&0) {
            return Ok(Layout { shape: to.to_vec(), boxes: vec![] });
        }
        // All axes into one, then that one into the new ones.
        while 1 < self.shape.len() {
            self = self.merge_axes(0);
        }
        if self.shape.is_empty() {
            self = self.insert_axis(0);
        }
        for (axis, inner) in to.iter().enumerate().skip(1) {
            let rest = to[axis..].iter().product();
            debug_assert!(*inner != 0);
            self = self.split_axis(axis - 1, rest)?;
        }
        if to.is_empty() {
            self = self.drop_axis(0);
        }
        Ok(self)
    }

    /// Makes axis `axis` and the one after it into one.
    pub fn merge_axes(mut self, axis: usize) -> Layout {
        let inner = self.shape.remove(axis + 1);
        self.shape[axis] *= inner;
        for part in &mut self.boxes {
            let start = part.start.remove(axis + 1);
            part.start[axis] = part.start[axis] * inner + start;
            for dim in &mut part.dims {
                if dim.axis == axis {
                    dim.step *= inner;
                } else if axis < dim.axis {
                    dim.axis -= 1;
                }
            }
            part.sort();
        }
        self
    }

    /// Makes one axis into two, the second of size `inner`.
    pub fn split_axis(mut self, axis: usize, inner: u64) -> Result<Layout, Refusal> {
        let len = self.shape[axis];
        if inner == 0 || !len.is_multiple_of(inner) {
            return Err(format!("axis {axis} of {:?} is no multiple of {inner}", self.shape));
        }
        self.shape[axis] = len / inner;
        self.shape.insert(axis + 1, inner);
        let mut boxes = Vec::with_capacity(self.boxes.len());
        for part in self.boxes {
            match part.split_axis(axis, inner) {
                Some(part) => boxes.push(part),
                None => part.split_axis_by_cutting(axis, inner, &mut boxes),
            }
            if MAX_BOXES < boxes.len() {
                return Err("the rows do not lie in a regular pattern".to_owned());
            }
        }
        self.boxes = boxes;
        Ok(self)
    }

    /// A new axis of size 1.
    pub fn insert_axis(mut self, axis: usize) -> Layout {
        self.shape.insert(axis, 1);
        for part in &mut self.boxes {
            part.start.insert(axis, 0);
            part.dims.iter_mut().filter(|dim| axis <= dim.axis).for_each(|dim| dim.axis += 1);
        }
        self
    }

    fn drop_axis(mut self, axis: usize) -> Layout {
        self.shape.remove(axis);
        for part in &mut self.boxes {
            part.start.remove(axis);
            part.dims.iter_mut().filter(|dim| axis < dim.axis).for_each(|dim| dim.axis -= 1);
        }
        self
    }

    /// The entries `from` to before `to` of an axis.
    pub fn slice(&self, axis: usize, from: u64, to: u64) -> Layout {
        let mut shape = self.shape.clone();
        shape[axis] = to - from;
        let mut boxes = Vec::new();
        for part in &self.boxes {
            let (mut below, mut inside, mut above) = (vec![], vec![], vec![]);
            part.clone().cut(axis, from, &mut below, &mut inside);
            let mut kept = Vec::new();
            for part in inside {
                part.cut(axis, to, &mut kept, &mut above);
            }
            kept.iter_mut().for_each(|part: &mut IndexBox| part.start[axis] -= from);
            boxes.append(&mut kept);
        }
        Layout { shape, boxes }
    }

    /// Cuts an axis into pieces of the given sizes.
    pub fn split(&self, axis: usize, sizes: &[u64]) -> Result<Vec<Layout>, Refusal> {
        let total = sizes.iter().try_fold(0u64, |sum, &size| sum.checked_add(size));
        if self.shape.get(axis).copied() != total {
            return Err(format!("axis {axis} of {:?} is not the sum of {sizes:?}", self.shape));
        }
        let mut from = 0;
        let pieces = sizes.iter().map(|&size| {
            let piece = self.slice(axis, from, from + size);
            from += size;
            piece
        });
        Ok(pieces.collect())
    }

    /// Lays several tensors one after the other along an axis.
    pub fn concat(axis: usize, pieces: Vec<Layout>) -> Result<Layout, Refusal> {
        let mut pieces = pieces.into_iter();
        let mut whole = pieces.next().ok_or("nothing to put together")?;
        for piece in pieces {
            let same = |shape: &[u64]| {
                let mut shape = shape.to_vec();
                if let Some(len) = shape.get_mut(axis) {
                    *len = 0;
                }
                shape
            };
            if whole.shape.len() <= axis || same(&whole.shape) != same(&piece.shape) {
                return Err(format!(
                    "{:?} and {:?} do not fit together along axis {axis}",
                    whole.shape, piece.shape
                ));
            }
            let at = whole.shape[axis];
            whole.shape[axis] += piece.shape[axis];
            whole.boxes.extend(piece.boxes.into_iter().map(|mut part| {
                part.start[axis] += at;
                part
            }));
        }
        Ok(whole)
    }

    /// Puts `n` copies of the first row before the others.
    pub fn repeat_first_row(self, n: u64) -> Result<Layout, Refusal> {
        match self.shape.first() {
            None | Some(0) => return Err(format!("{:?} has no first row", self.shape)),
            Some(_) if (MAX_BOXES as u64) < n => return Err(format!("{n} rows are too many")),
            Some(_) => {}
        }
        let first = self.slice(0, 0, 1);
        Layout::concat(0, (0..n).map(|_| first.clone()).chain([self]).collect())
    }

    /// Puts `n` rows behind the others, the first ones once more.
    pub fn repeat_rows_behind(self, n: u64) -> Result<Layout, Refusal> {
        let rows = self.shape.first().copied().unwrap_or(0);
        if rows == 0 || MAX_BOXES as u64 <= n / rows {
            return Err(format!("{:?} has too few rows for {n} more", self.shape));
        }
        let starts = (0..n).step_by(usize::try_from(rows).unwrap_or(usize::MAX));
        let more: Vec<Layout> = starts.map(|at| self.slice(0, 0, rows.min(n - at))).collect();
        Layout::concat(0, [self].into_iter().chain(more).collect())
    }

    /// Lays several tensors of one shape on a new axis.
    pub fn stack(axis: usize, pieces: Vec<Layout>) -> Result<Layout, Refusal> {
        if pieces.iter().any(|piece| piece.shape.len() < axis) {
            return Err(format!("there is no place for a new axis {axis}"));
        }
        Layout::concat(axis, pieces.into_iter().map(|piece| piece.insert_axis(axis)).collect())
    }

    /// Takes an axis apart: one tensor for each of its entries.
    pub fn unstack(&self, axis: usize) -> Vec<Layout> {
        let pieces = 0..self.shape[axis];
        pieces.map(|at| self.slice(axis, at, at + 1).drop_axis(axis)).collect()
    }

    /// Rotary pairs on the rows of each head, from interleaved to half-split, or back.
    pub fn rope(self, heads: u64, dim: u64, last: bool, back: bool) -> Result<Layout, Refusal> {
        let rows = *self.shape.first().ok_or("a scalar has no rotary rows")?;
        if heads == 0 || rows % heads != 0 || rows / heads < dim || !dim.is_multiple_of(2) {
            return Err(format!(
                "{rows} rows cannot be {heads} heads with {dim} rotary dimensions each"
            ));
        }
        let head_dim = rows / heads;
        if dim == 0 {
            return Ok(self);
        }
        let (before, after) = if last { (head_dim - dim, 0) } else { (0, head_dim - dim) };
        let sizes = [before, dim, after];
        let pieces = self.split_axis(0, head_dim)?.split(1, &sizes)?;
        let rotated = pieces.into_iter().zip(sizes).enumerate().filter(|(_, (_, size))| *size != 0);
        let rotated = rotated.map(|(index, (piece, _))| {
            if index != 1 {
                return Ok(piece);
            }
            let piece = piece.split_axis(1, if back { dim / 2 } else { 2 })?;
            let mut perm: Vec<usize> = (0..piece.shape.len()).collect();
            perm.swap(1, 2);
            Ok(piece.transpose(&perm)?.merge_axes(1))
        });
        let rotated = rotated.collect::<Result<Vec<_>, Refusal>>()?;
        Ok(Layout::concat(1, rotated)?.merge_axes(0))
    }

    /// The two halves of the rows of each head in the other order.
    pub fn swap_halves(self, heads: u64) -> Result<Layout, Refusal> {
        let rows = *self.shape.first().ok_or("a scalar has no rows")?;
        if heads == 0 || !rows.is_multiple_of(heads) || !(rows / heads).is_multiple_of(2) {
            return Err(format!("{rows} rows cannot be {heads} heads of two halves each"));
        }
        let half = rows / heads / 2;
        let mut halves = self.split_axis(0, 2 * half)?.split(1, &[half, half])?;
        halves.reverse();
        Ok(Layout::concat(1, halves)?.merge_axes(0))
    }
}

#[cfg(test)]
mod tests;
