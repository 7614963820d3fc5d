//! Whether the tokenizer that the keys hold is one: programs index its arrays without looking.

use std::collections::HashSet;

use super::rule;
use crate::base::diagnostic::Diagnostic;
use crate::metadata::{Array, Metadata, Texts, Value};

/// The key of the tokens.
pub const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
/// A token that stands for one byte, `<0x0A>` (`LLAMA_TOKEN_TYPE_BYTE`).
const BYTE_TYPE: i32 = 6;

/// The tokens, in the order of their ids, if there are such.
pub fn tokens(metadata: &Metadata) -> Option<&Texts> {
    match metadata.get(TOKENS)?.as_array()? {
        Array::String(tokens) => Some(tokens),
        _ => None,
    }
}

/// Looks for arrays of other lengths than the vocabulary's, ids outside of it, and the like.
pub(super) fn check(metadata: &Metadata) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    let mut wrong = |key: &str, message: String| {
        findings.push(
            Diagnostic::error(rule::TOKENIZER, message)
                .key(key)
                .help("convert the model to GGUF again, with its tokenizer files beside it"),
        );
    };
    let Some(tokens) = metadata.get(TOKENS) else { return findings };
    let Some(Array::String(tokens)) = tokens.as_array() else {
        wrong(TOKENS, format!("`{TOKENS}` is an array of strings, not {}", tokens.kind_name()));
        return findings;
    };
    let n_tokens = tokens.len();
    for (key, kind) in [(SCORES, "[f32]"), (TYPES, "[i32]")] {
        let Some(value) = metadata.get(key) else { continue };
        // Some early writers had u32 for the types.
        if value.kind_name() != kind && value.kind_name() != "[u32]" {
            wrong(key, format!("`{key}` is {kind}, not {}", value.kind_name()));
        } else if let Some(items) = value.as_array().filter(|items| items.len() != n_tokens) {
            wrong(key, format!("`{key}` has {} items for {n_tokens} tokens", items.len()));
        }
    }
    for (key, value) in metadata.iter() {
        if !key.starts_with("tokenizer.ggml.") || !key.ends_with("_token_id") {
            continue;
        }
        let id = value.as_integer().and_then(|id| usize::try_from(id).ok());
        if id.is_none_or(|id| n_tokens <= id) {
            let value = value.to_plain(1);
            wrong(key, format!("`{key}` is {value}, and the ids end before {n_tokens}"));
        }
    }
    if let Some(Array::I32(types)) = metadata.get(TYPES).and_then(Value::as_array) {
        let mut bytes = tokens.iter().zip(types).filter(|&(_, &kind)| kind == BYTE_TYPE);
        if let Some((token, _)) = bytes.find(|(token, _)| !is_byte_token(token)) {
            let token = String::from_utf8_lossy(token);
            wrong(TOKENS, format!("the token {token:?} stands for a byte, and not as `<0x0A>`"));
        }
    }
    match metadata.get(MERGES).map(|merges| (merges, merges.as_array())) {
        None => {}
        Some((_, Some(Array::String(merges)))) => {
            if let Some((merge, why)) = bad_merge(merges, tokens) {
                wrong(MERGES, format!("the merge {merge:?} {why}"));
            }
        }
        Some((merges, _)) => {
            wrong(MERGES, format!("`{MERGES}` is an array of strings, not {}", merges.kind_name()));
        }
    }
    findings
}

fn is_byte_token(token: &[u8]) -> bool {
    let digits = token.strip_prefix(b"<0x").and_then(|rest| rest.strip_suffix(b">"));
    digits.is_some_and(|digits| digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit))
}

/// The first merge that is no two parts, or whose parts are no tokens.
fn bad_merge<'a>(merges: &'a Texts, tokens: &'a Texts) -> Option<(String, &'static str)> {
    let known: HashSet<&[u8]> = tokens.iter().collect();
    merges.iter().find_map(|merge| {
        // The first part may begin with a space in vocabularies that do not map bytes.
        let space = merge.iter().skip(1).position(|&byte| byte == b' ');
        let why = match space {
            None => "is no two parts with a space between them",
            Some(at) => {
                let (left, right) = (&merge[..=at], &merge[at + 2..]);
                if known.contains(left) && known.contains(right) {
                    return None;
                }
                "joins what is no token"
            }
        };
        Some((String::from_utf8_lossy(merge).into_owned(), why))
    })
}
