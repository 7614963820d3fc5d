//! V412 to V417: what `generation_config.json` says against the model and against itself.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::base::diagnostic::Level;
use crate::package::Value;
use crate::rule::{NotChecked, PackageView, Rule};

const FILE: &str = "generation_config.json";

/// An id that texts are generated with is no row of the token table.
pub(super) static OUTSIDE: Rule = Rule::around(
    "V412",
    "generation-token-outside",
    Level::Warning,
    |view, found| {
        let config = config(view)?;
        let rows = view.size("vocab_size").ok_or(NO_ROWS)?;
        for (key, value) in config.as_object().into_iter().flatten() {
            let listed = key.ends_with("_token_id")
                || [
                    "suppress_tokens",
                    "begin_suppress_tokens",
                    "forced_decoder_ids",
                    "bad_words_ids",
                ]
                .contains(&key.as_str());
            let mut ids = Vec::new();
            if listed {
                // A forced id stands behind the position that it is forced at.
                integers(value, key == "forced_decoder_ids", &mut ids);
            }
            // -1 stands for none.
            let outside =
                ids.into_iter().find(|id| *id < -1 || rows <= u64::try_from(*id).unwrap_or(0));
            if let Some(id) = outside {
                found.push(
                    OUTSIDE
                        .finding(format!("`{key}` has {id}, and the token table has {rows} rows"))
                        .file(FILE)
                        .key(key.as_str())
                        .mismatch(format!("ids from 0 to {}", rows.saturating_sub(1)), id)
                        .help("generation fails or never ends: the file is of another model, or the table was not resized"),
                );
            }
        }
        Ok(())
    },
);

/// The model and its generation config name other special tokens.
pub(super) static DISAGREES: Rule = Rule::around(
    "V413",
    "generation-token-disagrees",
    Level::Warning,
    |view, found| {
        let config = config(view)?;
        let model = view.model.good().ok_or(NO_MODEL)?;
        for (token, stated) in &model.tokens {
            let key = format!("{token}_token_id");
            let mut generation = Vec::new();
            integers(config.get(&key).unwrap_or(&Json::Null), false, &mut generation);
            let of_model: Vec<i64> = match stated {
                Value::Int(id) => vec![*id],
                Value::List(items) => items
                    .iter()
                    .filter_map(|item| if let Value::Int(id) = item { Some(*id) } else { None })
                    .collect(),
                _ => Vec::new(),
            };
            let is_one_side_silent = generation.is_empty() || of_model.is_empty();
            if is_one_side_silent || generation.iter().any(|id| of_model.contains(id)) {
                continue;
            }
            found.push(
                DISAGREES
                    .finding(format!(
                        "the token `{token}` is {stated} for the model, and {} when texts are generated",
                        config[&key]
                    ))
                    .file(FILE)
                    .key(key.as_str())
                    .mismatch(stated, &config[&key])
                    .help("programs differ in which of the two they take: a wrong `eos` never ends; make them one"),
            );
        }
        Ok(())
    },
);

/// A list of ids has one twice.
pub(super) static TWICE: Rule =
    Rule::around("V414", "generation-token-twice", Level::Note, |view, found| {
        let config = config(view)?;
        for key in ["eos_token_id", "suppress_tokens", "begin_suppress_tokens"] {
            let mut ids = Vec::new();
            integers(config.get(key).unwrap_or(&Json::Null), false, &mut ids);
            let mut seen = BTreeSet::new();
            if let Some(id) = ids.iter().find(|id| !seen.insert(**id)) {
                found.push(
                    TWICE
                        .finding(format!("`{key}` has {id} twice"))
                        .file(FILE)
                        .key(key)
                        .help("harmless by itself: another id may have been meant"),
                );
            }
        }
        Ok(())
    });

/// A parameter has a value that generation refuses.
pub(super) static PARAMETER: Rule =
    Rule::around("V415", "generation-parameter", Level::Warning, |view, found| {
        let config = config(view)?;
        let samples = config.get("do_sample") == Some(&Json::Bool(true));
        for Domain { key, wants, holds } in DOMAINS {
            let Some(value) = config.get(*key).filter(|value| !value.is_null()) else { continue };
            if value.as_f64().is_some_and(|value| holds(value, samples)) {
                continue;
            }
            found.push(
                PARAMETER
                    .finding(format!("`{key}` is {value}"))
                    .file(FILE)
                    .key(*key)
                    .mismatch(wants, value)
                    .help("programs refuse it when they generate: correct the file"),
            );
        }
        let number = |key: &str| config.get(key).and_then(Json::as_f64);
        for (low, high) in [("min_length", "max_length"), ("min_new_tokens", "max_new_tokens")] {
            let (Some(least), Some(most)) = (number(low), number(high)) else { continue };
            if most < least {
                found.push(
                    PARAMETER
                        .finding(format!("`{low}` is {least}, and `{high}` {most}"))
                        .file(FILE)
                        .key(low)
                        .mismatch(format!("at most {most}"), least)
                        .help("no text is both: correct the file"),
                );
            }
        }
        Ok(())
    });

struct Domain {
    key: &'static str,
    wants: &'static str,
    /// Whether a value may be, given whether tokens are sampled.
    holds: fn(f64, bool) -> bool,
}

/// What transformers 4.30 to 5.23 refuse, when they generate.
const DOMAINS: &[Domain] = &[
    Domain {
        key: "temperature",
        wants: "a number above 0",
        holds: |x, samples| 0.0 < x || (!samples && x == 0.0),
    },
    Domain { key: "top_p", wants: "a number from 0 to 1", holds: |x, _| (0.0..=1.0).contains(&x) },
    Domain { key: "min_p", wants: "a number from 0 to 1", holds: |x, _| (0.0..=1.0).contains(&x) },
    Domain {
        key: "typical_p",
        wants: "a number above 0, at most 1",
        holds: |x, _| 0.0 < x && x <= 1.0,
    },
    Domain {
        key: "top_k",
        wants: "a whole number, 0 for none",
        holds: |x, _| 0.0 <= x && x.fract() == 0.0,
    },
    Domain { key: "repetition_penalty", wants: "a number above 0", holds: |x, _| 0.0 < x },
    Domain {
        key: "num_beams",
        wants: "a whole number from 1",
        holds: |x, _| 1.0 <= x && x.fract() == 0.0,
    },
    Domain {
        key: "max_new_tokens",
        wants: "a whole number from 1",
        holds: |x, _| 1.0 <= x && x.fract() == 0.0,
    },
    Domain {
        key: "no_repeat_ngram_size",
        wants: "a whole number, 0 for none",
        holds: |x, _| 0.0 <= x && x.fract() == 0.0,
    },
];

/// What steers sampling is set, and nothing is sampled.
pub(super) static UNUSED: Rule = Rule::around(
    "V416",
    "sampling-unused",
    Level::Note,
    |view, found| {
        let config = config(view)?;
        if config.get("do_sample") == Some(&Json::Bool(true)) {
            return Ok(());
        }
        // Each with the value that changes nothing.
        let idle = [
            ("temperature", 1.0),
            ("top_p", 1.0),
            ("top_k", 50.0),
            ("min_p", 0.0),
            ("typical_p", 1.0),
        ];
        let set = idle.iter().filter(|(key, idle)| {
            let value = config.get(*key).and_then(Json::as_f64);
            value.is_some_and(|value| value != *idle && !(*key == "top_k" && value == 0.0))
        });
        let set: Vec<String> = set.map(|(key, _)| format!("`{key}`")).collect();
        if !set.is_empty() {
            found.push(
                UNUSED
                    .finding(format!(
                        "{} is set, and `do_sample` is not true: the most probable token is taken",
                        set.join(", ")
                    ))
                    .file(FILE)
                    .key("do_sample")
                    .help("set `do_sample` to true, or remove what it needs; transformers does not save such a config"),
            );
        }
        Ok(())
    },
);

/// Texts are to be longer than the table of positions.
pub(super) static LENGTH: Rule = Rule::around(
    "V417",
    "generation-length",
    Level::Warning,
    |view, found| {
        let config = config(view)?;
        let positions = view.table_positions().ok_or(NO_TABLE)?;
        for key in ["max_length", "max_new_tokens"] {
            let Some(length) = config.get(key).and_then(Json::as_u64) else { continue };
            if positions < length {
                found.push(
                    LENGTH
                        .finding(format!("`{key}` is {length}, and the model has {positions} positions"))
                        .file(FILE)
                        .key(key)
                        .mismatch(format!("at most {positions}"), length)
                        .help("a text of that length reads outside the table of positions: correct the file"),
                );
            }
        }
        Ok(())
    },
);

const NO_MODEL: NotChecked = NotChecked::Blocked("there is no complete plan");

const NO_ROWS: NotChecked = NotChecked::Blocked("nothing says what `vocab_size` is");

/// Why nothing is said of lengths where positions are not rows.
pub(super) const NO_TABLE: NotChecked =
    NotChecked::NotApplicable("positions are no rows of a table");

fn config(view: &PackageView<'_>) -> Result<Json, NotChecked> {
    if !view.around.files.contains_key(FILE) {
        return Err(NotChecked::NotApplicable("there is no generation_config.json"));
    }
    let config = view.python_json(FILE).filter(Json::is_object);
    config.ok_or(NotChecked::Blocked("generation_config.json cannot be read"))
}

/// The integers of a value: itself, or those of its lists; of each list the last only.
fn integers(value: &Json, last: bool, found: &mut Vec<i64>) {
    match value {
        Json::Number(number) => found.extend(number.as_i64()),
        Json::Array(items) if last && items.iter().all(Json::is_number) => {
            found.extend(items.last().and_then(Json::as_i64));
        }
        Json::Array(items) => items.iter().for_each(|item| integers(item, last, found)),
        _ => {}
    }
}
