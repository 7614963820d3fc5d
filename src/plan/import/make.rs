//! A recipe of a mapping with its numbers filled in.

use crate::checkpoint::DType;
use crate::package::Value;
use crate::plan::program::{Make, Recipe};
use crate::spec::expr::{Names, as_float, as_int};
use crate::spec::map::MakeRule;

/// A recipe with its numbers filled in.
///
/// # Errors
/// A number it needs has no value, or the mapping names a recipe that does not exist.
pub(crate) fn make(rule: &MakeRule, dtype: DType, names: &dyn Names) -> Result<Make, String> {
    let shape = rule.shape.iter().map(|dim| dim.eval_size(names)).collect::<Result<_, _>>()?;
    let float = |expr: &Option<crate::spec::expr::Expr>, what: &str| -> Result<f64, String> {
        let expr = expr.as_ref().ok_or_else(|| format!("it has no `{what}`"))?;
        let value = expr.eval(names)?;
        as_float(&value).ok_or_else(|| format!("its `{what}` is {value}, which is no number"))
    };
    let recipe = match rule.function.as_str() {
        "constant" => Recipe::Constant(float(&rule.value, "value")?),
        "list" => {
            let values = rule.values.as_ref().ok_or("it has no `values`")?.eval(names)?;
            let Value::List(items) = &values else {
                return Err(format!("its `values` are {values}, which is no list"));
            };
            let items = items.iter().map(as_float).collect::<Option<_>>();
            Recipe::List(items.ok_or("one of its `values` is no number")?)
        }
        "iota" => Recipe::Iota,
        "sinusoid" => Recipe::Sinusoid,
        "causal_mask" => {
            let window = rule.window.as_ref().map(|window| window.eval(names)).transpose()?;
            let window = window.as_ref().and_then(as_int).and_then(|int| u64::try_from(int).ok());
            Recipe::CausalMask { window }
        }
        "rope_inv_freq" => {
            let dim = rule.dim.as_ref().ok_or("it has no `dim`")?.eval_size(names)?;
            Recipe::RopeInvFreq { theta: float(&rule.theta, "theta")?, dim }
        }
        "llama3_factors" => {
            let number = |name: &str| {
                let value = names.value(&format!("rope_scaling.{name}"))?;
                as_float(&value).ok_or_else(|| format!("`rope_scaling.{name}` is {value}"))
            };
            let dim = rule.dim.as_ref().ok_or("it has no `dim`")?.eval_size(names)?;
            Recipe::Llama3Factors {
                theta: float(&rule.theta, "theta")?,
                dim,
                factor: number("factor")?,
                turns: [number("low_freq_factor")?, number("high_freq_factor")?],
                original: number("original_max_positions")? as u64,
            }
        }
        other => return Err(format!("there is no recipe `{other}`")),
    };
    let dtype = rule.dtype.map_or(dtype, |name| name.0);
    Ok(Make { dtype, shape, recipe })
}
