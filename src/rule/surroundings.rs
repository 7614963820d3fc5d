//! What stands around the tensors of a package or of a foreign checkpoint: files, configs, tokenizer,
//! chat templates.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::template::{self, Template};
use super::tokenizer_file::{self, TokenizerFile};
use super::view::PackageView;
use crate::base::json;
use crate::checkpoint::DType;
use crate::folder::{CONFIG_FILE, FolderFile, Opened};
use crate::package::Value;

/// What a folder holds beside what a plan would make of it.
#[derive(Default)]
pub struct Surroundings {
    /// All files with their lengths.
    pub files: BTreeMap<String, u64>,
    /// The files that the tensors were read from.
    pub weights: Vec<String>,
    /// The tensors as they are stored: names and dtypes, of parts each by itself.
    pub tensors: Vec<(String, DType)>,
}

impl Surroundings {
    /// Files of which nothing is known but their names and lengths.
    pub fn of_files(files: &[FolderFile]) -> Surroundings {
        let files = files.iter().map(|file| (file.name.clone(), file.len)).collect();
        Surroundings { files, ..Surroundings::default() }
    }

    /// Those of a foreign checkpoint.
    pub fn of(opened: &Opened) -> Surroundings {
        let tensors = opened.checkpoint.tensors.iter();
        Surroundings {
            weights: opened.weights.clone(),
            tensors: tensors.map(|tensor| (tensor.name.clone(), tensor.dtype)).collect(),
            ..Surroundings::of_files(&opened.files)
        }
    }
}

impl PackageView<'_> {
    /// A file as JSON, as Python reads it, if it is there and is JSON.
    pub(super) fn python_json(&self, name: &str) -> Option<Json> {
        json::parse_python(self.bytes(name)?, 0).ok()
    }

    /// The config of a foreign checkpoint. A package has none.
    pub(super) fn foreign_config(&self) -> Option<Json> {
        if self.is_planned() { self.python_json(CONFIG_FILE) } else { None }
    }

    /// An integer among the hyperparameters.
    pub(super) fn size(&self, key: &str) -> Option<u64> {
        match self.model.good()?.hyperparameters.get(key) {
            Some(Value::Int(int)) => u64::try_from(*int).ok(),
            _ => None,
        }
    }

    /// The most positions that a text can have, where they are rows of a table.
    pub(super) fn table_positions(&self) -> Option<u64> {
        let position = self.model.good()?.hyperparameters.get("position");
        let learned = matches!(position, Some(Value::Symbol(word)) if word == "learned");
        let rows = if learned { self.size("num_positions") } else { None }?;
        Some(rows.saturating_sub(self.size("position_offset").unwrap_or(0)))
    }

    /// `tokenizer.json`, if it is there and keeps its form.
    pub(super) fn tokenizer_file(&self) -> Option<&TokenizerFile> {
        let read = || tokenizer_file::parse(self.bytes("tokenizer.json")?).ok();
        self.tokenizer_file.get_or_init(read).as_ref()
    }

    /// The chat templates of all files that can have one.
    pub(super) fn templates(&self) -> &[Template] {
        self.templates.get_or_init(|| template::find(self))
    }

    /// The id of a token, by `tokenizer.json`, or else by the vocabularies beside it.
    pub(super) fn token_id(&self, text: &str) -> Option<u64> {
        self.vocabularies()
            .iter()
            .find_map(|(_, vocabulary)| vocabulary.as_ref().ok()?.ids.get(text).copied())
    }
}
