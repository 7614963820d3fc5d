//! What `tokenizer.json` says beside the ids of its tokens: what holds its parts together.

use serde::Deserialize;
use serde_json::Value as Json;

use crate::base::error::Result;
use crate::base::json;
use crate::tokenizer::vocabulary::Entries;

/// `tokenizer.json`.
#[derive(Deserialize)]
pub(super) struct TokenizerFile {
    /// The tokens that are found before the model looks.
    #[serde(default)]
    pub(super) added_tokens: Vec<Added>,
    /// How texts are split into tokens.
    pub(super) model: Model,
    /// What is put around texts.
    #[serde(default)]
    pub(super) post_processor: Json,
    /// Where texts are cut.
    #[serde(default)]
    pub(super) truncation: Json,
}

/// A token that is found before the model looks.
#[derive(Deserialize)]
pub(super) struct Added {
    /// Its id.
    pub(super) id: u64,
    /// Its text.
    pub(super) content: String,
}

/// How texts are split into tokens.
#[derive(Deserialize)]
pub(super) struct Model {
    /// `BPE`, `Unigram`, `WordPiece`, `WordLevel`.
    #[serde(default, rename = "type")]
    pub(super) kind: String,
    /// The tokens with their ids.
    #[serde(default)]
    pub(super) vocab: Entries,
    /// The pairs that are merged, the first ones first.
    #[serde(default)]
    pub(super) merges: Vec<Merge>,
    /// What stands for text that no token covers.
    #[serde(default)]
    pub(super) unk_token: Option<String>,
    /// As `unk_token`, by its place in the list.
    #[serde(default)]
    pub(super) unk_id: Option<u64>,
    /// What stands before a token within a word.
    #[serde(default)]
    pub(super) continuing_subword_prefix: Option<String>,
}

/// Two parts that are merged into one token.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Merge {
    /// With a space between.
    Text(String),
    /// As a list.
    Pair(String, String),
}

impl Merge {
    /// Both parts; `None` where the text is no pair.
    pub(super) fn parts(&self) -> Option<(&str, &str)> {
        match self {
            Merge::Text(text) => text.split_once(' '),
            Merge::Pair(left, right) => Some((left, right)),
        }
    }
}

/// Reads `tokenizer.json`.
pub(super) fn parse(text: &[u8]) -> Result<TokenizerFile> {
    serde_json::from_slice(text).map_err(|err| json::error(text, 0, &err))
}
