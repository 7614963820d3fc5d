//! V102 model-json.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MODEL_FILE};
use crate::rule::{About, Checked, PackageView, Rule, unreadable, view::Part};

/// `model.json` is missing, or does not keep its schema.
pub(super) static RULE: Rule = Rule {
    id: "V102",
    name: "model-json",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    match &view.model {
        Part::Good(_) => {}
        Part::Absent => found.push(
            RULE.finding("there is no model.json, which says what the tensors are")
                .file(MODEL_FILE)
                .help("get the package again; is the download complete?"),
        ),
        Part::Bad(err) => found
            .push(unreadable(&RULE, MODEL_FILE, err).help(
                "model.json follows the schema that `llmstd spec show` prints; convert anew",
            )),
    }
    Ok(())
}
