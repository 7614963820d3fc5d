//! `manifest.json`: the hashes of every tensor and file, and digests of each aspect of a model.
//!
//! # Leaves
//!
//! Each tensor has the SHA-256 of its bytes (little-endian, row-major, packed), and two leaves
//! that are computed from it, so that renames are provable without reading weights:
//!
//! ```text
//! leaf    = SHA-256( text("llmstd.tensor.v1")  text(name) text(dtype) shape sha256 )
//! content = SHA-256( text("llmstd.content.v1")            text(dtype) shape sha256 )
//!
//! text(t) = the number of bytes of t, u64 little-endian; the bytes of t, UTF-8
//! shape   = the rank, u64 little-endian; each dimension, slowest first, u64 little-endian
//! sha256  = the 32 bytes of the hash, not their hex
//! ```
//!
//! # Digests
//!
//! Each digest is the SHA-256 of the canonical text (RFC 8785) of one JSON document:
//!
//! | Digest | Document |
//! | --- | --- |
//! | `weights` | `{"digest":"llmstd.weights.v1","tensors":[[name,dtype,shape,sha256],…]}` |
//! | `structure` | `{"digest":"llmstd.structure.v1","tensors":[[name,dtype,shape],…],"architecture":…,"hyperparameters":…,"ties":…,"encodings":…}` |
//! | `tokenizer` | `{"digest":"llmstd.tokenizer.v1","files":{name:sha256,…},"settings":{key:value,…}}` |
//! | `config` | `{"digest":"llmstd.config.v1","architecture":…,"hyperparameters":…}` |
//! | `interface` | `{"digest":"llmstd.interface.v1","tasks":…,"tokens":…}` |
//! | `template` | `{"digest":"llmstd.template.v1","templates":{name:sha256,…}}` |
//! | `model` | `{"digest":"llmstd.model.v1","spec":major,"weights":…,"structure":…,"tokenizer":…,"config":…,"interface":…,"template":…}` |
//!
//! Tensors are sorted by the bytes of their names, ties by both of theirs. Tasks keep their order, as the first is the
//! default. An aspect that a model does not have is `null`, never the hash of nothing. Nothing
//! here depends on the files that tensors lie in, on their container, or on their order.
//!
//! The files of a tokenizer are those that decide which ids a text becomes: `ids` in `files.toml`.
//! Of `tokenizer_config.json` only the keys [`TOKENIZER_SETTINGS`] count, as the rest decides
//! nothing about ids. A template is the text of `chat_template.jinja`, the value of `chat_template`
//! in `tokenizer_config.json`, or that of the key in `tokenizer.gguf`; all spellings give one digest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::Source;
use crate::base::{canonical_json, hex, json as text};
use crate::checkpoint::{DType, n_elements};
use crate::format;
use crate::format::gguf;
use crate::metadata::Value;
use crate::package::{
    Conformance, Hparams, MANIFEST_FILE, METADATA_FILE, MODEL_FILE, Model, SOURCE_FILE, Task,
    component_of,
};
use crate::spec::files::{self, Ids};

/// The schema of [`Manifest`].
pub const SCHEMA: &str = "llmstd.manifest/1";

/// The keys of `tokenizer_config.json` that decide which ids a text becomes.
pub const TOKENIZER_SETTINGS: &[&str] = &[
    "add_bos_token",
    "add_dummy_prefix",
    "add_eos_token",
    "add_prefix_space",
    "added_tokens_decoder",
    "do_lower_case",
    "legacy",
    "never_split",
    "split_special_tokens",
    "strip_accents",
    "tokenize_chinese_chars",
];

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// What a model is, by its hashes: enough to compare two without either.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: String,
    /// The version of the standard, `1.0.0`.
    pub spec: String,
    /// The program that wrote it.
    pub tool: Tool,
    /// The digests of the aspects.
    pub digests: Digests,
    /// What `model.json` says; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Semantics>,
    /// The tokenizer; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<Tokenizer>,
    /// The SHA-256 of each chat template's text, by its name; the usual one is `default`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub templates: BTreeMap<String, String>,
    /// How many tensors, elements and bytes there are of each dtype.
    pub dtypes: BTreeMap<String, Census>,
    /// The tensors, in the order they were given.
    pub tensors: Vec<TensorEntry>,
    /// The files, sorted by path; without the manifest itself.
    pub files: Vec<FileEntry>,
}

/// A program and its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl Tool {
    /// This program.
    pub fn this() -> Tool {
        Tool { name: "llmstd".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

/// What `model.json` says, but for its history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Semantics {
    /// The level the package was written to.
    pub conformance: Conformance,
    /// Features that a reader must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// The architecture's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// The hyperparameters.
    pub hyperparameters: Hparams,
    /// Token ids with a meaning.
    pub tokens: Hparams,
    /// Tensors that are stored once under the second name.
    pub ties: Vec<[String; 2]>,
    /// Quantized payloads by tensor name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub encodings: BTreeMap<String, Json>,
    /// What the model can be asked.
    pub tasks: Vec<Task>,
}

impl Semantics {
    /// What a `model.json` says.
    pub fn of(model: &Model) -> Semantics {
        Semantics {
            conformance: model.conformance,
            requires: model.requires.clone(),
            architecture: model.architecture.clone(),
            hyperparameters: model.hyperparameters.clone(),
            tokens: model.tokens.clone(),
            ties: model.ties.clone(),
            encodings: model.encodings.clone(),
            tasks: model.tasks.clone(),
        }
    }

    /// The `model.json` that says it, of a version of the standard; without its history.
    pub fn model(&self, spec: &str) -> Model {
        Model {
            spec: spec.to_owned(),
            requires: self.requires.clone(),
            conformance: self.conformance,
            architecture: self.architecture.clone(),
            hyperparameters: self.hyperparameters.clone(),
            tokens: self.tokens.clone(),
            ties: self.ties.clone(),
            encodings: self.encodings.clone(),
            tasks: self.tasks.clone(),
            history: Vec::new(),
        }
    }
}

/// What decides which ids a text becomes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tokenizer {
    /// The SHA-256 of each of its files that decide ids, by name.
    pub files: BTreeMap<String, String>,
    /// Its [`TOKENIZER_SETTINGS`] that are stated.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, Json>,
}

/// How much there is of one dtype.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Census {
    /// The number of tensors.
    pub tensors: u64,
    /// The number of elements.
    pub elements: u64,
    /// The number of bytes.
    pub bytes: u64,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// Its dtype, `BF16`.
    pub dtype: String,
    /// Its dimensions, slowest first.
    pub shape: Vec<u64>,
    /// How its payload is encoded, as `model.json` says; absent where it is plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Json>,
    /// The file that holds it; absent where no single range of a file does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Its first byte in that file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// The number of its bytes.
    pub len: u64,
    /// The SHA-256 of its bytes, in hex.
    pub sha256: String,
    /// The leaf over name, dtype, shape and bytes.
    pub leaf: String,
    /// The leaf over dtype, shape and bytes.
    pub content: String,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its path, relative to the package, with `/`.
    pub path: String,
    /// The number of its bytes.
    pub len: u64,
    /// The SHA-256 of its bytes, in hex.
    pub sha256: String,
    /// What it is for.
    pub role: FileRole,
}

/// What a file is for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum FileRole {
    /// It holds tensors, or says which file does.
    Tensors,
    /// It configures the model.
    Config,
    /// It belongs to the tokenizer.
    Tokenizer,
    /// It is a chat template.
    Template,
    /// It is a licence.
    License,
    /// It is for people.
    Docs,
    /// It is a component beside the text model: a tower, or what joins one to it.
    Component,
    /// It says where the package came from.
    Source,
    /// It is a program.
    Code,
    /// None of these.
    Other,
}

impl FileRole {
    /// What a file of this path is for.
    pub fn of(path: &str) -> FileRole {
        let lower = path.to_ascii_lowercase();
        let base = lower.rsplit('/').next().unwrap_or(&lower);
        let (stem, end) = base.rsplit_once('.').unwrap_or((base, ""));
        if path == SOURCE_FILE || path.starts_with("source/") {
            return FileRole::Source;
        }
        if component_of(path).is_some() {
            return FileRole::Component;
        }
        if base.ends_with(".safetensors") || base.ends_with(".index.json") {
            return FileRole::Tensors;
        }
        // Some formats are known by name only.
        if format::of_ending(end).is_some() || matches!(end, "h5" | "onnx") {
            return FileRole::Tensors;
        }
        match files::role_of(path).or_else(|| files::role_of(base)).map(|role| role.role.as_str()) {
            Some("tokenizer") => return FileRole::Tokenizer,
            Some("template") => return FileRole::Template,
            _ => {}
        }
        if ["license", "licence", "copying", "notice", "usage_policy", "use_policy"]
            .iter()
            .any(|word| stem.starts_with(word) || base.starts_with(word))
        {
            return FileRole::License;
        }
        if matches!(end, "md" | "rst" | "pdf" | "png" | "jpg" | "jpeg" | "svg" | "gif") {
            return FileRole::Docs;
        }
        if matches!(end, "py" | "pyc" | "so" | "dll" | "sh" | "js" | "ipynb") {
            return FileRole::Code;
        }
        if path == MODEL_FILE || matches!(end, "json" | "toml" | "yaml" | "yml") {
            return FileRole::Config;
        }
        FileRole::Other
    }
}

/// The digests of the aspects of a model, in hex; `null` for an aspect it does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Digests {
    /// Names, dtypes, shapes and bytes of all tensors: the same weights.
    pub weights: Option<String>,
    /// Names, dtypes and shapes, and the hyperparameters: loads into the same code.
    pub structure: Option<String>,
    /// The tokenizer: the same token ids.
    pub tokenizer: Option<String>,
    /// The hyperparameters: the same function of the same weights.
    pub config: Option<String>,
    /// Tasks, their inputs, outputs and labels, and special tokens: the same API.
    pub interface: Option<String>,
    /// The chat template: the same prompts.
    pub template: Option<String>,
    /// All of them, and the major version of the standard: the same model.
    pub model: Option<String>,
}

impl Digests {
    /// Each digest with its name.
    pub fn each(&self) -> [(&'static str, Option<&str>); 7] {
        [
            ("weights", self.weights.as_deref()),
            ("structure", self.structure.as_deref()),
            ("tokenizer", self.tokenizer.as_deref()),
            ("config", self.config.as_deref()),
            ("interface", self.interface.as_deref()),
            ("template", self.template.as_deref()),
            ("model", self.model.as_deref()),
        ]
    }
}

/// What a manifest is made from.
#[derive(Clone, Debug, Default)]
pub struct ManifestInput<'a> {
    /// The version of the standard, `1.0.0`.
    pub spec: &'a str,
    /// What `model.json` says.
    pub model: Option<&'a Model>,
    /// The tensors.
    pub tensors: Vec<TensorFacts>,
    /// The files; `manifest.json` is passed over.
    pub files: Vec<FileFacts<'a>>,
}

/// What is known of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorFacts {
    /// Its name.
    pub name: String,
    /// Its dtype.
    pub dtype: DType,
    /// Its dimensions, slowest first.
    pub shape: Vec<u64>,
    /// The number of its bytes.
    pub len: u64,
    /// The SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// The file and the first byte in it, where one range of a file holds it.
    pub place: Option<(String, u64)>,
}

/// What is known of one file.
#[derive(Clone, Debug)]
pub struct FileFacts<'a> {
    /// Its path, relative to the package, with `/`.
    pub path: String,
    /// The number of its bytes.
    pub len: u64,
    /// The SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// Its bytes, for the files that [`needs_text`] names.
    pub text: Option<&'a [u8]>,
}

/// The key of a GGUF file that has the chat template.
pub const TEMPLATE_KEY: &str = "tokenizer.chat_template";

/// Whether [`Manifest::build`] looks into a file of this path.
pub fn needs_text(path: &str) -> bool {
    let role = FileRole::of(path);
    role == FileRole::Template || path == TOKENIZER_CONFIG || path == METADATA_FILE
}

impl Manifest {
    /// Reads a manifest file; `None` if the file is something else.
    ///
    /// # Errors
    /// It cannot be read, is no JSON, or does not keep the schema that it names.
    pub fn read(path: &Path) -> Result<Option<Manifest>> {
        let mut source = Source::new("");
        let file = source.add_path(path)?;
        let bytes = source.bytes(file);
        // The common case in one pass; what is wrong with another file is said by the strict parser.
        if let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes)
            && manifest.schema == SCHEMA
        {
            return Ok(Some(manifest));
        }
        let value = text::parse(bytes, 0).map_err(|err| err.in_file(path))?;
        if value.get("schema").and_then(Json::as_str) != Some(SCHEMA) {
            return Ok(None);
        }
        let malformed = |err: serde_json::Error| {
            Error::new(ErrorKind::Malformed, err.to_string()).in_file(path)
        };
        serde_json::from_value(value).map(Some).map_err(malformed)
    }

    /// The manifest, which stands for weights that nobody looks at, so that it has to be right in itself.
    ///
    /// # Errors
    /// What it derives does not follow from its entries.
    pub fn trusted(self, path: &Path) -> Result<Manifest> {
        let contradictions = self.contradictions();
        let Some((place, wanted, said)) = contradictions.first() else { return Ok(self) };
        let message = format!(
            "contradicts itself in {} places; the first is {place}: {said}, where its entries give \
             {wanted}. It was edited by hand; `llmstd manifest` makes a true one",
            contradictions.len()
        );
        Err(Error::new(ErrorKind::Malformed, message).in_file(path))
    }

    /// Makes the manifest of a model.
    pub fn build(facts: ManifestInput<'_>) -> Manifest {
        let encodings = facts.model.map(|model| &model.encodings);
        let entry = |tensor: TensorFacts| {
            let sha256 = &tensor.sha256;
            let dtype = tensor.dtype.name();
            let (file, start) = tensor.place.unzip();
            TensorEntry {
                leaf: hex::encode(&leaf(&tensor.name, dtype, &tensor.shape, sha256)),
                content: hex::encode(&content_leaf(dtype, &tensor.shape, sha256)),
                encoding: encodings.and_then(|encodings| encodings.get(&tensor.name)).cloned(),
                sha256: hex::encode(sha256),
                dtype: dtype.to_owned(),
                shape: tensor.shape,
                len: tensor.len,
                name: tensor.name,
                file,
                start,
            }
        };
        let (tokenizer, templates) = texts(&facts.files);
        let files = facts.files.into_iter().filter(|file| file.path != MANIFEST_FILE);
        let mut files: Vec<FileEntry> = files
            .map(|file| FileEntry {
                role: FileRole::of(&file.path),
                sha256: hex::encode(&file.sha256),
                len: file.len,
                path: file.path,
            })
            .collect();
        files.sort_by(|left, right| left.path.cmp(&right.path));
        let mut manifest = Manifest {
            schema: SCHEMA.to_owned(),
            spec: facts.spec.to_owned(),
            tool: Tool::this(),
            digests: Digests::default(),
            model: facts.model.map(Semantics::of),
            tokenizer,
            templates,
            dtypes: BTreeMap::new(),
            tensors: facts.tensors.into_iter().map(entry).collect(),
            files,
        };
        manifest.dtypes = manifest.census();
        manifest.digests = manifest.compute_digests();
        manifest
    }

    /// The digests, computed from the entries.
    pub fn compute_digests(&self) -> Digests {
        let mut tensors: Vec<&TensorEntry> = self.tensors.iter().collect();
        tensors.sort_by(|left, right| left.name.cmp(&right.name));
        let some = |document: Json| Some(canonical_json::sha256(&document));

        // Borrowed rather than `json!`, which copies every entry: there may be many.
        #[derive(Serialize)]
        struct Document<'a, T> {
            digest: &'static str,
            tensors: Vec<T>,
            #[serde(flatten)]
            rest: BTreeMap<&'a str, Json>,
        }
        let hashed = tensors.iter().map(|t| (&t.name, &t.dtype, &t.shape, &t.sha256)).collect();
        let rest = BTreeMap::new();
        let weights = Document { digest: "llmstd.weights.v1", tensors: hashed, rest };

        let model = self.model.as_ref();
        let shapes = tensors.iter().map(|t| (&t.name, &t.dtype, &t.shape)).collect();
        let ties: Option<BTreeSet<&[String; 2]>> = model.map(|model| model.ties.iter().collect());
        let rest = BTreeMap::from([
            ("architecture", json!(model.map(|model| &model.architecture))),
            ("hyperparameters", json!(model.map(|model| &model.hyperparameters))),
            ("ties", json!(ties)),
            ("encodings", json!(model.map(|model| &model.encodings))),
        ]);
        let structure = Document { digest: "llmstd.structure.v1", tensors: shapes, rest };
        let (weights, structure) =
            rayon::join(|| canonical_json::sha256(&weights), || canonical_json::sha256(&structure));

        let config = model.filter(|model| model.architecture.is_some()).map(|model| {
            json!({
                "digest": "llmstd.config.v1",
                "architecture": model.architecture,
                "hyperparameters": model.hyperparameters,
            })
        });
        let asked = |model: &&Semantics| !model.tasks.is_empty() || !model.tokens.is_empty();
        let interface = model.filter(asked).map(|model| {
            json!({
                "digest": "llmstd.interface.v1",
                "tasks": model.tasks,
                "tokens": model.tokens,
            })
        });
        let tokenizer = self.tokenizer.as_ref().map(|tokenizer| {
            json!({
                "digest": "llmstd.tokenizer.v1",
                "files": tokenizer.files,
                "settings": tokenizer.settings,
            })
        });
        let template = (!self.templates.is_empty())
            .then(|| json!({"digest": "llmstd.template.v1", "templates": self.templates}));

        let mut digests = Digests {
            weights: Some(weights),
            structure: Some(structure),
            tokenizer: tokenizer.and_then(some),
            config: config.and_then(some),
            interface: interface.and_then(some),
            template: template.and_then(some),
            model: None,
        };
        digests.model = some(json!({
            "digest": "llmstd.model.v1",
            "spec": self.spec.split('.').next(),
            "weights": digests.weights,
            "structure": digests.structure,
            "tokenizer": digests.tokenizer,
            "config": digests.config,
            "interface": digests.interface,
            "template": digests.template,
        }));
        digests
    }

    /// The dtype census, computed from the entries.
    pub fn census(&self) -> BTreeMap<String, Census> {
        let mut dtypes: BTreeMap<String, Census> = BTreeMap::new();
        for tensor in &self.tensors {
            let census = dtypes.entry(tensor.dtype.clone()).or_default();
            census.tensors += 1;
            let elements = n_elements(&tensor.shape).unwrap_or(u64::MAX);
            census.elements = census.elements.saturating_add(elements);
            census.bytes = census.bytes.saturating_add(tensor.len);
        }
        dtypes
    }

    /// Every place where the manifest contradicts itself: a JSON pointer, what its entries give,
    /// and what it says.
    pub fn contradictions(&self) -> Vec<(String, String, String)> {
        let of_tensor = |(index, tensor): (usize, &TensorEntry)| {
            let Some(sha256) = hex::decode32(&tensor.sha256) else {
                let wanted = "64 digits of lower-case hex".to_owned();
                return vec![(format!("/tensors/{index}/sha256"), wanted, tensor.sha256.clone())];
            };
            let named = hex::encode(&leaf(&tensor.name, &tensor.dtype, &tensor.shape, &sha256));
            let nameless = hex::encode(&content_leaf(&tensor.dtype, &tensor.shape, &sha256));
            let both = [("leaf", named, &tensor.leaf), ("content", nameless, &tensor.content)];
            let wrong = both.into_iter().filter(|(_, computed, said)| computed != *said);
            wrong
                .map(|(key, computed, said)| {
                    (format!("/tensors/{index}/{key}"), computed, said.clone())
                })
                .collect()
        };
        // The two halves of the work of a manifest with many tensors.
        let (mut found, computed) = rayon::join(
            || self.tensors.iter().enumerate().flat_map(of_tensor).collect::<Vec<_>>(),
            || self.compute_digests(),
        );
        for (index, file) in self.files.iter().enumerate() {
            if hex::decode32(&file.sha256).is_none() {
                let wanted = "64 digits of lower-case hex".to_owned();
                found.push((format!("/files/{index}/sha256"), wanted, file.sha256.clone()));
            }
        }
        for ((name, computed), (_, said)) in computed.each().into_iter().zip(self.digests.each()) {
            if computed != said {
                let text = |digest: Option<&str>| digest.unwrap_or("null").to_owned();
                found.push((format!("/digests/{name}"), text(computed), text(said)));
            }
        }
        if self.census() != self.dtypes {
            let text = |census: &BTreeMap<String, Census>| canonical_json::text(census);
            found.push(("/dtypes".to_owned(), text(&self.census()), text(&self.dtypes)));
        }
        found
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The text of `manifest.json`.
    ///
    /// One entry stands on one line, so that a finding has a line to point to and a version
    /// control system a short difference to show.
    pub fn to_text(&self) -> String {
        let value = serde_json::to_value(self).expect("a manifest has string keys");
        let mut text = String::from("{\n");
        let fields = value.as_object().into_iter().flatten();
        let fields: Vec<String> = fields
            .map(|(key, value)| {
                let key = Json::from(key.as_str());
                match value {
                    Json::Array(items) if !items.is_empty() => {
                        let lines: Vec<String> =
                            items.iter().map(|item| format!("    {item}")).collect();
                        format!("  {key}: [\n{}\n  ]", lines.join(",\n"))
                    }
                    Json::Object(items) if !items.is_empty() => {
                        let line = |(key, item): (&String, &Json)| {
                            format!("    {}: {item}", Json::from(key.as_str()))
                        };
                        let lines: Vec<String> = items.iter().map(line).collect();
                        format!("  {key}: {{\n{}\n  }}", lines.join(",\n"))
                    }
                    value => format!("  {key}: {value}"),
                }
            })
            .collect();
        text.push_str(&fields.join(",\n"));
        text.push_str("\n}\n");
        text
    }
}

/// The leaf of a tensor over its name, dtype, shape and bytes.
pub fn leaf(name: &str, dtype: &str, shape: &[u64], sha256: &[u8; 32]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    update_text(&mut hasher, "llmstd.tensor.v1");
    update_text(&mut hasher, name);
    update_content(&mut hasher, dtype, shape, sha256);
    hasher.finalize().into()
}

/// The leaf of a tensor over its dtype, shape and bytes: the same under any name.
pub fn content_leaf(dtype: &str, shape: &[u64], sha256: &[u8; 32]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    update_text(&mut hasher, "llmstd.content.v1");
    update_content(&mut hasher, dtype, shape, sha256);
    hasher.finalize().into()
}

fn update_text(hasher: &mut Sha256, text: &str) {
    hasher.update((text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

fn update_content(hasher: &mut Sha256, dtype: &str, shape: &[u64], sha256: &[u8; 32]) {
    update_text(hasher, dtype);
    hasher.update((shape.len() as u64).to_le_bytes());
    for dim in shape {
        hasher.update(dim.to_le_bytes());
    }
    hasher.update(sha256);
}

/// Whether a file of this path decides which ids a text becomes.
pub fn is_tokenizer_file(path: &str) -> bool {
    files::role_of(path).is_some_and(|role| role.ids.is_some())
}

/// Whether a file of this path is a tokenizer by itself.
pub fn is_whole_tokenizer(path: &str) -> bool {
    files::role_of(path).is_some_and(|role| role.ids == Some(Ids::Whole))
}

/// The tokenizer and the chat templates among the files.
fn texts(files: &[FileFacts<'_>]) -> (Option<Tokenizer>, BTreeMap<String, String>) {
    let text = |path: &str| files.iter().find(|file| file.path == path).and_then(|file| file.text);
    let json = |path: &str| -> Option<Json> { serde_json::from_slice(text(path)?).ok() };
    let config = json(TOKENIZER_CONFIG);

    let tokenizer_files: BTreeMap<String, String> = files
        .iter()
        .filter(|file| is_tokenizer_file(&file.path))
        .map(|file| (file.path.clone(), hex::encode(&file.sha256)))
        .collect();
    let tokenizer = (!tokenizer_files.is_empty()).then(|| {
        let stated = TOKENIZER_SETTINGS.iter().filter_map(|&key| {
            let value = config.as_ref()?.get(key).filter(|value| !value.is_null())?;
            Some((key.to_owned(), value.clone()))
        });
        Tokenizer { files: tokenizer_files, settings: stated.collect() }
    });

    // The order is that of transformers 4.57: files win over the config.
    let mut templates = BTreeMap::new();
    for inside in [json("chat_template.json"), config].into_iter().flatten() {
        match inside.get("chat_template") {
            Some(Json::String(text)) => {
                templates.insert("default".to_owned(), hash(text.as_bytes()));
            }
            Some(Json::Array(named)) => {
                for one in named {
                    let part = |key: &str| one.get(key).and_then(Json::as_str);
                    if let (Some(name), Some(text)) = (part("name"), part("template")) {
                        templates.insert(name.to_owned(), hash(text.as_bytes()));
                    }
                }
            }
            _ => {}
        }
    }
    let keys = text(METADATA_FILE).and_then(|bytes| gguf::keys(bytes).ok());
    if let Some(Value::String(text)) = keys.as_ref().and_then(|keys| keys.get(TEMPLATE_KEY)) {
        templates.insert("default".to_owned(), hash(&text.0));
    }
    for file in files {
        let named = file.path.strip_prefix("additional_chat_templates/");
        let name = match named.and_then(|name| name.strip_suffix(".jinja")) {
            Some(name) => name,
            None if file.path == "chat_template.jinja" => "default",
            None => continue,
        };
        templates.insert(name.to_owned(), hex::encode(&file.sha256));
    }
    (tokenizer, templates)
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, shape: &[u64], byte: u8) -> TensorFacts {
        let len = n_elements(shape).unwrap() * 4;
        let sha256 = Sha256::digest(vec![byte; len as usize]).into();
        let (name, shape) = (name.to_owned(), shape.to_vec());
        TensorFacts { name, dtype: DType::F32, shape, len, sha256, place: None }
    }

    fn file<'a>(path: &str, text: &'a str) -> FileFacts<'a> {
        FileFacts {
            path: path.to_owned(),
            len: text.len() as u64,
            sha256: Sha256::digest(text).into(),
            text: Some(text.as_bytes()),
        }
    }

    fn build<'a>(tensors: Vec<TensorFacts>, files: Vec<FileFacts<'a>>) -> Manifest {
        Manifest::build(ManifestInput { spec: "1.0.0", model: None, tensors, files })
    }

    #[test]
    fn leaves_have_the_bytes_that_the_doc_says() {
        let sha256 = [7u8; 32];
        let mut bytes = Vec::new();
        for text in ["llmstd.tensor.v1", "a.weight", "F32"] {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        for number in [2u64, 2, 3] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(sha256);
        let expected: [u8; 32] = Sha256::digest(&bytes).into();
        assert_eq!(leaf("a.weight", "F32", &[2, 3], &sha256), expected);
    }

    #[test]
    fn the_same_bytes_of_another_shape_or_dtype_have_another_leaf() {
        let sha256 = [7u8; 32];
        let leaves: BTreeSet<[u8; 32]> = [
            content_leaf("F32", &[2, 8], &sha256),
            content_leaf("F32", &[4, 4], &sha256),
            content_leaf("I32", &[4, 4], &sha256),
            content_leaf("F32", &[16], &sha256),
            leaf("", "F32", &[16], &sha256),
        ]
        .into();
        assert_eq!(leaves.len(), 5);
    }

    #[test]
    fn digests_do_not_depend_on_files_or_order() {
        let (a, b) = (tensor("a", &[2], 1), tensor("b", &[3], 2));
        let one = build(vec![a.clone(), b.clone()], vec![file("model.safetensors", "x")]);
        let place = |name: &str| Some((name.to_owned(), 80));
        let b = TensorFacts { place: place("y.safetensors"), ..b };
        let two = build(vec![b, a], vec![file("x.safetensors", "x"), file("y.safetensors", "y")]);
        assert_eq!(one.digests, two.digests);
    }

    #[test]
    fn absent_aspects_are_null() {
        let digests = build(vec![tensor("a", &[2], 1)], Vec::new()).digests;
        let absent: Vec<&str> =
            digests.each().iter().filter(|(_, digest)| digest.is_none()).map(|(n, _)| *n).collect();
        assert_eq!(absent, ["tokenizer", "config", "interface", "template"]);
    }

    #[test]
    fn a_template_has_one_digest_in_both_spellings() {
        let inside = file("tokenizer_config.json", r#"{"chat_template": "{{ x }}\n"}"#);
        let named = file(
            "tokenizer_config.json",
            r#"{"chat_template": [{"name": "default", "template": "{{ x }}\n"}]}"#,
        );
        let apart = file("chat_template.jinja", "{{ x }}\n");
        let digest = |file| build(Vec::new(), vec![file]).digests.template;
        assert!(digest(apart.clone()).is_some());
        assert_eq!(digest(inside), digest(apart.clone()));
        assert_eq!(digest(named), digest(apart));
    }

    #[test]
    fn only_what_decides_ids_counts_for_the_tokenizer() {
        let digest = |config| {
            let files = vec![file("vocab.txt", "a\nb\n"), file("tokenizer_config.json", config)];
            build(Vec::new(), files).digests.tokenizer
        };
        let plain = digest("{}");
        assert!(plain.is_some());
        assert_eq!(digest(r#"{"chat_template": "x", "model_max_length": 512}"#), plain);
        assert_ne!(digest(r#"{"do_lower_case": false}"#), plain);
    }

    #[test]
    fn a_manifest_comes_back_from_its_text() {
        let manifest = build(
            vec![tensor("a", &[2, 2], 1)],
            vec![file("README.md", "x"), file("LICENSE", "y")],
        );
        let text = manifest.to_text();
        let back: Manifest = serde_json::from_str(&text).unwrap();
        assert_eq!(back, manifest);
        assert_eq!(back.to_text(), text);
        assert_eq!(back.contradictions(), []);
    }

    #[test]
    fn contradictions_are_found_where_they_are() {
        let good = build(vec![tensor("a", &[2], 1)], Vec::new());
        let mut bad = good.clone();
        bad.tensors[0].name = "b".to_owned();
        let places: Vec<String> =
            bad.contradictions().into_iter().map(|(place, ..)| place).collect();
        let expected =
            ["/tensors/0/leaf", "/digests/weights", "/digests/structure", "/digests/model"];
        assert_eq!(places, expected);
        let mut bad = good;
        bad.tensors[0].sha256 = "XY".to_owned();
        assert_eq!(bad.contradictions()[0].0, "/tensors/0/sha256");
    }

    #[test]
    fn files_have_the_role_of_their_name() {
        for (path, role) in [
            ("model-00001-of-00002.safetensors", FileRole::Tensors),
            ("model.safetensors.index.json", FileRole::Tensors),
            ("model.json", FileRole::Config),
            ("source.json", FileRole::Source),
            ("tokenizer_config.json", FileRole::Tokenizer),
            ("chat_template.jinja", FileRole::Template),
            ("LICENSE.txt", FileRole::License),
            ("README.md", FileRole::Docs),
            ("modeling_x.py", FileRole::Code),
            ("notes", FileRole::Other),
        ] {
            assert_eq!(FileRole::of(path), role, "{path}");
        }
    }
}
