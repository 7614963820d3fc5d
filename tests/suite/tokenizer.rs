//! The keys of tokenizers against those that llama.cpp's converter writes: `fixtures/tokenizer`,
//! or the folders below the one that `LLMSTD_TOKENIZERS` names, as `make.py` lays them out. There
//! the keys are written beside the files, as `ours.json`, which `check_ids.py` reads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use llmstd::metadata::{Metadata, Value};
use llmstd::spec::Spec;
use llmstd::tokenizer::{Named, from_gguf, to_gguf};
use serde::Deserialize;

/// How a folder is read, and which keys there may be besides those of the converter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    rows: u64,
    more: Vec<String>,
}

fn load<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

fn text(value: Option<&Value>) -> String {
    value.map_or("none".to_owned(), |value| {
        let mut text = value.to_json().to_string();
        if 400 < text.len() {
            text = format!("{} …", text.chars().take(400).collect::<String>());
        }
        text
    })
}

/// Where two arrays of numbers or strings differ first.
fn difference(ours: Option<&Value>, theirs: &Value) -> String {
    let items = |value: &Value| match value.to_json().get("array")?.as_object()?.values().next()? {
        serde_json::Value::Array(items) => Some(items.clone()),
        _ => None,
    };
    let both = ours.and_then(&items).zip(items(theirs));
    match both {
        Some((ours, theirs)) if ours.len() == theirs.len() => {
            let differ = (0..ours.len()).filter(|&index| ours[index] != theirs[index]);
            let differ: Vec<usize> = differ.collect();
            let first = differ.first().map(|&at| (at, &ours[at], &theirs[at]));
            format!("{} items differ, the first is {first:?}", differ.len())
        }
        _ => format!("{}, expected {}", text(ours), text(Some(theirs))),
    }
}

#[test]
fn keys_are_those_of_the_converter() {
    let elsewhere = std::env::var_os("LLMSTD_TOKENIZERS");
    let is_elsewhere = elsewhere.is_some();
    let root = elsewhere.map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizer"),
        PathBuf::from,
    );
    let spec = Spec::current();
    let (mut wrong, mut n_cases) = (Vec::new(), 0);
    for entry in std::fs::read_dir(&root).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("case.json").is_file() {
            continue;
        }
        n_cases += 1;
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let case: Case = load(&folder.join("case.json"));
        let expected: Metadata = load(&folder.join("expected.json"));
        let read = |file: &str| Ok(std::fs::read(folder.join(file)).ok());
        let keys =
            match to_gguf(&read, case.rows, &BTreeMap::new(), &Named::new(), &spec.pretokenizers) {
                Ok(keys) => keys.metadata,
                Err(findings) => {
                    wrong.push(format!("{name}: {findings:#?}"));
                    continue;
                }
            };
        if is_elsewhere {
            let text = serde_json::to_vec(&keys).unwrap();
            std::fs::write(folder.join("ours.json"), text).unwrap();
        }
        for (key, theirs) in expected.iter() {
            let ours = keys.get(key);
            if ours != Some(theirs) {
                wrong.push(format!("{name}: {key}: {}", difference(ours, theirs)));
            }
        }
        for (key, value) in keys.iter() {
            let is_more = case.more.iter().any(|more| more == key);
            if expected.get(key).is_none() != is_more {
                wrong.push(format!("{name}: {key} is {}, more: {is_more}", text(Some(value))));
            }
        }
        for more in case.more.iter().filter(|more| keys.get(more).is_none()) {
            wrong.push(format!("{name}: {more} is not there"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(0 < n_cases);
}

/// What `ids.py` writes: ids by text, without and with the tokens around texts, and of pairs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ids {
    plain: BTreeMap<String, Vec<u32>>,
    whole: BTreeMap<String, Vec<u32>>,
    pairs: BTreeMap<String, Vec<u32>>,
}

/// Whether a text may get other ids by what is made of the keys, as no key has what it takes.
fn may_differ(name: &str, text: &str) -> bool {
    // What SentencePiece has for a space, in a text itself: no space before it to some programs.
    let escaped = text.contains('\u{2581}');
    // The model alone does not look for its special tokens.
    let by_model = text == "<0x0A> [UNK] [CLS] <unk> ##s";
    // An added token of two spaces is spelled so by the converter, and not by the tokenizer.
    let spaces = text.contains("  ");
    match name {
        "pieces-bpe" => spaces || by_model,
        // This tokenizer has a space before the first word only, and none before another one;
        // programs have one wherever no added token stands.
        "pieces-bpe-json" => {
            let added = ["<unk>", "<s>", "</s>", "<|im_start|>"];
            let parts = text.starts_with(' ') || added.iter().any(|token| text.contains(token));
            spaces || escaped || parts
        }
        // The model takes extra spaces away, and no key of merges says so.
        "pieces-no-prefix" => spaces || text.starts_with(' ') || text.ends_with(' ') || by_model,
        "pieces-unigram" => escaped || by_model,
        "pieces-moved" => escaped,
        // This tokenizer drops what is no space and parts words; models make it spaces first.
        "unigram-json" => {
            escaped || text.chars().any(|letter| letter.is_whitespace() && letter != ' ')
        }
        _ => false,
    }
}

#[test]
fn files_made_of_keys_split_texts_as_the_tokenizer_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizer");
    let spec = Spec::current();
    let mut wrong = Vec::new();
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("case.json").is_file());
    assert!(!folders.is_empty());
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let ids: Ids = load(&folder.join("ids.json"));
        let case: Case = load(&folder.join("case.json"));
        let read = |file: &str| Ok(std::fs::read(folder.join(file)).ok());
        let ours = to_gguf(&read, case.rows, &BTreeMap::new(), &Named::new(), &spec.pretokenizers)
            .unwrap();
        let theirs: Metadata = load(&folder.join("expected.json"));
        for (whose, keys) in [("our", ours.metadata), ("the converter's", theirs)] {
            let made = from_gguf(&keys, &spec.pretokenizers).expect(&name).expect(&name);
            let mut texts = made.files.iter().filter(|(file, _)| *file == "tokenizer.json");
            let (_, text) = texts.next().expect("it is made");
            let tokenizer: tokenizers::Tokenizer =
                text.parse().unwrap_or_else(|err| panic!("{name}: {err}"));
            if !made.findings.is_empty() {
                // What is assumed is wrong here: the vocabulary has no capitals, the texts keep them.
                let found: Vec<_> = made.findings.iter().map(|finding| finding.rule).collect();
                assert_eq!((name.as_str(), whose), ("words-lines", "the converter's"));
                assert_eq!(found, ["T004"]);
                continue;
            }
            let mut compare = |what: &str, text: &str, expected: &[u32]| {
                let encoded = match what {
                    "pair" => tokenizer.encode((text, "the end"), true),
                    what => tokenizer.encode(text, what == "whole"),
                };
                let found = encoded.unwrap().get_ids().to_vec();
                if found != expected && !may_differ(&name, text) {
                    wrong.push(format!(
                        "{name}, {whose} keys: {what} {text:?}: {found:?}, expected {expected:?}"
                    ));
                }
            };
            for (text, expected) in &ids.plain {
                compare("plain", text, expected);
            }
            // The converter does not say what stands around texts where a class alone does.
            if name != "pieces-moved" || whose == "our" {
                ids.whole.iter().for_each(|(text, ids)| compare("whole", text, ids));
                ids.pairs.iter().for_each(|(text, ids)| compare("pair", text, ids));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The keys that do not come back by way of the files, and why.
const OTHER_KEYS: &[(&str, &[&str])] = &[
    // The files have no name for this role.
    ("bytes-eot", &["eot_token_id"]),
    // What programs do where no key says it, is said now.
    ("bytes-pair-of-files", &["add_bos_token", "add_eos_token"]),
    ("words-lines", &["add_bos_token", "add_eos_token", "add_sep_token"]),
    // The same, the unknown token as such, and scores that no text depends on: of added tokens.
    ("pieces-bpe", &["add_sep_token", "token_type"]),
    ("pieces-bpe-json", &["token_type"]),
    ("pieces-no-prefix", &["add_bos_token", "add_eos_token", "add_sep_token", "scores"]),
    ("pieces-unigram", &["add_bos_token", "add_sep_token", "scores"]),
];

#[test]
fn keys_come_back_by_way_of_the_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizer");
    let spec = Spec::current();
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(&root).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("case.json").is_file() {
            continue;
        }
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let case: Case = load(&folder.join("case.json"));
        let read = |file: &str| Ok(std::fs::read(folder.join(file)).ok());
        let keys = to_gguf(&read, case.rows, &BTreeMap::new(), &Named::new(), &spec.pretokenizers)
            .unwrap()
            .metadata;
        let made = from_gguf(&keys, &spec.pretokenizers).unwrap().unwrap();
        let made: BTreeMap<&str, String> = made.files.into_iter().collect();
        let read = |file: &str| match file {
            "config.json" => Ok(std::fs::read(folder.join(file)).ok()),
            file => Ok(made.get(file).map(|text| text.clone().into_bytes())),
        };
        let back = to_gguf(&read, case.rows, &BTreeMap::new(), &Named::new(), &spec.pretokenizers)
            .unwrap()
            .metadata;
        let names = keys.iter().chain(back.iter()).map(|(key, _)| key);
        let differ: BTreeSet<&str> = names.filter(|key| keys.get(key) != back.get(key)).collect();
        let short = |key: &&str| key.trim_start_matches("tokenizer.ggml.").to_owned();
        let differ: Vec<String> = differ.iter().map(short).collect();
        if !differ.is_empty() {
            found.insert(name, differ);
        }
    }
    let known: BTreeMap<String, Vec<String>> = OTHER_KEYS
        .iter()
        .map(|(name, keys)| ((*name).to_owned(), keys.iter().map(|&key| key.to_owned()).collect()))
        .collect();
    assert_eq!(found, known);
}
