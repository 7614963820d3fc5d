//! V123 all-zero.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::view::Counted;
use crate::rule::{About, Checked, PackageView, Rule};

/// Every element of a tensor is zero.
pub(super) static RULE: Rule = Rule {
    id: "V123",
    name: "all-zero",
    level: Conformance::Container,
    weight: Level::Note,
    deep: true,
    about: About::Values,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    for Counted { name, file, values, .. } in &view.census {
        if !values.nonzero {
            found.push(
                RULE.finding(format!("every element of `{name}` is zero"))
                    .tensor(name)
                    .file(file)
                    .help("right for a bias that was never trained, wrong for a weight"),
            );
        }
    }
    Ok(())
}
