//! Gates on norms (`norm_gate`).
//!
//! What the norm before a sublayer gives, y, becomes `y ∘ σ(silu(y W1ᵀ) W2ᵀ)`, with `norm_gate_rank` dims between the two maps: W1 of
//! `norm_gate.in_proj`, W2 of `norm_gate.out_proj`. Before attention it does in all layers, before the MLP in those of
//! `norm_gate_mlp_layers`, or in all where that is null.

use ndarray::Array2;

use super::keys::Keys;
use super::mlp::{Activation, sigmoid};
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// The gates of a stack.
pub(super) struct NormGate {
    rank: usize,
    mlp_layers: Option<Vec<usize>>,
}

impl NormGate {
    /// `None` where norms have none.
    pub(super) fn read(keys: Keys<'_>) -> Result<Option<NormGate>> {
        if !keys.bool("norm_gate")? {
            return Ok(None);
        }
        let rank = keys.count("norm_gate_rank")?;
        Ok(Some(NormGate { rank, mlp_layers: keys.opt_counts("norm_gate_mlp_layers")? }))
    }

    /// What the norm before the sublayer `name` gave, through its gate.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        layer: usize,
        y: Array2<R>,
    ) -> Result<Array2<R>> {
        let has = |layers: &Vec<usize>| layers.contains(&layer);
        if name.ends_with(".mlp") && !self.mlp_layers.as_ref().is_none_or(has) {
            return Ok(y);
        }
        let map = |x: &Array2<R>, part: &str, width| {
            params.linear(x, &format!("{name}.norm_gate.{part}"), width, Bias::Is(false))
        };
        let middle = map(&y, "in_proj", self.rank)?.mapv(|x| Activation::Silu.of(x));
        let gate = map(&middle, "out_proj", y.ncols())?;
        Ok(y * gate.mapv(sigmoid))
    }
}
