//! Results in the forms that people and programs read, all from one value.
//!
//! A form is a file here and a line of [`FORMATS`]. Text and JSON are made of the result itself; the
//! others of its [`Document`]. Nothing depends on the time, on threads or on the order of a hash map.

pub mod anchor;
pub mod diff;
pub mod document;
mod fingerprint;
pub mod fold;
mod github;
mod gitlab;
pub mod group;
mod html;
mod json;
mod junit;
mod markdown;
mod sarif;
pub mod statistics;
mod style;
pub mod text;
pub mod validate;
mod verify;

use std::path::PathBuf;

use serde::Serialize;

use crate::spec::Spec;

pub use self::document::Document;
pub use self::style::Style;

/// One form of a report.
pub struct Format {
    /// The word of `--format` and `--report`.
    pub id: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Writes a report.
    ///
    /// # Errors
    /// A value has no form there.
    pub render: fn(&dyn Report, &Context<'_>) -> std::io::Result<String>,
}

/// Every form. The first is for people, and what is printed unless another is named.
pub static FORMATS: &[&Format] = &[
    &text::FORMAT,
    &json::FORMAT,
    &sarif::FORMAT,
    &junit::FORMAT,
    &github::FORMAT,
    &gitlab::FORMAT,
    &markdown::FORMAT,
    &html::FORMAT,
];

/// The form of this name.
pub fn format(id: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.id == id).copied()
}

/// A result that can be written in every form.
pub trait Report {
    /// For people at a terminal.
    fn text(&self, context: &Context<'_>) -> String;
    /// The result as it is, whole, each finding with its fingerprint.
    ///
    /// # Errors
    /// A value has no form in JSON.
    fn json(&self, context: &Context<'_>) -> serde_json::Result<String>;
    /// What was checked and found, for the other forms.
    fn document(&self, context: &Context<'_>) -> Document;
}

/// What reports are written with.
#[derive(Clone)]
pub struct Context<'a> {
    /// The standard, which has the pages of the rules.
    pub spec: &'a Spec,
    /// How text looks.
    pub style: Style,
    /// The folder that paths are told relative to, so that a report is the same on every machine.
    pub root: PathBuf,
    /// Whether text ends with how often each rule is broken.
    pub statistics: bool,
}

/// A value as JSON for people to read too, with a line break at its end.
fn pretty<T: Serialize>(value: &T) -> serde_json::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// An empty table without lines.
pub fn table() -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table
}
