//! The JSON Schemas of every file and every result that is JSON, made from the types that are
//! written, and of the data files. They are published under `spec/1.0/schema`.

mod strict;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value as Json;

use crate::author::conformance::Results;
use crate::author::draft::Draft;
use crate::author::names::NameMap;
use crate::author::tensors::TensorList;
use crate::base::diagnostic::Refusal;
use crate::convert::Report;
use crate::convert::formats::FormatListing;
use crate::convert::migrate::Migrated;
use crate::diff::Diff;
use crate::inspect::Inspection;
use crate::interface::Interface;
use crate::manifest::Manifest;
use crate::package::{Model, Provenance};
use crate::policy;
use crate::run;
use crate::spec::listing::{Checked, Export, Listing, Pages};
use crate::spec::{Spec, schema};
use crate::validate::Validation;
use crate::verify::Verified;

/// The names of the schemas, `model` for `model.schema.json`, with what they describe.
pub fn all() -> Vec<(&'static str, Json)> {
    let spec = Spec::current();
    let mut all = vec![
        ("baseline", of::<policy::baseline::Baseline>()),
        ("convert", of::<Report>()),
        ("diff", of::<Diff>()),
        ("explain", of::<Pages>()),
        ("inspect", of::<Inspection>()),
        ("interface", of::<Interface>()),
        ("manifest", of::<Manifest>()),
        ("model", of::<Model>()),
        ("policy", of::<policy::file::File>()),
        ("refusal", of::<Refusal>()),
        ("run", of::<run::Report>()),
        ("source", of::<Provenance>()),
        ("spec-check", of::<Checked>()),
        ("spec-conformance", of::<Results>()),
        ("spec-export", of::<Export>()),
        ("spec-formats", of::<FormatListing>()),
        ("spec-list", of::<Listing>()),
        ("spec-map", of::<NameMap>()),
        ("spec-new-arch", of::<Draft>()),
        ("spec-tensors", of::<TensorList>()),
        ("validate", of::<Validation>()),
        ("migrate", of::<Migrated>()),
        ("verify", of::<Verified>()),
    ];
    all.extend(schema::of_data_files());
    all.into_iter().map(|(name, schema)| (name, publish(&spec, name, schema))).collect()
}

fn of<T: JsonSchema>() -> Schema {
    SchemaGenerator::default().into_root_schema_for::<T>()
}

/// A schema with its address, in words for readers of any language, and as strict as the tool.
fn publish(spec: &Spec, name: &str, schema: Schema) -> Json {
    let mut schema = schema.to_value();
    plain_words(&mut schema);
    strict::tighten(spec, name, &mut schema);
    let minor: Vec<&str> = spec.first.split('.').take(2).collect();
    let mut published = serde_json::Map::new();
    published
        .insert("$id".to_owned(), format!("urn:llmstd:{}:schema:{name}", minor.join(".")).into());
    if let Json::Object(entries) = schema {
        published.extend(entries);
    }
    Json::Object(published)
}

/// Takes the links of Rust's documentation out of descriptions.
fn plain_words(schema: &mut Json) {
    match schema {
        Json::Object(entries) => {
            for (key, value) in entries {
                match value {
                    Json::String(text) if key == "description" => *text = without_links(text),
                    value => plain_words(value),
                }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(plain_words),
        _ => {}
    }
}

/// A text in which `` [`a::B`](…) `` and `` [`B`] `` are `` `B` ``.
fn without_links(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find("[`") {
        let Some(len) = rest[open..].find("`]") else { break };
        let name = &rest[open + 2..open + len];
        plain.push_str(&rest[..open]);
        plain.push('`');
        plain.push_str(name.rsplit("::").next().unwrap_or(name));
        plain.push('`');
        rest = &rest[open + len + 2..];
        if let Some(target) = rest.strip_prefix('(') {
            rest = target.split_once(')').map_or(target, |(_, rest)| rest);
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_have_no_links_of_rust() {
        assert_eq!(without_links("A [`a::B`](c::d), [`E`]. [x]"), "A `B`, `E`. [x]");
        for (name, schema) in all() {
            let text = schema.to_string();
            assert!(!text.contains("[`"), "{name}");
        }
    }
}
