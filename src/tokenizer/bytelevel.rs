//! Vocabularies of merges over bytes, each of which a character stands for.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use super::folder::{Folder, TOKENIZER_JSON, brief, malformed, unsupported};
use super::sentencepiece::NORMAL;
use super::special::Known;
use super::table::{Table, Token};
use super::{Made, Model, added, pre};
use crate::base::diagnostic::Diagnostic;
use crate::metadata::{Array, Texts, Value};
use crate::spec::pretokenizers::Pretokenizer;

/// Whether tokens are spelled in characters that stand for bytes.
pub(super) fn is(json: &Json) -> bool {
    fn has(step: &Json) -> bool {
        let lists = [&step["pretokenizers"], &step["decoders"]];
        let mut inner = lists.into_iter().filter_map(Json::as_array).flatten();
        step["type"] == "ByteLevel" || inner.any(has)
    }
    has(&json["pre_tokenizer"]) || has(&json["decoder"])
}

pub(super) fn from_json(
    folder: &Folder,
    json: &Json,
    rows: usize,
    known: &[Pretokenizer],
    findings: &mut Vec<Diagnostic>,
) -> Result<Made, Diagnostic> {
    for affix in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if json["model"][affix].as_str().is_some_and(|affix| !affix.is_empty()) {
            let key = format!("/model/{affix}");
            let message =
                "no program that reads GGUF marks the parts of words where tokens are bytes";
            return Err(
                unsupported(TOKENIZER_JSON, &key, message).mismatch("null", &json["model"][affix])
            );
        }
    }
    let vocab = json["model"].get("vocab").unwrap_or(&Json::Null);
    let mut table = table(vocab, TOKENIZER_JSON, "/model/vocab", rows)?;
    let merges = merges(&json["model"]["merges"], &table)?;
    added::put(folder, &mut table)?;
    let pre = pre::of_json(json, &folder.settings, known, findings)?;
    Ok(made(TOKENIZER_JSON, table, merges, pre))
}

pub(super) fn from_pair(
    folder: &Folder,
    vocab: &Json,
    merges: &str,
    rows: usize,
    known: &[Pretokenizer],
) -> Result<Made, Diagnostic> {
    let file = "vocab.json";
    let mut table = table(vocab, file, "", rows)?;
    let merges = merges_text(merges, &table)?;
    added::put(folder, &mut table)?;
    let pre = pre::of_class(&folder.settings, known)?;
    Ok(made(file, table, merges, pre))
}

fn made(file: &'static str, table: Table, merges: Texts, pre: pre::Pre) -> Made {
    let extra = vec![("merges", Value::Array(Array::String(Box::new(merges))))];
    let special = Known { adds_bos: Some(pre.adds_bos), ..Known::default() };
    Made { file, model: Model::Bytes, pre: pre.id, table, extra, special }
}

/// The table of `{token: id}`.
pub(super) fn table(
    vocab: &Json,
    file: &'static str,
    key: &str,
    rows: usize,
) -> Result<Table, Diagnostic> {
    let Some(vocab) = vocab.as_object() else {
        return Err(malformed(file, key, "the vocabulary is ids by token")
            .mismatch("{token: id}", brief(vocab)));
    };
    let mut table = Table::new(rows);
    for (text, id) in vocab {
        let key = format!("{key}/{}", text.replace('~', "~0").replace('/', "~1"));
        let Some(id) = id.as_u64() else {
            return Err(malformed(file, &key, "the id of a token is a number")
                .mismatch("0 or more", brief(id)));
        };
        let token = Token { text: text.clone(), score: 0.0, kind: NORMAL };
        table.add(id, token, file, &key)?;
    }
    Ok(table)
}

/// The merges of `tokenizer.json`, `"a b"` or `["a", "b"]`, as GGUF has them. A part may have a
/// space in the second form only; between two parts there is one, so it is spelled as byte-level
/// vocabularies do.
fn merges(merges: &Json, table: &Table) -> Result<Texts, Diagnostic> {
    let mut texts = Texts::default();
    let list = merges.as_array().ok_or_else(|| {
        malformed(TOKENIZER_JSON, "/model/merges", "merges are a list")
            .mismatch("[…]", brief(merges))
    })?;
    for (index, merge) in list.iter().enumerate() {
        let (left, right) = pair(merge).ok_or_else(|| {
            let key = format!("/model/merges/{index}");
            malformed(TOKENIZER_JSON, &key, "a merge is two parts")
                .mismatch("\"a b\" or [\"a\", \"b\"]", brief(merge))
        })?;
        let made = join(left, right, table).map_err(|part| {
            let key = format!("/model/merges/{index}");
            malformed(TOKENIZER_JSON, &key, "a merge joins tokens to a token")
                .mismatch("a token", format!("{part:?}"))
        })?;
        if made.is_none() {
            continue;
        }
        texts.push(format!("{} {}", left.replace(' ', "Ġ"), right.replace(' ', "Ġ")).as_bytes());
    }
    Ok(texts)
}

/// The two parts of a merge.
pub(super) fn pair(merge: &Json) -> Option<(&str, &str)> {
    match merge {
        Json::String(text) => text.split_once(' ').filter(|(_, right)| !right.contains(' ')),
        Json::Array(list) => match list.as_slice() {
            [left, right] => Some((left.as_str()?, right.as_str()?)),
            _ => None,
        },
        _ => None,
    }
}

/// The id of the token that two parts make; `None` where one of the three has no row.
///
/// # Errors
/// One of the three is no token: its text.
pub(super) fn join(left: &str, right: &str, table: &Table) -> Result<Option<usize>, String> {
    let id = |part: &str| match table.id(part) {
        None if !table.is_beyond(part) => Err(part.to_owned()),
        id => Ok(id),
    };
    let (left_id, right_id) = (id(left)?, id(right)?);
    let made = id(&format!("{left}{right}"))?;
    Ok(made.filter(|_| left_id.is_some() && right_id.is_some()))
}

/// The most bytes of a token whose merges are followed: each is looked for in all of it.
const MAX_MERGED: usize = 1024;

/// Whether the merges of a `tokenizer.json` lead from its characters to each of its tokens: then it
/// is all one whether a word that is a token is taken whole.
pub(super) fn merges_make_all(json: &Json) -> bool {
    let model = &json["model"];
    let (Some(vocab), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array())
    else {
        return false;
    };
    let ranks: HashMap<(&str, &str), usize> =
        merges.iter().enumerate().filter_map(|(rank, merge)| Some((pair(merge)?, rank))).collect();
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let added: HashSet<&str> = added.filter_map(|token| token["content"].as_str()).collect();
    vocab.keys().filter(|text| !added.contains(text.as_str())).all(|text| {
        // What takes too long to merge is not proven.
        if MAX_MERGED < text.len() {
            return false;
        }
        let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let mut cuts = ends;
        while 2 < cuts.len() {
            let pairs = cuts.windows(3).enumerate().filter_map(|(at, cut)| {
                let parts = (&text[cut[0]..cut[1]], &text[cut[1]..cut[2]]);
                Some((*ranks.get(&parts)?, at + 1))
            });
            let Some((_, at)) = pairs.min() else { return false };
            cuts.remove(at);
        }
        true
    })
}

/// The merges of `merges.txt`: two parts on a line, and a first line that may say the version.
fn merges_text(text: &str, table: &Table) -> Result<Texts, Diagnostic> {
    let file = "merges.txt";
    let mut texts = Texts::default();
    let mut offset = 0u64;
    for (number, line) in text.split('\n').enumerate() {
        let start = offset;
        offset = offset.saturating_add(line.len() as u64 + 1);
        let parts: Vec<&str> = line.split_whitespace().collect();
        let wrong = |message: &str, expected: &str, found: String| {
            let message = format!("line {}: {message}", number + 1);
            let end = start.saturating_add(line.len() as u64);
            malformed(file, "", message).bytes(start, end).mismatch(expected, found)
        };
        match parts.as_slice() {
            [] => {}
            _ if number == 0 && line.starts_with("#version") => {}
            [left, right] => {
                let made = join(left, right, table).map_err(|part| {
                    wrong("a merge joins tokens to a token", "a token", format!("{part:?}"))
                })?;
                if made.is_some() {
                    texts.push(format!("{left} {right}").as_bytes());
                }
            }
            _ => return Err(wrong("a merge is two parts", "a b", format!("{line:?}"))),
        }
    }
    Ok(texts)
}
