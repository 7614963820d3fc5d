//! What only the bytes can tell, for the planner.

use crate::base::error::Result;
use crate::base::source::Source;
use crate::checkpoint::Tensor;
use crate::exec::compare::{Operand, first_difference};
use crate::plan::Facts;
use crate::plan::program::{Content, Make, Output};
use crate::plan::whole::whole;

/// Answers the planner's questions from the bytes.
pub(super) struct Bytes<'a>(pub(super) &'a Source);

impl Facts for Bytes<'_> {
    fn equal(&self, left: &Tensor, right: &Tensor) -> Result<bool> {
        let (left_inputs, left) = whole(left, 0)?;
        let (right_inputs, right) = whole(right, 0)?;
        let left = Operand { source: self.0, inputs: &left_inputs, output: &left };
        let right = Operand { source: self.0, inputs: &right_inputs, output: &right };
        Ok(first_difference(left, right)?.is_none())
    }

    fn made(&self, tensor: &Tensor, make: &Make) -> Result<bool> {
        let (inputs, stored) = whole(tensor, 0)?;
        let made = Output {
            name: tensor.name.clone(),
            dtype: make.dtype,
            shape: make.shape.clone(),
            content: Content::Make(Box::new(make.clone())),
        };
        let stored = Operand { source: self.0, inputs: &inputs, output: &stored };
        let made = Operand { source: self.0, inputs: &[], output: &made };
        Ok(first_difference(stored, made)?.is_none())
    }
}
