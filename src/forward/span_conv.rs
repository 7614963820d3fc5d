//! Convolutions with kernels of their own (`attn_span_conv` = w > 0, odd): heads beside those of the attention.
//!
//! With x, q, `h = num_heads`, `d = head_dim`, `e = v_head_dim` of Attention, q as it meets the keys there, and nothing, that is
//! zeros, outside a sequence:
//!
//! - `c_tk = Σ_i D_ki · x_(t + i − ⌊w/2⌋)k`, D of `span_conv.depth`; `m = (c Wkᵀ + bk) ∘ q`, `[n, h·d]`.
//! - The kernel of head j at position t is the softmax over its w entries of `m Wwᵀ + bw`, `[n, h·w]`.
//! - `u = x Wvᵀ + bv`, `[n, h·e]`, and head j puts out `Σ_i kernel_tji · u_(t + i − ⌊w/2⌋)j`.
//!
//! Positions that the mask hides are read as any other.

use ndarray::{Array2, s};

use super::Batch;
use super::keys::{Keys, broken};
use super::mix::softmax;
use super::place::Heads;
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// The convolutions of a stack.
pub(super) struct SpanConv {
    heads: Heads,
    width: usize,
}

impl SpanConv {
    /// `None` where there are none.
    pub(super) fn read(keys: Keys<'_>, heads: Heads) -> Result<Option<SpanConv>> {
        let width = keys.count("attn_span_conv")?;
        if width == 0 {
            return Ok(None);
        }
        if width.is_multiple_of(2) {
            return Err(broken(format!("a convolution of {width} positions has no middle")));
        }
        Ok(Some(SpanConv { heads, width }))
    }

    /// What the heads put out, `[batch · n, h·e]`, for `x`, `[batch · n, hidden]`, and its queries.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        q: &Array2<R>,
        batch: &Batch,
    ) -> Result<Array2<R>> {
        let Heads { q: heads, dim, v_dim, .. } = self.heads;
        let part = |part: &str| format!("{name}.span_conv.{part}");
        let depth: Array2<R> = params.matrix(&part("depth.weight"), [x.ncols(), self.width])?;
        let mut seen = Array2::zeros(x.dim());
        for sequence in batch.sequences() {
            let start = sequence.rows().start;
            for (place, at, from) in self.sights(batch.len) {
                let mut row = seen.row_mut(start + place);
                row += &(&depth.column(at) * &x.row(start + from));
            }
        }
        let map =
            |x: &Array2<R>, name: &str, out| params.linear(x, &part(name), out, Bias::Is(true));
        let keys = map(&seen, "key_proj", heads * dim)? * q;
        let mut kernels = map(&keys, "kernel_proj", heads * self.width)?;
        for mut row in kernels.rows_mut() {
            for mut kernel in row.exact_chunks_mut(self.width) {
                softmax(kernel.iter_mut(), None);
            }
        }
        let values = map(x, "value_proj", heads * v_dim)?;
        let mut output = Array2::zeros((x.nrows(), heads * v_dim));
        for sequence in batch.sequences() {
            let start = sequence.rows().start;
            for (place, at, from) in self.sights(batch.len) {
                for head in 0..heads {
                    let dims = head * v_dim..(head + 1) * v_dim;
                    let weight = kernels[[start + place, head * self.width + at]];
                    let value = values.slice(s![start + from, dims.clone()]);
                    let mut out = output.slice_mut(s![start + place, dims]);
                    out.scaled_add(weight, &value);
                }
            }
        }
        Ok(output)
    }

    /// What each position of a sequence sees: the position, the place in the kernel, and whose row is there.
    fn sights(&self, len: usize) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let width = self.width;
        (0..len).flat_map(move |place| {
            (0..width).filter_map(move |at| {
                let from = (place + at).checked_sub(width / 2).filter(|&from| from < len)?;
                Some((place, at, from))
            })
        })
    }
}
