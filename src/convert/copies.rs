//! Plans that change nothing.

use super::request::Failure;
use crate::base::diagnostic::Diagnostic;
use crate::checkpoint::Checkpoint;
use crate::plan::{self, Step, Tensors};

/// The tensors of a checkpoint as they are, under their own names.
pub(crate) fn generic_copies(checkpoint: &Checkpoint) -> std::result::Result<Tensors, Failure> {
    let mut tensors = Tensors::default();
    for tensor in &checkpoint.tensors {
        let (expr, dtype) = tensors
            .read(tensor)
            .map_err(|why| Diagnostic::error("P017", format!("`{}`: {why}", tensor.name)))?;
        let step = Step::copy(&tensor.name);
        tensors.write(&tensor.name, expr, dtype, plan::Options::default(), step)?;
    }
    Ok(tensors)
}
