//! Queries and keys that convolutions mix (`qk_conv.kernels` is not null), and values of the position before.
//!
//! With `h = num_heads`, `g = num_kv_heads`, `d = head_dim`, q, k and v as their maps put them out, and `[t, s] = qk_conv.kernels`:
//!
//! - `z = [q, k]`, `[n, (h + g)·d]`, zeros before the first position; `y_p = b + Σ_i w_i ∘ z_(p − t + 1 + i)`, of `qk_conv.depth`, also before the first
//!   position; and `c_p = b + Σ_i W_i y_(p − s + 1 + i)`, of `qk_conv.group`, where the d dims of a head are made of those of the same head.
//! - `r = (q_i + k_j)/2` for query head i and the key head j that it reads. Query head i becomes `c_i + r_i`, key head j `c_j` plus the mean of r over
//!   the query heads that read it.
//! - The second half of the dims of all heads of v, end to end, is that of the position before, and its bias at the first.
//!
//! What the mask hides is zeros before the maps. With `attn_key_factor` a key head is last, after its norm, multiplied by its number, `attn.key_factor`.

use ndarray::{Array1, Array2, s};

use super::Batch;
use super::keys::{Keys, broken};
use super::place::Heads;
use super::real::Real;
use super::weights::Params;
use crate::base::error::Result;

/// The convolutions of a stack's queries and keys.
pub(super) struct QkConv {
    depth: usize,
    group: usize,
    bias: bool,
}

impl QkConv {
    /// `None` where queries and keys stay what their maps put out.
    pub(super) fn read(keys: Keys<'_>) -> Result<Option<QkConv>> {
        let Some(kernels) = keys.opt_counts("qk_conv.kernels")? else { return Ok(None) };
        let [depth, group] = kernels[..] else {
            return Err(broken("`qk_conv.kernels` are not two"));
        };
        if depth == 0 || group == 0 {
            return Err(broken("a convolution sees no position"));
        }
        Ok(Some(QkConv { depth, group, bias: keys.bool("attn_qkv_bias")? }))
    }

    /// Changes q, k and v, `[batch · n, h·d]`, `[batch · n, g·d]` twice.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        [q, k, v]: [&mut Array2<R>; 3],
        batch: &Batch,
        heads: Heads,
    ) -> Result<()> {
        let (dim, shared) = (heads.dim, heads.q / heads.kv);
        let (q_width, width) = (heads.q * dim, (heads.q + heads.kv) * dim);
        let part = |part: &str| format!("{name}.qk_conv.{part}");
        let depth: Array2<R> = params.matrix(&part("depth.weight"), [width, self.depth])?;
        let depth_bias: Array1<R> = params.vector(&part("depth.bias"), width)?;
        let group: Array2<R> = params.kernel(&part("group.weight"), [width, dim, self.group])?;
        let group_bias: Array1<R> = params.vector(&part("group.bias"), width)?;
        let late_bias: Option<Array1<R>> = match self.bias {
            true => Some(params.vector(&format!("{name}.v_proj.bias"), heads.kv * heads.v_dim)?),
            false => None,
        };
        let half = R::of(0.5);
        for sequence in batch.sequences() {
            let rows = sequence.rows();
            let (own_q, own_k) = (
                q.slice(s![rows.clone(), ..]).to_owned(),
                k.slice(s![rows.clone(), ..]).to_owned(),
            );
            let z = |t: usize, c: usize| match c.checked_sub(q_width) {
                Some(c) => own_k[[t, c]],
                None => own_q[[t, c]],
            };
            // Of positions from `group − 1` before the first on.
            let before = self.group - 1;
            let y = Array2::from_shape_fn((before + batch.len, width), |(row, c)| {
                let taps = (0..self.depth).filter_map(|i| {
                    let t = (row + i + 1).checked_sub(before + self.depth)?;
                    (t < batch.len).then(|| depth[[c, i]] * z(t, c))
                });
                taps.fold(depth_bias[c], |sum, tap| sum + tap)
            });
            for (t, row) in rows.clone().enumerate() {
                let mut mean = Array1::<R>::zeros(heads.kv * dim);
                for head in 0..heads.q {
                    for at in 0..dim {
                        let key = head / shared * dim + at;
                        let r = (own_q[[t, head * dim + at]] + own_k[[t, key]]) * half;
                        mean[key] += r / R::of(shared as f64);
                        q[[row, head * dim + at]] = r;
                    }
                }
                for c in 0..width {
                    let first = c / dim * dim;
                    let mut sum = group_bias[c];
                    for from in 0..dim {
                        for i in 0..self.group {
                            sum += group[[c, from * self.group + i]] * y[[t + i, first + from]];
                        }
                    }
                    match c.checked_sub(q_width) {
                        Some(key) => k[[row, key]] = sum + mean[key],
                        None => q[[row, c]] += sum,
                    }
                }
            }
            for row in rows.clone().rev() {
                for c in heads.kv * heads.v_dim / 2..heads.kv * heads.v_dim {
                    v[[row, c]] = match row == rows.start {
                        false => v[[row - 1, c]],
                        true => late_bias.as_ref().map_or_else(R::zero, |bias| bias[c]),
                    };
                }
            }
        }
        Ok(())
    }
}
