//! V124 model-form.

use serde_json::Value as Json;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::json;
use crate::package::{Conformance, MODEL_FILE};
use crate::rule::{About, Checked, EVENTS, NotChecked, PackageView, Rule};

/// `model.json` is not in the normal form, which digests are taken over.
pub(super) static RULE: Rule = Rule {
    id: "V124",
    name: "model-form",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

/// Places that are told; the rest has the same cause.
const MAX_TOLD: usize = 5;

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let model = view.model()?;
    let text = view.text(MODEL_FILE).ok_or(NotChecked::NotApplicable("nothing is written yet"))?;
    let written = json::parse(text, 0).map_err(|_| NotChecked::Blocked("model.json"))?;
    let normal = serde_json::to_value(view.spec.normal_model(model.clone())).unwrap_or_default();
    let mut places = Vec::new();
    differences(&written, &normal, String::new(), &mut places);
    for (place, was, wanted) in places.into_iter().take(MAX_TOLD) {
        found.push(
            RULE.finding(format!("model.json is not in the normal form at {place}"))
                .file(MODEL_FILE)
                .key(place)
                .mismatch(wanted, was)
                .help("`llmstd convert PACKAGE OUT` writes it anew; spec/package.md has the form"),
        );
    }
    for (index, event) in model.history.iter().enumerate() {
        if !EVENTS.contains(&event.op.as_str()) {
            found.push(
                RULE.finding(format!(
                    "the history has an event {:?}, which is not known",
                    event.op
                ))
                .file(MODEL_FILE)
                .key(format!("/history/{index}/op"))
                .mismatch(format!("one of {}", EVENTS.join(", ")), &event.op)
                .help("correct the word"),
            );
        }
    }
    Ok(())
}

/// Where two JSON values differ: a JSON pointer, what stands there, and what should.
fn differences(is: &Json, wanted: &Json, place: String, found: &mut Vec<(String, String, String)>) {
    match (is, wanted) {
        (Json::Object(left), Json::Object(right)) => {
            let more = right.keys().filter(|key| !left.contains_key(*key));
            for key in left.keys().chain(more) {
                let place = format!("{place}/{}", key.replace('~', "~0").replace('/', "~1"));
                match (left.get(key), right.get(key)) {
                    (Some(is), Some(wanted)) => differences(is, wanted, place, found),
                    (is, wanted) => found.push((place, text(is), text(wanted))),
                }
            }
        }
        (Json::Array(left), Json::Array(right)) if left.len() == right.len() => {
            for (index, (is, wanted)) in left.iter().zip(right).enumerate() {
                differences(is, wanted, format!("{place}/{index}"), found);
            }
        }
        // `1` and `1.0` are one number where a float stands, and RFC 8785 has one spelling for it.
        (Json::Number(left), Json::Number(right))
            if left.as_f64() == right.as_f64() && (right.is_f64() || !left.is_f64()) => {}
        _ if is == wanted => {}
        _ => found.push((place, text(Some(is)), text(Some(wanted)))),
    }
}

fn text(json: Option<&Json>) -> String {
    json.map_or_else(|| "nothing".to_owned(), Json::to_string)
}
