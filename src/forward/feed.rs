//! What ends a layer: an MLP, a mixture of experts, or both.

use ndarray::Array2;

use super::keys::{Keys, broken, of_layer};
use super::mlp::{Mlp, sigmoid};
use super::moe::Moe;
use super::norm::Norm;
use super::place::Fed;
use super::real::Real;
use super::weights::{Bias, Params};
use super::wkv::shifted;
use crate::base::error::Result;

/// What ends a layer: an MLP in some layers, a mixture of experts in others.
pub(super) struct Feed {
    dense: Option<Mlp>,
    width: usize,
    /// The width of each layer's MLP, where they differ.
    widths: Option<Vec<usize>>,
    /// The share of each layer's gate that becomes 0.
    sparsity: Option<Vec<f64>>,
    /// The bound in each layer's MLP.
    clamps: Option<Vec<f64>>,
    bias: Bias,
    in_bias: Bias,
    moe: Option<Moe>,
    moe_layers: Vec<usize>,
    /// The only layers that end with it; all if there is no list.
    layers: Option<Vec<usize>>,
    out_scale: f64,
    /// Whether its first map reads the position before too, and what it puts out has a gate that does so.
    shift: bool,
    /// Whether experts stand beside an MLP, and add their output after the next layer.
    shortcut: bool,
    /// The norms of experts that stand beside an MLP and add at once, and of this.
    beside: Option<Norm>,
    /// Whether what both put out is normed.
    beside_normed: bool,
    /// Whether these experts read what the layer reads, and not what its attention left.
    of_layer: bool,
}

impl Feed {
    pub(super) fn read(keys: Keys<'_>) -> Result<Feed> {
        let has_mlp = keys.bool("has_mlp")?;
        let has_experts = has_mlp && 0 < keys.count("moe.num_experts")?;
        let has_beside = has_experts && keys.bool("moe.beside_mlp")?;
        Ok(Feed {
            dense: has_mlp.then(|| Mlp::read(keys)).transpose()?,
            width: if has_mlp { keys.count("intermediate_size")? } else { 0 },
            widths: if has_mlp { keys.opt_counts("mlp_widths")? } else { None },
            sparsity: if has_mlp { keys.opt_floats("mlp_sparsity")? } else { None },
            clamps: match has_mlp && keys.bool("mlp_gated")? {
                true => keys.opt_floats("mlp_clamps")?,
                false => None,
            },
            beside: match has_beside {
                true => Some(Norm::read(keys)?.without_bias()),
                false => None,
            },
            beside_normed: has_beside && keys.bool("moe.beside_normed")?,
            of_layer: has_beside && keys.bool("moe.of_layer")?,
            bias: Bias::Is(has_mlp && keys.bool("mlp_bias")?),
            in_bias: Bias::Is(
                has_mlp
                    && keys.bool("mlp_bias")?
                    && (!keys.bool("mlp_gated")? || keys.bool("mlp_in_bias")?),
            ),
            moe: has_experts.then(|| Moe::read(keys)).transpose()?,
            moe_layers: if has_experts { keys.counts("moe.layers")? } else { Vec::new() },
            shift: has_mlp && keys.bool("mlp_shift")?,
            shortcut: has_experts && keys.bool("moe.shortcut")?,
            layers: keys.opt_counts("mlp_layers")?,
            out_scale: if has_mlp { keys.float("mlp_out_scale")? } else { 1.0 },
        })
    }

    pub(super) fn is_there(&self) -> bool {
        self.dense.is_some()
    }

    pub(super) fn is_in(&self, layer: usize) -> bool {
        self.layers.as_ref().is_none_or(|layers| layers.contains(&layer))
    }

    /// Whether it reads the stream itself in a layer.
    pub(super) fn reads_stream(&self, layer: usize) -> bool {
        self.beside.is_some() && self.moe_layers.contains(&layer)
    }

    /// Whether that is the stream as it enters the layer.
    pub(super) fn reads_layer(&self, layer: usize) -> bool {
        self.of_layer && self.reads_stream(layer)
    }

    /// What it makes of `x`, and of the stream where it reads that.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        stream: Option<&Array2<R>>,
        fed: Fed<'_>,
        late: &mut Option<Array2<R>>,
    ) -> Result<Array2<R>> {
        let layer = fed.layer;
        let width = of_layer(&self.widths, "mlp_widths", layer, self.width)?;
        let sparsity = of_layer(&self.sparsity, "mlp_sparsity", layer, 0.0)?;
        let clamp = of_layer(&self.clamps, "mlp_clamps", layer, 0.0)?;
        let apply_dense = |dense: &Mlp| {
            let (biases, dense) =
                ([self.in_bias, self.bias], dense.with_sparsity(sparsity).with_clamp(clamp));
            if !self.shift {
                return dense.apply(params, name, x, width, biases);
            }
            let shift = |part: &str| shifted(params, &format!("{name}.shift.{part}"), x, fed.len);
            let gate = format!("{name}.out_gate_proj");
            let gate = params.linear(&shift("gate")?, &gate, x.ncols(), Bias::Is(false))?;
            Ok(dense.apply(params, name, &shift("up")?, width, biases)? * &gate.mapv(sigmoid))
        };
        let norm = |norm: &Norm, x: &Array2<R>, part: &str| {
            norm.apply(params, &format!("{name}.{part}"), x)
        };
        let moe = self.moe.as_ref().filter(|_| self.moe_layers.contains(&layer));
        match (moe, &self.dense) {
            (Some(moe), Some(dense)) if self.shortcut => {
                *late = Some(moe.apply(params, name, x, x, fed)?);
                apply_dense(dense)
            }
            (Some(moe), Some(dense)) if self.beside.is_some() => {
                let beside = self.beside.as_ref().zip(stream);
                let (beside, stream) = beside.ok_or_else(|| {
                    broken(
                        "experts beside an MLP read the stream, which parallel sublayers have not",
                    )
                })?;
                let first = apply_dense(dense)?;
                let read = norm(beside, stream, "experts_pre_norm")?;
                let second = moe.apply(params, name, &read, stream, fed)?;
                if !self.beside_normed {
                    return Ok(first + &second);
                }
                let first = norm(beside, &first, "dense_post_norm")?;
                Ok(first + &norm(beside, &second, "experts_post_norm")?)
            }
            (Some(moe), _) => moe.apply(params, name, x, x, fed),
            (_, Some(dense)) => Ok(apply_dense(dense)? * R::of(self.out_scale)),
            (_, None) => Err(broken(format!("layer {layer} has no MLP"))),
        }
    }
}
