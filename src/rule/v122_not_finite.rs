//! V122 not-finite.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::view::Counted;
use crate::rule::{About, Checked, PackageView, Rule};

/// A tensor has elements that are no number, or infinite.
pub(super) static RULE: Rule = Rule {
    id: "V122",
    name: "not-finite",
    level: Conformance::Container,
    weight: Level::Warning,
    deep: true,
    about: About::Values,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    for Counted { name, file, bytes: [start, end], values, .. } in &view.census {
        if values.nans != 0 || values.infinities != 0 {
            found.push(
                RULE.finding(format!(
                    "`{name}` has {} NaNs and {} infinities",
                    values.nans, values.infinities
                ))
                .tensor(name)
                .file(file)
                .bytes(*start, *end)
                .help("the training or a cast overflowed: look at the source of the weights"),
            );
        }
    }
    Ok(())
}
