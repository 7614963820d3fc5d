//! V203 tensor-missing.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::{About, Checked, PackageView, Rule};

/// A tensor that the architecture needs is missing.
pub(super) static RULE: Rule = Rule {
    id: "V203",
    name: "tensor-missing",
    level: Conformance::Schema,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let expected = view.expected()?;
    let present = view.present();
    let missing_layers = view.missing_layers()?;
    for tensor in expected.iter().filter(|tensor| tensor.required) {
        let name = tensor.name.as_str();
        let in_missing_layer = || {
            let role = view.spec.role(name);
            role.and_then(|role| Some((role.stack?, role.layer?)))
                .is_some_and(|layer| missing_layers.contains(&layer))
        };
        // A layer that is missing whole is told of once, by V208.
        if !present.contains(name) && !in_missing_layer() {
            found.push(
                RULE.finding(format!("`{name}` is missing"))
                    .tensor(name)
                    .mismatch(shape(&tensor.shape), "no such tensor")
                    .help(
                        "the model does not run without it: get the package again, or convert anew",
                    ),
            );
        }
    }
    Ok(())
}

fn shape(shape: &[Option<u64>]) -> String {
    let dims = shape.iter().map(|dim| dim.map_or_else(|| "?".to_owned(), |dim| dim.to_string()));
    format!("a tensor of shape [{}]", dims.collect::<Vec<_>>().join(", "))
}
