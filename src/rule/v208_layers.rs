//! V208 layers.

use std::collections::BTreeSet;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MODEL_FILE};
use crate::rule::{About, Checked, PackageView, Rule};

/// The layers that are stored are not those that `num_layers` counts.
pub(super) static RULE: Rule = Rule {
    id: "V208",
    name: "layers",
    level: Conformance::Schema,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let (hparams, arch) = (view.hparams()?, view.arch()?);
    let stored = view.stored_layers()?;
    for stack in &arch.stacks {
        let Some(n_layers) = PackageView::n_layers(hparams, stack) else { continue };
        let mut here: BTreeSet<u64> =
            stored.iter().filter(|(of, _)| of == stack).map(|(_, layer)| *layer).collect();
        if (here.len() as u64) < n_layers
            && let Ok(expected) = view.expected_layers()
        {
            // A layer whose sublayers are all switched off is no hole.
            here.extend((0..n_layers).filter(|&layer| !expected.contains(&(stack.clone(), layer))));
        }
        let n_here = here.range(..n_layers).count() as u64;
        let beyond: Vec<u64> = here.range(n_layers..).copied().collect();
        if n_here == n_layers && beyond.is_empty() {
            continue;
        }
        // Few numbers are told whatever the claim is.
        let missing: Vec<String> = (0..n_layers)
            .filter(|layer| !here.contains(layer))
            .take(5)
            .map(|layer| layer.to_string())
            .collect();
        let mut parts = Vec::new();
        if n_here < n_layers {
            let more = if (missing.len() as u64) < n_layers - n_here { ", …" } else { "" };
            parts.push(format!("layers {}{more} have no tensors", missing.join(", ")));
        }
        if let (Some(first), Some(last)) = (beyond.first(), beyond.last()) {
            let range =
                if first == last { format!("{first}") } else { format!("{first} to {last}") };
            parts.push(format!("layers {range} are too many"));
        }
        found.push(
            RULE.finding(format!("the {stack} has {n_layers} layers: {}", parts.join(", and ")))
                .file(MODEL_FILE)
                .key("hyperparameters.num_layers")
                .mismatch(
                    format!("layers 0 to {}", n_layers.saturating_sub(1)),
                    format!("{} layers", here.len()),
                )
                .help("the tensors or `num_layers` are of another model"),
        );
    }
    Ok(())
}
