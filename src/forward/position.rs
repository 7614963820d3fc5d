//! What positions add to attention scores.
//!
//! ALiBi (`position` = `alibi`) adds `−slope_h · |q − k| · alibi.scale` for head h = 1…H, query place q
//! and key place k. With n = H rounded down to a power of two, `slope_h = 2^(−alibi.max·h/n)` for
//! h ≤ n, and `2^(−alibi.max·(2(h − n) − 1)/(2n))` for the further heads.
//!
//! A relative bias (`rel_bias.buckets` > 0) adds entry `[bucket, head]` of a table. With b buckets a
//! side (all of them where the stack is causal, else half) and e = ⌊b/2⌋, the distance `d = |q − k|` is in
//! bucket d where d < e, and else in `e + ⌊ln(d/e) / ln(max_distance/e) · (b − e)⌋`, at most b − 1,
//! computed in F32. Keys after the query are b buckets further where both sides have some, else
//! at distance 0. With `rel_bias.of_stream` the entry for query i is `(x_i Wᵀ + b)_(bucket·heads + head)` in its place: x is what the
//! attention reads, W and b are `attn.rel_bias.proj`.
//!
//! Disentangled attention (`position` = `disentangled`) adds, before the scores are scaled,
//! `q_i · K[row(i, j)]` (`c2p`) and `k_j · Q[row(i, j)]` (`p2c`): K and Q are the relative table
//! through the layer's key and query maps (`share_key`), or maps of its own. `row(i, j)` is
//! `span + d` for a key j at or before query i, at most 2·span − 1, and `span − d`, at least 0, for
//! one after it. d is |i − j|; with `buckets` b > 0, e = ⌊b/2⌋ and d > e it is
//! `e + ⌈ln(d/e) / ln((max_distance − 1)/e) · (e − 1)⌉`, computed in F32.

use ndarray::{Array2, Array3, s};

use super::Batch;
use super::keys::{Keys, broken};
use super::norm::Norm;
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// ALiBi.
pub(super) struct Alibi {
    max: f64,
    scale: f64,
}

impl Alibi {
    /// `None` where positions are told apart otherwise.
    pub(super) fn read(keys: Keys<'_>) -> Result<Option<Alibi>> {
        if keys.word("position")? != "alibi" {
            return Ok(None);
        }
        Ok(Some(Alibi { max: keys.float("alibi.max")?, scale: keys.float("alibi.scale")? }))
    }

    /// `−slope_h · |q − k| · scale` for head h, query q and key k, `[heads, n, n]`.
    pub(super) fn scores<R: Real>(&self, heads: usize, n: usize) -> Array3<R> {
        let slopes = alibi_slopes(heads, self.max);
        Array3::from_shape_fn((heads, n, n), |(head, q, k)| {
            R::of(-slopes[head] * q.abs_diff(k) as f64 * self.scale)
        })
    }
}

/// `2^(−max·k/n)` for k = 1..n, where n is `heads` rounded down to a power of two; the further
/// heads take every other slope of 2n heads, from the first.
fn alibi_slopes(heads: usize, max: f64) -> Vec<f64> {
    let n = if heads == 0 { 1 } else { 1 << heads.ilog2() };
    let slope = |k: usize, of: usize| (-max * k as f64 / of as f64).exp2();
    let first = (1..=n).map(|k| slope(k, n));
    first.chain((0..).map(|k| slope(2 * k + 1, 2 * n))).take(heads).collect()
}

/// The buckets of a relative bias.
pub(super) struct RelativeBias {
    buckets: usize,
    max_distance: usize,
    /// Whether all layers share one table.
    pub(super) shared: bool,
    /// Whether entries are made of the stream, in place of a table.
    pub(super) of_stream: bool,
    both_sides: bool,
}

impl RelativeBias {
    /// `None` where there is none.
    pub(super) fn read(keys: Keys<'_>) -> Result<Option<RelativeBias>> {
        let buckets = keys.count("rel_bias.buckets")?;
        if buckets == 0 {
            return Ok(None);
        }
        let bias = RelativeBias {
            buckets,
            max_distance: keys.count("rel_bias.max_distance")?,
            shared: keys.bool("rel_bias.shared")?,
            of_stream: keys.bool("rel_bias.of_stream")?,
            both_sides: !keys.bool("causal")?,
        };
        let exact = bias.side() / 2;
        if exact == 0 || bias.max_distance <= exact {
            return Err(broken(format!(
                "{buckets} relative buckets up to {}: none is logarithmic",
                bias.max_distance
            )));
        }
        Ok(Some(bias))
    }

    fn side(&self) -> usize {
        if self.both_sides { self.buckets / 2 } else { self.buckets }
    }

    /// The bucket of a key that far before a query, or `after` behind it. With b buckets a side, b/2 of them exact, the
    /// distance d is in bucket d where d < b/2, and else in
    /// `b/2 + ⌊ln(d/(b/2)) / ln(max_distance/(b/2)) · (b − b/2)⌋`, at most b − 1. Keys after the
    /// query are b buckets further where both sides have some, else at distance 0.
    fn bucket(&self, behind: Option<usize>, after: usize) -> usize {
        let side = self.side();
        let (offset, distance) = match (behind, self.both_sides) {
            (Some(distance), _) => (0, distance),
            (None, true) => (side, after),
            (None, false) => (0, 0),
        };
        let exact = side / 2;
        if distance < exact {
            return offset + distance;
        }
        // In F32, as everyone does: the bounds between buckets lie where rounding puts them.
        let ratio = (distance as f32 / exact as f32).ln();
        let whole = (self.max_distance as f64 / exact as f64).ln() as f32;
        let further = (ratio / whole * (side - exact) as f32) as usize;
        offset + (exact + further).min(side - 1)
    }

    /// `[heads, n, n]` from a table `[buckets, heads]`, or from what attention reads, where that is given.
    pub(super) fn scores<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        heads: usize,
        x: Option<Array2<R>>,
        batch: &Batch,
    ) -> Result<Array3<R>> {
        let shape = (heads, batch.len, batch.len);
        let bucket = |q: usize, k: usize| self.bucket(batch.behind(q, k), k.saturating_sub(q));
        if let Some(x) = x {
            let width = self.buckets * heads;
            let own = params.linear(&x, &format!("{name}.proj"), width, Bias::Is(true))?;
            let bucket = |q, k| bucket(q, k) * heads;
            return Ok(Array3::from_shape_fn(shape, |(head, q, k)| own[[q, bucket(q, k) + head]]));
        }
        let table: Array2<R> = params.matrix(&format!("{name}.weight"), [self.buckets, heads])?;
        Ok(Array3::from_shape_fn(shape, |(head, q, k)| table[[bucket(q, k), head]]))
    }
}

/// DeBERTa's relative positions.
pub(super) struct Disentangled<R> {
    span: usize,
    buckets: usize,
    max_distance: usize,
    c2p: bool,
    p2c: bool,
    share_key: bool,
    /// The relative table, `[2·span, hidden]`, normed if it is.
    table: Array2<R>,
}

impl<R: Real> Disentangled<R> {
    /// `None` where positions are told apart otherwise.
    pub(super) fn read(
        params: Params<'_>,
        keys: Keys<'_>,
        stack: &str,
    ) -> Result<Option<Disentangled<R>>> {
        if keys.word("position")? != "disentangled" {
            return Ok(None);
        }
        let span = keys.count("disentangled.span")?;
        let name = format!("{stack}.rel_embed");
        let mut table =
            params.matrix(&format!("{name}.weight"), [2 * span, keys.count("hidden_size")?])?;
        if keys.bool("disentangled.norm")? {
            table = Norm::read(keys)?.apply(params, &format!("{name}.norm"), &table)?;
        }
        Ok(Some(Disentangled {
            span,
            buckets: keys.count("disentangled.buckets")?,
            max_distance: keys.count("disentangled.max_distance")?,
            c2p: keys.bool("disentangled.c2p")?,
            p2c: keys.bool("disentangled.p2c")?,
            share_key: keys.bool("disentangled.share_key")?,
            table,
        }))
    }

    /// The queries and keys of the relative table in a layer, each `[2·span, heads · head_dim]`:
    /// through the maps of content where they are shared, else through its own.
    pub(super) fn maps(
        &self,
        params: Params<'_>,
        attn: &str,
        width: usize,
        (q_bias, k_bias): (Bias, Bias),
    ) -> Result<TableMaps<R>> {
        let (q, k) = if self.share_key {
            (("q_proj", q_bias), ("k_proj", k_bias))
        } else {
            (("rel_q_proj", q_bias), ("rel_k_proj", k_bias))
        };
        let map = |(name, bias)| params.linear(&self.table, &format!("{attn}.{name}"), width, bias);
        Ok(TableMaps {
            queries: self.p2c.then(|| map(q)).transpose()?,
            keys: self.c2p.then(|| map(k)).transpose()?,
        })
    }

    /// What is added to the scores of one sequence, before `attn_scale`: `[heads, n, n]` of
    /// `q_i · K(i − j)` (content to position) plus `k_j · Q(i − j)` (position to content), where
    /// K and Q are rows of the mapped table.
    pub(super) fn scores(
        &self,
        maps: &TableMaps<R>,
        q: &Array2<R>,
        k: &Array2<R>,
        head_dim: usize,
    ) -> Array3<R> {
        let n = q.nrows();
        let mut scores = Array3::zeros((q.ncols() / head_dim, n, n));
        for (head, mut scores) in scores.outer_iter_mut().enumerate() {
            let dims = s![.., head * head_dim..(head + 1) * head_dim];
            let against = |content: &Array2<R>, table: &Option<Array2<R>>| {
                table.as_ref().map(|table| content.slice(dims).dot(&table.slice(dims).t()))
            };
            let (to_position, to_content) = (against(q, &maps.keys), against(k, &maps.queries));
            for ((i, j), score) in scores.indexed_iter_mut() {
                let row = self.row(i, j);
                if let Some(to_position) = &to_position {
                    *score += to_position[[i, row]];
                }
                if let Some(to_content) = &to_content {
                    *score += to_content[[j, row]];
                }
            }
        }
        scores
    }

    /// The row of the table for query i and key j: `span + distance`, clamped.
    fn row(&self, i: usize, j: usize) -> usize {
        let mut distance = i.abs_diff(j);
        // With b buckets a side, b/2 of them exact, the distance d > b/2 becomes
        // b/2 + ⌈ln(d/(b/2)) / ln((max_distance − 1)/(b/2)) · (b/2 − 1)⌉.
        let exact = self.buckets / 2;
        if 0 < exact && exact < distance && 0 < self.max_distance {
            let exact_f = exact as f32;
            let ratio = (distance as f32 / exact_f).ln();
            let whole = ((self.max_distance as f32 - 1.0) / exact_f).ln();
            let further = (ratio / whole * (exact_f - 1.0)).ceil();
            distance = exact.saturating_add(further as usize);
        }
        if j <= i {
            self.span.saturating_add(distance).min((2 * self.span).saturating_sub(1))
        } else {
            self.span.saturating_sub(distance)
        }
    }
}

/// The relative table as a layer's queries and keys.
pub(super) struct TableMaps<R> {
    queries: Option<Array2<R>>,
    keys: Option<Array2<R>>,
}

/// The factor of a query that grows with its position, `1 + b·ln(1 + floor(p / length))`.
pub(super) struct PositionScale {
    b: f64,
    length: f64,
    offset: f64,
    /// The only layers that have it; all if there is no list.
    layers: Option<Vec<usize>>,
    /// The number of positions beyond which the factor is a logarithm of the position.
    log_length: Option<f64>,
}

impl PositionScale {
    /// `None` where queries have no factor.
    pub(super) fn read(keys: Keys<'_>) -> Result<Option<PositionScale>> {
        let log_length = keys.opt_count("attn_log_length")?.map(|length| length as f64);
        let none = PositionScale { b: 0.0, length: 1.0, offset: 0.0, layers: None, log_length };
        let Some(b) = keys.opt_float("attn_position_scale")? else {
            return Ok(log_length.is_some().then_some(none));
        };
        let length = keys.count("attn_position_scale_length")? as f64;
        let offset = keys.count("attn_position_scale_offset")? as f64;
        let layers = keys.opt_counts("attn_position_scale_layers")?;
        Ok(Some(PositionScale { b, length, offset, layers, log_length }))
    }

    pub(super) fn at(&self, position: f64) -> f64 {
        let log =
            self.log_length.map_or(1.0, |length| ((position + 1.0).ln() / length.ln()).max(1.0));
        log * (1.0 + self.b * (1.0 + ((position + self.offset) / self.length).floor()).ln())
    }

    /// Multiplies queries, `[batch · n, h·d]`, by their factors.
    pub(super) fn apply<R: Real>(&self, q: &mut Array2<R>, batch: &Batch) {
        for sequence in batch.sequences() {
            let mut rows = q.slice_mut(s![sequence.rows(), ..]);
            for (mut row, &p) in rows.rows_mut().into_iter().zip(&batch.positions[sequence.index]) {
                let factor = R::of(self.at(p as f64));
                row.mapv_inplace(|x| x * factor);
            }
        }
    }

    pub(super) fn is_in(&self, layer: usize) -> bool {
        self.layers.as_ref().is_none_or(|layers| layers.contains(&layer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(bias: &RelativeBias, q: usize, k: usize) -> usize {
        bias.bucket(q.checked_sub(k), k.saturating_sub(q))
    }

    #[test]
    fn slopes_of_a_power_of_two() {
        assert_eq!(alibi_slopes(4, 8.0), [0.25, 0.0625, 1.0 / 64.0, 1.0 / 256.0]);
    }

    #[test]
    fn further_heads_take_every_other_slope_of_twice_as_many() {
        let slopes = alibi_slopes(6, 8.0);
        assert_eq!(slopes, [0.25, 0.0625, 1.0 / 64.0, 1.0 / 256.0, 0.5, 0.125]);
    }

    fn buckets(both_sides: bool) -> RelativeBias {
        RelativeBias { buckets: 32, max_distance: 128, shared: true, of_stream: false, both_sides }
    }

    #[test]
    fn a_decoder_has_all_buckets_behind_it() {
        let bias = buckets(false);
        let found: Vec<usize> =
            [0, 1, 15, 16, 17, 31, 64, 127, 1000].iter().map(|&d| bucket(&bias, d, 0)).collect();
        assert_eq!(found, [0, 1, 15, 16, 16, 21, 26, 31, 31]);
        assert_eq!(bucket(&bias, 3, 9), 0);
    }

    #[test]
    fn an_encoder_has_half_of_them_on_each_side() {
        let bias = buckets(true);
        assert_eq!(bucket(&bias, 5, 5), 0);
        assert_eq!(bucket(&bias, 5, 2), 3);
        assert_eq!(bucket(&bias, 2, 5), 19);
        assert_eq!(bucket(&bias, 200, 0), 15);
        assert_eq!(bucket(&bias, 0, 200), 31);
    }

    fn disentangled(span: usize, buckets: usize) -> Disentangled<f64> {
        Disentangled {
            span,
            buckets,
            max_distance: 32,
            c2p: true,
            p2c: true,
            share_key: true,
            table: Array2::zeros((0, 0)),
        }
    }

    #[test]
    fn relative_rows_are_clamped() {
        let plain = disentangled(4, 0);
        assert_eq!(plain.row(2, 2), 4);
        assert_eq!(plain.row(2, 0), 6);
        assert_eq!(plain.row(9, 0), 7);
        assert_eq!(plain.row(0, 9), 0);
    }

    #[test]
    fn relative_rows_are_logarithmic_in_buckets() {
        let log = disentangled(8, 8);
        assert_eq!(log.row(4, 0), 12);
        // 4 + ⌈ln(8/4)/ln(31/4) · 3⌉ = 4 + ⌈1.02⌉.
        assert_eq!(log.row(8, 0), 14);
        assert_eq!(log.row(0, 8), 2);
    }
}
