//! Latent attention (`mla.kv_lora_rank` > 0): queries, keys and values from compressed forms.
//!
//! With `h = num_heads` and n positions: `c = kv_scale · norm(x Waᵀ)`, `[n, rank]`; a head's key is
//! `[c Kbᵀ, x Krᵀ]`, whose first part is not turned and whose second part all heads share;
//! `v = c Vbᵀ`. Queries are `q_scale · norm(x Qaᵀ) Qbᵀ` where they are compressed, else
//! `q_scale · x Wqᵀ`; with `q_beside`, `q_scale · [norm(x Qaᵀ), x Qaᵀ] Qbᵀ`.

use ndarray::{Array2, Axis, concatenate, s};

use super::keys::{Keys, broken};
use super::norm::Norm;
use super::place::Heads;
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

pub(super) struct Latent {
    heads: Heads,
    q_rank: usize,
    /// Whether queries are made of the compressed ones as they are too, behind the normed ones.
    q_beside: bool,
    kv_rank: usize,
    nope: usize,
    rope: usize,
    q_scale: f64,
    kv_scale: f64,
    norm: Norm,
}

impl Latent {
    /// `None` where attention is of another kind.
    pub(super) fn read(keys: Keys<'_>, heads: Heads) -> Result<Option<Latent>> {
        let kv_rank = keys.count("mla.kv_lora_rank")?;
        if kv_rank == 0 {
            return Ok(None);
        }
        let latent = Latent {
            heads,
            q_rank: keys.count("mla.q_lora_rank")?,
            q_beside: keys.bool("mla.q_beside")?,
            kv_rank,
            nope: keys.count("mla.qk_nope_head_dim")?,
            rope: keys.count("mla.qk_rope_head_dim")?,
            q_scale: keys.float("mla.q_scale")?,
            kv_scale: keys.float("mla.kv_scale")?,
            norm: Norm::read(keys)?.with_eps(keys.float("mla.norm_eps")?),
        };
        if latent.nope + latent.rope != heads.dim || heads.kv != heads.q {
            return Err(broken(
                "the heads of the latent attention do not fit `head_dim` and heads",
            ));
        }
        Ok(Some(latent))
    }

    /// The compressed queries of `x`, `[n, rank]`, where queries are compressed.
    pub(super) fn compressed_queries<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        bias: Bias,
    ) -> Result<Option<Array2<R>>> {
        Ok(self.compress_queries(params, name, x, bias)?.map(|[_, normed]| normed))
    }

    /// The compressed queries of `x` as they are, and normed.
    fn compress_queries<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        bias: Bias,
    ) -> Result<Option<[Array2<R>; 2]>> {
        if self.q_rank == 0 {
            return Ok(None);
        }
        let plain = params.linear(x, &format!("{name}.q_a_proj"), self.q_rank, bias)?;
        let normed = self.norm.apply(params, &format!("{name}.q_a_norm"), &plain)?;
        Ok(Some([plain, normed]))
    }

    /// What queries are made of, where they are compressed: the compressed ones, normed, and with `q_beside` as they are.
    pub(super) fn of_queries<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        bias: Bias,
    ) -> Result<Option<Array2<R>>> {
        let compressed = self.compress_queries(params, name, x, bias)?;
        Ok(compressed.map(|[plain, normed]| match self.q_beside {
            true => concatenate![Axis(1), normed, plain],
            false => normed,
        }))
    }

    /// `[n, h·d]`, `[n, h·d]` and `[n, h·e]` of `x`, `[n, hidden]`. Only the maps from the stream to
    /// the compressed forms may have biases.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        bias: Bias,
    ) -> Result<(Array2<R>, Array2<R>, Array2<R>)> {
        let Heads { q: n_heads, dim, v_dim, .. } = self.heads;
        let map_with = |bias| {
            move |x: &Array2<R>, part: &str, width| {
                params.linear(x, &format!("{name}.{part}"), width, bias)
            }
        };
        let (compress, map) = (map_with(bias), map_with(Bias::Is(false)));
        let norm =
            |part: &str, x: &Array2<R>| self.norm.apply(params, &format!("{name}.{part}"), x);
        let q = match self.of_queries(params, name, x, bias)? {
            None => map(x, "q_proj", n_heads * dim)?,
            Some(compressed) => map(&compressed, "q_b_proj", n_heads * dim)?,
        };
        let compressed = norm("kv_a_norm", &compress(x, "kv_a_proj", self.kv_rank)?)?;
        let compressed = compressed * R::of(self.kv_scale);
        let k_nope = map(&compressed, "k_b_proj", n_heads * self.nope)?;
        let k_rope = compress(x, "k_rope_proj", self.rope)?;
        let v = map(&compressed, "v_b_proj", n_heads * v_dim)?;
        let mut k = Array2::zeros((x.nrows(), n_heads * dim));
        for head in 0..n_heads {
            let (start, turned) = (head * dim, head * dim + self.nope);
            let nope = k_nope.slice(s![.., head * self.nope..(head + 1) * self.nope]);
            k.slice_mut(s![.., start..turned]).assign(&nope);
            k.slice_mut(s![.., turned..start + dim]).assign(&k_rope);
        }
        Ok((q * R::of(self.q_scale), k, v))
    }
}
