//! What a decoder attends to beside itself.
//!
//! The decoder of an encoder-decoder attends to what the encoder puts out. One that stands alone, and has
//! `cross_attention`, attends to states that are given with the input, `[m, hidden_size]` for each sequence, of
//! which a mask may hide some. Where none are given its layers leave that sublayer out, norms and residual sum with it.

use ndarray::{Array2, Axis, concatenate, s};

use super::keys::{Keys, broken};
use super::real::Real;
use super::{Batch, Inputs, Sequence};
use crate::base::error::Result;

/// What a decoder attends to: an encoder's output, `[batch · m, hidden]`.
pub(super) struct Memory<'m, R> {
    pub(super) output: &'m Array2<R>,
    pub(super) batch: &'m Batch,
}

impl<R> Memory<'_, R> {
    /// What layers attend to by an attention of its own, and what they attend to as they do to themselves.
    #[allow(clippy::type_complexity)]
    pub(super) fn split<'m>(
        keys: Keys<'_>,
        memory: Option<&'m Memory<'m, R>>,
    ) -> Result<(Option<&'m Memory<'m, R>>, Option<&'m Memory<'m, R>>)> {
        Ok(match (keys.bool("cross_attention")?, keys.bool("cross_merged")?) {
            (false, _) => (None, None),
            (true, false) => (memory, None),
            (true, true) => (None, memory),
        })
    }
}

/// Keys and values of another stack's output, `[batch · m, …]`, and which of them are shown.
pub(super) struct Merged<R> {
    pub(super) keys: Array2<R>,
    pub(super) values: Array2<R>,
    pub(super) visible: Vec<Vec<bool>>,
}

impl<R: Real> Merged<R> {
    /// Puts those of a sequence behind its own keys and values; which of its n queries sees which of them.
    pub(super) fn join(
        &self,
        sequence: Sequence,
        n: usize,
        (keys, values): (&mut Array2<R>, &mut Array2<R>),
    ) -> Array2<bool> {
        let shown = self.visible.get(sequence.index).map_or(&[][..], Vec::as_slice);
        let rows = Sequence { index: sequence.index, len: shown.len() }.rows();
        for (own, others) in [(keys, &self.keys), (values, &self.values)] {
            *own = concatenate![Axis(0), *own, others.slice(s![rows.clone(), ..])];
        }
        Array2::from_shape_fn((n, shown.len()), |(_, k)| shown[k])
    }
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
