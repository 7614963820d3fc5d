//! Vocabularies of SentencePiece, from its model or from `tokenizer.json`.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use serde_json::Value as Json;

use super::added::{self, SPACE};
use super::folder::{CONFIG, Folder, MOVED, brief, malformed, unreadable, unsupported};
use super::sentencepiece::{self as pieces, BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED};
use super::special::Known;
use super::table::{ADDED_SCORE, Table, Token};
use super::vocabulary::TOKENIZER_JSON;
use super::{Made, Model, bytelevel, merges, rule, special};
use crate::base::diagnostic::Diagnostic;
use crate::metadata::{Array, Value};
use crate::spec::ecosystem::config::MODEL_TYPE;
use crate::spec::pretokenizers::Moved;

/// What a normalizer and the like say about spaces.
#[derive(Default)]
struct Spaces {
    add_prefix: Option<bool>,
    remove_extra: bool,
    charsmap: Vec<u8>,
}

/// From a SentencePiece model.
pub(super) fn from_model(
    folder: &Folder,
    name: &'static str,
    bytes: &[u8],
    rows: usize,
    moved: &[Moved],
    findings: &mut Vec<Diagnostic>,
) -> Result<Made, Diagnostic> {
    let moved = match name {
        MOVED => Some(moves(folder, moved)?),
        _ => None,
    };
    let mut model = pieces::Model::parse(bytes).map_err(|err| unreadable(name, &err))?;
    let merges = match model.kind {
        pieces::UNIGRAM => false,
        pieces::BPE => true,
        kind => {
            let message = "no program that reads GGUF splits texts into words or characters alone";
            return Err(
                unsupported(name, "trainer_spec.model_type", message).mismatch("1 or 2", kind)
            );
        }
    };
    if let Some(moved) = moved {
        model.pieces = renumbered(model.pieces, moved);
    }
    let mut table = Table::new(rows);
    for (id, piece) in model.pieces.iter().enumerate() {
        // Looked for in texts as they come.
        let text = match piece.kind {
            USER_DEFINED => piece.text.replace(SPACE, " "),
            _ => piece.text.clone(),
        };
        let token = Token { text, score: piece.score, kind: piece.kind };
        table.add(id as u64, token, name, "")?;
    }
    let named: HashSet<&str> = folder.all_named().collect();
    for added in added::beside_model(folder, &named)? {
        let id = usize::try_from(added.id).unwrap_or(usize::MAX);
        // Where scores are summed, the model knows best what its own pieces are.
        if !merges && table.get(id).is_some() {
            continue;
        }
        let mut token = added.token();
        // `added_tokens.json` says less than `added_tokens_decoder`, which replaces it.
        token.score = ADDED_SCORE;
        if !table.replace(id, token.clone()) {
            table.add(added.id, token, name, "")?;
        }
    }
    let ids = [("bos", model.bos), ("eos", model.eos), ("unk", model.unk), ("pad", model.pad)];
    let ids = ids.into_iter().filter_map(|(role, id)| {
        let id = u64::try_from(id).ok()?;
        let kind = table.get(usize::try_from(id).ok()?)?.kind;
        [UNKNOWN, CONTROL].contains(&kind).then_some((role, id))
    });
    let mut special = Known { ids: ids.collect(), ..Known::default() };
    if let Some(moved) = moved {
        let named = special::ROLES
            .iter()
            .filter_map(|(role, _)| Some((*role, table.id(moved.tokens.get(*role)?)? as u64)));
        special = Known { ids: named.collect(), around: moved.around.clone(), ..Known::default() };
    }
    if merges && model.remove_extra_whitespaces {
        let message = "the tokenizer takes spaces that follow spaces away, and programs that read \
                       GGUF keep them where pairs are merged";
        let finding = Diagnostic::warning(rule::APPROXIMATE, message).file(name);
        findings.push(finding.key("normalizer_spec.remove_extra_whitespaces"));
    }
    let spaces = Spaces {
        add_prefix: Some(model.add_dummy_prefix),
        remove_extra: model.remove_extra_whitespaces,
        charsmap: model.precompiled_charsmap,
    };
    Ok(made(folder, name, merges, table, spaces, special))
}

/// How the class of this tokenizer moves the pieces of its model.
fn moves<'a>(folder: &Folder, moved: &'a [Moved]) -> Result<&'a Moved, Diagnostic> {
    let class = folder.settings.get("tokenizer_class").and_then(Json::as_str);
    let class = class.map(|class| class.strip_suffix("Fast").unwrap_or(class));
    let family = folder.config.get(MODEL_TYPE).and_then(Json::as_str);
    let has = |list: &[String], name: Option<&str>| {
        name.is_some_and(|name| list.iter().any(|n| n == name))
    };
    // Where there is a class, it counts.
    let found = moved.iter().find(|entry| match class {
        Some(_) => has(&entry.classes, class),
        None => has(&entry.model_types, family),
    });
    found.ok_or_else(|| {
        let key = if class.is_some() { "/tokenizer_class" } else { "/model_type" };
        let file = if class.is_some() { CONFIG } else { "config.json" };
        unsupported(file, key, format!("the pieces of {MOVED} have other ids, each class its own"))
            .mismatch("a class of pretokenizers.toml", class.or(family).unwrap_or("none"))
            .help("save the tokenizer with transformers, which writes tokenizer.json")
    })
}

/// The pieces under the ids that a class gives them.
fn renumbered(pieces: Vec<pieces::Piece>, moved: &Moved) -> Vec<pieces::Piece> {
    let own = |text: &String| pieces::Piece {
        text: text.clone(),
        score: 0.0,
        kind: if moved.tokens.get("unk") == Some(text) { UNKNOWN } else { CONTROL },
    };
    let trained = pieces.into_iter().skip(moved.skip);
    moved.first.iter().map(own).chain(trained).chain(moved.last.iter().map(own)).collect()
}

/// From `tokenizer.json` with a model of this kind.
pub(super) fn from_json(
    folder: &Folder,
    json: &Json,
    kind: &str,
    rows: usize,
    findings: &mut Vec<Diagnostic>,
) -> Result<Made, Diagnostic> {
    let merges = kind == "BPE";
    let mut spaces = Spaces::default();
    let mut escapes = false;
    for key in ["normalizer", "pre_tokenizer"] {
        read_step(&json[key], key, &mut spaces, &mut escapes, findings)?;
    }
    if !escapes {
        let message = "no program that reads GGUF has such merges of characters: spaces are \
                       neither mapped to bytes nor to \u{2581}";
        return Err(unsupported(TOKENIZER_JSON, "/pre_tokenizer", message).mismatch(
            "ByteLevel, Metaspace or a Replace of spaces",
            brief(&json["pre_tokenizer"]),
        ));
    }
    let model = &json["model"];
    let added: HashSet<u64> = added::read(folder)?.iter().map(|added| added.id).collect();
    let mut table = if merges { merged(model, rows, &added)? } else { scored(model, rows)? };
    let scores: HashMap<String, f32> =
        table.tokens_mut().map(|token| (token.text.clone(), token.score)).collect();
    added::put(folder, &mut table)?;
    // The split of best score is among trained tokens, whatever they are besides.
    if !merges {
        for token in table.tokens_mut() {
            token.score = scores.get(&token.text).copied().unwrap_or(token.score);
        }
    }
    let unk = match &model["unk_id"] {
        Json::Null => model["unk_token"].as_str().and_then(|text| table.id(text)),
        id => id.as_u64().and_then(|id| usize::try_from(id).ok()),
    };
    if let Some((id, mut token)) = unk.and_then(|id| Some((id, table.get(id)?.clone()))) {
        token.kind = UNKNOWN;
        table.replace(id, token);
    }
    let special =
        Known { ids: unk.map(|id| ("unk", id as u64)).into_iter().collect(), ..Known::default() };
    Ok(made(folder, TOKENIZER_JSON, merges, table, spaces, special))
}

fn made(
    folder: &Folder,
    file: &'static str,
    merges: bool,
    table: Table,
    spaces: Spaces,
    special: Known,
) -> Made {
    let model = if merges { Model::Merges } else { Model::Scores };
    let mut extra = Vec::new();
    if model == Model::Merges {
        // Texts begin with a space there where no key says otherwise.
        let said = folder.settings.get("add_prefix_space").and_then(Json::as_bool);
        if let Some(add) = said.or(spaces.add_prefix.filter(|add| !add)) {
            extra.push(("add_space_prefix", Value::Bool(add)));
        }
    } else {
        let add = spaces.add_prefix.unwrap_or(false);
        extra.push(("add_space_prefix", Value::Bool(add)));
        extra.push(("remove_extra_whitespaces", Value::Bool(spaces.remove_extra)));
        if !spaces.charsmap.is_empty() {
            extra.push(("precompiled_charsmap", Value::Array(Array::U8(spaces.charsmap))));
        }
    }
    Made { file, model, pre: "default".to_owned(), table, extra, special }
}

/// `[[token, score], …]`; the place is the id.
fn scored(model: &Json, rows: usize) -> Result<Table, Diagnostic> {
    let vocab = &model["vocab"];
    let Some(list) = vocab.as_array() else {
        return Err(malformed(
            TOKENIZER_JSON,
            "/model/vocab",
            "the vocabulary is tokens with scores",
        )
        .mismatch("[[token, score], …]", brief(vocab)));
    };
    let mut table = Table::new(rows);
    for (id, entry) in list.iter().enumerate() {
        let key = format!("/model/vocab/{id}");
        let (Some(text), Some(score)) = (entry[0].as_str(), entry[1].as_f64()) else {
            return Err(malformed(TOKENIZER_JSON, &key, "a token has a score")
                .mismatch("[token, score]", brief(entry)));
        };
        let kind = if is_byte(text) { BYTE } else { NORMAL };
        let token = Token { text: text.to_owned(), score: score as f32, kind };
        table.add(id as u64, token, TOKENIZER_JSON, &key)?;
    }
    Ok(table)
}

/// `{token: id}` with merges. SentencePiece merges the pair that makes the token of the best
/// score, so the score of a token is how early merges make it: as in the model that the merges
/// were made from. What no merge makes, characters, comes after those, in the order of ids; `added`
/// are those that are no part of the trained vocabulary.
fn merged(model: &Json, rows: usize, added: &HashSet<u64>) -> Result<Table, Diagnostic> {
    let mut table = bytelevel::table(&model["vocab"], TOKENIZER_JSON, "/model/vocab", rows)?;
    let merges = &model["merges"];
    let list = merges.as_array().ok_or_else(|| {
        malformed(TOKENIZER_JSON, "/model/merges", "merges are a list")
            .mismatch("[…]", brief(merges))
    })?;
    let mut places: HashMap<usize, usize> = HashMap::new();
    for (index, merge) in list.iter().enumerate() {
        let key = format!("/model/merges/{index}");
        let Some((left, right)) = merges::pair(merge) else {
            return Err(malformed(TOKENIZER_JSON, &key, "a merge is two parts")
                .mismatch("\"a b\" or [\"a\", \"b\"]", brief(merge)));
        };
        let made = merges::join(left, right, &table).map_err(|part| {
            malformed(TOKENIZER_JSON, &key, "a merge joins tokens to a token")
                .mismatch("a token", format!("{part:?}"))
        })?;
        let Some(made) = made else { continue };
        let next = places.len();
        places.entry(made).or_insert(next);
    }
    let mut next = places.len();
    let byte_fallback = model["byte_fallback"].as_bool().unwrap_or(false);
    for id in 0..table.len() {
        let Some(mut token) = table.get(id).cloned() else { continue };
        let place = places.get(&id).copied();
        if byte_fallback && is_byte(&token.text) {
            token.kind = BYTE;
        } else if !added.contains(&(id as u64)) {
            let place = place.unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            token.score = -(place as f32);
        }
        table.replace(id, token);
    }
    Ok(table)
}

/// Whether a token stands for one byte, `<0x0A>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| {
        digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

/// Reads one step before the split, or those in it.
fn read_step(
    step: &Json,
    key: &str,
    spaces: &mut Spaces,
    escapes: &mut bool,
    findings: &mut Vec<Diagnostic>,
) -> Result<(), Diagnostic> {
    let pattern = step["pattern"]["String"].as_str().or_else(|| step["pattern"]["Regex"].as_str());
    match step["type"].as_str() {
        Some("Sequence") => {
            let lists = [&step["normalizers"], &step["pretokenizers"]];
            for step in lists.into_iter().filter_map(Json::as_array).flatten() {
                read_step(step, key, spaces, escapes, findings)?;
            }
        }
        Some("Metaspace") => {
            *escapes = true;
            // Early versions had a flag in its place.
            let add = match step["prepend_scheme"].as_str() {
                Some(scheme) => scheme != "never",
                None => step["add_prefix_space"].as_bool().unwrap_or(true),
            };
            spaces.add_prefix = Some(add);
        }
        Some("Prepend") if step["prepend"] == SPACE => spaces.add_prefix = Some(true),
        Some("Replace") if pattern == Some(" ") && step["content"] == SPACE => {
            *escapes = true;
            // A step that adds one comes before.
            spaces.add_prefix.get_or_insert(false);
        }
        Some("Replace") if pattern == Some(" {2,}") => spaces.remove_extra = true,
        Some("WhitespaceSplit") => spaces.remove_extra = true,
        Some("Precompiled") => {
            let text = step["precompiled_charsmap"].as_str().unwrap_or_default();
            let decoded = base64::engine::general_purpose::STANDARD.decode(text);
            spaces.charsmap = decoded.map_err(|err| {
                malformed(TOKENIZER_JSON, "/normalizer", "the charsmap is base64")
                    .mismatch("base64", err)
            })?;
        }
        // Merges never cross a space: a cut there changes nothing.
        None | Some("Split" | "Strip" | "NFC") => {}
        Some(kind) => {
            let message = format!(
                "the tokenizer has a step ({kind}) that programs which read GGUF leave out: \
                 some texts have other ids"
            );
            let finding = Diagnostic::warning(rule::APPROXIMATE, message);
            findings.push(finding.file(TOKENIZER_JSON).key(format!("/{key}")));
        }
    }
    Ok(())
}
