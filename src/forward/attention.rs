//! Attention: multi-head, grouped, multi-query, latent; to itself or to an encoder's output.
//!
//! With `h = num_heads`, `g = num_kv_heads`, `d = head_dim`, `e = v_head_dim` and n positions of
//! one sequence:
//!
//! 1. `q = x Wqᵀ + bq`, `[n, h·d]`; `k`, `[n, g·d]`; `v`, `[n, g·e]`. Head i of q reads head
//!    `⌊i·g/h⌋` of k and v.
//! 2. Queries and keys are normed (`qk_norm`) and turned (rotary positions), in the order that
//!    `qk_norm_at` says; before that, and after a norm that comes first, `qkv_clip` clamps q, k, v.
//!    Last, q of position p takes the factor `1 + b·ln(1 + ⌊p/l⌋)` where `b = attn_position_scale` is not
//!    null, with `l = attn_position_scale_length`.
//! 3. `s = attn_scale · (q·k + relative)`, then `c·tanh(s/c)` by `attn_logit_softcap`, then plus
//!    the bias of ALiBi or of relative buckets.
//! 4. `p = softmax(s)` over the keys that the query sees: those the mask shows, not after it where
//!    the stack is causal, and inside the window in sliding layers. With sinks, the head's sink is
//!    one more score whose probability goes nowhere.
//! 5. `o = Σ p·v`, `[n, h·e]`; the result is `o Woᵀ + bo`, `[n, hidden]`.
//!    With `inner_norm` o is normed over all heads before `Wo`.
//! 6. With `attn_out_gate`, o is multiplied by `σ(x Wgᵀ + bg)`, `[n, h·e]`, before `Wo`.
//!
//! Latent attention makes q, k and v otherwise: see `latent`.

use ndarray::{Array1, Array2, Array3, Axis, concatenate, s};

use super::Batch;
use super::keys::{Keys, broken};
use super::latent::Latent;
use super::mlp::sigmoid;
use super::norm::Norm;
use super::position::{Alibi, Disentangled, PositionScale, RelativeBias};
use super::real::Real;
use super::rope::{Rope, Turns};
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// The attention of a stack.
pub(super) struct Attention<'a, R> {
    params: Params<'a>,
    heads: Heads,
    hidden: usize,
    scale: f64,
    scale_by_layer: bool,
    position_scale: Option<PositionScale>,
    softcap: Option<f64>,
    causal: bool,
    window: Window,
    qkv_bias: Bias,
    k_bias: Bias,
    o_bias: bool,
    /// The layers whose output map has a bias, where not all have.
    o_bias_layers: Option<Vec<usize>>,
    clip: Option<f64>,
    sinks: bool,
    out_gate: bool,
    /// The norm before the output map, where there is one.
    inner_norm: Option<Norm>,
    qk_norm: Option<QkNorm>,
    rope: Option<Rope>,
    latent: Option<Latent>,
    relative: Option<RelativeBias>,
    disentangled: Option<Disentangled<R>>,
    /// The name of the stack.
    stack: String,
    /// The slopes of ALiBi.
    alibi: Option<Alibi>,
}

#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) q: usize,
    pub(super) kv: usize,
    pub(super) dim: usize,
    pub(super) v_dim: usize,
}

#[derive(Clone, Copy, Default)]
struct Window {
    left: Option<usize>,
    right: Option<usize>,
}

struct QkNorm {
    norm: Norm,
    per: Per,
    after_rope: bool,
}

enum Per {
    /// One weight for all heads.
    Head,
    /// A weight for each head.
    HeadDistinct,
    /// Over all heads at once.
    All,
}

/// What a layer's attention is about.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The layer as it is run, which windows, sinks and skips count by.
    pub(super) layer: usize,
    /// Whether it sees only its window.
    pub(super) sliding: bool,
    /// What its tensors' names begin with: `decoder.layers.3.attn`.
    pub(super) name: &'a str,
}

impl<'a, R: Real> Attention<'a, R> {
    /// The attention of a stack.
    pub(super) fn read(
        params: Params<'a>,
        keys: Keys<'_>,
        stack: &str,
    ) -> Result<Attention<'a, R>> {
        let heads = Heads {
            q: keys.count("num_heads")?,
            kv: keys.count("num_kv_heads")?,
            dim: keys.count("head_dim")?,
            v_dim: keys.count("v_head_dim")?,
        };
        if heads.q == 0 || heads.kv == 0 || heads.dim == 0 || heads.v_dim == 0 {
            return Err(broken("attention without heads, or heads without dims"));
        }
        if !heads.q.is_multiple_of(heads.kv) {
            let message = format!("{} query heads do not share {} key heads", heads.q, heads.kv);
            return Err(broken(message));
        }
        let qkv_bias = keys.bool("attn_qkv_bias")?;
        Ok(Attention {
            params,
            heads,
            hidden: keys.count("hidden_size")?,
            scale: keys.float("attn_scale")?,
            scale_by_layer: keys.bool("attn_scale_by_layer")?,
            position_scale: PositionScale::read(keys)?,
            softcap: keys.opt_float("attn_logit_softcap")?,
            causal: keys.bool("causal")?,
            window: Window {
                left: keys.opt_count("window_left")?,
                right: keys.opt_count("window_right")?,
            },
            qkv_bias: Bias::Is(qkv_bias),
            k_bias: Bias::Is(qkv_bias && keys.bool("attn_k_bias")?),
            o_bias: keys.bool("attn_o_bias")?,
            o_bias_layers: match keys.bool("attn_o_bias")? {
                true => keys.opt_counts("attn_o_bias_layers")?,
                false => None,
            },
            clip: keys.opt_float("qkv_clip")?,
            sinks: keys.bool("attn_sinks")?,
            out_gate: keys.bool("attn_out_gate")?,
            inner_norm: Norm::inner(keys)?,
            qk_norm: QkNorm::read(keys)?,
            rope: Rope::read(keys)?,
            latent: Latent::read(keys, heads)?,
            relative: RelativeBias::read(keys)?,
            disentangled: Disentangled::read(params, keys, stack)?,
            stack: stack.to_owned(),
            alibi: Alibi::read(keys)?,
        })
    }

    /// The attention of `x`, `[batch · n, hidden]`, to itself.
    pub(super) fn to_itself(
        &self,
        place: Place<'_>,
        x: &Array2<R>,
        batch: &Batch,
    ) -> Result<Array2<R>> {
        let (mut q, mut k, mut v) = match &self.latent {
            Some(latent) => latent.apply(self.params, place.name, x, self.qkv_bias)?,
            None => self.project(place.name, x, x)?,
        };
        let norm_first = self.qk_norm.as_ref().filter(|norm| !norm.after_rope);
        let norm_last = self.qk_norm.as_ref().filter(|norm| norm.after_rope);
        if let Some(norm) = norm_first {
            norm.apply(self.params, place.name, &mut q, &mut k, self.heads)?;
        }
        if let Some(clip) = self.clip {
            let clip = R::of(clip);
            for x in [&mut q, &mut k, &mut v] {
                x.mapv_inplace(|x| x.max(-clip).min(clip));
            }
        }
        if let Some(rope) = &self.rope {
            for sequence in batch.sequences() {
                let positions = &batch.positions[sequence.index];
                let turns: Option<Turns<R>> = rope.turns(place.layer, place.sliding, positions);
                let Some(turns) = turns else { break };
                for x in [&mut q, &mut k] {
                    let mut part = x.slice(s![sequence.rows(), ..]).to_owned();
                    rope.apply(&mut part, &turns, self.heads.dim);
                    x.slice_mut(s![sequence.rows(), ..]).assign(&part);
                }
            }
        }
        if let Some(norm) = norm_last {
            norm.apply(self.params, place.name, &mut q, &mut k, self.heads)?;
        }
        if let Some(scale) = &self.position_scale {
            for sequence in batch.sequences() {
                let mut rows = q.slice_mut(s![sequence.rows(), ..]);
                for (mut row, &p) in
                    rows.rows_mut().into_iter().zip(&batch.positions[sequence.index])
                {
                    let factor = R::of(scale.at(p as f64));
                    row.mapv_inplace(|x| x * factor);
                }
            }
        }

        let sinks = match self.sinks {
            true => Some(self.params.vector(&format!("{}.sinks", place.name), self.heads.q)?),
            false => None,
        };
        let bias = self.bias(place.name, batch.len)?;
        let maps = match &self.disentangled {
            Some(disentangled) => {
                let width = self.heads.q * self.heads.dim;
                let biases = (self.qkv_bias, self.k_bias);
                Some((disentangled, disentangled.maps(self.params, place.name, width, biases)?))
            }
            None => None,
        };
        let scale =
            if self.scale_by_layer { self.scale / (place.layer as f64 + 1.0) } else { self.scale };
        let window = if place.sliding { self.window } else { Window::default() };

        let mut mixed = Vec::new();
        for sequence in batch.sequences() {
            let part = |x: &Array2<R>| x.slice(s![sequence.rows(), ..]).to_owned();
            let (q, k, v) = (part(&q), part(&k), part(&v));
            let relative =
                maps.as_ref().map(|(table, maps)| table.scores(maps, &q, &k, self.heads.dim));
            mixed.push(mix(
                &q,
                &k,
                &v,
                &Mixing {
                    heads: self.heads,
                    scale,
                    softcap: self.softcap,
                    relative: relative.as_ref(),
                    bias: bias.as_ref(),
                    sinks: sinks.as_ref(),
                    sees: &|q, k| {
                        batch.visible[sequence.index][k]
                            && !(self.causal && q < k)
                            && window.left.is_none_or(|left| q.saturating_sub(k) <= left)
                            && window.right.is_none_or(|right| k.saturating_sub(q) <= right)
                    },
                },
            ));
        }
        let width = self.heads.q * self.heads.v_dim;
        let mut mixed = stacked(mixed, width);
        if self.out_gate {
            let name = format!("{}.gate_proj", place.name);
            let gate = self.params.linear(x, &name, width, self.qkv_bias)?;
            mixed.zip_mut_with(&gate, |mixed, &gate| *mixed *= sigmoid(gate));
        }
        if let Some(norm) = &self.inner_norm {
            mixed = norm.apply(self.params, &format!("{}.inner_norm", place.name), &mixed)?;
        }
        let layers = self.o_bias_layers.as_ref();
        let bias = self.o_bias && layers.is_none_or(|layers| layers.contains(&place.layer));
        self.project_out(place.name, &mixed, bias)
    }

    /// The attention of `x`, `[batch · n, hidden]`, to another stack's output,
    /// `[batch · m, hidden]`. Every query has its own key head, and positions play no part.
    pub(super) fn to_other(
        &self,
        name: &str,
        x: &Array2<R>,
        batch: &Batch,
        memory: &Array2<R>,
        memory_batch: &Batch,
    ) -> Result<Array2<R>> {
        let heads = Heads { kv: self.heads.q, ..self.heads };
        let (q, k, v) = self.project_heads(name, x, memory, heads)?;
        let mut mixed = Vec::new();
        for (sequence, other) in batch.sequences().zip(memory_batch.sequences()) {
            mixed.push(mix(
                &q.slice(s![sequence.rows(), ..]).to_owned(),
                &k.slice(s![other.rows(), ..]).to_owned(),
                &v.slice(s![other.rows(), ..]).to_owned(),
                &Mixing {
                    heads,
                    scale: self.scale,
                    softcap: self.softcap,
                    relative: None,
                    bias: None,
                    sinks: None,
                    sees: &|_, k| memory_batch.visible[other.index][k],
                },
            ));
        }
        self.project_out(name, &stacked(mixed, heads.q * heads.v_dim), self.o_bias)
    }

    /// What is added to scores, `[heads, n, n]`: by ALiBi, or by a relative bias, which all layers
    /// share or each has.
    fn bias(&self, name: &str, n: usize) -> Result<Option<Array3<R>>> {
        if let Some(alibi) = &self.alibi {
            return Ok(Some(alibi.scores(self.heads.q, n)));
        }
        let Some(relative) = &self.relative else { return Ok(None) };
        let owner = if relative.shared { &self.stack } else { name };
        let name = format!("{owner}.rel_bias.weight");
        relative.scores(self.params, &name, self.heads.q, n).map(Some)
    }

    fn project(
        &self,
        name: &str,
        x: &Array2<R>,
        from: &Array2<R>,
    ) -> Result<(Array2<R>, Array2<R>, Array2<R>)> {
        self.project_heads(name, x, from, self.heads)
    }

    fn project_heads(
        &self,
        name: &str,
        x: &Array2<R>,
        from: &Array2<R>,
        heads: Heads,
    ) -> Result<(Array2<R>, Array2<R>, Array2<R>)> {
        let map = |x, part: &str, width, bias| {
            self.params.linear(x, &format!("{name}.{part}"), width, bias)
        };
        Ok((
            map(x, "q_proj", heads.q * heads.dim, self.qkv_bias)?,
            map(from, "k_proj", heads.kv * heads.dim, self.k_bias)?,
            map(from, "v_proj", heads.kv * heads.v_dim, self.qkv_bias)?,
        ))
    }

    fn project_out(&self, name: &str, x: &Array2<R>, bias: bool) -> Result<Array2<R>> {
        self.params.linear(x, &format!("{name}.o_proj"), self.hidden, Bias::Is(bias))
    }
}

/// The outputs of sequences, one under the other.
fn stacked<R: Real>(parts: Vec<Array2<R>>, width: usize) -> Array2<R> {
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    // Fails only where there is nothing to put together.
    concatenate(Axis(0), &views).unwrap_or_else(|_| Array2::zeros((0, width)))
}

impl QkNorm {
    fn read(keys: Keys<'_>) -> Result<Option<QkNorm>> {
        let per = match keys.word("qk_norm")?.as_str() {
            "none" => return Ok(None),
            "per_head" => Per::Head,
            "per_head_distinct" => Per::HeadDistinct,
            "full" => Per::All,
            other => return Err(broken(format!("`qk_norm` is {other:?}"))),
        };
        Ok(Some(QkNorm {
            norm: Norm::read(keys)?.with_stored_bias(),
            per,
            after_rope: keys.word("qk_norm_at")? == "after_rope",
        }))
    }

    fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        q: &mut Array2<R>,
        k: &mut Array2<R>,
        heads: Heads,
    ) -> Result<()> {
        for (x, part, n_heads) in [(q, "q_norm", heads.q), (k, "k_norm", heads.kv)] {
            let (width, n_weights) = match self.per {
                Per::Head => (heads.dim, 1),
                Per::HeadDistinct => (heads.dim, n_heads),
                Per::All => (n_heads * heads.dim, 1),
            };
            let name = format!("{name}.{part}");
            *x = self.norm.apply_per_group(params, &name, x, width, n_weights)?;
        }
        Ok(())
    }
}

/// How queries, keys and values of one sequence are mixed.
struct Mixing<'m, R> {
    heads: Heads,
    scale: f64,
    softcap: Option<f64>,
    /// Added to q·k before it is scaled, `[heads, n, m]`.
    relative: Option<&'m Array3<R>>,
    /// Added to scores, `[heads, n, m]`.
    bias: Option<&'m Array3<R>>,
    /// A score of each head that adds nothing.
    sinks: Option<&'m Array1<R>>,
    /// Whether a query sees a key.
    sees: &'m dyn Fn(usize, usize) -> bool,
}

/// `[n, h·d]`, `[m, g·d]`, `[m, g·e]` to `[n, h·e]`. A query that sees nothing gives zeros.
fn mix<R: Real>(q: &Array2<R>, k: &Array2<R>, v: &Array2<R>, mixing: &Mixing<'_, R>) -> Array2<R> {
    let Heads { q: n_heads, kv, dim, v_dim } = mixing.heads;
    let shared = n_heads / kv;
    let mut output = Array2::zeros((q.nrows(), n_heads * v_dim));
    for head in 0..n_heads {
        let group = head / shared;
        let q = q.slice(s![.., head * dim..(head + 1) * dim]);
        let k = k.slice(s![.., group * dim..(group + 1) * dim]);
        let v = v.slice(s![.., group * v_dim..(group + 1) * v_dim]);
        let mut scores = q.dot(&k.t());
        if let Some(relative) = mixing.relative {
            scores += &relative.index_axis(Axis(0), head);
        }
        scores *= R::of(mixing.scale);
        if let Some(cap) = mixing.softcap {
            let cap = R::of(cap);
            scores.mapv_inplace(|x| cap * (x / cap).tanh());
        }
        if let Some(bias) = mixing.bias {
            scores += &bias.index_axis(Axis(0), head);
        }
        for ((q, k), score) in scores.indexed_iter_mut() {
            if !(mixing.sees)(q, k) {
                *score = R::neg_infinity();
            }
        }
        let sink = mixing.sinks.map(|sinks| sinks[head]);
        for mut row in scores.rows_mut() {
            softmax(row.iter_mut(), sink);
        }
        output.slice_mut(s![.., head * v_dim..(head + 1) * v_dim]).assign(&scores.dot(&v));
    }
    output
}

/// The softmax, in place, of scores and of one more that is left out of the result.
pub(super) fn softmax<'x, R: Real>(
    scores: impl ExactSizeIterator<Item = &'x mut R>,
    other: Option<R>,
) {
    let mut scores: Vec<&mut R> = scores.collect();
    let greatest = scores.iter().map(|score| **score).chain(other).fold(R::neg_infinity(), R::max);
    if greatest == R::neg_infinity() {
        scores.iter_mut().for_each(|score| **score = R::zero());
        return;
    }
    let mut sum = other.map_or(R::zero(), |other| (other - greatest).exp());
    for score in &mut scores {
        **score = (**score - greatest).exp();
        sum += **score;
    }
    for score in scores {
        *score /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_takes_its_part_and_gives_nothing() {
        let mut scores = [0.0f64, 3f64.ln()];
        softmax(scores.iter_mut(), None);
        assert!((scores[1] - 0.75).abs() < 1e-15);
        let mut scores = [0.0f64, 3f64.ln()];
        softmax(scores.iter_mut(), Some(4f64.ln()));
        assert!((scores[0] - 0.125).abs() < 1e-15 && (scores[1] - 0.375).abs() < 1e-15);
    }

    #[test]
    fn a_query_that_sees_nothing_gives_zeros() {
        let mut scores = [f32::NEG_INFINITY; 2];
        softmax(scores.iter_mut(), None);
        assert_eq!(scores, [0.0; 2]);
    }
}
