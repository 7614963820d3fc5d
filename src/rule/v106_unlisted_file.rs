//! V106 unlisted-file.

use std::collections::BTreeSet;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::manifest::FileRole;
use crate::package::{Conformance, MANIFEST_FILE, SOURCE_FILE};
use crate::rule::{About, Checked, PackageView, Rule};

/// A file is no part of the package: an error among the tensors, a warning elsewhere.
pub(super) static RULE: Rule = Rule {
    id: "V106",
    name: "unlisted-file",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let manifest = view.manifest()?;
    let listed: BTreeSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    for name in view.files.keys() {
        // The manifest cannot list itself, and where a package came from is no part of it.
        let own = name == MANIFEST_FILE || name == SOURCE_FILE || name.starts_with("source/");
        if own || listed.contains(name.as_str()) {
            continue;
        }
        let finding = RULE.finding(format!("{name} is not in the manifest")).file(name);
        found.push(if FileRole::of(name) == FileRole::Tensors {
            finding.help("a loader may take it for weights: remove it, or convert anew with it")
        } else {
            Diagnostic { level: Level::Warning, ..finding }
                .help("nothing vouches for it: remove it, or convert anew so that it is listed")
        });
    }
    Ok(())
}
