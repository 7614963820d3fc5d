//! V116 spec-version.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MANIFEST_FILE, MODEL_FILE};
use crate::rule::{About, Checked, PackageView, Rule};
use crate::spec::versions::numbers;

/// The package is of a version of the standard that is not known here.
pub(super) static RULE: Rule = Rule {
    id: "V116",
    name: "spec-version",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let known = view.spec.version.as_str();
    let model = view.model()?;
    let said = [
        (MODEL_FILE, Some(model.spec.as_str())),
        (MANIFEST_FILE, view.manifest.good().map(|manifest| manifest.spec.as_str())),
    ];
    for (file, version) in said.iter().filter_map(|(file, version)| Some((*file, (*version)?))) {
        // Minor versions add: a later one is readable if its `requires` are known.
        let is_known = numbers(version)
            .is_some_and(|version| numbers(known).is_some_and(|known| version[0] == known[0]));
        if !is_known {
            found.push(
                RULE.finding(format!("{file} is of version {version:?} of the standard"))
                    .file(file)
                    .key("spec")
                    .mismatch(format!("a version {known} can read"), version)
                    .help("use a newer llmstd, or --spec with that version's folder"),
            );
        } else if version != model.spec {
            found.push(
                RULE.finding("model.json and manifest.json are of two versions of the standard")
                    .file(file)
                    .key("spec")
                    .mismatch(&model.spec, version)
                    .help("the files are not of one package: get both again"),
            );
        }
    }
    Ok(())
}
