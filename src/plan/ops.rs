//! The ops of mappings on layouts, the way in and the way out.

use super::Exactness;
use super::layout::{Layout, Refusal};
use super::placed;
use super::program::Kernel;
use crate::checkpoint::n_elements;
use crate::spec::expr::{Names, as_float};
use crate::spec::map::Op;

/// A tensor in the making: where its elements come from, and what happens to each.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorExpr {
    /// Where the elements come from.
    pub layout: Layout,
    /// What happens to each, in order.
    pub kernels: Vec<Kernel>,
}

impl TensorExpr {
    /// A tensor as it is.
    pub fn new(layout: Layout) -> TensorExpr {
        TensorExpr { layout, kernels: Vec::new() }
    }

    fn map(
        self,
        change: impl FnOnce(Layout) -> Result<Layout, Refusal>,
    ) -> Result<TensorExpr, Refusal> {
        self.movable()?;
        Ok(TensorExpr { layout: change(self.layout)?, kernels: self.kernels })
    }

    /// Refuses to move elements behind a kernel that is about places.
    ///
    /// # Errors
    /// There is such a kernel.
    pub fn movable(&self) -> Result<(), Refusal> {
        match self.kernels.iter().any(|kernel| kernel.is_placed()) {
            true => Err("rows move that were computed with by their places".to_owned()),
            false => Ok(()),
        }
    }
}

/// Which way a chain of ops runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the foreign layout to the standard's.
    Import,
    /// From the standard's layout to the foreign one.
    Export,
}

/// Runs a chain of ops.
///
/// # Errors
/// An op does not fit the shapes it meets, or a name it needs has no value.
pub fn run(
    ops: &[Op],
    direction: Direction,
    names: &dyn Names,
    mut exprs: Vec<TensorExpr>,
) -> Result<Vec<TensorExpr>, Refusal> {
    match direction {
        Direction::Import => {
            for op in ops {
                exprs = step(op, direction, names, exprs)?;
            }
        }
        Direction::Export => {
            for op in ops.iter().rev() {
                exprs = step(op, direction, names, exprs)?;
            }
        }
    }
    Ok(exprs)
}

fn step(
    op: &Op,
    direction: Direction,
    names: &dyn Names,
    exprs: Vec<TensorExpr>,
) -> Result<Vec<TensorExpr>, Refusal> {
    let size = |name: &str| -> Result<u64, Refusal> {
        let value = names.value(name)?;
        crate::spec::expr::as_int(&value)
            .and_then(|int| u64::try_from(int).ok())
            .ok_or_else(|| format!("`{name}` is {value}, which is no size"))
    };
    let each = |change: &dyn Fn(Layout) -> Result<Layout, Refusal>| {
        exprs.clone().into_iter().map(|expr| expr.map(change)).collect()
    };
    match op {
        Op::Transpose { perm } => each(&|layout: Layout| {
            let rank = layout.shape.len();
            let perm = match perm {
                _ if rank < 2 => return Ok(layout),
                Some(perm) if direction == Direction::Export => {
                    let mut inverse = vec![0; perm.len()];
                    for (new, &old) in perm.iter().enumerate() {
                        *inverse.get_mut(old).ok_or("the order names an axis too many")? = new;
                    }
                    inverse
                }
                Some(perm) => perm.clone(),
                None => {
                    let mut perm: Vec<usize> = (0..rank).collect();
                    perm.swap(rank - 1, rank - 2);
                    perm
                }
            };
            layout.transpose(&perm)
        }),
        Op::Reshape { from, to } => {
            let shape = if direction == Direction::Import { to } else { from };
            let shape: Vec<u64> =
                shape.iter().map(|dim| dim.eval_size(names)).collect::<Result<_, _>>()?;
            each(&|layout: Layout| layout.reshape(&shape))
        }
        Op::RopeHalf { heads, dim, last } => {
            let (heads, dim) = (heads.eval_size(names)?, dim.eval_size(names)?);
            each(&|layout: Layout| layout.rope(heads, dim, *last, direction == Direction::Export))
        }
        Op::SwapHalves { heads } => {
            let heads = heads.eval_size(names)?;
            each(&|layout: Layout| layout.swap_halves(heads))
        }
        Op::Split { axis, sizes } => {
            let sizes: Vec<u64> =
                sizes.iter().map(|size| size.eval_size(names)).collect::<Result<_, _>>()?;
            split(exprs, direction, *axis, &sizes)
        }
        Op::QkvConcat => {
            let q = size("num_heads")? * size("head_dim")?;
            let k = size("num_kv_heads")? * size("head_dim")?;
            let v = size("num_kv_heads")? * size("v_head_dim")?;
            split(exprs, direction, 0, &[q, k, v])
        }
        Op::QkvGrouped => {
            let (kv, dim, v_dim) = (size("num_kv_heads")?, size("head_dim")?, size("v_head_dim")?);
            let heads = size("num_heads")?;
            if kv == 0 || heads % kv != 0 {
                return Err(format!("{heads} heads are not in groups of {kv}"));
            }
            grouped(exprs, direction, &[heads / kv * dim, dim, v_dim])
        }
        Op::Blocks { n, parts } => {
            let n = n.eval_size(names)?;
            let rows: u64 = exprs.iter().map(rows).sum();
            let share = rows.checked_div(n * *parts as u64).unwrap_or(0);
            grouped(exprs, direction, &vec![share; *parts])
        }
        Op::Pairs { axis } => match direction {
            Direction::Import => {
                let expr = one(exprs)?;
                expr.movable()?;
                let layout = expr.layout.split_axis(*axis, 2)?;
                let pieces = layout.unstack(axis + 1).into_iter();
                let kernels = expr.kernels;
                Ok(pieces.map(|layout| TensorExpr { layout, kernels: kernels.clone() }).collect())
            }
            Direction::Export => {
                let (pieces, kernels) = apart(exprs)?;
                let layout = Layout::stack(axis + 1, pieces)?.merge_axes(*axis);
                Ok(vec![TensorExpr { layout, kernels }])
            }
        },
        Op::Stack { axis } => match direction {
            Direction::Import => {
                let (pieces, kernels) = apart(exprs)?;
                Ok(vec![TensorExpr { layout: Layout::stack(*axis, pieces)?, kernels }])
            }
            Direction::Export => {
                let expr = one(exprs)?;
                expr.movable()?;
                if expr.layout.shape.len() <= *axis {
                    return Err(format!("{:?} has no axis {axis}", expr.layout.shape));
                }
                let pieces = expr.layout.unstack(*axis).into_iter();
                let kernels = expr.kernels;
                Ok(pieces.map(|layout| TensorExpr { layout, kernels: kernels.clone() }).collect())
            }
        },
        Op::UnusedRows { n } => {
            let n = n.eval_size(names)?;
            each(&|layout: Layout| match direction {
                Direction::Import => layout.repeat_first_row(n),
                Direction::Export => match layout.shape.first() {
                    Some(&rows) if n < rows => Ok(layout.slice(0, n, rows)),
                    _ => Err(format!("{:?} has no more than {n} rows", layout.shape)),
                },
            })
        }
        Op::Each { ops } => {
            if ops.len() != exprs.len() {
                return Err(format!("{} chains for {} tensors", ops.len(), exprs.len()));
            }
            let mut changed = Vec::with_capacity(exprs.len());
            for (ops, expr) in ops.iter().zip(exprs) {
                changed.push(one(run(ops, direction, names, vec![expr])?)?);
            }
            Ok(changed)
        }
        Op::Add { c } => {
            let c = as_float(&c.eval(names)?).ok_or("the number to add is no number")?;
            Ok(with_kernel(exprs, Kernel::Add(if direction == Direction::Import { c } else { -c })))
        }
        Op::Scale { c } => {
            let c = as_float(&c.eval(names)?).ok_or("the factor is no number")?;
            Ok(with_kernel(
                exprs,
                if direction == Direction::Import { Kernel::Scale(c) } else { Kernel::Divide(c) },
            ))
        }
        Op::Divide { c } => {
            let c = placed::factors(&c.eval(names)?)?;
            let kernel = placed::kernel(direction == Direction::Import, None, c);
            Ok(if c == [1.0, 1.0] { exprs } else { with_kernel(exprs, kernel) })
        }
        Op::DivideRows { sizes, c } => {
            let sizes: Vec<u64> =
                sizes.iter().map(|size| size.eval_size(names)).collect::<Result<_, _>>()?;
            let c = c.eval(names)?;
            let mut exprs = exprs;
            for expr in &mut exprs {
                let runs = placed::runs(&expr.layout.shape, &sizes, &c)?.into_iter();
                let kernel =
                    |(run, c)| placed::kernel(direction == Direction::Import, Some(run), c);
                expr.kernels.extend(runs.map(kernel));
            }
            Ok(exprs)
        }
        Op::ZeroRows { n } | Op::MissingRows { n } => {
            let n = n.eval_size(names)?;
            if cuts(op, direction) {
                return each(&|layout: Layout| match layout.shape.first() {
                    Some(&rows) if n < rows => Ok(layout.slice(0, 0, rows - n)),
                    _ => Err(format!("{:?} has no more than {n} rows", layout.shape)),
                });
            }
            let zeros = |expr: TensorExpr| {
                let shape = &expr.layout.shape;
                let len = n_elements(shape).ok_or("its elements pass 2^64")?;
                let mut expr = expr.map(|layout| layout.repeat_rows_behind(n))?;
                expr.kernels.extend((n != 0).then_some(Kernel::ZeroFrom(len)));
                Ok(expr)
            };
            exprs.into_iter().map(zeros).collect()
        }
        Op::NegExp => {
            let kernel =
                if direction == Direction::Import { Kernel::NegExp } else { Kernel::LnNeg };
            Ok(with_kernel(exprs, kernel))
        }
        Op::LnNeg => {
            let kernel =
                if direction == Direction::Import { Kernel::LnNeg } else { Kernel::NegExp };
            Ok(with_kernel(exprs, kernel))
        }
    }
}

/// Whether an op takes rows away.
fn cuts(op: &Op, direction: Direction) -> bool {
    match op {
        Op::ZeroRows { .. } => direction == Direction::Import,
        Op::UnusedRows { .. } | Op::MissingRows { .. } => direction == Direction::Export,
        _ => false,
    }
}

/// What the way back of a chain of ops gives: one that only moves elements has an exact inverse.
pub fn exactness(ops: &[Op], direction: Direction) -> Exactness {
    let class = |op: &Op| match op {
        Op::Add { .. }
        | Op::Scale { .. }
        | Op::Divide { .. }
        | Op::DivideRows { .. }
        | Op::NegExp
        | Op::LnNeg => Exactness::Rounded,
        // Nothing brings back what was cut off.
        op if cuts(op, direction) => Exactness::Lossy,
        Op::Each { ops } => {
            let classes = ops.iter().map(|ops| exactness(ops, direction));
            classes.max().unwrap_or(Exactness::Exact)
        }
        _ => Exactness::Exact,
    };
    ops.iter().map(class).max().unwrap_or(Exactness::Exact)
}

/// The names of a chain of ops, for people.
pub fn describe(ops: &[Op]) -> String {
    let words = ops.iter().map(|op| match op {
        Op::Transpose { .. } => "transpose".to_owned(),
        Op::Reshape { .. } => "reshape".to_owned(),
        Op::Split { axis, .. } => format!("split({axis})"),
        Op::Stack { axis } => format!("stack({axis})"),
        Op::RopeHalf { heads, dim, last } => {
            let last = if *last { ", last" } else { "" };
            format!("rope_half({}, {}{last})", heads.text, dim.text)
        }
        Op::SwapHalves { heads } => format!("swap_halves({})", heads.text),
        Op::QkvConcat => "qkv_concat".to_owned(),
        Op::QkvGrouped => "qkv_grouped".to_owned(),
        Op::Blocks { n, .. } => format!("blocks({})", n.text),
        Op::Pairs { axis } => format!("pairs({axis})"),
        Op::UnusedRows { n } => format!("unused_rows({})", n.text),
        Op::Each { ops } => {
            let chains: Vec<String> = ops.iter().map(|ops| describe(ops)).collect();
            format!("each({})", chains.join(" | "))
        }
        Op::Add { c } => format!("add({})", c.text),
        Op::Scale { c } => format!("scale({})", c.text),
        Op::Divide { c } => format!("divide({})", c.text),
        Op::DivideRows { c, .. } => format!("divide_rows({})", c.text),
        Op::ZeroRows { n } => format!("zero_rows({})", n.text),
        Op::MissingRows { n } => format!("missing_rows({})", n.text),
        Op::NegExp => "neg_exp".to_owned(),
        Op::LnNeg => "ln_neg".to_owned(),
    });
    let words: Vec<String> = words.collect();
    if words.is_empty() { "copy".to_owned() } else { words.join(", ") }
}

fn rows(expr: &TensorExpr) -> u64 {
    expr.layout.shape.first().copied().unwrap_or(0)
}

fn one(exprs: Vec<TensorExpr>) -> Result<TensorExpr, Refusal> {
    let n_strands = exprs.len();
    let mut exprs = exprs.into_iter();
    exprs
        .next()
        .filter(|_| n_strands == 1)
        .ok_or_else(|| format!("an op for one tensor meets {n_strands}"))
}

/// The layouts of several tensors that are to become one, and the kernels they share.
fn apart(exprs: Vec<TensorExpr>) -> Result<(Vec<Layout>, Vec<Kernel>), Refusal> {
    let kernels = exprs.first().map(|expr| expr.kernels.clone()).unwrap_or_default();
    if exprs.iter().any(|expr| expr.kernels != kernels) {
        return Err("tensors with different value ops cannot become one".to_owned());
    }
    exprs.iter().try_for_each(TensorExpr::movable)?;
    Ok((exprs.into_iter().map(|expr| expr.layout).collect(), kernels))
}

fn with_kernel(mut exprs: Vec<TensorExpr>, kernel: Kernel) -> Vec<TensorExpr> {
    exprs.iter_mut().for_each(|expr| expr.kernels.push(kernel));
    exprs
}

fn split(
    exprs: Vec<TensorExpr>,
    direction: Direction,
    axis: usize,
    sizes: &[u64],
) -> Result<Vec<TensorExpr>, Refusal> {
    match direction {
        Direction::Import => {
            let expr = one(exprs)?;
            expr.movable()?;
            let pieces = expr.layout.split(axis, sizes)?.into_iter();
            Ok(pieces.map(|layout| TensorExpr { layout, kernels: expr.kernels.clone() }).collect())
        }
        Direction::Export => {
            let fits = exprs.len() == sizes.len()
                && exprs
                    .iter()
                    .zip(sizes)
                    .all(|(expr, size)| expr.layout.shape.get(axis) == Some(size));
            if !fits {
                let shapes: Vec<_> = exprs.iter().map(|expr| &expr.layout.shape).collect();
                return Err(format!("{shapes:?} are not of sizes {sizes:?} along axis {axis}"));
            }
            let (pieces, kernels) = apart(exprs)?;
            Ok(vec![TensorExpr { layout: Layout::concat(axis, pieces)?, kernels }])
        }
    }
}

/// Rows in groups, each with `sizes` rows of the several tensors.
fn grouped(
    exprs: Vec<TensorExpr>,
    direction: Direction,
    sizes: &[u64],
) -> Result<Vec<TensorExpr>, Refusal> {
    let group: u64 = sizes.iter().sum();
    match direction {
        Direction::Import => {
            let expr = one(exprs)?.map(|layout| {
                if layout.shape.is_empty() {
                    return Err("a scalar has no rows to group".to_owned());
                }
                layout.split_axis(0, group)
            })?;
            let pieces = split(vec![expr], direction, 1, sizes)?.into_iter();
            pieces.map(|piece| piece.map(|layout| Ok(layout.merge_axes(0)))).collect()
        }
        Direction::Export => {
            if exprs.len() != sizes.len() || sizes.contains(&0) {
                return Err(format!("{} tensors for groups of {sizes:?}", exprs.len()));
            }
            let pieces = exprs.into_iter().zip(sizes).map(|(expr, &size)| {
                expr.map(|layout| {
                    if layout.shape.is_empty() {
                        return Err("a scalar has no rows to group".to_owned());
                    }
                    layout.split_axis(0, size)
                })
            });
            let whole = split(pieces.collect::<Result<_, _>>()?, direction, 1, sizes)?;
            whole.into_iter().map(|expr| expr.map(|layout| Ok(layout.merge_axes(0)))).collect()
        }
    }
}

#[cfg(test)]
mod tests;
