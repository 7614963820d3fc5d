//! What the types of Rust leave open in the schemas of a package's files, and the tool refuses: the
//! words and patterns of the standard's tables.

use serde_json::{Map, Value as Json, json};

use crate::spec::Spec;
use crate::spec::hparams::{Key, Kind};

const HASH: &str = "^[0-9a-f]{64}$";
/// A relative path with `/` and without `..`.
const PATH: &str = "^(?!/)(?!(.*/)?\\.\\.?(/|$))[^\\\\\\u0000]+$";
/// A canonical name: at most 200 bytes.
const NAME: &str = "^(extra\\.[!-~]{1,194}|(?=.{1,200}$)([a-z][a-z0-9_]{0,62}|0|[1-9][0-9]{0,8})(\\.([a-z][a-z0-9_]{0,62}|0|[1-9][0-9]{0,8}))*)$";
/// The members of `model.json` that are always written.
const MODEL_MEMBERS: [&str; 9] = [
    "spec",
    "requires",
    "conformance",
    "hyperparameters",
    "tokens",
    "ties",
    "encodings",
    "tasks",
    "history",
];

/// Makes the schema of this name as strict as the tool.
pub(super) fn tighten(spec: &Spec, name: &str, schema: &mut Json) {
    let title = schema["title"].as_str().unwrap_or_default().to_owned();
    if let Some(object) = schema.get_mut("properties").and_then(|p| p.get_mut("schema")) {
        put(object, "const", json!(format!("llmstd.{name}/1")));
    }
    // Inside reports findings repeat what a file says, right or wrong.
    if !matches!(name, "model" | "manifest" | "source") {
        return;
    }
    let tables = Tables::of(spec);
    if let Some(Json::Object(types)) = schema.get_mut("$defs") {
        for (type_name, definition) in types {
            tables.tighten(type_name, definition);
        }
    }
    tables.tighten(&title, schema);
}

fn put(schema: &mut Json, key: &str, value: Json) {
    if let Json::Object(entries) = schema {
        entries.insert(key.to_owned(), value);
    }
}

/// The words of the standard's tables.
struct Tables<'a> {
    spec: &'a Spec,
    dtypes: Vec<&'a str>,
    encodings: Vec<String>,
}

impl<'a> Tables<'a> {
    fn of(spec: &'a Spec) -> Tables<'a> {
        let blocks = spec.encodings.blocks.iter().map(|block| block.id.clone());
        let layouts = spec.layouts.layout.iter().map(|layout| layout.id.clone());
        Tables {
            spec,
            dtypes: spec.dtypes.iter().map(|row| row.name.as_str()).collect(),
            encodings: blocks.chain(layouts).collect(),
        }
    }

    /// Makes the definition of a type stricter.
    fn tighten(&self, type_name: &str, definition: &mut Json) {
        let major = self.spec.version.split('.').next().unwrap_or_default();
        let version = json!(format!("^{major}\\.[0-9]+\\.[0-9]+(-[0-9A-Za-z.]+)?$"));
        if type_name == "Model" {
            put(definition, "required", json!(MODEL_MEMBERS));
        }
        if type_name == "Digests" {
            let all =
                ["weights", "structure", "tokenizer", "config", "interface", "template", "model"];
            put(definition, "required", json!(all));
        }
        let Some(Json::Object(properties)) = definition.get_mut("properties") else { return };
        for (property, schema) in properties {
            let constraint = match (type_name, property.as_str()) {
                ("Model" | "Manifest", "spec") => json!({"pattern": version}),
                ("Model" | "Semantics", "architecture") => {
                    let archs: Vec<&String> = self.spec.archs.keys().collect();
                    json!({"type": "string", "enum": archs})
                }
                ("Model" | "Semantics", "hyperparameters") => self.hyperparameters(),
                ("Model" | "Semantics", "tokens") => tokens(),
                ("Model" | "Semantics", "ties") => json!({"items": {
                    "type": "array",
                    "prefixItems": [{"type": "string", "pattern": NAME}, {"type": "string", "pattern": NAME}],
                    "items": false, "minItems": 2,
                }}),
                ("Model" | "Semantics", "encodings") => self.encodings(),
                ("TensorEntry", "encoding") => self.encoding(),
                ("Task", "id") => {
                    let tasks: Vec<&String> = self.spec.tasks.iter().map(|task| &task.id).collect();
                    json!({"enum": tasks})
                }
                ("Task", "pool") => {
                    json!({"type": "string", "enum": crate::rule::POOLS})
                }
                ("Task", "problem") => {
                    json!({"type": "string", "enum": crate::rule::PROBLEMS})
                }
                ("Task" | "DenseStep", "activation") => {
                    let key = self.spec.key("activation");
                    let words = key.map(|key| key.words.clone()).unwrap_or_default();
                    json!({"type": "string", "enum": words})
                }
                ("Task", "head") | ("DenseStep", "head") => {
                    json!({"type": "string", "pattern": "^[a-z][a-z0-9_]{0,62}$"})
                }
                ("Task", "normalize") => json!({"type": "boolean"}),
                ("Task", "labels") => json!({"type": "array", "minItems": 1}),
                ("Task", "dense") => json!({"minItems": 1}),
                ("Port", "optional") => json!({"const": true}),
                ("Port" | "TensorEntry", "dtype") => json!({"enum": self.dtypes}),
                ("Event", "op") => json!({"enum": crate::rule::EVENTS}),
                ("TensorEntry", "name") => json!({"pattern": NAME}),
                ("TensorEntry" | "FileEntry", "file" | "path") => {
                    json!({"type": "string", "pattern": PATH})
                }
                ("TensorEntry", "start") => json!({"type": "integer"}),
                ("TensorEntry" | "FileEntry", "sha256" | "leaf" | "content") => {
                    json!({"pattern": HASH})
                }
                ("MapUsed", "spec_hash") => json!({"pattern": HASH}),
                ("Digests", "weights" | "structure" | "model") => {
                    json!({"type": "string", "pattern": HASH})
                }
                ("Digests", _) => json!({"pattern": HASH}),
                ("Tokenizer", "files") | ("Manifest", "templates") => {
                    json!({"additionalProperties": {"type": "string", "pattern": HASH}})
                }
                ("Manifest", "dtypes") => json!({"propertyNames": {"enum": self.dtypes}}),
                _ => continue,
            };
            let (Json::Object(entries), Json::Object(constraint)) = (schema, constraint) else {
                continue;
            };
            // The one spelling of a model leaves nothing out, and an absent member is not null.
            entries.shift_remove("default");
            if constraint.contains_key("type") {
                entries.shift_remove("anyOf");
            }
            entries.extend(constraint);
        }
    }

    /// The hyperparameters: each key of the table, for all stacks or for one, and no other.
    fn hyperparameters(&self) -> Json {
        let mut properties = Map::new();
        for key in &self.spec.keys {
            let schema = value_schema(key);
            properties.insert(key.name.clone(), schema.clone());
            for stack in ["encoder", "decoder"].iter().filter(|_| key.per_stack) {
                properties.insert(format!("{stack}.{}", key.name), schema.clone());
            }
        }
        json!({"properties": properties, "additionalProperties": false})
    }

    fn encoding(&self) -> Json {
        json!({
            "type": "object",
            "required": ["encoding", "shape"],
            "properties": {
                "encoding": {"enum": self.encodings},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                "parameters": {"type": "object"},
            },
            "additionalProperties": false,
        })
    }

    fn encodings(&self) -> Json {
        json!({"propertyNames": {"pattern": NAME}, "additionalProperties": self.encoding()})
    }
}

/// The values that a hyperparameter may have.
fn value_schema(key: &Key) -> Json {
    let mut one = match key.kind {
        Kind::Count | Kind::Counts => json!({"type": "integer", "minimum": 0}),
        Kind::Float | Kind::Floats => json!({"type": "number"}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Word | Kind::Words if key.words.is_empty() => json!({"type": "string"}),
        Kind::Word | Kind::Words => json!({"enum": key.words}),
    };
    let number = |limit: f64| match limit.fract() == 0.0 {
        true => json!(limit as i64),
        false => json!(limit),
    };
    if let Some(min) = key.min {
        put(&mut one, "minimum", number(min));
    }
    if let Some(max) = key.max {
        put(&mut one, "maximum", number(max));
    }
    let mut schema = match key.kind {
        Kind::Counts | Kind::Floats | Kind::Words => json!({"type": "array", "items": one}),
        _ => one,
    };
    put(&mut schema, "description", json!(key.about));
    if key.null { json!({"anyOf": [{"type": "null"}, schema]}) } else { schema }
}

fn tokens() -> Json {
    let id = json!({"type": "integer", "minimum": 0});
    let mut properties = Map::new();
    for token in crate::rule::TOKENS {
        let schema = match *token {
            "eos" => json!({"type": "array", "items": id, "minItems": 1}),
            _ => id.clone(),
        };
        properties.insert((*token).to_owned(), schema);
    }
    json!({"properties": properties, "additionalProperties": false})
}
