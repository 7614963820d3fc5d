//! How the data files of a version are put on those of the version below. The build of this program does the
//! same for the versions that it carries, with this very file.

use std::collections::BTreeMap;
use std::ops::Deref;

use toml::{Table, Value};

/// The file that says which version a folder is.
pub(crate) const SPEC_FILE: &str = "spec.toml";

/// The tables of data files whose entries are features, with the member that names an entry.
const FEATURES: &[(&str, &str, &str)] = &[
    ("hparams.toml", "key", "name"),
    ("hparams.toml", "constraint", "id"),
    ("roles.toml", "role", "name"),
    ("tasks.toml", "task", "id"),
    ("dtypes.toml", "dtype", "name"),
    ("layouts.toml", "layout", "id"),
    ("encodings.toml", "blocks", "id"),
];

/// A member of `spec.toml`, where it is a word.
pub(crate) fn word(head: &str, member: &str) -> Result<Option<String>, toml::de::Error> {
    let head: Table = head.parse()?;
    Ok(head.get(member).and_then(Value::as_str).map(str::to_owned))
}

/// The version that this one extends, by its `spec.toml`.
pub(crate) fn extends(head: &str) -> Result<Option<String>, toml::de::Error> {
    // The text is looked at before it is parsed: of the first version nothing is parsed twice.
    if head.contains("\nextends") { word(head, "extends") } else { Ok(None) }
}

/// Puts the files of a version on those of the version below: lists are put behind each other, and new
/// files beside the others. A file of a folder (an architecture, a mapping, a page) takes the place of
/// one of its name.
///
/// # Errors
/// The file that is no TOML, and why.
pub(crate) fn add<T: Deref<Target = str> + From<String>>(
    files: &mut BTreeMap<String, T>,
    added: BTreeMap<String, T>,
) -> Result<(), (String, toml::de::Error)> {
    for (path, text) in added {
        let below = files.get(&path).filter(|_| !path.contains('/'));
        let text = match below.map(|below| put(below, &text)) {
            Some(Ok(merged)) => T::from(merged),
            Some(Err(err)) => return Err((path, err)),
            None => text,
        };
        files.insert(path, text);
    }
    Ok(())
}

fn put(below: &str, added: &str) -> Result<String, toml::de::Error> {
    // Entries of tables are put behind each other without parsing those that are many.
    if starts_with_entry(added) {
        return Ok(format!("{below}\n{added}"));
    }
    let mut merged: Table = below.parse()?;
    merge(&mut merged, added.parse()?);
    merged.remove("extends");
    Ok(merged.to_string())
}

fn starts_with_entry(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_start);
    lines
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .is_some_and(|line| line.starts_with("["))
}

fn merge(below: &mut Table, above: Table) {
    for (name, value) in above {
        match (below.get_mut(&name), value) {
            (Some(Value::Array(items)), Value::Array(more)) => items.extend(more),
            (Some(Value::Table(table)), Value::Table(more)) => merge(table, more),
            (_, value) => drop(below.insert(name, value)),
        }
    }
}

/// What the files of a version that extends another add: each feature, `key:NAME`, with the version.
///
/// # Errors
/// The file that is no TOML, and why.
pub(crate) fn features<'f>(
    text: impl Fn(&str) -> Option<&'f str>,
) -> Result<Vec<(String, String)>, (&'static str, toml::de::Error)> {
    let parse = |file: &'static str| -> Result<Table, (&'static str, toml::de::Error)> {
        text(file).unwrap_or_default().parse().map_err(|err| (file, err))
    };
    let head = parse(SPEC_FILE)?;
    let version = head.get("version").and_then(Value::as_str).unwrap_or_default();
    let feature = |kind: &str, name: &str| (format!("{kind}:{name}"), version.to_owned());
    let architectures = head.get("architectures").and_then(Value::as_array);
    let architectures = architectures.into_iter().flatten().filter_map(Value::as_str);
    let mut features: Vec<_> = architectures.map(|id| feature("architecture", id)).collect();
    for (file, table, name) in FEATURES {
        let parsed = parse(file)?;
        let entries = parsed.get(*table).and_then(Value::as_array);
        // What says again what a version below has is no feature of its own.
        let is_new = |entry: &&Value| entry.get("replaces").is_none();
        let entries = entries.into_iter().flatten().filter(is_new);
        let named = entries.filter_map(|entry| entry.get(*name)?.as_str());
        features.extend(named.map(|name| feature(table, name)));
    }
    Ok(features)
}
