//! Global tokens.
//!
//! In a stack with windows, global tokens are seen by all, and see all, with queries, keys and values of the maps
//! `global_q_proj`, `global_k_proj` and `global_v_proj`; what the others see of them is that of the plain maps. They are those of a mask that
//! is given; else none, the first of each sequence (`first`), or those before the first separator
//! (`before_sep`), as `global_tokens` says. A model whose `global_tokens` is null has none.

use ndarray::{Array2, s};

use super::keys::{Keys, broken};
use super::mix::{Mixing, mix};
use super::place::Heads;
use super::real::Real;
use super::weights::{Bias, Params};
use super::{Batch, Inputs, check_shape};
use crate::base::error::Result;
use crate::package::{Hparams, Value};

/// For each sequence and position, whether it is global; nothing where none can be. `ids` are those
/// of the tokens, `[batch · n]`.
pub(super) fn positions(
    keys: Keys<'_>,
    tokens: &Hparams,
    inputs: &Inputs,
    batch: &Batch,
    ids: &[usize],
) -> Result<Vec<Vec<bool>>> {
    let kind = keys.opt_word("global_tokens")?;
    if let Some(mask) = &inputs.global_attention_mask {
        if kind.is_none() {
            return Err(broken("the model has no global tokens"));
        }
        check_shape("the mask of global tokens", mask, batch.size, batch.len)?;
        return Ok(mask
            .iter()
            .map(|row| row.iter().map(|&global| global != 0).collect())
            .collect());
    }
    let rows = |is_global: &dyn Fn(usize, usize) -> bool| {
        (0..batch.size).map(|row| (0..batch.len).map(|at| is_global(row, at)).collect()).collect()
    };
    Ok(match kind.as_deref() {
        None | Some("none") => Vec::new(),
        Some("first") => rows(&|_, at| at == 0),
        Some("before_sep") => {
            let sep = match tokens.get("sep") {
                Some(Value::Int(sep)) => usize::try_from(*sep).ok(),
                _ => None,
            };
            rows(&|row, at| {
                let ids = &ids[row * batch.len..(row + 1) * batch.len];
                ids.iter().position(|&id| Some(id) == sep).is_some_and(|first| at < first)
            })
        }
        Some(other) => return Err(broken(format!("`global_tokens` is {other:?}"))),
    })
}

/// The attention of global tokens themselves.
pub(super) struct Global {
    pub(super) heads: Heads,
    /// Whether the maps of queries, keys and values have biases.
    pub(super) biases: [Bias; 3],
    pub(super) scale: f64,
    pub(super) softcap: Option<f64>,
}

impl Global {
    /// Puts what global tokens mix into their rows of `mixed`.
    pub(super) fn mix<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        batch: &Batch,
        mixed: &mut Array2<R>,
    ) -> Result<()> {
        let heads = self.heads;
        let map = |part: &str, width, bias| {
            params.linear(x, &format!("{name}.global_{part}_proj"), width, bias)
        };
        let [q_bias, k_bias, v_bias] = self.biases;
        let q = map("q", heads.q * heads.dim, q_bias)?;
        let k = map("k", heads.kv * heads.dim, k_bias)?;
        let v = map("v", heads.kv * heads.v_dim, v_bias)?;
        for sequence in batch.sequences() {
            let part = |x: &Array2<R>| x.slice(s![sequence.rows(), ..]).to_owned();
            let sees = |_: usize, k: usize| batch.visible[sequence.index][k];
            let mixing = Mixing::plain(heads, self.scale, self.softcap, &sees);
            let own = mix(&part(&q), &part(&k), &part(&v), &mixing);
            for (position, row) in own.rows().into_iter().enumerate() {
                if batch.is_global(sequence.index, position) {
                    mixed.row_mut(sequence.rows().start + position).assign(&row);
                }
            }
        }
        Ok(())
    }
}
