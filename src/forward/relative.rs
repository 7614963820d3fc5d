//! Relative sinusoids (`position` = `relative_sinusoid`), and segments (`attn_segments`).
//!
//! With q and k of Attention, head by head, to `q_i·k_j` is added, before the scores are scaled:
//!
//! - `u·k_j + (q_i + v)·R_(i − j)`, with u of `attn.content_bias`, v of `attn.place_bias`. R_p is `s_p Wᵀ`, W of `attn.rel_k_proj`, and s_p is
//!   of `hidden_size`: `sin(p·f_k)` for k from 0, then `cos(p·f_k)`, where `f_k = 10000^(−2k/hidden_size)`. Where `relative_clamp` c is not
//!   null, p is kept within −c..c.
//! - With `attn_segments`, `(q_i + w)·E_0` where tokens i and j are of one type, else `(q_i + w)·E_1`: w of
//!   `attn.segment_bias`, E of `attn.segments`. Tokens of the type `segment_of_all`, where it is not null, are of one type with all.
//!
//! With `relative_first_apart` there is nothing but `u·k_j` where i or j is the first row of the sequence. With `mask_spares_self` a position
//! sees itself also where the mask hides it. Where rows stand for several positions, i and j are their places (Layers that see fewer positions).

use ndarray::{Array1, Array2, Array3, s};

use super::keys::{Keys, broken};
use super::real::Real;
use super::weights::{Bias, Params};
use super::{Batch, Sequence};
use crate::base::error::Result;

/// What a stack says of relative sinusoids and segments.
pub(super) struct RelativeSinusoid {
    hidden: usize,
    heads: usize,
    dim: usize,
    clamp: Option<usize>,
    segments: bool,
    /// The type that is of one with all.
    of_all: Option<usize>,
    first_apart: bool,
}

/// The parts of a layer.
pub(super) struct Relatives<R> {
    dim: usize,
    content: Array1<R>,
    place: Array1<R>,
    /// Distances from `−span` to `span`, `[2·span + 1, h·d]`.
    distances: Array2<R>,
    span: isize,
    /// What is added to queries, and the rows for one segment and for two.
    segments: Option<(Array1<R>, Array2<R>)>,
    of_all: Option<usize>,
    first_apart: bool,
}

/// The place of a position, as distances count.
fn place(batch: &Batch, position: usize) -> isize {
    batch.grid.0 + batch.grid.1 * position as isize
}

impl RelativeSinusoid {
    /// `None` where positions are told apart otherwise.
    pub(super) fn read(keys: Keys<'_>) -> Result<Option<RelativeSinusoid>> {
        if keys.word("position")? != "relative_sinusoid" {
            return Ok(None);
        }
        let relative = RelativeSinusoid {
            hidden: keys.count("hidden_size")?,
            heads: keys.count("num_heads")?,
            dim: keys.count("head_dim")?,
            clamp: keys.opt_count("relative_clamp")?,
            segments: keys.bool("attn_segments")?,
            of_all: match keys.bool("attn_segments")? {
                true => keys.opt_count("segment_of_all")?,
                false => None,
            },
            first_apart: keys.bool("relative_first_apart")?,
        };
        if relative.hidden.is_multiple_of(2) && keys.count("num_kv_heads")? == relative.heads {
            return Ok(Some(relative));
        }
        Err(broken("relative sinusoids are pairs, and each head has keys of its own"))
    }

    /// Whether a position sees itself also where the mask hides it.
    pub(super) fn spares_self(keys: Keys<'_>) -> Result<bool> {
        Ok(keys.word("position")? == "relative_sinusoid" && keys.bool("mask_spares_self")?)
    }

    /// The parts of a layer for queries and keys of these batches.
    pub(super) fn of_layer<R: Real>(
        &self,
        params: Params<'_>,
        attn: &str,
        queries: &Batch,
        keys: &Batch,
    ) -> Result<Relatives<R>> {
        let width = self.heads * self.dim;
        let half = self.hidden / 2;
        // Before anything is as large as they say.
        let name = format!("{attn}.rel_k_proj");
        params.check(&format!("{name}.weight"), &[width, self.hidden])?;
        let last = |batch: &Batch| place(batch, batch.len.saturating_sub(1));
        let span = (last(queries) - place(keys, 0)).max(last(keys) - place(queries, 0)).max(0);
        let n_distances = 2 * span.unsigned_abs() + 1;
        let sinusoids = Array2::from_shape_fn((n_distances, self.hidden), |(row, k)| {
            let distance = row as f64 - span as f64;
            let clamp = self.clamp.map_or(f64::INFINITY, |clamp| clamp as f64);
            let frequency = 10_000f64.powf(-2.0 * (k % half) as f64 / self.hidden as f64);
            let angle = distance.clamp(-clamp, clamp) * frequency;
            R::of(if k < half { angle.sin() } else { angle.cos() })
        });
        let vector = |part: &str| params.vector(&format!("{attn}.{part}"), width);
        Ok(Relatives {
            dim: self.dim,
            content: vector("content_bias")?,
            place: vector("place_bias")?,
            distances: params.linear(&sinusoids, &name, width, Bias::Is(false))?,
            span,
            segments: match self.segments {
                true => {
                    let rows = params.matrix(&format!("{attn}.segments.weight"), [2, width])?;
                    Some((vector("segment_bias")?, rows))
                }
                false => None,
            },
            of_all: self.of_all,
            first_apart: self.first_apart,
        })
    }
}

impl<R: Real> Relatives<R> {
    /// What is added to the scores of one sequence, `[heads, n, m]`, by its queries, keys and the types of its tokens.
    pub(super) fn scores(
        &self,
        q: &Array2<R>,
        k: &Array2<R>,
        (queries, own): (&Batch, Sequence),
        (keys, other): (&Batch, Sequence),
    ) -> Array3<R> {
        let (q_types, k_types) = (queries.types_of(own), keys.types_of(other));
        let of_type = |types: &[usize], position: usize| types.get(position).copied().unwrap_or(0);
        let mut scores = Array3::zeros((q.ncols() / self.dim, q.nrows(), k.nrows()));
        for (head, mut scores) in scores.outer_iter_mut().enumerate() {
            let dims = head * self.dim..(head + 1) * self.dim;
            let q = q.slice(s![.., dims.clone()]);
            let of = |vector: &Array1<R>| vector.slice(s![dims.clone()]).to_owned();
            let content = k.slice(s![.., dims.clone()]).dot(&of(&self.content));
            let distances = self.distances.slice(s![.., dims.clone()]);
            let places = (&q + &of(&self.place)).dot(&distances.t());
            let segments = self
                .segments
                .as_ref()
                .map(|(bias, rows)| (&q + &of(bias)).dot(&rows.slice(s![.., dims.clone()]).t()));
            for ((i, j), score) in scores.indexed_iter_mut() {
                *score = content[j];
                if self.first_apart && i.min(j) == 0 {
                    continue;
                }
                let distance = self.span + place(queries, i) - place(keys, j);
                *score += places[[i, distance.unsigned_abs()]];
                if let Some(segments) = &segments {
                    let (a, b) = (of_type(q_types, i), of_type(k_types, j));
                    let alike = a == b || self.of_all.is_some_and(|all| a == all || b == all);
                    *score += segments[[i, usize::from(!alike)]];
                }
            }
        }
        scores
    }
}
