//! Norms over the last axis.
//!
//! `layernorm`: `(x − mean) / √(var + eps)`, where `var` is the mean of `(x − mean)²`.
//! `rmsnorm`: `x / √(mean(x²) + eps)`.
//! `affine`: x as it is. The LM head's norm is of `head_norm_type` where that is not null.
//! Then `· (weight + norm_weight_offset)`, where norms have weights, and `+ bias`, where they have
//! biases. `eps` is `norm_eps`, of the norm after the last layer `final_norm_eps` where that is not null. With
//! `norm_eps_step` n > 0 the norms of layer i, counted from 0, have `4^⌊i/n⌋·norm_eps`.

use ndarray::{Array1, Array2, ArrayViewMut1};

use super::keys::{Keys, broken};
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// The norm of a stack.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    unit: Unit,
    eps: f64,
    affine: bool,
    bias: Bias,
    offset: f64,
}

/// What a norm does before weights and biases.
#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Layer,
    Rms,
    Nothing,
}

impl Unit {
    fn parse(word: &str) -> Result<Unit> {
        Ok(match word {
            "layernorm" => Unit::Layer,
            "rmsnorm" => Unit::Rms,
            "affine" => Unit::Nothing,
            other => return Err(broken(format!("there is no norm {other:?}"))),
        })
    }
}

impl Norm {
    pub(super) fn read(keys: Keys<'_>) -> Result<Norm> {
        Ok(Norm {
            unit: Unit::parse(&keys.word("norm_type")?)?,
            eps: keys.float("norm_eps")?,
            affine: keys.bool("norm_affine")?,
            bias: Bias::Is(keys.bool("norm_bias")?),
            offset: keys.float("norm_weight_offset")?,
        })
    }

    /// The norm of heads, with a bias only where one is stored.
    pub(super) fn of_heads(keys: Keys<'_>) -> Result<Norm> {
        let norm = Norm::read(keys)?.with_stored_bias();
        match keys.opt_word("head_norm_type")? {
            Some(kind) => Ok(Norm { unit: Unit::parse(&kind)?, ..norm }),
            None => Ok(norm),
        }
    }

    /// The norm after the last layer.
    pub(super) fn last(keys: Keys<'_>) -> Result<Norm> {
        let norm = Norm::read(keys)?;
        let norm = if keys.bool("final_norm_bias")? { norm } else { norm.without_bias() };
        Ok(match keys.opt_float("final_norm_eps")? {
            Some(eps) => norm.with_eps(eps),
            None => norm,
        })
    }

    /// The norm before the last map of each sublayer, where there is one.
    pub(super) fn inner(keys: Keys<'_>) -> Result<Option<Norm>> {
        keys.bool("inner_norm")?.then(|| Norm::read(keys)).transpose()
    }

    /// The same norm with another epsilon.
    pub(super) fn with_eps(self, eps: f64) -> Norm {
        Norm { eps, ..self }
    }

    /// The same norm, with a bias only where one is stored.
    pub(super) fn with_stored_bias(self) -> Norm {
        Norm { bias: Bias::Stored, ..self }
    }

    /// The same norm without a bias.
    pub(super) fn without_bias(self) -> Norm {
        Norm { bias: Bias::Is(false), ..self }
    }

    /// The same norm, without weights and biases.
    pub(super) fn without_weights(self) -> Norm {
        Norm { affine: false, bias: Bias::Is(false), ..self }
    }

    /// Whether there have to be weights.
    pub(super) fn has_weights(&self) -> bool {
        self.affine
    }

    /// The norm of each row of `x`, `[n, width]`, by `NAME.weight` and `NAME.bias`.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
    ) -> Result<Array2<R>> {
        self.apply_per_group(params, name, x, x.ncols(), 1)
    }

    /// The norm of each run of `width` elements of a row. The weights are `width · n_weights`
    /// long: 1 for one that all runs share, or as many as there are runs.
    pub(super) fn apply_per_group<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        width: usize,
        n_weights: usize,
    ) -> Result<Array2<R>> {
        if width == 0 || !x.ncols().is_multiple_of(width) {
            return Err(broken(format!("`{name}`: {} are not runs of {width}", x.ncols())));
        }
        let len = width * n_weights;
        let mut y = self.units(x, width);
        if self.affine {
            let weight: Array1<R> = params.vector(&format!("{name}.weight"), len)?;
            let scale = weight + R::of(self.offset);
            each_run(&mut y, &scale, |x, scale| *x *= scale);
        }
        let bias_name = format!("{name}.bias");
        let has_bias = match self.bias {
            Bias::Is(is) => is,
            Bias::Stored => params.has(&bias_name)?,
        };
        if has_bias {
            let bias = params.vector(&bias_name, len)?;
            each_run(&mut y, &bias, |x, bias| *x += bias);
        }
        Ok(y)
    }
}

impl Norm {
    /// `x` before weights and biases, for each run of `width` elements of a row.
    fn units<R: Real>(&self, x: &Array2<R>, width: usize) -> Array2<R> {
        let mut y = x.clone();
        if self.unit == Unit::Nothing {
            return y;
        }
        for mut row in y.rows_mut() {
            for mut run in row.exact_chunks_mut(width) {
                unit(&mut run, self.unit == Unit::Layer, self.eps);
            }
        }
        y
    }

    /// The norm by row `at` of `n` of `NAME.weight` and `NAME.shift`.
    pub(super) fn apply_one<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        (at, n): (usize, usize),
        x: &Array2<R>,
    ) -> Result<Array2<R>> {
        let row = |part: &str| -> Result<Array1<R>> {
            let all: Array2<R> = params.matrix(&format!("{name}.{part}"), [n, x.ncols()])?;
            Ok(all.row(at).to_owned())
        };
        let scale = row("weight")? + R::of(self.offset);
        Ok(self.units(x, x.ncols()) * &scale + &row("shift")?)
    }
}

/// Changes each element by that of a vector which is repeated along each row.
fn each_run<R: Real>(y: &mut Array2<R>, by: &Array1<R>, change: impl Fn(&mut R, R)) {
    for mut row in y.rows_mut() {
        for (x, &by) in row.iter_mut().zip(by.iter().cycle()) {
            change(x, by);
        }
    }
}

fn unit<R: Real>(x: &mut ArrayViewMut1<'_, R>, centred: bool, eps: f64) {
    let n = R::of(x.len() as f64);
    if centred {
        let mean = x.sum() / n;
        x.mapv_inplace(|x| x - mean);
    }
    let mean_square = x.iter().map(|&x| x * x).sum::<R>() / n;
    let scale = (mean_square + R::of(eps)).sqrt().recip();
    x.mapv_inplace(|x| x * scale);
}

/// A layernorm of each row, without weights.
pub(super) fn layernorm<R: Real>(x: &Array2<R>, eps: f64) -> Array2<R> {
    let mut y = x.clone();
    y.rows_mut().into_iter().for_each(|mut row| unit(&mut row, true, eps));
    y
}

/// An RMS norm of each run of `width` elements, without weights.
pub(super) fn rms<R: Real>(x: &mut Array2<R>, width: usize, eps: f64) {
    if width == 0 {
        return;
    }
    for mut row in x.rows_mut() {
        for mut run in row.exact_chunks_mut(width) {
            unit(&mut run, false, eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn layernorm_has_mean_0_and_variance_1() {
        let mut x = array![1.0f64, 2.0, 3.0, 6.0];
        unit(&mut x.view_mut(), true, 0.0);
        let root = 3.5f64.sqrt();
        assert!(
            (x - array![-2.0 / root, -1.0 / root, 0.0, 3.0 / root]).iter().all(|d| d.abs() < 1e-15)
        );
    }

    #[test]
    fn rmsnorm_does_not_centre() {
        let mut x = array![[3.0f64, 4.0, 1.0, 1.0]];
        rms(&mut x, 2, 0.5);
        let root = 13f64.sqrt();
        let want = [3.0 / root, 4.0 / root, 1.0 / 1.5f64.sqrt(), 1.0 / 1.5f64.sqrt()];
        assert!(x.iter().zip(want).all(|(x, want)| (x - want).abs() < 1e-15));
    }
}
