//! The tokenizer and the chat templates among the files of a model.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::document::Tokenizer;
use super::facts::FileFacts;
use super::role::TOKENIZER_CONFIG;
use super::role::is_tokenizer_file;
use crate::base::hex;
use crate::format::gguf;
use crate::metadata::Value;
use crate::package::METADATA_FILE;

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

/// The key of a GGUF file that has the chat template.
pub const TEMPLATE_KEY: &str = "tokenizer.chat_template";

/// The tokenizer and the chat templates among the files.
pub(super) fn texts(files: &[FileFacts<'_>]) -> (Option<Tokenizer>, BTreeMap<String, String>) {
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
