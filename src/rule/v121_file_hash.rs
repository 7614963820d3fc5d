//! V121 file-hash.

use std::collections::BTreeMap;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::hex::Hex;
use crate::manifest::TensorEntry;
use crate::package::Conformance;
use crate::rule::{About, Checked, PackageView, Rule};

/// The bytes of a file are not those of the manifest.
pub(super) static RULE: Rule = Rule {
    id: "V121",
    name: "file-hash",
    level: Conformance::Container,
    weight: Level::Error,
    deep: true,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let manifest = view.manifest()?;
    let listed: BTreeMap<&str, &TensorEntry> =
        manifest.tensors.iter().map(|entry| (entry.name.as_str(), entry)).collect();
    for file in &manifest.files {
        let Some(actual) = view.sha256(&file.path).map(|sha256| Hex::Hash(*sha256)) else {
            continue;
        };
        let len = view.files.get(&file.path).copied().unwrap_or(0);
        if actual == file.sha256 || len != file.len {
            continue; // V105 tells of another length.
        }
        let shard = view.shards.iter().find(|shard| shard.name == file.path);
        let finding = match shard.and_then(|shard| shard.scan.as_ref()) {
            None => {
                RULE.finding(format!("the bytes of {} are not those that were written", file.path))
            }
            Some((tensors, scan)) => {
                let intact = tensors.iter().zip(&scan.pieces).all(|(tensor, piece)| {
                    let entry = listed.get(tensor.name.as_str());
                    entry.is_none_or(|entry| entry.sha256.bytes() == Some(piece.sha256))
                });
                if !intact {
                    continue; // V120 tells which tensors are damaged.
                }
                let weights = tensors.iter().map(|tensor| tensor.start).min().unwrap_or(len);
                let message = format!(
                    "the header of {} is not the one that was written; all its tensors are",
                    file.path
                );
                RULE.finding(message).bytes(0, weights)
            }
        };
        found.push(
            finding
                .file(&file.path)
                .mismatch(&file.sha256, actual)
                .help("the file is damaged or was changed: get it again"),
        );
    }
    Ok(())
}
