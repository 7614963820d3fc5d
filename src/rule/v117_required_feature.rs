//! V117 required-feature.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MODEL_FILE};
use crate::rule::{About, Checked, PackageView, Rule};

/// The package requires a feature that is not known here.
pub(super) static RULE: Rule = Rule {
    id: "V117",
    name: "required-feature",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    for feature in &view.model()?.requires {
        if !view.spec.features.contains(feature) {
            found.push(
                RULE.finding(format!("the package requires {feature:?}, which is not known here"))
                    .file(MODEL_FILE)
                    .key("requires")
                    .mismatch(format!("one of {:?}", view.spec.features), feature)
                    .help("use a newer llmstd; a reader that goes on computes something else"),
            );
        }
    }
    Ok(())
}
