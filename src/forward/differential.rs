//! Differential attention (`attn_differential`): one map of attention minus a learned share of another.
//!
//! With `h = num_heads` and `g = num_kv_heads`, both even, and the value heads `v_0 … v_(g−1)`, a head that reads key head j
//! mixes the values `[v_a, v_(a + g/2)]`, `2·v_head_dim` wide, with `a = j mod g/2`. With the outputs `o_i` of the heads,
//! `d_i = o_i − λ·o_(i + h/2)` for `i < h/2`, where `λ = e^(λq1·λk1) − e^(λq2·λk2) + λ₀` and
//! `λ₀ = 0.8 − 0.6·e^(−0.3·l)` in layer l, counted from 0. What goes through `Wo` is `(1 − λ₀)·rmsnorm(d_i)`, without
//! weights, one d_i behind the other.

use ndarray::{Array1, Array2, s};

use super::keys::{Keys, broken};
use super::norm;
use super::place::{Heads, Place};
use super::real::Real;
use super::weights::Params;
use crate::base::error::Result;

/// The differential attention of a stack.
pub(super) struct Differential {
    heads: Heads,
    eps: f64,
}

impl Differential {
    /// `None` where attention is plain.
    pub(super) fn read(keys: Keys<'_>, heads: Heads) -> Result<Option<Differential>> {
        if !keys.bool("attn_differential")? {
            return Ok(None);
        }
        if !heads.q.is_multiple_of(2) || !heads.kv.is_multiple_of(2) {
            return Err(broken("differential attention wants even numbers of heads"));
        }
        Ok(Some(Differential { heads, eps: keys.float("norm_eps")? }))
    }

    /// The values of key heads, `[n, g·e]` to `[n, g·2e]`, and heads that are so wide.
    pub(super) fn values<R: Real>(&self, heads: Heads, v: &Array2<R>) -> (Heads, Array2<R>) {
        let (width, half) = (heads.v_dim, heads.kv / 2);
        let mut wide = Array2::zeros((v.nrows(), heads.kv * 2 * width));
        for head in 0..heads.kv {
            for (side, from) in [head % half, head % half + half].into_iter().enumerate() {
                let to = (2 * head + side) * width;
                wide.slice_mut(s![.., to..to + width])
                    .assign(&v.slice(s![.., from * width..(from + 1) * width]));
            }
        }
        (Heads { v_dim: 2 * width, ..heads }, wide)
    }

    /// `[n, h·2e]` to `[n, h·e]`.
    pub(super) fn difference<R: Real>(
        &self,
        params: Params<'_>,
        place: Place<'_>,
        mixed: &Array2<R>,
    ) -> Result<Array2<R>> {
        let exponent = |which: usize| -> Result<R> {
            let part = |part: &str| -> Result<Array1<R>> {
                params.vector(&format!("{}.lambda_{part}{which}", place.name), self.heads.dim)
            };
            Ok(part("q")?.dot(&part("k")?).exp())
        };
        let start = R::of(0.8 - 0.6 * (-0.3 * place.layer as f64).exp());
        let lambda = exponent(1)? - exponent(2)? + start;
        let half = mixed.ncols() / 2;
        let other = mixed.slice(s![.., half..]).mapv(|x| x * lambda);
        let mut difference = mixed.slice(s![.., ..half]).to_owned() - &other;
        norm::rms(&mut difference, 2 * self.heads.v_dim, self.eps);
        Ok(difference * (R::one() - start))
    }
}
