//! Vocabularies of merges over bytes, each of which a character stands for.

use serde_json::Value as Json;

use super::folder::{Folder, brief, malformed, unsupported};
use super::sentencepiece::NORMAL;
use super::special::Known;
use super::table::{Table, Token};
use super::vocabulary::TOKENIZER_JSON;
use super::{Made, Model, added, merges, pre};
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
    let merges = merges::of_json(&json["model"]["merges"], &table)?;
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
    let merges = merges::of_text(merges, &table)?;
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
