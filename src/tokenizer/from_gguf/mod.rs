//! The keys of GGUF as the files of a tokenizer: `tokenizer.json` and `tokenizer_config.json`.
//!
//! Ids are those that llama.cpp gives, and with them those of the tokenizer that the keys were made
//! of, but for what GGUF has no key for and the files leave out then:
//!
//! - normalizers before bytes (NFC), and how spaces around added tokens are taken (`lstrip`);
//! - whether a text that begins with a space gets another one before pieces: it does;
//! - tokens between two texts where nothing ends a text, and the kinds of segments;
//! - rows that are there for the shape of the embedding only, `[PAD…]`.

mod model;
mod roles;

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::sentencepiece::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use super::table::{self, Token};
use super::{MAX_ROWS, Model, rule};
use crate::base::diagnostic::Diagnostic;
use crate::metadata::{Array, Metadata, Value};
use crate::spec::pretokenizers::{Pretokenizer, Pretokenizers};

use super::folder::CONFIG;
use super::vocabulary::TOKENIZER_JSON;
use roles::Roles;

/// What every key of a tokenizer begins with.
const PREFIX: &str = "tokenizer.ggml.";

/// The files of a tokenizer, and what had to be assumed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Files {
    /// Names and texts.
    pub files: Vec<(&'static str, String)>,
    /// What no key says, and what was taken for it.
    pub findings: Vec<Diagnostic>,
}

/// The files of the tokenizer that these keys describe; `None` if they describe none.
///
/// # Errors
/// The keys contradict each other, or no file of this kind can say how the texts are split. It
/// tells what to do.
pub fn from_gguf(keys: &Metadata, names: &Pretokenizers) -> Result<Option<Files>, Diagnostic> {
    let source = Source { keys };
    let Some(name) = source.text("model").filter(|name| !["none", "no_vocab"].contains(name))
    else {
        return Ok(None);
    };
    let models = &names.models;
    let kinds = [
        (&models.bytes, Model::Bytes),
        (&models.merges, Model::Merges),
        (&models.scores, Model::Scores),
        (&models.words, Model::Words),
    ];
    let Some((_, kind)) = kinds.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = kinds.iter().map(|(known, _)| known.as_str()).collect();
        let message = "tokenizer.json has no tokenizer of this kind";
        return Err(unsupported("model", message).mismatch(known.join(", "), name));
    };
    let pre = match kind {
        Model::Bytes => Some(pretokenizer(&source, &names.list)?),
        _ => None,
    };
    let mut findings = Vec::new();
    let vocab = Vocab::read(&source, *kind)?;
    let roles = Roles::read(&source, &vocab, pre);
    let parts = match kind {
        Model::Bytes => model::bytes(&source, &vocab, pre)?,
        Model::Merges => model::merges(&source, &vocab, &roles)?,
        Model::Scores => model::scores(&source, &vocab, &roles)?,
        Model::Words => model::words(&source, &vocab, &roles, &mut findings)?,
    };
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added(&vocab, &roles),
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": roles.post_processor(&vocab),
        "decoder": parts.decoder,
        "model": parts.model,
    });
    let settings = roles.settings(&source, &vocab, pre);
    let text = |json: &Json| format!("{json:#}\n");
    let files = vec![(TOKENIZER_JSON, text(&tokenizer)), (CONFIG, text(&settings))];
    Ok(Some(Files { files, findings }))
}

/// The entry of the id that says how texts are cut into words.
fn pretokenizer<'a>(
    source: &Source<'_>,
    known: &'a [Pretokenizer],
) -> Result<&'a Pretokenizer, Diagnostic> {
    let id = source.text("pre");
    let entry = known.iter().find(|entry| id.is_some_and(|id| entry.ids.iter().any(|i| i == id)));
    entry.ok_or_else(|| {
        let message = "no regular expression is known for how this id cuts texts into words";
        unsupported("pre", message)
            .mismatch("an id of pretokenizers.toml", id.unwrap_or("none"))
            .help(
                "put the tokenizer.json of the model that the file was made of beside config.json",
            )
    })
}

/// The keys of a tokenizer by their short names.
struct Source<'a> {
    keys: &'a Metadata,
}

impl<'a> Source<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.keys.get(&format!("{PREFIX}{name}"))
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.as_str()
    }

    fn flag(&self, name: &str) -> Option<bool> {
        match self.get(name)? {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// Texts of an array; `None` if there is none.
    ///
    /// # Errors
    /// The key is something else, or a text is no UTF-8, which JSON cannot say.
    fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>, Diagnostic> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let Value::Array(Array::String(texts)) = value else {
            return Err(malformed(name, "these are texts").mismatch("[string]", value.kind_name()));
        };
        let mut list = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let text = std::str::from_utf8(text).map_err(|_| {
                let found = String::from_utf8_lossy(text).into_owned();
                malformed(name, format!("text {index} is UTF-8")).mismatch("UTF-8", found)
            })?;
            list.push(text);
        }
        Ok(Some(list))
    }
}

/// The tokens, by id.
struct Vocab {
    kind: Model,
    /// `None` where a row has no token.
    tokens: Vec<Option<Token>>,
}

impl Vocab {
    fn read(source: &Source<'_>, kind: Model) -> Result<Vocab, Diagnostic> {
        let Some(texts) = source.texts("tokens")? else {
            return Err(malformed("tokens", "a vocabulary has tokens").mismatch("[string]", "none"));
        };
        let n = texts.len();
        if MAX_ROWS < n as u64 {
            let message = "no vocabulary has so many tokens";
            return Err(malformed("tokens", message).mismatch(format!("at most {MAX_ROWS}"), n));
        }
        let same = |name: &str, len: usize, found: String| match len == n {
            true => Ok(()),
            false => {
                Err(malformed(name, "every token has one").mismatch(format!("{n} of them"), found))
            }
        };
        let scores: &[f32] = match source.get("scores") {
            Some(Value::Array(Array::F32(scores))) => scores,
            Some(other) => {
                let message = "scores are numbers";
                return Err(malformed("scores", message).mismatch("[f32]", other.kind_name()));
            }
            None => &[],
        };
        if source.get("scores").is_some() {
            same("scores", scores.len(), scores.len().to_string())?;
        }
        let kinds: &[i32] = match source.get("token_type") {
            Some(Value::Array(Array::I32(kinds))) => kinds,
            Some(other) => {
                let message = "types are numbers";
                return Err(malformed("token_type", message).mismatch("[i32]", other.kind_name()));
            }
            None => &[],
        };
        if source.get("token_type").is_some() {
            same("token_type", kinds.len(), kinds.len().to_string())?;
        }
        let mut vocab = Vocab { kind, tokens: Vec::with_capacity(n) };
        let mut owners: HashMap<String, usize> = HashMap::with_capacity(n);
        for (id, text) in texts.into_iter().enumerate() {
            let kind = kinds.get(id).copied().unwrap_or(NORMAL);
            let score = scores.get(id).copied().unwrap_or(0.0);
            if !score.is_finite() {
                let message = format!("the score of token {id} is a number");
                return Err(malformed("scores", message).mismatch("a number", score));
            }
            let text = vocab.spelled(text, kind);
            let is_filler = kind == UNUSED && text == table::unused(id).text;
            // llama.cpp gives an empty one a name of its own: texts never have it.
            if is_filler || text.is_empty() {
                vocab.tokens.push(None);
                continue;
            }
            if let Some(other) = owners.insert(text.clone(), id) {
                let message = format!("two ids stand for the token {text:?}");
                return Err(
                    malformed("tokens", message).mismatch("one id", format!("{other} and {id}"))
                );
            }
            vocab.tokens.push(Some(Token { text, score, kind }));
        }
        // Rows at the end without a token are no part of the vocabulary.
        while vocab.tokens.last().is_some_and(Option::is_none) {
            vocab.tokens.pop();
        }
        Ok(vocab)
    }

    /// The text of a token as `tokenizer.json` spells it.
    fn spelled(&self, text: &str, kind: i32) -> String {
        if self.kind != Model::Words || kind == CONTROL {
            return text.to_owned();
        }
        // Names in brackets stand as they are in early files; no piece of a word has brackets.
        let is_name = text.starts_with('[') && text.ends_with(']') && 2 < text.len();
        match text.strip_prefix(super::added::SPACE) {
            Some(word) => word.to_owned(),
            None if is_name || text.is_empty() => text.to_owned(),
            None => format!("{}{text}", super::wordpiece::CONTINUES),
        }
    }

    fn get(&self, id: usize) -> Option<&Token> {
        self.tokens.get(id)?.as_ref()
    }

    fn text(&self, id: usize) -> &str {
        self.get(id).map_or("", |token| &token.text)
    }

    /// The first token of a kind.
    fn first(&self, kind: i32) -> Option<usize> {
        self.iter().find(|(_, token)| token.kind == kind).map(|(id, _)| id)
    }

    fn named(&self, text: &str) -> Option<usize> {
        self.iter().find(|(_, token)| token.text == text).map(|(id, _)| id)
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &Token)> {
        let tokens = self.tokens.iter().enumerate();
        tokens.filter_map(|(id, token)| Some((id, token.as_ref()?)))
    }

    /// `{token: id}`.
    fn ids(&self) -> Json {
        self.iter().map(|(id, token)| (token.text.clone(), json!(id))).collect()
    }

    /// Whether every byte has a token.
    fn has_bytes(&self) -> bool {
        256 <= self.iter().filter(|(_, token)| token.kind == BYTE).count()
    }
}

/// The tokens that are looked for before a text is split.
fn added(vocab: &Vocab, roles: &Roles) -> Json {
    let is_special =
        |id: usize, token: &Token| [UNKNOWN, CONTROL].contains(&token.kind) || roles.has(id);
    let tokens = vocab.iter().filter_map(|(id, token)| {
        let special = is_special(id, token);
        (special || token.kind == USER_DEFINED).then(|| {
            json!({
                "id": id,
                "content": token.text,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": special,
            })
        })
    });
    tokens.collect()
}

/// The finding for a key that breaks its form.
fn malformed(name: &str, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(rule::UNREADABLE, message).key(format!("{PREFIX}{name}"))
}

/// The finding for what `tokenizer.json` cannot say.
fn unsupported(name: &str, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(rule::UNSUPPORTED, message).key(format!("{PREFIX}{name}"))
}
