//! Reads a policy: an unknown key, rule, task or digest is an error that says what was meant.

use toml::{Table, Value};

use super::file::{File, Rules};
use super::known;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hex;
use crate::base::near::did_you_mean;
use crate::manifest::Digests;
use crate::spec::Spec;

pub(super) fn parse(text: &str, spec: &Spec) -> Result<File> {
    let mut table: Table = text.parse().map_err(|err: toml::de::Error| wrong(err.to_string()))?;
    let schema = schemars::schema_for!(File).to_value();
    known::keys(&Value::Table(table.clone()), &schema)?;
    dates_to_text(&mut table);
    let file: File = table.try_into().map_err(|err: toml::de::Error| wrong(err.to_string()))?;
    rules(&file.rules, spec)?;
    for section in &file.path {
        pattern(&section.matching)?;
        rules(&section.rules, spec)?;
    }
    for waiver in &file.waiver {
        rule(&waiver.rule, spec)?;
        waiver.path.iter().chain(&waiver.place).try_for_each(|one| pattern(one))?;
        if waiver.reason.trim().is_empty() {
            return Err(wrong(format!("the waiver of {} has no reason", waiver.rule)));
        }
        if let Some(day) = &waiver.expires
            && !is_day(day)
        {
            return Err(wrong(format!("{day:?} is no day: write expires = 2026-12-31")));
        }
    }
    Ok(file)
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, message.into().trim_end())
}

/// Makes dates text, so that they may be written with quotes and without.
fn dates_to_text(table: &mut Table) {
    for (_, value) in table.iter_mut() {
        match value {
            Value::Datetime(day) => *value = Value::String(day.to_string()),
            Value::Table(table) => dates_to_text(table),
            Value::Array(items) => {
                for item in items {
                    if let Value::Table(table) = item {
                        dates_to_text(table);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Whether a text is a day, `2026-12-31`: days compare as texts do.
fn is_day(text: &str) -> bool {
    let is_date = |day: &toml::value::Datetime| day.date.is_some() && day.time.is_none();
    text.len() == 10 && text.parse().is_ok_and(|day| is_date(&day))
}

fn pattern(text: &str) -> Result<()> {
    match glob::Pattern::new(text) {
        Ok(_) => Ok(()),
        Err(err) => Err(wrong(format!("{text:?} is no pattern: {err}"))),
    }
}

fn rules(rules: &Rules, spec: &Spec) -> Result<()> {
    let named = rules.select.iter().flatten().chain(&rules.ignore).chain(rules.severity.keys());
    for id in named {
        rule(id, spec)?;
    }
    let require = &rules.require;
    for task in require.tasks.iter().flatten() {
        let known = || spec.tasks.iter().map(|task| task.id.as_str());
        if !known().any(|known| known == task) {
            return Err(wrong(format!("there is no task {task:?}{}", did_you_mean(task, known()))));
        }
    }
    for (name, digest) in &require.digests {
        self::digest(name, digest)?;
    }
    if let Some(size) = &require.max_size
        && size.bytes().is_none()
    {
        return Err(wrong("max-size is no size: write a number of bytes, or \"16 GB\""));
    }
    Ok(())
}

/// Holds a digest to its form.
///
/// # Errors
/// There is no digest of this name, or the text is no SHA-256.
pub(super) fn digest(name: &str, digest: &str) -> Result<()> {
    let names = Digests::default().each().map(|(name, _)| name);
    if !names.contains(&name) {
        let meant = did_you_mean(name, names);
        return Err(wrong(format!(
            "there is no digest {name:?}{meant}; there are {}",
            names.join(", ")
        )));
    }
    if hex::decode32(digest.strip_prefix("sha256:").unwrap_or(digest)).is_none() {
        return Err(wrong(format!("the digest {name} is not 64 hex digits: {digest:?}")));
    }
    Ok(())
}

fn rule(id: &str, spec: &Spec) -> Result<()> {
    spec.check_rule(id).map_err(wrong)
}
