//! What the config classes of foreign libraries declare: `classes.toml`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;

use super::ecosystem::config::MODEL_TYPE;
use super::from_toml;
use super::map::Map;
use crate::package::Value;

/// The config classes of one format.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Classes {
    /// The keys of every class with their defaults.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    common: BTreeMap<String, toml::Value>,
    /// The keys of each class, by its `model_type`.
    #[serde(default, rename = "type")]
    #[schemars(with = "BTreeMap<String, BTreeMap<String, serde_json::Value>>")]
    types: BTreeMap<String, BTreeMap<String, toml::Value>>,
    /// Other names of keys, by `model_type`.
    #[serde(default)]
    alias: BTreeMap<String, BTreeMap<String, String>>,
}

/// The class of one config.
#[derive(Clone, Copy)]
pub struct Class<'a> {
    classes: &'a Classes,
    /// Its `model_type`.
    pub name: &'a str,
}

impl Classes {
    /// The class of this `model_type`.
    pub fn named(&self, name: &str) -> Option<Class<'_>> {
        let (name, _) = self.types.get_key_value(name)?;
        Some(Class { classes: self, name })
    }

    /// The class that reads a config: the one it names, else the first that chooses the mapping.
    pub fn of(&self, map: &Map, config: &Json) -> Option<Class<'_>> {
        let stated = config.get(MODEL_TYPE).and_then(Json::as_str);
        let stated = stated.and_then(|name| self.named(name));
        stated.or_else(|| self.named(map.matches.get(MODEL_TYPE)?.first()?))
    }
}

impl<'a> Class<'a> {
    /// The default of the key at a path; `None` if the class has no such key.
    pub fn default(self, path: &str) -> Option<Value> {
        let own = self.classes.types[self.name].get(path);
        own.or_else(|| self.classes.common.get(path)).and_then(|value| from_toml(value).ok())
    }

    /// Whether the class declares keys below a path.
    pub fn has_below(self, path: &str) -> bool {
        let start = format!("{path}.");
        self.classes.types[self.name].keys().any(|key| key.starts_with(&start))
    }

    /// Every name under which the class takes the key at a path, beside that one.
    pub fn other_names(self, path: &str) -> impl Iterator<Item = &'a str> {
        let aliases = self.classes.alias.get(self.name);
        let target = aliases.and_then(|aliases| aliases.get(path)).map(String::as_str);
        let meant = target.unwrap_or(path).to_owned();
        let rivals = aliases.into_iter().flatten();
        let rivals = rivals.filter(move |(_, target)| **target == meant);
        let rivals = rivals.map(|(alias, _)| alias.as_str());
        let path = path.to_owned();
        target.into_iter().chain(rivals).filter(move |name| *name != path)
    }
}
