//! What a plan says about one tensor: which elements go where, and what happens to them.
//!
//! Every layout op of the standard moves elements without changing them, so any chain of them is
//! a list of strided copies. Value ops act on each element alone, so they follow as a list of
//! kernels. The executor needs nothing else: no names, no spec.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::base::error::Result;
use crate::base::name::Name;
use crate::base::source::Extent;
use crate::checkpoint::layout::Layout as StoredLayout;
use crate::checkpoint::tiles::Coding;
use crate::checkpoint::{DType, Encoding};
use crate::encoding::BlockType;

/// A tensor's storage that a plan reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The name of the tensor, for messages.
    pub name: Name,
    /// Where the elements are: all that any [`StridedCopy`] of this input addresses lies inside,
    /// or inside of what it decodes to.
    pub storage: Extent,
    /// How the bytes of the storage are coded, where they are not the elements as they are.
    pub coding: Option<Arc<Coding>>,
    /// The dtype of the elements.
    pub dtype: DType,
    /// The bytes of one element as copied; for the packed sub-byte dtypes one byte.
    pub unit: u64,
    /// Whether elements have their high byte first and are turned when read.
    pub big_endian: bool,
    /// How the elements are packed, where they are: `dtype` is then F32, what they decode to.
    pub packing: Option<Packing>,
}

/// How numbers are packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packing {
    /// In blocks. A program reads the numbers, or whole blocks as they are.
    Blocks(&'static BlockType),
    /// In several tensors. A program reads the numbers; to keep the parts, others copy each.
    Parts(Arc<Parts>),
}

impl Packing {
    /// Whether what is packed so can be put together with what is packed in another way.
    pub fn is_alike(&self, other: &Packing) -> bool {
        match (self, other) {
            (Packing::Blocks(one), Packing::Blocks(other)) => one == other,
            (Packing::Parts(one), Packing::Parts(other)) => one.is_alike(other),
            _ => false,
        }
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Packing::Blocks(blocks) => blocks.id,
            Packing::Parts(parts) => &parts.encoding.id,
        })
    }
}

impl Parts {
    /// Whether both are packed in one way: rows may be as many as they like.
    fn is_alike(&self, other: &Parts) -> bool {
        let kinds = |parts: &Parts| -> Vec<(String, DType)> {
            parts.parts.iter().map(|part| (part.role.clone(), part.dtype)).collect()
        };
        self.encoding.id == other.encoding.id
            && self.encoding.parameters == other.encoding.parameters
            && self.encoding.shape.last() == other.encoding.shape.last()
            && kinds(self) == kinds(other)
    }
}

/// The stored tensors that make a logical one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// How they are stored.
    pub layout: Arc<StoredLayout>,
    /// The id of that, and the dimensions of the values as the parts hold them.
    pub encoding: Encoding,
    /// The parts, the payload first.
    pub parts: Vec<Part>,
}

/// A stored tensor that is a part of a logical one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is to the arithmetic.
    pub role: String,
    /// Its own name.
    pub name: Name,
    /// Its dtype.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Where its elements are: row-major, packed and little-endian.
    pub storage: Extent,
}

impl Input {
    /// The blocks that the elements are packed in, if they are.
    pub fn blocks(&self) -> Option<&'static BlockType> {
        match self.packing {
            Some(Packing::Blocks(blocks)) => Some(blocks),
            _ => None,
        }
    }

    /// The parts that make the elements, if some do.
    pub fn parts(&self) -> Option<&Arc<Parts>> {
        match &self.packing {
            Some(Packing::Parts(parts)) => Some(parts),
            _ => None,
        }
    }

    /// How many units lie in its storage, as they are.
    fn n_units(&self) -> Option<u64> {
        let is_plain = self.coding.is_none() && self.packing.is_none();
        let n = self.storage.len.checked_div(self.unit)?;
        (is_plain && self.storage.len.is_multiple_of(self.unit)).then_some(n)
    }

    /// All storages that the elements are read from.
    pub fn storages(&self) -> Vec<Extent> {
        match self.parts() {
            Some(parts) => parts.parts.iter().map(|part| part.storage).collect(),
            None => vec![self.storage],
        }
    }
}

/// A tensor that a plan writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Its name.
    pub name: Name,
    /// Its dtype.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Where its bytes come from.
    pub content: Content,
}

impl Output {
    /// The copies and kernels that make it of the inputs; `None` if a recipe does.
    pub fn program(&self, inputs: &[Input]) -> Option<Cow<'_, Program>> {
        match &self.content {
            Content::Whole(input) => {
                let of = inputs.get(*input)?;
                Some(Cow::Owned(Program::of_whole(*input, of, of.n_units()?)))
            }
            Content::Gather(program) => Some(Cow::Borrowed(program)),
            Content::Make(_) => None,
        }
    }

    /// The inputs it is made of, by their places.
    pub fn inputs(&self) -> impl Iterator<Item = usize> {
        let (whole, copies) = match &self.content {
            Content::Whole(input) => (Some(*input), &[][..]),
            Content::Gather(program) => (None, program.copies.as_slice()),
            Content::Make(_) => (None, &[][..]),
        };
        whole.into_iter().chain(copies.iter().map(|copy| copy.input))
    }

    /// The number of bytes it takes in the file.
    pub fn n_bytes(&self) -> u64 {
        let n = crate::checkpoint::n_elements(&self.shape).and_then(|n| self.dtype.n_bytes(n));
        n.expect("the planner only makes outputs whose size fits")
    }
}

/// Where the bytes of an output come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// The elements of an input, by its place, as they lie there: what most outputs are, in a few bytes.
    Whole(usize),
    /// From inputs, by copies and kernels.
    Gather(Box<Program>),
    /// From a recipe.
    Make(Box<Make>),
}

impl Content {
    /// What a program makes of the inputs, in the shortest form.
    pub fn of(program: Program, inputs: &[Input]) -> Content {
        let input = match program.copies.as_slice() {
            [copy] if program.kernels.is_empty() => Some(copy.input),
            _ => None,
        };
        let is_whole = |input: &usize| {
            let n = inputs.get(*input).and_then(Input::n_units);
            n.is_some_and(|n| Program::of_whole(*input, &inputs[*input], n) == program)
        };
        match input.filter(is_whole) {
            Some(input) => Content::Whole(input),
            None => Content::Gather(Box::new(program)),
        }
    }
}

/// Copies, then kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The dtype of every input of the copies; U8 where they move whole blocks.
    pub gathered: DType,
    /// The bytes of one element as copied.
    pub unit: u64,
    /// Strided copies that together fill every element of the output exactly once.
    pub copies: Vec<StridedCopy>,
    /// What happens to each element after that, in order.
    pub kernels: Vec<Kernel>,
}

impl Program {
    /// The elements of an input as they lie there, `n` of them.
    fn of_whole(index: usize, input: &Input, n: u64) -> Program {
        let dims = if n == 1 {
            Vec::new()
        } else {
            vec![Dim { len: n, input_stride: 1, output_stride: 1 }]
        };
        let copies = vec![StridedCopy { input: index, input_offset: 0, output_offset: 0, dims }];
        Program { gathered: input.dtype, unit: input.unit, copies, kernels: Vec::new() }
    }
}

/// `output[output_offset + Σ i·output_stride] = input[input_offset + Σ i·input_stride]`,
/// for every index `i` with `0 ≤ i < len` in each dimension; all counted in units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StridedCopy {
    /// Which of the plan's inputs.
    pub input: usize,
    /// The first unit, from the start of the input's storage.
    pub input_offset: u64,
    /// The first unit of the output.
    pub output_offset: u64,
    /// The dimensions, slowest in the output first. None: one unit.
    pub dims: Vec<Dim>,
}

/// One dimension of a [`StridedCopy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Dim {
    /// How many.
    pub len: u64,
    /// Units between neighbours in the input; 0 repeats one.
    pub input_stride: u64,
    /// Units between neighbours in the output; never 0.
    pub output_stride: u64,
}

/// Copies, in the order of the output, of which those that go on where another ends are one with it.
pub fn joined(copies: Vec<StridedCopy>) -> Vec<StridedCopy> {
    let mut joined: Vec<StridedCopy> = Vec::with_capacity(copies.len());
    for copy in copies {
        let goes_on = joined.last_mut().and_then(|last| {
            let ([before], [after]) = (last.dims.as_mut_slice(), copy.dims.as_slice()) else {
                return None;
            };
            let plain = |dim: &Dim| dim.input_stride == 1 && dim.output_stride == 1;
            let follows = last.input == copy.input
                && plain(before)
                && plain(after)
                && last.input_offset.checked_add(before.len) == Some(copy.input_offset)
                && last.output_offset.checked_add(before.len) == Some(copy.output_offset);
            follows.then(|| before.len += after.len)
        });
        if goes_on.is_none() {
            joined.push(copy);
        }
    }
    joined
}

/// Copies of numbers as copies of runs of `len` of them, which are packed together: a block, or the
/// rows that have parts of their own; `None` if one would cut a run.
pub fn whole_runs(copies: Vec<StridedCopy>, len: u64) -> Option<Vec<StridedCopy>> {
    let divide = |n: u64| (len != 0 && n.is_multiple_of(len)).then(|| n / len);
    let copies = copies.into_iter().map(|copy| {
        let StridedCopy { input, input_offset, output_offset, mut dims } = copy;
        // The fastest dimension goes through runs; the others step over whole ones.
        let last = dims.last_mut().filter(|dim| dim.input_stride == 1 && dim.output_stride == 1)?;
        *last = Dim { len: divide(last.len)?, input_stride: len, output_stride: len };
        for dim in &mut dims {
            dim.input_stride = divide(dim.input_stride)?;
            dim.output_stride = divide(dim.output_stride)?;
        }
        let (input_offset, output_offset) = (divide(input_offset)?, divide(output_offset)?);
        Some(StridedCopy { input, input_offset, output_offset, dims })
    });
    copies.collect()
}

/// An operation on each element, computed in F32 (F64 for F64 elements).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// `x + c`.
    Add(f64),
    /// `x · c`.
    Scale(f64),
    /// `x / c`, the inverse of [`Kernel::Scale`]: not the same as `x · (1/c)`, which rounds twice.
    Divide(f64),
    /// `x · a · b` for the elements of a run of the output, counted row-major.
    Product {
        /// The first, and the one behind the last; all where there is none.
        run: Option<[u64; 2]>,
        /// The factors, one after the other.
        c: [f64; 2],
    },
    /// The number of which [`Kernel::Product`] makes this one, `x / b / a` or one beside it; the quotient where there
    /// is none.
    Quotient {
        /// The first, and the one behind the last; all where there is none.
        run: Option<[u64; 2]>,
        /// The factors.
        c: [f64; 2],
    },
    /// 0 for the elements from one on: they are no one's, and come back from nowhere.
    ZeroFrom(u64),
    /// `−e^x`.
    NegExp,
    /// `ln(−x)`, the inverse of [`Kernel::NegExp`].
    LnNeg,
    /// To another float dtype, to nearest even.
    #[serde(serialize_with = "dtype_name")]
    Cast(DType),
    /// To blocks, each of values that follow each other; nothing comes after it.
    Quantize(&'static BlockType),
    /// The nibbles of MXFP4 blocks, a scale and 16 bytes each, from pairs to halves (see
    /// [`crate::encoding::grouped::pairs_to_halves`]); nothing else happens to them.
    Halves,
}

impl Kernel {
    /// Whether it is about places of the output, so that no element may move behind it.
    pub fn is_placed(self) -> bool {
        match self {
            Kernel::Product { run, .. } | Kernel::Quotient { run, .. } => run.is_some(),
            Kernel::ZeroFrom(_) => true,
            _ => false,
        }
    }

    /// The kernel that undoes this one, but for rounding, where it was applied to `before`.
    pub fn inverse(self, before: DType) -> Kernel {
        match self {
            Kernel::Add(c) => Kernel::Add(-c),
            Kernel::Scale(c) => Kernel::Divide(c),
            Kernel::Divide(c) => Kernel::Scale(c),
            Kernel::Product { run, c } => Kernel::Quotient { run, c },
            Kernel::Quotient { run, c } => Kernel::Product { run, c },
            Kernel::ZeroFrom(from) => Kernel::ZeroFrom(from),
            Kernel::NegExp => Kernel::LnNeg,
            Kernel::LnNeg => Kernel::NegExp,
            Kernel::Cast(_) | Kernel::Quantize(_) | Kernel::Halves => Kernel::Cast(before),
        }
    }
}

fn dtype_name<S: serde::Serializer>(dtype: &DType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(dtype.name())
}

/// A tensor that is computed from a recipe: a buffer that frameworks save beside the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Make {
    /// The dtype of the elements.
    pub dtype: DType,
    /// The shape.
    pub shape: Vec<u64>,
    /// The recipe.
    pub recipe: Recipe,
}

/// How to compute a buffer.
#[derive(Clone, Debug, PartialEq)]
pub enum Recipe {
    /// One value everywhere.
    Constant(f64),
    /// These values, on the one axis there is.
    List(Vec<f64>),
    /// 0, 1, 2 … along the last axis, repeated over the others.
    Iota,
    /// 1 where column ≤ row of the last two axes, and, if a window is given, row − column < it.
    CausalMask {
        /// How many positions back are visible, itself included; all where `None`.
        window: Option<u64>,
    },
    /// `theta^(−2j/dim)`, j = 0 … dim/2 − 1, in F32 as torch computes it.
    RopeInvFreq {
        /// The base.
        theta: f64,
        /// The rotary dimensions of a head.
        dim: u64,
    },
    /// By how much each rotary frequency of `rope_inv_freq` is divided under llama3 scaling, in
    /// F32 as torch computes it.
    Llama3Factors {
        /// The base.
        theta: f64,
        /// The rotary dimensions of a head.
        dim: u64,
        /// By how much the lowest frequencies are divided.
        factor: f64,
        /// How often a frequency turns in the original context below which it is divided, and
        /// above which it stays.
        turns: [f64; 2],
        /// The positions of the original context.
        original: u64,
    },
    /// Sinusoidal positions over a whole table: row p has `sin(p / 10000^(2k/dim))`, k = 0 …
    /// dim/2 − 1, then the cosines of the same, in F64 as NumPy computes them.
    Sinusoid,
}
