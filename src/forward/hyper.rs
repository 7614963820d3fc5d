//! Streams that every sublayer mixes (`hyper.streams` = S > 0).
//!
//! There are S streams of `hidden_size`, at first all the input x; X is all of a position's, one behind the other, and
//! `m = rms(X) Wᵀ`, with the rms norm without weights, by `norm_eps`, and W of `hyper.proj`. With `e = hyper.eps`:
//!
//! - Around a sublayer f (attention, MLP) m has S entries a, S entries b and S·S entries c, those to all streams from the first, from the
//!   second, and so on. By the three numbers g of `hyper.scale` and the entries h of `hyper.shift` that stand where they do:
//!   `a = σ(g_1·a + h) + e`, `b = p·σ(g_2·b + h)` with `p = hyper.out_scale`, `c = softmax(g_3·c + h) + e`, over the streams to which.
//! - c is then divided by its sums, plus e, over the streams from which; and `hyper.iterations − 1` times more by those over the streams to
//!   which, then by those over the streams from which.
//! - Stream s becomes `b_s·f(pre(Σ_t a_t·X_t)) + Σ_t c_ts·X_t`, with the norm of the sublayer.
//! - Without `hyper.mixed` there is no c, nor a third g: stream s becomes `(b_s + e)·f(pre(Σ_t a_t·X_t)) + X_s`.
//! - After the last layer the output is `Σ_t a_t·X_t`, `a = σ(g·m + h) + e`, by the tensors of the stack. The final norm follows.

use ndarray::{Array1, Array2, Axis, concatenate};

use super::keys::{Keys, broken};
use super::mix::softmax;
use super::mlp::sigmoid;
use super::norm::rms;
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// More than shares can change.
const MOST_ITERATIONS: usize = 10_000;

/// Streams that sublayers mix.
pub(super) struct Hyper<'a> {
    params: Params<'a>,
    n: usize,
    /// Whether each stream becomes a sum of all.
    mixed: bool,
    out_scale: f64,
    iterations: usize,
    eps: f64,
    norm_eps: f64,
}

impl<'a> Hyper<'a> {
    /// `None` where there is one stream, to which sublayers add.
    pub(super) fn read(
        params: Params<'a>,
        keys: Keys<'_>,
        stack: &str,
    ) -> Result<Option<Hyper<'a>>> {
        let n = keys.count("hyper.streams")?;
        if n == 0 {
            return Ok(None);
        }
        // Before anything is as large as that says.
        if params.shape(&format!("{stack}.hyper.shift"))? != [n] {
            return Err(broken(format!("`{stack}.hyper.shift` is not of {n} streams")));
        }
        let iterations = keys.count("hyper.iterations")?;
        if MOST_ITERATIONS < iterations {
            return Err(broken(format!(
                "shares are divided {iterations} times: they no longer change"
            )));
        }
        Ok(Some(Hyper {
            params,
            n,
            mixed: keys.bool("hyper.mixed")?,
            out_scale: keys.float("hyper.out_scale")?,
            iterations,
            eps: keys.float("hyper.eps")?,
            norm_eps: keys.float("norm_eps")?,
        }))
    }

    /// The streams of an input.
    pub(super) fn spread<R: Real>(&self, x: &Array2<R>) -> Vec<Array2<R>> {
        vec![x.clone(); self.n]
    }

    /// `rms(X) Wᵀ`, `[rows, out]`.
    fn told<R: Real>(&self, name: &str, streams: &[Array2<R>], out: usize) -> Result<Array2<R>> {
        let views: Vec<_> = streams.iter().map(|stream| stream.view()).collect();
        let joined = concatenate(Axis(1), &views);
        let mut joined = joined.map_err(|_| broken("streams are not of one shape"))?;
        let width = joined.ncols();
        rms(&mut joined, width, self.norm_eps);
        self.params.linear(&joined, &format!("{name}.hyper.proj"), out, Bias::Is(false))
    }

    /// `Σ_t a_t·X_t`, where a row of `shares` begins with a.
    fn collapsed<R: Real>(&self, shares: &Array2<R>, streams: &[Array2<R>]) -> Array2<R> {
        let mut sum = Array2::zeros(streams[0].dim());
        for (share, stream) in shares.columns().into_iter().zip(streams) {
            sum += &(stream * &share.insert_axis(Axis(1)));
        }
        sum
    }

    /// The streams after a sublayer whose tensors' names begin with `name`.
    pub(super) fn around<R: Real>(
        &self,
        name: &str,
        streams: &[Array2<R>],
        f: impl FnOnce(&Array2<R>) -> Result<Array2<R>>,
    ) -> Result<Vec<Array2<R>>> {
        let n = self.n;
        let (width, n_scales) = if self.mixed { ((2 + n) * n, 3) } else { (2 * n, 2) };
        let mut shares = self.told(name, streams, width)?;
        let scale: Array1<R> = self.params.vector(&format!("{name}.hyper.scale"), n_scales)?;
        let shift: Array1<R> = self.params.vector(&format!("{name}.hyper.shift"), width)?;
        let (eps, out_scale) = (R::of(self.eps), R::of(self.out_scale));
        let out_eps = if self.mixed { R::zero() } else { eps };
        for mut row in shares.rows_mut() {
            for (place, x) in row.iter_mut().enumerate() {
                *x = *x * scale[(place / n).min(2)] + shift[place];
            }
            let (mut before, mut mixing) = row.view_mut().split_at(Axis(0), 2 * n);
            for (place, x) in before.iter_mut().enumerate() {
                *x = if place < n { sigmoid(*x) + eps } else { sigmoid(*x) * out_scale + out_eps };
            }
            for mut from in mixing.exact_chunks_mut(n) {
                softmax(from.iter_mut(), None);
            }
            let mut mixing = mixing.into_iter().map(|x| *x + eps).collect::<Vec<R>>();
            if self.mixed {
                balance(&mut mixing, n, self.iterations, eps);
            }
            row.iter_mut().skip(2 * n).zip(mixing).for_each(|(x, share)| *x = share);
        }
        let y = f(&self.collapsed(&shares, streams))?;
        let share = |place: usize| shares.column(place).insert_axis(Axis(1));
        let stream = |to: usize| {
            let mut sum = &y * &share(n + to);
            if !self.mixed {
                return sum + &streams[to];
            }
            for (from, stream) in streams.iter().enumerate() {
                sum += &(stream * &share((2 + from) * n + to));
            }
            sum
        };
        Ok((0..n).map(stream).collect())
    }

    /// The output of the streams of a stack.
    pub(super) fn gather<R: Real>(&self, stack: &str, streams: &[Array2<R>]) -> Result<Array2<R>> {
        let mut shares = self.told(stack, streams, self.n)?;
        let scale: Array1<R> = self.params.vector(&format!("{stack}.hyper.scale"), 1)?;
        let shift: Array1<R> = self.params.vector(&format!("{stack}.hyper.shift"), self.n)?;
        for mut row in shares.rows_mut() {
            for (x, &shift) in row.iter_mut().zip(&shift) {
                *x = sigmoid(*x * scale[0] + shift) + R::of(self.eps);
            }
        }
        Ok(self.collapsed(&shares, streams))
    }
}

/// Divides the shares `[from, to]` of n streams by their sums, plus eps, along one side and the other.
fn balance<R: Real>(shares: &mut [R], n: usize, iterations: usize, eps: R) {
    let divide = |shares: &mut [R], of: &dyn Fn(usize, usize) -> usize| {
        for outer in 0..n {
            let sum: R = (0..n).map(|inner| shares[of(outer, inner)]).sum();
            (0..n).for_each(|inner| shares[of(outer, inner)] /= sum + eps);
        }
    };
    divide(shares, &|to, from| from * n + to);
    for _ in 1..iterations {
        divide(shares, &|from, to| from * n + to);
        divide(shares, &|to, from| from * n + to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_balanced_along_both_sides() {
        let mut shares = [0.9f64, 0.1, 0.6, 0.4];
        balance(&mut shares, 2, 40, 0.0);
        for pair in [[0, 1], [2, 3], [0, 2], [1, 3]] {
            assert!((shares[pair[0]] + shares[pair[1]] - 1.0).abs() < 1e-9, "{shares:?}");
        }
        let mut shares = [0.9f64, 0.1, 0.6, 0.4];
        balance(&mut shares, 2, 1, 0.0);
        assert!((shares[0] - 0.6).abs() < 1e-12 && (shares[3] - 0.8).abs() < 1e-12);
    }
}
