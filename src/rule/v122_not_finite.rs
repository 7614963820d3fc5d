//! V122 not-finite.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::{Checked, PackageView, Rule};

/// A tensor has elements that are no number, or infinite.
pub(super) static RULE: Rule = Rule {
    id: "V122",
    name: "not-finite",
    level: Conformance::Container,
    weight: Level::Warning,
    deep: true,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    for shard in &view.shards {
        let Some((tensors, scan)) = &shard.scan else { continue };
        for (tensor, piece) in tensors.iter().zip(&scan.pieces) {
            let values = piece.values;
            if values.nans != 0 || values.infinities != 0 {
                found.push(
                    RULE.finding(format!(
                        "`{}` has {} NaNs and {} infinities",
                        tensor.name, values.nans, values.infinities
                    ))
                    .tensor(&tensor.name)
                    .file(&shard.name)
                    .bytes(tensor.start, tensor.start.saturating_add(tensor.len))
                    .help("the training or a cast overflowed: look at the source of the weights"),
                );
            }
        }
    }
    Ok(())
}
