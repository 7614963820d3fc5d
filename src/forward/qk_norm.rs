//! Norms of queries and keys.

use ndarray::Array2;

use super::keys::{Keys, broken};
use super::norm::Norm;
use super::real::Real;
use super::weights::Params;
use crate::base::error::Result;

/// The norms of queries and keys of a stack.
pub(super) struct QkNorm {
    norm: Norm,
    /// That of queries, which may be without weights.
    of_queries: Norm,
    per: Per,
    pub(super) after_rope: bool,
    /// The only layers that have it; all if there is no list.
    layers: Option<Vec<usize>>,
}

#[derive(Clone, Copy)]
enum Per {
    /// One weight for all heads.
    Head,
    /// A weight for each head.
    HeadDistinct,
    /// Over all heads at once.
    All,
}

impl QkNorm {
    pub(super) fn read(keys: Keys<'_>) -> Result<Option<QkNorm>> {
        let per = match keys.word("qk_norm")?.as_str() {
            "none" => return Ok(None),
            "per_head" => Per::Head,
            "per_head_distinct" => Per::HeadDistinct,
            "full" => Per::All,
            other => return Err(broken(format!("`qk_norm` is {other:?}"))),
        };
        let norm = match keys.bool("qk_norm_affine")? {
            true => Norm::read(keys)?.with_stored_bias(),
            false => Norm::read(keys)?.without_weights(),
        };
        let norm = match keys.opt_float("qk_norm_eps")? {
            Some(eps) => norm.with_eps(eps),
            None => norm,
        };
        Ok(Some(QkNorm {
            norm,
            of_queries: if keys.bool("q_norm_affine")? { norm } else { norm.without_weights() },
            per,
            after_rope: keys.word("qk_norm_at")? == "after_rope",
            layers: keys.opt_counts("qk_norm_layers")?,
        }))
    }

    /// One weight for all heads, of queries and keys that meet in attention to another stack's output.
    pub(super) fn across(keys: Keys<'_>) -> Result<Option<QkNorm>> {
        if !keys.bool("cross_qk_norm")? {
            return Ok(None);
        }
        let norm = Norm::read(keys)?.without_bias();
        let none =
            QkNorm { norm, of_queries: norm, per: Per::Head, after_rope: false, layers: None };
        Ok(Some(none))
    }

    pub(super) fn is_in(&self, layer: usize) -> bool {
        self.layers.as_ref().is_none_or(|layers| layers.contains(&layer))
    }

    /// The same norms, as queries have them.
    pub(super) fn apply_to_queries<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &mut Array2<R>,
        heads: (usize, usize),
    ) -> Result<()> {
        let norm = QkNorm { norm: self.of_queries, layers: None, ..*self };
        norm.apply(params, name, x, heads)
    }

    /// Norms heads of `x`, `[n, heads · dim]`, by the tensors whose names begin with `name`.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &mut Array2<R>,
        (n_heads, dim): (usize, usize),
    ) -> Result<()> {
        let (width, n_weights) = match self.per {
            Per::Head => (dim, 1),
            Per::HeadDistinct => (dim, n_heads),
            Per::All => (n_heads * dim, 1),
        };
        *x = self.norm.apply_per_group(params, name, x, width, n_weights)?;
        Ok(())
    }
}
