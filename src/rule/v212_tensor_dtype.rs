//! V212 tensor-dtype.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::checkpoint::DType;
use crate::package::Conformance;
use crate::rule::{About, Checked, PackageView, Rule};

/// A tensor of the model has a dtype that no weights have, and no encoding.
pub(super) static RULE: Rule = Rule {
    id: "V212",
    name: "tensor-dtype",
    level: Conformance::Schema,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let encodings = &view.model()?.encodings;
    for tensor in view.all_tensors()? {
        let is_packed =
            encodings.contains_key(&*tensor.name) || view.whole_of(&tensor.name).is_some();
        let Some(role) = view.spec.role(&tensor.name) else { continue };
        let is_of_ids = matches!(tensor.dtype, DType::I64 | DType::I32);
        if role.role.is_ids && !is_of_ids {
            found.push(
                RULE.finding(format!("`{}` is {}", tensor.name, tensor.dtype))
                    .tensor(&tensor.name)
                    .mismatch("ids: I64 or I32", tensor.dtype)
                    .help("readers look up what it has: make ids of it in the source"),
            );
        }
        if role.role.is_ids || is_packed || view.spec.holds_weights(tensor.dtype) {
            continue;
        }
        found.push(
            RULE.finding(format!("`{}` is {}", tensor.name, tensor.dtype))
                .tensor(&tensor.name)
                .mismatch("a floating-point dtype, or an entry in `encodings`", tensor.dtype)
                .help(
                    "readers compute with floats: cast it in the source, or say how it is packed",
                ),
        );
    }
    Ok(())
}
