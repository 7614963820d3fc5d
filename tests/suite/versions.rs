//! Versions of the standard: what a minor version adds, what packages say of it, and the way between
//! them. `spec/versions.md` has the text.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use llmstd::convert::migrate::migrate;
use llmstd::convert::{self, Failure, Request};
use llmstd::spec::Spec;
use llmstd::validate::{Options, validate};
use llmstd::{Level, Selection, folder};
use serde_json::Value as Json;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn package(family: &str, out: &Path) {
    let spec = Spec::current();
    let opened = folder::open(&root().join("fixtures/families").join(family)).unwrap();
    let request = Request { verify: true, ..Request::new(&spec, out, "std") };
    convert::convert(opened, &request).unwrap();
}

fn model(package: &Path) -> Json {
    serde_json::from_slice(&fs::read(package.join("model.json")).unwrap()).unwrap()
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.is_file());
    files
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
        })
        .collect()
}

/// The rules that say of a package that it is wrong.
fn errors(package: &Path, spec: &Spec) -> Vec<(String, String)> {
    let selection = Selection::default();
    let options = Options { deep: true, ..Options::new(&selection) };
    let report = validate(package, spec, &options).unwrap();
    let errors = report.findings.into_iter().filter(|found| found.level == Level::Error);
    errors.map(|found| (found.rule.to_string(), found.message)).collect()
}

#[test]
fn a_package_says_the_least_version_that_suffices() {
    let scratch = tempfile::tempdir().unwrap();
    let (old, new) = (scratch.path().join("old"), scratch.path().join("new"));
    package("cwm", &old);
    package("ministral3", &new);
    let (first, current) = (Spec::embedded("1.0").unwrap(), Spec::current());
    assert_eq!(model(&old)["spec"], "1.0.0");
    assert_eq!(model(&old)["requires"], serde_json::json!([]));
    assert_eq!(model(&new)["spec"], "1.1.0");
    let wanted =
        ["architecture:ministral3", "key:attn_position_scale", "key:attn_position_scale_length"];
    assert_eq!(model(&new)["requires"], serde_json::json!(wanted));
    for (package, spec) in [(&old, &first), (&old, &current), (&new, &current)] {
        assert_eq!(errors(package, spec), []);
    }
    // A reader of 1.0 names what it lacks.
    let told: Vec<String> = errors(&new, &first).into_iter().map(|(_, message)| message).collect();
    for feature in wanted {
        assert!(told.iter().any(|message| message.contains(feature)), "{feature}: {told:?}");
    }
}

/// A later version may ask for less: what only that one allows is a feature of it.
#[test]
fn what_a_later_version_asks_less_of_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let fixture = root().join("fixtures/families/cwm");
    fs::create_dir(at("cwm")).unwrap();
    fs::copy(fixture.join("model.safetensors"), at("cwm/model.safetensors")).unwrap();
    let mut config: Json =
        serde_json::from_slice(&fs::read(fixture.join("config.json")).unwrap()).unwrap();
    let high = config["rope_parameters"]["high_freq_factor"].clone();
    config["rope_parameters"]["low_freq_factor"] = high;
    fs::write(at("cwm/config.json"), config.to_string()).unwrap();
    let written = |spec: &Spec, to: &str| {
        let out = at(to);
        let request = Request::new(spec, &out, "std");
        convert::convert(folder::open(&at("cwm")).unwrap(), &request)
    };
    let (first, current) = (Spec::embedded("1.0").unwrap(), Spec::current());
    written(&current, "new").unwrap();
    assert_eq!(model(&at("new"))["spec"], "1.1.0");
    assert_eq!(model(&at("new"))["requires"], serde_json::json!(["constraint:rope_band"]));
    assert_eq!(errors(&at("new"), &current), []);
    let Err(Failure::Findings(findings)) = written(&first, "old") else { panic!("1.0 takes it") };
    assert!(findings.iter().any(|finding| finding.rule == "P003"), "{findings:?}");
}

#[test]
fn a_version_that_is_not_there_is_refused_with_those_that_are() {
    let err = Spec::embedded("9.9").err().unwrap().to_string();
    assert!(err.contains("\"9.9\"") && err.contains("1.0 and 1.1"), "{err}");
}

#[test]
fn there_and_back_between_versions_gives_the_same_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    package("cwm", &at("1.0"));
    let (first, current) = (Spec::embedded("1.0").unwrap(), Spec::current());
    let up = migrate(&at("1.0"), &at("1.1"), &current, &current, false).unwrap();
    assert_eq!((up.from.as_str(), up.to.as_str()), ("1.0.0", "1.1.0"));
    assert_eq!(up.changed, ["model.json", "model.safetensors", "manifest.json"]);
    assert_eq!(model(&at("1.1"))["spec"], "1.1.0");
    // What needs nothing new opens in both versions.
    assert_eq!(errors(&at("1.1"), &current), []);
    assert_eq!(errors(&at("1.1"), &first), []);
    migrate(&at("1.1"), &at("back"), &current, &first, false).unwrap();
    assert_eq!(files(&at("1.0")), files(&at("back")));
    // Another layout of the documents is kept, and comes back too.
    let other = at("other");
    fs::create_dir(&other).unwrap();
    for (name, bytes) in files(&at("1.0")) {
        fs::write(other.join(name), bytes).unwrap();
    }
    let compact = serde_json::to_string(&model(&other)).unwrap();
    let text = fs::read_to_string(other.join("manifest.json")).unwrap();
    let mut manifest: Json = serde_json::from_str(&text).unwrap();
    let entry = &mut manifest["files"].as_array_mut().unwrap()[0];
    assert_eq!(entry["path"], "model.json");
    entry["len"] = compact.len().into();
    entry["sha256"] = sha256(compact.as_bytes()).into();
    fs::write(other.join("model.json"), compact).unwrap();
    fs::write(other.join("manifest.json"), serde_json::to_string(&manifest).unwrap()).unwrap();
    migrate(&other, &at("other-1.1"), &current, &current, false).unwrap();
    assert_eq!(errors(&at("other-1.1"), &current), []);
    migrate(&at("other-1.1"), &at("other-back"), &current, &first, false).unwrap();
    assert_eq!(files(&other), files(&at("other-back")));
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_a_version_lacks_and_what_is_damaged_is_not_migrated() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    package("ministral3", &at("new"));
    let (first, current) = (Spec::embedded("1.0").unwrap(), Spec::current());
    let err = migrate(&at("new"), &at("out"), &current, &first, false).unwrap_err().to_string();
    assert!(err.contains("key:attn_position_scale"), "{err}");
    // One bit of a tensor.
    let path = at("new").join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let err = migrate(&at("new"), &at("out"), &current, &current, false).unwrap_err().to_string();
    assert!(err.contains("SHA-256"), "{err}");
    let left: Vec<_> =
        fs::read_dir(scratch.path()).unwrap().map(|of| of.unwrap().file_name()).collect();
    assert_eq!(left, ["new"]);
}

#[test]
fn a_package_that_hides_what_it_requires_is_told() {
    let scratch = tempfile::tempdir().unwrap();
    let new = scratch.path().join("new");
    package("ministral3", &new);
    let text = fs::read_to_string(new.join("model.json")).unwrap();
    let mut hidden = model(&new);
    hidden["requires"] = serde_json::json!([]);
    fs::write(new.join("model.json"), serde_json::to_string(&hidden).unwrap()).unwrap();
    let rules =
        |found: Vec<(String, String)>| found.into_iter().map(|(rule, _)| rule).collect::<Vec<_>>();
    assert!(rules(errors(&new, &Spec::current())).contains(&"V117".to_owned()));
    fs::write(new.join("model.json"), text.replace("\"1.1.0\"", "\"1.0.0\"")).unwrap();
    assert!(rules(errors(&new, &Spec::current())).contains(&"V117".to_owned()));
}

/// The files of a version that change with the tool, and not with the standard: how foreign files become
/// packages, pages, and the forms of what the tool prints.
const WITH_THE_TOOL: &[&str] = &[
    "map/",
    "dialect/",
    "rules/",
    "schema/",
    "classes.toml",
    "compounds.toml",
    "pretokenizers.toml",
    "rules.toml",
];

/// What is frozen of a version: SHA-256 over the names and bytes of all other files, and over the
/// version and the architectures of `spec.toml`.
const FROZEN: &[(&str, &str)] =
    &[("1.0", "09ce82c3271e52e497586f8d5d6fbfd16bba811172802939e9cd46e29b3a5953")];

fn below(folder: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true => below(&entry.path(), &format!("{name}/"), found),
            false => drop(found.insert(name, fs::read(entry.path()).unwrap())),
        }
    }
}

/// `BLESS=1 cargo test --test suite versions::` writes the sums of files that change with the tool.
#[test]
fn a_frozen_version_does_not_change() {
    for (version, frozen) in FROZEN {
        let folder = root().join("spec").join(version);
        let mut files = BTreeMap::new();
        below(&folder, "", &mut files);
        files.remove("SHA256SUMS");
        let spec: toml::Table = std::str::from_utf8(&files["spec.toml"]).unwrap().parse().unwrap();
        let kept = format!("{} {}", spec["version"], spec["architectures"]);
        let mut all = String::from("spec.toml ") + &kept;
        for (name, bytes) in &files {
            let changes =
                WITH_THE_TOOL.iter().any(|of| name.starts_with(of)) || name == "spec.toml";
            if !changes {
                all += &format!("\n{name} {}", sha256(bytes));
            }
        }
        assert_eq!(
            sha256(all.as_bytes()),
            *frozen,
            "version {version} is frozen: what is new goes to the next minor version"
        );
        let sums: String =
            files.iter().map(|(name, bytes)| format!("{}  {name}\n", sha256(bytes))).collect();
        let path = folder.join("SHA256SUMS");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, &sums).unwrap();
        }
        let listed = fs::read_to_string(&path).unwrap_or_default();
        let changed: Vec<&str> = sums.lines().filter(|line| !listed.contains(line)).collect();
        assert!(
            changed.is_empty() && listed == sums,
            "SHA256SUMS of version {version} is not of its files: {changed:?}; \
             `BLESS=1 cargo test --test suite versions::` writes it"
        );
    }
}
