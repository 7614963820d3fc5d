//! How the heads of one sequence mix values by scores.

use std::cmp::Ordering;

use ndarray::{Array1, Array2, Array3, Axis, concatenate, s};

use super::place::Heads;
use super::real::Real;

/// How queries, keys and values of one sequence are mixed.
pub(super) struct Mixing<'m, R> {
    pub(super) heads: Heads,
    pub(super) scale: f64,
    pub(super) softcap: Option<f64>,
    /// Added to q·k before it is scaled, `[heads, n, m]`.
    pub(super) relative: Option<&'m Array3<R>>,
    /// Added to scores, `[heads, n, m]`.
    pub(super) bias: Option<&'m Array3<R>>,
    /// A score of each head that adds nothing.
    pub(super) sinks: Option<&'m Array1<R>>,
    /// The power of the weight by angle, in place of the softmax.
    pub(super) angle_power: Option<usize>,
    /// For each equal share of the heads the only keys that its queries see, `[n, m]`.
    pub(super) chosen: Option<&'m [Array2<bool>]>,
    /// Whether a query sees a key.
    pub(super) sees: &'m dyn Fn(usize, usize) -> bool,
}

impl<'m, R> Mixing<'m, R> {
    /// Scores by queries and keys alone.
    pub(super) fn plain(
        heads: Heads,
        scale: f64,
        softcap: Option<f64>,
        sees: &'m dyn Fn(usize, usize) -> bool,
    ) -> Mixing<'m, R> {
        let (relative, bias, sinks, angle_power, chosen) = (None, None, None, None, None);
        Mixing { heads, scale, softcap, relative, bias, sinks, angle_power, chosen, sees }
    }
}

/// `[n, h·d]`, `[m, g·d]`, `[m, g·e]` to `[n, h·e]`. A query that sees nothing gives zeros.
pub(super) fn mix<R: Real>(
    q: &Array2<R>,
    k: &Array2<R>,
    v: &Array2<R>,
    mixing: &Mixing<'_, R>,
) -> Array2<R> {
    let Heads { q: n_heads, kv, dim, v_dim } = mixing.heads;
    let shared = n_heads / kv;
    let mut output = Array2::zeros((q.nrows(), n_heads * v_dim));
    for head in 0..n_heads {
        let group = head / shared;
        let q = q.slice(s![.., head * dim..(head + 1) * dim]);
        let k = k.slice(s![.., group * dim..(group + 1) * dim]);
        let v = v.slice(s![.., group * v_dim..(group + 1) * v_dim]);
        let chosen = mixing.chosen.map(|shares| &shares[head * shares.len() / n_heads]);
        let sees =
            |q, k| (mixing.sees)(q, k) && chosen.is_none_or(|chosen: &Array2<bool>| chosen[[q, k]]);
        if let Some(power) = mixing.angle_power {
            let mixed = by_angle(&q.to_owned(), &k.to_owned(), power, &sees).dot(&v);
            output.slice_mut(s![.., head * v_dim..(head + 1) * v_dim]).assign(&unit_rows(mixed));
            continue;
        }
        let mut scores = q.dot(&k.t());
        if let Some(relative) = mixing.relative {
            scores += &relative.index_axis(Axis(0), head);
        }
        scores *= R::of(mixing.scale);
        if let Some(cap) = mixing.softcap {
            let cap = R::of(cap);
            scores.mapv_inplace(|x| cap * (x / cap).tanh());
        }
        if let Some(bias) = mixing.bias {
            scores += &bias.index_axis(Axis(0), head);
        }
        for ((q, k), score) in scores.indexed_iter_mut() {
            if !sees(q, k) {
                *score = R::neg_infinity();
            }
        }
        let sink = mixing.sinks.map(|sinks| sinks[head]);
        for mut row in scores.rows_mut() {
            softmax(row.iter_mut(), sink);
        }
        output.slice_mut(s![.., head * v_dim..(head + 1) * v_dim]).assign(&scores.dot(&v));
    }
    output
}

/// `(1 − angle/π)^power` for each query and key that it sees, else 0.
fn by_angle<R: Real>(
    q: &Array2<R>,
    k: &Array2<R>,
    power: usize,
    sees: &dyn Fn(usize, usize) -> bool,
) -> Array2<R> {
    let mut weights = unit_rows(q.clone()).dot(&unit_rows(k.clone()).t());
    for ((q, k), weight) in weights.indexed_iter_mut() {
        let cosine = weight.to_f64().clamp(-1.0, 1.0);
        let near = 1.0 - cosine.acos() / std::f64::consts::PI;
        let near = near.powi(i32::try_from(power).unwrap_or(i32::MAX));
        *weight = if sees(q, k) { R::of(near) } else { R::zero() };
    }
    weights
}

/// Each row divided by its length.
fn unit_rows<R: Real>(mut x: Array2<R>) -> Array2<R> {
    for mut row in x.rows_mut() {
        let length = row.iter().map(|&x| x * x).sum::<R>().sqrt().max(R::of(1e-12));
        row.mapv_inplace(|x| x / length);
    }
    x
}

/// The softmax, in place, of scores and of one more that is left out of the result.
pub(super) fn softmax<'x, R: Real>(
    scores: impl ExactSizeIterator<Item = &'x mut R>,
    other: Option<R>,
) {
    let mut scores: Vec<&mut R> = scores.collect();
    let greatest = scores.iter().map(|score| **score).chain(other).fold(R::neg_infinity(), R::max);
    if greatest == R::neg_infinity() {
        scores.iter_mut().for_each(|score| **score = R::zero());
        return;
    }
    let mut sum = other.map_or(R::zero(), |other| (other - greatest).exp());
    for score in &mut scores {
        **score = (**score - greatest).exp();
        sum += **score;
    }
    for score in scores {
        *score /= sum;
    }
}

/// The places of the n greatest of scored places, greatest first; of equals the first.
pub(super) fn greatest<R: Real>(
    scored: impl IntoIterator<Item = (usize, R)>,
    n: usize,
) -> Vec<usize> {
    let mut scored: Vec<(usize, R)> = scored.into_iter().collect();
    scored.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal));
    scored.into_iter().take(n).map(|(place, _)| place).collect()
}

/// The outputs of sequences, one under the other.
pub(super) fn stacked<R: Real>(parts: Vec<Array2<R>>, width: usize) -> Array2<R> {
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    // Fails only where there is nothing to put together.
    concatenate(Axis(0), &views).unwrap_or_else(|_| Array2::zeros((0, width)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_takes_its_part_and_gives_nothing() {
        let mut scores = [0.0f64, 3f64.ln()];
        softmax(scores.iter_mut(), None);
        assert!((scores[1] - 0.75).abs() < 1e-15);
        let mut scores = [0.0f64, 3f64.ln()];
        softmax(scores.iter_mut(), Some(4f64.ln()));
        assert!((scores[0] - 0.125).abs() < 1e-15 && (scores[1] - 0.375).abs() < 1e-15);
    }

    #[test]
    fn a_query_that_sees_nothing_gives_zeros() {
        let mut scores = [f32::NEG_INFINITY; 2];
        softmax(scores.iter_mut(), None);
        assert_eq!(scores, [0.0; 2]);
    }
}
