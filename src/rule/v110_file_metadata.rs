//! V110 file-metadata.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::{About, Checked, PackageView, Rule};

/// A tensor file does not say which version of the standard it keeps.
pub(super) static RULE: Rule = Rule {
    id: "V110",
    name: "file-metadata",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let said = view.model.good().map(|model| model.spec.as_str());
    let said = said.or_else(|| view.manifest.good().map(|manifest| manifest.spec.as_str()));
    let expected = said.unwrap_or(&view.spec.first);
    for shard in &view.shards {
        let Some(header) = shard.header.good() else { continue };
        let said = header.metadata.get("llmstd").map(String::as_str);
        if said != Some(expected) {
            found.push(
                RULE.finding(format!(
                    "the header of {} does not say that it keeps version {expected}",
                    shard.name
                ))
                .file(&shard.name)
                .key("__metadata__.llmstd")
                .mismatch(expected, said.unwrap_or("nothing"))
                .help("the file comes from another package or another tool: convert it"),
            );
        }
    }
    Ok(())
}
