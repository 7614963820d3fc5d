//! V421 to V433: what the files of a tokenizer say against each other, and against the model.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::v41_generation::NO_TABLE;
use crate::base::diagnostic::Level;
use crate::package::Conformance;
use crate::rule::tokenizer_file::TokenizerFile;
use crate::rule::{NotChecked, PackageView, Rule, TOKENS};

const CONFIG: &str = "tokenizer_config.json";
const TOKENIZER: &str = "tokenizer.json";
const SPECIAL: &str = "special_tokens_map.json";

/// Two files give a special token two texts.
pub(super) static SPECIAL_TEXT: Rule =
    Rule::around("V421", "special-token-text", Level::Warning, |view, found| {
        let (Some(config), Some(special)) = (view.python_json(CONFIG), view.python_json(SPECIAL))
        else {
            return Err(NotChecked::NotApplicable("there are no two files of special tokens"));
        };
        for token in TOKENS {
            let key = format!("{token}_token");
            let (Some(one), Some(other)) = (text(&config, &key), text(&special, &key)) else {
                continue;
            };
            if one != other {
                found.push(
                    SPECIAL_TEXT
                        .finding(format!(
                            "`{key}` is {one:?} in {CONFIG}, and {other:?} in {SPECIAL}"
                        ))
                        .file(SPECIAL)
                        .key(key.as_str())
                        .mismatch(format!("{one:?}"), format!("{other:?}"))
                        .help("programs differ in which of the two they take: make them one"),
                );
            }
        }
        Ok(())
    });

/// The config and the tokenizer give an added token two ids, or an id two tokens.
pub(super) static ADDED: Rule = Rule::around(
    "V422",
    "added-token-id",
    Level::Warning,
    |view, found| {
        let tokenizer = tokenizer(view)?;
        let config = view.python_json(CONFIG).unwrap_or_default();
        let Some(added) = config.get("added_tokens_decoder").and_then(Json::as_object) else {
            return Err(NotChecked::NotApplicable("tokenizer_config.json lists no added tokens"));
        };
        let ids = ids_of(tokenizer);
        let texts: BTreeMap<u64, &str> = ids.iter().map(|(text, id)| (*id, *text)).collect();
        for (id, token) in added {
            let (Ok(id), Some(text)) = (id.parse::<u64>(), content(token)) else { continue };
            let says = match (ids.get(text), texts.get(&id)) {
                (Some(other), _) if *other != id => format!("{text:?} has the id {other}"),
                (None, Some(other)) => format!("{id} is {other:?}"),
                _ => continue,
            };
            found.push(
                ADDED
                    .finding(format!("{CONFIG} gives {text:?} the id {id}, and in {TOKENIZER} {says}"))
                    .file(CONFIG)
                    .key(format!("added_tokens_decoder.{id}"))
                    .help("programs differ in which of the two files they read: save the tokenizer anew"),
            );
        }
        Ok(())
    },
);

/// A special token is in no vocabulary.
pub(super) static UNKNOWN: Rule = Rule::around(
    "V423",
    "special-token-unknown",
    Level::Warning,
    |view, found| {
        let ids = ids_of(tokenizer(view)?);
        let config = view.python_json(CONFIG).unwrap_or_default();
        for token in TOKENS {
            let key = format!("{token}_token");
            let Some(text) = text(&config, &key).filter(|text| !text.is_empty()) else { continue };
            // Files beside may add it.
            if ids.contains_key(text) || view.token_id(text).is_some() || is_added(&config, text) {
                continue;
            }
            found.push(
                UNKNOWN
                    .finding(format!("`{key}` is {text:?}, which {TOKENIZER} has no id for"))
                    .file(CONFIG)
                    .key(key.as_str())
                    .help("programs that load it give it the next id, which is no row that was trained: add it, or correct the name"),
            );
        }
        Ok(())
    },
);

/// Two vocabularies give a token two ids.
pub(super) static VOCABULARIES: Rule = Rule::around(
    "V424",
    "vocabularies-disagree",
    Level::Warning,
    |view, found| {
        let ids = ids_of(tokenizer(view)?);
        let others = view.vocabularies().iter().filter(|(name, _)| name != TOKENIZER);
        for (name, vocabulary) in others {
            let Ok(vocabulary) = vocabulary else { continue };
            let differ: Vec<(&str, u64, &u64)> = vocabulary
                .all()
                .filter_map(|(token, id)| Some((token, id, ids.get(token)?)))
                .filter(|(_, id, other)| id != *other)
                .collect();
            if let Some((token, id, other)) = differ.first() {
                found.push(
                    VOCABULARIES
                        .finding(format!(
                            "{name} and {TOKENIZER} give {} tokens two ids: {token:?} is {id} and {other}",
                            differ.len()
                        ))
                        .file(name)
                        .help("one is of another model: programs differ in which of the two they read"),
                );
            }
        }
        Ok(())
    },
);

/// A merge makes, or is made of, what is no token.
pub(super) static MERGES: Rule = Rule::around(
    "V425",
    "merge-unknown",
    Level::Error,
    |view, found| {
        let tokenizer = tokenizer(view)?;
        if tokenizer.model.merges.is_empty() {
            return Err(NotChecked::NotApplicable("the tokenizer has no merges"));
        }
        let known: BTreeSet<&str> =
            tokenizer.model.vocab.0.iter().map(|(token, _)| token.as_str()).collect();
        let prefix = tokenizer.model.continuing_subword_prefix.as_deref().unwrap_or_default();
        for (line, merge) in tokenizer.model.merges.iter().enumerate() {
            let problem = match merge.parts() {
                None => "it is no pair".to_owned(),
                Some((left, right)) => {
                    // The prefix of a part within a word stands once in what is made of both.
                    let whole = format!("{left}{}", right.strip_prefix(prefix).unwrap_or(right));
                    let unknown =
                        [left, right, &whole].into_iter().find(|part| !known.contains(part));
                    let Some(unknown) = unknown else { continue };
                    format!("{unknown:?} is no token")
                }
            };
            found.push(
                MERGES
                    .finding(format!("{TOKENIZER} does not load: {problem}, by its merge {line}"))
                    .file(TOKENIZER)
                    .key(format!("/model/merges/{line}"))
                    .help("the vocabulary was cut or edited without its merges: take both of one source"),
            );
            // One tells as much as ten thousand.
            break;
        }
        Ok(())
    },
);

/// What stands for unknown text is no token.
pub(super) static UNKNOWN_TEXT: Rule =
    Rule::around("V426", "unknown-token-missing", Level::Error, |view, found| {
        let model = &tokenizer(view)?.model;
        let has = |text: &str| model.vocab.0.iter().any(|(token, _)| token == text);
        let n_tokens = model.vocab.0.len() as u64;
        let problem = match (model.kind.as_str(), &model.unk_token, model.unk_id) {
            ("Unigram", _, Some(id)) if n_tokens <= id => {
                format!("`unk_id` is {id}, and there are {n_tokens} tokens")
            }
            // To a tokenizer of bytes no text is unknown.
            (_, Some(text), _) if !has(text) && n_tokens != 0 && !has_all_bytes(&has) => {
                format!("`unk_token` is {text:?}, which is no token")
            }
            _ => return Ok(()),
        };
        found.push(
            UNKNOWN_TEXT
                .finding(format!("{TOKENIZER} fails at text that it does not know: {problem}"))
                .file(TOKENIZER)
                .key("/model")
                .help("add the token to the vocabulary, or name one that is there"),
        );
        Ok(())
    });

/// Whether a vocabulary has a token for each byte: as byte-level tokenizers write them, or as
/// `<0x0A>`.
fn has_all_bytes(has: &dyn Fn(&str) -> bool) -> bool {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 256u32;
    let symbols = (0..=255u8).map(|byte| {
        if printable(byte) {
            return char::from(byte).to_string();
        }
        next += 1;
        char::from_u32(next - 1).map(String::from).unwrap_or_default()
    });
    symbols.collect::<Vec<_>>().iter().all(|symbol| has(symbol))
        || (0..=255u8).all(|byte| has(&format!("<0x{byte:02X}>")))
}

/// What is put around texts has other ids than its tokens.
pub(super) static AROUND_TEXT: Rule = Rule::around(
    "V427",
    "post-processor-id",
    Level::Warning,
    |view, found| {
        let tokenizer = tokenizer(view)?;
        let ids = ids_of(tokenizer);
        let mut stated = Vec::new();
        put_around(&tokenizer.post_processor, &mut stated);
        if stated.is_empty() {
            return Err(NotChecked::NotApplicable("nothing is put around texts"));
        }
        stated.sort();
        stated.dedup();
        for (text, id) in stated {
            let expected = ids.get(text.as_str());
            if expected != Some(&id) {
                let own = expected.map_or("none".to_owned(), u64::to_string);
                found.push(
                    AROUND_TEXT
                        .finding(format!("{text:?} is put around texts as {id}, and its id is {own}"))
                        .file(TOKENIZER)
                        .key("/post_processor")
                        .mismatch(own, id)
                        .help("every text gets a token that the model does not expect: make the ids one"),
                );
            }
        }
        Ok(())
    },
);

/// An added token has another id in the vocabulary, or stands twice in the list.
pub(super) static TWO_IDS: Rule = Rule::around(
    "V428",
    "token-two-ids",
    Level::Warning,
    |view, found| {
        let tokenizer = tokenizer(view)?;
        let vocab = tokenizer.model.vocab.0.iter().map(|(token, id)| (token.as_str(), *id));
        let mut ids: BTreeMap<&str, u64> = vocab.collect();
        for added in &tokenizer.added_tokens {
            match ids.get(added.content.as_str()) {
                Some(id) if *id != added.id => found.push(
                    TWO_IDS
                        .finding(format!("{:?} has two ids, {id} and {}", added.content, added.id))
                        .file(TOKENIZER)
                        .key("/added_tokens")
                        .mismatch(id, added.id)
                        .help("the row of one of the two is never used: take the id of the vocabulary"),
                ),
                Some(_) => {}
                None => drop(ids.insert(&added.content, added.id)),
            }
        }
        Ok(())
    },
);

/// The tokenizer lets texts be longer than the table of positions.
pub(super) static LENGTH: Rule =
    Rule::around("V429", "text-too-long", Level::Warning, |view, found| {
        let positions = view.table_positions().ok_or(NO_TABLE)?;
        let places = [
            (CONFIG, "model_max_length"),
            ("sentence_bert_config.json", "max_seq_length"),
            ("sentence_roberta_config.json", "max_seq_length"),
            ("sentence_distilbert_config.json", "max_seq_length"),
        ];
        for (file, key) in places {
            // A number that nobody reaches stands for none.
            let stated = view.python_json(file).and_then(|json| json.get(key)?.as_u64());
            if let Some(length) = stated.filter(|length| positions < *length && *length < 1 << 30) {
                found.push(
                    LENGTH
                        .finding(format!(
                            "{file} allows {length} tokens, and the model has {positions} positions"
                        ))
                        .file(file)
                        .key(key)
                        .mismatch(format!("at most {positions}"), length)
                        .help("a longer text reads outside the table: correct the number"),
                );
            }
        }
        Ok(())
    });

/// The tokenizer cuts texts before the model has to.
pub(super) static TRUNCATION: Rule = Rule::around(
    "V430",
    "tokenizer-truncates",
    Level::Note,
    |view, found| {
        let most = tokenizer(view)?.truncation.get("max_length").and_then(Json::as_u64);
        let (Some(most), Some(context)) = (most, view.size("max_positions")) else {
            return Err(NotChecked::NotApplicable("tokenizer.json cuts no text"));
        };
        if most < context {
            found.push(
                TRUNCATION
                    .finding(format!("{TOKENIZER} cuts every text after {most} tokens, and the model takes {context}"))
                    .file(TOKENIZER)
                    .key("/truncation/max_length")
                    .mismatch(format!("none, or {context}"), most)
                    .help("right if it was trained so; else set `truncation` to null, or turn it off when the file is loaded"),
            );
        }
        Ok(())
    },
);

/// The tokenizer has tokens for less than half of the rows.
pub(super) static FEW: Rule =
    Rule::around("V431", "vocabulary-small", Level::Warning, |view, found| {
        let n_tokens = ids_of(tokenizer(view)?).len() as u64;
        let rows = view
            .size("vocab_size")
            .ok_or(NotChecked::Blocked("nothing says what `vocab_size` is"))?;
        // Rows are padded up to some power of two, and a few are kept for later.
        if n_tokens != 0 && n_tokens < rows / 2 && SMALL < rows {
            found.push(
                FEW.finding(format!(
                    "{TOKENIZER} has {n_tokens} tokens, and the token table {rows} rows"
                ))
                .file(TOKENIZER)
                .mismatch(format!("about {rows} tokens"), n_tokens)
                .help("the tokenizer is of another model, or was cut"),
            );
        }
        Ok(())
    });

/// A table of so few rows is padded by more than it has.
const SMALL: u64 = 512;

/// The pooling is of another width than the model.
pub(super) static POOLING: Rule = Rule {
    level: Conformance::Schema,
    ..Rule::around("V432", "pooling-width", Level::Warning, |view, found| {
        let hidden =
            view.size("hidden_size").ok_or(NotChecked::Blocked("there is no complete plan"))?;
        let is_pooling = |name: &&String| name.ends_with("_Pooling/config.json");
        let mut looked = false;
        for name in view.around.files.keys().filter(is_pooling) {
            let config = view.python_json(name).unwrap_or_default();
            let Some(width) = config.get("word_embedding_dimension").and_then(Json::as_u64) else {
                continue;
            };
            looked = true;
            if width != hidden {
                found.push(
                    POOLING
                        .finding(format!(
                            "the pooling takes vectors of {width}, and the model gives {hidden}"
                        ))
                        .file(name)
                        .key("word_embedding_dimension")
                        .mismatch(hidden, width)
                        .help("the module is of another model: take it of the same source"),
                );
            }
        }
        if looked { Ok(()) } else { Err(NotChecked::NotApplicable("there is no pooling module")) }
    })
};

/// Sound is cut into another number of bands than the model takes.
pub(super) static BANDS: Rule = Rule {
    level: Conformance::Schema,
    ..Rule::around("V433", "feature-size", Level::Warning, |view, found| {
        const FILE: &str = "preprocessor_config.json";
        let config = view.python_json(FILE);
        let size = config.as_ref().and_then(|config| config.get("feature_size")?.as_u64());
        let (Some(size), Some(bands)) = (size, view.size("audio.mel_bins")) else {
            return Err(NotChecked::NotApplicable("no sound is cut into bands"));
        };
        if size != bands {
            found.push(
                BANDS
                    .finding(format!("sound is cut into {size} bands, and the model takes {bands}"))
                    .file(FILE)
                    .key("feature_size")
                    .mismatch(bands, size)
                    .help("the file is of another model: take it of the same source"),
            );
        }
        Ok(())
    })
};

pub(super) fn tokenizer<'v>(view: &'v PackageView<'_>) -> Result<&'v TokenizerFile, NotChecked> {
    if !view.files.contains_key(TOKENIZER) {
        return Err(NotChecked::NotApplicable("there is no tokenizer.json"));
    }
    view.tokenizer_file().ok_or(NotChecked::Blocked("tokenizer.json cannot be read"))
}

/// The ids of a tokenizer; of a token with two, that of the added one.
pub(super) fn ids_of(tokenizer: &TokenizerFile) -> BTreeMap<&str, u64> {
    let vocab = tokenizer.model.vocab.0.iter().map(|(token, id)| (token.as_str(), *id));
    let added = tokenizer.added_tokens.iter().map(|added| (added.content.as_str(), added.id));
    vocab.chain(added).collect()
}

/// A token of a config: a text, or an object with one.
fn text<'j>(config: &'j Json, key: &str) -> Option<&'j str> {
    content(config.get(key)?)
}

fn content(token: &Json) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

pub(super) fn is_added(config: &Json, text: &str) -> bool {
    let added = config.get("added_tokens_decoder").and_then(Json::as_object);
    added.into_iter().flatten().any(|(_, token)| content(token) == Some(text))
}

/// The tokens that a post-processor puts around texts, with the ids that it states.
fn put_around(processor: &Json, found: &mut Vec<(String, u64)>) {
    match processor.get("type").and_then(Json::as_str) {
        Some("Sequence") => {
            let steps = processor.get("processors").and_then(Json::as_array);
            steps.into_iter().flatten().for_each(|step| put_around(step, found));
        }
        Some("TemplateProcessing") => {
            let tokens = processor.get("special_tokens").and_then(Json::as_object);
            for token in tokens.into_iter().flat_map(|tokens| tokens.values()) {
                let list =
                    |key: &str| token.get(key).and_then(Json::as_array).into_iter().flatten();
                let pairs = list("tokens").zip(list("ids"));
                found.extend(
                    pairs.filter_map(|(text, id)| Some((text.as_str()?.to_owned(), id.as_u64()?))),
                );
            }
        }
        Some("BertProcessing" | "RobertaProcessing") => {
            for pair in ["sep", "cls"].into_iter().filter_map(|key| processor.get(key)?.as_array())
            {
                if let [Json::String(text), id] = pair.as_slice() {
                    found.extend(id.as_u64().map(|id| (text.clone(), id)));
                }
            }
        }
        _ => {}
    }
}
