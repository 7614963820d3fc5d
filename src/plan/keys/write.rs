//! From hyperparameters to a foreign config.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::path::{from_json, lookup, remove, set, to_json};
use super::read::Reader;
use crate::base::diagnostic::Diagnostic;
use crate::package::{Hparams, Value};
use crate::spec::Spec;
use crate::spec::arch::Arch;
use crate::spec::expr::{Names, same};
use crate::spec::map::{KeyRule, Map, Write, entry_path};
use crate::spec::names::StackNames;

/// Writes hyperparameters into a foreign config: every key, even where it equals a default, as
/// the next reader's defaults are unknown. What `original` says beyond them stays. `ends` has the first and the
/// last dimension of a canonical tensor that is stored.
///
/// # Errors
/// A value cannot be said in the foreign words.
pub fn write(
    spec: &Spec,
    map: &Map,
    arch: &Arch,
    hparams: &Hparams,
    tokens: &Hparams,
    original: Option<&Json>,
    ends: &dyn Fn(&str) -> Option<[u64; 2]>,
) -> Result<Json, Vec<Diagnostic>> {
    let hparams = &spec.wide_hparams(arch, hparams);
    let mut config = match original {
        Some(Json::Object(object)) => Json::Object(object.clone()),
        _ => Json::Object(serde_json::Map::new()),
    };
    // What the original says of a key is kept as it says it, where it still says the same.
    let known = original.map(|original| read_each(spec, map, arch, original)).unwrap_or_default();
    for path in &map.clear {
        remove(&mut config, path);
    }
    for (path, value) in &map.config {
        let value = crate::spec::from_toml(value).unwrap_or(Value::Null);
        set(&mut config, path, to_json(&value));
    }
    let names = StackNames {
        hparams,
        tokens: Some(tokens),
        stack: arch.stacks.first().map(String::as_str),
        layer: None,
    };
    let class = spec.classes.get(&map.format).and_then(|classes| classes.of(map, &config));
    let counts =
        |path: &str| class.is_some_and(|class| matches!(class.default(path), Some(Value::Int(_))));
    let mut findings = Vec::new();
    for rule in &map.keys {
        if let (false, [path, ..]) = (rule.stored.is_empty(), rule.from.as_slice())
            && lookup(&config, path).is_none()
        {
            let is_stored = rule.stored.iter().any(|name| ends(name).is_some());
            set(&mut config, path, is_stored.into());
        }
        let rows = rule.rows_of.as_deref().and_then(ends).map(|[rows, _]| rows);
        let columns = rule.columns_of.as_deref().and_then(ends).map(|[_, columns]| columns);
        if let (Some(n), [path, ..]) = (rows.or(columns), rule.from.as_slice())
            && lookup(&config, path).is_none()
        {
            set(&mut config, path, n.into());
        }
        let value = match rule.to.strip_prefix("tokens.") {
            // No reader's default may stand for a token that the model does not have.
            Some(token) => match tokens.get(token) {
                Some(id) => Some(one_id(id.clone())),
                None => original.is_none().then_some(Value::Null),
            },
            None => hparams.get(&rule.to).cloned(),
        };
        let Some(value) = value else { continue };
        let kept = known.get(&rule.to).filter(|(known, _)| {
            let known = spec.key(&rule.to).map_or(known.clone(), |key| key.normal(known.clone()));
            let known = if rule.to.starts_with("tokens.") { one_id(known) } else { known };
            same(&known, &value)
        });
        let foreign = match kept.and_then(|(_, foreign)| foreign.clone()) {
            // transformers 5 refuses `1` where it declares a float, and `1.0` where it declares a count; 4 takes both.
            Some(Json::Number(number))
                if number.is_i64()
                    && matches!(value, Value::Float(_))
                    && !rule.from.first().is_some_and(|path| counts(path)) =>
            {
                Ok(Json::from(number.as_f64()))
            }
            Some(foreign) => Ok(foreign),
            None => write_value(rule, &value, &names),
        };
        let mut write = |path: &str, json: Json| set(&mut config, path, json);
        let result = foreign.and_then(|foreign| match &rule.write {
            None => {
                if let Some(path) = rule.from.first() {
                    write(path, foreign);
                }
                Ok(())
            }
            Some(places) => places.iter().try_for_each(|place| {
                match place {
                    Write::Path(path) => write(path, foreign.clone()),
                    Write::Rule { path, when, value: other } => {
                        // A path with `{i}` is one for each entry of a list, and none of what is none.
                        let entries = match (&value, path.contains("{i}")) {
                            (_, false) => vec![None],
                            (Value::List(items), true) => {
                                (0..items.len() as u64).map(Some).collect()
                            }
                            (_, true) => Vec::new(),
                        };
                        for entry in entries {
                            let with_x = |name: &str| match (name, entry) {
                                ("x", _) => Ok(value.clone()),
                                ("foreign", _) => from_json(&foreign),
                                ("i", Some(i)) => {
                                    Ok(Value::Int(i64::try_from(i).unwrap_or(i64::MAX)))
                                }
                                _ => names.value(name),
                            };
                            let holds = when.as_ref().map(|when| when.eval_bool(&with_x));
                            if holds.transpose()? == Some(false) {
                                continue;
                            }
                            let json = match other {
                                Some(other) => to_json(&other.eval(&with_x)?),
                                None => foreign.clone(),
                            };
                            match entry {
                                Some(i) => write(&entry_path(path, i), json),
                                None => write(path, json),
                            }
                        }
                    }
                }
                Ok(())
            }),
        });
        if let Err(why) = result {
            let message = format!("`{}` = {value} cannot be written: {why}", rule.to);
            findings.push(Diagnostic::error("P005", message).key(rule.to.clone()));
        }
    }
    let is_own = |path: &str| original.is_some_and(|original| lookup(original, path).is_some());
    for path in map.unwritten.iter().filter(|path| !is_own(path)) {
        remove(&mut config, path);
    }
    if findings.is_empty() { Ok(config) } else { Err(findings) }
}

/// The id of a list of one, which foreign configs write as it is.
fn one_id(value: Value) -> Value {
    match value {
        Value::List(mut ids) if ids.len() == 1 && matches!(ids[0], Value::Int(_)) => ids.remove(0),
        value => value,
    }
}

type Known = BTreeMap<String, (Value, Option<Json>)>;

/// Each key that a config states, with the foreign value as it stands there.
fn read_each(spec: &Spec, map: &Map, arch: &Arch, config: &Json) -> Known {
    let reader = Reader::of(spec, map, arch, config);
    let keys = map.keys.iter().filter_map(|rule| {
        let (value, _) = reader.lookup(&rule.to).ok()??;
        let stated = reader.paths(rule).into_iter().find_map(|path| match lookup(config, path) {
            Some(Json::Null) if !rule.null => None,
            found => found.cloned(),
        });
        Some((rule.to.clone(), (value, stated)))
    });
    keys.collect()
}

/// The foreign value of one of the standard's.
fn write_value(rule: &KeyRule, value: &Value, names: &dyn Names) -> Result<Json, String> {
    if rule.from.is_empty() && rule.write.is_none() {
        return Ok(Json::Null); // Computed from other keys, written nowhere.
    }
    let value = match &rule.back {
        Some(back) => back.eval(&|name: &str| match name {
            "x" => Ok(value.clone()),
            _ => names.value(name),
        })?,
        None => value.clone(),
    };
    let word_of = |value: &Value| -> Result<Json, String> {
        // Of several foreign words with one meaning the mapping lists the plainest first.
        let mut words = rule.words.iter().filter(|(_, meaning)| same(meaning, value));
        let (word, _) = words.next().ok_or_else(|| format!("there is no word for {value}"))?;
        Ok(match word.as_str() {
            "true" => Json::Bool(true),
            "false" => Json::Bool(false),
            word => Json::String(word.to_owned()),
        })
    };
    match &value {
        _ if rule.words.is_empty() => Ok(to_json(&value)),
        Value::Null => Ok(Json::Null),
        Value::List(items) => Ok(Json::Array(items.iter().map(word_of).collect::<Result<_, _>>()?)),
        value => word_of(value),
    }
}
