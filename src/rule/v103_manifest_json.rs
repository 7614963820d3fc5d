//! V103 manifest-json.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MANIFEST_FILE};
use crate::rule::{About, Checked, PackageView, Rule, unreadable, view::Part};

/// `manifest.json` is missing, or does not keep its schema.
pub(super) static RULE: Rule = Rule {
    id: "V103",
    name: "manifest-json",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    match &view.manifest {
        Part::Good(_) => {}
        Part::Absent => found.push(
            RULE.finding("there is no manifest.json, so that nothing says what the bytes must be")
                .file(MANIFEST_FILE)
                .help("get the package again; is the download complete?"),
        ),
        Part::Bad(err) => found.push(
            unreadable(&RULE, MANIFEST_FILE, err)
                .help("get the file again; one that was edited by hand proves nothing"),
        ),
    }
    Ok(())
}
