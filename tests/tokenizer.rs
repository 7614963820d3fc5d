//! The keys of tokenizers against those that llama.cpp's converter writes: `fixtures/tokenizer`,
//! or the folders below the one that `LLMSTD_TOKENIZERS` names, as `make.py` lays them out. There
//! the keys are written beside the files, as `ours.json`, which `check_ids.py` reads.

use std::path::{Path, PathBuf};

use llmstd::metadata::{Metadata, Value};
use llmstd::spec::Spec;
use llmstd::tokenizer::{Hints, to_gguf};
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
