//! Attention: multi-head, grouped, multi-query, latent; to itself or to an encoder's output.
//!
//! With `h = num_heads`, `g = num_kv_heads`, `d = head_dim`, `e = v_head_dim` and n positions of
//! one sequence:
//!
//! 1. `q = x Wqᵀ + bq`, `[n, h·d]`; `k`, `[n, g·d]`; `v`, `[n, g·e]`. Head i of q reads head
//!    `⌊i·g/h⌋` of k and v. Where they are not null, `head_dims` has d and e of each layer, `q_heads` h and `kv_heads` g. In
//!    the layers `v_from_k_layers` v is k as its map puts it out; with `v_norm` each head of v is normed without weights.
//!    Layer i has k and v of layer `kv_from[i]`, as they are after step 2 there, where that is another.
//! 2. Queries and keys are normed (`qk_norm`) and turned (rotary positions), in the order that
//!    `qk_norm_at` says; before that, and after a norm that comes first, `qkv_clip` clamps q, k, v.
//!    `qk_norm_layers` are the only layers that norm them; without `qk_norm_affine` these norms have no weights; `qk_norm_eps`, where it is not null, is their epsilon.
//!    Last, q of position p takes the factor `1 + b·ln(1 + ⌊(p + o)/l⌋)` where `b = attn_position_scale` is not
//!    null, with `l = attn_position_scale_length` and `o = attn_position_scale_offset`, in the layers that
//!    `attn_position_scale_layers` lists; and where `attn_log_length` is not null `max(1, ln(p + 1)/ln(attn_log_length))`.
//! 3. `s = attn_scale · (q·k + relative)`, then `c·tanh(s/c)` by `attn_logit_softcap`, then plus
//!    the bias of ALiBi or of relative buckets.
//! 4. `p = softmax(s)` over the keys that the query sees: those the mask shows, not after it where
//!    the stack is causal, and in sliding layers inside the window, or in the same chunk of `attn_chunk`
//!    positions. With sinks, the head's sink is one more score whose probability goes nowhere, in the layers of
//!    `attn_sinks_layers` where it is not null.
//! 5. `o = Σ p·v`, `[n, h·e]`; the result is `o Woᵀ + bo`, `[n, hidden]`.
//!    With `inner_norm` o is normed over all heads before `Wo`.
//! 6. With `attn_out_gate`, o is multiplied by `σ(x Wgᵀ + bg)`, `[n, h·e]`, before `Wo`; where `attn_out_gate_of` is `head`,
//!    each head's part of o by its entry of that, `[n, h]`. Without `attn_out_gate_bias` there is no bg. Where `attn_out_gate_activation` is `softplus`, that stands for σ.
//!    Where `attn_out_gate_from` is `queries`, it is made of what latent attention makes queries of in place of x.
//! 7. In stacks with global tokens (`global_tokens`, or a mask of them that is given) every position
//!    also sees those, wherever its window ends. They themselves see all that is shown, with queries,
//!    keys and values of maps of their own.
//! 8. With `attn_angle_power` τ > 0 step 3 and 4 are otherwise: a key counts
//!    `(1 − angle(q, k)/π)^τ`, and what a head mixes is divided by its length.
//! 9. With `attn_value_conv` > 0, `Σ_i w_hi·v_(p + i − ⌊width/2⌋)` is added to what head h puts out at
//!    position p, with nothing outside the sequence.
//! 10. With `attn_span_conv` > 0 what heads of convolutions put out stands behind what the heads of
//!     the attention put out, before `Wo` (Convolutions with kernels of their own).
//! 11. With `attn_q_rank` > 0 queries are `norm(x Waᵀ) Wbᵀ`, of `q_a_proj`, `q_a_norm` and `q_b_proj`. With `attn_v_is_k` values are
//!     the keys as they are after step 2, and o is turned back, by the position of its query, before step 5; layers `compressed` and
//!     `compressed_sparse` have windows as sliding ones and keys that stand for several positions (Keys that stand for several positions).
//!     With `attn_out_rank` > 0 the result is `o W1ᵀ W2ᵀ`, of `o_a_proj`, which may be in groups, and `o_b_proj`.
//!
//! To an encoder's output a query head has a key head of its own, or with `cross_grouped` one for
//! `h / g` of them, as in a stack's attention to itself. With `cross_merged` there is no other attention to it: it has keys and
//! values by the layer's own maps and norms, not turned, which every query sees beside those of positions in one softmax.
//!
//! x is multiplied by `attn_in_scale` before, keys by `attn_key_scale`, values by `attn_value_scale`, the result by `attn_out_scale`. Latent
//! attention makes q, k and v otherwise (Latent attention), attentions may be experts (Attentions that are experts), an indexer chooses which keys are seen (Indexers), queries and keys may be mixed by convolutions (Queries and keys that convolutions mix),
//! keys may have scores of their own (Scores of keys), and `attn_differential` takes the difference of two attentions (Differential attention).

mod other;

use ndarray::{Array1, Array2, Array3, Axis, concatenate, s};

use super::compress::{Compress, narrow_queries};
use super::differential::Differential;
use super::gate::Gate;
use super::global::Global;
use super::indexer::Indexer;
use super::key_bias::KeyBias;
use super::keys::{Keys, broken, of_layer};
use super::latent::Latent;
use super::maps::Maps;
use super::memory::Memory;
use super::mix::{Mixing, mix, stacked};
use super::norm::Norm;
use super::place::{Heads, Place, Scales, Window};
use super::position::{Alibi, Disentangled, PositionScale, RelativeBias};
use super::qk_conv::QkConv;
use super::qk_norm::QkNorm;
use super::real::Real;
use super::relative::RelativeSinusoid;
use super::rope::Rope;
use super::share::Shares;
use super::span_conv::SpanConv;
use super::weights::{Bias, Params};
use super::{Batch, conv};
use crate::base::error::Result;

/// The attention of a stack.
pub(super) struct Attention<'a, R> {
    params: Params<'a>,
    heads: Heads,
    /// What sets the heads of layers apart, and what layers share.
    shares: Shares<R>,
    scale: f64,
    scale_by_layer: bool,
    position_scale: Option<PositionScale>,
    cross_grouped: bool,
    /// The norm of queries and keys in attention to another stack's output, where there is one.
    cross_norm: Option<QkNorm>,
    /// The power of the weight by angle, where that is what weighs.
    angle_power: Option<usize>,
    /// Positions that the convolution of the values sees; 0 where there is none.
    value_conv: usize,
    /// The norm and the width of narrow queries, where they are made of such.
    narrow_queries: Option<(Norm, usize)>,
    /// Whether values are turned keys, and what heads put out is turned back.
    v_is_k: bool,
    /// The maps into the heads and out of them.
    maps: Maps<'a>,
    /// Keys that stand for several positions, where there are some.
    compress: Option<Compress>,
    /// The heads that are convolutions, where there are some.
    span_conv: Option<SpanConv>,
    softcap: Option<f64>,
    causal: bool,
    window: Window,
    /// By how much the first chunk of each layer is shorter.
    chunk_shifts: Option<Vec<usize>>,
    qkv_bias: Bias,
    k_bias: Bias,
    o_bias: bool,
    /// The layers whose output map has a bias, where not all have.
    o_bias_layers: Option<Vec<usize>>,
    clip: Option<f64>,
    sinks: bool,
    /// The only layers with sinks; all if there is no list.
    sinks_layers: Option<Vec<usize>>,
    /// The gate on what the heads put out, where there is one.
    gate: Option<Gate>,
    /// The norm before the output map, where there is one.
    inner_norm: Option<Norm>,
    scales: Scales,
    indexer: Option<Indexer>,
    differential: Option<Differential>,
    qk_norm: Option<QkNorm>,
    rope: Option<Rope>,
    latent: Option<Latent>,
    relative: Option<RelativeBias>,
    disentangled: Option<Disentangled<R>>,
    sinusoid: Option<RelativeSinusoid>,
    /// Whether a position sees itself also where the mask hides it.
    spares_self: bool,
    /// The name of the stack.
    stack: String,
    /// The slopes of ALiBi.
    alibi: Option<Alibi>,
    key_bias: Option<KeyBias>,
    qk_conv: Option<QkConv>,
    /// Whether each key head has a factor.
    key_factor: bool,
}

impl<'a, R: Real> Attention<'a, R> {
    /// The attention of a stack.
    pub(super) fn read(
        params: Params<'a>,
        keys: Keys<'_>,
        stack: &str,
    ) -> Result<Attention<'a, R>> {
        let maps = Maps::read(params, keys)?;
        let heads = Heads {
            q: keys.count("num_heads")? * maps.experts_at_once(),
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
        if keys.bool("attn_v_is_k")? && heads.v_dim != heads.dim {
            return Err(broken("values that are keys are as wide as these"));
        }
        let qkv_bias = keys.bool("attn_qkv_bias")?;
        Ok(Attention {
            params,
            heads,
            shares: Shares::read(keys)?,
            scale: keys.float("attn_scale")?,
            scale_by_layer: keys.bool("attn_scale_by_layer")?,
            position_scale: PositionScale::read(keys)?,
            cross_grouped: keys.bool("cross_grouped")?,
            cross_norm: QkNorm::across(keys)?,
            angle_power: match keys.count("attn_angle_power")? {
                0 => None,
                power => Some(power),
            },
            value_conv: keys.count("attn_value_conv")?,
            narrow_queries: match keys.count("attn_q_rank")? {
                0 => None,
                rank => Some((Norm::read(keys)?.without_bias(), rank)),
            },
            v_is_k: keys.bool("attn_v_is_k")?,
            maps,
            compress: Compress::read(keys)?,
            span_conv: SpanConv::read(keys, heads)?,
            softcap: keys.opt_float("attn_logit_softcap")?,
            causal: keys.bool("causal")?,
            window: Window {
                left: keys.opt_count("window_left")?,
                right: keys.opt_count("window_right")?,
                chunk: keys.opt_count("attn_chunk")?.filter(|chunk| 0 < *chunk),
                shift: 0,
            },
            chunk_shifts: keys.opt_counts("attn_chunk_shifts")?,
            qkv_bias: Bias::Is(qkv_bias),
            k_bias: Bias::Is(qkv_bias && keys.bool("attn_k_bias")?),
            o_bias: keys.bool("attn_o_bias")?,
            o_bias_layers: keys.counts_where("attn_o_bias", "attn_o_bias_layers")?,
            clip: keys.opt_float("qkv_clip")?,
            sinks: keys.bool("attn_sinks")?,
            sinks_layers: keys.counts_where("attn_sinks", "attn_sinks_layers")?,
            gate: Gate::read(keys, Bias::Is(qkv_bias))?,
            inner_norm: Norm::inner(keys)?,
            scales: Scales::read(keys)?,
            indexer: Indexer::read(keys)?,
            differential: Differential::read(keys, heads)?,
            qk_norm: QkNorm::read(keys)?,
            rope: Rope::read(keys)?,
            latent: Latent::read(keys, heads)?,
            relative: RelativeBias::read(keys)?,
            disentangled: Disentangled::read(params, keys, stack)?,
            sinusoid: RelativeSinusoid::read(keys)?,
            spares_self: RelativeSinusoid::spares_self(keys)?,
            stack: stack.to_owned(),
            alibi: Alibi::read(keys)?,
            key_bias: KeyBias::read(keys, Bias::Is(qkv_bias))?,
            qk_conv: QkConv::read(keys)?,
            key_factor: keys.bool("attn_key_factor")?,
        })
    }

    /// The attention of `x`, `[batch · n, hidden]`, to itself, and to another stack's output where that is merged
    /// with it; values may be made of something else.
    pub(super) fn to_itself(
        &self,
        place: Place<'_>,
        (x, values): (&Array2<R>, Option<&Array2<R>>),
        batch: &Batch,
        merged: Option<&Memory<'_, R>>,
    ) -> Result<Array2<R>> {
        let mut x = x * R::of(self.scales.input);
        if self.qk_conv.is_some() {
            batch.hide_padding(&mut x);
        }
        let x = &x;
        let own = self.shares.heads(self.heads, place.layer)?;
        let of_another = self.shares.of_another(place.layer, own)?;
        let narrow = self.narrow_queries;
        let narrow = narrow.map(|narrow| narrow_queries(self.params, place.name, x, narrow));
        let narrow = narrow.transpose()?;
        let routes = self.maps.routes(place.name, x)?;
        let (mut q, mut k, mut v) = match &self.latent {
            Some(latent) => latent.apply(self.params, place.name, x, self.qkv_bias)?,
            None => {
                let from = (x, values.unwrap_or(x));
                let of_keys = self.shares.makes_values_of_keys(place.layer) || self.v_is_k;
                let has_own = of_another.is_none();
                let made_of = (narrow.as_ref(), routes.as_ref());
                self.maps.project(place, from, made_of, own, (has_own, of_keys))?
            }
        };
        if let Some(conv) = &self.qk_conv {
            conv.apply(self.params, place.name, [&mut q, &mut k, &mut v], batch, own)?;
        }
        k *= R::of(self.scales.keys);
        v *= R::of(self.scales.values);
        let norm_both = |norm: &QkNorm, q: &mut Array2<R>, k: &mut Array2<R>| {
            let name = |part: &str| format!("{}.{part}", place.name);
            norm.apply_to_queries(self.params, &name("q_norm"), q, (own.q, own.dim))?;
            match &of_another {
                None => norm.apply(self.params, &name("k_norm"), k, (own.kv, own.dim)),
                Some(_) => Ok(()),
            }
        };
        let qk_norm = self.qk_norm.as_ref().filter(|norm| norm.is_in(place.layer));
        let norm_first = qk_norm.filter(|norm| !norm.after_rope);
        let norm_last = qk_norm.filter(|norm| norm.after_rope);
        if let Some(norm) = norm_first {
            norm_both(norm, &mut q, &mut k)?;
        }
        if self.key_factor {
            let name = format!("{}.key_factor", place.name);
            let factors: Array1<R> = self.params.vector(&name, own.kv)?;
            for (column, mut k) in k.columns_mut().into_iter().enumerate() {
                k *= factors[column / own.dim];
            }
        }
        self.shares.norm_values(self.params, &mut v, own.v_dim)?;
        if let Some(clip) = self.clip {
            let clip = R::of(clip);
            for x in [&mut q, &mut k, &mut v] {
                x.mapv_inplace(|x| x.max(-clip).min(clip));
            }
        }
        if let Some(rope) = &self.rope {
            rope.turn(place, [&mut q, &mut k, &mut v], batch, own.dim);
        }
        if let Some(norm) = norm_last {
            norm_both(norm, &mut q, &mut k)?;
        }
        if self.v_is_k {
            v = k.clone();
        }
        match of_another {
            Some(kept) => (k, v) = kept,
            None => self.shares.keep(place.layer, &k, &v),
        }
        if let Some(scale) = self.position_scale.as_ref().filter(|scale| scale.is_in(place.layer)) {
            scale.apply(&mut q, batch);
        }

        let has_sinks =
            self.sinks_layers.as_ref().is_none_or(|layers| layers.contains(&place.layer));
        let sinks = match self.sinks && has_sinks {
            true => Some(self.params.vector(&format!("{}.sinks", place.name), own.q)?),
            false => None,
        };
        let maps = match &self.disentangled {
            Some(disentangled) => {
                let width = self.heads.q * self.heads.dim;
                let biases = (self.qkv_bias, self.k_bias);
                Some((disentangled, disentangled.maps(self.params, place.name, width, biases)?))
            }
            None => None,
        };
        let sinusoid = self.sinusoid.as_ref();
        let sinusoid = sinusoid.map(|own| own.of_layer(self.params, place.name, batch, batch));
        let sinusoid = sinusoid.transpose()?;
        let scale =
            if self.scale_by_layer { self.scale / (place.layer as f64 + 1.0) } else { self.scale };
        let compress = self.compress.as_ref().filter(|_| place.kind.starts_with("compressed"));
        let windowed = place.sliding || compress.is_some();
        let shift = of_layer(&self.chunk_shifts, "attn_chunk_shifts", place.layer, 0)?;
        let own_window = Window { shift, ..self.window };
        let window = if windowed { own_window } else { Window::default() };
        let front = batch.front;
        let sees = |sequence: usize, q: usize, k: usize| {
            (batch.visible[sequence][k] || (self.spares_self && q == k))
                && (!self.causal || batch.behind(q, k).is_some())
                && (batch.is_global(sequence, k)
                    || q.min(k) < front
                    || window.shows(q - front, k - front))
        };
        if let Some(indexer) = &self.indexer {
            let with = (self.latent.as_ref(), self.rope.as_ref());
            let sees = (self.causal, &sees as &dyn Fn(usize, usize, usize) -> bool);
            indexer.choose(self.params, place, x, batch, with, self.qkv_bias, sees)?;
        }
        let (heads, v) = match &self.differential {
            Some(differential) => differential.values(own, &v),
            None => (own, v),
        };

        let merged = merged.map(|memory| self.merge(place, memory, own)).transpose()?;
        // One that is made of the stream is of each sequence.
        let bias = match &self.relative {
            Some(relative) if relative.of_stream => None,
            _ => self.bias(place.name, None, batch)?,
        };
        let mut mixed = Vec::new();
        for sequence in batch.sequences() {
            let part = |x: &Array2<R>| x.slice(s![sequence.rows(), ..]).to_owned();
            let (q, mut k, mut v) = (part(&q), part(&k), part(&v));
            let entries = match (compress, &self.rope) {
                (Some(compress), Some(rope)) => {
                    let narrow = narrow.as_ref().map(part);
                    let positions = &batch.positions[sequence.index];
                    let (params, x) = (self.params, part(x));
                    let entries =
                        compress.entries(params, place, &x, narrow.as_ref(), positions, rope)?;
                    k = concatenate![Axis(0), k, entries.keys];
                    v = concatenate![Axis(0), v, entries.keys];
                    Some(entries.seen)
                }
                _ => merged.as_ref().map(|own| own.join(sequence, batch.len, (&mut k, &mut v))),
            };
            let relative = match (&maps, &sinusoid) {
                (Some((table, maps)), _) => Some(table.scores(maps, &q, &k, self.heads.dim)),
                (_, Some(own)) => Some(own.scores(&q, &k, (batch, sequence), (batch, sequence))),
                _ => None,
            };
            let mut chosen =
                self.indexer.as_ref().and_then(|indexer| indexer.chosen(sequence.index));
            let sees_here = |q, k| sees(sequence.index, q, k);
            let added = self.key_bias.as_ref();
            let added = added.map(|own| own.of(self.params, place.name, &v, heads, &sees_here));
            let (added, seen) = added.transpose()?.map(|own| (own.scores, own.seen)).unzip();
            chosen = seen.flatten().or(chosen);
            let own_bias = match &self.relative {
                Some(relative) if relative.of_stream => {
                    self.bias(place.name, Some(part(x)), batch)?
                }
                _ => None,
            };
            mixed.push(mix(
                &q,
                &k,
                &v,
                &Mixing {
                    heads,
                    scale,
                    softcap: self.softcap,
                    relative: relative.as_ref(),
                    bias: added.as_ref().or(own_bias.as_ref()).or(bias.as_ref()),
                    sinks: sinks.as_ref(),
                    angle_power: self.angle_power,
                    chosen: chosen.as_deref(),
                    sees: &|q, k| {
                        if let (Some(seen), Some(entry)) = (&entries, k.checked_sub(batch.len)) {
                            return seen[[q, entry]];
                        }
                        sees_here(q, k)
                    },
                },
            ));
        }
        let mut mixed = stacked(mixed, heads.q * heads.v_dim);
        if let (true, Some(rope)) = (self.v_is_k, &self.rope) {
            rope.turn_back(place, &mut mixed, batch, own.dim);
        }
        if let Some(differential) = &self.differential {
            mixed = differential.difference(self.params, place, &mixed)?;
        }
        if 0 < self.value_conv {
            let name = format!("{}.value_conv", place.name);
            let (heads, width) = (self.heads.kv, self.value_conv);
            mixed += &conv::of_heads(self.params, &name, &v, batch, (heads, width))?;
        }
        if batch.has_global() {
            let attention = Global {
                heads: self.heads,
                biases: [self.qkv_bias, self.k_bias, self.qkv_bias],
                scale: self.scale,
                softcap: self.softcap,
            };
            attention.mix(self.params, place.name, x, batch, &mut mixed)?;
        }
        if let Some(gate) = &self.gate {
            gate.apply(self.params, place.name, x, own, self.latent.as_ref(), &mut mixed)?;
        }
        if let Some(norm) = &self.inner_norm {
            mixed = norm.apply(self.params, &format!("{}.inner_norm", place.name), &mixed)?;
        }
        if let Some(span_conv) = &self.span_conv {
            let beside = span_conv.apply(self.params, place.name, x, &q, batch)?;
            mixed = concatenate![Axis(1), mixed, beside];
        }
        let layers = self.o_bias_layers.as_ref();
        let bias = self.o_bias && layers.is_none_or(|layers| layers.contains(&place.layer));
        let routes = routes.as_ref().map(|routes| (routes, own));
        Ok(self.maps.out(place.name, &mixed, bias, routes)? * R::of(self.scales.output))
    }

    /// What is added to scores, `[heads, n, n]`: by ALiBi, or by a relative bias, which all layers
    /// share or each has.
    fn bias(
        &self,
        name: &str,
        rows: Option<Array2<R>>,
        batch: &Batch,
    ) -> Result<Option<Array3<R>>> {
        let n = self.heads.q;
        if let Some(alibi) = &self.alibi {
            return Ok(Some(alibi.scores(n, batch.len)));
        }
        let Some(relative) = &self.relative else { return Ok(None) };
        let owner = if relative.shared { &self.stack } else { name };
        relative.scores(self.params, &format!("{owner}.rel_bias"), n, rows, batch).map(Some)
    }
}
