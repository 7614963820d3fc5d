//! States that are weighted means (`ssm.kind` is `wkv`), and maps that read the position before too.
//!
//! A map that is shifted by μ reads `μ ∘ x_t + (1 − μ) ∘ x_(t−1)` at position t of a sequence, with zeros before the first. With `c = ssm.inner` channels
//! keys k, values v and gates r, `[n, c]`, are maps of u, `key_proj`, `value_proj` and `gate_proj`, shifted by `shift.key`, `shift.value` and `shift.gate`. With
//! `w = e^decay` and b of `bonus`, channel by channel,
//! `y_t = (e^(b + k_t)·v_t + Σ_(i<t) e^(k_i − (t − 1 − i)·w)·v_i) / (e^(b + k_t) + Σ_(i<t) e^(k_i − (t − 1 − i)·w))`. The result is `(σ(r) ∘ y) Woutᵀ`.
//!
//! With `mlp_shift` the first map of a plain MLP is shifted by `mlp.shift.up`, and what a dense layer's MLP puts out is multiplied by `σ(x Wᵀ)`, W of `mlp.out_gate_proj`,
//! shifted by `mlp.shift.gate`.

use ndarray::{Array1, Array2};

use super::Batch;
use super::keys::Keys;
use super::mlp::sigmoid;
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// The weighted means of a stack.
pub(super) struct Wkv {
    inner: usize,
}

/// `μ ∘ x_t + (1 − μ) ∘ x_(t−1)`, with μ of `name`, in sequences of `len` rows.
pub(super) fn shifted<R: Real>(
    params: Params<'_>,
    name: &str,
    x: &Array2<R>,
    len: usize,
) -> Result<Array2<R>> {
    let share: Array1<R> = params.vector(name, x.ncols())?;
    let mut y = x * &share;
    for row in (0..x.nrows()).filter(|row| !row.is_multiple_of(len.max(1))) {
        for (column, y) in y.row_mut(row).iter_mut().enumerate() {
            *y += (R::one() - share[column]) * x[[row - 1, column]];
        }
    }
    Ok(y)
}

impl Wkv {
    pub(super) fn read(keys: Keys<'_>) -> Result<Wkv> {
        Ok(Wkv { inner: keys.count("ssm.inner")? })
    }

    /// The gated means for `u`, `[batch · n, hidden]`.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        u: &Array2<R>,
        batch: &Batch,
    ) -> Result<Array2<R>> {
        let map = |part: &str| {
            let x = shifted(params, &format!("{name}.shift.{part}"), u, batch.len)?;
            params.linear(&x, &format!("{name}.{part}_proj"), self.inner, Bias::Is(false))
        };
        let (k, v, gate) = (map("key")?, map("value")?, map("gate")?);
        let decay: Array1<R> = params.vector(&format!("{name}.decay"), self.inner)?;
        let bonus: Array1<R> = params.vector(&format!("{name}.bonus"), self.inner)?;
        let mut y = Array2::zeros(k.dim());
        for sequence in batch.sequences() {
            for channel in 0..self.inner {
                let fade = decay[channel].exp();
                // Both sums by `e^most`, so that neither overflows.
                let (mut sum, mut weight, mut most) = (R::zero(), R::zero(), R::neg_infinity());
                for t in sequence.rows() {
                    let (key, value) = (k[[t, channel]], v[[t, channel]]);
                    let own = key + bonus[channel];
                    let top = own.max(most);
                    let (past, now) = ((most - top).exp(), (own - top).exp());
                    let mean = (past * sum + now * value) / (past * weight + now);
                    y[[t, channel]] = mean * sigmoid(gate[[t, channel]]);
                    let top = key.max(most - fade);
                    let (past, now) = ((most - fade - top).exp(), (key - top).exp());
                    (sum, weight, most) = (past * sum + now * value, past * weight + now, top);
                }
            }
        }
        Ok(y)
    }
}
