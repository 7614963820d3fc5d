//! Tokens that are looked for before a text is split.

use std::collections::HashSet;

use serde_json::Value as Json;

use super::folder::{ADDED, CONFIG, Folder, malformed};
use super::sentencepiece::{CONTROL, USER_DEFINED};
use super::table::{ADDED_SCORE, Table, Token};
use super::vocabulary::TOKENIZER_JSON;
use crate::base::diagnostic::Diagnostic;

/// What SentencePiece has for a space.
pub(super) const SPACE: &str = "\u{2581}";

pub(super) struct Added {
    pub(super) id: u64,
    pub(super) text: String,
    is_special: bool,
    file: &'static str,
    key: String,
}

impl Added {
    /// As a token of the vocabulary. Programs look for it in texts as they come, so that it has
    /// its spaces as such.
    pub(super) fn token(&self) -> Token {
        let (text, kind) = if self.is_special || looks_special(&self.text) {
            (self.text.clone(), CONTROL)
        } else {
            (self.text.replace(SPACE, " "), USER_DEFINED)
        };
        Token { text, score: ADDED_SCORE, kind }
    }
}

/// Names that models mark as no special tokens though they are: what llama.cpp's converter takes
/// as such.
fn looks_special(text: &str) -> bool {
    let between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || between("<|", "|>")
        || between("<\u{ff5c}", "\u{ff5c}>")
        || between("<unused", ">")
}

/// The added tokens of `tokenizer.json`, and those that only the settings have.
pub(super) fn read(folder: &Folder) -> Result<Vec<Added>, Diagnostic> {
    let named: HashSet<&str> = folder.all_named().collect();
    let mut list: Vec<Added> = Vec::new();
    list.extend(of_tokenizer(folder, &named)?);
    let known: HashSet<u64> = list.iter().map(|token| token.id).collect();
    for token in settings(folder, &named)? {
        if !known.contains(&token.id) {
            list.push(token);
        }
    }
    Ok(list)
}

/// The added tokens of `tokenizer.json`.
fn of_tokenizer(folder: &Folder, named: &HashSet<&str>) -> Result<Vec<Added>, Diagnostic> {
    let list = folder.tokenizer.as_ref().and_then(|json| json.get("added_tokens"));
    let entries = list.and_then(Json::as_array).into_iter().flatten().enumerate();
    let tokens = entries.map(|(index, entry)| {
        let id = entry.get("id").and_then(Json::as_u64);
        added(id, entry, TOKENIZER_JSON, format!("/added_tokens/{index}"), named)
    });
    tokens.collect()
}

/// The tokens that are added to those of a SentencePiece model, those that count last. The settings
/// that transformers 5 writes have none: there `tokenizer.json` has them.
pub(super) fn beside_model(
    folder: &Folder,
    named: &HashSet<&str>,
) -> Result<Vec<Added>, Diagnostic> {
    let settings = settings(folder, named)?;
    if folder.settings.get("added_tokens_decoder").is_some() {
        return Ok(settings);
    }
    let mut list = of_tokenizer(folder, named)?;
    list.extend(settings);
    Ok(list)
}

/// The added tokens that the files beside `tokenizer.json` have, those that count last.
pub(super) fn settings(folder: &Folder, named: &HashSet<&str>) -> Result<Vec<Added>, Diagnostic> {
    let mut list = Vec::new();
    for (text, id) in folder.added.as_object().into_iter().flatten() {
        let is_special = named.contains(text.as_str());
        let Some(id) = id.as_u64() else {
            let message = format!("the id of {text:?} is a number");
            return Err(malformed(ADDED, text, message).mismatch("0 or more", id));
        };
        list.push(Added { id, text: text.clone(), is_special, file: ADDED, key: text.clone() });
    }
    let decoder = folder.settings.get("added_tokens_decoder").and_then(Json::as_object);
    for (id, entry) in decoder.into_iter().flatten() {
        let key = format!("/added_tokens_decoder/{id}");
        list.push(added(id.parse().ok(), entry, CONFIG, key, named)?);
    }
    Ok(list)
}

fn added(
    id: Option<u64>,
    entry: &Json,
    file: &'static str,
    key: String,
    named: &HashSet<&str>,
) -> Result<Added, Diagnostic> {
    let (Some(id), Some(text)) = (id, entry.get("content").and_then(Json::as_str)) else {
        return Err(malformed(file, &key, "an added token has an id and a content")
            .mismatch("{id, content, …}", super::folder::brief(entry)));
    };
    let said = entry.get("special").and_then(Json::as_bool).unwrap_or(false);
    let is_special = said || named.contains(text);
    Ok(Added { id, text: text.to_owned(), is_special, file, key })
}

/// Puts the added tokens of [`read`] into a table; tokens with a role are no part of texts, even
/// where nothing adds them.
pub(super) fn put(folder: &Folder, table: &mut Table) -> Result<(), Diagnostic> {
    for added in read(folder)? {
        let token = added.token();
        // What the vocabulary has under this id is spelled as the file has it.
        let same = usize::try_from(added.id)
            .ok()
            .filter(|&id| table.get(id).is_some_and(|old| old.text == added.text));
        match same {
            Some(id) => {
                table.replace(id, token);
            }
            None => table.add(added.id, token, added.file, &added.key)?,
        }
    }
    let named: HashSet<&str> = folder.all_named().collect();
    for token in table.tokens_mut() {
        if named.contains(token.text.as_str()) {
            token.kind = CONTROL;
        }
    }
    Ok(())
}
