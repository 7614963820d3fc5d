//! Canonical tensors by name, read one at a time and turned into numbers where they are used.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use ndarray::{Array1, Array2, s};
use rayon::prelude::*;

use super::keys::broken;
use super::real::{Real, decode};
use crate::checkpoint::{Checkpoint, DType};
use crate::error::{Error, Result};
use crate::exec::produce::Producer;
use crate::plan::Tensors;
use crate::plan::program::{Input, Output, whole};
use crate::source::Source;

/// Where a forward reads its tensors.
pub trait Weights: Sync {
    /// The canonical names of all tensors.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;

    /// The tensor of a canonical name, `None` if there is none.
    ///
    /// # Errors
    /// Its bytes cannot be had.
    fn tensor(&self, name: &str) -> Result<Option<Stored<'_>>>;
}

/// A tensor as it is stored.
pub struct Stored<'a> {
    /// The dtype of its elements.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its elements: row-major, packed, little-endian.
    pub bytes: Cow<'a, [u8]>,
}

/// The tensors of a package, or of a foreign checkpoint through its plan, without writing
/// anything: bytes that need no work are borrowed from the mapped files.
pub struct Planned<'a> {
    source: &'a Source,
    inputs: Cow<'a, [Input]>,
    outputs: BTreeMap<&'a str, Cow<'a, Output>>,
}

impl<'a> Planned<'a> {
    /// The outputs of a plan.
    pub fn of_plan(source: &'a Source, tensors: &'a Tensors) -> Planned<'a> {
        let outputs = tensors.outputs.iter();
        let outputs = outputs.map(|output| (output.name.as_str(), Cow::Borrowed(output)));
        Planned { source, inputs: Cow::Borrowed(&tensors.inputs), outputs: outputs.collect() }
    }

    /// The tensors of a checkpoint, under the names it has.
    ///
    /// # Errors
    /// The values of one cannot be had.
    pub fn of_checkpoint(source: &'a Source, checkpoint: &'a Checkpoint) -> Result<Planned<'a>> {
        let mut inputs = Vec::new();
        let mut outputs = BTreeMap::new();
        for (index, tensor) in checkpoint.tensors.iter().enumerate() {
            let (input, output) = whole(tensor, index)?;
            inputs.push(input);
            outputs.insert(tensor.name.as_str(), Cow::Owned(output));
        }
        Ok(Planned { source, inputs: Cow::Owned(inputs), outputs })
    }
}

impl Weights for Planned<'_> {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.outputs.keys().copied())
    }

    fn tensor(&self, name: &str) -> Result<Option<Stored<'_>>> {
        let Some(output) = self.outputs.get(name) else { return Ok(None) };
        let producer = Producer::new(self.source, &self.inputs, output)?;
        let all = 0..producer.len();
        let bytes = match producer.borrow(all.clone()) {
            Some(bytes) => Cow::Borrowed(bytes),
            None => {
                let mut buffer = Vec::new();
                let len = producer.bytes(all, &mut buffer).len();
                // Behind the bytes comes scratch space.
                buffer.truncate(len);
                Cow::Owned(buffer)
            }
        };
        Ok(Some(Stored { dtype: output.dtype, shape: output.shape.clone(), bytes }))
    }
}

/// Whether a map has a bias.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    /// A hyperparameter says so.
    Is(bool),
    /// No hyperparameter says: as it is stored.
    Stored,
}

/// Numbers of one map are held for at most about so many elements at once.
const BLOCK: usize = 1 << 20;

/// The tensors of a model as numbers.
#[derive(Clone, Copy)]
pub(super) struct Params<'a> {
    weights: &'a dyn Weights,
    ties: &'a [[String; 2]],
}

impl<'a> Params<'a> {
    pub(super) fn new(weights: &'a dyn Weights, ties: &'a [[String; 2]]) -> Params<'a> {
        Params { weights, ties }
    }

    /// Whether there is a tensor whose name begins so.
    pub(super) fn has_any(&self, prefix: &str) -> bool {
        self.weights.names().any(|name| name.starts_with(prefix))
    }

    /// Whether there is a tensor of this name, stored or tied.
    pub(super) fn has(&self, name: &str) -> Result<bool> {
        Ok(self.find(name)?.is_some())
    }

    fn find(&self, name: &str) -> Result<Option<Stored<'a>>> {
        if let Some(stored) = self.weights.tensor(name)? {
            return Ok(Some(stored));
        }
        match self.ties.iter().find(|[tied, _]| tied == name) {
            Some([_, stored]) => self.weights.tensor(stored),
            None => Ok(None),
        }
    }

    fn get(&self, name: &str) -> Result<Stored<'a>> {
        let stored = self.find(name)?.ok_or_else(|| missing(name))?;
        if !stored.dtype.is_float() {
            let message =
                format!("`{name}` is {}: only float tensors are computed with", stored.dtype);
            return Err(Error::unsupported(message));
        }
        Ok(stored)
    }

    /// The shape of a tensor.
    pub(super) fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let shape = self.get(name)?.shape;
        let dims = shape.iter().map(|&dim| usize::try_from(dim).ok());
        dims.collect::<Option<_>>().ok_or_else(|| broken(format!("`{name}` is too large")))
    }

    /// A tensor without dimensions.
    pub(super) fn scalar<R: Real>(&self, name: &str) -> Result<R> {
        let stored = self.get(name)?;
        check_shape(name, &stored, &[])?;
        Ok(numbers(name, &stored, 0..1, 1)?[0])
    }

    /// A vector of that many elements.
    pub(super) fn vector<R: Real>(&self, name: &str, len: usize) -> Result<Array1<R>> {
        let stored = self.get(name)?;
        check_shape(name, &stored, &[len])?;
        Ok(Array1::from(numbers(name, &stored, 0..len, 1)?))
    }

    /// A matrix of that shape, whole.
    pub(super) fn matrix<R: Real>(&self, name: &str, shape: [usize; 2]) -> Result<Array2<R>> {
        let stored = self.get(name)?;
        check_shape(name, &stored, &shape)?;
        let data = numbers(name, &stored, 0..shape[0], shape[1])?;
        Ok(Array2::from_shape_vec(shape, data).expect("the shape was checked"))
    }

    /// A convolution's kernel `[out, in, width]` as a matrix `[out, in · width]`.
    pub(super) fn kernel<R: Real>(&self, name: &str, shape: [usize; 3]) -> Result<Array2<R>> {
        let stored = self.get(name)?;
        check_shape(name, &stored, &shape)?;
        let columns = shape[1] * shape[2];
        let data = numbers(name, &stored, 0..shape[0], columns)?;
        Ok(Array2::from_shape_vec((shape[0], columns), data).expect("the shape was checked"))
    }

    /// Rows of a table `[n, width]`, as `[rows.len(), width]`; `what` names what a row is for.
    pub(super) fn lookup<R: Real>(
        &self,
        name: &str,
        [n, width]: [usize; 2],
        rows: &[usize],
        what: &str,
    ) -> Result<Array2<R>> {
        let stored = self.get(name)?;
        check_shape(name, &stored, &[n, width])?;
        let mut found = Array2::zeros((rows.len(), width));
        for (&row, mut out) in rows.iter().zip(found.rows_mut()) {
            if n <= row {
                return Err(broken(format!("{what} {row} is past the {n} rows of `{name}`")));
            }
            out.assign(&Array1::from(numbers(name, &stored, row..row + 1, width)?));
        }
        Ok(found)
    }

    /// The linear map `x Wᵀ + b`: `x` is `[n, in]`, `NAME.weight` is `[out, in]`, `NAME.bias` is
    /// `[out]`, and the result is `[n, out]`.
    pub(super) fn linear<R: Real>(
        &self,
        x: &Array2<R>,
        name: &str,
        out: usize,
        bias: Bias,
    ) -> Result<Array2<R>> {
        let weight_name = format!("{name}.weight");
        let stored = self.get(&weight_name)?;
        check_shape(&weight_name, &stored, &[out, x.ncols()])?;
        let mut y = product(x, &weight_name, &stored, 0, out)?;
        if let Some(bias) = self.bias(name, &[out], bias)? {
            y += &Array1::from(numbers(&format!("{name}.bias"), &bias, 0..out, 1)?);
        }
        Ok(y)
    }

    /// The linear map of one of a stack of experts: `NAME.weight` is `[experts, out, in]` and
    /// `NAME.bias` is `[experts, out]`.
    pub(super) fn expert<R: Real>(
        &self,
        x: &Array2<R>,
        name: &str,
        (expert, n_experts): (usize, usize),
        out: usize,
        bias: Bias,
    ) -> Result<Array2<R>> {
        let weight_name = format!("{name}.weight");
        let stored = self.get(&weight_name)?;
        check_shape(&weight_name, &stored, &[n_experts, out, x.ncols()])?;
        let mut y = product(x, &weight_name, &stored, expert * out, out)?;
        if let Some(bias) = self.bias(name, &[n_experts, out], bias)? {
            y += &Array1::from(numbers(&format!("{name}.bias"), &bias, expert..expert + 1, out)?);
        }
        Ok(y)
    }

    fn bias(&self, name: &str, shape: &[usize], bias: Bias) -> Result<Option<Stored<'a>>> {
        let name = format!("{name}.bias");
        let stored = self.find(&name)?;
        match (&stored, bias) {
            (None, Bias::Is(true)) => return Err(missing(&name)),
            (Some(_), Bias::Is(false)) => {
                return Err(broken(format!("`{name}` is there, and the hyperparameters deny it")));
            }
            _ => {}
        }
        if let Some(stored) = &stored {
            check_shape(&name, stored, shape)?;
        }
        Ok(stored)
    }
}

#[cold]
fn missing(name: &str) -> Error {
    broken(format!("there is no tensor `{name}`"))
}

fn check_shape(name: &str, stored: &Stored<'_>, wanted: &[usize]) -> Result<()> {
    let same = stored.shape.len() == wanted.len()
        && stored.shape.iter().zip(wanted).all(|(&found, &wanted)| found == wanted as u64);
    if same {
        return Ok(());
    }
    Err(broken(format!("`{name}` is {:?}, the hyperparameters say {wanted:?}", stored.shape)))
}

/// The numbers of some rows of a tensor whose rows have `columns` elements.
fn numbers<R: Real>(
    name: &str,
    stored: &Stored<'_>,
    rows: Range<usize>,
    columns: usize,
) -> Result<Vec<R>> {
    let size = usize::try_from(stored.dtype.bits() / 8).unwrap_or(usize::MAX);
    let row = columns.checked_mul(size);
    let range = row.and_then(|row| Some(rows.start.checked_mul(row)?..rows.end.checked_mul(row)?));
    let bytes = range.and_then(|range| stored.bytes.get(range));
    let bytes = bytes.ok_or_else(|| broken(format!("`{name}` is shorter than its shape says")))?;
    decode(stored.dtype, bytes)
        .ok_or_else(|| Error::unsupported(format!("`{name}` is {}: no float", stored.dtype)))
}

/// `x Wᵀ`, where W is `out` rows of a tensor from `first` on. The rows are turned into numbers
/// block by block, so that a table of any size takes little memory; blocks do not depend on the
/// number of threads, so neither does the sum.
fn product<R: Real>(
    x: &Array2<R>,
    name: &str,
    stored: &Stored<'_>,
    first: usize,
    out: usize,
) -> Result<Array2<R>> {
    let (n, columns) = x.dim();
    let step = (BLOCK / columns.max(1)).max(1);
    let starts: Vec<usize> = (0..out).step_by(step).collect();
    let block = |start: usize| -> Result<Array2<R>> {
        let rows = step.min(out - start);
        let from = first + start;
        let weight = numbers(name, stored, from..from + rows, columns)?;
        let weight = Array2::from_shape_vec((rows, columns), weight).expect("that many numbers");
        Ok(x.dot(&weight.t()))
    };
    if let [start] = starts[..] {
        return block(start);
    }
    let blocks: Vec<Array2<R>> =
        starts.par_iter().map(|&start| block(start)).collect::<Result<_>>()?;
    let mut y = Array2::zeros((n, out));
    for (start, block) in starts.into_iter().zip(blocks) {
        y.slice_mut(s![.., start..start + block.ncols()]).assign(&block);
    }
    Ok(y)
}
