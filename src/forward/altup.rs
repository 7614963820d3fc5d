//! Streams side by side, and a map beside the attention.
//!
//! With `S = altup.streams` > 1 there are S streams of `hidden_size`, and layers compute with one of them,
//! `a = altup.active`. With rms(x) the root of a position's mean square:
//!
//! - The first is the input x; stream s > 0 is `y·rms(x)/max(rms(y), √1e-5)` with `y = x W_sᵀ`, W of `embed.altup.proj`.
//! - Before a layer stream s becomes `P_s = X_s + Σ_t (C r)_(s·S + t)·X_t`, with `r = tanh(norm(X_a)/hidden Rᵀ)`: R is `altup.router`, its
//!   norm `altup.router_norm`, C `altup.predict`. The layer reads P_a.
//! - After its MLP, whose output stream is y, stream s is `P_s + (1 + (K r)_s)·(y − P_a)`, with r of y in place of X_a, and K `altup.correct`.
//! - Embeddings of layers are weighed by stream a, times `altup.output_scale` where there is such a tensor, and what they give is
//!   added to all streams but the first.
//! - After the last layer the mean of the streams is the output, where stream s > 0 is again `y·rms(X_0)/max(rms(y), √1e-5)`, now
//!   with `y = X_s W_sᵀ`, W of `embed.altup.out_proj`.
//!
//! With `laurel.rank` > 0, what the attention's sublayer puts out, x + …, becomes `(x + … + u + norm(u Aᵀ Bᵀ))/√2`: u is what
//! the attention reads, A and B are `laurel.in_proj` and `laurel.out_proj`, the norm is `laurel.post_norm`.

use ndarray::{Array1, Array2, Axis};

use super::keys::{Keys, broken};
use super::norm::Norm;
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// Streams side by side.
pub(super) struct AltUp<'a> {
    params: Params<'a>,
    n: usize,
    active: usize,
    hidden: usize,
    norm: Norm,
    output_scale: bool,
}

impl<'a> AltUp<'a> {
    /// `None` where there is one stream.
    pub(super) fn read(params: Params<'a>, keys: Keys<'_>) -> Result<Option<AltUp<'a>>> {
        let n = keys.count("altup.streams")?;
        if n < 2 {
            return Ok(None);
        }
        let active = keys.count("altup.active")?;
        if n <= active {
            return Err(broken(format!("of {n} streams the active one is number {active}")));
        }
        Ok(Some(AltUp {
            params,
            n,
            active,
            hidden: keys.count("hidden_size")?,
            norm: Norm::read(keys)?.without_bias(),
            output_scale: keys.bool("altup.output_scale")?,
        }))
    }

    /// The streams of an input.
    pub(super) fn spread<R: Real>(&self, stack: &str, x: Array2<R>) -> Result<Vec<Array2<R>>> {
        let mut streams = vec![x];
        for s in 1..self.n {
            let name = format!("{stack}.embed.altup.proj");
            let other = self.map(&streams[0], &name, s)?;
            streams.push(as_long(other, &streams[0]));
        }
        Ok(streams)
    }

    /// The output of streams.
    pub(super) fn gather<R: Real>(&self, stack: &str, streams: &[Array2<R>]) -> Result<Array2<R>> {
        let mut sum = streams[0].clone();
        for (s, stream) in streams.iter().enumerate().skip(1) {
            let name = format!("{stack}.embed.altup.out_proj");
            sum += &as_long(self.map(stream, &name, s)?, &streams[0]);
        }
        Ok(sum / R::of(self.n as f64))
    }

    fn map<R: Real>(&self, x: &Array2<R>, name: &str, stream: usize) -> Result<Array2<R>> {
        let place = (stream - 1, self.n - 1);
        self.params.expert(x, name, place, self.hidden, Bias::Is(false))
    }

    /// What a layer is told of a stream, `[n, streams]`, through another map of `out` rows.
    fn routed<R: Real>(
        &self,
        name: &str,
        x: &Array2<R>,
        map: &str,
        out: usize,
    ) -> Result<Array2<R>> {
        let part = |part: &str| format!("{name}.{part}");
        let normed = self.norm.apply(self.params, &part("router_norm"), x)?;
        let normed = normed / R::of(self.hidden as f64);
        let mut routed = self.params.linear(&normed, &part("router"), self.n, Bias::Is(false))?;
        routed.mapv_inplace(|x| x.tanh());
        self.params.linear(&routed, &part(map), out, Bias::Is(false))
    }

    /// The streams before a layer whose tensors' names begin with `name`.
    pub(super) fn predict<R: Real>(
        &self,
        name: &str,
        streams: &[Array2<R>],
    ) -> Result<Vec<Array2<R>>> {
        let shares = self.routed(name, &streams[self.active], "predict", self.n * self.n)?;
        let mut predicted = streams.to_vec();
        for (s, predicted) in predicted.iter_mut().enumerate() {
            for (t, stream) in streams.iter().enumerate() {
                let share = shares.column(s * self.n + t).insert_axis(Axis(1));
                *predicted += &(stream * &share);
            }
        }
        Ok(predicted)
    }

    /// The stream that layers compute with.
    pub(super) fn active<R: Real>(&self, streams: &[Array2<R>]) -> Array2<R> {
        streams[self.active].clone()
    }

    /// The streams after a layer that made `y` of the active one.
    pub(super) fn correct<R: Real>(
        &self,
        name: &str,
        predicted: Vec<Array2<R>>,
        y: &Array2<R>,
    ) -> Result<Vec<Array2<R>>> {
        let shares = self.routed(name, y, "correct", self.n)?;
        let news = y - &predicted[self.active];
        let mut streams = predicted;
        for (s, stream) in streams.iter_mut().enumerate() {
            let share = shares.column(s).mapv(|share| share + R::one()).insert_axis(Axis(1));
            *stream += &(&news * &share);
        }
        Ok(streams)
    }

    /// What weighs the embeddings of a layer.
    pub(super) fn weighing<R: Real>(&self, name: &str, streams: &[Array2<R>]) -> Result<Array2<R>> {
        let active = self.active(streams);
        if !self.output_scale {
            return Ok(active);
        }
        let scale: Array1<R> = self.params.vector(&format!("{name}.output_scale"), self.hidden)?;
        Ok(active * &scale)
    }
}

/// `x` with each row as long as that of `like`.
fn as_long<R: Real>(mut x: Array2<R>, like: &Array2<R>) -> Array2<R> {
    for (mut x, like) in x.rows_mut().into_iter().zip(like.rows()) {
        let n = R::of(like.len() as f64);
        let own = x.iter().map(|&x| x * x).sum::<R>() / n;
        let wanted = like.iter().map(|&x| x * x).sum::<R>() / n;
        let factor = wanted.sqrt() / own.max(R::of(1e-5)).sqrt();
        x.mapv_inplace(|x| x * factor);
    }
    x
}

/// The map beside the attention.
pub(super) struct Laurel<'a> {
    params: Params<'a>,
    rank: usize,
    hidden: usize,
    norm: Norm,
}

impl<'a> Laurel<'a> {
    /// `None` where there is none.
    pub(super) fn read(params: Params<'a>, keys: Keys<'_>) -> Result<Option<Laurel<'a>>> {
        let rank = keys.count("laurel.rank")?;
        if rank == 0 {
            return Ok(None);
        }
        let hidden = keys.count("hidden_size")?;
        Ok(Some(Laurel { params, rank, hidden, norm: Norm::read(keys)?.without_bias() }))
    }

    /// `u + norm(u Aᵀ Bᵀ)`.
    pub(super) fn apply<R: Real>(&self, name: &str, u: &Array2<R>) -> Result<Array2<R>> {
        let part = |part: &str| format!("{name}.{part}");
        let down = self.params.linear(u, &part("in_proj"), self.rank, Bias::Is(false))?;
        let up = self.params.linear(&down, &part("out_proj"), self.hidden, Bias::Is(false))?;
        Ok(u + &self.norm.apply(self.params, &part("post_norm"), &up)?)
    }
}
