//! Outputs of which about a given share becomes 0.

use ndarray::Array2;

use super::real::Real;

/// `max(x − m − s·Φ⁻¹(share), 0)` of each row, with its mean m and its standard deviation s.
pub(super) fn leave_share<R: Real>(x: &mut Array2<R>, share: f64) {
    let multiple = R::of(normal_quantile(share));
    for mut row in x.rows_mut() {
        let n = R::of(row.len() as f64);
        let mean = row.sum() / n;
        let variance = row.iter().map(|&x| (x - mean) * (x - mean)).sum::<R>() / n;
        let cutoff = mean + variance.sqrt() * multiple;
        row.mapv_inplace(|x| (x - cutoff).max(R::zero()));
    }
}

/// `Φ⁻¹(p)`: where the normal distribution is p.
fn normal_quantile(p: f64) -> f64 {
    if p <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if 1.0 <= p {
        return f64::INFINITY;
    }
    // Halved until nothing is left between: Φ rises everywhere.
    let normal = |x: f64| 0.5 * (1.0 + (x * 0.5f64.sqrt()).error_function());
    let (mut low, mut high) = (-40.0, 40.0);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if normal(middle) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn quantiles_of_the_normal_distribution() {
        for (p, wanted) in
            [(0.5, 0.0), (0.95, 1.644_853_626_951_472_7), (0.4, -0.253_347_103_135_799_7)]
        {
            assert!((normal_quantile(p) - wanted).abs() < 1e-9, "{p}: {}", normal_quantile(p));
        }
    }

    #[test]
    fn what_is_below_becomes_zero() {
        let mut x = array![[1.0f64, 2.0, 3.0, 4.0]];
        leave_share(&mut x, 0.5);
        let want = [0.0, 0.0, 0.5, 1.5];
        assert!(x.iter().zip(want).all(|(x, want)| (x - want).abs() < 1e-9), "{x}");
    }
}
