//! Which id of `tokenizer.ggml.pre` stands for the pre-tokenizer of `tokenizer.json`.

use serde_json::{Value as Json, json};

use super::folder::{self, brief, unsupported};
use super::vocabulary::TOKENIZER_JSON;
use super::{merges, rule};
use crate::base::diagnostic::Diagnostic;
use crate::spec::pretokenizers::Pretokenizer;

/// The words of a byte-level step that cuts (`ByteLevel` with `use_regex`, tokenizers 0.23).
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// What its step for punctuation takes as such: ASCII's, and that of Unicode.
const PUNCTUATION: &str = r"[\p{P}$+<=>^`|~]";

/// The id, and whether texts begin with a token where no key says so.
pub(super) struct Pre {
    pub(super) id: String,
    pub(super) adds_bos: bool,
}

/// The id for a byte-level `tokenizer.json`.
pub(super) fn of_json(
    json: &Json,
    settings: &Json,
    known: &[Pretokenizer],
    findings: &mut Vec<Diagnostic>,
) -> Result<Pre, Diagnostic> {
    normalizer(&json["normalizer"], findings);
    let mut splits = Some(Vec::new());
    steps(&json["pre_tokenizer"], &mut splits, findings);
    let alike: Vec<&Pretokenizer> = match &splits {
        Some(splits) => known.iter().filter(|entry| entry.splits.contains(splits)).collect(),
        None => Vec::new(),
    };
    let ignores = json["model"]["ignore_merges"].as_bool().unwrap_or(false);
    let cleans = settings.get("clean_up_tokenization_spaces").and_then(Json::as_bool);
    let rank = |entry: &Pretokenizer, recent: bool| {
        let cleans = cleans.is_some_and(|cleans| cleans != entry.clean_spaces);
        (recent && entry.recent, entry.ignore_merges != ignores, cleans)
    };
    let mut best = alike.iter().min_by_key(|entry| rank(entry, false));
    // What every reader has is preferred where it gives the same ids.
    let mut same_ids = false;
    if let Some(recent) = best.filter(|entry| entry.recent)
        && let Some(older) = alike.iter().min_by_key(|entry| rank(entry, true))
        && !older.recent
        && (older.ignore_merges == recent.ignore_merges || merges::make_all(json))
    {
        let message = format!(
            "`tokenizer.ggml.pre` is {:?}, which gives the same ids as {:?} and which readers have \
             known for longer",
            older.ids[0], recent.ids[0]
        );
        let finding = Diagnostic::note(rule::ASSUMED, message);
        findings.push(finding.file(TOKENIZER_JSON).key("/pre_tokenizer"));
        (best, same_ids) = (Some(older), true);
    }
    let Some(entry) = best else {
        return Err(unsupported(
            TOKENIZER_JSON,
            "/pre_tokenizer",
            "no program that reads GGUF is known to cut texts into words as this tokenizer does",
        )
        .mismatch("a pre-tokenizer of pretokenizers.toml", brief(&json["pre_tokenizer"]))
        .help("give the model ids that its own tokenizer made"));
    };
    let id = &entry.ids[0];
    about(entry, id, if same_ids { entry.ignore_merges } else { ignores }, findings);
    Ok(Pre { id: id.clone(), adds_bos: entry.add_bos })
}

/// The id for a tokenizer class without `tokenizer.json`.
pub(super) fn of_class(settings: &Json, known: &[Pretokenizer]) -> Result<Pre, Diagnostic> {
    let class = settings.get("tokenizer_class").and_then(Json::as_str).unwrap_or("none");
    let bare = class.strip_suffix("Fast").unwrap_or(class);
    match known.iter().find(|entry| entry.classes.iter().any(|class| class == bare)) {
        Some(entry) => Ok(Pre { id: entry.ids[0].clone(), adds_bos: entry.add_bos }),
        None => Err(unsupported(
            folder::CONFIG,
            "/tokenizer_class",
            "without tokenizer.json, the class says how texts are cut into words",
        )
        .mismatch("a class of pretokenizers.toml", class)
        .help("save the tokenizer with transformers, which writes tokenizer.json")),
    }
}

/// The pre-tokenizer of these expressions: the inverse of [`steps`].
pub(super) fn to_json(splits: &[String]) -> Json {
    let byte_level = |cuts: bool| {
        json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": cuts,
        })
    };
    let (cuts, splits) = match splits.split_last() {
        Some((last, splits)) if last == WORDS => (true, splits),
        _ => (false, splits),
    };
    let split = |regex: &String| {
        json!({
            "type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false,
        })
    };
    let mut steps: Vec<Json> = splits.iter().map(split).collect();
    steps.push(byte_level(cuts));
    match steps.as_slice() {
        [step] => step.clone(),
        _ => json!({"type": "Sequence", "pretokenizers": steps}),
    }
}

fn about(entry: &Pretokenizer, id: &str, ignores: bool, findings: &mut Vec<Diagnostic>) {
    let mut warn = |message: String| {
        let finding = Diagnostic::warning(rule::APPROXIMATE, message);
        findings.push(finding.file(TOKENIZER_JSON).key("/pre_tokenizer"));
    };
    if !entry.exact {
        warn(format!(
            "programs cut some words otherwise than the tokenizer where `tokenizer.ggml.pre` is {id:?}"
        ));
    }
    if entry.ignore_merges != ignores {
        let what = if ignores { "still merged" } else { "taken whole" };
        warn(format!(
            "a word that is a token, and that merges do not lead to, is {what} where \
             `tokenizer.ggml.pre` is {id:?}"
        ));
    }
}

/// The steps of a pre-tokenizer as regular expressions; `None` if one of them is none.
fn steps(step: &Json, splits: &mut Option<Vec<String>>, findings: &mut Vec<Diagnostic>) {
    let flag = |key: &str, default: bool| step[key].as_bool().unwrap_or(default);
    let regex = match step["type"].as_str() {
        Some("Sequence") => {
            for step in step["pretokenizers"].as_array().into_iter().flatten() {
                steps(step, splits, findings);
            }
            return;
        }
        Some("ByteLevel") => {
            if flag("add_prefix_space", false) {
                let message = "the tokenizer puts a space before a text, and llama.cpp puts none \
                               before one of bytes: the first word of a text has other ids";
                let finding = Diagnostic::warning(rule::APPROXIMATE, message);
                findings.push(finding.file(TOKENIZER_JSON).key("/pre_tokenizer"));
            }
            if !flag("use_regex", true) {
                return;
            }
            Some(WORDS.to_owned())
        }
        Some("Digits") => {
            Some(format!(r"\p{{N}}{}", if flag("individual_digits", false) { "" } else { "+" }))
        }
        Some("Punctuation") => match step["behavior"].as_str() {
            None | Some("Isolated") => Some(PUNCTUATION.to_owned()),
            Some("Contiguous") => Some(format!("{PUNCTUATION}+")),
            Some(_) => None,
        },
        Some("Split") => {
            // What is between matches is removed: nothing, as the expressions match everything.
            let keeps = match step["behavior"].as_str() {
                Some("Isolated") => true,
                Some("Removed") => flag("invert", false),
                _ => false,
            };
            let pattern = step["pattern"]["Regex"].as_str().filter(|_| keeps);
            pattern.map(|pattern| {
                pattern.replace('\r', r"\r").replace('\n', r"\n").replace('\t', r"\t")
            })
        }
        _ => None,
    };
    match (regex, splits.as_mut()) {
        (Some(regex), Some(splits)) => splits.push(regex),
        _ => *splits = None,
    }
}

/// Warns of what changes a text before it is cut: llama.cpp changes nothing before bytes.
fn normalizer(step: &Json, findings: &mut Vec<Diagnostic>) {
    match step["type"].as_str() {
        // Texts are composed as a rule.
        None | Some("NFC") => {}
        Some("Sequence") => {
            for step in step["normalizers"].as_array().into_iter().flatten() {
                normalizer(step, findings);
            }
        }
        Some(kind) => {
            let message = format!(
                "the tokenizer changes texts first ({kind}), and llama.cpp does not where \
                 tokens are bytes: give it texts that are changed already"
            );
            let finding = Diagnostic::warning(rule::APPROXIMATE, message);
            findings.push(finding.file(TOKENIZER_JSON).key("/normalizer"));
        }
    }
}
