//! Layers that are narrower inside, and MLPs in front of a layer's own.
//!
//! With `bottleneck.dim` = d > 0 the sublayers of a layer are d wide and change `y = norm(x Wᵀ + b)`, `[n, d]`, in place of the stream x: W
//! of `bottleneck.in_proj`, the norm `bottleneck.in_norm`. After the last of them x becomes `norm(x + y Wᵀ + b)`, of `bottleneck.out_proj` and
//! `bottleneck.out_norm`. Where `bottleneck.attn` is `shared`, attention reads y; where it is `own`, its queries and keys are made of
//! `norm(x Wᵀ + b)`, of `bottleneck.attn_proj` and `bottleneck.attn_norm`, and its values of x.
//!
//! With `mlp_before` = m > 0 there are m MLPs in front of a layer's own, one after the other, each with its residual sum and a norm behind:
//! y becomes `norm(y + mlp(y))`, by the tensors `mlp.before`, whose first axis counts them; the biases of their norms are `res_norm.shift`.

use ndarray::Array2;

use super::keys::{Keys, broken};
use super::mlp::Mlp;
use super::norm::Norm;
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// The narrow inside of the layers of a stack.
pub(super) struct Bottleneck {
    dim: usize,
    hidden: usize,
    /// Whether queries and keys have a narrow form of their own.
    own: bool,
    norm: Norm,
}

/// What the sublayers of a layer read.
pub(super) struct Narrow<R> {
    /// What they change.
    pub(super) stream: Array2<R>,
    /// What queries and keys are made of, and values, where that is not the stream.
    pub(super) attn: Option<Array2<R>>,
}

impl Bottleneck {
    /// `None` where layers are as wide as the stream.
    pub(super) fn read(keys: Keys<'_>) -> Result<Option<Bottleneck>> {
        let dim = keys.count("bottleneck.dim")?;
        if dim == 0 {
            return Ok(None);
        }
        Ok(Some(Bottleneck {
            dim,
            hidden: keys.count("hidden_size")?,
            own: match keys.word("bottleneck.attn")?.as_str() {
                "own" => true,
                "shared" => false,
                other => return Err(broken(format!("`bottleneck.attn` is {other:?}"))),
            },
            norm: Norm::read(keys)?,
        }))
    }

    /// What the sublayers of a layer read of the stream.
    pub(super) fn enter<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
    ) -> Result<Narrow<R>> {
        let narrow = |part: &str| {
            let map = format!("{name}.{part}_proj");
            let y = params.linear(x, &map, self.dim, Bias::Is(true))?;
            self.norm.apply(params, &format!("{name}.{part}_norm"), &y)
        };
        let attn = self.own.then(|| narrow("attn")).transpose()?;
        Ok(Narrow { stream: narrow("in")?, attn })
    }

    /// The stream after a layer whose sublayers left `y`.
    pub(super) fn leave<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: Array2<R>,
        y: &Array2<R>,
    ) -> Result<Array2<R>> {
        let wide = params.linear(y, &format!("{name}.out_proj"), self.hidden, Bias::Is(true))?;
        self.norm.apply(params, &format!("{name}.out_norm"), &(x + &wide))
    }
}

/// The MLPs in front of the MLP of each layer.
pub(super) struct Before {
    count: usize,
    mlp: Mlp,
    width: usize,
    bias: Bias,
    norm: Norm,
}

impl Before {
    /// `None` where there are none.
    pub(super) fn read(keys: Keys<'_>) -> Result<Option<Before>> {
        if !keys.bool("has_mlp")? {
            return Ok(None);
        }
        let count = keys.count("mlp_before")?;
        if count == 0 {
            return Ok(None);
        }
        Ok(Some(Before {
            count,
            mlp: Mlp::read(keys)?,
            width: keys.count("intermediate_size")?,
            bias: Bias::Is(keys.bool("mlp_bias")?),
            norm: Norm::read(keys)?,
        }))
    }

    /// What stands before the MLP of that name, after those in front of it.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        mlp: &str,
        mut y: Array2<R>,
    ) -> Result<Array2<R>> {
        let name = format!("{mlp}.before");
        for at in 0..self.count {
            let one = (at, self.count);
            let out = self.mlp.with(params, &name, &y, self.width, &|x, part, width| {
                params.expert(x, &format!("{name}.{part}"), one, width, self.bias)
            })?;
            y = self.norm.apply_one(params, &format!("{name}.res_norm"), one, &(y + &out))?;
        }
        Ok(y)
    }
}
