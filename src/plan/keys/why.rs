//! Why a key of a config has no value, in the words of the config: what a mapping computes says nothing to who wrote one.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::path::stated;
use crate::package::{Hparams, Value};
use crate::spec::Spec;
use crate::spec::expr::{Expr, Names};
use crate::spec::map::{KeyRule, Map};
use crate::spec::names::missing;

/// Values that are told are cut to so many characters.
const MAX_SHOWN: usize = 60;

/// How the origin of what the config itself states begins.
const STATED: &str = "the config's `";

/// How what an operation of an expression cannot be done with ends.
const BARE: [&str; 2] = ["has no value", "has no meaning"];

/// Where the values of a config's keys are known.
pub(super) struct Known<'k> {
    pub(super) names: &'k dyn Names,
    pub(super) map: &'k Map,
    pub(super) config: &'k Json,
}

impl Known<'_> {
    /// Why an expression has no value: what it was given, where the operation that failed would be all that is said.
    pub(super) fn plain(&self, expr: &Expr, x: Option<&Value>, why: String) -> String {
        if !BARE.iter().any(|end| why.ends_with(end)) {
            return why;
        }
        let (mut open, mut seen, mut given) = (expr.names(), Vec::new(), Vec::new());
        open.sort_unstable();
        open.reverse();
        while let Some(name) = open.pop() {
            if name == "x" || name == "i" || seen.contains(&name) {
                continue;
            }
            seen.push(name);
            match (self.names.value(name), self.place(name)) {
                // What the mapping makes for itself is told by what it makes it of.
                (Ok(_), None) => open.extend(self.made_of(name)),
                // Null has a meaning where it stands beside others; alone it is the cause.
                (Ok(Value::Null), Some(_)) if 1 < expr.names().len() => {}
                (Ok(value), Some(place)) => given.push(format!("{place} is {}", shown(&value))),
                // That one's own failure is told for it.
                (Err(cause), _) if why.ends_with(&cause) => return why,
                (Err(_), _) => {}
            }
        }
        let given = given.join(" and ");
        match (x, given.is_empty()) {
            (Some(x), true) => format!("it is {}, which has no meaning here", shown(x)),
            (Some(x), false) => {
                format!("it is {}, which has no meaning here, where {given}", shown(x))
            }
            (None, false) => format!("there is none where {given}"),
            (None, true) => why,
        }
    }

    /// The names that a key which the config does not state is computed of.
    fn made_of(&self, name: &str) -> Vec<&str> {
        let rule = self.map.keys.iter().find(|rule| rule.to == name);
        let each = rule.iter().flat_map(|rule| rule.each.iter().flat_map(|each| each.exprs()));
        let own = rule.iter().flat_map(|rule| [&rule.otherwise, &rule.value].into_iter().flatten());
        own.chain(each).flat_map(Expr::names).collect()
    }

    /// What people know a name by: of those with a line in front, where the config states it.
    fn place(&self, name: &str) -> Option<String> {
        if let Some(path) = name.strip_prefix("config.") {
            return Some(format!("the config's `{path}`"));
        }
        if !name.starts_with('_') {
            return Some(format!("`{name}`"));
        }
        let rule = self.map.keys.iter().find(|rule| rule.to == name)?;
        let is_stated =
            |path: &&String| stated(self.config, path).is_ok_and(|of| of != Value::Null);
        rule.from.iter().find(is_stated).map(|path| format!("the config's `{path}`"))
    }
}

/// Why an expression over hyperparameters has no value, where that is because of a key whose own condition says that the
/// model has none: what in the config switches it off.
pub(in crate::plan) fn switched_off(
    spec: &Spec,
    names: &dyn Names,
    origins: &BTreeMap<String, String>,
    why: &str,
) -> Option<String> {
    let key = spec.key(missing(why)?)?;
    let told = told(names, origins, key.when.as_ref()?.names());
    (!told.is_empty()).then_some(told)
}

/// What the names are, by where the config states them.
pub(in crate::plan) fn told(
    names: &dyn Names,
    origins: &BTreeMap<String, String>,
    mut of: Vec<&str>,
) -> String {
    of.sort_unstable();
    of.dedup();
    let mut told: Vec<(bool, String)> = Vec::new();
    for name in of {
        let Ok(value) = names.value(name) else { continue };
        let origin = origins.get(name).filter(|origin| origin.starts_with(STATED));
        let place = origin.cloned().unwrap_or_else(|| format!("`{name}`"));
        told.push((origin.is_some(), format!("{place} is {}", shown(&value))));
    }
    // What the config itself states is the cause, where there is such a thing.
    let any = told.iter().any(|(is_stated, _)| *is_stated);
    told.retain(|(is_stated, _)| *is_stated || !any);
    told.into_iter().map(|(_, told)| told).collect::<Vec<_>>().join(" and ")
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// The hyperparameters that are of no kind that the standard has for them, with what it has, of those that a key
/// that has no value is computed of.
pub(super) fn wrong_causes<'a>(
    spec: &Spec,
    map: &'a Map,
    hparams: &Hparams,
    rule: &'a KeyRule,
) -> Vec<(&'a str, String)> {
    let (mut seen, mut open, mut wrong) = (Vec::new(), vec![rule], Vec::new());
    while let Some(rule) = open.pop() {
        let each = rule.each.iter().flat_map(|each| each.exprs());
        let own = [&rule.expr, &rule.otherwise, &rule.value, &rule.when].into_iter().flatten();
        for name in own.chain(each).flat_map(|expr| expr.names()) {
            let Some(next) = map.keys.iter().find(|key| key.to == name) else { continue };
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            open.push(next);
            let value = hparams.get(name).filter(|value| **value != Value::Null);
            let wanted = value.zip(spec.key(name)).and_then(|(value, key)| key.problem(value));
            wrong.extend(wanted.map(|wanted| (name, wanted)));
        }
    }
    wrong
}
