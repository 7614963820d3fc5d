//! Routers of several maps (`moe.router_dim` = r > 0).
//!
//! The router reads `s = x Wdᵀ + b`, `[n, r]`, of `router.down`, in layers but the first of `moe.layers` plus `router.carry ∘ s'`, with s' the s of the layer of experts before.
//! Its logits are `act(act(norm(s) W1ᵀ + b) W2ᵀ + b) Wrᵀ`, with `gelu_erf`, the norm `router.norm`, W1 and W2 of `router.fc1` and `router.fc2`.

use std::cell::RefCell;

use ndarray::{Array1, Array2};

use super::keys::Keys;
use super::mlp::Activation;
use super::norm::Norm;
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// A router of several maps.
pub(super) struct Router {
    dim: usize,
    norm: Norm,
    /// What the router of the layer before read.
    last: RefCell<Option<Array2<f64>>>,
}

impl Router {
    /// `None` where one map makes the logits.
    pub(super) fn read(keys: Keys<'_>) -> Result<Option<Router>> {
        match keys.count("moe.router_dim")? {
            0 => Ok(None),
            dim => {
                let norm = Norm::read(keys)?.without_bias();
                Ok(Some(Router { dim, norm, last: RefCell::default() }))
            }
        }
    }

    /// What the last map of the router `name` reads.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
    ) -> Result<Array2<R>> {
        let map = |x: &Array2<R>, part: &str| {
            params.linear(x, &format!("{name}.{part}"), self.dim, Bias::Is(true))
        };
        let mut state = map(x, "down")?;
        if let Some(last) = self.last.borrow().as_ref().filter(|last| last.dim() == state.dim()) {
            let carry: Array1<R> = params.vector(&format!("{name}.carry"), self.dim)?;
            state += &(last.mapv(R::of) * &carry);
        }
        *self.last.borrow_mut() = Some(state.mapv(|x| x.to_f64()));
        let act = |x: Array2<R>| x.mapv(|x| Activation::GeluErf.of(x));
        let normed = self.norm.apply(params, &format!("{name}.norm"), &state)?;
        Ok(act(map(&act(map(&normed, "fc1")?), "fc2")?))
    }
}
