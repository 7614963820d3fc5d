//! V111 path-outside.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MANIFEST_FILE};
use crate::rule::view::{index_file, is_inside};
use crate::rule::{About, Checked, PackageView, Rule};

/// A path of the package leads out of its folder, or where nobody looks.
pub(super) static RULE: Rule = Rule {
    id: "V111",
    name: "path-outside",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    const HELP: &str = "do not load this package: no tool writes such a path by mistake";
    for (name, err) in &view.outside {
        let message = format!("{name} {}", err.message());
        found.push(RULE.finding(message).file(name).help(HELP));
    }
    let mut paths: BTreeSet<(&str, &str)> = BTreeSet::new();
    if let Some(manifest) = view.manifest.good() {
        let of_files = manifest.files.iter().map(|file| file.path.as_str());
        let of_tensors = manifest.tensors.iter().filter_map(|tensor| tensor.file.as_deref());
        paths.extend(of_files.chain(of_tensors).map(|path| (MANIFEST_FILE, path)));
    }
    let index_name = index_file();
    if let Some(Json::Object(map)) = view.index.good().and_then(|index| index.get("weight_map")) {
        paths.extend(map.values().filter_map(Json::as_str).map(|path| (index_name.as_str(), path)));
    }
    for (file, path) in paths {
        if !is_inside(path) {
            let message = format!("{file} names {path:?}, which does not stay inside the package");
            found.push(RULE.finding(message).file(file).help(HELP));
        }
    }
    Ok(())
}
