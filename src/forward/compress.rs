//! Keys that stand for several positions, in layers `compressed` and `compressed_sparse`.
//!
//! Beside the window's keys queries see one for each m positions, `m = attn_compress.rate` or, in layers `compressed_sparse`,
//! `attn_compress.sparse_rate`. With `d = head_dim` and x of Attention:
//!
//! - `c = x Wcᵀ` and `z = x Wzᵀ`, of `compress.kv_proj` and `compress.gate_proj`, `[n, d]`, in layers `compressed_sparse` `[n, 2·d]`.
//!   Position t has row `t mod m` of `compress.position_bias` added to its z.
//! - Entry w is made of the positions `m·w` to before `m·(w + 1)`, if all are there: `norm(Σ softmax(z) ∘ c)`, sum and softmax over the
//!   positions, for each dim by itself, the norm `compress.norm`. In layers `compressed_sparse` these positions give the last d dims of c
//!   and z, and the m positions before them, where there are some, take part in sum and softmax with the first d dims.
//! - It is turned as a key of position `m·w`, and is the key and the value. A query of position p sees it where
//!   `w < ⌊(p + 1)/m⌋`, whatever the mask hides.
//! - In layers `compressed_sparse` the query sees at most `attn_compress.top_k` of these, those of the greatest scores, of equals the
//!   first. With `h = attn_compress.index_heads` and `e = attn_compress.index_dim`: `q = r Wqᵀ`, `[n, h·e]`, of the compressed queries r
//!   (`attn_q_rank`), the entries k, `[·, e]`, made likewise by `compress.index`, both turned, `w = x Wwᵀ`, `[n, h]`:
//!   the score is `Σ_i w_i · max(q_i·k/√e, 0) / √h`.

use ndarray::{Array2, ArrayView1, s};

use super::keys::{Keys, broken};
use super::mix::greatest;
use super::norm::Norm;
use super::place::Place;
use super::real::Real;
use super::rope::Rope;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// The compressed keys of a stack.
pub(super) struct Compress {
    rate: usize,
    sparse_rate: usize,
    dim: usize,
    top_k: usize,
    index_heads: usize,
    index_dim: usize,
    norm: Norm,
}

/// The entries of a sequence, and which of them each position sees.
pub(super) struct Entries<R> {
    /// `[entries, d]`.
    pub(super) keys: Array2<R>,
    /// `[n, entries]`.
    pub(super) seen: Array2<bool>,
}

impl Compress {
    /// `None` where no layer has them.
    pub(super) fn read(keys: Keys<'_>) -> Result<Option<Compress>> {
        let types = keys.words("layer_types")?;
        if !types.iter().any(|kind| kind.starts_with("compressed")) {
            return Ok(None);
        }
        let compress = Compress {
            rate: keys.count("attn_compress.rate")?,
            sparse_rate: keys.count("attn_compress.sparse_rate")?,
            dim: keys.count("head_dim")?,
            top_k: keys.count("attn_compress.top_k")?,
            index_heads: keys.count("attn_compress.index_heads")?,
            index_dim: keys.count("attn_compress.index_dim")?,
            norm: Norm::read(keys)?.without_bias(),
        };
        if compress.rate == 0 || compress.sparse_rate == 0 || compress.index_heads == 0 {
            return Err(broken("keys that stand for no positions, or heads that are none"));
        }
        Ok(Some(compress))
    }

    /// What a sequence `x`, `[n, hidden]`, at some positions has beside its own keys, by its compressed queries.
    pub(super) fn entries<R: Real>(
        &self,
        params: Params<'_>,
        place: Place<'_>,
        x: &Array2<R>,
        queries: Option<&Array2<R>>,
        positions: &[usize],
        rope: &Rope,
    ) -> Result<Entries<R>> {
        let sparse = place.kind == "compressed_sparse";
        let rate = if sparse { self.sparse_rate } else { self.rate };
        let name = format!("{}.compress", place.name);
        let keys = self.made(params, &name, place.layer, x, (rate, self.dim, sparse), rope)?;
        let sees = |query: usize, entry: usize| entry < (positions[query] + 1) / rate;
        let mut seen =
            Array2::from_shape_fn((x.nrows(), keys.nrows()), |(query, entry)| sees(query, entry));
        if sparse {
            let queries = queries.ok_or_else(|| broken("an indexer wants compressed queries"))?;
            let scores = self.scores(params, &name, place.layer, (x, queries), positions, rope)?;
            for (mut seen, scores) in seen.rows_mut().into_iter().zip(scores.rows()) {
                self.leave_greatest(&mut seen.iter_mut().collect::<Vec<_>>(), scores);
            }
        }
        Ok(Entries { keys, seen })
    }

    /// Entries of `dim` dims, `[n / rate, dim]`, turned.
    fn made<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        layer: usize,
        x: &Array2<R>,
        (rate, dim, overlap): (usize, usize, bool),
        rope: &Rope,
    ) -> Result<Array2<R>> {
        let width = if overlap { 2 * dim } else { dim };
        let map = |part: &str| params.linear(x, &format!("{name}.{part}"), width, Bias::Is(false));
        let (content, mut gates) = (map("kv_proj")?, map("gate_proj")?);
        let bias: Array2<R> = params.matrix(&format!("{name}.position_bias"), [rate, width])?;
        for (t, mut gates) in gates.rows_mut().into_iter().enumerate() {
            gates += &bias.row(t % rate);
        }
        let n = x.nrows() / rate;
        let mut entries = Array2::zeros((n, dim));
        for entry in 0..n {
            // Rows, and the first of their dims that count.
            let mut rows: Vec<(usize, usize)> = Vec::new();
            if overlap && 0 < entry {
                rows.extend(((entry - 1) * rate..entry * rate).map(|row| (row, 0)));
            }
            rows.extend((entry * rate..(entry + 1) * rate).map(|row| (row, width - dim)));
            for column in 0..dim {
                let mut shares: Vec<R> =
                    rows.iter().map(|&(row, first)| gates[[row, first + column]]).collect();
                super::mix::softmax(shares.iter_mut(), None);
                let terms = rows.iter().zip(shares);
                entries[[entry, column]] = terms
                    .map(|(&(row, first), share)| share * content[[row, first + column]])
                    .sum();
            }
        }
        let mut entries = self.norm.apply(params, &format!("{name}.norm"), &entries)?;
        let positions: Vec<usize> = (0..n).map(|entry| entry * rate).collect();
        if let Some(turns) = rope.turns(layer, false, &positions) {
            rope.apply(&mut entries, &turns, dim);
        }
        Ok(entries)
    }

    /// The indexer's score of each entry for each query, `[n, entries]`.
    fn scores<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        layer: usize,
        (x, queries): (&Array2<R>, &Array2<R>),
        positions: &[usize],
        rope: &Rope,
    ) -> Result<Array2<R>> {
        let (heads, dim) = (self.index_heads, self.index_dim);
        if dim < rope.dim() {
            return Err(broken("more dims turn than a head of the indexer has"));
        }
        let name = format!("{name}.index");
        let keys = self.made(params, &name, layer, x, (self.sparse_rate, dim, true), rope)?;
        let map = |x: &Array2<R>, part: &str, width| {
            params.linear(x, &format!("{name}.{part}"), width, Bias::Is(false))
        };
        let mut q = map(queries, "q_proj", heads * dim)?;
        if let Some(turns) = rope.turns(layer, false, positions) {
            rope.apply(&mut q, &turns, dim);
        }
        let weights = map(x, "weights_proj", heads)?;
        let scale = R::of((dim as f64).sqrt() * (heads as f64).sqrt());
        let mut scores = Array2::zeros((x.nrows(), keys.nrows()));
        for head in 0..heads {
            let mut products = q.slice(s![.., head * dim..(head + 1) * dim]).dot(&keys.t());
            products.mapv_inplace(|x| x.max(R::zero()) / scale);
            scores += &(products * weights.slice(s![.., head..=head]));
        }
        Ok(scores)
    }

    /// Of what a query sees, leaves the entries of the greatest scores.
    fn leave_greatest<R: Real>(&self, seen: &mut [&mut bool], scores: ArrayView1<'_, R>) {
        let shown = (0..seen.len()).filter(|&entry| *seen[entry]);
        let kept = greatest(shown.map(|entry| (entry, scores[entry])), self.top_k);
        seen.iter_mut().for_each(|seen| **seen = false);
        kept.into_iter().for_each(|entry| *seen[entry] = true);
    }
}

/// Queries through a narrower form: `norm(x Waᵀ)`, `[n, attn_q_rank]`.
pub(super) fn narrow_queries<R: Real>(
    params: Params<'_>,
    name: &str,
    x: &Array2<R>,
    (norm, rank): (Norm, usize),
) -> Result<Array2<R>> {
    let q = params.linear(x, &format!("{name}.q_a_proj"), rank, Bias::Is(false))?;
    norm.apply(params, &format!("{name}.q_a_norm"), &q)
}
