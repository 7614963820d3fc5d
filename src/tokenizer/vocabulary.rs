//! Which ids the files of a tokenizer give.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::base::error::{Error, Result};
use crate::base::json;
use crate::format::gguf;
use crate::metadata::Texts;
use crate::package::METADATA_FILE;

/// The file that has all of a tokenizer.
pub const TOKENIZER_JSON: &str = "tokenizer.json";

/// The tokens of one file with their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vocabulary {
    /// The tokens that texts are split into.
    pub own: BTreeMap<String, u64>,
    /// The tokens that are looked for before that.
    pub added: BTreeMap<String, u64>,
    /// Two tokens that have one id, if there are such: `(id, token, other token)`.
    pub twice: Option<(u64, String, String)>,
}

type Reader = fn(&[u8]) -> Result<Vocabulary>;

impl Vocabulary {
    /// What reads a file of this name; `None` if no file of this name says ids.
    pub fn reader(name: &str) -> Option<Reader> {
        Some(match name {
            TOKENIZER_JSON => tokenizer_json,
            "vocab.json" => vocab_json,
            "added_tokens.json" => added_tokens_json,
            "vocab.txt" => vocab_txt,
            "merges.txt" => merges_txt,
            METADATA_FILE => keys,
            _ => return None,
        })
    }

    /// The id of a token; what is looked for first wins.
    pub fn id(&self, token: &str) -> Option<u64> {
        self.added.get(token).or_else(|| self.own.get(token)).copied()
    }

    /// Every token with its id; one that is in both comes twice, the added one last.
    pub fn all(&self) -> impl Iterator<Item = (&str, u64)> {
        self.own.iter().chain(&self.added).map(|(token, id)| (token.as_str(), *id))
    }

    /// The token of the largest id.
    pub fn largest(&self) -> Option<(&str, u64)> {
        self.all().filter(|(token, id)| self.id(token) == Some(*id)).max_by_key(|(_, id)| *id)
    }

    fn of(own: Vec<(String, u64)>, added: Vec<(String, u64)>) -> Vocabulary {
        let mut owners: HashMap<u64, &str> = HashMap::new();
        let mut twice = None;
        for (token, id) in own.iter().chain(&added) {
            let owner = owners.entry(*id).or_insert(token);
            if *owner != token {
                twice.get_or_insert((*id, (*owner).to_owned(), token.clone()));
            }
        }
        Vocabulary { own: own.into_iter().collect(), added: added.into_iter().collect(), twice }
    }
}

/// Tokens and ids, in the order of the file: an object of ids by token, or a list of tokens with
/// scores, whose places are the ids.
#[derive(Default)]
pub struct Entries(pub Vec<(String, u64)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("ids by token, or a list of tokens with scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some((token, IgnoredAny)) =
                    items.next_element::<(String, IgnoredAny)>()?
                {
                    entries.push((token, entries.len() as u64));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_any(EntriesVisitor)
    }
}

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<Added>,
    model: TokenizerModel,
}

#[derive(Deserialize)]
struct Added {
    id: u64,
    content: String,
}

#[derive(Deserialize)]
struct TokenizerModel {
    #[serde(default)]
    vocab: Entries,
}

fn tokenizer_json(text: &[u8]) -> Result<Vocabulary> {
    let file: TokenizerJson =
        serde_json::from_slice(text).map_err(|err| json::error(text, 0, &err))?;
    let added = file.added_tokens.into_iter().map(|added| (added.content, added.id));
    Ok(Vocabulary::of(file.model.vocab.0, added.collect()))
}

fn vocab_json(text: &[u8]) -> Result<Vocabulary> {
    Ok(Vocabulary::of(entries(text)?, Vec::new()))
}

fn added_tokens_json(text: &[u8]) -> Result<Vocabulary> {
    Ok(Vocabulary::of(Vec::new(), entries(text)?))
}

fn entries(text: &[u8]) -> Result<Vec<(String, u64)>> {
    let entries: Entries =
        serde_json::from_slice(text).map_err(|err| json::error(text, 0, &err))?;
    Ok(entries.0)
}

fn utf8(text: &[u8]) -> Result<&str> {
    std::str::from_utf8(text)
        .map_err(|err| Error::malformed(err.valid_up_to() as u64, "is not UTF-8"))
}

/// One token on a line; the line is the id, counted from 0.
fn vocab_txt(text: &[u8]) -> Result<Vocabulary> {
    let entries = utf8(text)?.split_terminator('\n').zip(0..);
    let entries = entries.map(|(token, id)| (token.trim_end_matches('\r').to_owned(), id));
    Ok(Vocabulary::of(entries.collect(), Vec::new()))
}

/// The keys of a GGUF file.
fn keys(bytes: &[u8]) -> Result<Vocabulary> {
    let keys = gguf::keys(bytes)?;
    let tokens = gguf::tokenizer::tokens(&keys).into_iter().flat_map(Texts::iter);
    let text = |token| String::from_utf8_lossy(token).into_owned();
    Ok(Vocabulary::of(tokens.map(text).zip(0..).collect(), Vec::new()))
}

/// Two parts on a line, and a first line that may say the version: no ids of its own.
fn merges_txt(text: &[u8]) -> Result<Vocabulary> {
    let mut offset = 0u64;
    for (index, line) in utf8(text)?.split('\n').enumerate() {
        let parts = line.trim_end_matches('\r').split(' ').filter(|part| !part.is_empty());
        let legal = line.trim().is_empty()
            || (index == 0 && line.starts_with("#version"))
            || parts.count() == 2;
        if !legal {
            let message = format!("line {} is no pair of parts to merge", index + 1);
            return Err(Error::malformed(offset, message));
        }
        offset = offset.saturating_add(line.len() as u64 + 1);
    }
    Ok(Vocabulary::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, text: &str, expected: &str) {
        let read = Vocabulary::reader(name).unwrap();
        let actual = match read(text.as_bytes()) {
            Ok(vocabulary) => {
                let all: BTreeMap<&str, u64> = vocabulary.all().collect();
                format!("{all:?} {:?}", vocabulary.twice)
            }
            Err(err) => format!("error: {err}"),
        };
        assert_eq!(actual, expected);
    }

    #[test]
    fn every_form_of_a_vocabulary_is_read() {
        check("vocab.txt", "a\nb\n", r#"{"a": 0, "b": 1} None"#);
        check("vocab.json", r#"{"a":3,"b":1}"#, r#"{"a": 3, "b": 1} None"#);
        let bpe = r#"{"added_tokens":[{"id":2,"content":"<s>","special":true}],"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]}}"#;
        check("tokenizer.json", bpe, r#"{"<s>": 2, "a": 0, "b": 1} None"#);
        let unigram = r#"{"model":{"vocab":[["a",-1.5],["b",0]]}}"#;
        check("tokenizer.json", unigram, r#"{"a": 0, "b": 1} None"#);
        check("merges.txt", "#version: 0.2\na b\n\n", "{} None");
    }

    #[test]
    fn an_added_token_may_stand_in_the_vocabulary_too() {
        let same = r#"{"added_tokens":[{"id":0,"content":"a"}],"model":{"vocab":{"a":0}}}"#;
        check("tokenizer.json", same, r#"{"a": 0} None"#);
        let moved = r#"{"added_tokens":[{"id":5,"content":"a"}],"model":{"vocab":{"a":0,"b":1}}}"#;
        check("tokenizer.json", moved, r#"{"a": 5, "b": 1} None"#);
        let read = Vocabulary::reader("tokenizer.json").unwrap()(moved.as_bytes()).unwrap();
        assert_eq!((read.id("a"), read.largest()), (Some(5), Some(("a", 5))));
        let other = r#"{"added_tokens":[{"id":0,"content":"b"}],"model":{"vocab":{"a":0}}}"#;
        check("tokenizer.json", other, r#"{"a": 0, "b": 0} Some((0, "a", "b"))"#);
    }

    #[test]
    fn what_is_no_vocabulary_is_an_error_with_its_place() {
        check(
            "vocab.json",
            r#"{"a":-1}"#,
            "error: JSON: invalid value: integer `-1`, expected u64 (at byte 0x6)",
        );
        check("merges.txt", "a b\nc\n", "error: line 2 is no pair of parts to merge (at byte 0x4)");
        let text = Vocabulary::reader("vocab.txt").unwrap()(b"a\n\xff\n");
        assert_eq!(text.unwrap_err().to_string(), "is not UTF-8 (at byte 0x2)");
    }
}
