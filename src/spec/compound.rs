//! Compound models: a text model with towers beside it, for pictures or for sound. The text model is
//! read by the mapping of its own family; `compounds.toml` says where in the config it is, what its
//! tensors have in front of their names, and which tensors are those of the other components.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::ecosystem::config::{CLASSES, MODEL_TYPE};
use crate::base::diagnostic::Diagnostic;
use crate::checkpoint::{Checkpoint, Tensor};

/// Compound models of one build.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compound {
    /// The format of their files.
    pub format: String,
    /// The compounds by `model_type`, each with that of its text model where its config does not say it.
    types: BTreeMap<String, String>,
    /// By `model_type`, what the class of the compound writes into the config of its text model, where
    /// that is silent.
    #[serde(default)]
    unsaid: BTreeMap<String, BTreeMap<String, Json>>,
    /// Where in the config that of the text model may be; the first that is there counts. Where none is,
    /// its entries stand among those of the compound.
    parts: Vec<String>,
    /// Those by `model_type` whose text model's entries never stand there: it has none where no part is.
    #[serde(default)]
    apart: Vec<String>,
    /// Entries of the compound's config that hold for the text model too, where its own part is silent.
    shared: Vec<String>,
    /// Entries of the compound's config that hold for the text model, whatever its own part says.
    #[serde(default)]
    overrides: Vec<String>,
    /// Entries of the compound's config that have this value or are silent: what another one does
    /// depends on the class and on the version of its library.
    #[serde(default)]
    only: BTreeMap<String, Json>,
    /// Flags that either of the two may set.
    flags: Vec<String>,
    /// What the text model's names have in front, and what its mapping reads in its place; the first
    /// that fits counts.
    names: Vec<[String; 2]>,
    #[serde(rename = "component")]
    components: Vec<Component>,
}

/// A component that is no part of the text model.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Its name, that of its file in a package.
    pub name: String,
    /// What it is, for people.
    pub about: String,
    /// How the names of its tensors begin.
    starts: Vec<String>,
    /// Entries of the compound's config that are its own, where those of the text model stand among
    /// them.
    config: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CompoundsFile {
    pub(super) compound: Vec<Compound>,
}

impl Compound {
    /// Whether a config is of such a compound.
    pub fn fits(&self, format: &str, config: &Json) -> bool {
        self.format == format && self.text_type(config).is_some()
    }

    /// The `model_type`s of the compounds.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(String::as_str)
    }

    /// The `model_type`s of the compounds, each with that of its text model.
    pub fn types_with_text(&self) -> impl Iterator<Item = (&str, &str)> {
        self.types.iter().map(|(compound, text)| (compound.as_str(), text.as_str()))
    }

    fn text_type(&self, config: &Json) -> Option<&str> {
        self.types.get(config.get(MODEL_TYPE)?.as_str()?).map(String::as_str)
    }

    /// The component that a tensor is of; `None` if it is of the text model.
    pub fn component(&self, name: &str) -> Option<&Component> {
        let fits = |of: &&Component| of.starts.iter().any(|start| name.starts_with(start.as_str()));
        self.components.iter().find(fits)
    }

    /// The names that the mapping reads in place of those of the files, where they are others.
    pub fn renames(&self, checkpoint: &Checkpoint) -> BTreeMap<String, String> {
        let text =
            checkpoint.tensors.iter().filter(|tensor| self.component(&tensor.name).is_none());
        let renamed = text.filter_map(|tensor| {
            let found = self.names.iter().find_map(|[theirs, ours]| {
                Some(format!("{ours}{}", tensor.name.strip_prefix(theirs.as_str())?))
            });
            Some((tensor.name.to_string(), found.filter(|name| *name != tensor.name)?))
        });
        renamed.collect()
    }

    /// The tensors of the text model.
    pub fn text(&self, checkpoint: &Checkpoint) -> Checkpoint {
        let is_text = |tensor: &&Tensor| self.component(&tensor.name).is_none();
        Checkpoint {
            format: checkpoint.format,
            tensors: checkpoint.tensors.iter().filter(is_text).cloned().collect(),
            signatures: checkpoint.signatures.clone(),
            ..Checkpoint::default()
        }
    }

    /// The tensors of each other component that there is.
    pub fn others(&self, checkpoint: &Checkpoint) -> BTreeMap<String, Checkpoint> {
        let mut found: BTreeMap<String, Checkpoint> = BTreeMap::new();
        for tensor in &checkpoint.tensors {
            if let Some(component) = self.component(&tensor.name) {
                let of = found.entry(component.name.clone()).or_default();
                of.format = checkpoint.format;
                of.tensors.push(tensor.clone());
            }
        }
        found
    }

    /// The entries of the text model, and where they stand in the config.
    fn part<'c>(&self, config: &'c Json) -> Option<(&str, &'c Map<String, Json>)> {
        self.parts.iter().find_map(|path| {
            let found = path.split('.').try_fold(config, |json, key| json.get(key))?;
            Some((path.as_str(), found.as_object()?))
        })
    }

    /// The config of the text model, in that of a compound.
    pub fn inner(&self, config: &Json) -> Json {
        let Json::Object(entries) = config else { return config.clone() };
        let Some(text_type) = self.text_type(config) else { return config.clone() };
        let mut inner = match self.part(config) {
            Some((_, part)) => part.clone(),
            None if self.is_apart(config) => Map::new(),
            None => {
                let mut all = entries.clone();
                let others = self.components.iter().flat_map(|component| &component.config);
                others.map(String::as_str).chain([MODEL_TYPE]).for_each(|key| {
                    all.remove(key);
                });
                all
            }
        };
        if inner.get(MODEL_TYPE).is_none_or(|stated| !stated.is_string()) {
            inner.insert(MODEL_TYPE.to_owned(), text_type.into());
        }
        let stated = config.get(MODEL_TYPE).and_then(Json::as_str).unwrap_or_default();
        for (key, value) in self.unsaid.get(stated).into_iter().flatten() {
            inner.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let has =
            |inner: &Map<String, Json>, key: &str| inner.get(key).is_some_and(|of| !of.is_null());
        for (key, is_flag) in self.shared_keys() {
            let value = entries.get(key);
            let is_set = is_flag && value == Some(&Json::Bool(true));
            if let Some(value) = value.filter(|_| is_set || !has(&inner, key)) {
                inner.insert(key.clone(), value.clone());
            }
        }
        for (key, value) in self.overrides.iter().filter_map(|key| Some((key, entries.get(key)?))) {
            inner.insert(key.clone(), value.clone());
        }
        // A head for a task of the text is of the class around it.
        if let Some(classes) = entries.get(CLASSES) {
            inner.entry(CLASSES).or_insert_with(|| classes.clone());
        }
        Json::Object(inner)
    }

    /// What keeps a compound's own config from being read.
    pub fn refusal(&self, config: &Json) -> Option<Diagnostic> {
        let other = |(key, value): &(&String, &Json)| {
            config.get(key.as_str()).is_some_and(|stated| stated != *value)
        };
        let (key, value) = self.only.iter().find(other)?;
        let stated = &config[key.as_str()];
        let message = format!(
            "the config's `{key}`: {stated} has no meaning here, only {value}: what it does to the text model \
             depends on the class around it"
        );
        Some(
            Diagnostic::error("P003", message)
                .key(key)
                .help("say it of the text model, among the entries of its own config"),
        )
    }

    /// Whether the entries of the text model never stand among those of the compound.
    fn is_apart(&self, config: &Json) -> bool {
        let stated = config.get(MODEL_TYPE).and_then(Json::as_str);
        stated.is_some_and(|stated| self.apart.iter().any(|apart| apart == stated))
    }

    fn shared_keys(&self) -> impl Iterator<Item = (&String, bool)> {
        let flags = self.flags.iter().map(|key| (key, true));
        self.shared.iter().chain(&self.overrides).map(|key| (key, false)).chain(flags)
    }

    /// The config of a compound that was `config`, where that of its text model is now `inner`.
    pub fn outer(&self, config: &Json, inner: &Json) -> Json {
        let (Json::Object(mut outer), Json::Object(inner)) = (config.clone(), inner) else {
            return config.clone();
        };
        let mut inner = inner.clone();
        let first = self.parts.first().filter(|path| !path.contains('.'));
        if let (true, None, Some(first)) = (self.is_apart(config), self.part(config), first) {
            outer.insert(first.clone(), Json::Object(Map::new()));
        }
        let config = &Json::Object(outer.clone());
        let Some((path, before)) = self.part(config) else {
            inner.remove(MODEL_TYPE);
            inner.remove(CLASSES);
            // What the mapping takes out of a config before it writes it anew is not there again.
            let others: Vec<&String> =
                self.components.iter().flat_map(|component| &component.config).collect();
            outer.retain(|key, _| {
                others.contains(&key) || [MODEL_TYPE, CLASSES].contains(&key.as_str())
            });
            outer.extend(inner);
            return Json::Object(outer);
        };
        // The part says no more than before of what the compound says for both.
        for (key, _) in self.shared_keys() {
            if outer.get(key).is_none_or(Json::is_null) {
                continue;
            }
            match inner.get(key) {
                Some(value) => outer.insert(key.clone(), value.clone()),
                None => outer.remove(key),
            };
            if !before.contains_key(key) {
                inner.remove(key);
            }
        }
        for key in [MODEL_TYPE, CLASSES] {
            match before.get(key) {
                Some(value) => inner.insert(key.to_owned(), value.clone()),
                None => inner.remove(key),
            };
        }
        let mut outer = Json::Object(outer);
        let place = path.split('.').try_fold(&mut outer, |json, key| json.get_mut(key));
        if let Some(place) = place {
            *place = Json::Object(inner);
        }
        outer
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn compound() -> Compound {
        let text = r#"
            format = "hf"
            types  = { both = "plain", flat = "plain", own = "own" }
            parts  = ["text_config", "inner.text"]
            unsaid = { flat = { looks = "both ways" } }
            shared = ["pad"]
            flags  = ["tie"]
            names  = [["language.", "model."]]
            [[component]]
            name   = "vision"
            about  = "sees"
            starts = ["tower.", "model.tower."]
            config = ["vision_config"]
        "#;
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_part_is_taken_out_and_put_back() {
        let of = compound();
        let outer = json!({
            "model_type": "both", "architectures": ["Both"], "tie": true, "pad": 3,
            "inner": {"text": {"size": 5, "tie": false}}, "vision_config": {"size": 7},
        });
        assert!(of.fits("hf", &outer) && !of.fits("gguf", &outer));
        let inner = of.inner(&outer);
        let wanted = json!({
            "model_type": "plain", "architectures": ["Both"], "size": 5, "tie": true, "pad": 3,
        });
        assert_eq!(inner, wanted);
        let mut written = inner.clone();
        written["architectures"] = json!(["Plain"]);
        written["tie"] = json!(false);
        written["pad"] = json!(4);
        written["size"] = json!(6);
        let mut wanted = outer.clone();
        wanted["tie"] = json!(false);
        wanted["pad"] = json!(4);
        wanted["inner"]["text"]["size"] = json!(6);
        assert_eq!(of.outer(&outer, &written), wanted);
    }

    #[test]
    fn entries_may_stand_among_those_of_the_compound() {
        let of = compound();
        let outer =
            json!({"model_type": "flat", "size": 5, "vision_config": {"size": 7}, "gone": 1});
        let inner = of.inner(&outer);
        let wanted = json!({"model_type": "plain", "size": 5, "gone": 1, "looks": "both ways"});
        assert_eq!(inner, wanted);
        let own = json!({"model_type": "own", "architectures": ["Own"], "size": 5});
        assert_eq!(of.inner(&own), own);
        let written = json!({"model_type": "plain", "architectures": ["Plain"], "size": 6});
        let wanted = json!({"model_type": "flat", "size": 6, "vision_config": {"size": 7}});
        assert_eq!(of.outer(&outer, &written), wanted);
    }
}
