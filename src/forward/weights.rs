//! Canonical tensors by name, read one at a time and turned into numbers where they are used.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use ndarray::{Array1, Array2, s};
use rayon::prelude::*;

use super::keys::broken;
use super::real::{Real, decode};
use crate::base::error::{Error, Result};
use crate::base::source::Source;
use crate::checkpoint::{Checkpoint, DType, Encoding, Payload, n_elements};
use crate::encoding::BlockType;
use crate::exec::produce::Producer;
use crate::package::{Model, Value};
use crate::plan::Tensors;
use crate::plan::program::{Input, Output};
use crate::plan::whole::{numbers as numbers_of, whole};

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
        for tensor in &checkpoint.tensors {
            let (read, output) = match &tensor.payload {
                Payload::Parts(..) => {
                    let (input, output) = numbers_of(tensor, inputs.len())?;
                    (vec![input], output)
                }
                _ => whole(tensor, inputs.len())?,
            };
            inputs.extend(read);
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
                let len = producer.bytes(all, &mut buffer)?.len();
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
    model: &'a Model,
}

/// A tensor whose elements can become numbers: its shape is that of the numbers.
struct Readable<'a> {
    stored: Stored<'a>,
    /// The blocks that numbers are packed in, where they are.
    blocks: Option<&'static BlockType>,
}

impl<'a> Params<'a> {
    pub(super) fn new(weights: &'a dyn Weights, model: &'a Model) -> Params<'a> {
        Params { weights, model }
    }

    /// Whether there is a tensor whose name begins so.
    pub(super) fn has_any(&self, prefix: &str) -> bool {
        self.weights.names().any(|name| name.starts_with(prefix))
    }

    /// Whether there is a tensor of this name, stored or tied.
    pub(super) fn has(&self, name: &str) -> Result<bool> {
        Ok(self.find(name)?.is_some())
    }

    fn find(&self, name: &str) -> Result<Option<Readable<'a>>> {
        let mut name = name;
        let mut found = self.weights.tensor(name)?;
        if found.is_none()
            && let Some([_, stored]) = self.model.ties.iter().find(|[tied, _]| tied == name)
        {
            name = stored;
            found = self.weights.tensor(name)?;
        }
        let Some(mut stored) = found else { return Ok(None) };
        let mut blocks = None;
        if let Some(entry) = self.model.encodings.get(name) {
            let entry: Encoding = serde_json::from_value(entry.clone())
                .map_err(|err| broken(format!("the encoding of `{name}`: {err}")))?;
            // What is stored as several comes as its numbers.
            if !stored.dtype.is_float() {
                let known = BlockType::find(&entry.id);
                let unknown =
                    || Error::unsupported(format!("`{name}` is in {}: not read", entry.id));
                blocks = Some(known.ok_or_else(unknown)?);
                stored.shape = entry.shape;
            }
        }
        Ok(Some(Readable { stored, blocks }))
    }

    fn get(&self, name: &str) -> Result<Readable<'a>> {
        let readable = self.find(name)?.ok_or_else(|| missing(name))?;
        let dtype = readable.stored.dtype;
        if readable.blocks.is_none() && !dtype.is_float() {
            let message = format!("`{name}` is {dtype}: only float tensors are computed with");
            return Err(Error::unsupported(message));
        }
        Ok(readable)
    }

    /// The shape of a tensor.
    pub(super) fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let shape = self.get(name)?.stored.shape;
        let dims = shape.iter().map(|&dim| usize::try_from(dim).ok());
        dims.collect::<Option<_>>().ok_or_else(|| broken(format!("`{name}` is too large")))
    }

    /// Checks the shape of a tensor, before anything is made as large as hyperparameters say.
    pub(super) fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        check_shape(name, &self.get(name)?, shape)
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

    /// The length of each row of a matrix of that shape, no less than 1e-12.
    pub(super) fn row_lengths<R: Real>(&self, name: &str, shape: [usize; 2]) -> Result<Array1<R>> {
        let stored = self.get(name)?;
        check_shape(name, &stored, &shape)?;
        let length = |row: usize| -> Result<R> {
            let row = numbers::<R>(name, &stored, row..row + 1, shape[1])?;
            Ok(row.iter().map(|&x| x * x).sum::<R>().sqrt().max(R::of(1e-12)))
        };
        (0..shape[0]).map(length).collect()
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

    /// Rows of a table of ids `[n, width]`, as `[rows.len(), width]`.
    pub(super) fn ids(
        &self,
        name: &str,
        [n, width]: [usize; 2],
        rows: &[usize],
    ) -> Result<Array2<usize>> {
        let readable = self.find(name)?.ok_or_else(|| missing(name))?;
        check_shape(name, &readable, &[n, width])?;
        let Stored { dtype, bytes, .. } = &readable.stored;
        let size = match dtype {
            DType::I64 => 8,
            DType::I32 => 4,
            other => return Err(broken(format!("`{name}` is {other}: no ids"))),
        };
        let id = |at: usize| {
            let mut id = [0; 8];
            let bytes = bytes.get(at * size..(at + 1) * size)?;
            id[..size].copy_from_slice(bytes);
            usize::try_from(u64::from_le_bytes(id)).ok()
        };
        let mut found = Array2::zeros((rows.len(), width));
        for ((row, column), out) in found.indexed_iter_mut() {
            let known = id(rows[row] * width + column).filter(|_| rows[row] < n);
            *out = known.ok_or_else(|| broken(format!("`{name}` has no ids for {}", rows[row])))?;
        }
        Ok(found)
    }

    /// The linear map `x Wᵀ + b`: `x` is `[n, in]`, `NAME.weight` is `[out, in]`, `NAME.bias` is
    /// `[out]`, and the result is `[n, out]`. In groups `NAME.grouped.weight` is `[out, in/groups]`.
    pub(super) fn linear<R: Real>(
        &self,
        x: &Array2<R>,
        name: &str,
        out: usize,
        bias: Bias,
    ) -> Result<Array2<R>> {
        let groups = self.groups(name, x.ncols(), out)?;
        let grouped = format!("{name}.grouped");
        let name = if groups == 1 { name } else { &grouped };
        let weight_name = format!("{name}.weight");
        let stored = self.get(&weight_name)?;
        let (columns, rows) = (x.ncols() / groups, out / groups);
        check_shape(&weight_name, &stored, &[out, columns])?;
        let mut y = match groups {
            1 => product(x, &weight_name, &stored, 0, out)?,
            _ => {
                let mut y = Array2::zeros((x.nrows(), out));
                for group in 0..groups {
                    let part = x.slice(s![.., group * columns..(group + 1) * columns]).to_owned();
                    let part = product(&part, &weight_name, &stored, group * rows, rows)?;
                    y.slice_mut(s![.., group * rows..(group + 1) * rows]).assign(&part);
                }
                y
            }
        };
        if let Some(bias) = self.bias(name, &[out], bias)? {
            y += &Array1::from(numbers(&format!("{name}.bias"), &bias, 0..out, 1)?);
        }
        Ok(y)
    }

    /// Into how many groups the inputs and the outputs of a layer's map are cut, each group of outputs
    /// made of one of inputs: `map_groups.q_proj` for `….layers.0.attn.q_proj`.
    fn groups(&self, name: &str, inputs: usize, outputs: usize) -> Result<usize> {
        let mut parts = name.rsplit('.');
        let (Some(map), Some("attn" | "mlp")) = (parts.next(), parts.next()) else { return Ok(1) };
        let groups = match self.model.hyperparameters.get(&format!("map_groups.{map}")) {
            None => return Ok(1),
            Some(Value::Int(groups)) => usize::try_from(*groups).unwrap_or(0),
            Some(_) => 0,
        };
        let fits = |width: usize| groups != 0 && width.is_multiple_of(groups);
        if fits(inputs) && fits(outputs) {
            return Ok(groups);
        }
        Err(broken(format!("`{name}` is of {inputs} and {outputs} dims: not {groups} groups")))
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

    fn bias(&self, name: &str, shape: &[usize], bias: Bias) -> Result<Option<Readable<'a>>> {
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

fn check_shape(name: &str, readable: &Readable<'_>, wanted: &[usize]) -> Result<()> {
    let stored = &readable.stored;
    let same = stored.shape.len() == wanted.len()
        && stored.shape.iter().zip(wanted).all(|(&found, &wanted)| found == wanted as u64);
    if !same {
        let found = &stored.shape;
        return Err(broken(format!("`{name}` is {found:?}, the hyperparameters say {wanted:?}")));
    }
    // Of tables and of experts only some rows are read: that all are there is looked at here.
    let n = n_elements(&stored.shape);
    let n_bytes = n.and_then(|n| match readable.blocks {
        Some(blocks) => blocks.n_bytes(n),
        None => stored.dtype.n_bytes(n),
    });
    if n_bytes != Some(stored.bytes.len() as u64) {
        let found = stored.bytes.len();
        return Err(broken(format!("`{name}` has {found} bytes: not what its shape takes")));
    }
    Ok(())
}

/// The numbers of some rows of a tensor whose rows have `columns` elements.
fn numbers<R: Real>(
    name: &str,
    readable: &Readable<'_>,
    rows: Range<usize>,
    columns: usize,
) -> Result<Vec<R>> {
    let Readable { stored, blocks } = readable;
    let row = match blocks {
        Some(blocks) => blocks.n_bytes(columns as u64),
        None => stored.dtype.n_bytes(columns as u64),
    };
    let row = row.and_then(|row| usize::try_from(row).ok());
    let range = row.and_then(|row| Some(rows.start.checked_mul(row)?..rows.end.checked_mul(row)?));
    let bytes = range.and_then(|range| stored.bytes.get(range));
    let bytes = bytes.ok_or_else(|| broken(format!("`{name}` is shorter than its shape says")))?;
    if let Some(blocks) = blocks {
        let mut values = vec![0.0; rows.len() * columns];
        blocks.dequantize(bytes, &mut values).map_err(|err| err.context(&format!("`{name}`")))?;
        return Ok(values.into_iter().map(R::from_f32).collect());
    }
    decode(stored.dtype, bytes)
        .ok_or_else(|| Error::unsupported(format!("`{name}` is {}: no float", stored.dtype)))
}

/// `x Wᵀ`, where W is `out` rows of a tensor from `first` on. The rows are turned into numbers
/// block by block, so that a table of any size takes little memory; blocks do not depend on the
/// number of threads, so neither does the sum.
fn product<R: Real>(
    x: &Array2<R>,
    name: &str,
    stored: &Readable<'_>,
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

#[cfg(test)]
mod tests;
