//! V119 name-collision.

use std::collections::BTreeMap;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::{About, Checked, PackageView, Rule};

/// Two files have one name on systems that do not tell letter cases apart.
pub(super) static RULE: Rule = Rule {
    id: "V119",
    name: "name-collision",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let mut names: BTreeMap<String, &str> = BTreeMap::new();
    for name in view.files.keys() {
        if let Some(other) = names.insert(name.to_lowercase(), name) {
            found.push(
                RULE.finding(format!("{other} and {name} differ by the case of letters only"))
                    .file(name)
                    .help("on Windows and macOS one replaces the other: rename or remove one"),
            );
        }
    }
    Ok(())
}
