//! Rotary positions.
//!
//! In the rotary dims of a head, `r = rope_dim` of them, or those of the layer in `rope_dims` where it is not null, dim j pairs with dim j + r/2, for j from 0
//! to before r/2. At position p the pair turns by `p · f_j`:
//! `(a, b) → m · (a cos − b sin, b cos + a sin)`, where `f_j = rope_theta^(−2j/r)` and m = 1 unless
//! they are stretched (`rope_scaling.kind`), with `s = factor`, `n = original_max_positions` and
//! L = the greatest position + 1:
//!
//! - `linear`: `f_j / s`.
//! - `proportional`: `f_j / s` for the first `turned_pairs` pairs, 0 for the others.
//! - `dynamic`: theta becomes `theta · (s·L/n − (s − 1))^(r/(r − 2))`, where L > n.
//! - `steps`: theta becomes `theta · max(1, s^⌈log_s(L/n) + 1⌉ − 1)^(r/(r − 2))`.
//! - `llama3`: with the wavelength `w = 2π/f_j`: `f_j / s` where `w > n/low_freq_factor`; `f_j`
//!   where `w ≤ n/high_freq_factor`; between, `(1 − t)·f_j/s + t·f_j` with
//!   `t = (n/w − low)/(high − low)`.
//! - `yarn`: `(1 − t)·f_j + t·f_j/s`, where t rises from 0 to 1 for j between the pairs that make
//!   `beta_fast` and `beta_slow` turns over n: pair `r·ln(n/(2π·turns)) / (2·ln theta)`, rounded
//!   down and up if `truncate`. `m = attention_factor`.
//! - `longrope`: `f_j / e_j`, where e is `long_factor` if L > n, else `short_factor`;
//!   `m = attention_factor`, or `long_attention_factor` where L > n and there is one.
//!
//! With `rope_values` the heads of values turn as those of keys do.

use std::f64::consts::PI;

use ndarray::{Array2, s};

use super::Batch;
use super::keys::{Keys, broken};
use super::place::Place;
use super::real::Real;
use crate::base::error::Result;

/// The rotary positions of a stack.
pub(super) struct Rope {
    theta: f64,
    local_theta: Option<f64>,
    dim: usize,
    /// The rotary dims of each layer, where they differ.
    dims: Option<Vec<usize>>,
    at_first: bool,
    scaling: Scaling,
    skip: Vec<usize>,
    /// Whether values turn too.
    values: bool,
}

enum Scaling {
    None,
    Linear { factor: f64 },
    Proportional { factor: f64, turned: usize },
    Dynamic { factor: f64, original: f64 },
    Steps { factor: f64, original: f64 },
    Llama3 { factor: f64, original: f64, low: f64, high: f64 },
    Yarn { factor: f64, original: f64, fast: f64, slow: f64, truncate: bool, magnitude: f64 },
    Longrope { original: f64, short: (Vec<f64>, f64), long: (Vec<f64>, f64) },
}

/// Cosines and sines, `[n, rope_dim / 2]`, times the factor of both.
pub(super) struct Turns<R> {
    cos: Array2<R>,
    sin: Array2<R>,
}

impl<R: Real> Turns<R> {
    /// The same turns the other way.
    pub(super) fn back(self) -> Turns<R> {
        Turns { cos: self.cos, sin: -self.sin }
    }
}

impl Rope {
    /// `None` where positions are not rotary.
    pub(super) fn read(keys: Keys<'_>) -> Result<Option<Rope>> {
        if keys.word("position")? != "rope" {
            return Ok(None);
        }
        let dim = keys.count("rope_dim")?;
        let head_dim = keys.count("head_dim")?;
        let check = |dim: usize, head_dim: usize| match dim.is_multiple_of(2) && dim <= head_dim {
            true => Ok(()),
            false => {
                Err(broken(format!("`rope_dim` is {dim}: not pairs of a head's {head_dim} dims")))
            }
        };
        check(dim, head_dim)?;
        let dims = keys.opt_counts("rope_dims")?;
        let head_dims = keys.opt_counts("head_dims")?;
        for layer in 0..keys.count("num_layers")? {
            let of = |list: &Option<Vec<usize>>, all| match list {
                Some(list) => {
                    list.get(layer).copied().ok_or_else(|| broken("a layer without dims"))
                }
                None => Ok(all),
            };
            check(of(&dims, dim)?, of(&head_dims, head_dim)?)?;
        }
        let scaling = Scaling::read(keys, dim / 2)?;
        if dims.is_some() && matches!(scaling, Scaling::Longrope { .. }) {
            return Err(broken("layers of other rotary dims have no factors for their pairs"));
        }
        let values = keys.bool("rope_values")?;
        if values && keys.count("v_head_dim")? != head_dim {
            return Err(broken("values that turn are as wide as keys"));
        }
        Ok(Some(Rope {
            values,
            theta: keys.float("rope_theta")?,
            local_theta: keys.opt_float("rope_local.theta")?,
            dim,
            dims,
            at_first: match keys.word("rope_at")?.as_str() {
                "first" => true,
                "last" => false,
                other => return Err(broken(format!("`rope_at` is {other:?}"))),
            },
            scaling,
            skip: keys.counts("rope_skip_layers")?,
        }))
    }

    /// What queries and keys of a layer turn by at some positions; `None` if they do not turn.
    pub(super) fn turns<R: Real>(
        &self,
        layer: usize,
        sliding: bool,
        positions: &[usize],
    ) -> Option<Turns<R>> {
        if self.skip.contains(&layer) {
            return None;
        }
        let dim = self.dims.as_ref().map_or(self.dim, |dims| dims[layer]);
        let len = positions.iter().max().map_or(0, |last| last + 1);
        let (frequencies, magnitude) = match self.local_theta {
            Some(theta) if sliding => (frequencies(theta, dim), 1.0),
            _ => self.scaling.frequencies(self.theta, dim, len as f64),
        };
        let turn = |of: fn(f64) -> f64| {
            Array2::from_shape_fn((positions.len(), frequencies.len()), |(row, pair)| {
                R::of(of(positions[row] as f64 * frequencies[pair]) * magnitude)
            })
        };
        Some(Turns { cos: turn(f64::cos), sin: turn(f64::sin) })
    }

    /// How many dims of a head turn.
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Turns every head of queries, keys and, where these turn too, values, each
    /// `[batch · n, heads · head_dim]`, by its positions in a layer.
    pub(super) fn turn<R: Real>(
        &self,
        place: Place<'_>,
        [q, k, v]: [&mut Array2<R>; 3],
        batch: &Batch,
        head_dim: usize,
    ) {
        let all = [q, k].into_iter().chain(self.values.then_some(v));
        self.turn_by(place, all, batch, |x, turns| self.apply(x, &turns, head_dim));
    }

    /// The same, the other way.
    pub(super) fn turn_back<R: Real>(
        &self,
        place: Place<'_>,
        x: &mut Array2<R>,
        batch: &Batch,
        head_dim: usize,
    ) {
        self.turn_by(place, [x], batch, |x, turns| self.apply(x, &turns.back(), head_dim));
    }

    /// The same as `turn`, of the dims of heads from `start` on, wherever those of the attention stand.
    pub(super) fn turn_at<R: Real>(
        &self,
        place: Place<'_>,
        all: [&mut Array2<R>; 2],
        batch: &Batch,
        (head_dim, start): (usize, usize),
    ) {
        self.turn_by(place, all, batch, |x, turns| self.apply_at(x, &turns, head_dim, start));
    }

    fn turn_by<'x, R: Real>(
        &self,
        place: Place<'_>,
        all: impl IntoIterator<Item = &'x mut Array2<R>>,
        batch: &Batch,
        how: impl Fn(&mut Array2<R>, Turns<R>),
    ) {
        for x in all {
            for sequence in batch.sequences() {
                let positions = &batch.positions[sequence.index];
                let Some(turns) = self.turns(place.layer, place.sliding, positions) else { break };
                let mut part = x.slice(s![sequence.rows(), ..]).to_owned();
                how(&mut part, turns);
                x.slice_mut(s![sequence.rows(), ..]).assign(&part);
            }
        }
    }

    /// Turns every head of `x`, `[n, heads · head_dim]`, in place.
    pub(super) fn apply<R: Real>(&self, x: &mut Array2<R>, turns: &Turns<R>, head_dim: usize) {
        let first = if self.at_first { 0 } else { head_dim - 2 * turns.cos.ncols() };
        self.apply_at(x, turns, head_dim, first);
    }

    /// The same, of the dims from `first` on.
    pub(super) fn apply_at<R: Real>(
        &self,
        x: &mut Array2<R>,
        turns: &Turns<R>,
        head_dim: usize,
        first: usize,
    ) {
        let half = turns.cos.ncols();
        for ((mut row, cos), sin) in
            x.rows_mut().into_iter().zip(turns.cos.rows()).zip(turns.sin.rows())
        {
            for mut head in row.exact_chunks_mut(head_dim) {
                for pair in 0..half {
                    let (left, right) = (first + pair, first + pair + half);
                    let (a, b) = (head[left], head[right]);
                    head[left] = a * cos[pair] - b * sin[pair];
                    head[right] = b * cos[pair] + a * sin[pair];
                }
            }
        }
    }
}

/// `theta^(−2j/dim)` for each pair j.
fn frequencies(theta: f64, dim: usize) -> Vec<f64> {
    (0..dim / 2).map(|pair| theta.powf(-2.0 * pair as f64 / dim as f64)).collect()
}

/// The power of what theta grows by. Heads of one pair never turn faster or slower than one radian.
fn growing_power(dim: usize) -> f64 {
    let dims = dim as f64;
    if dim == 2 { 0.0 } else { dims / (dims - 2.0) }
}

impl Scaling {
    fn read(keys: Keys<'_>, n_pairs: usize) -> Result<Scaling> {
        let kind = keys.word("rope_scaling.kind")?;
        if kind == "none" {
            return Ok(Scaling::None);
        }
        let number = |name: &str| keys.float(&format!("rope_scaling.{name}"));
        let nullable = |name: &str| keys.opt_float(&format!("rope_scaling.{name}"));
        let factor = number("factor")?;
        if kind == "linear" {
            return Ok(Scaling::Linear { factor });
        }
        if kind == "proportional" {
            let turned = keys.count("rope_scaling.turned_pairs")?;
            return Ok(Scaling::Proportional { factor, turned });
        }
        let original = number("original_max_positions")?;
        let factors = |name: &str| {
            let factors = keys.floats(&format!("rope_scaling.{name}"))?;
            if factors.len() == n_pairs {
                return Ok(factors);
            }
            let n = factors.len();
            Err(broken(format!("`rope_scaling.{name}` has {n} factors for {n_pairs} pairs")))
        };
        Ok(match kind.as_str() {
            "dynamic" => Scaling::Dynamic { factor, original },
            "steps" => Scaling::Steps { factor, original },
            "llama3" => Scaling::Llama3 {
                factor,
                original,
                low: number("low_freq_factor")?,
                high: number("high_freq_factor")?,
            },
            "yarn" => {
                let grown = |mscale: f64| {
                    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
                };
                let both = nullable("mscale")?.zip(nullable("mscale_all_dim")?);
                let magnitude = match (nullable("attention_factor")?, both) {
                    (Some(stated), _) => stated,
                    (None, Some((above, below))) if above != 0.0 && below != 0.0 => {
                        grown(above) / grown(below)
                    }
                    _ => grown(1.0),
                };
                Scaling::Yarn {
                    factor,
                    original,
                    fast: number("beta_fast")?,
                    slow: number("beta_slow")?,
                    truncate: keys.bool("rope_scaling.truncate")?,
                    magnitude,
                }
            }
            "longrope" => {
                let grown =
                    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
                let magnitude = nullable("attention_factor")?.unwrap_or(grown);
                let long_magnitude = nullable("long_attention_factor")?.unwrap_or(magnitude);
                Scaling::Longrope {
                    original,
                    short: (factors("short_factor")?, magnitude),
                    long: (factors("long_factor")?, long_magnitude),
                }
            }
            other => return Err(broken(format!("`rope_scaling.kind` is {other:?}"))),
        })
    }

    /// The frequency of each pair, and the factor of cosines and sines, for a sequence of `len`
    /// positions.
    fn frequencies(&self, theta: f64, dim: usize, len: f64) -> (Vec<f64>, f64) {
        let plain = frequencies(theta, dim);
        match *self {
            Scaling::None => (plain, 1.0),
            Scaling::Linear { factor } => (plain.iter().map(|f| f / factor).collect(), 1.0),
            Scaling::Proportional { factor, turned } => {
                let turns = |(j, f): (usize, &f64)| if j < turned { f / factor } else { 0.0 };
                (plain.iter().enumerate().map(turns).collect(), 1.0)
            }
            Scaling::Dynamic { factor, original } => {
                let growth = factor * len.max(original) / original - (factor - 1.0);
                (frequencies(theta * growth.powf(growing_power(dim)), dim), 1.0)
            }
            Scaling::Steps { factor, original } => {
                // The logarithm to base 2 is exact where the length is a power of two of the other.
                let steps = ((len / original).log2() / factor.log2() + 1.0).ceil();
                let growth = (factor.powf(steps) - 1.0).max(1.0);
                (frequencies(theta * growth.powf(growing_power(dim)), dim), 1.0)
            }
            Scaling::Llama3 { factor, original, low, high } => {
                let stretch = |f: &f64| {
                    let wavelength = 2.0 * PI / f;
                    if original / low < wavelength {
                        f / factor
                    } else if wavelength <= original / high {
                        *f
                    } else {
                        let t = (original / wavelength - low) / (high - low);
                        (1.0 - t) * f / factor + t * f
                    }
                };
                (plain.iter().map(stretch).collect(), 1.0)
            }
            Scaling::Yarn { factor, original, fast, slow, truncate, magnitude } => {
                let pair = |turns: f64| {
                    dim as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln())
                };
                let (mut low, mut high) = (pair(fast), pair(slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
                if low == high {
                    high += 0.001; // As everyone does, lest the ramp be 0/0.
                }
                let stretch = |(j, f): (usize, &f64)| {
                    let t = ((j as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - t) * f + t * f / factor
                };
                (plain.iter().enumerate().map(stretch).collect(), magnitude)
            }
            Scaling::Longrope { original, ref short, ref long } => {
                let (factors, magnitude) = if original < len { long } else { short };
                (plain.iter().zip(factors).map(|(f, factor)| f / factor).collect(), *magnitude)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn rope(scaling: Scaling) -> Rope {
        let (theta, local_theta, dims) = (10_000.0, None, None);
        let (skip, values) = (vec![1], false);
        Rope { theta, local_theta, dim: 4, dims, at_first: true, scaling, skip, values }
    }

    #[track_caller]
    fn close(found: &[f64], wanted: &[f64]) {
        let far = found.iter().zip(wanted).any(|(f, w)| (f - w).abs() > 1e-12);
        assert!(found.len() == wanted.len() && !far, "{found:?}, not {wanted:?}");
    }

    #[test]
    fn dim_j_pairs_with_j_plus_half() {
        let rope = rope(Scaling::None);
        let turns = rope.turns::<f64>(0, false, &[0, 3]).unwrap();
        let mut x = array![[1.0, 2.0, 3.0, 4.0, 9.0], [1.0, 2.0, 3.0, 4.0, 9.0]];
        rope.apply(&mut x, &turns, 5);
        close(x.row(0).as_slice().unwrap(), &[1.0, 2.0, 3.0, 4.0, 9.0]);
        let (c, s) = (3f64.cos(), 3f64.sin());
        let (d, t) = (0.03f64.cos(), 0.03f64.sin());
        let turned = [c - 3.0 * s, 2.0 * d - 4.0 * t, 3.0 * c + s, 4.0 * d + 2.0 * t, 9.0];
        close(x.row(1).as_slice().unwrap(), &turned);
    }

    #[test]
    fn rotary_dims_may_be_the_last() {
        let rope = Rope { at_first: false, ..rope(Scaling::None) };
        let turns = rope.turns::<f64>(0, false, &[3]).unwrap();
        let mut x = array![[9.0, 1.0, 2.0, 3.0, 4.0]];
        rope.apply(&mut x, &turns, 5);
        assert_eq!(x[[0, 0]], 9.0);
        close(&[x[[0, 1]]], &[3f64.cos() - 3.0 * 3f64.sin()]);
    }

    #[test]
    fn layers_can_be_skipped_and_have_a_base_of_their_own() {
        let mut rope = rope(Scaling::Linear { factor: 4.0 });
        assert!(rope.turns::<f64>(1, false, &[0]).is_none());
        let full = rope.turns::<f64>(0, true, &[2]).unwrap();
        close(full.cos.as_slice().unwrap(), &[0.5f64.cos(), 0.005f64.cos()]);
        rope.local_theta = Some(100.0);
        let local = rope.turns::<f64>(0, true, &[2]).unwrap();
        close(local.cos.as_slice().unwrap(), &[2f64.cos(), 0.2f64.cos()]);
    }

    #[test]
    fn proportional_turns_the_first_pairs_of_wider_heads() {
        let scaling = Scaling::Proportional { factor: 2.0, turned: 1 };
        let rope = Rope { dims: Some(vec![4, 4, 8]), local_theta: Some(100.0), ..rope(scaling) };
        let full = rope.turns::<f64>(2, false, &[2]).unwrap();
        close(full.cos.as_slice().unwrap(), &[1f64.cos(), 1.0, 1.0, 1.0]);
        let local = rope.turns::<f64>(0, true, &[2]).unwrap();
        close(local.cos.as_slice().unwrap(), &[2f64.cos(), 0.2f64.cos()]);
    }

    #[test]
    fn dynamic_stretches_only_longer_sequences() {
        let dynamic = Scaling::Dynamic { factor: 2.0, original: 8.0 };
        close(&dynamic.frequencies(10_000.0, 4, 8.0).0, &[1.0, 0.01]);
        // theta · (2·16/8 − 1)^(4/2) = 90000.
        close(&dynamic.frequencies(10_000.0, 4, 16.0).0, &[1.0, 1.0 / 300.0]);
    }

    #[test]
    fn steps_stretch_by_powers() {
        let steps = Scaling::Steps { factor: 2.0, original: 8.0 };
        close(&steps.frequencies(10_000.0, 4, 8.0).0, &[1.0, 0.01]);
        // theta · (2^2 − 1)^2 up to 16 positions, theta · (2^3 − 1)^2 up to 32.
        close(&steps.frequencies(10_000.0, 4, 16.0).0, &[1.0, 1.0 / 300.0]);
        close(&steps.frequencies(10_000.0, 4, 17.0).0, &[1.0, 1.0 / 700.0]);
    }

    #[test]
    fn llama3_stretches_long_waves_and_blends_in_between() {
        let llama3 = Scaling::Llama3 { factor: 8.0, original: 64.0, low: 1.0, high: 4.0 };
        let (found, magnitude) = llama3.frequencies(2.0f64.powi(8), 8, 1.0);
        // Wavelengths 6.3, 25.1, 100.5, 402.1 between 16 and 64.
        let t = (64.0 / (8.0 * PI) - 1.0) / 3.0;
        close(&found, &[1.0, (1.0 - t) * 0.25 / 8.0 + t * 0.25, 0.0625 / 8.0, 0.015_625 / 8.0]);
        assert_eq!(magnitude, 1.0);
    }

    #[test]
    fn yarn_ramps_between_two_pairs() {
        let yarn = |truncate| Scaling::Yarn {
            factor: 4.0,
            original: 64.0,
            fast: 8.0,
            slow: 1.0,
            truncate,
            magnitude: 1.5,
        };
        // Pairs 8·ln(64/(2π·8))/(2·ln 256) = 0.174 and 1.674.
        let (found, magnitude) = yarn(true).frequencies(256.0, 8, 1.0);
        close(&found, &[1.0, 0.25 * (0.5 + 0.5 / 4.0), 0.0625 / 4.0, 0.015_625 / 4.0]);
        assert_eq!(magnitude, 1.5);
        let low = 8.0 * (64.0 / (16.0 * PI)).ln() / (2.0 * 256f64.ln());
        let t = (1.0 - low) / 1.5;
        let (found, _) = yarn(false).frequencies(256.0, 8, 1.0);
        close(&found[..2], &[1.0, 0.25 * (1.0 - t + t / 4.0)]);
    }

    #[test]
    fn longrope_has_factors_for_short_and_for_long() {
        let long = Scaling::Longrope {
            original: 8.0,
            short: (vec![1.0, 2.0], 1.25),
            long: (vec![4.0, 5.0], 1.5),
        };
        let (short, magnitude) = long.frequencies(10_000.0, 4, 8.0);
        close(&short, &[1.0, 0.005]);
        assert_eq!(magnitude, 1.25);
        let (long, magnitude) = long.frequencies(10_000.0, 4, 9.0);
        close(&long, &[0.25, 0.002]);
        assert_eq!(magnitude, 1.5);
    }
}
