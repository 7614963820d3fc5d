//! Versions of the standard: a minor version is a folder that adds to the one below, and a package says
//! the least version that has all that it uses. `spec/versions.md` has the text.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::names::plain_name;
use super::{Files, SPEC_FILE, Spec, bad};
use crate::base::error::Result;
use crate::checkpoint::DType;
use crate::package::Model;

/// More versions than there will be.
const MAX_BELOW: usize = 32;

/// What later minor versions add: each feature, `key:NAME`, with the version that has it first.
pub type Features = BTreeMap<String, String>;

/// The tables of data files whose entries are features, with the member that names an entry.
const FEATURES: &[(&str, &str, &str)] = &[
    ("hparams.toml", "key", "name"),
    ("roles.toml", "role", "name"),
    ("tasks.toml", "task", "id"),
    ("dtypes.toml", "dtype", "name"),
    ("layouts.toml", "layout", "id"),
    ("encodings.toml", "blocks", "id"),
];

/// A version with those that it extends.
pub(super) struct Whole {
    /// The files, put together.
    pub(super) files: Files,
    /// What was added on the way.
    pub(super) later: Features,
    /// Of a version that extends others the files of all of them as they lie, `1.1/hparams.toml`.
    pub(super) apart: Option<Files>,
}

/// The files of a version with those of the versions that it extends, and what was added on the way.
/// `files_of` gives the files of a version by its number, `1.0`.
///
/// # Errors
/// A version that is extended is missing, or its files do not keep the form.
pub(super) fn whole(own: Files, files_of: &dyn Fn(&str) -> Result<Files>) -> Result<Whole> {
    let mut chain = vec![own];
    while let Some(below) = extends(chain.last().unwrap_or(&Files::new()))? {
        if MAX_BELOW < chain.len() {
            return Err(bad(SPEC_FILE, "versions extend each other in a circle"));
        }
        chain.push(files_of(&below)?);
    }
    let apart = match chain.as_slice() {
        [_] => None,
        chain => {
            let mut apart = Files::new();
            for files in chain {
                let head = head(files)?;
                let version = head.get("version").and_then(|value| value.as_str());
                let minor: Vec<&str> = version.unwrap_or_default().splitn(3, '.').take(2).collect();
                let folder = minor.join(".");
                let files = files.iter().filter(|(path, _)| path.ends_with(".toml"));
                apart.extend(files.map(|(path, text)| (format!("{folder}/{path}"), text.clone())));
            }
            Some(apart)
        }
    };
    let mut files = chain.pop().unwrap_or_default();
    let mut later = Features::new();
    for added in chain.into_iter().rev() {
        later.append(&mut features(&added)?);
        add(&mut files, added)?;
    }
    Ok(Whole { files, later, apart })
}

fn head(files: &Files) -> Result<toml::Table> {
    let text = files.get(SPEC_FILE).ok_or_else(|| bad(SPEC_FILE, "is missing"))?;
    text.parse().map_err(|err: toml::de::Error| bad(SPEC_FILE, &err.to_string()))
}

fn extends(files: &Files) -> Result<Option<String>> {
    // The text is looked at before it is parsed: of the first version nothing is parsed twice.
    if !files.get(SPEC_FILE).is_some_and(|text| text.contains("\nextends")) {
        return Ok(None);
    }
    Ok(head(files)?.get("extends").and_then(|value| value.as_str()).map(str::to_owned))
}

/// Puts the files of a version on those of the version below: lists are put behind each other, and new
/// files beside the others. A file of a folder (an architecture, a mapping, a page) takes the place of
/// one of its name.
fn add(files: &mut Files, added: Files) -> Result<()> {
    for (path, text) in added {
        match files.get_mut(&path) {
            None => drop(files.insert(path, text)),
            Some(below) if path.contains('/') => *below = text,
            // Entries of tables are put behind each other without parsing those that are many.
            Some(below) if starts_with_entry(&text) => {
                *below = Cow::Owned(format!("{below}\n{text}"));
            }
            Some(below) => {
                let parse = |text: &str| -> Result<toml::Table> {
                    text.parse().map_err(|err: toml::de::Error| bad(&path, &err.to_string()))
                };
                let mut merged = parse(below)?;
                merge(&mut merged, parse(&text)?);
                merged.remove("extends");
                *below = Cow::Owned(merged.to_string());
            }
        }
    }
    Ok(())
}

fn starts_with_entry(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_start);
    lines
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .is_some_and(|line| line.starts_with("["))
}

fn merge(below: &mut toml::Table, above: toml::Table) {
    for (name, value) in above {
        match (below.get_mut(&name), value) {
            (Some(toml::Value::Array(items)), toml::Value::Array(more)) => items.extend(more),
            (Some(toml::Value::Table(table)), toml::Value::Table(more)) => merge(table, more),
            (_, value) => drop(below.insert(name, value)),
        }
    }
}

/// What the files of a version that extends another add.
fn features(added: &Files) -> Result<Features> {
    let head = head(added)?;
    let version = head.get("version").and_then(|value| value.as_str()).unwrap_or_default();
    let mut features = Features::new();
    let mut feature = |kind: &str, name: &str| {
        features.insert(format!("{kind}:{name}"), version.to_owned());
    };
    let architectures = head.get("architectures").and_then(|value| value.as_array());
    for id in architectures.into_iter().flatten().filter_map(|id| id.as_str()) {
        feature("architecture", id);
    }
    for (file, table, name) in FEATURES {
        let Some(text) = added.get(*file) else { continue };
        let parsed: toml::Table =
            text.parse().map_err(|err: toml::de::Error| bad(file, &err.to_string()))?;
        let entries = parsed.get(*table).and_then(|value| value.as_array());
        // What says again what a version below has is no feature of its own.
        let is_new = |entry: &&toml::Value| entry.get("replaces").is_none();
        for entry in entries.into_iter().flatten().filter(is_new) {
            if let Some(name) = entry.get(*name).and_then(|value| value.as_str()) {
                feature(table, name);
            }
        }
    }
    Ok(features)
}

/// The files of the version beside the folder of another one: `spec/1.0` beside `spec/1.1`.
pub(super) fn beside(dir: &Path, version: &str) -> Result<Files> {
    let is_version = version.chars().all(|char| char.is_ascii_digit() || char == '.');
    if !is_version || version.split('.').count() != 2 {
        return Err(bad(SPEC_FILE, &format!("extends {version:?}, which is no version as `1.0`")));
    }
    let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mut files = Files::new();
    super::read_dir(&real.with_file_name(version), "", &mut files)?;
    Ok(files)
}

impl Spec {
    /// The least version that has all that a model uses, and the features of it that are newer than the
    /// first version of this major one, in order. `tensors` are its names and dtypes.
    pub fn least_version<'t>(
        &self,
        model: &Model,
        tensors: impl Iterator<Item = (&'t str, DType)>,
    ) -> (String, Vec<String>) {
        if self.later.is_empty() {
            return (self.first.clone(), Vec::new());
        }
        let mut used = BTreeSet::new();
        let mut feature = |kind: &str, name: &str| {
            let feature = format!("{kind}:{name}");
            if self.later.contains_key(&feature) {
                used.insert(feature);
            }
        };
        model.architecture.iter().for_each(|id| feature("architecture", id));
        for name in model.hyperparameters.keys() {
            feature("key", self.key(name).map_or(name, |key| &key.name));
            feature("key", plain_name(name).unwrap_or(name));
        }
        model.tasks.iter().for_each(|task| feature("task", &task.id));
        let encodings =
            model.encodings.values().filter_map(|entry| entry.get("encoding")?.as_str());
        for id in encodings {
            feature("blocks", id);
            feature("layout", id);
        }
        for (name, dtype) in tensors {
            if let Some(of) = self.role(name) {
                feature("role", &of.role.written);
            }
            feature("dtype", dtype.name());
        }
        let versions = used.iter().filter_map(|feature| self.later.get(feature));
        let least = versions.max_by_key(|version| numbers(version)).unwrap_or(&self.first);
        (least.clone(), used.into_iter().collect())
    }

    /// Has a model say the least version that suffices, and what it requires. `tensors` are its names
    /// and dtypes.
    pub fn state_version<'t>(
        &self,
        model: &mut Model,
        tensors: impl Iterator<Item = (&'t str, DType)>,
    ) {
        (model.spec, model.requires) = self.least_version(model, tensors);
    }
}

/// `1.0.0` as numbers; `None` if it is no version.
pub fn numbers(version: &str) -> Option<[u32; 3]> {
    let numbers: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
    numbers?.try_into().ok()
}
