//! V207 tie.

use std::collections::BTreeSet;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MODEL_FILE, Value};
use crate::rule::{About, Checked, PackageView, Rule};

/// A tie names a tensor that is not stored, or one that is, or the flag says otherwise.
pub(super) static RULE: Rule = Rule {
    id: "V207",
    name: "tie",
    level: Conformance::Schema,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

/// The table that `tie_embeddings` is about.
const TOKENS: &str = "embed.tokens.weight";

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let model = view.model()?;
    let stored: BTreeSet<&str> =
        view.all_tensors()?.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    let flag = match model.hyperparameters.get("tie_embeddings") {
        Some(Value::Bool(flag)) => Some(*flag),
        _ => None,
    };
    for [tied, target] in &model.ties {
        let about =
            |message: String| RULE.finding(message).file(MODEL_FILE).key("ties").tensor(tied);
        if !stored.contains(target.as_str()) {
            found.push(
                about(format!("`{tied}` is tied to `{target}`, which is not stored"))
                    .help("a tie names a stored tensor second"),
            );
        }
        if stored.contains(tied.as_str()) {
            found.push(
                about(format!("`{tied}` is tied to `{target}`, and stored as well")).help(
                    "one of the two is loaded, and which one depends on the loader: remove one",
                ),
            );
        }
        if !seen.insert(tied) {
            found.push(about(format!("`{tied}` is tied twice")).help("remove one of the ties"));
        }
        if target == TOKENS && flag == Some(false) {
            found.push(
                about(format!(
                    "`{tied}` is tied to `{target}`, and `tie_embeddings` says it is not"
                ))
                .mismatch("tie_embeddings = true", "tie_embeddings = false")
                .help("correct the flag or the tie"),
            );
        }
    }
    Ok(())
}
