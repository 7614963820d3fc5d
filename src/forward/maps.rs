//! The maps into the heads of an attention, and out of them.

use ndarray::Array2;

use super::attn_experts::{AttnExperts, Routes};
use super::keys::Keys;
use super::place::{Heads, Place};
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// The maps of a stack's attention.
pub(super) struct Maps<'a> {
    params: Params<'a>,
    hidden: usize,
    qkv_bias: Bias,
    q_bias: Bias,
    k_bias: Bias,
    /// The width of what the heads put out on its way to the stream; 0 where it goes there at once.
    out_rank: usize,
    /// The experts that make queries, and read what the heads put out, where there are some.
    experts: Option<AttnExperts>,
}

impl<'a> Maps<'a> {
    pub(super) fn read(params: Params<'a>, keys: Keys<'_>) -> Result<Maps<'a>> {
        let qkv_bias = keys.bool("attn_qkv_bias")?;
        Ok(Maps {
            params,
            hidden: keys.inner_width()?,
            qkv_bias: Bias::Is(qkv_bias),
            q_bias: Bias::Is(qkv_bias && keys.bool("attn_q_bias")?),
            k_bias: Bias::Is(qkv_bias && keys.bool("attn_k_bias")?),
            out_rank: keys.count("attn_out_rank")?,
            experts: AttnExperts::read(keys)?,
        })
    }

    /// How many of the experts' attentions a position has; 1 where there are no experts.
    pub(super) fn experts_at_once(&self) -> usize {
        self.experts.as_ref().map_or(1, |experts| experts.top_k)
    }

    /// The experts of each row of `x`, where there are experts.
    pub(super) fn routes<R: Real>(&self, name: &str, x: &Array2<R>) -> Result<Option<Routes<R>>> {
        self.experts.as_ref().map(|experts| experts.choose(self.params, name, x)).transpose()
    }

    /// Queries of `x`, or of narrower ones; keys and values where the layer has its own, these made of keys or of
    /// something else, and nothing in their place where it has none.
    pub(super) fn project<R: Real>(
        &self,
        place: Place<'_>,
        (x, values): (&Array2<R>, &Array2<R>),
        (narrow, routes): (Option<&Array2<R>>, Option<&Routes<R>>),
        heads: Heads,
        (has_own, of_keys): (bool, bool),
    ) -> Result<(Array2<R>, Array2<R>, Array2<R>)> {
        let name = place.name;
        let map = |x: &Array2<R>, part: &str, width, bias| {
            self.params.linear(x, &format!("{name}.{part}"), width, bias)
        };
        let mut q = match (narrow, self.experts.as_ref().zip(routes)) {
            (_, Some((experts, routes))) => experts.queries(self.params, name, x, routes, heads)?,
            (Some(narrow), _) => map(narrow, "q_b_proj", heads.q * heads.dim, Bias::Is(false))?,
            _ => map(x, "q_proj", heads.q * heads.dim, self.q_bias)?,
        };
        let mut k = match has_own {
            true => map(x, "k_proj", heads.kv * heads.dim, self.k_bias)?,
            false => Array2::zeros((x.nrows(), 0)),
        };
        let mut v = match has_own && !of_keys {
            true => map(values, "v_proj", heads.kv * heads.v_dim, self.qkv_bias)?,
            false => k.clone(),
        };
        if let Some(adapters) = place.adapters {
            let term = |part: &str, width| -> Result<Array2<R>> {
                let name = format!("{}.{part}_adapter", adapters.name);
                let linear = |x: &Array2<R>, part: &str, width| {
                    self.params.linear(x, &format!("{name}.{part}"), width, Bias::Is(false))
                };
                linear(&linear(x, "in_proj", adapters.rank)?, "out_proj", width)
            };
            q += &term("q", heads.q * heads.dim)?;
            k += &term("k", heads.kv * heads.dim)?;
            v += &term("v", heads.kv * heads.v_dim)?;
        }
        Ok((q, k, v))
    }

    /// Queries of `x`, keys and values of what they are made of.
    pub(super) fn heads<R: Real>(
        &self,
        name: &str,
        x: &Array2<R>,
        [keys, values]: [&Array2<R>; 2],
        heads: Heads,
    ) -> Result<(Array2<R>, Array2<R>, Array2<R>)> {
        let q =
            self.params.linear(x, &format!("{name}.q_proj"), heads.q * heads.dim, self.q_bias)?;
        let (k, v) = self.keys_and_values(name, [keys, values], heads)?;
        Ok((q, k, v))
    }

    /// Keys and values of what they are made of.
    pub(super) fn keys_and_values<R: Real>(
        &self,
        name: &str,
        [keys, values]: [&Array2<R>; 2],
        heads: Heads,
    ) -> Result<(Array2<R>, Array2<R>)> {
        let map = |x, part: &str, width, bias| {
            self.params.linear(x, &format!("{name}.{part}"), width, bias)
        };
        Ok((
            map(keys, "k_proj", heads.kv * heads.dim, self.k_bias)?,
            map(values, "v_proj", heads.kv * heads.v_dim, self.qkv_bias)?,
        ))
    }

    /// From what the heads put out to the stream.
    pub(super) fn out<R: Real>(
        &self,
        name: &str,
        x: &Array2<R>,
        bias: bool,
        routes: Option<(&Routes<R>, Heads)>,
    ) -> Result<Array2<R>> {
        if let Some((experts, (routes, heads))) = self.experts.as_ref().zip(routes) {
            return experts.out(self.params, name, x, routes, (heads, self.hidden, bias));
        }
        if 0 < self.out_rank {
            let map = |x: &Array2<R>, part: &str, width| {
                self.params.linear(x, &format!("{name}.{part}"), width, Bias::Is(false))
            };
            return map(&map(x, "o_a_proj", self.out_rank)?, "o_b_proj", self.hidden);
        }
        self.params.linear(x, &format!("{name}.o_proj"), self.hidden, Bias::Is(bias))
    }
}
