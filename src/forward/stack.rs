//! A stack of layers.
//!
//! A layer mixes positions (attention, a state space, a short convolution, linear attention, or a
//! Fourier transform; in its place layers `map` have `x Wᵀ`, W of `map.proj`),
//! attends to the encoder where it does, and ends with an MLP or a mixture of experts. A sublayer f changes the
//! stream by `norm_placement`, with `a = residual_scale` and `k = skip_scale`:
//!
//! - `pre`: `k·x + a·f(pre(x))`
//! - `post`: `res(k·x + a·f(x))`
//! - `sandwich`: `k·x + a·post(f(pre(x)))`
//! - `output`: `k·x + a·post(f(x))`
//! - `through`: `k·pre(x) + a·f(pre(x))`
//!
//! With `skip_weights` the stream is also multiplied, dim by dim, by the sublayer's tensor `skip_weights` there. With `residual_affine` the two terms,
//! x and y, become `(x + skip_shift) ∘ skip_weights` and `(y + out_shift) ∘ out_weights`, by the sublayer's tensors. With `embed_affine` the first layer reads `(x + shift) ∘ scale` in place of the
//! embeddings, by the tensors `embed.shift` and `embed.scale`.
//!
//! Adapters (Adapters) change the sum behind the MLP, in `post` before `res`. Layers of linear attention have the placement `linear.norm_placement`, where that is not null. Only the layers in
//! `mixer_layers` mix positions and only those in `mlp_layers` end with an MLP, where these are not null. With
//! `ssm.beside_attention` a state space reads what attention reads, and what it puts out is added to that of attention; with `side.layers` blocks
//! stand beside state spaces (Blocks beside state spaces). Layers may run in cycles (Layers in cycles).
//! With `layer_scale` what leaves a layer is last multiplied by its number, `output.scale`; what stands beside the stream comes
//! before (Embeddings of layers, Streams).
//! Where the residual is parallel, `k·x + a·(attn(pre(x)) + mlp(pre'(x)))`, and pre' is pre if there is
//! one norm. Where there is a convolution of the embeddings, it changes the first layer's output.
//! After the last layer comes the final norm, but in `post`, whose last layer ends in one, and where `final_norm` is false;
//! then `out_proj`, where embeddings are narrower than the stream. With `attn_sparse.block_size` b > 0
//! and r random blocks a stack computes up to (5 + 2·r)·b positions, whose attention is full; what it is
//! beyond is drawn at random, and no part of this.

use ndarray::{Array1, Array2};

use super::adapter::Adapters;
use super::altup::{AltUp, Laurel};
use super::attention::Attention;
use super::bottleneck::{Before, Bottleneck};
use super::conv::{EmbedConv, ShortConv};
use super::cycle::Cycles;
use super::feed::Feed;
use super::front::Front;
use super::hyper::Hyper;
use super::keys::{Keys, broken};
use super::layer_embed::LayerEmbed;
use super::linear::Linear;
use super::memory::{Crossing, Memory};
use super::norm::Norm;
use super::norm_gate::NormGate;
use super::place::{Fed, Place};
use super::pool::Pooling;
use super::real::Real;
use super::side::Side;
use super::ssm::Ssm;
use super::sublayer::{Placement, Stack};
use super::weights::{Bias, Params};
use super::{Batch, fourier, place};
use crate::base::error::Result;

/// What a stack puts out.
pub(super) struct Left<R> {
    /// `[batch · n, hidden]`.
    pub(super) rows: Array2<R>,
    /// The batch of these, where they are fewer than went in.
    pub(super) fewer: Option<Batch>,
    /// What the LM head reads in their place.
    pub(super) predicted: Option<Array2<R>>,
    /// What `pooler` reads in place of the first row, `[batch, hidden]`.
    pub(super) summary: Option<Array2<R>>,
}

/// The output of a stack for the input of its first layer, both `[batch · n, hidden]`, and the ids that this is of.
pub(super) fn run<R: Real>(
    params: Params<'_>,
    keys: Keys<'_>,
    name: &str,
    (mut x, ids): (Array2<R>, &[usize]),
    batch: &Batch,
    memory: Option<&Memory<'_, R>>,
) -> Result<Left<R>> {
    let norm_gate = NormGate::read(keys)?;
    let stack = Stack {
        params,
        norm: Norm::read(keys)?,
        placement: Placement::parse(&keys.word("norm_placement")?)?,
        residual_scale: keys.float("residual_scale")?,
        skip_scale: keys.float("skip_scale")?,
        skip_weights: keys.bool("skip_weights")?,
        affine: keys.bool("residual_affine")?,
        norm_gate: norm_gate.as_ref(),
        embed_norm: keys.bool("embed_norm")?,
        front: Front::read(keys, batch)?,
    };
    place::check_sparse(keys, name, batch.len)?;
    if keys.bool("embed_affine")? {
        let width = x.ncols();
        let vector = |part: &str| -> Result<Array1<R>> {
            params.vector(&format!("{name}.embed.{part}"), width)
        };
        x = (x + &vector("shift")?) * &vector("scale")?;
    }
    let n_layers = keys.count("num_layers")?;
    let layer_map = keys.opt_counts("layer_map")?;
    let types = keys.words("layer_types")?;
    if types.len() != n_layers || layer_map.as_ref().is_some_and(|map| map.len() != n_layers) {
        return Err(broken(format!("`layer_types` or `layer_map` is not of {n_layers} layers")));
    }
    let attention = match keys.bool("has_attention")? {
        true => Some(Attention::read(params, keys, name)?),
        false => None,
    };
    let beside = keys.word("ssm.kind")? != "none" && keys.bool("ssm.beside_attention")?;
    let ssm = match beside || types.iter().any(|kind| kind == "ssm") {
        true => Some(Ssm::read(keys)?),
        false => None,
    };
    let conv = match types.iter().any(|kind| kind == "conv") {
        true => Some(ShortConv::read(keys)?),
        false => None,
    };
    let linear = match types.iter().any(|kind| kind == "linear") {
        true => Some(Linear::read(keys)?),
        false => None,
    };
    let linear_placement = match &linear {
        Some(_) => keys.opt_word("linear.norm_placement")?,
        None => None,
    };
    let linear_placement = linear_placement.map(|word| Placement::parse(&word)).transpose()?;
    let mixers = keys.opt_counts("mixer_layers")?;
    let has = |layers: &Option<Vec<usize>>, layer| {
        layers.as_ref().is_none_or(|layers| layers.contains(&layer))
    };
    let feed = Feed::read(keys)?;
    let adapters = Adapters::read(keys, stack.placement == Placement::Post)?;
    let parallel = match keys.word("residual")?.as_str() {
        "sequential" => None,
        "parallel" if adapters.is_some() => {
            return Err(broken("adapters stand behind an MLP, and it stands beside the attention"));
        }
        "parallel" => Some(keys.count("num_pre_norms")?),
        other => return Err(broken(format!("`residual` is {other:?}"))),
    };
    let (memory, merged) = Memory::split(keys, memory)?;
    let crossing = Crossing::read(keys, &types)?;

    // What goes from place to place meets zeros where padding is.
    let shown = |x: &Array2<R>| {
        let mut x = x.clone();
        batch.hide_padding(&mut x);
        x
    };
    let embed_conv = EmbedConv::read(keys)?;
    let embeddings = embed_conv.is_some().then(|| x.clone());

    let layer_embed = LayerEmbed::read(params, keys, name, ids, &x)?;
    let layer_scale = keys.bool("layer_scale")?;
    let laurel = match attention.is_some() {
        true => Laurel::read(params, keys)?,
        false => None,
    };
    let altup = AltUp::read(params, keys)?;
    if parallel.is_some()
        && (stack.skip_weights
            || layer_embed.is_some()
            || layer_scale
            || altup.is_some()
            || laurel.is_some())
    {
        return Err(broken("parallel sublayers have nothing beside them"));
    }
    let hyper = Hyper::read(params, keys, name)?;
    let (bottleneck, before) = (Bottleneck::read(keys)?, Before::read(keys)?);
    let fewer = keys.opt_counts("pool.layers")?.is_some();
    if stack.front.is_some() || bottleneck.is_some() || before.is_some() || fewer {
        let alone = altup.is_none() && hyper.is_none() && laurel.is_none() && layer_embed.is_none();
        let plain =
            parallel.is_none() && mixers.is_none() && adapters.is_none() && memory.is_none();
        let attends = types.iter().all(|kind| matches!(kind.as_str(), "full" | "sliding"));
        let rows = (stack.front.is_none() || !fewer && embed_conv.is_none())
            && (!fewer || embed_conv.is_none() && bottleneck.is_none());
        let placed = stack.placement == Placement::Post || bottleneck.is_none() && before.is_none();
        if !alone
            || !plain
            || !attends
            || !rows
            || !placed
            || layer_scale
            || beside
            || !feed.is_there()
        {
            return Err(broken(
                "rows in front, fewer positions, a narrow inside and MLPs in front of others stand in plain layers, the last two with norms behind",
            ));
        }
    }
    let joined = stack.front.map(|front| front.join(params, name, &x, batch)).transpose()?;
    let batch = match joined {
        Some((rows, ref longer)) => {
            x = rows;
            longer
        }
        None => batch,
    };
    if hyper.is_some() {
        let plain = stack.placement == Placement::Pre && feed.is_there() && memory.is_none();
        let beside = parallel.is_some() || mixers.is_some() || layer_embed.is_some();
        let beside = beside || stack.skip_weights;
        if !plain || beside || layer_scale || altup.is_some() || laurel.is_some() {
            return Err(broken("streams are mixed around attention and MLP, and nothing else"));
        }
    }
    let mut streams = match (&altup, &hyper) {
        (Some(altup), _) => altup.spread(name, x.clone())?,
        (None, Some(hyper)) => hyper.spread(&x),
        (None, None) => Vec::new(),
    };

    let mut pooling = Pooling::read(params, keys, name, batch)?;
    let side = Side::read(params, keys, name)?;
    let entered_stack = if side.is_some() { x.clone() } else { Array2::zeros((0, 0)) };
    let cycles = Cycles::read(params, keys, name)?;
    let mut passes = cycles.as_ref().map(|cycles| cycles.start(&x)).transpose()?;

    let (norm_eps, eps_step) = (keys.float("norm_eps")?, keys.count("norm_eps_step")?);

    // What experts of the layer before add to this one.
    let mut late = None;
    for (layer, kind) in types.iter().enumerate() {
        if let (Some(cycles), Some(passes)) = (&cycles, &mut passes) {
            x = cycles.between(layer, passes, x)?;
        }
        if kind == "cross" && memory.is_none() {
            continue;
        }
        let due = late.take();
        x = pooling.enter(layer, x)?;
        let batch = pooling.batch();
        let placement = linear_placement.filter(|_| kind == "linear").unwrap_or(stack.placement);
        let norm = match layer.checked_div(eps_step) {
            Some(times) => stack.norm.with_eps(norm_eps * 4f64.powi(times.min(99) as i32)),
            None => stack.norm,
        };
        let stack = Stack { placement, norm, ..stack };
        let stored = layer_map.as_ref().map_or(layer, |map| map[layer]);
        let part = |part: &str| format!("{name}.layers.{stored}.{part}");
        let (attn, mlp) = (part("attn"), part("mlp"));
        let fed = Fed { layer, len: batch.len, ids };
        let mut entered = feed.reads_layer(layer).then(|| x.clone());
        let attend_with = |x: &Array2<R>, values: Option<&Array2<R>>| {
            let attention = attention
                .as_ref()
                .ok_or_else(|| broken(format!("layer {layer} is {kind:?}, and nothing attends")))?;
            let sliding = kind == "sliding";
            let place = Place { layer, sliding, kind, name: &attn, adapters: None };
            match pooling.keys() {
                Some(of) => attention.to_longer(place, (x, batch), of),
                None => attention.to_itself(place, (x, values), batch, merged),
            }
        };
        let attend = |x: &Array2<R>| attend_with(x, None);
        if let Some(bottleneck) = &bottleneck {
            let name = part("bottleneck");
            let narrow = bottleneck.enter(params, &name, &x)?;
            let mut y = stack.sublayer(narrow.stream, &attn, layer, |y| match &narrow.attn {
                Some(narrow) => attend_with(narrow, Some(&x)),
                None => attend(y),
            })?;
            if let Some(before) = &before {
                y = before.apply(params, &mlp, y)?;
            }
            y = stack
                .sublayer(y, &mlp, layer, |y| feed.apply(params, &mlp, y, None, fed, &mut late))?;
            x = bottleneck.leave(params, &name, x, &y)?;
            continue;
        }
        if let Some(n_norms) = parallel {
            x = stack.parallel(
                &x,
                (&attn, attend),
                (&mlp, |x| feed.apply(params, &mlp, x, None, fed, &mut late)),
                n_norms,
            )?;
            if let Some(due) = due {
                x += &due;
            }
            continue;
        }
        if let Some(hyper) = &hyper {
            let norm = |x: &Array2<R>, name: &str| {
                stack.norm.apply(params, &format!("{name}.pre_norm"), x)
            };
            streams = hyper.around(&attn, &streams, |x| attend(&norm(x, &attn)?))?;
            streams = hyper.around(&mlp, &streams, |x| {
                feed.apply(params, &mlp, &norm(x, &mlp)?, None, fed, &mut late)
            })?;
            continue;
        }
        if let Some(altup) = &altup {
            streams = altup.predict(&part("altup"), &streams)?;
            x = altup.active(&streams);
        }
        x = match (kind.as_str(), &ssm, &conv, &linear) {
            _ if !has(&mixers, layer) || kind == "cross" => x,
            ("full" | "sliding", Some(ssm), ..) if beside => {
                let name = part("ssm");
                stack.sublayer(x, &attn, layer, |x| {
                    Ok(attend(x)? + &ssm.apply(params, &name, &shown(x), batch)?)
                })?
            }
            ("full" | "sliding" | "compressed" | "compressed_sparse", ..) => {
                let mut beside = None;
                let x = stack.sublayer(x, &attn, layer, |x| {
                    let laurel = laurel.as_ref().map(|laurel| laurel.apply(&part("laurel"), x));
                    beside = laurel.transpose()?;
                    attend(x)
                })?;
                match beside {
                    Some(beside) => (x + &beside) * R::of(0.5f64.sqrt()),
                    None => x,
                }
            }
            ("ssm", Some(ssm), ..) => {
                let name = part("ssm");
                let beside = match (&side, &attention) {
                    (Some(side), Some(own)) => {
                        side.beside(layer, (&x, &entered_stack), own, batch)?
                    }
                    _ => None,
                };
                stack.sublayer_of(x, beside, &name, layer, |x| {
                    ssm.apply(params, &name, &shown(x), batch)
                })?
            }
            ("conv", _, Some(conv), _) => {
                let name = part("conv");
                stack.sublayer(x, &name, layer, |x| conv.apply(params, &name, &shown(x), batch))?
            }
            ("linear", .., Some(linear)) => {
                let name = part("linear");
                stack.sublayer(x, &name, layer, |x| {
                    linear.apply(params, &name, layer, &shown(x), batch)
                })?
            }
            ("map", ..) => {
                let (name, width) = (part("map"), x.ncols());
                stack.sublayer(x, &name, layer, |x| {
                    params.linear(x, &format!("{name}.proj"), width, Bias::Is(false))
                })?
            }
            ("fourier", ..) => {
                let name = part("fourier");
                stack.sublayer(x, &name, layer, |x| Ok(fourier::mix(x, batch)))?
            }
            (other, ..) => return Err(broken(format!("layer {layer} is {other:?}"))),
        };
        let (across, gate) = (part("cross_attn"), |x, gate| {
            crossing.gate(params, &part(&format!("cross_attn.{gate}")), kind, x)
        });
        if let (Some(memory), Some(attention), true) = (memory, &attention, crossing.attends(kind))
        {
            x = stack.sublayer(x, &across, layer, |x| {
                gate(attention.to_other(&across, x, batch, memory.output, memory.batch)?, "gate")
            })?;
        }
        if let Some(before) = &before {
            x = before.apply(params, &mlp, x)?;
        }
        if feed.is_there() && feed.is_in(layer) {
            let stream =
                feed.reads_stream(layer).then(|| entered.take().unwrap_or_else(|| x.clone()));
            let feed = |x: &Array2<R>| {
                gate(feed.apply(params, &mlp, x, stream.as_ref(), fed, &mut late)?, "mlp_gate")
            };
            x = stack.sublayer_and(x, &mlp, layer, feed, |sum| match &adapters {
                Some(adapters) => adapters.apply(params, &mlp, sum, batch),
                None => Ok(sum),
            })?;
        }
        let embeds = layer_embed.as_ref().map(|embeds| (embeds, part("layer_embed")));
        match (&altup, embeds) {
            (Some(altup), embeds) => {
                let name = part("altup");
                streams = altup.correct(&name, std::mem::take(&mut streams), &x)?;
                if let Some((embeds, own)) = embeds {
                    let term = embeds.term(&own, layer, &altup.weighing(&name, &streams)?)?;
                    streams.iter_mut().skip(1).for_each(|stream| *stream += &term);
                }
            }
            (None, Some((embeds, own))) => x += &embeds.term(&own, layer, &x)?,
            (None, None) => {}
        }
        if layer_scale {
            let scale: R = params.vector(&part("output.scale"), 1)?[0];
            x *= scale;
        }
        if let Some(due) = due {
            x += &due;
        }
        if let (0, Some(conv), Some(embeddings)) = (layer, &embed_conv, &embeddings) {
            x = conv.apply(params, &format!("{name}.embed_conv"), embeddings, x, batch)?;
        }
    }
    x = pooling.enter(n_layers, x)?;
    if let Some(altup) = &altup {
        x = altup.gather(name, &streams)?;
    }
    if let Some(hyper) = &hyper {
        x = hyper.gather(name, &streams)?;
    }
    if let Some(front) = &stack.front {
        x = front.leave(&x);
    }
    if late.is_some() {
        return Err(broken("the last layer's experts have no next layer to add to"));
    }
    if stack.placement != Placement::Post && keys.bool("final_norm")? {
        x = Norm::last(keys)?.apply(params, &format!("{name}.final_norm"), &x)?;
    }
    let out_proj = format!("{name}.embed.out_proj");
    if params.has(&format!("{out_proj}.weight"))? {
        x = params.linear(&x, &out_proj, keys.count("embed_dim")?, Bias::Stored)?;
    }
    let (fewer, summary) = pooling.leave();
    Ok(Left { rows: x, fewer, predicted: None, summary })
}
