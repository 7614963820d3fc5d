//! Entries of a foreign config that nothing reads: what the standard would lose of what they change.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::keys::from_json;
use crate::base::diagnostic::Diagnostic;
use crate::checkpoint::{Checkpoint, Payload, Tensor};
use crate::package::Value;
use crate::spec::Spec;
use crate::spec::classes::Class;
use crate::spec::ecosystem::config::QUANTIZATION;
use crate::spec::expr::{Expr, same};
use crate::spec::map::{KeyRule, Map};

/// What is to be said of the entries of a config that its mapping neither reads nor knows to be
/// inert. A warning for each that sets the config's class other than it is by default; one note on
/// those that the class does not have. Nothing on formats whose classes are not known.
pub(super) fn findings(spec: &Spec, map: &Map, config: &Json) -> Vec<Diagnostic> {
    let Some(classes) = spec.classes.get(&map.format) else { return Vec::new() };
    let class = classes.of(map, config);
    let mut search = Search { map, class, read: read(map), findings: Vec::new(), foreign: vec![] };
    search.visit("", config);
    let Search { mut findings, foreign, .. } = search;
    if !foreign.is_empty() {
        let message = format!(
            "nothing reads these entries of the config, and its class declares none of them: {}",
            foreign.join(", ")
        );
        findings.push(
            Diagnostic::note("P040", message)
                .key(foreign[0].clone())
                .help("code that comes with the model may read them"),
        );
    }
    findings
}

/// What is to be said of a config that tells how tensors are packed, where none is: people merge what they
/// trained into plain weights and leave the entry.
pub(super) fn not_packed(config: &Json, checkpoint: &Checkpoint) -> Option<Diagnostic> {
    let said = config.get(QUANTIZATION).filter(|said| said.is_object())?;
    let is_packed =
        |tensor: &Tensor| matches!(tensor.payload, Payload::Parts(..)) || tensor.encoding.is_some();
    if checkpoint.tensors.iter().any(is_packed) {
        return None;
    }
    let method = said.get("quant_method").and_then(Json::as_str).unwrap_or("a method without name");
    let message = format!(
        "the config says that the weights are quantized ({method}), and no tensor is: they are taken as the \
         plain numbers that they are, and the entry is left out of what is written"
    );
    Some(Diagnostic::note("P040", message).key(QUANTIZATION).help(
        "take the entry out of config.json: programs may quantize the weights when they load them",
    ))
}

/// Every path of the config that a mapping reads.
fn read(map: &Map) -> BTreeSet<&str> {
    let mut read: BTreeSet<&str> = map.matches.keys().map(String::as_str).collect();
    read.extend(map.keys.iter().flat_map(|rule| &rule.from).map(String::as_str));
    let entries = map.keys.iter().flat_map(|rule| &rule.each).flat_map(|each| &each.from);
    read.extend(entries.map(String::as_str));
    for task in &map.tasks {
        read.extend(task.config.keys().chain(&task.label_list).map(String::as_str));
    }
    let exprs = map.when.iter().chain(map.keys.iter().flat_map(exprs));
    let names = exprs.flat_map(Expr::names);
    read.extend(names.filter_map(|name| name.strip_prefix("config.")));
    read
}

fn exprs(rule: &KeyRule) -> impl Iterator<Item = &Expr> {
    let KeyRule { expr, otherwise, each, value, when, .. } = rule;
    let each = each.iter().flat_map(|each| each.exprs());
    [expr, otherwise, value, when].into_iter().flatten().chain(each)
}

/// A path with `{i}` in the place of each number, as lists have entries there.
fn entries(path: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts = path.split('.').map(|part| if is_number(part) { "{i}" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

struct Search<'a> {
    map: &'a Map,
    class: Option<Class<'a>>,
    read: BTreeSet<&'a str>,
    findings: Vec<Diagnostic>,
    /// Entries that the class does not have.
    foreign: Vec<String>,
}

impl Search<'_> {
    fn visit(&mut self, path: &str, json: &Json) {
        let Json::Object(entries) = json else { return };
        for (key, value) in entries {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            // What says nothing in the whole says nothing in a part of it.
            let is_inert = [&path, key].into_iter().any(|path| self.map.inert.contains(path));
            // A list may be read entry by entry.
            let is_listed = value.is_array() && self.is_read(&format!("{path}.0"));
            if is_inert || is_listed || self.is_read(&path) {
                continue;
            }
            if value.is_object() && self.is_parted(&path) {
                self.visit(&path, value);
            } else {
                self.judge(path, value);
            }
        }
    }

    fn is_read(&self, path: &str) -> bool {
        let mut others = self.class.into_iter().flat_map(|class| class.other_names(path));
        let is_read = |path: &str| self.read.contains(path) || self.read.contains(&*entries(path));
        is_read(path) || others.any(is_read)
    }

    /// Whether entries below a path are known one by one.
    fn is_parted(&self, path: &str) -> bool {
        let start = format!("{}.", entries(path));
        let below = |known: &&str| known.starts_with(&start);
        self.read.iter().any(below)
            || self.map.inert.iter().any(|known| known.starts_with(&start))
            || self.class.is_some_and(|class| class.has_below(path))
    }

    fn judge(&mut self, path: String, value: &Json) {
        let default = self.class.and_then(|class| class.default(&path));
        let Some(default) = default else {
            // Null of what the class does not have says nothing.
            if !value.is_null() && !value.as_object().is_some_and(serde_json::Map::is_empty) {
                self.foreign.push(path);
            }
            return;
        };
        let stated = from_json(value);
        if stated.as_ref().is_ok_and(|stated| same(stated, &default)) {
            return;
        }
        // An object in the place of one whose parts are known says nothing by being null.
        if (value.is_null() || default == Value::Null) && self.is_parted(&path) {
            return;
        }
        let found = stated.map_or_else(|_| value.to_string(), |stated| stated.to_string());
        let message = format!(
            "the config sets `{path}` to {found}, where its class has {default}; nothing reads it, \
             and what it changes is lost"
        );
        self.findings.push(
            Diagnostic::warning("P040", message)
                .key(path)
                .mismatch(default, found)
                .help("compare the outputs with those of the model as it was (`llmstd run`)"),
        );
    }
}
