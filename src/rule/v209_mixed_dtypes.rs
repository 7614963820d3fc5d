//! V209 mixed-dtypes.

use std::collections::BTreeMap;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::{About, Checked, PackageView, Rule};

/// The tensors have several dtypes.
pub(super) static RULE: Rule = Rule {
    id: "V209",
    name: "mixed-dtypes",
    level: Conformance::Schema,
    weight: Level::Note,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let mut census: BTreeMap<&str, u64> = BTreeMap::new();
    let encodings = &view.model()?.encodings;
    for tensor in view.all_tensors()? {
        if encodings.contains_key(&*tensor.name) || view.whole_of(&tensor.name).is_some() {
            continue; // What is packed is cast by nobody.
        }
        if !view.spec.holds_weights(tensor.dtype) {
            continue; // V212 tells of it.
        }
        *census.entry(tensor.dtype.name()).or_default() += 1;
    }
    if 1 < census.len() {
        let census: Vec<String> =
            census.iter().map(|(dtype, n)| format!("{n} of {dtype}")).collect();
        found.push(
            RULE.finding(format!("the tensors have several dtypes: {}", census.join(", "))).help(
                "many loaders cast all to one; `convert --dtype` does it where it is counted",
            ),
        );
    }
    Ok(())
}
