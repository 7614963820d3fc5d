//! Gated linear recurrences (`ssm.kind` is `rglru`).
//!
//! With `c = ssm.inner` channels in `h = ssm.heads` blocks and `act` the activation of the stack: `z = act(u Wzᵀ + b)` and
//! `x = conv(u Wxᵀ + b)`, `[n, c]`, where the convolution is causal and depthwise. Each block of channels makes its own gates,
//! `i = σ(x Wiᵀ + b)` and `r = σ(x Wrᵀ + b)`. With `ln a = −8·r ∘ softplus(decay)` the state is
//! `s_t = a_t ∘ s_(t−1) + √(1 − a_t²) ∘ i_t ∘ x_t`, and `s_t = i_t ∘ x_t` where the position is 0. The result is `(s ∘ z) Woutᵀ + b`.

use ndarray::{Array1, Array2, Axis, concatenate, s};

use super::Batch;
use super::conv::causal;
use super::keys::{Keys, broken};
use super::mlp::{Activation, sigmoid, softplus};
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// The gated linear recurrence of a stack.
pub(super) struct Recurrent {
    inner: usize,
    heads: usize,
    kernel: usize,
    conv_bias: bool,
    proj_bias: Bias,
    activation: Activation,
}

impl Recurrent {
    pub(super) fn read(keys: Keys<'_>) -> Result<Recurrent> {
        let (inner, heads) = (keys.count("ssm.inner")?, keys.count("ssm.heads")?);
        if heads == 0 || !inner.is_multiple_of(heads) {
            return Err(broken(format!("{inner} channels are not {heads} blocks")));
        }
        Ok(Recurrent {
            inner,
            heads,
            kernel: keys.count("ssm.conv_kernel")?,
            conv_bias: keys.bool("ssm.conv_bias")?,
            proj_bias: Bias::Is(keys.bool("ssm.proj_bias")?),
            activation: Activation::parse(&keys.word("activation")?)?,
        })
    }

    /// The states for `u`, `[batch · n, hidden]`, times their gate.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        u: &Array2<R>,
        batch: &Batch,
    ) -> Result<Array2<R>> {
        let map =
            |part: &str| params.linear(u, &format!("{name}.{part}"), self.inner, self.proj_bias);
        let gate = map("gate_proj")?.mapv(|z| self.activation.of(z));
        let mut x = map("value_proj")?;
        batch.hide_padding(&mut x);
        let conv = format!("{name}.conv");
        let mut x = causal(params, &conv, &x, batch, self.kernel, self.conv_bias)?;
        batch.hide_padding(&mut x);
        let width = self.inner / self.heads;
        let gates = |part: &str| -> Result<Array2<R>> {
            let name = format!("{name}.{part}");
            let mut blocks = Vec::new();
            for head in 0..self.heads {
                let x = x.slice(s![.., head * width..(head + 1) * width]).to_owned();
                let of = (head, self.heads);
                blocks.push(params.expert(&x, &name, of, width, Bias::Is(true))?);
            }
            let views: Vec<_> = blocks.iter().map(|block| block.view()).collect();
            let gates = concatenate(Axis(1), &views).map_err(|err| broken(err.to_string()))?;
            Ok(gates.mapv(sigmoid))
        };
        let (input, recurrent) = (gates("input_gate")?, gates("recurrent_gate")?);
        let decay: Array1<R> = params.vector(&format!("{name}.decay"), self.inner)?;
        let decay = decay.mapv(softplus) * R::of(-8.0);
        let mut y = Array2::zeros(x.dim());
        for sequence in batch.sequences() {
            let mut state: Array1<R> = Array1::zeros(self.inner);
            let positions = &batch.positions[sequence.index];
            for (t, &position) in sequence.rows().zip(positions) {
                for channel in 0..self.inner {
                    let taken = input[[t, channel]] * x[[t, channel]];
                    let log = decay[channel] * recurrent[[t, channel]];
                    state[channel] = match position {
                        0 => taken,
                        _ => {
                            let share = (R::one() - (log + log).exp()).sqrt();
                            log.exp() * state[channel] + share * taken
                        }
                    };
                }
                y.row_mut(t).assign(&state);
            }
        }
        Ok(y * gate)
    }
}
