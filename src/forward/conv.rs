//! Convolutions: over positions, of the embeddings, and over a spectrogram. Nothing, that is zeros, stands
//! outside a sequence.
//!
//! - Causal and depthwise (of state spaces, linear attention and the short convolution), with weights w of
//!   `[channels, kernel]`: `y_tc = b_c + Σ_i w_ci · x_(t − kernel + 1 + i)c`.
//! - Short and gated (`conv.kernel`): `[B, C, x] = u Winᵀ + b`, each `hidden_size` wide; the result is
//!   `(C ∘ conv(B ∘ x)) Woutᵀ + b`, and conv is causal and depthwise.
//! - Of the embeddings x (`embed_conv.kernel` > 0, odd), with weights of `[hidden, hidden/groups, kernel]`: channel c of
//!   group `⌊c·groups/hidden⌋` is `b_c + Σ_k Σ_i w_cki · x_(t + i − ⌊kernel/2⌋)(k of the group)`, where positions that the
//!   mask hides are zeros. The first layer's output y becomes `norm(y + act(conv(x)))` by `res_norm`.
//! - Over a spectrogram of `[mel_bins, frames]`, with weights of `[out, in, 3]`: two of them, each
//!   `gelu(b_c + Σ_k Σ_i w_cki · x_(s·t + i − 1)k)`, with the stride s = 1, then s = 2: `[⌈frames/2⌉, hidden]`. This gelu is `gelu_erf`.

use ndarray::{Array1, Array2, s};

use super::Batch;
use super::keys::{Keys, broken};
use super::mlp::Activation;
use super::norm::Norm;
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// A causal depthwise convolution, over each sequence of `x`, `[batch · n, channels]`, by
/// `NAME.weight`, `[channels, kernel]`: `y_t = b + Σ_i w_i · x_(t − kernel + 1 + i)`, with zeros
/// before the first position.
pub(super) fn causal<R: Real>(
    params: Params<'_>,
    name: &str,
    x: &Array2<R>,
    batch: &Batch,
    kernel: usize,
    bias: bool,
) -> Result<Array2<R>> {
    let channels = x.ncols();
    let weight: Array2<R> = params.matrix(&format!("{name}.weight"), [channels, kernel])?;
    let bias: Array1<R> = match bias {
        true => params.vector(&format!("{name}.bias"), channels)?,
        false => Array1::zeros(channels),
    };
    let mut y = Array2::zeros(x.dim());
    for sequence in batch.sequences() {
        let rows = sequence.rows();
        for t in 0..batch.len {
            let mut out = y.row_mut(rows.start + t);
            out.assign(&bias);
            for back in 0..kernel.min(t + 1) {
                out += &(&weight.column(kernel - 1 - back) * &x.row(rows.start + t - back));
            }
        }
    }
    Ok(y)
}

/// The short gated convolution of a stack: `[B, C, x] = u Winᵀ`, `y = (C ∘ conv(B ∘ x)) Woutᵀ`.
pub(super) struct ShortConv {
    hidden: usize,
    kernel: usize,
    bias: bool,
}

impl ShortConv {
    pub(super) fn read(keys: Keys<'_>) -> Result<ShortConv> {
        Ok(ShortConv {
            hidden: keys.count("hidden_size")?,
            kernel: keys.count("conv.kernel")?,
            bias: keys.bool("conv.bias")?,
        })
    }

    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        u: &Array2<R>,
        batch: &Batch,
    ) -> Result<Array2<R>> {
        let (hidden, bias) = (self.hidden, Bias::Is(self.bias));
        let parts = params.linear(u, &format!("{name}.in_proj"), 3 * hidden, bias)?;
        let part = |n: usize| parts.slice(s![.., n * hidden..(n + 1) * hidden]);
        let gated = &part(0) * &part(2);
        let conv = causal(params, &format!("{name}.conv"), &gated, batch, self.kernel, self.bias)?;
        params.linear(&(&part(1) * &conv), &format!("{name}.out_proj"), hidden, bias)
    }
}

/// The convolution over positions of what heads have, `[batch · n, heads · dims]`: each head has a
/// kernel that its dims share, `NAME.weight`, `[heads, width]`, and there is nothing outside a sequence.
pub(super) fn of_heads<R: Real>(
    params: Params<'_>,
    name: &str,
    x: &Array2<R>,
    batch: &Batch,
    (heads, width): (usize, usize),
) -> Result<Array2<R>> {
    let kernel: Array2<R> = params.matrix(&format!("{name}.weight"), [heads, width])?;
    let dims = x.ncols() / heads.max(1);
    let mut y = Array2::zeros(x.dim());
    for sequence in batch.sequences() {
        let start = sequence.rows().start;
        for place in 0..batch.len {
            for at in 0..width {
                let from = (place + at).checked_sub(width / 2).filter(|&from| from < batch.len);
                let Some(from) = from else { continue };
                for column in 0..x.ncols() {
                    let weight = kernel[[column / dims, at]];
                    y[[start + place, column]] += weight * x[[start + from, column]];
                }
            }
        }
    }
    Ok(y)
}

/// The convolution of the embeddings that is added to the first layer's output.
pub(super) struct EmbedConv {
    kernel: usize,
    groups: usize,
    activation: Activation,
    norm: Norm,
}

impl EmbedConv {
    /// `None` where there is none.
    pub(super) fn read(keys: Keys<'_>) -> Result<Option<EmbedConv>> {
        let kernel = keys.count("embed_conv.kernel")?;
        if kernel == 0 {
            return Ok(None);
        }
        let groups = keys.count("embed_conv.groups")?;
        let hidden = keys.count("hidden_size")?;
        if kernel.is_multiple_of(2) || groups == 0 || !hidden.is_multiple_of(groups) {
            return Err(broken(format!(
                "a convolution of {kernel} positions and {hidden} channels in {groups} groups is none: \
                 positions are odd, and groups equal"
            )));
        }
        let activation = Activation::parse(&keys.word("embed_conv.activation")?)?;
        Ok(Some(EmbedConv { kernel, groups, activation, norm: Norm::read(keys)? }))
    }

    /// `norm(y + act(conv(x)))` for the embeddings `x` and the first layer's output `y`, both
    /// `[batch · n, hidden]`, by `NAME.weight`, `[hidden, hidden/groups, kernel]`.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        y: Array2<R>,
        batch: &Batch,
    ) -> Result<Array2<R>> {
        let hidden = x.ncols();
        let width = hidden / self.groups;
        let weight: Array2<R> =
            params.kernel(&format!("{name}.weight"), [hidden, width, self.kernel])?;
        let bias: Array1<R> = params.vector(&format!("{name}.bias"), hidden)?;
        let mut sum = y;
        for sequence in batch.sequences() {
            let rows = sequence.rows();
            let visible = &batch.visible[sequence.index];
            for group in 0..self.groups {
                let channels = group * width..(group + 1) * width;
                // Row t has what position t sees, in the order of the kernel: channel, then place.
                let seen =
                    Array2::from_shape_fn((batch.len, width * self.kernel), |(t, column)| {
                        let (channel, place) = (column / self.kernel, t + column % self.kernel);
                        let at = place.checked_sub(self.kernel / 2);
                        at.filter(|&at| at < batch.len && visible[at])
                            .map_or(R::zero(), |at| x[[rows.start + at, channels.start + channel]])
                    });
                let own = weight.slice(s![channels.clone(), ..]);
                let mut out = seen.dot(&own.t()) + bias.slice(s![channels.clone()]);
                out.mapv_inplace(|x| self.activation.of(x));
                let mut to = sum.slice_mut(s![rows.clone(), channels]);
                to += &out;
            }
        }
        self.norm.apply(params, &format!("{name}.res_norm"), &sum)
    }
}

/// The two convolutions over a spectrogram `[mel_bins, frames]`, each of width 3 with zeros at both
/// ends and a GELU after it, the second with stride 2: `[⌈frames/2⌉, hidden]`.
pub(super) fn stem<R: Real>(
    params: Params<'_>,
    spectrogram: &Array2<R>,
    hidden: usize,
) -> Result<Array2<R>> {
    let x = spectrogram.t().to_owned();
    let x = convolve(params, "encoder.embed.conv1", &x, hidden, 1)?;
    convolve(params, "encoder.embed.conv2", &x, hidden, 2)
}

/// `[n, in]` to `[⌈n/stride⌉, out]` by `NAME.weight`, `[out, in, 3]`.
fn convolve<R: Real>(
    params: Params<'_>,
    name: &str,
    x: &Array2<R>,
    out: usize,
    stride: usize,
) -> Result<Array2<R>> {
    let (n, channels) = x.dim();
    let weight: Array2<R> = params.kernel(&format!("{name}.weight"), [out, channels, 3])?;
    let bias: Array1<R> = params.vector(&format!("{name}.bias"), out)?;
    // Row t has what position t·stride sees, in the order of the kernel: channel, then place.
    let seen = Array2::from_shape_fn((n.div_ceil(stride), channels * 3), |(t, column)| {
        let (channel, place) = (column / 3, t * stride + column % 3);
        // Place 1 is the position itself.
        place.checked_sub(1).filter(|&at| at < n).map_or(R::zero(), |at| x[[at, channel]])
    });
    let mut y = seen.dot(&weight.t()) + &bias;
    y.mapv_inplace(|x| Activation::GeluErf.of(x));
    Ok(y)
}
