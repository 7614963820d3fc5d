//! V201 architecture.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MODEL_FILE};
use crate::rule::{About, Checked, PackageView, Rule};

/// The architecture is not known.
pub(super) static RULE: Rule = Rule {
    id: "V201",
    name: "architecture",
    level: Conformance::Schema,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let architecture = view.model()?.architecture.as_deref();
    if architecture.is_none_or(|id| view.spec.arch(id).is_none()) {
        let known: Vec<&str> = view.spec.archs.keys().map(String::as_str).collect();
        let message = match architecture {
            Some(id) => format!("the standard has no architecture {id:?}"),
            None => "the package names no architecture".to_owned(),
        };
        found.push(
            RULE.finding(message)
                .file(MODEL_FILE)
                .key("architecture")
                .mismatch(format!("one of {}", known.join(", ")), architecture.unwrap_or("none"))
                .help("names and bytes can be kept without one: that is level container"),
        );
    }
    Ok(())
}
