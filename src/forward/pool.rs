//! Layers that see fewer positions (`pool.layers` is not null).
//!
//! Before each layer that `pool.layers` lists the rows x of a sequence of n positions become fewer, y, and the layers go on with these:
//!
//! - `pool.kind` is `mean` or `max`: y_i is the mean, or dim by dim the greatest, of x_(2i) and x_(2i + 1). With `pool.first_apart` y_0 is
//!   x_0 and y_i that of x_(2i − 1) and x_(2i); `pool.truncate` then leaves the last row of x out. A row without a partner stands alone. y_i
//!   is shown where the mask shows all of these, and has the token type of the first of them; the place of a position, as relative sinusoids
//!   count, is i·S, with `pool.first_apart` `1 + (i − 1)·S`, of rows that are S positions. With `pool.queries_only` the attention of such
//!   a layer sees keys and values of x.
//! - `conv`: with r = `pool.stride` there are ⌊n/r⌋ rows, `norm(y)`: y_0 is x_0, and y_i is `act(b + Σ_k Σ_j w_(·kj)·x_(r·(i − 1) + j)k)`, of
//!   `pool.conv`; the norm is `pool.norm`. Row i is shown where the mask shows one of x_(r·i) to x_(r·i + r − 1).
//!
//! Where `pool.end` is not null, the rows before that layer are all there again. With f the rows before the first of `pool.layers`, and S how
//! many positions a row of y is, row p is `f_p + y_⌊p/S⌋`, with `pool.first_apart` `f_p + y_⌈p/S⌉`, with zeros for rows that y does not have; of
//! `conv` it is `norm(act(b + Σ_k Σ_j w_(·kj)·z_(p + j − ⌊(w − 1)/2⌋)k))` with `z_p = [f_p, y_min(1 + ⌊p/S⌋, m − 1)]`, m rows of y, zeros outside the
//! sequence, w columns of `pool.out_conv` and the norm `pool.out_norm`. The pooling `pooler` then reads y_0 in place of the first row.

use ndarray::{Array2, Axis, concatenate, s};

use super::keys::{Keys, broken};
use super::mlp::Activation;
use super::norm::Norm;
use super::real::Real;
use super::weights::Params;
use super::{Batch, conv};
use crate::base::error::{Error, Result};

/// How rows become fewer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mean,
    Max,
    Conv,
}

/// What a stack says of it.
struct Pool {
    layers: Vec<usize>,
    kind: Kind,
    stride: usize,
    first_apart: bool,
    truncate: bool,
    queries_only: bool,
    end: Option<usize>,
    out_kernel: usize,
    hidden: usize,
    norm: Norm,
    activation: Activation,
}

/// The rows that a stack goes on with, layer by layer.
pub(super) struct Pooling<'b, R> {
    params: Params<'b>,
    name: &'b str,
    pool: Option<Pool>,
    whole: &'b Batch,
    /// The batch of the rows that are left, where they are fewer.
    fewer: Option<Batch>,
    /// The rows before the first of these layers.
    first: Option<Array2<R>>,
    /// What the keys of this layer are made of, where it is not what its queries are.
    keys: Option<(Array2<R>, Option<Batch>)>,
    /// The first of the fewer rows as they were before all were there again, `[batch, hidden]`.
    summary: Option<Array2<R>>,
}

impl<'b, R: Real> Pooling<'b, R> {
    pub(super) fn read(
        params: Params<'b>,
        keys: Keys<'_>,
        name: &'b str,
        whole: &'b Batch,
    ) -> Result<Pooling<'b, R>> {
        let pool = Pool::read(keys)?;
        if pool.is_some() && (keys.count("moe.num_experts")? != 0 || whole.has_global()) {
            return Err(broken(
                "experts and global tokens are of positions, and later layers see fewer",
            ));
        }
        let (fewer, first, keys, summary) = (None, None, None, None);
        Ok(Pooling { params, name, pool, whole, fewer, first, keys, summary })
    }

    /// The rows that a layer begins with.
    pub(super) fn enter(&mut self, layer: usize, mut x: Array2<R>) -> Result<Array2<R>> {
        self.keys = None;
        let Some(pool) = &self.pool else { return Ok(x) };
        if pool.layers.contains(&layer) {
            let (y, fewer) = pool.shorten(self.params, self.name, &x, self.batch())?;
            self.first.get_or_insert_with(|| x.clone());
            let before = (std::mem::replace(&mut x, y), self.fewer.replace(fewer));
            self.keys = pool.queries_only.then_some(before);
        }
        if let (true, Some(fewer), Some(first)) =
            (pool.end == Some(layer), self.fewer.take_if(|_| pool.end == Some(layer)), &self.first)
        {
            let rows: Vec<usize> = fewer.sequences().map(|of| of.rows().start).collect();
            self.summary = Some(x.select(Axis(0), &rows));
            x = pool.lengthen(self.params, self.name, &x, first, (&fewer, self.whole))?;
        }
        Ok(x)
    }

    /// The batch of the rows that are there.
    pub(super) fn batch(&self) -> &Batch {
        self.fewer.as_ref().unwrap_or(self.whole)
    }

    /// The rows that keys of this layer are made of, where they are others.
    pub(super) fn keys(&self) -> Option<(&Array2<R>, &Batch)> {
        let (rows, batch) = self.keys.as_ref()?;
        Some((rows, batch.as_ref().unwrap_or(self.whole)))
    }

    /// The batch of the last rows, where they are fewer, and what `pooler` reads.
    pub(super) fn leave(self) -> (Option<Batch>, Option<Array2<R>>) {
        (self.fewer, self.summary)
    }
}

impl Pool {
    fn read(keys: Keys<'_>) -> Result<Option<Pool>> {
        let Some(layers) = keys.opt_counts("pool.layers")? else { return Ok(None) };
        let kind = match keys.word("pool.kind")?.as_str() {
            "mean" => Kind::Mean,
            "max" => Kind::Max,
            "conv" => Kind::Conv,
            other => return Err(broken(format!("`pool.kind` is {other:?}"))),
        };
        let stride = if kind == Kind::Conv { keys.count("pool.stride")? } else { 2 };
        let pool = Pool {
            layers,
            kind,
            stride,
            first_apart: keys.bool("pool.first_apart")?,
            truncate: keys.bool("pool.truncate")?,
            queries_only: keys.bool("pool.queries_only")?,
            end: keys.opt_count("pool.end")?,
            out_kernel: if kind == Kind::Conv { keys.count("pool.out_kernel")? } else { 0 },
            hidden: keys.count("hidden_size")?,
            norm: Norm::read(keys)?,
            activation: Activation::parse(&keys.word("activation")?)?,
        };
        let convolves = kind == Kind::Conv;
        let one = pool.layers.len() == 1 && !pool.queries_only && 0 < pool.out_kernel;
        if stride < 2 || (convolves && !one) || 16 < pool.layers.len() {
            return Err(broken("layers that see fewer positions are pooled one after the other"));
        }
        Ok(Some(pool))
    }

    /// The fewer rows of `x`, and their batch.
    fn shorten<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        batch: &Batch,
    ) -> Result<(Array2<R>, Batch)> {
        if self.kind == Kind::Conv {
            return self.convolve(params, name, x, batch);
        }
        self.halve(x, batch)
    }

    /// The mean or the greatest of each pair of rows.
    fn halve<R: Real>(&self, x: &Array2<R>, batch: &Batch) -> Result<(Array2<R>, Batch)> {
        let kept = batch.len - usize::from(self.first_apart && self.truncate && 0 < batch.len);
        let shift = usize::from(self.first_apart);
        if batch.len <= 1 + shift {
            return Err(too_short(batch.len));
        }
        // Row 0 stands for both of its pair where it is apart.
        let n = (kept + shift).div_ceil(2);
        let pair = |row: usize| {
            let first = (2 * row).saturating_sub(shift);
            first..(2 * row + 2 - shift).min(kept)
        };
        let mut fewer = Batch::new(batch.size, n, None, None)?;
        let step = 2 * batch.grid.1;
        fewer.grid = (if self.first_apart { 1 - step } else { 0 }, step);
        let mut y = Array2::zeros((batch.size * n, x.ncols()));
        for sequence in batch.sequences() {
            let start = sequence.rows().start;
            for row in 0..n {
                let mut out = y.row_mut(sequence.index * n + row);
                let of = pair(row);
                out.assign(&x.row(start + of.start));
                for other in of.clone().skip(1) {
                    out.zip_mut_with(&x.row(start + other), |a, &b| match self.kind {
                        Kind::Max => *a = a.max(b),
                        _ => *a = (*a + b) / R::of(2.0),
                    });
                }
                fewer.visible[sequence.index][row] =
                    of.clone().all(|at| batch.visible[sequence.index][at]);
                if let Some(of_token) = batch.types.get(start + of.start) {
                    fewer.types.push(*of_token);
                }
            }
        }
        Ok((y, fewer))
    }

    fn convolve<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        batch: &Batch,
    ) -> Result<(Array2<R>, Batch)> {
        let (rate, n) = (self.stride, batch.len / self.stride);
        if n == 0 {
            return Err(too_short(batch.len));
        }
        let mut fewer = Batch::new(batch.size, n, None, None)?;
        let mut parts = Vec::new();
        for sequence in batch.sequences() {
            let own = x.slice(s![sequence.rows(), ..]).to_owned();
            let conv = format!("{name}.pool.conv");
            let y = conv::inside(params, &conv, &own, self.hidden, (rate, rate), true)?;
            let y = y.mapv(|y| self.activation.of(y));
            let rows = concatenate![Axis(0), own.slice(s![..1, ..]), y.slice(s![..n - 1, ..])];
            parts.push(self.norm.apply(params, &format!("{name}.pool.norm"), &rows)?);
            let visible = &batch.visible[sequence.index];
            fewer.visible[sequence.index] =
                (0..n).map(|row| visible[row * rate..(row + 1) * rate].contains(&true)).collect();
        }
        Ok((joined(&parts)?, fewer))
    }

    /// All rows again.
    fn lengthen<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        y: &Array2<R>,
        first: &Array2<R>,
        (fewer, whole): (&Batch, &Batch),
    ) -> Result<Array2<R>> {
        let step = (0..self.layers.len()).fold(1usize, |n, _| n.saturating_mul(self.stride));
        let of = |place: usize| match (self.kind, self.first_apart) {
            (Kind::Conv, _) => (1 + place / step).min(fewer.len - 1),
            (_, true) => place.div_ceil(step),
            (_, false) => place / step,
        };
        let mut up = Array2::zeros(first.dim());
        for (sequence, short) in whole.sequences().zip(fewer.sequences()) {
            for place in 0..whole.len {
                if of(place) < fewer.len {
                    let row = y.row(short.rows().start + of(place));
                    up.row_mut(sequence.rows().start + place).assign(&row);
                }
            }
        }
        if self.kind != Kind::Conv {
            return Ok(up + first);
        }
        // Before anything is as large as they say.
        let conv = format!("{name}.pool.out_conv");
        let shape = [self.hidden, 2 * self.hidden, self.out_kernel];
        params.check(&format!("{conv}.weight"), &shape)?;
        let before = (self.out_kernel - 1) / 2;
        let behind = self.out_kernel - 1 - before;
        let mut parts = Vec::new();
        for sequence in whole.sequences() {
            let own = |x: &Array2<R>| x.slice(s![sequence.rows(), ..]).to_owned();
            let zeros = |n: usize| Array2::zeros((n, 2 * self.hidden));
            let both = concatenate![Axis(1), own(first), own(&up)];
            let both = concatenate![Axis(0), zeros(before), both, zeros(behind)];
            let x = conv::inside(params, &conv, &both, self.hidden, (self.out_kernel, 1), true)?;
            let x = x.mapv(|x| self.activation.of(x));
            parts.push(self.norm.apply(params, &format!("{name}.pool.out_norm"), &x)?);
        }
        joined(&parts)
    }
}

fn joined<R: Real>(parts: &[Array2<R>]) -> Result<Array2<R>> {
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    concatenate(Axis(0), &views).map_err(|err| broken(err.to_string()))
}

#[cold]
fn too_short(n: usize) -> Error {
    Error::unsupported(format!(
        "a sequence of {n} positions is too short for layers that see fewer"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::Hparams;
    use crate::package::Value;

    fn pool(first_apart: bool, truncate: bool) -> Pool {
        let (float, word) = (Value::Float, |text: &str| Value::Symbol(text.to_owned()));
        let hparams = Hparams::from([
            ("norm_type".to_owned(), word("layernorm")),
            ("norm_eps".to_owned(), float(1e-5)),
            ("norm_bias".to_owned(), Value::Bool(true)),
            ("norm_affine".to_owned(), Value::Bool(true)),
            ("norm_weight_offset".to_owned(), float(0.0)),
        ]);
        let norm = Norm::read(Keys::new(&hparams, None)).unwrap();
        Pool {
            layers: vec![1],
            kind: Kind::Mean,
            stride: 2,
            first_apart,
            truncate,
            queries_only: false,
            end: None,
            out_kernel: 0,
            hidden: 1,
            norm,
            activation: Activation::GeluErf,
        }
    }

    #[test]
    fn pairs_may_leave_the_first_apart_and_the_last_out() {
        let mut batch = Batch::new(1, 6, None, None).unwrap();
        batch.visible[0][5] = false;
        let x = Array2::from_shape_fn((6, 1), |(row, _)| row as f64);
        let rows = |pool: &Pool| {
            let (y, fewer) = pool.halve(&x, &batch).unwrap();
            (y.into_iter().collect::<Vec<_>>(), fewer.visible[0].clone(), fewer.grid)
        };
        let (y, shown, grid) = rows(&pool(false, true));
        assert_eq!((y, grid), (vec![0.5, 2.5, 4.5], (0, 2)));
        assert_eq!(shown, [true, true, false]);
        let (y, _, grid) = rows(&pool(true, true));
        assert_eq!((y, grid), (vec![0.0, 1.5, 3.5], (-1, 2)));
        let (y, shown, _) = rows(&pool(true, false));
        assert_eq!((y, shown), (vec![0.0, 1.5, 3.5, 5.0], vec![true, true, true, false]));
    }
}
