//! Fourier layers: positions are mixed without weights.
//!
//! With n positions of d dims, `y_tj = Σ_s Σ_i x_si · cos(2π·(t·s/n + j·i/d))`: the real part of the
//! discrete Fourier transform over positions and dims. Every position counts, whatever the mask says.

use ndarray::{Array2, s};

use super::Batch;
use super::real::Real;

/// The transform of each sequence of `x`, `[batch · n, d]`.
pub(super) fn mix<R: Real>(x: &Array2<R>, batch: &Batch) -> Array2<R> {
    let (n, d) = (batch.len, x.ncols());
    let (cos, sin) = waves::<R>(n);
    let (dim_cos, dim_sin) = waves::<R>(d);
    let mut y = Array2::zeros(x.dim());
    for sequence in batch.sequences() {
        let part = x.slice(s![sequence.rows(), ..]);
        // cos(a + b) = cos a · cos b − sin a · sin b.
        let mixed = cos.dot(&part).dot(&dim_cos) - sin.dot(&part).dot(&dim_sin);
        y.slice_mut(s![sequence.rows(), ..]).assign(&mixed);
    }
    y
}

/// `cos(2π·r·c/n)` and `sin(2π·r·c/n)` at row r and column c.
fn waves<R: Real>(n: usize) -> (Array2<R>, Array2<R>) {
    // Whole turns are left out before they are multiplied, so that long sequences stay exact.
    let angle = |(r, c): (usize, usize)| std::f64::consts::TAU * ((r * c) % n) as f64 / n as f64;
    (
        Array2::from_shape_fn((n, n), |at| R::of(angle(at).cos())),
        Array2::from_shape_fn((n, n), |at| R::of(angle(at).sin())),
    )
}
