//! Tensors of a checkpoint as they are.

use super::pieces;
use super::program::{Content, Input, Output, Program};
use crate::base::error::{Error, Result};
use crate::checkpoint::Tensor;

/// A tensor of a checkpoint as it is: the inputs that read it, which the plan keeps from
/// `first_input` on, and the output that gathers it, row-major and little-endian.
///
/// # Errors
/// The values cannot be had, or the sizes do not fit.
pub fn whole(tensor: &Tensor, first_input: usize) -> Result<(Vec<Input>, Output)> {
    let read = pieces::inputs(tensor, first_input);
    let (inputs, layout, unit) = read.map_err(|err| err.context(&format!("`{}`", tensor.name)))?;
    let copies = layout.copies();
    let program = Program { gathered: tensor.dtype, unit, copies, kernels: Vec::new() };
    let output = Output {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        shape: tensor.shape.clone(),
        content: Content::Gather(Box::new(program)),
    };
    Ok((inputs, output))
}

/// The numbers of a tensor that is stored as several: the input that reads them, which the plan
/// keeps at `input_index`, and the output that decodes them.
///
/// # Errors
/// The values cannot be had.
pub fn numbers(tensor: &Tensor, input_index: usize) -> Result<(Input, Output)> {
    let mut tensors = super::Tensors::default();
    let (expr, dtype) = tensors
        .read(tensor)
        .map_err(|why| Error::unsupported(why).context(&format!("`{}`", tensor.name)))?;
    let input = tensors.inputs.pop().expect("just read");
    let mut copies = expr.layout.copies();
    copies.iter_mut().for_each(|copy| copy.input = input_index);
    let program = Program { gathered: dtype, unit: input.unit, copies, kernels: Vec::new() };
    let output = Output {
        name: tensor.name.clone(),
        dtype,
        shape: expr.layout.shape,
        content: Content::Gather(Box::new(program)),
    };
    Ok((input, output))
}
