//! Linear attention with gates that are exponentials (`linear.kind` is `mlstm`).
//!
//! With `h = linear.heads`, `d = linear.key_dim` and `e = linear.value_dim`: `q = x Wqᵀ / √d` and `k`, `[n, h·d]`, `v`, `[n, h·e]`, and for each head the numbers
//! `i = x Wiᵀ + b` and `f = x Wfᵀ + b`, of `input_gate` and `forget_gate`, which become `c·tanh(i/c)` and `c·tanh(f/c)` by `linear.gate_softcap` where that is not null. The states of
//! a head are S, `[d, e]`, z, `[d]`, and m, zeros at first: `m_t = max(ln σ(f_t) + m_(t−1), i_t)`, `a = σ(f_t)·e^(m_(t−1) − m_t)`, `b = e^(i_t − m_t)`,
//! `S_t = a S_(t−1) + b·k_t ⊗ v_t`, `z_t = a z_(t−1) + b·k_t` and `y_t = S_tᵀ q_t / (max(|z_t·q_t|, e^(−m_t)) + ε)`, with `ε = linear.divisor_eps`.
//! The result is `(σ(x Wgᵀ) ∘ norm(y)) Woᵀ`: the norm is a layernorm of each head by `linear.norm_eps`, with weights for all of them, end to end.

use ndarray::{Array1, Array2, s};

use super::Batch;
use super::keys::Keys;
use super::mlp::{sigmoid, softplus};
use super::norm::layernorm;
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// Heads whose states have gates that are exponentials.
pub(super) struct Mlstm {
    hidden: usize,
    heads: usize,
    key_dim: usize,
    value_dim: usize,
    norm_eps: f64,
    eps: f64,
    softcap: Option<f64>,
}

impl Mlstm {
    pub(super) fn read(keys: Keys<'_>) -> Result<Option<Mlstm>> {
        if keys.word("linear.kind")? != "mlstm" {
            return Ok(None);
        }
        Ok(Some(Mlstm {
            hidden: keys.count("hidden_size")?,
            heads: keys.count("linear.heads")?,
            key_dim: keys.count("linear.key_dim")?,
            value_dim: keys.count("linear.value_dim")?,
            norm_eps: keys.float("linear.norm_eps")?,
            eps: keys.float("linear.divisor_eps")?,
            softcap: keys.opt_float("linear.gate_softcap")?,
        }))
    }

    /// The linear attention of `x`, `[batch · n, hidden]`.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        batch: &Batch,
    ) -> Result<Array2<R>> {
        let (d, e) = (self.key_dim, self.value_dim);
        let map = |part: &str, width, bias| {
            params.linear(x, &format!("{name}.{part}"), width, Bias::Is(bias))
        };
        let gate = |part: &str| -> Result<Array2<R>> {
            let gate = map(part, self.heads, true)?;
            Ok(match self.softcap.map(R::of) {
                Some(cap) => gate.mapv(|x| cap * (x / cap).tanh()),
                None => gate,
            })
        };
        let q = map("q_proj", self.heads * d, false)? / R::of((d as f64).sqrt());
        let k = map("k_proj", self.heads * d, false)?;
        let v = map("v_proj", self.heads * e, false)?;
        let (input, forget) = (gate("input_gate")?, gate("forget_gate")?);
        let mut y = Array2::zeros(v.dim());
        for sequence in batch.sequences() {
            for head in 0..self.heads {
                let mut state: Array2<R> = Array2::zeros((d, e));
                let (mut sum, mut most) = (Array1::<R>::zeros(d), R::zero());
                for t in sequence.rows() {
                    let k = k.slice(s![t, head * d..(head + 1) * d]);
                    let q = q.slice(s![t, head * d..(head + 1) * d]);
                    let v = v.slice(s![t, head * e..(head + 1) * e]);
                    let fade = most - softplus(-forget[[t, head]]);
                    most = fade.max(input[[t, head]]);
                    let (past, now) = ((fade - most).exp(), (input[[t, head]] - most).exp());
                    state *= past;
                    sum *= past;
                    sum.scaled_add(now, &k);
                    for (mut row, &k) in state.rows_mut().into_iter().zip(k) {
                        row.scaled_add(now * k, &v);
                    }
                    let divisor = q.dot(&sum).abs().max((-most).exp()) + R::of(self.eps);
                    let out = q.dot(&state) / divisor;
                    y.slice_mut(s![t, head * e..(head + 1) * e]).assign(&out);
                }
            }
        }
        for head in 0..self.heads {
            let mut own = y.slice_mut(s![.., head * e..(head + 1) * e]);
            let normed = layernorm(&own.to_owned(), self.norm_eps);
            own.assign(&normed);
        }
        let weight: Array1<R> = params.vector(&format!("{name}.norm.weight"), self.heads * e)?;
        let y = y * &weight * &map("gate_proj", self.heads * e, false)?.mapv(sigmoid);
        params.linear(&y, &format!("{name}.o_proj"), self.hidden, Bias::Is(false))
    }
}
