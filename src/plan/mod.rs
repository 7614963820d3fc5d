//! From headers, config and spec to a complete plan, or to findings. Opens no file.
//!
//! A plan covers every input tensor exactly once and makes every output exactly once, with all
//! shapes proven in both directions; or it does not exist.

pub mod export;
pub mod generic;
pub mod import;
pub mod keys;
pub mod layout;
pub mod names;
pub mod ops;
pub mod program;
pub mod tasks;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use self::layout::Layout;
use self::ops::Strand;
use self::program::{Content, Input, Kernel, Make, Output, Program};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor, row_major_strides};
use crate::diagnostic::Diagnostic;
use crate::error::Result;

/// What only the bytes can tell, asked while planning.
pub trait Facts {
    /// Whether two tensors of one dtype and shape hold the same bytes.
    ///
    /// # Errors
    /// The bytes cannot be read.
    fn equal(&self, left: &Tensor, right: &Tensor) -> Result<bool>;

    /// Whether a tensor holds what a recipe makes.
    ///
    /// # Errors
    /// The bytes cannot be read.
    fn made(&self, tensor: &Tensor, make: &Make) -> Result<bool>;
}

/// The tensors of a plan.
#[derive(Clone, Debug, Default)]
pub struct Tensors {
    /// What is read.
    pub inputs: Vec<Input>,
    /// What is written, in the order of the file.
    pub outputs: Vec<Output>,
    /// How each output is made, for people.
    pub steps: Vec<Step>,
    /// What each output that is gathered is made of, before any cast: where the way out goes on
    /// from when nothing is written in between.
    pub strands: BTreeMap<String, (Strand, DType)>,
}

/// How one tensor is made, for people and for `--format json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Step {
    /// The tensor that is written.
    pub name: String,
    /// The tensors that are read.
    pub from: Vec<String>,
    /// The ops between them, in the order of the way in.
    pub ops: String,
    /// What the way back gives.
    pub class: Exactness,
}

/// What the way back of a chain of ops gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub enum Exactness {
    /// Every bit.
    E,
    /// Every bit, through a wider dtype.
    W,
    /// Every value up to rounding; what does not come back is counted.
    N,
    /// Not every value.
    L,
}

/// What the planner is asked beside its inputs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The dtype that float tensors are cast to.
    pub dtype: Option<DType>,
    /// Whether a cast may lose information.
    pub lossy: bool,
}

impl Tensors {
    /// Adds a tensor to what is read: its layout and its dtype.
    ///
    /// # Errors
    /// Its values cannot be had; the reason.
    pub fn read(&mut self, tensor: &Tensor) -> Result<(Strand, DType), String> {
        let index = self.inputs.len();
        let bits = tensor.dtype.bits();
        // Elements smaller than a byte are copied as the bytes they are packed in.
        let (shape, unit) = match tensor.shape.split_last() {
            Some((last, rest)) if !bits.is_multiple_of(8) => {
                let bytes = tensor.dtype.n_bytes(*last);
                let bytes = bytes.ok_or("its rows end inside a byte")?;
                ([rest, &[bytes]].concat(), 1)
            }
            _ => (tensor.shape.clone(), bits / 8),
        };
        let (storage, offset, strides, big_endian) = match &tensor.payload {
            Payload::Range(extent) => (*extent, 0, row_major_strides(&shape), false),
            Payload::View(view) => {
                (view.storage, view.offset, view.strides.clone(), view.big_endian)
            }
            Payload::Unreadable(why) => return Err(why.clone()),
        };
        if unit == 0 {
            return Err("the size of its elements is not known".to_owned());
        }
        self.inputs.push(Input {
            name: tensor.name.clone(),
            storage,
            dtype: tensor.dtype,
            unit,
            big_endian,
        });
        Ok((Strand::new(Layout::of_input(index, offset, &shape, &strides)), tensor.dtype))
    }

    /// Adds a tensor to what is written.
    ///
    /// # Errors
    /// A cast that the options do not allow.
    pub fn write(
        &mut self,
        name: &str,
        strand: Strand,
        dtype: DType,
        options: Options,
        mut step: Step,
    ) -> Result<(), Diagnostic> {
        self.strands.insert(name.to_owned(), (strand.clone(), dtype));
        let Strand { layout, mut kernels } = strand;
        let mut written = dtype;
        if let Some(wanted) = options.dtype
            && dtype.is_float()
            && wanted != dtype
        {
            let widens = widens(dtype, wanted);
            if !widens && !options.lossy {
                return Err(Diagnostic::error(
                    "P013",
                    format!("casting `{name}` from {dtype} to {wanted} can lose information"),
                )
                .tensor(name)
                .help("add --lossy to allow it; what changes is counted in the report"));
            }
            kernels.push(Kernel::Cast(wanted));
            step.class = step.class.max(if widens { Exactness::W } else { Exactness::L });
            step.ops = format!("{}, cast({wanted})", step.ops);
            written = wanted;
        }
        let unit = if dtype.bits().is_multiple_of(8) { dtype.bits() / 8 } else { 1 };
        let mut shape = layout.shape.clone();
        if let Some(last) = shape.last_mut()
            && !dtype.bits().is_multiple_of(8)
        {
            *last = *last * 8 / dtype.bits();
        }
        let program = Program { gathered: dtype, unit, copies: layout.copies(), kernels };
        let content = Content::Gather(program);
        self.outputs.push(Output { name: name.to_owned(), dtype: written, shape, content });
        self.steps.push(step);
        Ok(())
    }

    /// Adds a tensor from a recipe to what is written.
    pub fn make(&mut self, name: &str, make: Make, step: Step) {
        let (dtype, shape) = (make.dtype, make.shape.clone());
        let content = Content::Make(make);
        self.outputs.push(Output { name: name.to_owned(), dtype, shape, content });
        self.steps.push(step);
    }

    /// Puts the outputs in the order of a key.
    pub fn sort_by_key<K: Ord>(&mut self, key: impl Fn(&str) -> K) {
        let outputs = std::mem::take(&mut self.outputs);
        let steps = std::mem::take(&mut self.steps);
        let mut both: Vec<_> = outputs.into_iter().zip(steps).collect();
        both.sort_by_cached_key(|(output, _)| key(&output.name));
        (self.outputs, self.steps) = both.into_iter().unzip();
    }

    /// Puts the outputs of some names behind the others, each in the order they had.
    pub fn move_last(&mut self, is_last: impl Fn(&str) -> bool) {
        let mut place = 0;
        let places: BTreeMap<String, usize> = self
            .outputs
            .iter()
            .map(|output| {
                place += 1;
                (output.name.clone(), place)
            })
            .collect();
        self.sort_by_key(|name| (is_last(name), places.get(name).copied()));
    }

    /// Tensors that are only read yet: each under its own name.
    ///
    /// # Errors
    /// The values of one cannot be had.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Tensors, Diagnostic> {
        let mut tensors = Tensors::default();
        for tensor in &checkpoint.tensors {
            let read = tensors.read(tensor);
            let read = read.map_err(|why| generic::unreadable(&tensor.name, &why))?;
            tensors.strands.insert(tensor.name.clone(), read);
        }
        Ok(tensors)
    }

    /// The bytes that the outputs take.
    pub fn n_bytes(&self) -> u64 {
        self.outputs.iter().map(Output::n_bytes).sum()
    }
}

/// Whether every value of one float dtype is a value of another.
pub(crate) fn widens(from: DType, to: DType) -> bool {
    use DType::{BF16, F16, F32, F64};
    matches!((from, to), (BF16 | F16, F32 | F64) | (F32, F64))
}

/// The tensors of a checkpoint by name.
fn by_name(checkpoint: &Checkpoint) -> BTreeMap<&str, &Tensor> {
    checkpoint.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect()
}
