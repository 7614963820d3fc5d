//! Linear attention: heads that keep a matrix instead of keys and values.
//!
//! With `g = linear.key_heads`, `h = linear.heads`, `d = linear.key_dim`, `e = linear.value_dim`, the
//! state of a value head is S, `[d, e]`, zeros at first; it reads the query and key head `⌊i·g/h⌋`:
//! `S_t = a_t S_(t−1) + k_t ⊗ u_t` and `y_t = S_tᵀ q_t`. Positions that the mask hides add nothing.
//! `act` is the activation of the stack.
//!
//! `decay`: q, k and v are `act(x Wᵀ)`; `u = v`; a is `exp(−s)` with the slope
//! `s = 2^(−8·i/h) · (1 − l/(L − 1 + 1e-5) + 1e-5)` of head i = 1..h in layer l of L, counted from 0.
//! The result is `(σ(x Wgᵀ) ∘ norm(y)) Woᵀ`, an RMS norm of all heads at once.
//!
//! `gated_delta`: q, k and v are `act(conv(x Wᵀ))`; each head of q and k is divided by
//! `√(Σ x² + 1e-6)`, and q by √d; `a = exp(−e^a_log · softplus(x Wdtᵀ + dt_bias))`;
//! `u = beta_scale · σ(x Wβᵀ) · (v − a Sᵀ k)`. The result is `(silu(x Wgᵀ) ∘ norm(y)) Woᵀ`, an RMS norm of each
//! head.
//!
//! `channel_delta`: as `gated_delta`, but each dim of a state's keys fades by itself: with the maps of rank `linear.gate_rank`,
//! `a = exp(−e^a_log · softplus((x Waᵀ) Wbᵀ + rate_bias))`, `[n, h·d]`, and `S_t` has `a_t` for each of its rows; h = g. The result is
//! `(σ((x Wgaᵀ) Wgbᵀ) ∘ norm(y)) Woᵀ`. Where the rank is 0, one map stands for each two, of `rate_proj` and `gate_proj`. Where
//! `linear.fade_floor` f is not null, `a = exp(f · σ(e^a_log · (x Waᵀ Wbᵀ + rate_bias)))`.
//!
//! `mlstm` is another formula (Linear attention with gates that are exponentials).

use ndarray::{Array1, Array2, Zip, s};

use super::Batch;
use super::conv::causal;
use super::keys::{Keys, broken};
use super::mlp::{Activation, sigmoid, softplus};
use super::mlstm::Mlstm;
use super::norm;
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// The linear attention of a stack.
pub(super) struct Linear {
    hidden: usize,
    n_layers: usize,
    heads: usize,
    key_heads: usize,
    key_dim: usize,
    value_dim: usize,
    norm_eps: f64,
    beta_scale: f64,
    activation: Activation,
    /// The width of the convolutions, where the rule is `gated_delta` or `channel_delta`.
    delta: Option<usize>,
    /// The rank of the maps that make rates and gate, where the rule is `channel_delta`; 0: one map makes each.
    rank: Option<usize>,
    /// The least logarithm of what is left of a state from one position to the next.
    floor: Option<f64>,
    /// The formula in place of these, where it is another.
    mlstm: Option<Mlstm>,
}

/// What moves the states: how they fade, `[batch · n, heads]` or for each dim of keys, and how much of each
/// value is taken, `[batch · n, heads]`.
struct Rates<R> {
    fade: Array2<R>,
    /// Where what a key stood for is replaced.
    beta: Option<Array2<R>>,
}

impl Linear {
    pub(super) fn read(keys: Keys<'_>) -> Result<Linear> {
        let linear = Linear {
            hidden: keys.count("hidden_size")?,
            n_layers: keys.count("num_layers")?,
            heads: keys.count("linear.heads")?,
            key_heads: keys.count("linear.key_heads")?,
            key_dim: keys.count("linear.key_dim")?,
            value_dim: keys.count("linear.value_dim")?,
            norm_eps: keys.float("linear.norm_eps")?,
            beta_scale: keys.float("linear.beta_scale")?,
            activation: Activation::parse(&keys.word("activation")?)?,
            delta: match keys.word("linear.kind")?.as_str() {
                "decay" | "mlstm" => None,
                "gated_delta" | "channel_delta" => Some(keys.count("linear.conv_kernel")?),
                other => return Err(broken(format!("a layer is linear of kind {other:?}"))),
            },
            rank: match keys.word("linear.kind")? == "channel_delta" {
                true => Some(keys.count("linear.gate_rank")?),
                false => None,
            },
            floor: match keys.word("linear.kind")? == "channel_delta" {
                true => keys.opt_float("linear.fade_floor")?,
                false => None,
            },
            mlstm: Mlstm::read(keys)?,
        };
        let is_shared = linear.heads != linear.key_heads;
        if linear.rank.is_some() && is_shared {
            return Err(broken("heads whose dims of keys fade by themselves share no keys"));
        }
        if linear.key_heads == 0 || !linear.heads.is_multiple_of(linear.key_heads) {
            let (heads, key_heads) = (linear.heads, linear.key_heads);
            return Err(broken(format!("{heads} value heads do not share {key_heads} key heads")));
        }
        Ok(linear)
    }

    /// The linear attention of `x`, `[batch · n, hidden]`, in a layer.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        layer: usize,
        x: &Array2<R>,
        batch: &Batch,
    ) -> Result<Array2<R>> {
        let mut shown = x.clone();
        let visible = batch.visible.iter().flatten();
        for (mut row, _) in shown.rows_mut().into_iter().zip(visible).filter(|(_, shown)| !**shown)
        {
            row.fill(R::zero());
        }
        if let Some(mlstm) = &self.mlstm {
            return mlstm.apply(params, name, &shown, batch);
        }
        let map = |part: &str, width| {
            params.linear(&shown, &format!("{name}.{part}"), width, Bias::Is(false))
        };
        let stream = |part: &str, width| -> Result<Array2<R>> {
            let mut y = map(&format!("{part}_proj"), width)?;
            if let Some(kernel) = self.delta {
                y = causal(params, &format!("{name}.{part}_conv"), &y, batch, kernel, false)?;
            }
            y.mapv_inplace(|y| self.activation.of(y));
            Ok(y)
        };
        let (keys_width, width) = (self.key_heads * self.key_dim, self.heads * self.value_dim);
        let mut q = stream("q", keys_width)?;
        let mut k = stream("k", keys_width)?;
        let v = stream("v", width)?;
        let rates = match self.delta {
            None => self.slopes(layer, x.nrows()),
            Some(_) => {
                scale_to_one(&mut q, self.key_dim);
                scale_to_one(&mut k, self.key_dim);
                q /= R::of((self.key_dim as f64).sqrt());
                let a_log: Array1<R> = params.vector(&format!("{name}.a_log"), self.heads)?;
                let beta = map("beta_proj", self.heads)?.mapv(sigmoid);
                let beta = beta * R::of(self.beta_scale);
                let (dt, runs) = match self.rank {
                    None => (map("dt_proj", self.heads)?, 1),
                    Some(rank) => (self.maps(params, name, "rate", &shown, rank)?, self.key_dim),
                };
                let bias = if self.rank.is_some() { "rate_bias" } else { "dt_bias" };
                let bias: Array1<R> =
                    params.vector(&format!("{name}.{bias}"), self.heads * runs)?;
                let mut fade = dt + &bias;
                for ((_, channel), fade) in fade.indexed_iter_mut() {
                    let rate = a_log[channel / runs].exp();
                    *fade = match self.floor {
                        None => -softplus(*fade) * rate,
                        Some(floor) => R::of(floor) * sigmoid(*fade * rate),
                    }
                    .exp();
                }
                Rates { fade, beta: Some(beta) }
            }
        };
        let mut y = self.states(&q, &k, &v, &rates, batch);
        let gate = match self.rank {
            None => params.linear(x, &format!("{name}.gate_proj"), width, Bias::Is(false))?,
            Some(rank) => self.maps(params, name, "gate", x, rank)?,
        };
        let (run, gated): (usize, fn(R) -> R) = match (self.delta, self.rank) {
            (None, _) => (width, sigmoid),
            (_, Some(_)) => (self.value_dim, sigmoid),
            _ => (self.value_dim, |x| Activation::Silu.of(x)),
        };
        norm::rms(&mut y, run, self.norm_eps);
        let weight: Array1<R> = params.vector(&format!("{name}.norm.weight"), run)?;
        for (mut y, gate) in y.rows_mut().into_iter().zip(gate.rows()) {
            let scales = gate.iter().zip(weight.iter().cycle());
            y.iter_mut().zip(scales).for_each(|(y, (&gate, &weight))| *y *= weight * gated(gate));
        }
        params.linear(&y, &format!("{name}.o_proj"), self.hidden, Bias::Is(false))
    }

    /// Two maps of `x`, one behind the other, with `rank` dims between them, or one: `[batch · n, heads · d]` for rates,
    /// and `[batch · n, heads · e]` for the gate.
    fn maps<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        part: &str,
        x: &Array2<R>,
        rank: usize,
    ) -> Result<Array2<R>> {
        let width = self.heads * if part == "gate" { self.value_dim } else { self.key_dim };
        if rank == 0 {
            return params.linear(x, &format!("{name}.{part}_proj"), width, Bias::Is(false));
        }
        let middle = params.linear(x, &format!("{name}.{part}_a_proj"), rank, Bias::Is(false))?;
        params.linear(&middle, &format!("{name}.{part}_b_proj"), width, Bias::Is(false))
    }

    /// The rates of a layer that are the same at every position.
    fn slopes<R: Real>(&self, layer: usize, n: usize) -> Rates<R> {
        let depth = layer as f64 / (self.n_layers as f64 - 1.0 + 1e-5);
        let fade = |head: usize| {
            let slope = (-8.0 * (head as f64 + 1.0) / self.heads as f64).exp2();
            R::of((-slope * (1.0 - depth + 1e-5)).exp())
        };
        Rates { fade: Array2::from_shape_fn((n, self.heads), |(_, head)| fade(head)), beta: None }
    }

    /// `[batch · n, g·d]` twice and `[batch · n, h·e]` to `[batch · n, h·e]`.
    fn states<R: Real>(
        &self,
        q: &Array2<R>,
        k: &Array2<R>,
        v: &Array2<R>,
        rates: &Rates<R>,
        batch: &Batch,
    ) -> Array2<R> {
        let (d, e) = (self.key_dim, self.value_dim);
        let mut y = Array2::zeros(v.dim());
        for sequence in batch.sequences() {
            for head in 0..self.heads {
                let group = head / (self.heads / self.key_heads);
                let mut state: Array2<R> = Array2::zeros((d, e));
                for t in sequence.rows() {
                    let q = q.slice(s![t, group * d..(group + 1) * d]);
                    let k = k.slice(s![t, group * d..(group + 1) * d]);
                    match self.rank {
                        None => state *= rates.fade[[t, head]],
                        Some(_) => {
                            let fade = rates.fade.slice(s![t, head * d..(head + 1) * d]);
                            for (mut row, &fade) in state.rows_mut().into_iter().zip(fade) {
                                row *= fade;
                            }
                        }
                    }
                    let mut value = v.slice(s![t, head * e..(head + 1) * e]).to_owned();
                    if let Some(beta) = &rates.beta {
                        value = (value - k.dot(&state)) * beta[[t, head]];
                    }
                    for (mut row, &k) in state.rows_mut().into_iter().zip(k) {
                        row.scaled_add(k, &value);
                    }
                    let mut out = y.slice_mut(s![t, head * e..(head + 1) * e]);
                    Zip::from(&mut out).and(&q.dot(&state)).for_each(|out, &y| *out = y);
                }
            }
        }
        y
    }
}

/// Divides each run of `width` elements by its length.
fn scale_to_one<R: Real>(x: &mut Array2<R>, width: usize) {
    for mut row in x.rows_mut() {
        for mut run in row.exact_chunks_mut(width) {
            let square: R = run.iter().map(|&x| x * x).sum();
            run /= (square + R::of(1e-6)).sqrt();
        }
    }
}
