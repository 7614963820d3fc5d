//! What the standard holds, as `llmstd spec list` and `llmstd spec check` print it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use super::Spec;

/// The architectures, mappings and tasks of a version of the standard.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Listing {
    /// `llmstd.spec-list/1`.
    pub schema: &'static str,
    /// The version, `1.0.0`.
    pub version: String,
    /// SHA-256 over its data files, in hex.
    pub hash: String,
    /// The architectures, by id.
    pub architectures: Vec<ListedArch>,
    /// The ids of the tasks.
    pub tasks: Vec<String>,
}

/// One architecture.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ListedArch {
    /// Its id.
    pub id: String,
    /// What it is.
    pub about: String,
    /// The version of the standard it came with.
    pub since: String,
    /// The tasks it can serve.
    pub tasks: Vec<String>,
    /// The mappings that lead to it, as `format/name`.
    pub mappings: Vec<String>,
}

/// What is wrong with data files.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Checked {
    /// `llmstd.spec-check/1`.
    pub schema: &'static str,
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
}

/// The pages of rules, as `llmstd explain` prints them.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Pages {
    /// `llmstd.explain/1`.
    pub schema: &'static str,
    /// The rules by number.
    pub rules: Vec<Page>,
}

/// The page of a rule.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Page {
    /// The rule's number.
    pub rule: String,
    /// The rule's name.
    pub name: String,
    /// What it finds, in a sentence or two.
    pub about: String,
    /// The page, as Markdown; left out where rules are listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A whole version of the standard, as `llmstd spec export` prints it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Export {
    /// `llmstd.spec-export/1`.
    pub schema: &'static str,
    /// The version, `1.0.0`.
    pub version: String,
    /// SHA-256 over its data files, in hex.
    pub hash: String,
    /// The data files by path, parsed: TOML as JSON.
    pub data: BTreeMap<String, Json>,
    /// The JSON Schemas by name, `model` for `model.json`.
    pub schemas: BTreeMap<String, Json>,
    /// The pages of the rules, as Markdown.
    pub rules: Vec<Page>,
}

impl Checked {
    /// The result of a check.
    pub fn new(problems: Vec<String>) -> Checked {
        Checked { schema: "llmstd.spec-check/1", problems }
    }
}

impl Spec {
    /// The pages of all rules, by number.
    pub fn pages(&self) -> Vec<Page> {
        let pages = self.files.iter().filter_map(|(path, text)| {
            let (rule, name) = path.strip_prefix("rules/")?.strip_suffix(".md")?.split_once('-')?;
            // After the heading.
            let about = text.split("\n\n").nth(1).unwrap_or_default().trim().to_owned();
            let (rule, name) = (rule.to_owned(), name.to_owned());
            Some(Page { rule, name, about, text: Some(text.to_string()) })
        });
        pages.collect()
    }

    /// All of it in one document.
    pub fn export(&self) -> Export {
        let mut data = BTreeMap::new();
        let mut schemas = BTreeMap::new();
        for (path, text) in self.files.iter() {
            let name =
                path.strip_prefix("schema/").and_then(|name| name.strip_suffix(".schema.json"));
            if let (Some(name), Ok(schema)) = (name, serde_json::from_str(text)) {
                schemas.insert(name.to_owned(), schema);
            } else if path.ends_with(".toml")
                && let Ok(file) = text.parse()
            {
                data.insert(path.clone(), file);
            }
        }
        Export {
            schema: "llmstd.spec-export/1",
            version: self.version.clone(),
            hash: self.hash().to_owned(),
            data,
            schemas,
            rules: self.pages(),
        }
    }

    /// What it holds.
    pub fn listing(&self) -> Listing {
        let architectures = self.archs.values().map(|arch| ListedArch {
            id: arch.id.clone(),
            about: arch.about.clone(),
            since: arch.since.clone(),
            tasks: arch.tasks.clone(),
            mappings: self
                .maps
                .values()
                .filter(|map| map.arch == arch.id)
                .map(|map| format!("{}/{}", map.format, map.name))
                .collect(),
        });
        Listing {
            schema: "llmstd.spec-list/1",
            version: self.version.clone(),
            hash: self.hash().to_owned(),
            architectures: architectures.collect(),
            tasks: self.tasks.iter().map(|task| task.id.clone()).collect(),
        }
    }
}
