//! From headers, config and spec to a complete plan, or to findings. Opens no file.
//!
//! A plan covers every input tensor exactly once and makes every output exactly once, with all
//! shapes proven in both directions; or it does not exist.

pub mod aliases;
mod axes;
pub mod cut;
pub mod dialect;
pub mod export;
pub mod generic;
pub mod import;
pub mod keys;
pub mod layout;
pub mod names;
pub mod ops;
pub mod parts;
mod pieces;
mod placed;
pub mod program;
mod recipe;
mod several;
pub mod tasks;
pub mod typed;
mod unread;
pub mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use schemars::JsonSchema;
use serde::Serialize;

use self::layout::Layout;
use self::ops::TensorExpr;
use self::program::{Content, Input, Kernel, Make, Output, Packing, Program};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::Result;
use crate::base::name::Name;
use crate::checkpoint::{Checkpoint, DType, Encoding, Payload, Tensor, row_major_strides};
use crate::encoding::BlockType;
use crate::format::gguf::types::{TYPES, Type};

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
    /// What the outputs of bytes are, by name, where they are blocks; and what tensors are, by the
    /// name of the whole, that are written in parts.
    pub encodings: BTreeMap<Name, Encoding>,
    /// The name of the whole, for each output that is a part of one.
    pub wholes: BTreeMap<Name, Name>,
    /// How each output is made, for people.
    pub steps: Vec<Step>,
    /// What each output that is gathered is made of, before any cast: where the way out goes on
    /// from when nothing is written in between.
    pub exprs: BTreeMap<Name, (TensorExpr, DType)>,
}

/// How one tensor is made, for people and for `--format json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Step {
    /// The tensors that are read.
    pub from: Box<[Name]>,
    /// The ops between them, in the order of the way in.
    pub ops: Name,
    /// What the way back gives.
    pub class: Exactness,
}

impl Step {
    /// Of a tensor that is written as it is read.
    pub fn copy(from: &Name) -> Step {
        // One text for all, which may be a million.
        static OPS: LazyLock<Name> = LazyLock::new(|| Name::from("copy"));
        Step { from: Box::new([from.clone()]), ops: OPS.clone(), class: Exactness::Exact }
    }
}

/// What the way back of a chain of ops gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub enum Exactness {
    /// Every bit.
    #[serde(rename = "E")]
    Exact,
    /// Every bit, through a wider dtype.
    #[serde(rename = "W")]
    Widened,
    /// Every value up to rounding; what does not come back is counted.
    #[serde(rename = "N")]
    Rounded,
    /// Not every value.
    #[serde(rename = "L")]
    Lossy,
}

/// What the planner is asked beside its inputs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The dtype that float tensors are cast to.
    pub dtype: Option<DType>,
    /// Whether a cast may lose information.
    pub lossy: bool,
    /// Whether packed tensors become the numbers they stand for.
    pub decode: Decode,
    /// How the parts of a tensor are called.
    pub part_names: PartNames,
    /// The blocks that float tensors are packed in.
    pub quantize: Option<&'static BlockType>,
    /// Whether nothing is planned of what is written here: [`Tensors::exprs`], which take as much
    /// memory as the rest, are then not kept.
    pub is_final: bool,
}

/// Which packed tensors become the numbers they stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decode {
    /// None.
    #[default]
    Nothing,
    /// Those that are stored as several.
    Parts,
    /// All.
    All,
}

/// How the parts of a tensor are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PartNames {
    /// As the standard does: the payload has the name of the whole, and the others have their role
    /// behind it.
    #[default]
    Standard,
    /// As the library does that wrote them.
    Library,
    /// Not at all: they are written as blocks in line, where those are the same.
    InLine,
}

impl Tensors {
    /// Makes room for as many tensors, so that long lists are not moved while they grow.
    pub(crate) fn reserve(&mut self, n: usize) {
        self.inputs.reserve_exact(n);
        self.outputs.reserve_exact(n);
        self.steps.reserve_exact(n);
    }

    /// Adds a tensor to what is read: its layout and its dtype. Of a tensor of blocks that is the
    /// layout of the numbers, which are F32.
    ///
    /// # Errors
    /// Its values cannot be had; the reason.
    pub fn read(&mut self, tensor: &Tensor) -> Result<(TensorExpr, DType), String> {
        match (&tensor.encoding, &tensor.payload) {
            (Some(encoding), Payload::Parts(layout, parts)) => {
                return self.read_parts(tensor, encoding, layout, parts);
            }
            (Some(encoding), _) => return self.read_blocks(tensor, encoding),
            (None, _) => {}
        }
        if matches!(tensor.payload, Payload::Parts(..)) {
            return Err("nothing says what its parts make".to_owned());
        }
        let read = pieces::inputs(tensor, self.inputs.len());
        let (inputs, layout, unit) = read.map_err(|err| err.message().to_owned())?;
        if unit == 0 {
            return Err("the size of its elements is not known".to_owned());
        }
        if layout.shape.len() != tensor.shape.len() {
            return Err("its rows end inside a byte".to_owned());
        }
        self.inputs.extend(inputs);
        Ok((TensorExpr::new(layout), tensor.dtype))
    }

    fn read_blocks(
        &mut self,
        tensor: &Tensor,
        encoding: &Encoding,
    ) -> Result<(TensorExpr, DType), String> {
        let storage = match &tensor.payload {
            Payload::Range(extent) => *extent,
            Payload::Unreadable(why) => return Err(why.clone()),
            Payload::View(_) | Payload::Tiles(_) | Payload::Parts(..) => {
                return Err("its blocks do not lie in a row".to_owned());
            }
        };
        let blocks = BlockType::find(&encoding.id)
            .ok_or_else(|| format!("nothing here reads {}", encoding.id))?;
        let (index, dtype) = (self.inputs.len(), DType::F32);
        let (name, unit) = (tensor.name.clone(), dtype.bits() / 8);
        let packing = Some(Packing::Blocks(blocks));
        let (big_endian, coding) = (false, None);
        self.inputs.push(Input { name, storage, coding, dtype, unit, big_endian, packing });
        let strides = row_major_strides(&encoding.shape);
        Ok((TensorExpr::new(Layout::of_input(index, 0, &encoding.shape, &strides)), dtype))
    }

    /// Adds a tensor to what is written. Packed tensors stay as they are where whatever is packed
    /// together is moved together.
    ///
    /// # Errors
    /// A cast that the options do not allow; values would have to be moved inside of what is packed.
    pub fn write(
        &mut self,
        name: &str,
        expr: TensorExpr,
        dtype: DType,
        options: Options,
        mut step: Step,
    ) -> Result<(), Diagnostic> {
        if !options.is_final {
            self.exprs.insert(name.into(), (expr.clone(), dtype));
        }
        let TensorExpr { layout, mut kernels } = expr;
        let copies = layout.copies();
        let packed = self.packing_of(name, &copies)?;
        if let (Some(Packing::Parts(parts)), Decode::Nothing) = (&packed, options.decode) {
            let parts = Arc::clone(parts);
            return self.write_parts(name, &parts, TensorExpr { layout, kernels }, options, &step);
        }
        if let (Some(Packing::Blocks(blocks)), Decode::Nothing | Decode::Parts) =
            (&packed, options.decode)
        {
            if !kernels.is_empty() {
                return Err(inside_blocks(name, blocks, "its rule computes with"));
            }
            let moves = format!("its rule, {}, moves", step.ops);
            let copies = program::whole_runs(copies, blocks.block_len as u64)
                .ok_or_else(|| inside_blocks(name, blocks, &moves))?;
            let (shape, encoding) = packed_in(&layout.shape, blocks)
                .ok_or_else(|| inside_blocks(name, blocks, &moves))?;
            self.encodings.insert(name.into(), encoding);
            let unit = blocks.block_bytes as u64;
            let program = Program { gathered: DType::U8, unit, copies, kernels };
            self.push(name, DType::U8, shape, program, step);
            return Ok(());
        }
        let mut written = dtype;
        let shortens = |wanted| (dtype, wanted) == (DType::I64, DType::I32);
        let wanted =
            options.dtype.filter(|&wanted| dtype.is_float() && wanted != dtype || shortens(wanted));
        if let Some(wanted) = wanted {
            // An integer that the shorter dtype does not hold is refused where it is met.
            let widens = widens(dtype, wanted) || shortens(wanted);
            if !widens && !options.lossy {
                return Err(Diagnostic::error(
                    "P013",
                    format!("casting `{name}` from {dtype} to {wanted} can lose information"),
                )
                .tensor(name)
                .help("add --lossy to allow it; what changes is counted in the report"));
            }
            kernels.push(Kernel::Cast(wanted));
            step.class = step.class.max(if widens { Exactness::Widened } else { Exactness::Lossy });
            step.ops = format!("{}, cast({wanted})", step.ops).into();
            written = wanted;
        }
        if packed.is_some() {
            step.class = Exactness::Lossy;
            step.ops = format!("decode, {}", step.ops).into();
            let parts = copies.iter().filter_map(|copy| self.inputs[copy.input].parts());
            let parts: BTreeSet<&str> =
                parts.flat_map(|parts| parts.parts.iter().map(|part| part.name.as_str())).collect();
            if !parts.is_empty() {
                step.from = parts.into_iter().map(Name::from).collect();
            }
        }
        let mut shape = layout.shape.clone();
        let quantize = options.quantize.filter(|_| dtype.is_float());
        if let Some((blocks, rows, encoding)) = quantize.and_then(|kind| fitting(&shape, kind)) {
            self.encodings.insert(name.into(), encoding);
            kernels.push(Kernel::Quantize(blocks));
            step.class = Exactness::Lossy;
            step.ops = format!("{}, quantize({})", step.ops, blocks.id).into();
            (written, shape) = (DType::U8, rows);
        }
        let unit = if dtype.bits().is_multiple_of(8) { dtype.bits() / 8 } else { 1 };
        if let Some(last) = shape.last_mut()
            && !dtype.bits().is_multiple_of(8)
        {
            *last = *last * 8 / dtype.bits();
        }
        let program = Program { gathered: dtype, unit, copies, kernels };
        self.push(name, written, shape, program, step);
        Ok(())
    }

    fn push(
        &mut self,
        name: impl Into<Name>,
        dtype: DType,
        shape: Vec<u64>,
        program: Program,
        step: Step,
    ) {
        let content = Content::of(program, &self.inputs);
        let name = name.into();
        self.outputs.push(Output { name, dtype, shape, content });
        self.steps.push(step);
    }

    /// How the inputs of the copies are packed, if they are.
    fn packing_of(
        &self,
        name: &str,
        copies: &[program::StridedCopy],
    ) -> Result<Option<Packing>, Diagnostic> {
        let all = copies.iter().map(|copy| self.inputs[copy.input].packing.as_ref());
        let first = all.clone().next().flatten();
        if all.clone().all(|packing| match (packing, first) {
            (Some(one), Some(other)) => one.is_alike(other),
            (one, other) => one == other,
        }) {
            return Ok(first.cloned());
        }
        let found: BTreeSet<String> =
            all.map(|packing| packing.map_or("numbers".to_owned(), Packing::to_string)).collect();
        let found: Vec<String> = found.into_iter().collect();
        Err(Diagnostic::error(
            "P012",
            format!("`{name}` is made of tensors that are packed in different ways"),
        )
        .tensor(name)
        .mismatch("one encoding", found.join(", "))
        .help(DECODE_HELP))
    }

    /// Adds a tensor from a recipe to what is written.
    pub fn make(&mut self, name: &str, make: Make, step: Step) {
        let (dtype, shape) = (make.dtype, make.shape.clone());
        let content = Content::Make(Box::new(make));
        self.outputs.push(Output { name: name.into(), dtype, shape, content });
        self.steps.push(step);
    }

    /// The names of the outputs, and how each is made.
    pub fn named_steps(&self) -> impl Iterator<Item = (&Name, &Step)> {
        self.outputs.iter().map(|output| &output.name).zip(&self.steps)
    }

    /// Gives outputs other names.
    pub fn rename(&mut self, name_of: &dyn Fn(&str) -> Option<String>) {
        for output in &mut self.outputs {
            if let Some(new) = name_of(&output.name) {
                output.name = new.into();
            }
        }
    }

    /// Puts the outputs in the order of a key.
    pub fn sort_by_key<K: Ord>(&mut self, key: impl Fn(&str) -> K) {
        let order = self.order_by_key(key);
        self.arrange(order);
    }

    /// The places of the outputs in the order of a key, which may borrow the names.
    pub fn order_by_key<'a, K: Ord>(&'a self, key: impl Fn(&'a str) -> K) -> Vec<usize> {
        let keys = self.outputs.iter().map(|output| match self.wholes.get(&output.name) {
            Some(whole) => (key(whole), Some(&output.name)),
            None => (key(&output.name), None),
        });
        let keys: Vec<_> = keys.collect();
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by(|&left, &right| keys[left].cmp(&keys[right]));
        order
    }

    /// Puts the outputs in an order of their places. They are moved within the lists, which are long where the
    /// tensors are many.
    pub fn arrange(&mut self, mut order: Vec<usize>) {
        for first in 0..order.len() {
            let mut place = first;
            while order[place] != first {
                let from = std::mem::replace(&mut order[place], place);
                self.outputs.swap(place, from);
                self.steps.swap(place, from);
                place = from;
            }
            order[place] = place;
        }
    }

    /// Puts the outputs of some names behind the others, each in the order they had.
    pub fn move_last(&mut self, is_last: impl Fn(&str) -> bool) {
        let places = self.outputs.iter().enumerate();
        let places: BTreeMap<&str, usize> =
            places.map(|(place, output)| (output.name.as_str(), place)).collect();
        let order = self.order_by_key(|name| (is_last(name), places.get(name).copied()));
        self.arrange(order);
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
            tensors.exprs.insert(tensor.name.clone(), read);
        }
        Ok(tensors)
    }

    /// The numbers of what an output is made of, where a packed one stands for some.
    pub fn numbers(&self, name: &str) -> Option<Output> {
        let (TensorExpr { layout, kernels }, dtype) = self.exprs.get(name)?.clone();
        let (copies, unit) = (layout.copies(), dtype.bits() / 8);
        let program = Program { gathered: dtype, unit, copies, kernels };
        let content = Content::of(program, &self.inputs);
        Some(Output { name: name.into(), dtype, shape: layout.shape, content })
    }

    /// Every tensor as the numbers that it is, or stands for: what is packed is decoded, and those of
    /// several parts are one.
    pub fn numbers_of_all(&self) -> Vec<Output> {
        let plain = self.outputs.iter().filter(|output| {
            let name = &output.name;
            !self.wholes.contains_key(name) && !self.encodings.contains_key(name)
        });
        plain.cloned().chain(self.encodings.keys().filter_map(|name| self.numbers(name))).collect()
    }

    /// The bytes that the outputs take.
    pub fn n_bytes(&self) -> u64 {
        self.outputs.iter().map(Output::n_bytes).sum()
    }
}

pub(crate) const DECODE_HELP: &str = "add --decode to write the numbers that are packed there";

fn inside_blocks(name: &str, blocks: &BlockType, what: &str) -> Diagnostic {
    Diagnostic::error(
        "P012",
        format!("`{name}` is in {}, and {what} values inside of blocks", blocks.id),
    )
    .tensor(name)
    .help(DECODE_HELP)
}

/// The shape of the bytes of a tensor in blocks, if it has rows and they are whole blocks.
fn packed_in(shape: &[u64], blocks: &BlockType) -> Option<(Vec<u64>, Encoding)> {
    let kind = TYPES.block(blocks.id).filter(|_| 1 < shape.len())?;
    let (_, bytes, encoding) = Type::Block(kind).physical(shape).ok()?;
    Some((bytes, encoding?))
}

/// The first of a type of blocks and those that stand in for it that rows are a whole number of.
fn fitting(
    shape: &[u64],
    blocks: &'static BlockType,
) -> Option<(&'static BlockType, Vec<u64>, Encoding)> {
    let next =
        |blocks: &&'static BlockType| BlockType::find(TYPES.block(blocks.id)?.fallback.as_deref()?);
    let mut chain = std::iter::successors(Some(blocks), next).take(TYPES.blocks.len());
    chain.find_map(|blocks| {
        let (bytes, encoding) = packed_in(shape, blocks)?;
        Some((blocks, bytes, encoding))
    })
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
