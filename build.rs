//! Embeds every file under `spec/`, so that a new data file needs no line of code: as it lies, and each version with
//! those that it extends put together and parsed, since programs start many times faster with JSON than with TOML.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::{env, fs};

use serde_json::Value as Json;

#[path = "src/spec/versions/digest.rs"]
mod digest;
#[path = "src/spec/versions/merge.rs"]
mod merge;

fn main() {
    println!("cargo:rerun-if-changed=spec");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/spec/versions");
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("spec");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let mut names = Vec::new();
    collect(&root, "", &mut names);
    names.sort();
    let mut code = String::from("&[\n");
    for name in &names {
        let text = fs::read_to_string(root.join(name)).expect("spec/ is readable");
        let carried = carried(name, &text, &root.join(name), &out);
        writeln!(code, "    ({name:?}, {carried}),").expect("a String takes it");
    }
    code.push(']');
    fs::write(out.join("spec_files.rs"), code).expect("OUT_DIR is writable");

    let mut code = String::from("&[\n");
    for name in &names {
        if let Some(version) = name.strip_suffix("/spec.toml") {
            code.push_str(&whole(version, &root, &names, &out));
        }
    }
    code.push(']');
    fs::write(out.join("spec_versions.rs"), code).expect("OUT_DIR is writable");
}

/// A text that lies at a place, with what it says as JSON.
fn carried(name: &str, text: &str, place: &Path, out: &Path) -> String {
    let (mut json, mut start) = ("None".to_owned(), "None".to_owned());
    if name.ends_with(".toml") {
        let said: toml::Value =
            toml::from_str(text).unwrap_or_else(|err| panic!("spec/{name}: {err}"));
        let said = as_json(&said);
        if let Some(map) = said.get("map").filter(|_| name.contains("/map/")) {
            start = format!("Some({:?})", serde_json::json!({ "map": map }).to_string());
        }
        let file = write(out, &format!("{name}.json"), &said.to_string());
        json = format!("Some(include_str!({file:?}))");
    }
    format!("Text::carried(include_str!({place:?}), {json}, {start})")
}

/// TOML as JSON, which has no infinity: `inf` is then a word, which the reader of values knows.
fn as_json(value: &toml::Value) -> Json {
    match value {
        toml::Value::Float(number) if number.is_infinite() => number.to_string().into(),
        toml::Value::Float(number) => {
            assert!(!number.is_nan(), "JSON has no NaN");
            Json::from(*number)
        }
        toml::Value::Integer(number) => Json::from(*number),
        toml::Value::Boolean(value) => Json::from(*value),
        toml::Value::String(text) => Json::from(text.as_str()),
        toml::Value::Datetime(date) => Json::from(date.to_string()),
        toml::Value::Array(items) => items.iter().map(as_json).collect(),
        toml::Value::Table(members) => {
            members.iter().map(|(name, value)| (name.clone(), as_json(value))).collect()
        }
    }
}

/// Writes a file below the folder for what the build makes.
fn write(out: &Path, name: &str, text: &str) -> PathBuf {
    let file = out.join("spec").join(name);
    fs::create_dir_all(file.parent().expect("it has a folder")).expect("OUT_DIR is writable");
    fs::write(&file, text).expect("OUT_DIR is writable");
    file
}

/// A file of a version, and which of the files under `spec/` it is, if it is one alone.
struct Part {
    text: String,
    index: Option<usize>,
}

impl Deref for Part {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl From<String> for Part {
    fn from(text: String) -> Part {
        Part { text, index: None }
    }
}

/// A version as it is read: with what it adds, and the files of all that it extends.
fn whole(version: &str, root: &Path, names: &[String], out: &Path) -> String {
    let read = |name: &str| fs::read_to_string(root.join(name)).expect("spec/ is readable");
    let of = |version: &str| -> BTreeMap<String, Part> {
        let own = names.iter().enumerate().filter_map(|(index, name)| {
            let path = name.strip_prefix(&format!("{version}/"))?;
            Some((path.to_owned(), Part { text: read(name), index: Some(index) }))
        });
        own.collect()
    };
    let bad = |file: &str, err: toml::de::Error| -> ! { panic!("spec/{version}: {file}: {err}") };
    let mut chain = vec![version.to_owned()];
    while let Some(below) = merge::extends(&read(&format!("{}/spec.toml", chain[chain.len() - 1])))
        .unwrap_or_else(|err| bad(merge::SPEC_FILE, err))
    {
        chain.push(below);
    }
    let hash = hash(&chain, names, &read);
    let mut code = format!("    Carried {{ version: {version:?}, hash: {hash:?}, later: &[\n");
    let mut files = of(&chain.pop().expect("a version is there"));
    for added in chain.iter().rev().map(|version| of(version)) {
        let features = merge::features(|file| added.get(file).map(|part| part.text.as_str()));
        for (feature, since) in features.unwrap_or_else(|(file, err)| bad(file, err)) {
            writeln!(code, "        ({feature:?}, {since:?}),").expect("a String takes it");
        }
        merge::add(&mut files, added).unwrap_or_else(|(path, err)| bad(&path, err));
    }
    code.push_str("    ], files: &[\n");
    for (path, Part { text, index }) in files {
        let text = match index {
            Some(index) => format!("&EMBEDDED[{index}].1"),
            None => {
                let name = format!("{version}/whole/{path}");
                format!("&{}", carried(&name, &text, &write(out, &name, &text), out))
            }
        };
        writeln!(code, "        ({path:?}, {text}),").expect("a String takes it");
    }
    code.push_str("    ] },\n");
    code
}

/// The hash of a version, in hex: over its own files, or over those of all versions that it is put together of.
fn hash(chain: &[String], names: &[String], read: &dyn Fn(&str) -> String) -> String {
    let mut files = BTreeMap::new();
    for (version, path) in names.iter().filter_map(|name| name.split_once('/')) {
        if chain.iter().any(|of| of == version) {
            let place = format!("{version}/{path}");
            let text = read(&place);
            files.insert(if chain.len() < 2 { path.to_owned() } else { place }, text);
        }
    }
    let files = files.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    digest::of(files).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<String>) {
    println!("cargo:rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder).expect("spec/ is readable").flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{name}/"), files);
        } else {
            files.push(name);
        }
    }
}
