//! V204 tensor-unexpected.

use std::collections::BTreeSet;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::{About, Checked, PackageView, Rule};

/// A tensor is there that the architecture does not have.
pub(super) static RULE: Rule = Rule {
    id: "V204",
    name: "tensor-unexpected",
    level: Conformance::Schema,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let known: BTreeSet<&str> =
        view.expected()?.iter().map(|tensor| tensor.name.as_str()).collect();
    let (model, arch) = (view.model()?, view.arch()?);
    let tied: BTreeSet<&str> = model.ties.iter().map(|[tied, _]| tied.as_str()).collect();
    for tensor in view.all_tensors()? {
        let name = tensor.name.as_str();
        if known.contains(name) || tied.contains(name) || view.whole_of(name).is_some() {
            continue; // V207 tells of a tied tensor that is stored, V211 of parts.
        }
        let role = view.spec.role(name);
        let beyond = role.as_ref().and_then(|role| {
            let n_layers = PackageView::n_layers(&model.hyperparameters, role.stack.as_deref()?)?;
            Some(n_layers <= role.layer?)
        });
        if beyond == Some(true) {
            continue; // V208 tells of layers.
        }
        let why = match role {
            None => "it is the name of no role".to_owned(),
            Some(_) => format!("{} does not have it under these hyperparameters", arch.id),
        };
        found.push(
            RULE.finding(format!("`{name}` is unexpected: {why}"))
                .tensor(name)
                .file(&*tensor.file)
                .help("loaders pass it over or refuse it: a hyperparameter or the tensor is wrong"),
        );
    }
    Ok(())
}
