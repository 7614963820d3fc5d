//! What stands around the tensors, as rules ask for it.

use serde_json::Value as Json;

use super::PackageView;
use crate::base::json;
use crate::folder::CONFIG_FILE;
use crate::format::gguf;
use crate::manifest::TEMPLATE_KEY;
use crate::package::{METADATA_FILE, Value as Hparam};
use crate::rule::template::{Template, templates_of};
use crate::rule::tokenizer_file::{self, TokenizerFile};

impl PackageView<'_> {
    /// A file as JSON, as Python reads it, if it is there and is JSON.
    pub(in crate::rule) fn python_json(&self, name: &str) -> Option<Json> {
        json::parse_python(self.bytes(name)?, 0).ok()
    }

    /// The config of a foreign checkpoint. A package has none.
    pub(in crate::rule) fn foreign_config(&self) -> Option<Json> {
        if self.is_planned() { self.python_json(CONFIG_FILE) } else { None }
    }

    /// An integer among the hyperparameters.
    pub(in crate::rule) fn size(&self, key: &str) -> Option<u64> {
        match self.model.good()?.hyperparameters.get(key) {
            Some(Hparam::Int(int)) => u64::try_from(*int).ok(),
            _ => None,
        }
    }

    /// The most positions that a text can have, where they are rows of a table.
    pub(in crate::rule) fn table_positions(&self) -> Option<u64> {
        let position = self.model.good()?.hyperparameters.get("position");
        let learned = matches!(position, Some(Hparam::Symbol(word)) if word == "learned");
        let rows = if learned { self.size("num_positions") } else { None }?;
        Some(rows.saturating_sub(self.size("position_offset").unwrap_or(0)))
    }

    /// `tokenizer.json`, if it is there and keeps its form.
    pub(in crate::rule) fn tokenizer_file(&self) -> Option<&TokenizerFile> {
        let read = || tokenizer_file::parse(self.bytes("tokenizer.json")?).ok();
        self.tokenizer_file.get_or_init(read).as_ref()
    }

    /// The chat templates of all files that can have one.
    pub(in crate::rule) fn templates(&self) -> &[Template] {
        self.templates.get_or_init(|| chat_templates(self))
    }

    /// The id of a token, by `tokenizer.json`, or else by the vocabularies beside it.
    pub(in crate::rule) fn token_id(&self, text: &str) -> Option<u64> {
        self.vocabularies().iter().find_map(|(_, vocabulary)| vocabulary.as_ref().ok()?.id(text))
    }
}

/// The chat templates of a folder.
fn chat_templates(view: &PackageView<'_>) -> Vec<Template> {
    let mut found = Vec::new();
    for name in view.files.keys() {
        let Some(bytes) = view.bytes(name).filter(|_| name.ends_with(".jinja")) else { continue };
        let Ok(text) = std::str::from_utf8(bytes) else { continue };
        found.push(Template::new(name, None, None, text));
    }
    for file in ["tokenizer_config.json", "chat_template.json", "processor_config.json"] {
        let json = if view.files.contains_key(file) { view.python_json(file) } else { None };
        match json.as_ref().and_then(|json| json.get("chat_template")) {
            Some(Json::String(text)) => {
                found.push(Template::new(file, Some("chat_template"), None, text));
            }
            Some(Json::Array(items)) => found.extend(items.iter().filter_map(|item| {
                let name = item.get("name")?.as_str();
                let text = item.get("template")?.as_str()?;
                Some(Template::new(file, Some("chat_template"), name, text))
            })),
            Some(Json::Object(items)) => found.extend(items.iter().filter_map(|(name, text)| {
                Some(Template::new(file, Some("chat_template"), Some(name), text.as_str()?))
            })),
            _ => {}
        }
    }
    let kept = view.bytes(METADATA_FILE).and_then(|bytes| gguf::keys(bytes).ok());
    let kept = kept.map(|keys| templates_of(METADATA_FILE, &keys)).unwrap_or_default();
    let keyed = view.around.templates.iter().chain(&kept);
    found.extend(
        keyed.map(|of| Template::new(&of.file, Some(TEMPLATE_KEY), of.name.as_deref(), &of.text)),
    );
    found
}
