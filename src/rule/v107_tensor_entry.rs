//! V107 tensor-entry.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::view::Stored;
use crate::rule::{About, Checked, PackageView, Rule};

/// The manifest's entries are not those of the tensor files' headers.
pub(super) static RULE: Rule = Rule {
    id: "V107",
    name: "tensor-entry",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let manifest = view.manifest()?;
    let mut stored: BTreeMap<&str, Vec<&Stored>> = BTreeMap::new();
    for tensor in &view.tensors {
        stored.entry(&tensor.name).or_default().push(tensor);
    }
    let unread: BTreeSet<&str> = view
        .shards
        .iter()
        .filter(|shard| shard.header.good().is_none())
        .map(|shard| shard.name.as_str())
        .collect();
    let mut listed = BTreeSet::new();
    for entry in &manifest.tensors {
        let name = entry.name.as_str();
        if !listed.insert(name) {
            let message = format!("the manifest lists `{name}` twice");
            found.push(RULE.finding(message).tensor(name));
            continue;
        }
        let file = entry.file.as_deref().unwrap_or_default();
        let Some(here) = stored.get(name) else {
            // What cannot be read is not missing on top of that.
            if !unread.contains(file) {
                found.push(
                    RULE.finding(format!("`{name}` is in the manifest, and in no tensor file"))
                        .tensor(name)
                        .help("the package is not complete: get it again"),
                );
            }
            continue;
        };
        let tensor = here.iter().find(|tensor| *tensor.file == *file).unwrap_or(&here[0]);
        let expected = place(&entry.dtype, &entry.shape, file, entry.start, entry.len);
        let (dtype, start) = (tensor.dtype.name(), Some(tensor.start));
        let actual = place(dtype, &tensor.shape, &tensor.file, start, tensor.len);
        if expected != actual {
            found.push(
                RULE.finding(format!("`{name}` is not what the manifest says of it"))
                    .tensor(name)
                    .file(&*tensor.file)
                    .bytes(tensor.start, tensor.start.saturating_add(tensor.len))
                    .mismatch(expected, actual)
                    .help("tensors and manifest are not of one package: get both again"),
            );
        }
    }
    for (name, here) in &stored {
        if !listed.contains(name) {
            found.push(
                RULE.finding(format!("`{name}` is in {}, and not in the manifest", here[0].file))
                    .tensor(*name)
                    .file(&*here[0].file)
                    .help("tensors and manifest are not of one package: get both again"),
            );
        }
    }
    Ok(())
}

fn place(dtype: &str, shape: &[u64], file: &str, start: Option<u64>, len: u64) -> String {
    let start = start.map_or_else(|| "?".to_owned(), |start| start.to_string());
    format!("{dtype} {shape:?}, {len} bytes from {start} in {file}")
}
