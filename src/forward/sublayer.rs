//! A sublayer: where its norms act, and how its output and the stream add up.

use ndarray::{Array1, Array2};

use super::front::Front;
use super::keys::broken;
use super::norm::Norm;
use super::norm_gate::NormGate;
use super::real::Real;
use super::weights::Params;
use crate::base::error::Result;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    Pre,
    Post,
    Sandwich,
    Output,
    Through,
}

impl Placement {
    pub(super) fn parse(word: &str) -> Result<Placement> {
        Ok(match word {
            "pre" => Placement::Pre,
            "post" => Placement::Post,
            "sandwich" => Placement::Sandwich,
            "output" => Placement::Output,
            "through" => Placement::Through,
            other => return Err(broken(format!("`norm_placement` is {other:?}"))),
        })
    }
}

/// What layers have in common.
#[derive(Clone, Copy)]
pub(super) struct Stack<'a> {
    pub(super) params: Params<'a>,
    pub(super) norm: Norm,
    pub(super) placement: Placement,
    pub(super) residual_scale: f64,
    pub(super) skip_scale: f64,
    /// Whether each dim of the stream has a factor beside each sublayer.
    pub(super) skip_weights: bool,
    /// Whether the stream and what is added to it are shifted and multiplied, dim by dim.
    pub(super) affine: bool,
    pub(super) norm_gate: Option<&'a NormGate>,
    /// Whether the first layer may read what the embeddings' norm gave.
    pub(super) embed_norm: bool,
    /// Learned rows in front, where there are some.
    pub(super) front: Option<Front>,
}

impl Stack<'_> {
    /// The stream after a sublayer `f` whose tensors' names begin with `name`.
    pub(super) fn sublayer<R: Real>(
        &self,
        x: Array2<R>,
        name: &str,
        layer: usize,
        f: impl FnOnce(&Array2<R>) -> Result<Array2<R>>,
    ) -> Result<Array2<R>> {
        self.sublayer_and(x, name, layer, f, Ok)
    }

    /// The same, of a sublayer whose norm reads more than the stream that its output is added to.
    pub(super) fn sublayer_of<R: Real>(
        &self,
        x: Array2<R>,
        beside: Option<Array2<R>>,
        name: &str,
        layer: usize,
        f: impl FnOnce(&Array2<R>) -> Result<Array2<R>>,
    ) -> Result<Array2<R>> {
        let Some(beside) = beside else { return self.sublayer(x, name, layer, f) };
        if self.placement != Placement::Pre || self.norm_gate.is_some() || self.skip_weights {
            return Err(broken("blocks beside mixers want plain norms before these"));
        }
        let read = self.norm.apply(self.params, &format!("{name}.pre_norm"), &(&x + &beside))?;
        Ok(x * R::of(self.skip_scale) + &(f(&read)? * R::of(self.residual_scale)))
    }

    /// The same, where something changes the sum before it is normed.
    pub(super) fn sublayer_and<R: Real>(
        &self,
        x: Array2<R>,
        name: &str,
        layer: usize,
        f: impl FnOnce(&Array2<R>) -> Result<Array2<R>>,
        then: impl FnOnce(Array2<R>) -> Result<Array2<R>>,
    ) -> Result<Array2<R>> {
        let norm = |x: &Array2<R>, part: &str| {
            let mut y = self.norm.apply(self.params, &format!("{name}.{part}"), x)?;
            if let (Some(gate), "pre_norm") = (self.norm_gate, part) {
                y = gate.apply(self.params, name, layer, y)?;
            }
            match self.front {
                Some(front) if part == "pre_norm" && name.ends_with(".attn") => {
                    front.norm(&self.norm, self.params, name, x, y)
                }
                _ => Ok(y),
            }
        };
        let x = if self.placement == Placement::Through { norm(&x, "pre_norm")? } else { x };
        let mut y = match self.placement {
            Placement::Pre | Placement::Sandwich if !self.is_normed_already(name, layer)? => {
                f(&norm(&x, "pre_norm")?)?
            }
            _ => f(&x)?,
        };
        if matches!(self.placement, Placement::Sandwich | Placement::Output) {
            y = norm(&y, "post_norm")?;
        }
        y *= R::of(self.residual_scale);
        let mut x = x * R::of(self.skip_scale);
        if self.skip_weights {
            x *= &self.params.vector::<R>(&format!("{name}.skip_weights"), x.ncols())?;
        }
        if self.affine {
            let width = x.ncols();
            let vector = |part: &str| -> Result<Array1<R>> {
                self.params.vector(&format!("{name}.{part}"), width)
            };
            x = (x + &vector("skip_shift")?) * &vector("skip_weights")?;
            y = (y + &vector("out_shift")?) * &vector("out_weights")?;
        }
        let sum = then(x + &y)?;
        if self.placement == Placement::Post { norm(&sum, "res_norm") } else { Ok(sum) }
    }

    /// Whether the first sublayer reads what the embeddings' norm gave, and has none of its own.
    fn is_normed_already(&self, name: &str, layer: usize) -> Result<bool> {
        Ok(layer == 0
            && self.embed_norm
            && self.norm.has_weights()
            && name.ends_with(".attn")
            && !self.params.has(&format!("{name}.pre_norm.weight"))?)
    }

    pub(super) fn parallel<R: Real>(
        &self,
        x: &Array2<R>,
        (attn, attend): (&str, impl FnOnce(&Array2<R>) -> Result<Array2<R>>),
        (mlp, feed): (&str, impl FnOnce(&Array2<R>) -> Result<Array2<R>>),
        n_norms: usize,
    ) -> Result<Array2<R>> {
        if self.placement != Placement::Pre {
            return Err(broken("parallel sublayers are normed before, and nowhere else"));
        }
        let norm = |name: &str| self.norm.apply(self.params, &format!("{name}.pre_norm"), x);
        let first = norm(attn)?;
        let fed = if n_norms == 1 { feed(&first)? } else { feed(&norm(mlp)?)? };
        let both = (attend(&first)? + &fed) * R::of(self.residual_scale);
        Ok(x * R::of(self.skip_scale) + &both)
    }
}
