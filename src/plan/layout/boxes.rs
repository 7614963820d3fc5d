//! A box of the elements of a tensor that come from one input in even steps.

/// An input that holds a box of a tensor: the first element of the box is that at `offset`, and
/// `strides` count the elements between neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputBox {
    /// Which of the plan's inputs.
    pub input: usize,
    /// The first element, from the start of the input's storage.
    pub offset: u64,
    /// The index of the first element in the tensor.
    pub at: Vec<u64>,
    /// The dimensions of the box.
    pub shape: Vec<u64>,
    /// One for each dimension.
    pub strides: Vec<u64>,
}

/// A box of elements from one input: `start[axis] + Σ i·step` along each axis is where the
/// element at `offset + Σ i·stride` of the input goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IndexBox {
    pub(super) input: usize,
    pub(super) offset: u64,
    pub(super) start: Vec<u64>,
    /// Sorted by axis, then by step, largest first; steps on an axis nest like digits.
    pub(super) dims: Vec<BoxDim>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BoxDim {
    pub(super) axis: usize,
    pub(super) len: u64,
    pub(super) step: u64,
    pub(super) stride: u64,
}

/// What an op does not apply to, in words.
pub type Refusal = String;

/// More boxes than this mean that an op does not fit the layout it meets.
pub(super) const MAX_BOXES: usize = 1 << 16;

impl IndexBox {
    pub(super) fn sort(&mut self) {
        self.dims.sort_by_key(|dim| (dim.axis, std::cmp::Reverse(dim.step)));
    }

    /// One past the last entry along an axis, from `start`.
    fn span(&self, axis: usize) -> u64 {
        1 + self.on(axis).map(|dim| (dim.len - 1) * dim.step).sum::<u64>()
    }

    fn on(&self, axis: usize) -> impl Iterator<Item = &BoxDim> {
        self.dims.iter().filter(move |dim| dim.axis == axis)
    }

    /// Splits an axis if every dim falls on one side of the split, or divides along it.
    pub(super) fn split_axis(&self, axis: usize, inner: u64) -> Option<IndexBox> {
        let mut part = IndexBox { dims: Vec::with_capacity(self.dims.len() + 1), ..self.clone() };
        part.start[axis] /= inner;
        part.start.insert(axis + 1, self.start[axis] % inner);
        for &dim in &self.dims {
            if dim.axis != axis {
                let axis = if axis < dim.axis { dim.axis + 1 } else { dim.axis };
                part.dims.push(BoxDim { axis, ..dim });
            } else if dim.step % inner == 0 {
                part.dims.push(BoxDim { step: dim.step / inner, ..dim });
            } else if dim.step * dim.len <= inner || dim.len == 1 {
                part.dims.push(BoxDim { axis: axis + 1, ..dim });
            } else {
                // The dim crosses the split: its slow part counts the outer axis.
                let fast = inner / dim.step;
                if !inner.is_multiple_of(dim.step) || dim.len % fast != 0 {
                    return None;
                }
                part.dims.push(BoxDim {
                    axis,
                    len: dim.len / fast,
                    step: 1,
                    stride: dim.stride * fast,
                });
                part.dims.push(BoxDim { axis: axis + 1, len: fast, ..dim });
            }
        }
        part.sort();
        // A start inside the inner axis may push the end over its edge.
        let end = part.start[axis + 1].checked_add(part.span(axis + 1))?;
        (end <= inner).then_some(part)
    }

    /// Splits an axis by cutting the box at every edge of the inner axis.
    pub(super) fn split_axis_by_cutting(self, axis: usize, inner: u64, boxes: &mut Vec<IndexBox>) {
        let mut rest = vec![self];
        while let Some(part) = rest.pop() {
            let edge = (part.start[axis] / inner + 1).saturating_mul(inner);
            if edge < part.start[axis].saturating_add(part.span(axis)) {
                let (mut below, mut above) = (vec![], vec![]);
                part.cut(axis, edge, &mut below, &mut above);
                rest.append(&mut below);
                rest.append(&mut above);
                if MAX_BOXES < rest.len() + boxes.len() {
                    // The caller gives up on so many.
                    boxes.append(&mut rest);
                    return;
                }
                continue;
            }
            // It lies inside one entry of the outer axis.
            let mut part = part;
            let outer = part.start[axis] / inner;
            part.start.insert(axis + 1, part.start[axis] % inner);
            part.start[axis] = outer;
            part.dims.iter_mut().filter(|dim| axis <= dim.axis).for_each(|dim| dim.axis += 1);
            part.sort();
            boxes.push(part);
        }
    }

    /// Cuts at the entry `at` of an axis.
    pub(super) fn cut(
        mut self,
        axis: usize,
        at: u64,
        below: &mut Vec<IndexBox>,
        above: &mut Vec<IndexBox>,
    ) {
        if at <= self.start[axis] {
            return above.push(self);
        }
        if self.start[axis] + self.span(axis) <= at {
            return below.push(self);
        }
        let Some(slowest) = self.dims.iter().position(|dim| dim.axis == axis) else {
            // Without a dim it is one entry, and lies on one side.
            return;
        };
        let dim = self.dims[slowest];
        let inner_span = self.span(axis) - (dim.len - 1) * dim.step;
        // Entries of the slowest dim that lie below as a whole, and from where all lie above.
        let distance = at - self.start[axis];
        let whole = if inner_span <= distance { (distance - inner_span) / dim.step + 1 } else { 0 };
        let whole = whole.min(dim.len);
        let first_above = distance.div_ceil(dim.step).min(dim.len);
        let piece = |from: u64, to: u64| {
            let mut part = self.clone();
            part.offset += from * dim.stride;
            part.start[axis] += from * dim.step;
            if to - from == 1 {
                part.dims.remove(slowest);
            } else {
                part.dims[slowest].len = to - from;
            }
            part
        };
        if 0 < whole {
            below.push(piece(0, whole));
        }
        for across in whole..first_above {
            piece(across, across + 1).cut(axis, at, below, above);
        }
        if first_above < dim.len {
            above.push(piece(first_above, dim.len));
        }
        self.dims.clear();
    }
}
