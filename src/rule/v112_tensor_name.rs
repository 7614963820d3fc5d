//! V112 tensor-name.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::{About, Checked, PackageView, Rule};
use crate::spec::roles::grammar_problem;

/// A tensor's name does not keep the grammar of canonical names.
pub(super) static RULE: Rule = Rule {
    id: "V112",
    name: "tensor-name",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    for tensor in &view.tensors {
        if let Some(problem) = grammar_problem(&tensor.name) {
            found.push(
                RULE.finding(format!("`{}` is no canonical name: {problem}", tensor.name))
                    .tensor(&tensor.name)
                    .file(&*tensor.file)
                    .help("convert the checkpoint; names of no known meaning go under `extra.`"),
            );
        }
    }
    Ok(())
}
