//! Adapters.
//!
//! With `mlp_adapter.dim` > 0 each layer has small MLPs behind its own, of which each sequence goes through one: that whose
//! place in `mlp_adapter.names` is given for it, else `mlp_adapter.default`. The stream x after the MLP's residual sum, before the
//! norm behind it where there is one, becomes `r + act(n Wupᵀ + b) Wdownᵀ + b`. n is x (`mlp_adapter.norm` = `none`), x through the norm of the
//! MLP (`layer`: `res_norm` where norms are behind, else `pre_norm`), or x through a norm that the adapters of a layer share (`own`).
//! r is x, or n where `mlp_adapter.residual` is `normed`.

use ndarray::{Array2, s};

use super::keys::{Keys, broken};
use super::mlp::Activation;
use super::norm::Norm;
use super::real::Real;
use super::weights::{Bias, Params};
use super::{Batch, Inputs, number};
use crate::base::error::Result;

/// The adapters of a stack.
pub(super) struct Adapters {
    count: usize,
    dim: usize,
    hidden: usize,
    activation: Activation,
    norm: Norm,
    normed_by: NormedBy,
    adds_to_normed: bool,
}

/// What norms the input of an adapter.
enum NormedBy {
    Nothing,
    /// The norm of the MLP, by the last part of its name.
    Layer(&'static str),
    Own,
}

/// The adapter of each sequence; nothing where there are none.
pub(super) fn choose(keys: Keys<'_>, inputs: &Inputs, batch: &Batch) -> Result<Vec<usize>> {
    if !keys.bool("has_mlp")? || keys.count("mlp_adapter.dim")? == 0 {
        return match inputs.adapter_ids {
            Some(_) => Err(broken("the model has no adapters")),
            None => Ok(Vec::new()),
        };
    }
    let names = keys.words("mlp_adapter.names")?;
    if let Some(ids) = &inputs.adapter_ids {
        if ids.len() != batch.size {
            return Err(broken(format!(
                "{} adapters are given for {} sequences; each has one",
                ids.len(),
                batch.size
            )));
        }
        let ids: Vec<usize> = ids.iter().map(|&id| number("adapter", id)).collect::<Result<_>>()?;
        return match ids.iter().find(|id| names.len() <= **id) {
            Some(id) => Err(broken(format!("there are {} adapters, none is {id}", names.len()))),
            None => Ok(ids),
        };
    }
    let name = keys.opt_word("mlp_adapter.default")?;
    let name = name.ok_or_else(|| {
        broken(format!(
            "no sequence says which of the adapters it goes through, and none is the model's own: {}",
            names.join(", ")
        ))
    })?;
    let id = names.iter().position(|known| *known == name);
    let id = id.ok_or_else(|| broken(format!("there is no adapter {name:?}")))?;
    Ok(vec![id; batch.size])
}

impl Adapters {
    /// `None` where there are none.
    pub(super) fn read(keys: Keys<'_>, norms_behind: bool) -> Result<Option<Adapters>> {
        if !keys.bool("has_mlp")? {
            return Ok(None);
        }
        let dim = keys.count("mlp_adapter.dim")?;
        if dim == 0 {
            return Ok(None);
        }
        Ok(Some(Adapters {
            count: keys.words("mlp_adapter.names")?.len(),
            dim,
            hidden: keys.count("hidden_size")?,
            activation: Activation::parse(&keys.word("activation")?)?,
            norm: Norm::read(keys)?,
            normed_by: match keys.word("mlp_adapter.norm")?.as_str() {
                "none" => NormedBy::Nothing,
                "layer" => NormedBy::Layer(if norms_behind { "res_norm" } else { "pre_norm" }),
                "own" => NormedBy::Own,
                other => return Err(broken(format!("`mlp_adapter.norm` is {other:?}"))),
            },
            adds_to_normed: match keys.word("mlp_adapter.residual")?.as_str() {
                "stream" => false,
                "normed" => true,
                other => return Err(broken(format!("`mlp_adapter.residual` is {other:?}"))),
            },
        }))
    }

    /// The stream after the adapters of the MLP of that name.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        mlp: &str,
        x: Array2<R>,
        batch: &Batch,
    ) -> Result<Array2<R>> {
        let norm = |part: &str| self.norm.apply(params, &format!("{mlp}.{part}"), &x);
        let normed = match self.normed_by {
            NormedBy::Nothing => x.clone(),
            NormedBy::Layer(part) => norm(part)?,
            NormedBy::Own => norm("adapters.norm")?,
        };
        let mut sum = if self.adds_to_normed { normed.clone() } else { x };
        for sequence in batch.sequences() {
            let adapter = batch.adapters.get(sequence.index).copied();
            let adapter = adapter.ok_or_else(|| broken("a sequence has no adapter"))?;
            let one = (adapter, self.count);
            let read = normed.slice(s![sequence.rows(), ..]).to_owned();
            let up = format!("{mlp}.adapters.up_proj");
            let mut middle = params.expert(&read, &up, one, self.dim, Bias::Is(true))?;
            middle.mapv_inplace(|x| self.activation.of(x));
            let down = format!("{mlp}.adapters.down_proj");
            let out = params.expert(&middle, &down, one, self.hidden, Bias::Is(true))?;
            let mut rows = sum.slice_mut(s![sequence.rows(), ..]);
            rows += &out;
        }
        Ok(sum)
    }
}
