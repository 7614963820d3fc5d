//! V104 manifest-contradiction.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MANIFEST_FILE};
use crate::rule::{About, Checked, PackageView, Rule};

/// The manifest's leaves, digests or sums are not those of its own entries.
pub(super) static RULE: Rule = Rule {
    id: "V104",
    name: "manifest-contradiction",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let manifest = view.manifest()?;
    for (pointer, expected, said) in manifest.contradictions() {
        let entry = pointer.strip_prefix("/tensors/").and_then(|rest| {
            let index: usize = rest.split('/').next()?.parse().ok()?;
            manifest.tensors.get(index)
        });
        let of = entry.map(|entry| format!(" of `{}`", entry.name)).unwrap_or_default();
        let what = pointer.rsplit('/').next().unwrap_or_default();
        let mut finding = RULE
            .finding(format!(
                "the manifest contradicts itself: its {what}{of} is not what its entries give"
            ))
            .file(MANIFEST_FILE)
            .key(pointer)
            .mismatch(expected, said)
            .help("the manifest was edited or damaged: get it again, or convert anew");
        if let Some(entry) = entry {
            finding = finding.tensor(&entry.name);
        }
        found.push(finding);
    }
    for (name, sha256) in manifest.tokenizer.iter().flat_map(|tokenizer| &tokenizer.files) {
        let listed = manifest.files.iter().find(|file| file.path == *name);
        let listed = listed.map_or("no such file".to_owned(), |file| file.sha256.to_string());
        if listed != *sha256 {
            found.push(
                RULE.finding(format!(
                    "the manifest contradicts itself: it has two hashes for `{name}`"
                ))
                .file(MANIFEST_FILE)
                .key(format!("/tokenizer/files/{name}"))
                .mismatch(listed, sha256)
                .help("the manifest was edited or damaged: get it again, or convert anew"),
            );
        }
    }
    Ok(())
}
