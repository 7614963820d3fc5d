//! V113 tensor-order.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::{About, Checked, PackageView, Rule};

/// The tensors of a package do not lie in canonical order.
pub(super) static RULE: Rule = Rule {
    id: "V113",
    name: "tensor-order",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let mut placed: Vec<_> = view.all_tensors()?.iter().collect();
    placed.sort_by(|left, right| {
        // Files stand in the order of their names, and empty tensors before what follows them.
        let key = |tensor: &crate::rule::view::Stored| (tensor.start, tensor.len);
        left.file.cmp(&right.file).then_with(|| key(left).cmp(&key(right)))
    });
    let orders: Vec<_> = placed
        .iter()
        .map(|tensor| view.spec.order(view.whole_of(&tensor.name).unwrap_or(&tensor.name)))
        .collect();
    let wrong = (1..placed.len()).filter(|&at| {
        placed[at].len != 0
            && (&orders[at], &placed[at].name) < (&orders[at - 1], &placed[at - 1].name)
    });
    // One tensor out of place puts its neighbours out of place as well: the first is told.
    if let Some(at) = wrong.min() {
        let (before, tensor) = (placed[at - 1], placed[at]);
        found.push(
            RULE.finding(format!("`{}` lies behind `{}`", tensor.name, before.name))
                .tensor(&tensor.name)
                .file(&*tensor.file)
                .bytes(tensor.start, tensor.start.saturating_add(tensor.len))
                .mismatch(
                    format!("`{}` before `{}`", tensor.name, before.name),
                    "the other way round",
                )
                .help("`llmstd convert` writes the package anew, in order"),
        );
    }
    Ok(())
}
