//! How texts are split, as `tokenizer.json` says it.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use serde_json::{Value as Json, json};

use super::super::added::SPACE;
use super::super::sentencepiece::{NORMAL, UNUSED};
use super::super::table::ADDED_SCORE;
use super::super::{merges as bpe, pre, rule, wordpiece};
use super::{Pretokenizer, Roles, Source, Token, Vocab, malformed};
use crate::base::diagnostic::Diagnostic;
use crate::metadata::{Array, Value};

/// The longest piece that merges are sought for, in bytes; trained ones have tens.
const MAX_PIECE: usize = 512;

/// The steps of a tokenizer.
pub(super) struct Parts {
    pub(super) normalizer: Json,
    pub(super) pre_tokenizer: Json,
    pub(super) decoder: Json,
    pub(super) model: Json,
}

/// Merges over bytes.
pub(super) fn bytes(
    source: &Source<'_>,
    vocab: &Vocab,
    pre: Option<&Pretokenizer>,
) -> Result<Parts, Diagnostic> {
    let merges = written(source, vocab)?.ok_or_else(|| {
        malformed("merges", "a vocabulary of bytes has merges").mismatch("[string]", "none")
    })?;
    let splits = pre.and_then(|pre| pre.splits.first()).map(Vec::as_slice).unwrap_or_default();
    Ok(Parts {
        normalizer: Json::Null,
        pre_tokenizer: pre::to_json(splits),
        decoder: json!({
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        }),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": pre.is_some_and(|pre| pre.ignore_merges),
            "vocab": vocab.ids(),
            "merges": merges,
        }),
    })
}

/// The merges that the keys have, `"a b"`.
fn written(source: &Source<'_>, vocab: &Vocab) -> Result<Option<Json>, Diagnostic> {
    let Some(merges) = source.texts("merges")? else { return Ok(None) };
    let tokens: HashSet<&str> = vocab.iter().map(|(_, token)| token.text.as_str()).collect();
    for (index, merge) in merges.iter().enumerate() {
        let text = Json::from(*merge);
        let Some((left, right)) = bpe::pair(&text) else {
            let message = format!("merge {index} is two parts");
            return Err(malformed("merges", message).mismatch("a b", format!("{merge:?}")));
        };
        let joined = format!("{left}{right}");
        if let Some(part) = [left, right, &joined].into_iter().find(|part| !tokens.contains(part)) {
            let message = format!("merge {index} joins tokens to a token");
            return Err(malformed("merges", message).mismatch("a token", format!("{part:?}")));
        }
    }
    Ok(Some(json!(merges)))
}

/// Pieces, the pair of the best score first.
pub(super) fn merges(
    source: &Source<'_>,
    vocab: &Vocab,
    roles: &Roles,
) -> Result<Parts, Diagnostic> {
    // Programs go by the scores; files made of merges may have them, and no scores then.
    let merges = match written(source, vocab)? {
        Some(merges) => merges,
        None => by_score(source, vocab)?,
    };
    let prefix = source.flag("add_space_prefix").unwrap_or(true);
    Ok(Parts {
        normalizer: sequence("normalizers", escapes(prefix)),
        pre_tokenizer: Json::Null,
        decoder: decoder(prefix),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": roles.unk().map(|id| vocab.text(id)),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": vocab.has_bytes(),
            "ignore_merges": false,
            "vocab": vocab.ids(),
            "merges": merges,
        }),
    })
}

/// The merges that lead to the pieces, those of the best score first.
fn by_score(source: &Source<'_>, vocab: &Vocab) -> Result<Json, Diagnostic> {
    if source.get("scores").is_none() {
        let message = "pieces have scores, by which they are merged";
        return Err(malformed("scores", message).mismatch("[f32]", "none"));
    }
    let is_piece = |token: &Token| [NORMAL, UNUSED].contains(&token.kind);
    let pieces: HashMap<&str, usize> = vocab
        .iter()
        .filter(|(_, token)| is_piece(token))
        .map(|(id, token)| (token.text.as_str(), id))
        .collect();
    let mut merges: Vec<(f32, usize, usize, usize)> = Vec::new();
    for (id, token) in vocab.iter().filter(|(_, token)| is_piece(token)) {
        if MAX_PIECE < token.text.len() {
            let message = format!("piece {id} is longer than trained ones are");
            return Err(malformed("tokens", message)
                .mismatch(format!("at most {MAX_PIECE} bytes"), token.text.len()));
        }
        for (middle, _) in token.text.char_indices().skip(1) {
            let (left, right) = token.text.split_at(middle);
            if let (Some(&left), Some(&right)) = (pieces.get(left), pieces.get(right)) {
                merges.push((token.score, id, left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
    let pairs = merges.iter().map(|&(_, _, left, right)| (vocab.text(left), vocab.text(right)));
    // Every version reads the first form, which has no spaces in parts.
    let is_plain = pairs.clone().all(|(left, right)| !left.contains(' ') && !right.contains(' '));
    Ok(pairs
        .map(|(left, right)| match is_plain {
            true => json!(format!("{left} {right}")),
            false => json!([left, right]),
        })
        .collect())
}

/// Pieces, the split of the best sum of scores.
pub(super) fn scores(
    source: &Source<'_>,
    vocab: &Vocab,
    roles: &Roles,
) -> Result<Parts, Diagnostic> {
    if source.get("scores").is_none() {
        let message = "pieces have scores, by which texts are split";
        return Err(malformed("scores", message).mismatch("[f32]", "none"));
    }
    let entries = vocab.tokens.iter().enumerate().map(|(id, token)| match token {
        // Scores that stand for none would move that of unknown characters.
        Some(token) if token.kind != NORMAL && token.score <= ADDED_SCORE => {
            json!([token.text, 0.0])
        }
        Some(token) => json!([token.text, f64::from(token.score)]),
        // The place is the id.
        None => json!([super::table::unused(id).text, 0.0]),
    });
    let prefix = source.flag("add_space_prefix").unwrap_or(false);
    let removes = source.flag("remove_extra_whitespaces").unwrap_or(false);
    let mut normalizers = Vec::new();
    if let Some(charsmap) = charsmap(source)? {
        let text = base64::engine::general_purpose::STANDARD.encode(charsmap);
        normalizers.push(json!({"type": "Precompiled", "precompiled_charsmap": text}));
    }
    let scheme = if prefix { "always" } else { "never" };
    let metaspace = json!({
        "type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": true,
    });
    let mut pre_tokenizer = Json::Null;
    if removes {
        // Only where no space follows another one, words begin with one alone.
        normalizers.push(replace(json!({"Regex": "^ +| +$"}), ""));
        normalizers.push(replace(json!({"Regex": " {2,}"}), " "));
        pre_tokenizer = metaspace.clone();
    } else {
        normalizers.extend(escapes(prefix));
    }
    let has_bytes = vocab.has_bytes();
    Ok(Parts {
        normalizer: sequence("normalizers", normalizers),
        pre_tokenizer,
        decoder: if has_bytes { decoder(prefix) } else { metaspace },
        model: json!({
            "type": "Unigram",
            "unk_id": roles.unk(),
            "vocab": entries.collect::<Vec<_>>(),
            "byte_fallback": has_bytes,
        }),
    })
}

/// The rules by which characters are replaced first.
fn charsmap(source: &Source<'_>) -> Result<Option<Vec<u8>>, Diagnostic> {
    let name = "precompiled_charsmap";
    let bytes: Vec<u8> = match source.get(name) {
        None => return Ok(None),
        Some(Value::Array(Array::U8(bytes))) => bytes.clone(),
        Some(Value::Array(Array::I8(bytes))) => {
            bytes.iter().map(|byte| byte.cast_unsigned()).collect()
        }
        Some(other) => {
            return Err(malformed(name, "the rules are bytes").mismatch("[u8]", other.kind_name()));
        }
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    // A trie behind its length, and texts that it points at.
    let len = bytes.first_chunk::<4>().map(|len| u32::from_le_bytes(*len) as usize);
    let fits = len.is_some_and(|len| len.is_multiple_of(4) && len < bytes.len() - 4);
    if !fits {
        let message = "the rules begin with the length of their trie";
        let found = len.map_or("none".to_owned(), |len| len.to_string());
        return Err(malformed(name, message)
            .mismatch(format!("a multiple of 4 below {}", bytes.len().saturating_sub(4)), found));
    }
    Ok(Some(bytes))
}

/// Words, and the longest pieces of them.
pub(super) fn words(
    source: &Source<'_>,
    vocab: &Vocab,
    roles: &Roles,
    findings: &mut Vec<Diagnostic>,
) -> Result<Parts, Diagnostic> {
    let Some(unk) = roles.unk() else {
        let message = "words that are none of the vocabulary have a token";
        return Err(malformed("unknown_token_id", message).mismatch("an id", "none"));
    };
    let lowercase = source.flag("normalizer.lowercase").unwrap_or_else(|| {
        let is_word = |token: &Token| token.kind == NORMAL && !token.text.starts_with('[');
        let capital = vocab.iter().find(|(_, token)| {
            is_word(token) && token.text.chars().any(|letter| letter.is_ascii_uppercase())
        });
        let (what, why) = match capital {
            Some((_, token)) => ("keeps capitals", format!("the vocabulary has {:?}", token.text)),
            None => ("makes letters small", "no word of the vocabulary has a capital".to_owned()),
        };
        let message = format!(
            "no key says whether the tokenizer makes letters small first: {why}, so it {what}"
        );
        let finding = Diagnostic::warning(rule::ASSUMED, message);
        findings.push(
            finding
                .key(format!("{}normalizer.lowercase", super::PREFIX))
                .help("if that is wrong, change `lowercase` under `normalizer` of tokenizer.json"),
        );
        capital.is_none()
    });
    Ok(Parts {
        normalizer: json!({
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": true,
            "strip_accents": source.flag("normalizer.strip_accents"),
            "lowercase": lowercase,
        }),
        pre_tokenizer: json!({"type": "BertPreTokenizer"}),
        decoder: json!({"type": "WordPiece", "prefix": wordpiece::CONTINUES, "cleanup": true}),
        model: json!({
            "type": "WordPiece",
            "unk_token": vocab.text(unk),
            "continuing_subword_prefix": wordpiece::CONTINUES,
            "max_input_chars_per_word": 100,
            "vocab": vocab.ids(),
        }),
    })
}

/// Spaces as pieces have them, with one before a text if need be.
fn escapes(prefix: bool) -> Vec<Json> {
    let prepend = prefix.then(|| json!({"type": "Prepend", "prepend": SPACE}));
    prepend.into_iter().chain([replace(json!({"String": " "}), SPACE)]).collect()
}

/// Pieces and bytes as text, without the space before it.
fn decoder(prefix: bool) -> Json {
    let mut steps = vec![
        replace(json!({"String": SPACE}), " "),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    sequence("decoders", steps)
}

fn replace(pattern: Json, content: &str) -> Json {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

fn sequence(name: &str, steps: Vec<Json>) -> Json {
    json!({"type": "Sequence", name: steps})
}
