//! What a decoder attends to beside itself.
//!
//! The decoder of an encoder-decoder attends to what the encoder puts out. One that stands alone, and has
//! `cross_attention`, attends to states that are given with the input, `[m, hidden_size]` for each sequence, or `[m, cross_dim]`
//! where that is not 0, of which a mask may hide some. Where none are given its layers leave that sublayer out, norms and residual sum with it.
//!
//! In a stack with layers `cross` only these attend to it, and to nothing else: they have no attention of the stack to itself. Where there is
//! nothing to attend to, they are left out whole, with their MLPs. With `cross_qk_norm` each head of the queries and keys that meet there is
//! normed (`q_norm`, `k_norm`). With `cross_gates` what a layer `cross` adds to the stream is multiplied by `tanh(g)`: g is `cross_attn.gate` for
//! its attention, `cross_attn.mlp_gate` for its MLP.

use ndarray::{Array2, Axis, concatenate, s};

use super::keys::{Keys, broken};
use super::real::Real;
use super::weights::Params;
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

/// What layers `cross` of a stack do otherwise.
pub(super) struct Crossing {
    /// Whether there are such layers.
    any: bool,
    gated: bool,
}

impl Crossing {
    pub(super) fn read(keys: Keys<'_>, types: &[String]) -> Result<Crossing> {
        let any = types.iter().any(|kind| kind == "cross");
        Ok(Crossing { any, gated: any && keys.bool("cross_gates")? })
    }

    /// Whether a layer attends to what a decoder attends to beside itself, where there is that.
    pub(super) fn attends(&self, kind: &str) -> bool {
        !self.any || kind == "cross"
    }

    /// What is left of what such a layer adds to the stream, by the gate of that name.
    pub(super) fn gate<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        kind: &str,
        x: Array2<R>,
    ) -> Result<Array2<R>> {
        if !self.gated || kind != "cross" {
            return Ok(x);
        }
        Ok(x * params.vector::<R>(name, 1)?[0].tanh())
    }
}

/// How wide the states are that are given for the first stack.
pub(super) fn given_dim(keys: Keys<'_>) -> Result<usize> {
    Ok(match keys.count("cross_dim")? {
        0 => keys.count("hidden_size")?,
        dim => dim,
    })
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
    let hidden = given_dim(keys)?;
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
