//! Layers in cycles (`cycle.low` = L > 0).
//!
//! The layers are run in passes of `cycle.layers` each, `layer_map` saying which are stored. There are two states, h and l, of which h is the
//! input of the first layer and l is `cycle_start` at every position. The input of a pass is `h + l`. What leaves its last layer goes through the final norm and is l,
//! in L passes, and then h in one, and so on; the last h is the output.

use ndarray::{Array1, Array2};

use super::keys::{Keys, broken};
use super::norm::Norm;
use super::real::Real;
use super::weights::Params;
use crate::base::error::Result;

/// The passes of a stack.
pub(super) struct Cycles<'a> {
    params: Params<'a>,
    stack: String,
    norm: Norm,
    low: usize,
    layers: usize,
}

/// The states between passes.
pub(super) struct States<R> {
    high: Array2<R>,
    low: Array2<R>,
}

impl<'a> Cycles<'a> {
    pub(super) fn read(
        params: Params<'a>,
        keys: Keys<'_>,
        stack: &str,
    ) -> Result<Option<Cycles<'a>>> {
        let low = keys.count("cycle.low")?;
        if low == 0 {
            return Ok(None);
        }
        let (layers, n_layers) = (keys.count("cycle.layers")?, keys.count("num_layers")?);
        let of_cycle = layers.saturating_mul(low.saturating_add(1));
        if of_cycle == 0 || !n_layers.is_multiple_of(of_cycle) {
            return Err(broken(format!("{n_layers} layers are no cycles of {layers}")));
        }
        Ok(Some(Cycles { params, stack: stack.to_owned(), norm: Norm::last(keys)?, low, layers }))
    }

    pub(super) fn start<R: Real>(&self, x: &Array2<R>) -> Result<States<R>> {
        let start: Array1<R> =
            self.params.vector(&format!("{}.cycle_start", self.stack), x.ncols())?;
        Ok(States { high: x.clone(), low: Array2::zeros(x.dim()) + &start })
    }

    /// The input of a layer, where it is the first of a pass, of what leaves the layer before.
    pub(super) fn between<R: Real>(
        &self,
        layer: usize,
        states: &mut States<R>,
        x: Array2<R>,
    ) -> Result<Array2<R>> {
        if !layer.is_multiple_of(self.layers) {
            return Ok(x);
        }
        if let Some(pass) = (layer / self.layers).checked_sub(1) {
            let x = self.norm.apply(self.params, &format!("{}.final_norm", self.stack), &x)?;
            if x.dim() != states.high.dim() {
                return Err(broken("layers in cycles put out other rows than they read"));
            }
            match pass % (self.low + 1) == self.low {
                true => states.high = x,
                false => states.low = x,
            }
        }
        Ok(&states.high + &states.low)
    }
}
