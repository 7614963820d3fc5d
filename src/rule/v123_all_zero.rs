//! V123 all-zero.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::{Checked, PackageView, Rule};

/// Every element of a tensor is zero.
pub(super) static RULE: Rule = Rule {
    id: "V123",
    name: "all-zero",
    level: Conformance::Container,
    weight: Level::Note,
    deep: true,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    for shard in &view.shards {
        let Some((tensors, scan)) = &shard.scan else { continue };
        for (tensor, piece) in tensors.iter().zip(&scan.pieces) {
            if !piece.values.nonzero && tensor.len != 0 {
                found.push(
                    RULE.finding(format!("every element of `{}` is zero", tensor.name))
                        .tensor(&tensor.name)
                        .file(&shard.name)
                        .help("right for a bias that was never trained, wrong for a weight"),
                );
            }
        }
    }
    Ok(())
}
