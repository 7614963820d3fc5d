//! V120 tensor-hash.

use std::collections::BTreeMap;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::hex::Hex;
use crate::package::Conformance;
use crate::rule::{About, Checked, PackageView, Rule};

/// The bytes of a tensor are not those of the manifest.
pub(super) static RULE: Rule = Rule {
    id: "V120",
    name: "tensor-hash",
    level: Conformance::Container,
    weight: Level::Error,
    deep: true,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let manifest = view.manifest()?;
    let listed: BTreeMap<&str, &Hex> =
        manifest.tensors.iter().map(|entry| (entry.name.as_str(), &entry.sha256)).collect();
    for shard in &view.shards {
        let Some((tensors, scan)) = &shard.scan else { continue };
        for (tensor, piece) in tensors.iter().zip(&scan.pieces) {
            let Some(&expected) = listed.get(tensor.name.as_str()) else { continue };
            let actual = Hex::from(piece.sha256);
            if actual != *expected {
                found.push(
                    RULE.finding(format!(
                        "the bytes of `{}` are not those that were written",
                        tensor.name
                    ))
                    .tensor(&tensor.name)
                    .file(&shard.name)
                    .bytes(tensor.start, tensor.start.saturating_add(tensor.len))
                    .mismatch(expected, actual)
                    .help("the file is damaged or was changed: get it again"),
                );
            }
        }
    }
    Ok(())
}
