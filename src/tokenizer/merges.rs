//! The merges of byte-pair vocabularies.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use super::folder::{brief, malformed};
use super::table::Table;
use super::vocabulary::TOKENIZER_JSON;
use crate::base::diagnostic::Diagnostic;
use crate::metadata::Texts;

/// The merges of `tokenizer.json`, `"a b"` or `["a", "b"]`, as GGUF has them. A part may have a
/// space in the second form only; between two parts there is one, so it is spelled as byte-level
/// vocabularies do.
pub(super) fn of_json(merges: &Json, table: &Table) -> Result<Texts, Diagnostic> {
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
pub(super) fn make_all(json: &Json) -> bool {
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
pub(super) fn of_text(text: &str, table: &Table) -> Result<Texts, Diagnostic> {
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
