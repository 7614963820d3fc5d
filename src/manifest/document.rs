//! The form of `manifest.json`, and its text.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::entry::TensorEntry;
use super::lines::{self, Entries};
use super::role::FileRole;
use crate::base::error::{Error, ErrorKind};
use crate::base::hex::Hex;
use crate::base::json as text;
use crate::base::source::{FileId, Source};
use crate::checkpoint::n_elements;
use crate::package::{Conformance, Hparams, Model, Task};

/// The schema of [`Manifest`].
pub const SCHEMA: &str = "llmstd.manifest/1";

/// What a model is, by its hashes: enough to compare two without either.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Manifest {
    /// `SCHEMA`.
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
    /// Its `TOKENIZER_SETTINGS` that are stated.
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

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its path, relative to the package, with `/`.
    pub path: String,
    /// The number of its bytes.
    pub len: u64,
    /// The SHA-256 of its bytes, in hex.
    pub sha256: Hex,
    /// What it is for.
    pub role: FileRole,
}

/// The digests of the aspects of a model, in hex; `null` for an aspect it does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
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

impl Manifest {
    /// Reads a manifest file; `None` if the file is something else.
    ///
    /// # Errors
    /// It cannot be read, is no JSON, or does not keep the schema that it names.
    pub fn read(path: &Path) -> Result<Option<Manifest>, Error> {
        let mut source = Source::new("");
        let file = source.add_path(path)?;
        if let Some(manifest) = Manifest::of_lines(&source, file) {
            return Ok(Some(manifest));
        }
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

    /// A manifest in the form that [`Manifest::write`] gives it, read by several threads and as strictly as any JSON is
    /// here; `None` of any other text.
    pub(crate) fn of_lines(source: &Source, file: FileId) -> Option<Manifest> {
        let Entries { entries, around, mark } = lines::read(source, file)?;
        text::check(&around, 0).ok()?;
        let manifest: Manifest = serde_json::from_slice(&around).ok()?;
        let is_of_these = manifest.schema == SCHEMA && manifest.tensors == [mark];
        is_of_these.then(|| Manifest { tensors: entries, ..manifest })
    }

    /// The manifest, which stands for weights that nobody looks at, so that it has to be right in itself.
    ///
    /// # Errors
    /// What it derives does not follow from its entries.
    pub fn trusted(self, path: &Path) -> Result<Manifest, Error> {
        let contradictions = self.contradictions();
        let Some((place, wanted, said)) = contradictions.first() else { return Ok(self) };
        let message = format!(
            "contradicts itself in {} places; the first is {place}: {said}, where its entries give \
             {wanted}. It was edited by hand; `llmstd manifest` makes a true one",
            contradictions.len()
        );
        Err(Error::new(ErrorKind::Malformed, message).in_file(path))
    }

    /// The dtype census, computed from the entries.
    pub fn census(&self) -> BTreeMap<String, Census> {
        let mut dtypes: BTreeMap<String, Census> = BTreeMap::new();
        for tensor in &self.tensors {
            // There are few dtypes, and a name is made for each once.
            let census = match dtypes.get_mut(&*tensor.dtype) {
                Some(census) => census,
                None => dtypes.entry(tensor.dtype.to_string()).or_default(),
            };
            census.tensors += 1;
            let elements = n_elements(&tensor.shape).unwrap_or(u64::MAX);
            census.elements = census.elements.saturating_add(elements);
            census.bytes = census.bytes.saturating_add(tensor.len);
        }
        dtypes
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The text of `manifest.json`.
    pub fn to_text(&self) -> String {
        let mut text = Vec::new();
        self.write(&mut text).expect("memory takes every byte");
        String::from_utf8(text).expect("JSON is UTF-8")
    }

    /// Writes the text of `manifest.json`.
    ///
    /// One entry stands on one line, so that a finding has a line to point to and a version
    /// control system a short difference to show.
    ///
    /// # Errors
    /// What takes the text does not.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        // Entries, of which there may be many, are written one by one; the rest as it is.
        let Manifest { schema, spec, tool, digests, model, tokenizer, templates, dtypes, .. } =
            self;
        let rest = serde_json::to_value(Manifest {
            schema: schema.clone(),
            spec: spec.clone(),
            tool: tool.clone(),
            digests: digests.clone(),
            model: model.clone(),
            tokenizer: tokenizer.clone(),
            templates: templates.clone(),
            dtypes: dtypes.clone(),
            tensors: Vec::new(),
            files: Vec::new(),
        })?;
        to.write_all(b"{\n")?;
        for (place, (key, value)) in rest.as_object().into_iter().flatten().enumerate() {
            if place != 0 {
                to.write_all(b",\n")?;
            }
            write!(to, "  {}: ", Json::from(key.as_str()))?;
            match (key.as_str(), value) {
                ("tensors", _) => lines::write(to, &self.tensors)?,
                ("files", _) => lines::write(to, &self.files)?,
                (_, Json::Array(items)) => lines::write(to, items)?,
                (_, Json::Object(items)) if !items.is_empty() => {
                    let line = |(key, item): (&String, &Json)| {
                        format!("    {}: {item}", Json::from(key.as_str()))
                    };
                    let lines: Vec<String> = items.iter().map(line).collect();
                    write!(to, "{{\n{}\n  }}", lines.join(",\n"))?;
                }
                (_, value) => write!(to, "{value}")?,
            }
        }
        to.write_all(b"\n}\n")
    }
}
