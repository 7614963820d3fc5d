//! Embeddings that each layer has of its own (`layer_embed.dim` > 0).
//!
//! With `d = layer_embed.dim`, L layers and the input x of the first one, `[n, hidden]`, they are
//! `p = (norm(x Wᵀ / √hidden) + √d·t) / √2`, `[n, L·d]`: W is `embed.layer_proj`, the norm is over the d dims of each layer by
//! `embed.layer_norm`, and t are the rows of the tokens in `embed.layer_tokens`, row 0 for a token behind that table. p_i are the dims
//! of layer i. What a layer adds to the stream y after its MLP is `norm((act(y Wgᵀ) ∘ p_i) Woᵀ)`, with Wg, Wo and the norm
//! `layer_embed.gate_proj`, `.out_proj` and `.post_norm`.

use ndarray::{Array2, s};

use super::keys::{Keys, broken};
use super::mlp::Activation;
use super::norm::Norm;
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// The embeddings of the layers for the tokens that are run.
pub(super) struct LayerEmbed<'a, R> {
    params: Params<'a>,
    dim: usize,
    hidden: usize,
    activation: Activation,
    norm: Norm,
    /// Of all layers, `[batch · n, layers · dim]`.
    inputs: Array2<R>,
}

impl<'a, R: Real> LayerEmbed<'a, R> {
    /// `None` where layers have none; `ids` are those of the tokens, `x` is the input of the first layer.
    pub(super) fn read(
        params: Params<'a>,
        keys: Keys<'_>,
        stack: &str,
        ids: &[usize],
        x: &Array2<R>,
    ) -> Result<Option<LayerEmbed<'a, R>>> {
        let dim = keys.count("layer_embed.dim")?;
        if dim == 0 {
            return Ok(None);
        }
        if ids.len() != x.nrows() {
            return Err(broken("layers have embeddings of tokens, and no tokens are read"));
        }
        let width = keys.count("num_layers")? * dim;
        let n_rows = keys.count("layer_embed.vocab_size")?;
        let hidden = keys.count("hidden_size")?;
        let norm = Norm::read(keys)?.without_bias();
        let name = |part: &str| format!("{stack}.embed.layer_{part}");
        let rows: Vec<usize> = ids.iter().map(|&id| if id < n_rows { id } else { 0 }).collect();
        let tokens: Array2<R> =
            params.lookup(&name("tokens.weight"), [n_rows, width], &rows, "the id")?;
        let mapped = params.linear(x, &name("proj"), width, Bias::Is(false))?;
        let mapped = mapped / R::of((hidden as f64).sqrt());
        let mapped = norm.apply_per_group(params, &name("norm"), &mapped, dim, 1)?;
        let inputs = (mapped + &(tokens * R::of((dim as f64).sqrt()))) * R::of(0.5f64.sqrt());
        let activation = Activation::parse(&keys.word("activation")?)?;
        Ok(Some(LayerEmbed { params, dim, hidden, activation, norm, inputs }))
    }

    /// What layer `layer`, whose tensors' names begin with `name`, adds for the stream `x`.
    pub(super) fn term(&self, name: &str, layer: usize, x: &Array2<R>) -> Result<Array2<R>> {
        let part = |part: &str| format!("{name}.{part}");
        let mut y = self.params.linear(x, &part("gate_proj"), self.dim, Bias::Is(false))?;
        y.mapv_inplace(|x| self.activation.of(x));
        y *= &self.inputs.slice(s![.., layer * self.dim..(layer + 1) * self.dim]);
        let y = self.params.linear(&y, &part("out_proj"), self.hidden, Bias::Is(false))?;
        self.norm.apply(self.params, &part("post_norm"), &y)
    }
}
