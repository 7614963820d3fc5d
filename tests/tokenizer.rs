//! The keys of tokenizers against those that llama.cpp's converter writes: `fixtures/tokenizer`,
//! or the folders below the one that `LLMSTD_TOKENIZERS` names, as `make.py` lays them out. There
//! the keys are written beside the files, as `ours.json`, which `check_ids.py` reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use llmstd::metadata::{Metadata, Value};
use llmstd::spec::Spec;
use llmstd::tokenizer::{Hints, from_gguf, to_gguf};
use serde::Deserialize;

/// How a folder is read, and which keys there may be besides those of the converter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    rows: u64,
    hints: Hints,
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
        let keys = match to_gguf(&read, case.rows, &case.hints, &spec.pretokenizers) {
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

/// The texts that get other ids by what is made of the keys, as no key has what it takes, and why.
const OTHER_IDS: &[(&str, &str, &[&str])] = &[];

#[test]
fn files_made_of_keys_split_texts_as_the_tokenizer_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizer");
    let spec = Spec::current();
    let mut wrong = Vec::new();
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("case.json").is_file());
    folders.sort();
    assert!(!folders.is_empty());
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let keys: Metadata = load(&folder.join("expected.json"));
        let files = from_gguf(&keys, &spec.pretokenizers).expect(&name).expect(&name);
        let (file, text) = &files.files[0];
        assert_eq!(*file, "tokenizer.json");
        if let Some(out) = std::env::var_os("LLMSTD_TOKENIZERS_OUT") {
            let out = Path::new(&out).join(&name);
            std::fs::create_dir_all(&out).unwrap();
            for (file, text) in &files.files {
                std::fs::write(out.join(file), text).unwrap();
            }
        }
        let tokenizer: tokenizers::Tokenizer =
            text.parse().unwrap_or_else(|err| panic!("{name}: {err}"));
        let ids: Ids = load(&folder.join("ids.json"));
        let known: Vec<&str> = OTHER_IDS
            .iter()
            .filter(|(known, _, _)| *known == name)
            .flat_map(|(_, _, texts)| texts.iter().copied())
            .collect();
        let mut differ = Vec::new();
        let mut compare = |what: &str, text: &str, expected: &[u32], is_known: bool| {
            let pair = (text, "the end");
            let encoded = match what {
                "pair" => tokenizer.encode(pair, true),
                what => tokenizer.encode(text, what == "whole"),
            };
            let found = encoded.unwrap().get_ids().to_vec();
            if (found != expected) != is_known {
                differ.push(format!("{name}: {what} {text:?}: {found:?}, expected {expected:?}"));
            }
        };
        for (text, expected) in &ids.plain {
            compare("plain", text, expected, known.contains(&text.as_str()));
        }
        for (text, expected) in &ids.whole {
            compare("whole", text, expected, false);
        }
        for (text, expected) in &ids.pairs {
            compare("pair", text, expected, false);
        }
        wrong.extend(differ);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
