//! V118 manifest-model.

use serde_json::Value as Json;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::manifest::Semantics;
use crate::package::{Conformance, MANIFEST_FILE};
use crate::rule::{About, Checked, PackageView, Rule};

/// The manifest repeats another `model.json` than the one that is there.
pub(super) static RULE: Rule = Rule {
    id: "V118",
    name: "manifest-model",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let (model, manifest) = (view.model()?, view.manifest()?);
    let here = Semantics::of(model);
    if manifest.model.as_ref() == Some(&here) {
        return Ok(());
    }
    let object = |semantics: Option<&Semantics>| match serde_json::to_value(semantics) {
        Ok(Json::Object(object)) => object,
        _ => serde_json::Map::new(),
    };
    let (here, said) = (object(Some(&here)), object(manifest.model.as_ref()));
    let keys: std::collections::BTreeSet<&String> = here.keys().chain(said.keys()).collect();
    for key in keys {
        let (here, said) = (here.get(key), said.get(key));
        if here == said {
            continue;
        }
        let (pointer, here, said) = narrow(key, here, said);
        found.push(
            RULE.finding(format!(
                "model.json is not the one that the manifest was made of: `{pointer}`"
            ))
            .file(MANIFEST_FILE)
            .key(format!("/model/{}", pointer.replacen('.', "/", 1)))
            .mismatch(text(said), text(here))
            .help("model.json was edited: convert anew, so that the digests hold again"),
        );
    }
    Ok(())
}

/// The one key inside an object that differs, if it is one.
fn narrow<'a>(
    key: &str,
    here: Option<&'a Json>,
    said: Option<&'a Json>,
) -> (String, Option<&'a Json>, Option<&'a Json>) {
    if let (Some(Json::Object(left)), Some(Json::Object(right))) = (here, said) {
        let keys: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
        let mut differ = keys.into_iter().filter(|inner| left.get(*inner) != right.get(*inner));
        if let (Some(inner), None) = (differ.next(), differ.next()) {
            return (format!("{key}.{inner}"), left.get(inner), right.get(inner));
        }
    }
    (key.to_owned(), here, said)
}

fn text(value: Option<&Json>) -> String {
    const MAX_CHARS: usize = 100;
    let text = value.map_or_else(|| "nothing".to_owned(), Json::to_string);
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
