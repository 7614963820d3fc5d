//! V205 tensor-shape.

use std::collections::BTreeMap;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::{About, Checked, PackageView, Rule};

/// A tensor has another shape than the hyperparameters give it.
pub(super) static RULE: Rule = Rule {
    id: "V205",
    name: "tensor-shape",
    level: Conformance::Schema,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let expected = view.expected()?;
    let disputed = super::v206_witness::disputed(view)?;
    let stored: BTreeMap<&str, Vec<u64>> = view
        .all_tensors()?
        .iter()
        .map(|tensor| (tensor.name.as_str(), view.shape(tensor)))
        .collect();
    for tensor in expected {
        let Some(shape) = stored.get(tensor.name.as_str()) else { continue };
        let Some(role) = view.spec.role(&tensor.name) else { continue };
        let dims = tensor.shape.iter().zip(shape).zip(&role.role.shape);
        let fits = tensor.shape.len() == shape.len()
            && dims.into_iter().all(|((wanted, have), expr)| {
                // V206 tells of hyperparameters that tensors speak against.
                let told = expr
                    .as_ref()
                    .is_some_and(|expr| expr.names().iter().any(|name| disputed.contains(*name)));
                told || wanted.is_none_or(|wanted| wanted == *have)
            });
        if !fits {
            let formula: Vec<&str> = role
                .role
                .shape
                .iter()
                .map(|dim| dim.as_ref().map_or("?", |expr| expr.text.as_str()))
                .collect();
            let wanted = tensor
                .shape
                .iter()
                .map(|dim| dim.map_or_else(|| "?".to_owned(), |dim| dim.to_string()));
            let wanted = wanted.collect::<Vec<_>>().join(", ");
            found.push(
                RULE.finding(format!("`{}` has the shape {shape:?}", tensor.name))
                    .tensor(&tensor.name)
                    .mismatch(
                        format!("[{wanted}] = [{}]", formula.join(", ")),
                        format!("{shape:?}"),
                    )
                    .help("the tensor or a hyperparameter is wrong: convert anew"),
            );
        }
    }
    Ok(())
}
