//! V117 required-feature.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MODEL_FILE};
use crate::rule::{About, Checked, PackageView, Rule};
use crate::spec::versions::numbers;

/// The package requires a feature that is not known here, or does not say what it requires.
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
    let model = view.model()?;
    let mut is_known = true;
    for feature in model.requires.iter().filter(|of| !view.spec.later.contains_key(*of)) {
        is_known = false;
        let known: Vec<&str> = view.spec.later.keys().map(String::as_str).collect();
        found.push(
            RULE.finding(format!("the package requires {feature:?}, which is not known here"))
                .file(MODEL_FILE)
                .key("requires")
                .mismatch(format!("features of version {}: {known:?}", view.spec.version), feature)
                .help("use a newer llmstd; a reader that goes on computes something else"),
        );
    }
    let tensors = view.tensors.iter().map(|stored| (stored.name.as_str(), stored.dtype));
    let (least, used) = view.spec.least_version(model, tensors);
    if is_known && used != model.requires {
        found.push(
            RULE.finding("`requires` does not list what the package uses of later versions")
                .file(MODEL_FILE)
                .key("requires")
                .mismatch(format!("{used:?}"), format!("{:?}", model.requires))
                .help("a reader goes by it: `llmstd migrate` writes it anew"),
        );
    }
    let is_enough = numbers(&least) <= numbers(&model.spec);
    if is_known && !is_enough {
        found.push(
            RULE.finding(format!("the package uses what came with version {least}"))
                .file(MODEL_FILE)
                .key("spec")
                .mismatch(format!("{least} or later"), &model.spec)
                .help("`llmstd migrate` writes the least version that suffices"),
        );
    }
    Ok(())
}
