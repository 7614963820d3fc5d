//! V211 encoding.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MODEL_FILE};
use crate::rule::{About, Checked, PackageView, Rule};

/// A quantized payload is of an encoding that the standard does not have, or its tensor is not what
/// the encoding makes of its shape.
pub(super) static RULE: Rule = Rule {
    id: "V211",
    name: "encoding",
    level: Conformance::Schema,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let model = view.model()?;
    view.all_tensors()?;
    for (name, entry) in &model.encodings {
        let about = |why: &str| {
            RULE.finding(format!("the encoding of `{name}`: {why}"))
                .file(MODEL_FILE)
                .key("encodings")
                .tensor(name)
        };
        let Some(tensor) = view.tensor(name) else {
            found.push(about("there is no such tensor").help("convert the package anew"));
            continue;
        };
        if let Err(why) = view.encoding(tensor, entry) {
            found.push(
                about(&why)
                    .mismatch(
                        "an encoding of encodings.toml or layouts.toml that makes this tensor",
                        entry,
                    )
                    .help("use a newer llmstd, or convert from the source anew"),
            );
        }
    }
    Ok(())
}
