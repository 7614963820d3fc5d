//! Which blocks of keys a query sees, chosen by an indexer (`attn_index.block_size` > 0).
//!
//! With `h = attn_index.heads`, `d = attn_index.head_dim` and `b = attn_index.block_size`: `q = x Wqᵀ`, `[n, h·d]`, and
//! `k = x Wkᵀ`, `[n, d]`. Each head of both is normed as the stack norms (`q_norm`, `k_norm`) and turned in its first `rope_dim` dims.
//! Key j is of block `⌊j/b⌋`. For head i a block scores the greatest `q_i·k_j` of those of its keys that do not come after the query,
//! keys that the mask hides among them; the query's own block and those right before it, `local_blocks` in all, score more than any other.
//! The query heads are h equal shares, one behind the other: those of share i see of the keys that they would see without an indexer those in the `top_k`
//! blocks of the greatest scores of head i, of equals the first. Layers that `attn_index.layers` does not list see all.

use ndarray::{Array2, s};

use super::Batch;
use super::keys::{Keys, broken};
use super::mix::greatest;
use super::norm::Norm;
use super::place::Place;
use super::real::Real;
use super::rope::Rope;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// The indexer of a stack whose queries see blocks of keys.
pub(super) struct Blocks {
    top_k: usize,
    size: usize,
    local: usize,
    heads: usize,
    dim: usize,
    norm: Norm,
}

impl Blocks {
    /// `None` where keys are chosen one by one.
    pub(super) fn read(keys: Keys<'_>, top_k: usize) -> Result<Option<Blocks>> {
        let size = keys.count("attn_index.block_size")?;
        if size == 0 {
            return Ok(None);
        }
        let (heads, query_heads) = (keys.count("attn_index.heads")?, keys.count("num_heads")?);
        if heads == 0 || !query_heads.is_multiple_of(heads) {
            return Err(broken(format!("{query_heads} query heads are not {heads} equal shares")));
        }
        Ok(Some(Blocks {
            top_k,
            size,
            local: keys.count("attn_index.local_blocks")?,
            heads,
            dim: keys.count("attn_index.head_dim")?,
            norm: Norm::read(keys)?.without_bias(),
        }))
    }

    /// What the queries of `x`, `[batch · n, hidden]`, see: for each sequence and head `[n, n]`, query by key.
    pub(super) fn choose<R: Real>(
        &self,
        params: Params<'_>,
        place: Place<'_>,
        x: &Array2<R>,
        batch: &Batch,
        rope: Option<&Rope>,
        causal: bool,
    ) -> Result<Vec<Vec<Array2<bool>>>> {
        let part = |part: &str| format!("{}.index.{part}", place.name);
        let head = |of: &str, heads: usize| -> Result<Array2<R>> {
            let name = part(&format!("{of}_proj"));
            let x = params.linear(x, &name, heads * self.dim, Bias::Is(false))?;
            self.norm.apply_per_group(params, &part(&format!("{of}_norm")), &x, self.dim, 1)
        };
        let (mut q, mut k) = (head("q", self.heads)?, head("k", 1)?);
        if rope.is_some_and(|rope| self.dim < rope.dim()) {
            return Err(broken("more dims turn than a head of the indexer has"));
        }
        if let Some(rope) = rope {
            rope.turn_at(place, [&mut q, &mut k], batch, (self.dim, 0));
        }
        let mut chosen = Vec::new();
        for sequence in batch.sequences() {
            let k = k.slice(s![sequence.rows(), ..]);
            let heads = (0..self.heads).map(|head| {
                let q = q.slice(s![sequence.rows(), head * self.dim..(head + 1) * self.dim]);
                self.of_scores(&q.dot(&k.t()), causal)
            });
            chosen.push(heads.collect());
        }
        Ok(chosen)
    }

    /// The keys in the best blocks of each query, by the scores of all keys.
    fn of_scores<R: Real>(&self, scores: &Array2<R>, causal: bool) -> Array2<bool> {
        let n_blocks = scores.ncols().div_ceil(self.size);
        let mut seen = Array2::from_elem(scores.dim(), false);
        for (query, row) in scores.rows().into_iter().enumerate() {
            let own = query / self.size;
            // No score where all keys of a block come after the query.
            let mut best: Vec<Option<R>> = vec![None; n_blocks];
            for (key, &score) in row.iter().enumerate() {
                if !causal || key <= query {
                    let best = &mut best[key / self.size];
                    *best = Some(best.map_or(score, |best| best.max(score)));
                }
            }
            for back in 0..self.local.min(own + 1) {
                best[own - back] = Some(R::infinity());
            }
            let blocks = best.into_iter().enumerate();
            let blocks = blocks.filter_map(|(block, best)| Some((block, best?)));
            for block in greatest(blocks, self.top_k) {
                let end = ((block + 1) * self.size).min(row.len());
                (block * self.size..end).for_each(|key| seen[[query, key]] = true);
            }
        }
        seen
    }
}
