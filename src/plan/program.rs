//! What a plan says about one tensor: which elements go where, and what happens to them.
//!
//! Every layout op of the standard moves elements without changing them, so any chain of them is
//! a list of strided copies. Value ops act on each element alone, so they follow as a list of
//! kernels. The executor needs nothing else: no names, no spec.

use serde::Serialize;

use crate::checkpoint::DType;
use crate::source::Extent;

/// A tensor's storage that a plan reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The name of the tensor, for messages.
    pub name: String,
    /// Where the elements are: all that any [`Copy`] of this input addresses lies inside.
    pub storage: Extent,
    /// The dtype of the elements.
    pub dtype: DType,
    /// The bytes of one element as copied; for the packed sub-byte dtypes one byte.
    pub unit: u64,
    /// Whether elements have their high byte first and are turned when read.
    pub big_endian: bool,
}

/// A tensor that a plan writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its dtype.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Where its bytes come from.
    pub content: Content,
}

impl Output {
    /// The number of bytes it takes in the file.
    pub fn n_bytes(&self) -> u64 {
        let n = crate::checkpoint::n_elements(&self.shape).and_then(|n| self.dtype.n_bytes(n));
        n.expect("the planner only makes outputs whose size fits")
    }
}

/// Where the bytes of an output come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// From inputs, by copies and kernels.
    Gather(Program),
    /// From a recipe.
    Make(Make),
}

/// Copies, then kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The dtype of every input of the copies.
    pub gathered: DType,
    /// The bytes of one element as copied.
    pub unit: u64,
    /// Strided copies that together fill every element of the output exactly once.
    pub copies: Vec<Copy>,
    /// What happens to each element after that, in order.
    pub kernels: Vec<Kernel>,
}

/// `output[output_offset + Σ i·output_stride] = input[input_offset + Σ i·input_stride]`,
/// for every index `i` with `0 ≤ i < len` in each dimension; all counted in units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// Which of the plan's inputs.
    pub input: usize,
    /// The first unit, from the start of the input's storage.
    pub input_offset: u64,
    /// The first unit of the output.
    pub output_offset: u64,
    /// The dimensions, slowest in the output first. None: one unit.
    pub dims: Vec<Dim>,
}

/// One dimension of a [`Copy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Dim {
    /// How many.
    pub len: u64,
    /// Units between neighbours in the input; 0 repeats one.
    pub input_stride: u64,
    /// Units between neighbours in the output; never 0.
    pub output_stride: u64,
}

/// An operation on each element, computed in F32 (F64 for F64 elements).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// `x + c`.
    Add(f64),
    /// `x · c`.
    Scale(f64),
    /// `−e^x`.
    NegExp,
    /// `ln(−x)`, the inverse of [`Kernel::NegExp`].
    LnNeg,
    /// To another float dtype, to nearest even.
    #[serde(serialize_with = "dtype_name")]
    Cast(DType),
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
}
