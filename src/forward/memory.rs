//! What a decoder attends to beside itself.
//!
//! The decoder of an encoder-decoder attends to what the encoder puts out. One that stands alone, and has
//! `cross_attention`, attends to states that are given with the input, `[m, hidden_size]` for each sequence, of
//! which a mask may hide some. Where none are given its layers leave that sublayer out, norms and residual sum with it.

use ndarray::Array2;

use super::keys::{Keys, broken};
use super::real::Real;
use super::{Batch, Inputs};
use crate::base::error::Result;

/// What a decoder attends to: an encoder's output, `[batch · m, hidden]`.
pub(super) struct Memory<'m, R> {
    pub(super) output: &'m Array2<R>,
    pub(super) batch: &'m Batch,
}

/// The states that are given for the first stack, and which of them are shown.
pub(super) fn given<R: Real>(
    keys: Keys<'_>,
    inputs: &Inputs,
    batch: &Batch,
) -> Result<Option<(Array2<R>, Batch)>> {
    let Some(states) = &inputs.encoder_hidden_states else { return Ok(None) };
    if !keys.bool("cross_attention")? {
        return Err(broken("states of an encoder are given, and the first stack attends to none"));
    }
    let hidden = keys.count("hidden_size")?;
    let len = states.first().map_or(0, Vec::len);
    let fits =
        |rows: &Vec<Vec<f32>>| rows.len() == len && rows.iter().all(|row| row.len() == hidden);
    if states.len() != batch.size || !states.iter().all(fits) {
        let message =
            format!("states of an encoder must be {} times {len} of {hidden}", batch.size);
        return Err(broken(message));
    }
    let output = Array2::from_shape_fn((batch.size * len, hidden), |(row, dim)| {
        R::from_f32(states[row / len][row % len][dim])
    });
    let mask = inputs.encoder_attention_mask.as_ref();
    Ok(Some((output, Batch::new(batch.size, len, mask, None)?)))
}
