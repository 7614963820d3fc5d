//! What is written, cut over the ranks of a parallel run: a rank's share of a tensor, and the tensors
//! of all ranks in one plan.

use super::ops::TensorExpr;
use super::program::Content;
use super::{Options, Step, Tensors};
use crate::base::diagnostic::Diagnostic;
use crate::base::name::Name;

/// Refuses a number that ranks cannot share evenly; `flag` set their number.
///
/// # Errors
/// They cannot.
pub fn check_shares(what: &str, number: u64, ranks: u64, flag: &str) -> Result<(), Diagnostic> {
    if ranks != 0 && number.is_multiple_of(ranks) {
        return Ok(());
    }
    let message = format!("`{what}` is {number}, and {ranks} ranks cannot share it evenly");
    let help = format!("take a divisor of {number} for {flag}");
    Err(Diagnostic::error("R060", message).help(help))
}

/// A rank's share of a tensor along an axis: `rank` of so many.
///
/// # Errors
/// They cannot share it evenly.
pub fn share(
    name: &str,
    expr: TensorExpr,
    axis: usize,
    (rank, ranks): (u64, u64),
    flag: &str,
) -> Result<TensorExpr, Diagnostic> {
    let len = expr.layout.shape.get(axis).copied().unwrap_or(1);
    check_shares(&format!("axis {axis} of {name}"), len, ranks, flag)?;
    expr.movable().map_err(|why| Diagnostic::error("P010", format!("`{name}`: {why}")))?;
    let len = len / ranks;
    // Both are at most the length of the axis.
    let layout = expr.layout.slice(axis, rank * len, (rank + 1) * len);
    Ok(TensorExpr { layout, kernels: expr.kernels })
}

impl Tensors {
    /// Adds a tensor of another plan over the same inputs, under another name.
    ///
    /// # Errors
    /// As of [`Tensors::write`].
    pub fn copy_from(
        &mut self,
        other: &Tensors,
        (from, step): (&Name, &Step),
        name: &str,
        options: Options,
    ) -> Result<(), Diagnostic> {
        self.change_from(other, (from, step), name, options, &Ok)
    }

    /// Adds a changed tensor of another plan over the same inputs, under another name. One that a
    /// recipe makes cannot be changed.
    ///
    /// # Errors
    /// The change fails, or as of [`Tensors::write`].
    pub fn change_from(
        &mut self,
        other: &Tensors,
        (from, step): (&Name, &Step),
        name: &str,
        options: Options,
        change: &dyn Fn(TensorExpr) -> Result<TensorExpr, Diagnostic>,
    ) -> Result<(), Diagnostic> {
        if let Some((expr, dtype)) = other.exprs.get(from) {
            return self.write(name, change(expr.clone())?, *dtype, options, step.clone());
        }
        let made = other.outputs.iter().find(|output| output.name == *from);
        if let Some(Content::Make(made)) = made.map(|output| &output.content) {
            self.make(name, (**made).clone(), step.clone());
        }
        Ok(())
    }
}
