//! V101 unreadable-file.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::{About, Checked, PackageView, Rule, unreadable};

/// A tensor file does not keep its format.
pub(super) static RULE: Rule = Rule {
    id: "V101",
    name: "unreadable-file",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    for shard in &view.shards {
        if let crate::rule::view::Part::Bad(err) = &shard.header {
            found.push(
                unreadable(&RULE, &shard.name, err)
                    .help("get the file again, or write the package again from its source"),
            );
        }
    }
    if view.shards.is_empty() {
        found.push(
            RULE.finding("there is no tensor file")
                .mismatch("model.safetensors, or several with an index", "none")
                .help("get the package again; is the download complete?"),
        );
    }
    Ok(())
}
