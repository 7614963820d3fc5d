//! The files of a tokenizer, read.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value as Json;

use super::rule;
use super::vocabulary::TOKENIZER_JSON;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, Result};
use crate::base::json;

pub(super) const CONFIG: &str = "tokenizer_config.json";
pub(super) const ADDED: &str = "added_tokens.json";
/// A SentencePiece model whose pieces get other ids than they have there.
pub(super) const MOVED: &str = "sentencepiece.bpe.model";

type Read<'a> = &'a dyn Fn(&str) -> Result<Option<Vec<u8>>>;

/// What the files say; a file of settings that is not there says nothing.
pub(super) struct Folder {
    pub(super) tokenizer: Option<Json>,
    /// `tokenizer_config.json`.
    pub(super) settings: Json,
    /// `special_tokens_map.json`.
    pub(super) special: Json,
    pub(super) generation: Json,
    /// `config.json`.
    pub(super) config: Json,
    /// `added_tokens.json`: ids by token.
    pub(super) added: Json,
    pub(super) vocab_json: Option<Json>,
    pub(super) vocab_txt: Option<String>,
    pub(super) merges: Option<String>,
    /// The SentencePiece model and the name of its file.
    pub(super) pieces: Option<(&'static str, Vec<u8>)>,
    /// A string, or a list of named ones.
    pub(super) template: Option<Json>,
}

impl Folder {
    pub(super) fn read(read: Read<'_>) -> Result<Folder, Diagnostic> {
        let tokenizer = read_json(read, TOKENIZER_JSON)?;
        let settings = object(read, CONFIG)?;
        let template = match settings.get("chat_template").filter(|value| !value.is_null()) {
            Some(template) => Some(template.clone()),
            None => match read_text(read, "chat_template.jinja")? {
                // As Python reads text.
                Some(text) => Some(Json::String(text.replace("\r\n", "\n").replace('\r', "\n"))),
                None => object(read, "chat_template.json")?.get("chat_template").cloned(),
            },
        };
        let mut pieces = None;
        for name in ["tokenizer.model", "spiece.model", MOVED] {
            // What stands beside it says the ids of moved pieces.
            if pieces.is_none() && (name != MOVED || tokenizer.is_none()) {
                pieces =
                    read(name).map_err(|err| unreadable(name, &err))?.map(|bytes| (name, bytes));
            }
        }
        Ok(Folder {
            tokenizer,
            settings,
            special: object(read, "special_tokens_map.json")?,
            generation: object(read, "generation_config.json")?,
            config: object(read, "config.json")?,
            added: object(read, ADDED)?,
            vocab_json: read_json(read, "vocab.json")?,
            vocab_txt: read_text(read, "vocab.txt")?,
            merges: read_text(read, "merges.txt")?,
            pieces,
            template,
        })
    }

    /// Adds the ids of roles that `config.json` does not have.
    pub(super) fn add_ids(&mut self, ids: &BTreeMap<&str, Json>) {
        if self.config.is_null() {
            self.config = Json::Object(serde_json::Map::new());
        }
        let Json::Object(config) = &mut self.config else { return };
        for (role, id) in ids {
            config.entry(format!("{role}_token_id")).or_insert_with(|| id.clone());
        }
    }

    /// The token that the settings call `bos_token` or the like.
    pub(super) fn named(&self, name: &str) -> Option<&str> {
        [&self.settings, &self.special].into_iter().find_map(|file| content(file.get(name)?))
    }

    /// Every token that the settings give a role. `extra_special_tokens` of transformers 5 also has
    /// what was only added: a token of it counts where its own entry does not say that it is part
    /// of texts.
    pub(super) fn all_named(&self) -> impl Iterator<Item = &str> {
        let added = self.tokenizer.as_ref().and_then(|json| json.get("added_tokens"));
        let added = added.and_then(Json::as_array).into_iter().flatten();
        let decoder = self.settings.get("added_tokens_decoder").and_then(Json::as_object);
        let entries = added.chain(decoder.into_iter().flat_map(|map| map.values()));
        let plain = entries.filter(|entry| entry["special"] == false);
        let plain: HashSet<&str> = plain.filter_map(content).collect();
        let entries = [&self.settings, &self.special].into_iter().filter_map(Json::as_object);
        entries.flatten().flat_map(move |(key, value)| -> Vec<&str> {
            match value {
                Json::Array(list) if key == "extra_special_tokens" => {
                    let texts = list.iter().filter_map(content);
                    texts.filter(|text| !plain.contains(text)).collect()
                }
                value if key.ends_with("_token") => content(value).into_iter().collect(),
                Json::Array(list) if key.ends_with("_special_tokens") => {
                    list.iter().filter_map(content).collect()
                }
                _ => Vec::new(),
            }
        })
    }
}

/// The text of `"<s>"` or `{"content": "<s>", …}`.
pub(super) fn content(value: &Json) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The kind of `model`; files of early versions do not say it.
pub(super) fn model_kind(tokenizer: &Json) -> &str {
    let model = &tokenizer["model"];
    match model["type"].as_str() {
        Some(kind) => kind,
        None if model.get("merges").is_some() => "BPE",
        None if model["vocab"].is_array() => "Unigram",
        None if model.get("continuing_subword_prefix").is_some() => "WordPiece",
        None => "a kind that is not said",
    }
}

fn read_json(read: Read<'_>, name: &str) -> Result<Option<Json>, Diagnostic> {
    let file = read(name).map_err(|err| unreadable(name, &err))?;
    let parse =
        |bytes: Vec<u8>| json::parse_python(&bytes, 0).map_err(|err| unreadable(name, &err));
    file.map(parse).transpose()
}

/// A file of settings; `null` if there is none.
fn object(read: Read<'_>, name: &str) -> Result<Json, Diagnostic> {
    match read_json(read, name)? {
        None => Ok(Json::Null),
        Some(json) if json.is_object() => Ok(json),
        Some(json) => {
            Err(malformed(name, "", "the file is an object").mismatch("{…}", brief(&json)))
        }
    }
}

fn read_text(read: Read<'_>, name: &str) -> Result<Option<String>, Diagnostic> {
    let Some(bytes) = read(name).map_err(|err| unreadable(name, &err))? else { return Ok(None) };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(err) => {
            let offset = err.utf8_error().valid_up_to() as u64;
            Err(unreadable(name, &Error::malformed(offset, "the file is UTF-8, and this is none")))
        }
    }
}

/// A value in a message: its start.
pub(super) fn brief(json: &Json) -> String {
    let text = json.to_string();
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The finding for a file that cannot be read.
pub(super) fn unreadable(name: &str, err: &Error) -> Diagnostic {
    let finding = Diagnostic::error(rule::UNREADABLE, err.message()).file(name);
    match err.offset() {
        Some(offset) => finding.bytes(offset, offset.saturating_add(1)),
        None => finding,
    }
}

/// The finding for a value that breaks the form of its file.
pub(super) fn malformed(name: &str, key: &str, message: impl Into<String>) -> Diagnostic {
    with_key(Diagnostic::error(rule::UNREADABLE, message).file(name), key)
}

/// The finding for what no program that reads GGUF does.
pub(super) fn unsupported(name: &str, key: &str, message: impl Into<String>) -> Diagnostic {
    with_key(Diagnostic::error(rule::UNSUPPORTED, message).file(name), key)
}

fn with_key(finding: Diagnostic, key: &str) -> Diagnostic {
    if key.is_empty() { finding } else { finding.key(key) }
}
