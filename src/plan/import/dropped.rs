//! What is no canonical tensor: compared with its recipe, and kept beside the package if it differs.

use super::make::make;
use super::planner::Planner;
use crate::base::diagnostic::Diagnostic;
use crate::checkpoint::{DType, Tensor};
use crate::package::{Dropped, WayBack};
use crate::plan::generic::unreadable;
use crate::plan::names::{self, Bound};
use crate::plan::program::Recipe;
use crate::plan::{Options, Step};

impl<'a> Planner<'a> {
    /// Compares a dropped buffer with its recipe; what differs is kept beside the package.
    pub(super) fn plan_drop(&mut self, drop: &names::DropInstance<'_>) {
        let Some(&tensor) = self.foreign.get(drop.name.as_str()) else { return };
        let bound = Bound { names: self.names, bindings: &drop.bindings };
        let why = &drop.drop.why;
        if drop.drop.kept {
            if drop.drop.computed {
                self.tell_rounded(tensor);
            }
            self.drop(tensor, why, WayBack::Kept);
            return;
        }
        let Some(rule) = &drop.drop.make else {
            self.findings.push(
                Diagnostic::warning(
                    "P015",
                    format!("`{}` is dropped for good: {why}", tensor.name),
                )
                .tensor(&tensor.name),
            );
            self.drop(tensor, why, WayBack::Lost);
            return;
        };
        let made = match make(rule, tensor.dtype, &bound) {
            Ok(made) => made,
            Err(why) => {
                let message = format!("the recipe of `{}` does not hold: {why}", tensor.name);
                self.errors.push(Diagnostic::error("P015", message).tensor(&tensor.name));
                return;
            }
        };
        let equal = made.shape == tensor.shape
            && match self.facts.made(tensor, &made) {
                Ok(equal) => equal,
                Err(err) => {
                    self.errors.push(unreadable(&tensor.name, &err.to_string()));
                    return;
                }
            };
        if equal {
            if matches!(made.recipe, Recipe::Sinusoid) {
                self.tell_rounded(tensor);
            }
            self.drop(tensor, why, WayBack::Made);
            return;
        }
        self.findings.push(
            Diagnostic::warning(
                "P015",
                format!("the buffer `{}` is not what the config makes it", tensor.name),
            )
            .tensor(&tensor.name)
            .mismatch(
                format!("{} of shape {:?}", rule.function, made.shape),
                format!("{:?}", tensor.shape),
            )
            .help("its bytes are kept beside the package; a wrong one may mean a wrong config"),
        );
        self.drop(tensor, why, WayBack::Kept);
    }

    /// Warns of a formula's values that the file has rounded, and that readers compute anew.
    fn tell_rounded(&mut self, tensor: &Tensor) {
        if !matches!(tensor.dtype, DType::F16 | DType::BF16) {
            return;
        }
        let message = format!(
            "`{}` is stored as {} and is computed anew: where that is done in F32, it lacks the \
             rounding that the file has",
            tensor.name, tensor.dtype
        );
        let help = "outputs differ by no more than the model's other tensors lost by that dtype; \
                    into Hugging Face its bytes come back";
        self.findings.push(Diagnostic::warning("P015", message).tensor(&tensor.name).help(help));
    }

    /// Notes a tensor that is no canonical one; what is to be kept is kept beside the package.
    pub(super) fn drop(&mut self, tensor: &Tensor, why: &str, back: WayBack) {
        if back == WayBack::Kept {
            self.keep(tensor);
        }
        self.dropped.push(Dropped {
            name: tensor.name.to_string(),
            dtype: tensor.dtype.name().to_owned(),
            shape: tensor.shape.clone(),
            encoding: tensor.encoding.as_ref().map(|encoding| encoding.id.clone()),
            why: why.to_owned(),
            back,
            component: None,
        });
    }

    /// Keeps a tensor's bytes beside the package.
    fn keep(&mut self, tensor: &Tensor) {
        let step = Step::copy(&tensor.name);
        let written = match self.buffers.read(tensor) {
            Ok((expr, dtype)) => {
                self.buffers.write(&tensor.name, expr, dtype, Options::default(), step)
            }
            Err(why) => Err(unreadable(&tensor.name, &why)),
        };
        self.errors.extend(written.err());
    }
}
