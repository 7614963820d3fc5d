//! The JSON Schemas of every file and every result that is JSON, made from the types that are
//! written. They are published under `spec/1.0/schema`.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::author::draft::Draft;
use crate::author::names::NameMap;
use crate::base::diagnostic::Refusal;
use crate::convert::Report;
use crate::diff::Diff;
use crate::inspect::Inspection;
use crate::manifest::Manifest;
use crate::package::{Model, Provenance};
use crate::run;
use crate::spec::listing::{Checked, Listing, Pages};
use crate::validate::Validation;

/// The names of the schemas, `model` for `model.schema.json`, with what they describe.
pub fn all() -> Vec<(&'static str, Schema)> {
    vec![
        ("convert", of::<Report>()),
        ("diff", of::<Diff>()),
        ("explain", of::<Pages>()),
        ("inspect", of::<Inspection>()),
        ("manifest", of::<Manifest>()),
        ("model", of::<Model>()),
        ("refusal", of::<Refusal>()),
        ("run", of::<run::Report>()),
        ("source", of::<Provenance>()),
        ("spec-check", of::<Checked>()),
        ("spec-list", of::<Listing>()),
        ("spec-map", of::<NameMap>()),
        ("spec-new-arch", of::<Draft>()),
        ("validate", of::<Validation>()),
    ]
}

fn of<T: JsonSchema>() -> Schema {
    SchemaGenerator::default().into_root_schema_for::<T>()
}
