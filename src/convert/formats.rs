//! What is done with the files of each format: looked into, read, brought to the standard, written.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;

use super::target::TARGETS;
use crate::format::{FORMATS, known};
use crate::spec::Spec;

/// The formats, as `llmstd spec list formats` prints them.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FormatListing {
    /// `llmstd.spec-formats/1`.
    pub schema: &'static str,
    /// The formats that are read, those first that a folder with several is read as.
    pub formats: Vec<ListedFormat>,
    /// Files that are told by name or by their first bytes, and not read.
    pub told: Vec<ToldFormat>,
}

/// One format whose tensors are listed by `inspect` and read.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ListedFormat {
    /// What `--from` takes.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// The endings of its files.
    pub endings: Vec<String>,
    /// Whose names become those of the standard.
    pub maps: Vec<ListedNames>,
    /// What `--to` takes to write it.
    pub write: Vec<String>,
}

/// Names that mappings bring to the standard.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ListedNames {
    /// The format of the mappings, or the dialect.
    pub id: String,
    /// Whether a rule makes them the names of mappings of another format, whatever the
    /// architecture; not every one was tried.
    pub by_rule: bool,
    /// The architectures that are read.
    pub read: Vec<String>,
    /// The architectures that are written.
    pub written: Vec<String>,
}

/// A kind of file that is told and not read.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ToldFormat {
    /// What it is.
    pub what: String,
    /// What to do with it.
    pub advice: String,
}

/// All formats, with what the standard has for each.
pub fn formats(spec: &Spec) -> FormatListing {
    let listed = FORMATS.iter().map(|format| {
        let write: Vec<&str> =
            TARGETS.iter().filter(|of| of.format == format.id).map(|of| of.id).collect();
        let mapped = |of: &str| {
            let maps = spec.maps.values().filter(|map| map.format == of);
            maps.map(|map| map.arch.clone()).collect::<BTreeSet<_>>()
        };
        let dialects = spec.dialects.iter().filter(|of| of.format == format.dialect);
        let (apart, dialects): (Vec<_>, Vec<_>) = dialects.partition(|of| of.apart);
        let mut maps: Vec<ListedNames> = dialects
            .into_iter()
            .map(|dialect| {
                let of = mapped(&dialect.of);
                let written = of.iter().filter(|arch| dialect.writes(arch)).cloned().collect();
                let (by_rule, read) = match &dialect.reads {
                    Some(read) => (false, read.clone()),
                    None if dialect.is_told_by_names() => (false, Vec::clone(&written)),
                    None => (true, of.into_iter().collect()),
                };
                let written = if write.contains(&format.dialect) { written } else { Vec::new() };
                ListedNames { id: dialect.id.clone(), by_rule, read, written }
            })
            .collect();
        if maps.is_empty() {
            let read: Vec<String> = mapped(format.dialect).into_iter().collect();
            let is_written =
                TARGETS.iter().any(|of| of.format == format.id && of.id == format.dialect);
            let written = if is_written { read.clone() } else { Vec::new() };
            maps.extend((!read.is_empty()).then(|| ListedNames {
                id: format.dialect.to_owned(),
                by_rule: false,
                read,
                written,
            }));
        }
        maps.extend(apart.into_iter().map(|dialect| ListedNames {
            id: dialect.id.clone(),
            by_rule: false,
            read: mapped(&dialect.of).into_iter().filter(|arch| dialect.writes(arch)).collect(),
            written: Vec::new(),
        }));
        ListedFormat {
            id: format.id.to_owned(),
            name: format.name.to_owned(),
            endings: format.endings.iter().map(|end| (*end).to_owned()).collect(),
            maps,
            write: write.into_iter().map(str::to_owned).collect(),
        }
    });
    let told = known::kinds()
        .iter()
        .filter(|kind| kind.is_model)
        .map(|kind| ToldFormat { what: kind.what.to_owned(), advice: kind.advice.to_owned() });
    FormatListing {
        schema: "llmstd.spec-formats/1",
        formats: listed.collect(),
        told: told.collect(),
    }
}

impl ListedFormat {
    /// Its cells in a table: name, `--from`, endings, whose names are brought to the standard, what
    /// writes it.
    pub fn row(&self) -> [String; 5] {
        let maps = self.maps.iter().map(|names| {
            let read = match names.read.as_slice() {
                few if few.len() <= 3 => few.join(", "),
                many => many.len().to_string(),
            };
            let rule = if names.by_rule { " by rule" } else { "" };
            match names.written.len() {
                0 => format!("{}: {read}{rule}", names.id),
                n if n == names.read.len() => format!("{}: {read}{rule}, both ways", names.id),
                n => format!("{}: {read}{rule}, {n} written", names.id),
            }
        });
        let maps = match self.maps.is_empty() {
            true => "none: --generic".to_owned(),
            false => maps.collect::<Vec<_>>().join("; "),
        };
        let endings: Vec<String> = self.endings.iter().map(|end| format!(".{end}")).collect();
        [self.name.clone(), self.id.clone(), endings.join(" "), maps, self.write.join(" ")]
    }
}

/// What the cells of [`ListedFormat::row`] are.
pub const COLUMNS: [&str; 5] =
    ["format", "--from", "endings", "architectures by whose names", "--to"];
