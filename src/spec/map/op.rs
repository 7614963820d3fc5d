//! The operations of a rule, as mappings state them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spec::expr::Expr;

/// An operation of the way in; the way out inverts it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// Permutes the axes; swaps the last two if none are given; leaves 1-D tensors alone.
    Transpose {
        /// For each axis of the result, the axis it comes from.
        perm: Option<Vec<usize>>,
    },
    /// Regroups the dimensions.
    Reshape {
        /// The foreign shape.
        from: Vec<Expr>,
        /// The shape after it.
        to: Vec<Expr>,
    },
    /// Cuts one tensor into several.
    Split {
        /// The axis.
        axis: usize,
        /// The sizes of the pieces.
        sizes: Vec<Expr>,
    },
    /// Puts several tensors of one shape on a new axis.
    Stack {
        /// The new axis.
        #[serde(default)]
        axis: usize,
    },
    /// Interleaved rotary pairs to half-split ones, on the rows of each head.
    RopeHalf {
        /// The number of heads.
        heads: Expr,
        /// The rotary dimensions of each.
        dim: Expr,
        /// Whether they are the last of the head, not the first.
        #[serde(default)]
        last: bool,
    },
    /// The first and the second half of the rows of each head change places.
    SwapHalves {
        /// The number of heads.
        heads: Expr,
    },
    /// Rows q, then k, then v.
    QkvConcat,
    /// Rows in groups: the q heads of a group, its k head, its v head.
    QkvGrouped,
    /// Rows in blocks, each with its share of several tensors.
    Blocks {
        /// The number of blocks.
        n: Expr,
        /// The number of tensors.
        parts: usize,
    },
    /// Two tensors in turn along an axis, first the even entries.
    Pairs {
        /// The axis.
        axis: usize,
    },
    /// Rows that nothing reads, before the others.
    UnusedRows {
        /// How many.
        n: Expr,
    },
    /// Operations for each of several tensors apart.
    Each {
        /// One list for each tensor.
        ops: Vec<Vec<Op>>,
    },
    /// Adds a constant, in F32.
    Add {
        /// The constant.
        c: Expr,
    },
    /// Multiplies by a constant, in F32.
    Scale {
        /// The constant.
        c: Expr,
    },
    /// Divides by a constant, in F32: for files that have a factor in their tensors.
    Divide {
        /// The constant.
        c: Expr,
    },
    /// Divides rows by constants, in F32.
    DivideRows {
        /// How many rows each is for.
        sizes: Vec<Expr>,
        /// A list of constants.
        c: Expr,
    },
    /// Rows of zeros behind the others.
    ZeroRows {
        /// How many.
        n: Expr,
    },
    /// Rows of zeros behind the others that files leave out.
    MissingRows {
        /// How many.
        n: Expr,
    },
    /// `−e^x`.
    NegExp,
    /// `ln(−x)`.
    LnNeg,
}
