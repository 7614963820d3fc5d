//! Scores that keys have of their own (`attn_key_bias`).
//!
//! With `g = num_kv_heads` and the values v of Attention, `[n, g·e]`, the key of head i at position j adds
//! `exp(a_i · softplus(v_j Wᵀ + b)_i)` to every score that it takes part in, after the scale: W and b of `key_bias.proj`, a of
//! `key_bias.rate`. Where `attn_key_bias_keep` is not null a query sees no more than so many of a head's keys, those that add the
//! most of those that it would see, of equals the first.

use ndarray::{Array1, Array2, Array3};

use super::keys::Keys;
use super::mix::greatest;
use super::mlp::softplus;
use super::place::Heads;
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// How keys make scores of their own in a stack.
pub(super) struct KeyBias {
    keep: Option<usize>,
    bias: Bias,
}

/// What the keys of one sequence add, `[heads, n, n]`, and for each head of keys what a query sees of them, `[n, n]`.
pub(super) struct Added<R> {
    pub(super) scores: Array3<R>,
    pub(super) seen: Option<Vec<Array2<bool>>>,
}

impl KeyBias {
    /// The scores of keys in a stack whose maps have these biases; `None` without such.
    pub(super) fn read(keys: Keys<'_>, bias: Bias) -> Result<Option<KeyBias>> {
        if !keys.bool("attn_key_bias")? {
            return Ok(None);
        }
        Ok(Some(KeyBias { keep: keys.opt_count("attn_key_bias_keep")?, bias }))
    }

    /// What keys add in the attention `name`, of the values of a sequence, `[n, g·e]`.
    pub(super) fn of<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        values: &Array2<R>,
        heads: Heads,
        sees: &dyn Fn(usize, usize) -> bool,
    ) -> Result<Added<R>> {
        let rate: Array1<R> = params.vector(&format!("{name}.key_bias.rate"), heads.kv)?;
        let own = params.linear(values, &format!("{name}.key_bias.proj"), heads.kv, self.bias)?;
        let own = (own.mapv(softplus) * &rate).mapv(R::exp);
        let (n, shared) = (values.nrows(), heads.q / heads.kv);
        let scores = Array3::from_shape_fn((heads.q, n, n), |(head, _, k)| own[[k, head / shared]]);
        let Some(keep) = self.keep else { return Ok(Added { scores, seen: None }) };
        let mut seen = vec![Array2::from_elem((n, n), false); heads.kv];
        for (head, seen) in seen.iter_mut().enumerate() {
            for q in 0..n {
                let shown = (0..n).filter(|&k| sees(q, k)).map(|k| (k, own[[k, head]]));
                greatest(shown, keep).into_iter().for_each(|k| seen[[q, k]] = true);
            }
        }
        Ok(Added { scores, seen: Some(seen) })
    }
}
