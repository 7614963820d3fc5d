//! V108 tensor-twice.

use std::collections::BTreeMap;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::{About, Checked, PackageView, Rule};

/// Two tensor files hold a tensor of one name.
pub(super) static RULE: Rule = Rule {
    id: "V108",
    name: "tensor-twice",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for tensor in &view.tensors {
        if let Some(other) = owners.insert(&tensor.name, &tensor.file) {
            found.push(
                RULE.finding(format!("`{}` is in {other} and in {}", tensor.name, tensor.file))
                    .tensor(&tensor.name)
                    .file(&*tensor.file)
                    .help(
                        "which of the two is loaded depends on the loader: remove the wrong file",
                    ),
            );
        }
    }
    Ok(())
}
