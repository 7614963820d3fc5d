//! The MLP and activations.
//!
//! Plain: `act(x Wupᵀ + b) Wdownᵀ + b`. Gated: `(act(x Wgateᵀ + b) ∘ (x Wupᵀ + b)) Wdownᵀ + b`. With
//! `inner_norm` what goes through `Wdown` is normed before. `x Wgateᵀ + b` is multiplied by `mlp_gate_scale`, the result of a
//! dense layer by `mlp_out_scale`. With `swiglu_oai` the middle is `(u + 1) ∘ g ∘ σ(α·g)`, with `g = min(gate, c)`, u the
//! other map kept within −c..c, `α = activation_alpha` and `c = activation_clamp`. Where `mlp_clamp` c is not null, a gated MLP's gate
//! is at most c before the activation, and the other map is kept within −c..c; where `moe.clamp` is not null, in experts that are chosen alone.
//!
//! In a layer whose share p in `mlp_sparsity` is not 0, `g = x Wgateᵀ + b` becomes `max(g − m − s·Φ⁻¹(p), 0)`, with the mean m and
//! the standard deviation s of each position's g. In dense layers the width is that of the layer in `mlp_widths`, where it is not null.
//!
//! In a layer whose c in `mlp_clamps` is not 0, the middle of a gated MLP and of a shared expert is `min(act(g), c) ∘ u`, with the other map u kept within
//! −c..c; that of the other experts by `moe.clamps`.
//!
//! Activations of one number, with Φ the normal distribution, `Φ(x) = (1 + erf(x/√2))/2`:
//!
//! | word | formula |
//! | --- | --- |
//! | `gelu_erf` | `x·Φ(x)` |
//! | `gelu_tanh` | `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))` |
//! | `gelu_quick` | `x·σ(1.702·x)` |
//! | `gelu_clip10` | `x·Φ(x)`, kept within −10..10 |
//! | `relu`, `relu2`, `relu6` | `max(x, 0)`; its square; `min(max(x, 0), 6)` |
//! | `leaky_relu` | x for x > 0, else `x/100` |
//! | `silu` | `x·σ(x)` |
//! | `hardswish` | `x·min(max(x + 3, 0), 6)/6` |
//! | `mish` | `x·tanh(softplus(x))` |
//! | `sigmoid`, `tanh`, `identity` | `σ(x)`; `tanh(x)`; x |
//! | `laplace` | `Φ((x − 0.707107)/0.282095)` |
//! | `sqrt_softplus` | `√softplus(x)` |
//! | `xielu` | `softplus(a_p)·x² + β·x` for x > 0, else `(β + softplus(a_n))·(e^min(x, ε) − 1 − x) + β·x`, with the tensors `act.alpha_p`, `act.alpha_n`, `act.beta` and `act.eps` of the layer |

use ndarray::{Array2, Zip};

use super::keys::{Keys, broken};
use super::norm::Norm;
use super::real::Real;
use super::sparse;
use super::weights::{Bias, Params};
use crate::base::error::{Error, Result};

/// An activation of one number.
#[derive(Clone, Copy)]
pub(super) enum Activation {
    /// `x·Φ(x)`, with the error function.
    GeluErf,
    /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    GeluTanh,
    /// `x·σ(1.702·x)`.
    GeluQuick,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    Relu2,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x` for x > 0, else `x/100`.
    LeakyRelu,
    /// `x·Φ(x)`, kept within −10..10.
    GeluClip10,
    /// `x·min(max(x + 3, 0), 6)/6`.
    HardSwish,
    /// `Φ((x − 0.707107)/0.282095)`.
    Laplace,
    /// `x·tanh(ln(1 + eˣ))`.
    Mish,
    /// `σ(x)`.
    Sigmoid,
    /// `√ln(1 + eˣ)`.
    SqrtSoftplus,
    /// `x·σ(x)`.
    Silu,
    /// `tanh x`.
    Tanh,
    /// `x`.
    Identity,
}

impl Activation {
    pub(super) fn parse(word: &str) -> Result<Activation> {
        Ok(match word {
            "gelu_erf" => Activation::GeluErf,
            "gelu_tanh" => Activation::GeluTanh,
            "gelu_quick" => Activation::GeluQuick,
            "relu" => Activation::Relu,
            "relu2" => Activation::Relu2,
            "relu6" => Activation::Relu6,
            "leaky_relu" => Activation::LeakyRelu,
            "gelu_clip10" => Activation::GeluClip10,
            "hardswish" => Activation::HardSwish,
            "laplace" => Activation::Laplace,
            "mish" => Activation::Mish,
            "sigmoid" => Activation::Sigmoid,
            "sqrt_softplus" => Activation::SqrtSoftplus,
            "silu" => Activation::Silu,
            "tanh" => Activation::Tanh,
            "identity" => Activation::Identity,
            other => return Err(broken(format!("there is no activation {other:?} of one number"))),
        })
    }

    pub(super) fn of<R: Real>(self, x: R) -> R {
        let half = R::of(0.5);
        let normal = |x: R| half * (R::one() + (x * R::of(0.5f64.sqrt())).error_function());
        let within = |x: R, least: f64, most: f64| x.max(R::of(least)).min(R::of(most));
        match self {
            Activation::GeluErf => x * normal(x),
            Activation::GeluClip10 => within(x * normal(x), -10.0, 10.0),
            // The numbers of transformers, six digits of them.
            #[allow(clippy::approx_constant)]
            Activation::Laplace => normal((x - R::of(0.707_107)) / R::of(0.282_095)),
            Activation::Relu6 => within(x, 0.0, 6.0),
            Activation::LeakyRelu => {
                if x > R::zero() {
                    x
                } else {
                    x * R::of(0.01)
                }
            }
            Activation::HardSwish => x * within(x + R::of(3.0), 0.0, 6.0) / R::of(6.0),
            Activation::Mish => x * softplus(x).tanh(),
            Activation::Sigmoid => sigmoid(x),
            Activation::SqrtSoftplus => softplus(x).sqrt(),
            Activation::GeluTanh => {
                let inner =
                    R::of((2.0 / std::f64::consts::PI).sqrt()) * (x + R::of(0.044_715) * x * x * x);
                half * x * (R::one() + inner.tanh())
            }
            Activation::GeluQuick => x * sigmoid(R::of(1.702) * x),
            Activation::Relu => x.max(R::zero()),
            Activation::Relu2 => x.max(R::zero()).powi(2),
            Activation::Silu => x * sigmoid(x),
            Activation::Tanh => x.tanh(),
            Activation::Identity => x,
        }
    }
}

/// `1/(1 + e^(−x))`.
pub(super) fn sigmoid<R: Real>(x: R) -> R {
    (R::one() + (-x).exp()).recip()
}

/// `ln(1 + eˣ)`.
pub(super) fn softplus<R: Real>(x: R) -> R {
    // Past 20 the difference from x is below the precision of F32.
    if x > R::of(20.0) { x } else { x.exp().ln_1p() }
}

/// What comes between the maps of an MLP.
#[derive(Clone, Copy)]
enum Middle {
    Plain(Activation),
    Gated(Activation),
    /// `(up + 1)·g·σ(alpha·g)`, where g = min(gate, clamp) and up is in −clamp..clamp.
    SwigluOai {
        alpha: f64,
        clamp: f64,
    },
    /// `softplus(alpha_p)·x² + beta·x` for x > 0, else
    /// `(beta + softplus(alpha_n))·(e^min(x, eps) − 1 − x) + beta·x`, by four numbers of the layer.
    Xielu {
        gated: bool,
    },
}

/// The MLP of a stack.
#[derive(Clone, Copy)]
pub(super) struct Mlp {
    hidden: usize,
    middle: Middle,
    gate_scale: f64,
    /// What the gate and the other map are kept within, where they are.
    clamp: Option<f64>,
    /// The share of the gate map's outputs that become 0.
    sparsity: f64,
    /// The bound of the activated gate and of the up map.
    limit: Option<f64>,
    /// The norm before the last map, where there is one.
    inner_norm: Option<Norm>,
}

impl Mlp {
    pub(super) fn read(keys: Keys<'_>) -> Result<Mlp> {
        let gated = keys.bool("mlp_gated")?;
        let middle = match keys.word("activation")?.as_str() {
            "swiglu_oai" if gated => Middle::SwigluOai {
                alpha: keys.float("activation_alpha")?,
                clamp: keys.float("activation_clamp")?,
            },
            "xielu" => Middle::Xielu { gated },
            word if gated => Middle::Gated(Activation::parse(word)?),
            word => Middle::Plain(Activation::parse(word)?),
        };
        let inner_norm = Norm::inner(keys)?;
        let gate_scale = if gated { keys.float("mlp_gate_scale")? } else { 1.0 };
        let hidden = keys.inner_width()?;
        let clamp = if gated { keys.opt_float("mlp_clamp")? } else { None };
        Ok(Mlp { hidden, middle, gate_scale, clamp, sparsity: 0.0, limit: None, inner_norm })
    }

    /// The same MLP whose gate and other map are kept within a bound.
    pub(super) fn kept_within(self, clamp: f64) -> Mlp {
        Mlp { clamp: Some(clamp), ..self }
    }

    /// The same MLP without a gate.
    pub(super) fn plain(self) -> Result<Mlp> {
        let middle = match self.middle {
            Middle::Plain(activation) | Middle::Gated(activation) => Middle::Plain(activation),
            Middle::Xielu { .. } => Middle::Xielu { gated: false },
            Middle::SwigluOai { .. } => return Err(broken("`swiglu_oai` wants a gate")),
        };
        Ok(Mlp { middle, ..self })
    }

    /// The same MLP where a share of the gate map's outputs become 0.
    pub(super) fn with_sparsity(self, sparsity: f64) -> Mlp {
        Mlp { sparsity, ..self }
    }

    /// The same MLP with a bound of what its first maps give; without one where it is 0.
    pub(super) fn with_clamp(self, clamp: f64) -> Mlp {
        Mlp { limit: (clamp != 0.0).then_some(clamp), ..self }
    }

    /// The MLP of `x`, `[n, hidden]`, by `NAME.gate_proj`, `NAME.up_proj`, `NAME.down_proj`; the biases are
    /// those of the maps into it, and of the last.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        width: usize,
        [in_bias, bias]: [Bias; 2],
    ) -> Result<Array2<R>> {
        self.with(params, name, x, width, &|x, part, width| {
            let bias = if part == "down_proj" { bias } else { in_bias };
            params.linear(x, &format!("{name}.{part}"), width, bias)
        })
    }

    /// The MLP with maps of any kind.
    pub(super) fn with<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        width: usize,
        map: Map<'_, R>,
    ) -> Result<Array2<R>> {
        let mut up = map(x, "up_proj", width)?;
        let gate = || {
            let mut gate = map(x, "gate_proj", width)? * R::of(self.gate_scale);
            if 0.0 < self.sparsity {
                sparse::leave_share(&mut gate, self.sparsity);
            }
            Ok::<_, Error>(gate)
        };
        match self.middle {
            Middle::Plain(activation) => up.mapv_inplace(|x| activation.of(x)),
            Middle::Gated(activation) => {
                let mut gate = gate()?;
                if let Some(clamp) = self.clamp.map(R::of) {
                    gate.mapv_inplace(|x| x.min(clamp));
                    up.mapv_inplace(|x| x.max(-clamp).min(clamp));
                }
                let most = self.limit.map_or_else(R::infinity, R::of);
                Zip::from(&mut up).and(&gate).for_each(|up, &gate| {
                    *up = up.max(-most).min(most) * activation.of(gate).min(most);
                });
            }
            Middle::SwigluOai { alpha, clamp } => {
                let (alpha, clamp) = (R::of(alpha), R::of(clamp));
                Zip::from(&mut up).and(&gate()?).for_each(|up, &gate| {
                    let gate = gate.min(clamp);
                    let linear = up.max(-clamp).min(clamp) + R::one();
                    *up = linear * gate * sigmoid(alpha * gate);
                });
            }
            Middle::Xielu { gated } => {
                let number = |part: &str| params.scalar::<R>(&format!("{name}.act.{part}"));
                let (beta, eps) = (number("beta")?, number("eps")?);
                let learned = |part: &str| -> Result<R> {
                    Ok(softplus(params.vector(&format!("{name}.act.{part}"), 1)?[0]))
                };
                let (positive, negative) = (learned("alpha_p")?, beta + learned("alpha_n")?);
                let xielu = |x: R| {
                    let curve = if x > R::zero() {
                        positive * x * x
                    } else {
                        negative * (x.min(eps).exp_m1() - x)
                    };
                    curve + beta * x
                };
                if gated {
                    Zip::from(&mut up).and(&gate()?).for_each(|up, &gate| *up *= xielu(gate));
                } else {
                    up.mapv_inplace(xielu);
                }
            }
        }
        if let Some(norm) = &self.inner_norm {
            up = norm.apply(params, &format!("{name}.inner_norm"), &up)?;
        }
        map(&up, "down_proj", self.hidden)
    }
}

/// A linear map by the part of its name and the width of its result.
type Map<'a, R> = &'a dyn Fn(&Array2<R>, &str, usize) -> Result<Array2<R>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_at_one_and_minus_two() {
        let at = |word: &str, x: f64| Activation::parse(word).unwrap().of(x);
        let values = [
            ("gelu_erf", 0.841_344_746_068_542_9, -0.045_500_263_896_358_42),
            ("gelu_tanh", 0.841_191_990_608_276_8, -0.045_402_305_912_224_926),
            ("gelu_quick", 0.845_795_765_932_821_2, -0.064_341_376_855_791_9),
            ("relu", 1.0, 0.0),
            ("relu2", 1.0, 0.0),
            ("silu", 0.731_058_578_630_004_9, -0.238_405_844_044_235_13),
            ("relu6", 1.0, 0.0),
            ("leaky_relu", 1.0, -0.02),
            ("gelu_clip10", 0.841_344_746_068_542_9, -0.045_500_263_896_358_42),
            ("hardswish", 0.666_666_666_666_666_6, -0.333_333_333_333_333_3),
            ("laplace", 0.850_429_649_284_570_3, 0.0),
            ("mish", 0.865_098_388_267_310_3, -0.252_501_482_695_708_9),
            ("sigmoid", 0.731_058_578_630_004_9, 0.119_202_922_022_117_57),
            ("sqrt_softplus", 1.145_976_303_209_723, 0.356_269_576_364_545_2),
            ("tanh", 0.761_594_155_955_764_9, -0.964_027_580_075_816_9),
        ];
        for (word, one, minus_two) in values {
            assert!((at(word, 1.0) - one).abs() < 1e-14, "{word} {}", at(word, 1.0));
            assert!((at(word, -2.0) - minus_two).abs() < 1e-14, "{word} {}", at(word, -2.0));
        }
        assert_eq!(at("relu2", 3.0), 9.0);
        assert_eq!(
            [at("relu6", 7.0), at("hardswish", 4.0), at("gelu_clip10", 11.0)],
            [6.0, 4.0, 10.0]
        );
        assert!(Activation::parse("swiglu_oai").is_err());
    }

    #[test]
    fn softplus_does_not_overflow() {
        assert_eq!(softplus(1000f32), 1000.0);
        assert!((softplus(0f64) - 2f64.ln()).abs() < 1e-15);
        assert!(softplus(-30f64) > 0.0);
    }
}
