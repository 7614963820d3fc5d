//! Blocks of attention and MLP beside state spaces (`side.layers`), which layers may share.
//!
//! In layers `side.layers` the norm of the state space reads `x + u Wᵀ` in place of the stream x, W of `side.out_proj`:
//! `u = mlp(norm(attn(norm([x, e]))))`, where e is the input of the first layer, so that the attention reads `2·hidden_size` dims, and nothing
//! is added to what the attention or the MLP puts out. Else they are those of the stack. Their tensors are `side.attn` and `side.mlp` of the layer
//! that `side.from` has for this one.
//!
//! With `side.rank` r > 0 a layer adds `y Aᵀ Bᵀ` of its own to what the gate and the up map of its block make of y: A of `side.mlp.adapter.in_proj`, B of
//! `side.mlp.adapter.gate_proj` and `side.mlp.adapter.up_proj`. With `side.attn_adapters` it does so to queries, keys and values too, with the two maps
//! `in_proj` and `out_proj` of `side.attn.q_adapter`, `side.attn.k_adapter` and `side.attn.v_adapter`.

use ndarray::{Array2, Axis, concatenate};

use super::Batch;
use super::attention::Attention;
use super::keys::{Keys, broken};
use super::mlp::Mlp;
use super::norm::Norm;
use super::place::{Adapters, Place};
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// The blocks beside the state spaces of a stack.
pub(super) struct Side<'a> {
    params: Params<'a>,
    stack: String,
    norm: Norm,
    mlp: Mlp,
    hidden: usize,
    width: usize,
    bias: Bias,
    /// The layers with a block, each with the layer that has its tensors.
    layers: Vec<(usize, usize)>,
    rank: usize,
    attn_adapters: bool,
}

impl<'a> Side<'a> {
    pub(super) fn read(
        params: Params<'a>,
        keys: Keys<'_>,
        stack: &str,
    ) -> Result<Option<Side<'a>>> {
        let Some(layers) = keys.opt_counts("side.layers")? else { return Ok(None) };
        let from = keys.counts("side.from")?;
        if layers.len() != from.len() {
            return Err(broken("`side.from` is not as long as `side.layers`"));
        }
        let rank = keys.count("side.rank")?;
        Ok(Some(Side {
            params,
            stack: stack.to_owned(),
            norm: Norm::read(keys)?,
            mlp: Mlp::read(keys)?,
            hidden: keys.count("hidden_size")?,
            width: keys.count("intermediate_size")?,
            bias: Bias::Is(keys.bool("mlp_bias")?),
            layers: layers.into_iter().zip(from).collect(),
            rank,
            attn_adapters: 0 < rank && keys.bool("side.attn_adapters")?,
        }))
    }

    /// What is added to the stream that the state space of a layer reads; `None` where the layer has no block.
    pub(super) fn beside<R: Real>(
        &self,
        layer: usize,
        (x, first): (&Array2<R>, &Array2<R>),
        attention: &Attention<'_, R>,
        batch: &Batch,
    ) -> Result<Option<Array2<R>>> {
        let Some(&(_, from)) = self.layers.iter().find(|(own, _)| *own == layer) else {
            return Ok(None);
        };
        let (params, norm) = (self.params, &self.norm);
        let own = format!("{}.layers.{layer}.side", self.stack);
        let block = format!("{}.layers.{from}.side", self.stack);
        let (attn, mlp) = (format!("{block}.attn"), format!("{block}.mlp"));

        let both = concatenate(Axis(1), &[x.view(), first.view()]);
        let both = both.map_err(|err| broken(err.to_string()))?;
        let read = norm.apply(params, &format!("{attn}.pre_norm"), &both)?;
        let adapters = format!("{own}.attn");
        let adapters = Adapters { name: &adapters, rank: self.rank };
        let adapters = self.attn_adapters.then_some(adapters);
        let place = Place { layer, sliding: false, kind: "full", name: &attn, adapters };
        let mixed = attention.to_itself(place, (&read, None), batch, None)?;

        let read = norm.apply(params, &format!("{mlp}.pre_norm"), &mixed)?;
        let adapter = format!("{own}.mlp.adapter");
        let narrow = match self.rank {
            0 => None,
            rank => {
                Some(params.linear(&read, &format!("{adapter}.in_proj"), rank, Bias::Is(false))?)
            }
        };
        let map = |x: &Array2<R>, part: &str, width| -> Result<Array2<R>> {
            let mut y = params.linear(x, &format!("{mlp}.{part}"), width, self.bias)?;
            if let (Some(narrow), "gate_proj" | "up_proj") = (&narrow, part) {
                let name = format!("{adapter}.{part}");
                y += &params.linear(narrow, &name, width, Bias::Is(false))?;
            }
            Ok(y)
        };
        let fed = self.mlp.with(params, &mlp, &read, self.width, &map)?;
        params.linear(&fed, &format!("{own}.out_proj"), self.hidden, Bias::Is(false)).map(Some)
    }
}
