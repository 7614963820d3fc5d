//! State spaces.
//!
//! The kinds `mamba1` and `mamba2` (of `rglru`: Gated linear recurrences; of `wkv`: States that are weighted means) keep a state `h_t = exp(Δ_t A) h_(t−1) + Δ_t B_t x_t` and put out
//! `y_t = C_t·h_t + D x_t`, with `A = −exp(a_log)` and a time step `Δ_t` that is positive by a
//! softplus. With `c = ssm.inner`, `s = ssm.state` and `act`, which is `ssm.activation` or that of the stack:
//!
//! `mamba1`: `[x, z] = u Winᵀ`; `x = act(conv(x))`; `[δ, B, C] = x Wxᵀ`, of `dt_rank`, s and s
//! dims, each normed by `inner_norm`; `Δ = softplus(δ Wdtᵀ + b)`, `[n, c]`. The state is `[c, s]`, A
//! is `[c, s]`, D is `[c]`. The result is `(y ∘ silu(z)) Woutᵀ`. Where `scan_heads` h is not 1, each of h equal runs of the channels makes δ, B and C of
//! itself, by rows of Wx of its own, and its Δ of its own δ, by the rows of Wdt that are of its channels.
//!
//! `mamba2`: `[z, xBC, δ] = u Winᵀ`, of c, c + 2·groups·s and heads dims; `[x, B, C] =
//! act(conv(xBC))`; `Δ = softplus(δ + dt_bias)`, clamped to `dt_min..dt_max`, `[n, heads]`. The state
//! of a head is `[head_dim, s]`, A and D are numbers, B and C are those of the head's group. The
//! result is `norm(y ∘ silu(z)) Woutᵀ`, an RMS norm of each of `norm_groups` parts, or
//! `(y ∘ silu(z)) Woutᵀ` where there are none, or `(norm(y) ∘ silu(z)) Woutᵀ` where `norm_at` is `before_gate`. u is multiplied
//! by `in_scale`, the result by `out_scale`; `scales` are factors of z, x, B, C and δ as they come out of `Win`.

use ndarray::{Array1, Array2, ArrayView1, Zip, s};

use super::Batch;
use super::conv::causal;
use super::keys::{Keys, broken};
use super::mlp::{Activation, softplus};
use super::norm;
use super::real::Real;
use super::recurrent::Recurrent;
use super::weights::{Bias, Params};
use super::wkv::Wkv;
use crate::base::error::Result;

/// The state space of a stack.
pub(super) struct Ssm {
    hidden: usize,
    inner: usize,
    state: usize,
    kernel: usize,
    conv_bias: bool,
    proj_bias: Bias,
    in_scale: f64,
    out_scale: f64,
    /// Of the norms inside, where there are some.
    norm_eps: f64,
    activation: Activation,
    kind: Kind,
}

enum Kind {
    Recurrent(Recurrent),
    Wkv(Wkv),
    Mamba1 {
        heads: usize,
        dt_rank: usize,
        inner_norm: InnerNorm,
    },
    Mamba2 {
        heads: usize,
        head_dim: usize,
        groups: usize,
        dt: (f64, Option<f64>),
        norm_groups: usize,
        norm_first: bool,
        /// Of the gate, x, B, C and the time step.
        scales: Option<[f64; 5]>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum InnerNorm {
    None,
    Unweighted,
    Weighted,
}

impl Ssm {
    pub(super) fn read(keys: Keys<'_>) -> Result<Ssm> {
        let inner = keys.count("ssm.inner")?;
        let kind = match keys.word("ssm.kind")?.as_str() {
            "mamba1" => Kind::Mamba1 {
                heads: match keys.count("ssm.scan_heads")? {
                    heads if 0 < heads && inner.is_multiple_of(heads) => heads,
                    heads => {
                        return Err(broken(format!("{inner} channels are not {heads} heads")));
                    }
                },
                dt_rank: keys.count("ssm.dt_rank")?,
                inner_norm: match keys.word("ssm.inner_norm")?.as_str() {
                    "none" => InnerNorm::None,
                    "unweighted" => InnerNorm::Unweighted,
                    "weighted" => InnerNorm::Weighted,
                    other => return Err(broken(format!("`ssm.inner_norm` is {other:?}"))),
                },
            },
            "mamba2" => {
                let (heads, head_dim) = (keys.count("ssm.heads")?, keys.count("ssm.head_dim")?);
                let groups = keys.count("ssm.groups")?;
                let norm_groups = keys.count("ssm.norm_groups")?;
                let fits = 0 < groups
                    && heads.is_multiple_of(groups)
                    && heads * head_dim == inner
                    && inner.is_multiple_of(norm_groups.max(1));
                if !fits {
                    return Err(broken("the heads and groups of the state space do not fit it"));
                }
                let dt = (keys.float("ssm.dt_min")?, keys.opt_float("ssm.dt_max")?);
                let norm_first = match keys.word("ssm.norm_at")?.as_str() {
                    "after_gate" => false,
                    "before_gate" => true,
                    other => return Err(broken(format!("`ssm.norm_at` is {other:?}"))),
                };
                let scales = match keys.opt_floats("ssm.scales")? {
                    None => None,
                    Some(scales) => Some(
                        scales
                            .try_into()
                            .map_err(|_| broken("`ssm.scales` are not five factors"))?,
                    ),
                };
                Kind::Mamba2 { heads, head_dim, groups, dt, norm_groups, norm_first, scales }
            }
            "rglru" => Kind::Recurrent(Recurrent::read(keys)?),
            "wkv" => Kind::Wkv(Wkv::read(keys)?),
            other => return Err(broken(format!("a layer is a state space of kind {other:?}"))),
        };
        let has_norms = match kind {
            Kind::Recurrent(_) | Kind::Wkv(_) => false,
            Kind::Mamba1 { inner_norm, .. } => inner_norm != InnerNorm::None,
            Kind::Mamba2 { norm_groups, .. } => 0 < norm_groups,
        };
        Ok(Ssm {
            hidden: keys.count("hidden_size")?,
            inner,
            state: match kind {
                Kind::Recurrent(_) | Kind::Wkv(_) => 0,
                _ => keys.count("ssm.state")?,
            },
            kernel: match kind {
                Kind::Wkv(_) => 0,
                _ => keys.count("ssm.conv_kernel")?,
            },
            conv_bias: match kind {
                Kind::Wkv(_) => false,
                _ => keys.bool("ssm.conv_bias")?,
            },
            proj_bias: Bias::Is(keys.bool("ssm.proj_bias")?),
            in_scale: keys.float("ssm.in_scale")?,
            out_scale: keys.float("ssm.out_scale")?,
            norm_eps: if has_norms { keys.float("ssm.norm_eps")? } else { 0.0 },
            activation: Activation::parse(&match keys.opt_word("ssm.activation")? {
                Some(word) => word,
                None => keys.word("activation")?,
            })?,
            kind,
        })
    }

    /// The state space of `u`, `[batch · n, hidden]`.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        u: &Array2<R>,
        batch: &Batch,
    ) -> Result<Array2<R>> {
        let u = &(u * R::of(self.in_scale));
        let y = match self.kind {
            Kind::Recurrent(ref recurrent) => recurrent.apply(params, name, u, batch)?,
            Kind::Wkv(ref wkv) => wkv.apply(params, name, u, batch)?,
            Kind::Mamba1 { heads, dt_rank, inner_norm } => {
                self.mamba1(params, name, u, batch, (heads, dt_rank), inner_norm)?
            }
            Kind::Mamba2 { heads, head_dim, groups, dt, norm_groups, norm_first, scales } => {
                let sizes = (heads, head_dim, groups);
                let (mut y, gate) = self.mamba2(params, name, u, batch, sizes, dt, scales)?;
                if norm_first {
                    y = self.group_norm(params, name, y, norm_groups)?;
                }
                Zip::from(&mut y).and(&gate).for_each(|y, &z| *y *= Activation::Silu.of(z));
                match norm_first {
                    true => y,
                    false => self.group_norm(params, name, y, norm_groups)?,
                }
            }
        };
        let y = params.linear(&y, &format!("{name}.out_proj"), self.hidden, self.proj_bias)?;
        Ok(y * R::of(self.out_scale))
    }

    fn convolved<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        batch: &Batch,
    ) -> Result<Array2<R>> {
        let name = format!("{name}.conv");
        let mut x = causal(params, &name, x, batch, self.kernel, self.conv_bias)?;
        x.mapv_inplace(|x| self.activation.of(x));
        batch.hide_padding(&mut x);
        Ok(x)
    }

    fn mamba1<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        u: &Array2<R>,
        batch: &Batch,
        (heads, dt_rank): (usize, usize),
        inner_norm: InnerNorm,
    ) -> Result<Array2<R>> {
        let (inner, state) = (self.inner, self.state);
        let xz = params.linear(u, &format!("{name}.in_proj"), 2 * inner, self.proj_bias)?;
        let mut x = xz.slice(s![.., ..inner]).to_owned();
        batch.hide_padding(&mut x);
        let x = self.convolved(params, name, &x, batch)?;
        let (width, channels) = (dt_rank + 2 * state, inner / heads);
        let maps: Array2<R> =
            params.matrix(&format!("{name}.x_proj.weight"), [heads * width, channels])?;
        let dt_maps: Array2<R> =
            params.matrix(&format!("{name}.dt_proj.weight"), [inner, dt_rank])?;
        let dt_bias: Array1<R> = params.vector(&format!("{name}.dt_proj.bias"), inner)?;
        let (mut dt, mut b, mut c) = (Array2::zeros(x.dim()), Vec::new(), Vec::new());
        for head in 0..heads {
            let own = head * channels..(head + 1) * channels;
            let map = maps.slice(s![head * width..(head + 1) * width, ..]);
            let parts = x.slice(s![.., own.clone()]).dot(&map.t());
            let part = |start: usize, len: usize, norm_name: &str| -> Result<Array2<R>> {
                let mut part = parts.slice(s![.., start..start + len]).to_owned();
                if inner_norm != InnerNorm::None {
                    norm::rms(&mut part, len, self.norm_eps);
                }
                if inner_norm == InnerNorm::Weighted {
                    part *= &params.vector(&format!("{name}.{norm_name}.weight"), len)?;
                }
                Ok(part)
            };
            let steps = part(0, dt_rank, "dt_norm")?.dot(&dt_maps.slice(s![own.clone(), ..]).t());
            dt.slice_mut(s![.., own]).assign(&steps);
            b.push(part(dt_rank, state, "b_norm")?);
            c.push(part(dt_rank + state, state, "c_norm")?);
        }
        dt += &dt_bias;
        dt.mapv_inplace(softplus);
        let a: Array2<R> = params.matrix(&format!("{name}.a_log"), [inner, state])?;
        let a = a.mapv(|log| -log.exp());
        let d: Array1<R> = params.vector(&format!("{name}.d"), inner)?;
        let mut y = Array2::zeros((u.nrows(), inner));
        for sequence in batch.sequences() {
            let mut h: Array2<R> = Array2::zeros((inner, state));
            for t in sequence.rows() {
                for channel in 0..inner {
                    let (dt, x) = (dt[[t, channel]], x[[t, channel]]);
                    let head = channel / channels;
                    let mut h = h.row_mut(channel);
                    Zip::from(&mut h)
                        .and(a.row(channel))
                        .and(b[head].row(t))
                        .for_each(|h, &a, &b| *h = (dt * a).exp() * *h + dt * b * x);
                    y[[t, channel]] = dot(h.view(), c[head].row(t)) + d[channel] * x;
                }
            }
        }
        let gate = xz.slice(s![.., inner..]);
        Zip::from(&mut y).and(gate).for_each(|y, &z| *y *= Activation::Silu.of(z));
        Ok(y)
    }

    /// The output of the states, and the gate.
    #[allow(clippy::too_many_arguments)]
    fn mamba2<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        u: &Array2<R>,
        batch: &Batch,
        (heads, head_dim, groups): (usize, usize, usize),
        (dt_min, dt_max): (f64, Option<f64>),
        scales: Option<[f64; 5]>,
    ) -> Result<(Array2<R>, Array2<R>)> {
        let (inner, state) = (self.inner, self.state);
        let conv_width = inner + 2 * groups * state;
        let width = inner + conv_width + heads;
        let mut parts = params.linear(u, &format!("{name}.in_proj"), width, self.proj_bias)?;
        if let Some(scales) = scales {
            let mut start = 0;
            let widths = [inner, inner, groups * state, groups * state, heads];
            for (width, scale) in widths.into_iter().zip(scales) {
                let mut part = parts.slice_mut(s![.., start..start + width]);
                part *= R::of(scale);
                start += width;
            }
        }
        let conv = parts.slice(s![.., inner..inner + conv_width]).to_owned();
        let conv = self.convolved(params, name, &conv, batch)?;
        let dt_bias: Array1<R> = params.vector(&format!("{name}.dt_bias"), heads)?;
        let mut dt = &parts.slice(s![.., inner + conv_width..]) + &dt_bias;
        dt.mapv_inplace(|dt| {
            let dt = softplus(dt).max(R::of(dt_min));
            dt_max.map_or(dt, |max| dt.min(R::of(max)))
        });
        let a: Array2<R> = params.matrix(&format!("{name}.a_log"), [heads, 1])?;
        let d: Array1<R> = params.vector(&format!("{name}.d"), heads)?;
        let mut y = Array2::zeros((u.nrows(), inner));
        for sequence in batch.sequences() {
            let mut h: Array2<R> = Array2::zeros((inner, state));
            for t in sequence.rows() {
                for channel in 0..inner {
                    let head = channel / head_dim;
                    let group = head / (heads / groups);
                    let (b, c) = (inner + group * state, inner + (groups + group) * state);
                    let b = conv.slice(s![t, b..b + state]);
                    let c = conv.slice(s![t, c..c + state]);
                    let (dt, x) = (dt[[t, head]], conv[[t, channel]]);
                    let decay = (-dt * a[[head, 0]].exp()).exp();
                    let mut h = h.row_mut(channel);
                    Zip::from(&mut h).and(b).for_each(|h, &b| *h = decay * *h + dt * b * x);
                    y[[t, channel]] = dot(h.view(), c) + d[head] * x;
                }
            }
        }
        Ok((y, parts.slice(s![.., ..inner]).to_owned()))
    }

    fn group_norm<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        mut y: Array2<R>,
        norm_groups: usize,
    ) -> Result<Array2<R>> {
        if let Some(width) = self.inner.checked_div(norm_groups) {
            norm::rms(&mut y, width, self.norm_eps);
            y *= &params.vector(&format!("{name}.norm.weight"), self.inner)?;
        }
        Ok(y)
    }
}

fn dot<R: Real>(a: ArrayView1<'_, R>, b: ArrayView1<'_, R>) -> R {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}
