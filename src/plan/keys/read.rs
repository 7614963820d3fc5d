//! From a foreign config to hyperparameters.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;

use serde_json::Value as Json;

use super::path::{from_json, lookup, stated};
use super::why::{Known, wrong_causes};
use super::writer::writer_is;
use crate::base::diagnostic::Diagnostic;
use crate::base::limits::MAX_LIST;
use crate::package::{Hparams, Value};
use crate::spec::Spec;
use crate::spec::arch::Arch;
use crate::spec::classes::Class;
use crate::spec::ecosystem::Ecosystem;
use crate::spec::ecosystem::config::MODEL_TYPE;
use crate::spec::expr::{Expr, Names, as_int, same};
use crate::spec::hparams::{Kind, ProblemKind};
use crate::spec::map::{EachEntry, KeyRule, Map, entry_path};
use crate::spec::names::StackNames;

/// What a foreign config says in the standard's words.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// The hyperparameters.
    pub hparams: Hparams,
    /// The ids of special tokens.
    pub tokens: Hparams,
    /// Where each value comes from, for people.
    pub origins: BTreeMap<String, String>,
}

/// Reads the hyperparameters of an architecture from a foreign config.
///
/// # Errors
/// A key is missing without a listed default, or has a value the standard does not know.
pub fn read(spec: &Spec, map: &Map, arch: &Arch, config: &Json) -> Result<Keys, Vec<Diagnostic>> {
    let reader = Reader::of(spec, map, arch, config);
    let mut keys = Keys::default();
    let (mut findings, mut failed) = (Vec::new(), Vec::new());
    for rule in &map.keys {
        let name = rule.to.as_str();
        match reader.lookup(name) {
            Ok(None) => {}
            Ok(Some((value, origin))) => {
                if let Some(token) = name.strip_prefix("tokens.") {
                    match ids(token, &value) {
                        // A token that the model does not have is not told of.
                        Some(None) => {}
                        Some(Some(ids)) => drop(keys.tokens.insert(token.to_owned(), ids)),
                        None => failed.push((rule, no_id(token, &value))),
                    }
                } else if !name.starts_with('_') {
                    let value = spec.key(name).map_or(value.clone(), |key| key.normal(value));
                    keys.hparams.insert(name.to_owned(), value);
                }
                keys.origins.insert(name.to_owned(), origin);
            }
            Err(why) => failed.push((rule, why)),
        }
    }
    // What depends on a key of the wrong kind says the same once more.
    let mut told = Vec::new();
    failed.retain(|(rule, _)| {
        let wrong = wrong_causes(spec, map, &keys.hparams, rule);
        let is_own = wrong.is_empty();
        told.extend(wrong);
        is_own
    });
    told.sort_unstable();
    told.dedup();
    for (name, wanted) in told {
        let found = &keys.hparams[name];
        let message = unfit(name, found, keys.origins.get(name), &wanted);
        findings.push(Diagnostic::error("P003", message).key(name).mismatch(wanted, found));
    }
    // So does what depends on one that cannot be read.
    let causes: Vec<String> = failed.iter().map(|(_, why)| why.clone()).collect();
    failed.retain(|(_, why)| {
        !causes.iter().any(|cause| cause.len() < why.len() && why.ends_with(cause.as_str()))
    });
    findings.extend(failed.iter().map(|(rule, why)| key_error(rule, why)));
    for (name, fixed) in &arch.fixed {
        match keys.hparams.get(name) {
            None => {
                let value = spec.key(name).map_or(fixed.clone(), |key| key.normal(fixed.clone()));
                keys.hparams.insert(name.clone(), value);
                keys.origins.insert(name.clone(), format!("fixed for {}", arch.id));
            }
            Some(value) if same(value, fixed) => {}
            Some(value) => findings.push(
                Diagnostic::error(
                    "P004",
                    format!("`{name}` is {value} here, and {} has {fixed} only", arch.id),
                )
                .key(name.clone())
                .mismatch(fixed, value),
            ),
        }
    }
    if !findings.is_empty() {
        return Err(findings);
    }
    // What the conditions of other keys switch off is not part of the model. A key that the
    // stacks share stays while one of them needs it.
    for key in &spec.keys {
        let Some(when) = &key.when else { continue };
        let mut needed = false;
        for stack in arch.stacks.iter().map(String::as_str) {
            let names = StackNames {
                hparams: &keys.hparams,
                tokens: None,
                stack: key.per_stack.then_some(stack),
                layer: None,
            };
            let off = when.eval_bool(&names) == Ok(false);
            needed |= !off;
            if off {
                keys.hparams.remove(&format!("{stack}.{}", key.name));
            }
        }
        if !needed {
            keys.hparams.remove(&key.name);
        }
    }
    keys.hparams = spec.normal_hparams(arch, &keys.hparams);
    for problem in spec.check_hparams(arch, &keys.hparams) {
        let origin = keys.origins.get(&problem.key);
        let origin = origin.map(|origin| format!(" (from {origin})")).unwrap_or_default();
        let message = match problem.kind {
            ProblemKind::Missing => format!(
                "nothing says what `{}` is: neither the config nor a listed default",
                problem.key
            ),
            ProblemKind::Constraint => format!(
                "hyperparameters contradict each other: {}{origin}; they have to hold {}",
                problem.found, problem.expected
            ),
            _ => {
                let origin = keys.origins.get(&problem.key);
                unfit(&problem.key, &problem.found, origin, &problem.expected)
            }
        };
        let diagnostic = Diagnostic::error("P003", message).key(problem.key);
        findings.push(diagnostic.mismatch(problem.expected, problem.found));
    }
    if findings.is_empty() { Ok(keys) } else { Err(findings) }
}

/// A value that is not what the standard wants.
fn unfit(name: &str, found: impl Display, origin: Option<&String>, wanted: &str) -> String {
    let origin = origin.map(|origin| format!(" (from {origin})")).unwrap_or_default();
    format!("`{name}` is {found}{origin}, and has to be {wanted}")
}

/// Why a key has no value that nobody has stated.
const NOT_THERE: &str = "it is not there, and no default is listed";

/// The token of which there may be several.
const EOS: &str = "eos";

/// The id of a special token, of `eos` the list of them, as the package has it; nothing within where there is
/// none, and `None` where that is no id.
fn ids(token: &str, value: &Value) -> Option<Option<Value>> {
    let id = |value: &Value| as_int(value).map(Value::Int);
    match (token, value) {
        (_, Value::Null) => Some(None),
        (EOS, Value::List(items)) => {
            let ids: Vec<Value> = items.iter().map(id).collect::<Option<_>>()?;
            Some((!ids.is_empty()).then_some(Value::List(ids)))
        }
        (EOS, one) => Some(Some(Value::List(vec![id(one)?]))),
        (_, one) => Some(Some(id(one)?)),
    }
}

fn no_id(token: &str, value: &Value) -> String {
    let wanted = if token == EOS { "an integer or a list of integers" } else { "an integer" };
    format!("it is {value}, which is no id of a token: {wanted}")
}

fn key_error(rule: &KeyRule, why: &str) -> Diagnostic {
    let places = rule.from.join("`, `");
    // Names with a line in front are the mapping's own, and say nothing to anybody else.
    let message = match (rule.to.starts_with('_'), places.is_empty()) {
        (false, false) => format!("`{}` cannot be had (read from `{places}`): {why}", rule.to),
        (false, true) => format!("`{}` cannot be had: {why}", rule.to),
        (true, _) if why.starts_with("the config's") => why.to_owned(),
        (true, false) => format!("the config's `{places}` cannot be read: {why}"),
        (true, true) => format!("the config cannot be read: {why}"),
    };
    let key = if rule.to.starts_with('_') { rule.from.first() } else { None };
    Diagnostic::error("P003", message).key(key.unwrap_or(&rule.to).clone()).help(
        match why.ends_with(NOT_THERE) {
            true => "add the key to the config; no value is guessed",
            false => "correct the config; no value is guessed",
        },
    )
}

type Found = Option<(Value, String)>;

pub(super) struct Reader<'a> {
    spec: &'a Spec,
    map: &'a Map,
    arch: &'a Arch,
    config: &'a Json,
    /// The class that reads the config, if it is known.
    class: Option<Class<'a>>,
    /// What is known, by key; `None` while it is being looked for.
    done: RefCell<BTreeMap<String, Option<Result<Found, String>>>>,
}

impl Names for Reader<'_> {
    fn value(&self, name: &str) -> Result<Value, String> {
        if let Some(path) = name.strip_prefix("config.") {
            return stated(self.config, path);
        }
        match self.lookup(name)? {
            Some((value, _)) => Ok(value),
            None => match self.arch.fixed.get(name) {
                Some(value) => Ok(value.clone()),
                None => Err(format!("there is no `{name}` here")),
            },
        }
    }
}

impl<'a> Reader<'a> {
    pub(super) fn of(spec: &'a Spec, map: &'a Map, arch: &'a Arch, config: &'a Json) -> Reader<'a> {
        let classes = spec.classes.get(&map.format);
        let class = classes.and_then(|classes| classes.of(map, config));
        Reader { spec, map, arch, config, class, done: RefCell::default() }
    }

    /// Where a key may stand in the config: under its own paths, and what the class calls them.
    pub(super) fn paths(&self, rule: &'a KeyRule) -> Vec<&'a str> {
        let mut paths: Vec<&str> = rule.from.iter().map(String::as_str).collect();
        for path in &rule.from {
            for other in self.class.into_iter().flat_map(|class| class.other_names(path)) {
                if !paths.contains(&other) {
                    paths.push(other);
                }
            }
        }
        paths
    }

    pub(super) fn lookup(&self, name: &str) -> Result<Found, String> {
        if let Some(known) = self.done.borrow().get(name) {
            return known.clone().unwrap_or_else(|| Err(format!("`{name}` depends on itself")));
        }
        let Some(rule) = self.map.keys.iter().find(|rule| rule.to == name) else {
            return Ok(None);
        };
        self.done.borrow_mut().insert(name.to_owned(), None);
        let found = self.read(rule);
        self.done.borrow_mut().insert(name.to_owned(), Some(found.clone()));
        found
    }

    /// The one value of a list for each layer whose values are all the same: of keys with types, programs write
    /// either for what may differ between layers.
    fn of_all_layers<'j>(&self, rule: &KeyRule, foreign: &'j Json) -> &'j Json {
        let Json::Array(items) = foreign else { return foreign };
        let kind = self.spec.key(&rule.to).map(|key| key.kind);
        let is_single = matches!(kind, Some(Kind::Count | Kind::Float | Kind::Bool));
        let is_typed = Ecosystem::of(&self.map.format).typed_keys;
        match items.split_first() {
            Some((first, rest)) if is_single && is_typed && rest.iter().all(|one| one == first) => {
                first
            }
            _ => foreign,
        }
    }

    /// Why an expression has no value, in the words of the config.
    fn plain(&self, expr: &Expr, x: Option<&Value>, why: String) -> String {
        Known { names: self, map: self.map, config: self.config }.plain(expr, x, why)
    }

    fn read(&self, rule: &KeyRule) -> Result<Found, String> {
        if let Some(when) = &rule.when
            && !when.eval_bool(self).map_err(|why| self.plain(when, None, why))?
        {
            return Ok(None);
        }
        if let Some(value) = &rule.value {
            return Ok(Some((self.computed(value)?, computed(value))));
        }
        let mut found: Found = None;
        let paths = self.paths(rule);
        for path in &paths {
            let foreign = match lookup(self.config, path) {
                None => continue,
                Some(Json::Null) if !rule.null => continue,
                Some(foreign) => self.of_all_layers(rule, foreign),
            };
            let value = from_json(foreign)
                .and_then(|raw| self.read_value(rule, raw))
                .map_err(|why| format!("the config's `{path}`: {why}"))?;
            match &found {
                None => found = Some((value, format!("the config's `{path}`"))),
                Some((first, _)) if same(first, &value) => {}
                Some((first, origin)) => {
                    return Err(format!(
                        "{origin} makes it {first}, and `{path}` makes it {value}: readers differ \
                         in which they believe"
                    ));
                }
            }
        }
        if found.is_some() {
            return Ok(found);
        }
        if let Some(each) = &rule.each {
            let counted = &each.count;
            let count = counted.eval_size(self).map_err(|why| self.plain(counted, None, why))?;
            // A config may claim any number of layers.
            if (MAX_LIST as u64) < count {
                let name = self.map.keys.iter().find(|key| key.to == counted.text);
                let from = name.and_then(|key| key.from.first());
                let from = from.map(|path| format!(" (the config's `{path}`)"));
                return Err(format!(
                    "`{}`{} is {count}, and at most {MAX_LIST} layers are taken",
                    counted.text,
                    from.unwrap_or_default()
                ));
            }
            let stated = |i: u64| self.entry(rule, each, i);
            let stated = (0..count).map(stated).collect::<Result<Vec<_>, _>>()?;
            // An object or a list that is there, be it empty, says that the others are not otherwise.
            let is_there = each.from.iter().any(|path| {
                let around =
                    path.split_once(".{i}").and_then(|(path, _)| lookup(self.config, path));
                around.is_some_and(|around| around.is_object() || around.is_array())
            });
            let other = if is_there { &each.rest } else { &each.value };
            let entry = |(i, stated): (u64, Option<Value>)| {
                let names = |name: &str| match name {
                    "i" => Ok(Value::Int(i64::try_from(i).unwrap_or(i64::MAX))),
                    _ => self.value(name),
                };
                let plain = |why| self.plain(other, None, why);
                stated.map_or_else(|| other.eval(&names).map_err(plain), Ok)
            };
            let entries = (0..).zip(stated).map(entry).collect::<Result<Vec<_>, _>>()?;
            return Ok(Some((Value::List(entries), computed(other))));
        }
        if let Some(otherwise) = &rule.otherwise {
            return Ok(Some((self.computed(otherwise)?, computed(otherwise))));
        }
        let found = self.default(rule, &paths)?;
        // A default is for a config that is silent: null is nothing, and not what nothing stands for.
        let null = paths.iter().find(|path| lookup(self.config, path) == Some(&Json::Null));
        let stands_for = |path: &&str| self.class.and_then(|class| class.default(path));
        if let Some(path) = null
            && let Some(default) = stands_for(path)
            && !matches!(default, Value::Null | Value::Bool(false))
        {
            return Err(format!(
                "the config's `{path}` is null, which has no meaning here; where the config is silent \
                 it is {default}"
            ));
        }
        Ok(Some(found))
    }

    fn computed(&self, expr: &Expr) -> Result<Value, String> {
        expr.eval(self).map_err(|why| self.plain(expr, None, why))
    }

    /// The standard's value of a foreign one.
    fn read_value(&self, rule: &KeyRule, raw: Value) -> Result<Value, String> {
        let value = translate(rule, raw)?;
        let Some(expr) = &rule.expr else { return Ok(value) };
        let names = |name: &str| match name {
            "x" => Ok(value.clone()),
            _ => self.value(name),
        };
        expr.eval(&names).map_err(|why| self.plain(expr, Some(&value), why))
    }

    /// What the config states of one entry of a list.
    fn entry(&self, rule: &KeyRule, each: &EachEntry, i: u64) -> Result<Option<Value>, String> {
        for path in each.from.iter().map(|path| entry_path(path, i)) {
            let foreign = lookup(self.config, &path).filter(|foreign| !foreign.is_null());
            let Some(foreign) = foreign else { continue };
            let value = from_json(foreign).and_then(|raw| translate(rule, raw));
            return value.map(Some).map_err(|why| format!("the config's `{path}`: {why}"));
        }
        Ok(None)
    }

    /// What a key is where the config does not say it: the first listed default that holds, or else that
    /// of the class. Of a token the class's comes before a listed one that there is none.
    fn default(&self, rule: &KeyRule, paths: &[&str]) -> Result<(Value, String), String> {
        let listed = self.listed_default(rule);
        let is_class_first = rule.to.starts_with("tokens.");
        match listed {
            Some(found) if found.0 != Value::Null || !is_class_first => Ok(found),
            listed => {
                let found = self.class_default(rule, paths)?.or(listed);
                found.ok_or_else(|| NOT_THERE.to_owned())
            }
        }
    }

    fn listed_default(&self, rule: &KeyRule) -> Option<(Value, String)> {
        for default in &rule.defaults {
            if default.when.as_deref().is_none_or(|when| writer_is(self.config, when)) {
                let origin = match &default.when {
                    Some(when) => format!("the default of {when}"),
                    None => "the default of the foreign class".to_owned(),
                };
                return Some((default.value.clone(), origin));
            }
        }
        None
    }

    fn class_default(
        &self,
        rule: &KeyRule,
        paths: &[&str],
    ) -> Result<Option<(Value, String)>, String> {
        // What a class does with a config that names it is known; another's silence is not.
        let named = |class: &Class<'_>| {
            self.config.get(MODEL_TYPE).and_then(Json::as_str) == Some(class.name)
        };
        if let Some(class) = self.class.filter(named) {
            let stated = paths.iter().find_map(|path| class.default(path));
            if let Some(raw) = stated.filter(|raw| rule.null || *raw != Value::Null) {
                let origin = format!("the default of the class of {}", class.name);
                return Ok(Some((self.read_value(rule, raw)?, origin)));
            }
        }
        Ok(None)
    }
}

/// Where a computed value comes from, for people: the keys that it is computed of.
fn computed(expr: &Expr) -> String {
    // Names with a line in front are the mapping's own.
    let mut names: Vec<&str> = expr.names();
    names.retain(|name| !name.starts_with('_') && *name != "i");
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [] => "what the mapping says".to_owned(),
        names => format!("`{}`", names.join("`, `")),
    }
}

fn translate(rule: &KeyRule, value: Value) -> Result<Value, String> {
    if rule.words.is_empty() {
        return Ok(value);
    }
    match value {
        Value::List(items) => {
            let items = items.into_iter().map(|item| translate(rule, item));
            Ok(Value::List(items.collect::<Result<_, _>>()?))
        }
        Value::Null => Ok(Value::Null),
        value => {
            let word = match &value {
                Value::Symbol(word) => word.clone(),
                value => value.to_string(),
            };
            let meaning = rule.words.iter().find(|(known, _)| *known == word);
            meaning.map(|(_, meaning)| meaning.clone()).ok_or_else(|| {
                let known: Vec<_> = rule.words.iter().map(|(known, _)| known.as_str()).collect();
                format!("{value} has no meaning here, only {}", known.join(", "))
            })
        }
    }
}
