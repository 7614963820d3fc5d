//! V114 source-json.

use std::collections::BTreeSet;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{BUFFERS_FILE, Conformance, SOURCE_FILE, WayBack, component_file};
use crate::rule::{About, Checked, NotChecked, PackageView, Rule, unreadable, view::Part};

/// `source.json` does not keep its schema, or says of files what is not so.
pub(super) static RULE: Rule = Rule {
    id: "V114",
    name: "source-json",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let provenance = match &view.provenance {
        Part::Good(provenance) => provenance,
        Part::Absent => return Err(NotChecked::NotApplicable("there is no source.json")),
        Part::Bad(err) => {
            found.push(
                unreadable(&RULE, SOURCE_FILE, err)
                    .help("get the file again, or remove it: then the exact way back is lost"),
            );
            return Ok(());
        }
    };
    let kept = provenance.dropped.iter().filter(|dropped| dropped.back == WayBack::Kept);
    let mut missing = BTreeSet::new();
    for kept in kept {
        let file = kept.component.as_deref().map(component_file);
        let file = file.unwrap_or_else(|| BUFFERS_FILE.to_owned());
        if view.files.contains_key(&file) || !missing.insert(file.clone()) {
            continue;
        }
        found.push(
            RULE.finding(format!(
                "source.json says that `{}` is kept in {file}, which is missing",
                kept.name
            ))
            .file(SOURCE_FILE)
            .help("get the file: the exact way back needs it"),
        );
    }
    Ok(())
}
