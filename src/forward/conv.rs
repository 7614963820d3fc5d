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
//! - Over a spectrogram of `[mel_bins, frames]`, with weights of `[out, in, kernel]`: two of them, each
//!   `b_c + Σ_k Σ_i w_cki · x_(s·t + i − ⌊kernel/2⌋)k`. Their kernels are 3 wide, with the stride s = 1, then s = 2, and behind each is a `gelu_erf`:
//!   `[⌈frames/2⌉, hidden]`. Where `audio.conv_kernels` is not null, it has their widths, which are odd, s is 2 in both, and behind each is
//!   `[a, b] ↦ a ∘ σ(b)`, of its halves, `audio.conv_channels` and `2·hidden` channels in all: `[⌈⌈frames/2⌉/2⌉, hidden]`. Of the positions then as many,
//!   the first, are shown as the two make of the number of frames that the mask shows. What comes of them is multiplied by `embed_scale`.
//! - Over a waveform (`audio.stem` is `waveform`), a spectrogram of one bin: three of them, with `audio.conv_kernels` and `audio.conv_strides`, each
//!   `b_c + Σ_k Σ_i w_cki · x_(s·t + i)k` for all t whose frames are all there; `hidden`, `2·hidden` and `hidden` channels. The first has no b; behind it is
//!   a tanh, then `(x − mean)/√(var + 1e-5)` over all channels and positions of a sequence at once, weight and bias of `embed.conv_norm` for each channel;
//!   behind the others is a `gelu_erf`. Position t is shown where the mask shows frame t times the product of strides.

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

/// The convolutions over a spectrogram, or over a waveform.
pub(super) enum Stem {
    /// Two of width 3, a GELU behind each.
    Gelu,
    /// Two of these widths, a gate behind each; the channels of the first.
    Gated([usize; 2], usize),
    /// Three of these widths and strides.
    Waveform([usize; 3], [usize; 3]),
}

impl Stem {
    pub(super) fn read(keys: Keys<'_>) -> Result<Stem> {
        let kernels = keys.opt_counts("audio.conv_kernels")?;
        match (keys.word("audio.stem")?.as_str(), kernels.as_deref()) {
            ("spectrogram", None) => return Ok(Stem::Gelu),
            ("spectrogram", Some(&[first, second])) => {
                let channels = keys.count("audio.conv_channels")?;
                if first % 2 == 1 && second % 2 == 1 && channels.is_multiple_of(2) {
                    return Ok(Stem::Gated([first, second], channels));
                }
            }
            ("waveform", Some(&[a, b, c])) => {
                if let [d, e, f] = keys.counts("audio.conv_strides")?[..]
                    && [a, b, c, d, e, f].iter().all(|&size| 0 < size)
                {
                    return Ok(Stem::Waveform([a, b, c], [d, e, f]));
                }
            }
            _ => {}
        }
        Err(broken("there are no such convolutions over a spectrogram or a waveform"))
    }

    /// The positions of a spectrogram of that many frames.
    pub(super) fn len(&self, frames: usize) -> usize {
        match self {
            Stem::Gelu => frames.div_ceil(2),
            Stem::Gated(..) => frames.div_ceil(2).div_ceil(2),
            Stem::Waveform(kernels, strides) => {
                let shrink = |n: usize, (kernel, stride): (&usize, &usize)| {
                    n.checked_sub(*kernel).map_or(0, |rest| rest / stride + 1)
                };
                kernels.iter().zip(strides).fold(frames, shrink)
            }
        }
    }

    /// The fewest frames of which that many positions come.
    pub(super) fn frames(&self, len: usize) -> usize {
        match self {
            Stem::Gelu | Stem::Gated(..) => len.saturating_mul(2),
            Stem::Waveform(kernels, strides) => {
                let grow = |n: usize, (kernel, stride): (&usize, &usize)| {
                    n.saturating_sub(1).saturating_mul(*stride).saturating_add(*kernel)
                };
                kernels.iter().zip(strides).rev().fold(len, grow)
            }
        }
    }

    /// The mask of the positions, from that of the frames where these count.
    pub(super) fn mask(&self, mask: &[Vec<i64>], frames: usize) -> Vec<Vec<i64>> {
        let row = |row: &Vec<i64>| match self {
            Stem::Gated(..) if row.len() == frames => {
                let shown = self.len(row.iter().filter(|&&shown| shown != 0).count());
                (0..self.len(frames)).map(|position| i64::from(position < shown)).collect()
            }
            Stem::Waveform(_, strides) if row.len() == frames => {
                let every = strides.iter().fold(1, |all: usize, one| all.saturating_mul(*one));
                row.iter().step_by(every).take(self.len(frames)).copied().collect()
            }
            _ => row.clone(),
        };
        mask.iter().map(row).collect()
    }

    /// `[len, hidden]` of a spectrogram `[mel_bins, frames]`.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        spectrogram: &Array2<R>,
        hidden: usize,
    ) -> Result<Array2<R>> {
        let x = spectrogram.t().to_owned();
        let name = |n: usize| format!("encoder.embed.conv{n}");
        let gelu = |x: Array2<R>| x.mapv(|x| Activation::GeluErf.of(x));
        match *self {
            Stem::Gelu => {
                let x = gelu(convolve(params, &name(1), &x, hidden, (3, 1))?);
                Ok(gelu(convolve(params, &name(2), &x, hidden, (3, 2))?))
            }
            Stem::Gated([first, second], channels) => {
                let gate = |x: Array2<R>| {
                    let half = x.ncols() / 2;
                    let open = x.slice(s![.., half..]).mapv(|x| Activation::Sigmoid.of(x));
                    &x.slice(s![.., ..half]) * &open
                };
                let x = gate(convolve(params, &name(1), &x, channels, (first, 2))?);
                Ok(gate(convolve(params, &name(2), &x, 2 * hidden, (second, 2))?))
            }
            Stem::Waveform(kernels, strides) => {
                let x = inside(params, &name(1), &x, hidden, (kernels[0], strides[0]), false)?;
                let mut x = x.mapv(R::tanh);
                let n = R::of(x.len().max(1) as f64);
                let mean = x.sum() / n;
                x.mapv_inplace(|x| x - mean);
                let variance = x.iter().map(|&x| x * x).sum::<R>() / n;
                x.mapv_inplace(|x| x / (variance + R::of(1e-5)).sqrt());
                let part = |part: &str| -> Result<Array1<R>> {
                    params.vector(&format!("encoder.embed.conv_norm.{part}"), hidden)
                };
                let x = x * &part("weight")? + &part("bias")?;
                let second = (kernels[1], strides[1]);
                let x = gelu(inside(params, &name(2), &x, 2 * hidden, second, true)?);
                Ok(gelu(inside(params, &name(3), &x, hidden, (kernels[2], strides[2]), true)?))
            }
        }
    }
}

/// `[n, in]` to `[⌊(n − kernel)/stride⌋ + 1, out]` by `NAME.weight`, `[out, in, kernel]`, with nothing at the ends.
pub(super) fn inside<R: Real>(
    params: Params<'_>,
    name: &str,
    x: &Array2<R>,
    out: usize,
    (kernel, stride): (usize, usize),
    bias: bool,
) -> Result<Array2<R>> {
    let (n, channels) = x.dim();
    let weight: Array2<R> = params.kernel(&format!("{name}.weight"), [out, channels, kernel])?;
    let len = n.checked_sub(kernel).map_or(0, |rest| rest / stride + 1);
    let seen = Array2::from_shape_fn((len, channels * kernel), |(t, column)| {
        x[[t * stride + column % kernel, column / kernel]]
    });
    let y = seen.dot(&weight.t());
    match bias {
        true => Ok(y + &params.vector::<R>(&format!("{name}.bias"), out)?),
        false => Ok(y),
    }
}

/// `[n, in]` to `[⌈n/stride⌉, out]` by `NAME.weight`, `[out, in, kernel]`, with zeros at both ends.
fn convolve<R: Real>(
    params: Params<'_>,
    name: &str,
    x: &Array2<R>,
    out: usize,
    (kernel, stride): (usize, usize),
) -> Result<Array2<R>> {
    let (n, channels) = x.dim();
    let weight: Array2<R> = params.kernel(&format!("{name}.weight"), [out, channels, kernel])?;
    let bias: Array1<R> = params.vector(&format!("{name}.bias"), out)?;
    // Row t has what position t·stride sees, in the order of the kernel: channel, then place.
    let seen = Array2::from_shape_fn((n.div_ceil(stride), channels * kernel), |(t, column)| {
        let (channel, place) = (column / kernel, t * stride + column % kernel);
        // The middle is the position itself.
        place.checked_sub(kernel / 2).filter(|&at| at < n).map_or(R::zero(), |at| x[[at, channel]])
    });
    Ok(seen.dot(&weight.t()) + &bias)
}
