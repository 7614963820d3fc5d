//! Which keys a query sees, chosen by an indexer (`attn_index.top_k` > 0).
//!
//! With `h = attn_index.heads` and `d = attn_index.head_dim`: `q = c Wqᵀ`, `[n, h·d]`, of the compressed queries c of
//! latent attention; `k = layernorm(x Wkᵀ)`, `[n, d]`; both are turned in the first `rope_dim` dims of each head, or the last where
//! `attn_index.rope_at` is `last`. With
//! `w = x Wwᵀ`, `[n, h]`, key j scores `Σ_i w_i · max(q_i·k_j / √d, 0) / √h`. A query sees the `top_k` keys of the
//! greatest scores, of equals the first, among those that it would see without an indexer. Layers that `attn_index.layers` does not list see the keys
//! that the last one before them chose. With `attn_index.block_size` > 0 blocks of keys are chosen (Indexers of blocks).

use std::cell::RefCell;

use ndarray::{Array1, Array2, s};

use super::Batch;
use super::blocks::Blocks;
use super::keys::{Keys, broken};
use super::latent::Latent;
use super::mix::greatest;
use super::norm::layernorm;
use super::place::Place;
use super::real::Real;
use super::rope::Rope;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// The indexer of a stack.
pub(super) struct Indexer {
    top_k: usize,
    heads: usize,
    dim: usize,
    norm_eps: f64,
    /// Whether the last dims of its heads turn, and not the first.
    turns_last: bool,
    /// How blocks of keys are chosen, where that is what is chosen.
    blocks: Option<Blocks>,
    /// The only layers that have one; all if there is no list.
    layers: Option<Vec<usize>>,
    /// What the last layer with an indexer chose: for each sequence and share of the heads `[n, n]`, query by
    /// key. Empty where a layer sees all.
    last: RefCell<Vec<Vec<Array2<bool>>>>,
}

impl Indexer {
    /// `None` where all keys are seen.
    pub(super) fn read(keys: Keys<'_>) -> Result<Option<Indexer>> {
        let top_k = keys.count("attn_index.top_k")?;
        if top_k == 0 {
            return Ok(None);
        }
        Ok(Some(Indexer {
            top_k,
            heads: keys.count("attn_index.heads")?,
            dim: keys.count("attn_index.head_dim")?,
            norm_eps: keys.float("attn_index.norm_eps")?,
            turns_last: keys.word("attn_index.rope_at")? == "last",
            blocks: Blocks::read(keys, top_k)?,
            layers: keys.opt_counts("attn_index.layers")?,
            last: RefCell::default(),
        }))
    }

    /// What was chosen for a sequence, by equal shares of the heads; `None` where all keys are seen.
    pub(super) fn chosen(&self, sequence: usize) -> Option<Vec<Array2<bool>>> {
        self.last.borrow().get(sequence).cloned()
    }

    /// Chooses keys for the queries of `x`, `[batch · n, hidden]`, where the layer has an indexer.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn choose<R: Real>(
        &self,
        params: Params<'_>,
        place: Place<'_>,
        x: &Array2<R>,
        batch: &Batch,
        (latent, rope): (Option<&Latent>, Option<&Rope>),
        bias: Bias,
        (causal, sees): (bool, &dyn Fn(usize, usize, usize) -> bool),
    ) -> Result<()> {
        if let Some(blocks) = &self.blocks {
            let is_in = self.layers.as_ref().is_none_or(|layers| layers.contains(&place.layer));
            *self.last.borrow_mut() = match is_in {
                true => blocks.choose(params, place, x, batch, rope, causal)?,
                false => Vec::new(),
            };
            return Ok(());
        }
        if self.layers.as_ref().is_some_and(|layers| !layers.contains(&place.layer)) {
            return match self.last.borrow().is_empty() {
                true => Err(broken(format!("layer {}: no indexer chose keys yet", place.layer))),
                false => Ok(()),
            };
        }
        let part = |part: &str| format!("{}.index.{part}", place.name);
        let (latent, rope) = latent
            .zip(rope)
            .ok_or_else(|| broken("an indexer wants latent attention and rotary positions"))?;
        if self.dim < rope.dim() {
            return Err(broken("more dims turn than a head of the indexer has"));
        }
        let compressed = latent.compressed_queries(params, place.name, x, bias)?;
        let compressed = compressed.ok_or_else(|| broken("an indexer wants compressed queries"))?;
        let mut q =
            params.linear(&compressed, &part("q_proj"), self.heads * self.dim, Bias::Is(false))?;
        let k = params.linear(x, &part("k_proj"), self.dim, Bias::Is(false))?;
        let weight: Array1<R> = params.vector(&part("k_norm.weight"), self.dim)?;
        let shift: Array1<R> = params.vector(&part("k_norm.bias"), self.dim)?;
        let mut k = layernorm(&k, self.norm_eps) * &weight + &shift;
        let w = params.linear(x, &part("weights_proj"), self.heads, Bias::Is(false))?;
        let scale = R::of((self.dim as f64).sqrt() * (self.heads as f64).sqrt());

        let start = match self.turns_last {
            true => self
                .dim
                .checked_sub(rope.dim())
                .ok_or_else(|| broken("more dims turn than there are"))?,
            false => 0,
        };
        rope.turn_at(place, [&mut q, &mut k], batch, (self.dim, start));
        let mut chosen = Vec::new();
        for sequence in batch.sequences() {
            let mut scores: Array2<R> = Array2::zeros((batch.len, batch.len));
            for head in 0..self.heads {
                let q = q.slice(s![sequence.rows(), head * self.dim..(head + 1) * self.dim]);
                let mut products = q.dot(&k.slice(s![sequence.rows(), ..]).t());
                products.mapv_inplace(|x| x.max(R::zero()) / scale);
                let w = w.slice(s![sequence.rows(), head..=head]);
                scores += &(products * w);
            }
            let mut seen = Array2::from_elem(scores.dim(), false);
            for (query, row) in scores.rows().into_iter().enumerate() {
                let shown = (0..batch.len).filter(|&key| sees(sequence.index, query, key));
                let kept = greatest(shown.map(|key| (key, row[key])), self.top_k);
                kept.into_iter().for_each(|key| seen[[query, key]] = true);
            }
            chosen.push(vec![seen]);
        }
        *self.last.borrow_mut() = chosen;
        Ok(())
    }
}
