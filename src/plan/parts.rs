//! Tensors that are stored as several, moved without decoding them.
//!
//! Each part has something for each matrix of a stack, and most have something for each row. So
//! whole matrices, or whole rows, can be moved by moving as much of every part.

use std::sync::Arc;

use super::layout::Layout;
use super::ops::TensorExpr;
use super::program::{
    Dim, Input, Kernel, Packing, Part, Parts, Program, StridedCopy, joined, whole_runs,
};
use super::{DECODE_HELP, Options, PartNames, Step, Tensors, packed_in};
use crate::base::diagnostic::Diagnostic;
use crate::checkpoint::layout::{Layout as StoredLayout, PartRule};
use crate::checkpoint::{DType, Encoding, StoredPart, Tensor, n_elements, row_major_strides};
use crate::encoding::BlockType;
use crate::encoding::layout::matrices;

/// What is moved together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    Row,
    Matrix,
}

impl Tensors {
    /// Adds a tensor that is stored as several to what is read: the layout of its numbers, F32.
    pub(super) fn read_parts(
        &mut self,
        tensor: &Tensor,
        encoding: &Encoding,
        layout: &Arc<StoredLayout>,
        parts: &[StoredPart],
    ) -> Result<(TensorExpr, DType), String> {
        let payload = &parts.first().ok_or("it has no parts")?.tensor;
        let (lead, rows, cols) = matrices(&encoding.shape, &payload.shape)?;
        // In a package the payload has the name of the whole.
        let is_turned = layout.transposed && payload.name != tensor.name;
        let stored = if is_turned { [cols, rows] } else { [rows, cols] };
        let stored = [lead, &stored].concat();
        let mut strides = row_major_strides(&stored);
        if let (true, [.., row, col]) = (is_turned, strides.as_mut_slice()) {
            std::mem::swap(row, col);
        }
        let part = |part: &StoredPart| {
            let StoredPart { role, tensor } = part;
            let unpacked = || format!("its part `{}` is not packed", tensor.name);
            Ok(Part {
                role: role.clone(),
                name: tensor.name.clone(),
                dtype: tensor.dtype,
                shape: tensor.shape.clone(),
                storage: tensor.packed_extent().ok_or_else(unpacked)?,
            })
        };
        let parts = parts.iter().map(part).collect::<Result<Vec<_>, String>>()?;
        let storage = parts[0].storage;
        let (index, dtype) = (self.inputs.len(), DType::F32);
        let shape = encoding.shape.clone();
        let encoding = Encoding { shape: stored, ..encoding.clone() };
        self.inputs.push(Input {
            name: tensor.name.clone(),
            storage,
            coding: None,
            dtype,
            unit: dtype.bits() / 8,
            big_endian: false,
            packing: Some(Packing::Parts(Arc::new(Parts {
                layout: Arc::clone(layout),
                encoding,
                parts,
            }))),
        });
        Ok((TensorExpr::new(Layout::of_input(index, 0, &shape, &strides)), dtype))
    }

    /// Adds the parts of a tensor to what is written.
    ///
    /// # Errors
    /// Less than what is packed together would be moved, or the library has no names for them.
    pub(super) fn write_parts(
        &mut self,
        name: &str,
        parts: &Parts,
        expr: TensorExpr,
        options: Options,
        step: &Step,
    ) -> Result<(), Diagnostic> {
        let id = &parts.encoding.id;
        let refused = |why: &str| {
            Diagnostic::error("P012", format!("`{name}` is in {id}, and {why}"))
                .tensor(name)
                .help(DECODE_HELP)
        };
        if !expr.kernels.is_empty() || options.dtype.is_some() {
            return Err(refused("its numbers would have to change"));
        }
        let layout = &parts.layout;
        let library = options.part_names == PartNames::Library;
        let mut written = expr.layout;
        let logical = written.shape.clone();
        if library && layout.transposed && 1 < written.shape.len() {
            let mut perm: Vec<usize> = (0..written.shape.len()).collect();
            let last = perm.len() - 1;
            perm.swap(last - 1, last);
            written = written.transpose(&perm).map_err(|why| refused(&why))?;
        }
        let moves = format!("its rule, {}, moves values that are packed together", step.ops);
        let run = parts.run(&layout.parts);
        let len = parts.run_len(run).ok_or_else(|| refused("its size cannot be counted"))?;
        let copies = whole_runs(joined(written.copies()), len).ok_or_else(|| refused(&moves))?;
        if options.part_names == PartNames::InLine {
            let found =
                layout.blocks.as_deref().and_then(BlockType::find).filter(|_| run == Run::Row);
            let blocks = found.ok_or_else(|| refused("there are no blocks in line like it"))?;
            return self
                .write_blocks(name, &copies, parts, blocks, &logical, step)
                .ok_or_else(|| refused("its rows are no whole number of blocks"));
        }
        let inner = parts.encoding.shape.len() - usize::from(run == Run::Matrix) - 1;
        let dims = written.shape.strip_suffix(&parts.encoding.shape[inner..]);
        let lead = dims.ok_or_else(|| refused(&moves))?.to_vec();
        let names = |part: &Part| match library {
            true => layout.library_name(name, &part.role),
            false => Some(layout.standard_name(name, &part.role)),
        };
        for (number, part) in parts.parts.iter().enumerate() {
            let unit = part.dtype.bits() / 8;
            let per_run = n_elements(&part.shape).zip(n_elements(&parts.encoding.shape));
            let per_run = per_run.and_then(|(n, values)| n.checked_div(values / len.max(1)));
            let per_run = per_run.filter(|_| unit != 0 && part.shape.starts_with(parts.lead()));
            let per_run = per_run.ok_or_else(|| refused("its parts do not fit each other"))?;
            let part_name = names(part)
                .ok_or_else(|| refused("nothing but its own file says how its parts are called"))?;
            let kept = parts.kept(run);
            let rest = part.shape.get(kept..).unwrap_or_default();
            let mut from = Vec::new();
            let mut fit = true;
            let copies: Vec<StridedCopy> = copies
                .iter()
                .map(|copy| {
                    let of = self.inputs[copy.input].parts().expect("all are alike");
                    let own = of.parts[number].clone();
                    // Of matrices of other sizes a run is another part of the tensor.
                    fit &= own.shape.get(of.kept(run)..) == Some(rest);
                    from.push(own.name.clone());
                    let input = self.inputs.len();
                    self.inputs.push(Input {
                        name: own.name,
                        storage: own.storage,
                        coding: None,
                        dtype: own.dtype,
                        unit,
                        big_endian: false,
                        packing: None,
                    });
                    scaled(copy, input, per_run)
                })
                .collect();
            if !fit {
                return Err(refused("its parts do not fit each other"));
            }
            let shape = [lead.as_slice(), rest].concat();
            let program = Program { gathered: part.dtype, unit, copies, kernels: Vec::new() };
            self.wholes.insert(part_name.clone().into(), name.into());
            let step = Step { from: from.into(), ..step.clone() };
            self.push(&part_name, part.dtype, shape, program, step);
        }
        let encoding = Encoding { shape: logical, ..parts.encoding.clone() };
        self.encodings.insert(name.into(), encoding);
        Ok(())
    }

    /// Adds a tensor of the blocks that payload and scales make, from copies of whole rows.
    fn write_blocks(
        &mut self,
        name: &str,
        copies: &[StridedCopy],
        parts: &Parts,
        blocks: &'static BlockType,
        shape: &[u64],
        step: &Step,
    ) -> Option<()> {
        let (rows, encoding) = packed_in(shape, blocks)?;
        let row_bytes = *rows.last()?;
        let (block_bytes, payload_bytes) =
            (blocks.block_bytes as u64, blocks.block_bytes as u64 - 1);
        let per_row = row_bytes / block_bytes;
        let mut gathered = Vec::with_capacity(2 * copies.len());
        let mut from = Vec::new();
        for copy in copies {
            let of = Arc::clone(self.inputs[copy.input].parts().expect("all are alike"));
            let [payload, scales] = of.parts.as_slice() else { return None };
            for (part, len, at) in [(payload, payload_bytes, 1), (scales, 1, 0)] {
                let n_bytes = n_elements(&part.shape).and_then(|n| part.dtype.n_bytes(n))?;
                let n_rows = n_elements(&of.encoding.shape)? / parts.encoding.shape.last()?.max(&1);
                if n_rows.checked_mul(per_row)?.checked_mul(len)? != n_bytes {
                    return None;
                }
                let dims = copy.dims.iter().map(|dim| Dim {
                    len: dim.len,
                    input_stride: dim.input_stride * per_row * len,
                    output_stride: dim.output_stride * row_bytes,
                });
                let inside = [
                    Dim { len: per_row, input_stride: len, output_stride: block_bytes },
                    Dim { len, input_stride: 1, output_stride: 1 },
                ];
                gathered.push(StridedCopy {
                    input: self.inputs.len(),
                    input_offset: copy.input_offset * per_row * len,
                    output_offset: copy.output_offset * row_bytes + at,
                    dims: dims.chain(inside).collect(),
                });
                from.push(part.name.clone());
                self.inputs.push(bytes_of(part));
            }
        }
        let program = Program {
            gathered: DType::U8,
            unit: 1,
            copies: gathered,
            kernels: vec![Kernel::Halves],
        };
        self.encodings.insert(name.into(), encoding);
        let step = Step {
            from: from.into(),
            ops: format!("{}, in line", step.ops).into(),
            ..step.clone()
        };
        self.push(name, DType::U8, rows, program, step);
        Some(())
    }
}

/// The bytes of a part.
fn bytes_of(part: &Part) -> Input {
    Input {
        name: part.name.clone(),
        storage: part.storage,
        coding: None,
        dtype: DType::U8,
        unit: 1,
        big_endian: false,
        packing: None,
    }
}

/// A copy of runs as a copy of the elements that a part has for each.
fn scaled(copy: &StridedCopy, input: usize, per_run: u64) -> StridedCopy {
    let dims = copy.dims.iter().map(|dim| Dim {
        len: dim.len,
        input_stride: dim.input_stride * per_run,
        output_stride: dim.output_stride * per_run,
    });
    StridedCopy {
        input,
        input_offset: copy.input_offset * per_run,
        output_offset: copy.output_offset * per_run,
        dims: dims.chain([Dim { len: per_run, input_stride: 1, output_stride: 1 }]).collect(),
    }
}

impl Parts {
    /// The axes of a stack of matrices.
    fn lead(&self) -> &[u64] {
        &self.encoding.shape[..self.encoding.shape.len() - 2]
    }

    /// The axes of a part that count runs.
    fn kept(&self, run: Run) -> usize {
        self.lead().len() + usize::from(run == Run::Row)
    }

    /// What can be moved by itself.
    fn run(&self, rules: &[PartRule]) -> Run {
        let lead = self.lead().len();
        let by_row = self.parts.iter().all(|part| {
            let rule = rules.iter().find(|rule| rule.role == part.role);
            rule.is_some_and(|rule| rule.rows)
                && part.shape.get(lead) == Some(&self.encoding.shape[lead])
        });
        if by_row { Run::Row } else { Run::Matrix }
    }

    /// The numbers of a run.
    fn run_len(&self, run: Run) -> Option<u64> {
        let [.., rows, cols] = self.encoding.shape[..] else { return None };
        match run {
            Run::Row => Some(cols),
            Run::Matrix => rows.checked_mul(cols),
        }
    }
}
