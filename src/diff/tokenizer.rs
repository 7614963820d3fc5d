//! Tokenizer, templates, and the other files beside the tensors.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::model::both;
use super::rules::{self, Rule};
use super::{Change, architecture};
use crate::folder::CONFIG_FILE;
use crate::format::gguf;
use crate::format::gguf::tokenizer::{TOKENS, tokens};
use crate::manifest::{FileEntry, FileRole, Manifest, TEMPLATE_KEY, TOKENIZER_SETTINGS, Tokenizer};
use crate::package::METADATA_FILE;
use crate::tokenizer::vocabulary::{TOKENIZER_JSON, Vocabulary};
use crate::version::{Version, is_packing};

const CONFIG: &str = "tokenizer_config.json";
const MERGES: &str = "merges.txt";
const SPECIAL: &str = "special_tokens_map.json";
/// The setting that is a vocabulary.
const ADDED_TOKENS: &str = "added_tokens_decoder";

pub(super) fn compare(old: &Version, new: &Version, changes: &mut Vec<Change>) {
    match (&old.manifest.tokenizer, &new.manifest.tokenizer) {
        (None, None) => {}
        (Some(_), None) => {
            let message = "there is no tokenizer any more";
            changes.push(Change::new(rules::TOKENIZER_REMOVED, "tokenizer", message));
        }
        (None, Some(_)) => {
            let message = "there is a tokenizer, there was none";
            changes.push(Change::new(rules::TOKENIZER_ADDED, "tokenizer", message));
        }
        (Some(before), Some(after)) => {
            tokenizer_files(old, new, before, after, changes);
            settings(before, after, changes);
        }
    }
    let n_before = changes.len();
    templates(&old.manifest, &new.manifest, changes);
    let templates_changed = changes.len() != n_before;
    configs(old, new, templates_changed, changes);
    other_keys(old, new, changes);
    files(&old.manifest, &new.manifest, changes);
}

fn tokenizer_files(
    old: &Version,
    new: &Version,
    before: &Tokenizer,
    after: &Tokenizer,
    changes: &mut Vec<Change>,
) {
    for (name, before, after) in both(&before.files, &after.files) {
        match (before, after) {
            (Some(before), Some(after)) if before == after => {}
            (Some(before), Some(after)) => {
                let change = match old.read(name).zip(new.read(name)) {
                    Some((old, new)) => file(name, &old, &new),
                    None => {
                        let message = format!("{name} has changed");
                        Change::new(rules::TOKENIZER_CHANGED, name, message).unproven()
                    }
                };
                changes.push(match change.old.is_none() && change.new.is_none() {
                    true => change.values(before, after),
                    false => change,
                });
            }
            (Some(_), _) => {
                let message = format!("{name} is gone");
                changes.push(Change::new(rules::TOKENIZER_REMOVED, name, message));
            }
            _ => {
                let message = format!("{name} is new");
                changes.push(Change::new(rules::TOKENIZER_ADDED, name, message));
            }
        }
    }
}

/// What changed in a file of a tokenizer, both of which are at hand.
fn file(name: &str, old: &[u8], new: &[u8]) -> Change {
    let parsed = TokenizerFile::parse(name, old).zip(TokenizerFile::parse(name, new));
    let Some((old, new)) = parsed else {
        let message = format!("{name} has changed");
        return Change::new(rules::TOKENIZER_CHANGED, name, message);
    };
    if old == new {
        let message = format!("{name} has other bytes and says the same");
        return Change::new(rules::TOKENIZER_RESPELLED, name, message);
    }
    let moved = Moved::between(&old.all(), &new.all());
    if moved.reassigned != 0 || moved.removed != 0 {
        return moved.change(rules::TOKEN_IDS_CHANGED, name);
    }
    let mut parts: Vec<&str> = Vec::new();
    parts.extend((old.vocabulary.own != new.vocabulary.own).then_some("vocabulary"));
    let rest = both(&old.rest, &new.rest).into_iter().filter(|(key, before, after)| {
        // How a token is looked for changes nothing where there was no such token.
        let is_new = before.is_none() && key.starts_with(ADDED);
        before != after && !is_new
    });
    parts.extend(rest.map(|(key, ..)| key.as_str()));
    if parts.is_empty() {
        return moved.change(rules::TOKENS_APPENDED, name);
    }
    // A longer vocabulary splits old texts otherwise, even if every old id stays.
    let message = format!("{name} has another {}; {}", parts.join(", "), moved.text());
    Change::new(rules::TOKENIZER_CHANGED, name, message)
}

/// What the key of an added token begins with, among the rest of a file.
const ADDED: &str = "added token ";

/// Whether a key of a GGUF file decides which ids a text becomes.
fn is_of_tokenizer(key: &str) -> bool {
    key.starts_with("tokenizer.") && !key.starts_with(TEMPLATE_KEY)
}

/// The keys that are neither of the tokenizer nor told of by templates and hyperparameters.
fn other_keys(old: &Version, new: &Version, changes: &mut Vec<Change>) {
    let keys = |version: &Version| -> Option<BTreeMap<String, Json>> {
        let keys = gguf::keys(&version.read(METADATA_FILE)?).ok()?;
        let arch = format!("{}.", keys.get("general.architecture")?.as_str()?);
        let known = architecture(&version.manifest).is_some();
        let others = keys
            .iter()
            .filter(|(key, _)| !(key.starts_with("tokenizer.") || known && key.starts_with(&arch)));
        Some(others.map(|(key, value)| (key.to_owned(), value.to_json())).collect())
    };
    let (Some(before), Some(after)) = (keys(old), keys(new)) else { return };
    for (key, before, after) in both(&before, &after) {
        if before == after {
            continue;
        }
        let what = match (before, after) {
            (Some(_), Some(_)) => "has changed",
            (Some(_), None) => "is gone",
            _ => "is new",
        };
        let change = Change::new(rules::FILE_CHANGED, key, format!("the key `{key}` {what}"));
        changes.push(change.values(before.cloned(), after.cloned()));
    }
}

/// What a file of a form that is known says.
#[derive(PartialEq)]
struct TokenizerFile {
    vocabulary: Vocabulary,
    /// Everything else, by key.
    rest: BTreeMap<String, Json>,
}

impl TokenizerFile {
    fn parse(name: &str, text: &[u8]) -> Option<TokenizerFile> {
        let read = Vocabulary::reader(name)?(text).ok()?;
        // Which of two tokens of one id comes first is a matter of spelling.
        let vocabulary = Vocabulary { twice: None, ..read };
        let rest = match name {
            // It has no ids, and all that it says decides the split.
            MERGES => return None,
            TOKENIZER_JSON => beside_ids(text)?,
            METADATA_FILE => {
                let keys = gguf::keys(text).ok()?;
                tokens(&keys)?;
                let keys = keys.iter().filter(|(key, _)| *key != TOKENS && is_of_tokenizer(key));
                keys.map(|(key, value)| (key.to_owned(), value.to_json())).collect()
            }
            _ => BTreeMap::new(),
        };
        Some(TokenizerFile { vocabulary, rest })
    }

    fn all(&self) -> BTreeMap<&str, u64> {
        self.vocabulary.all().collect()
    }
}

/// What a `tokenizer.json` says beside the ids of tokens.
fn beside_ids(text: &[u8]) -> Option<BTreeMap<String, Json>> {
    let Json::Object(mut file) = crate::base::json::parse(text, 0).ok()? else { return None };
    let mut rest = BTreeMap::new();
    let list = file.remove("added_tokens").unwrap_or_default();
    for token in list.as_array().into_iter().flatten() {
        // How a token is looked for counts; its place in the list does not.
        let mut how = token.clone();
        let how_object = how.as_object_mut()?;
        how_object.remove("id");
        let content = how_object.get("content")?.as_str()?.to_owned();
        rest.insert(format!("{ADDED}{content:?}"), how);
    }
    if let Some(Json::Object(mut model)) = file.remove("model") {
        // Unigram has a list: the scores decide the split.
        model.get("vocab")?;
        if model["vocab"].is_object() {
            model.remove("vocab");
        }
        rest.extend(model.into_iter().map(|(key, value)| (format!("model.{key}"), value)));
    }
    rest.extend(file);
    Some(rest)
}

/// How the ids of two vocabularies differ.
struct Moved {
    added: usize,
    removed: usize,
    reassigned: usize,
    example: Option<String>,
}

impl Moved {
    fn between(old: &BTreeMap<&str, u64>, new: &BTreeMap<&str, u64>) -> Moved {
        let mut moved = Moved { added: 0, removed: 0, reassigned: 0, example: None };
        // An id is reassigned too when it now stands for a token that is new.
        let taken: BTreeSet<u64> = old.values().copied().collect();
        for (token, before, after) in both(old, new) {
            let example = match (before, after) {
                (Some(before), Some(after)) if before != after => {
                    moved.reassigned += 1;
                    format!("{token:?} is {after}, it was {before}")
                }
                (Some(before), None) => {
                    moved.removed += 1;
                    format!("{token:?} was {before} and is gone")
                }
                (None, Some(after)) if taken.contains(after) => {
                    moved.reassigned += 1;
                    format!("{after} is {token:?}, it stood for another token")
                }
                (None, Some(_)) => {
                    moved.added += 1;
                    continue;
                }
                _ => continue,
            };
            moved.example.get_or_insert(example);
        }
        moved
    }

    fn text(&self) -> String {
        let example = self.example.as_ref().map(|example| format!(" ({example})"));
        format!(
            "tokens: {} added, {} removed, {} with another id{}",
            self.added,
            self.removed,
            self.reassigned,
            example.unwrap_or_default()
        )
    }

    fn change(&self, rule: &'static Rule, subject: &str) -> Change {
        Change::new(rule, subject, format!("{subject}: {}", self.text()))
    }
}

fn settings(old: &Tokenizer, new: &Tokenizer, changes: &mut Vec<Change>) {
    for (key, before, after) in both(&old.settings, &new.settings) {
        if before == after {
            continue;
        }
        if key == ADDED_TOKENS {
            let ((old, old_how), (new, new_how)) = (added_tokens(before), added_tokens(after));
            let moved = Moved::between(&old, &new);
            let kept =
                old_how.iter().all(|(token, how)| new_how.get(token).is_none_or(|new| new == how));
            let change = if moved.reassigned != 0 || moved.removed != 0 {
                moved.change(rules::TOKEN_IDS_CHANGED, key)
            } else if kept {
                moved.change(rules::TOKENS_APPENDED, key)
            } else {
                let message = format!("{key} looks for old tokens in another way");
                Change::new(rules::TOKENIZER_SETTING_CHANGED, key, message)
            };
            changes.push(change);
            continue;
        }
        let word = |value: Option<&Json>| value.map_or("not stated".to_owned(), Json::to_string);
        let message = format!("{key} is {}, it was {}", word(after), word(before));
        let change = Change::new(rules::TOKENIZER_SETTING_CHANGED, key, message);
        changes.push(change.values(before, after));
    }
}

/// `{id: {"content": token, …}}`, as ids by token and the rest by token.
fn added_tokens(value: Option<&Json>) -> (BTreeMap<&str, u64>, BTreeMap<&str, &Json>) {
    let (mut ids, mut how) = (BTreeMap::new(), BTreeMap::new());
    for (id, token) in value.and_then(Json::as_object).into_iter().flatten() {
        let content = token.get("content").and_then(Json::as_str).unwrap_or_default();
        if let Ok(id) = id.parse() {
            ids.insert(content, id);
        }
        how.insert(content, token);
    }
    (ids, how)
}

fn templates(old: &Manifest, new: &Manifest, changes: &mut Vec<Change>) {
    for (name, before, after) in both(&old.templates, &new.templates) {
        let (rule, what) = match (before, after) {
            (Some(before), Some(after)) if before == after => continue,
            (Some(_), Some(_)) => (rules::TEMPLATE_CHANGED, "has changed"),
            (Some(_), None) => (rules::TEMPLATE_REMOVED, "is gone"),
            _ => (rules::TEMPLATE_ADDED, "is new"),
        };
        let message = format!("the chat template {name:?} {what}");
        changes.push(Change::new(rule, name, message).values(before, after));
    }
}

/// The files that name special tokens and set what decides no ids.
fn configs(old: &Version, new: &Version, templates_changed: bool, changes: &mut Vec<Change>) {
    let hash = |version: &Version, name: &str| version.file(name).map(|file| file.sha256.clone());
    let differ = |name: &&str| hash(old, name) != hash(new, name);
    let changed: Vec<&str> = [CONFIG, SPECIAL].into_iter().filter(differ).collect();
    if changed.is_empty() {
        return;
    }
    let Some((before, after)) = Config::of(old).zip(Config::of(new)) else {
        for name in changed {
            let message = format!("{name} has changed, and with it perhaps special tokens");
            changes.push(Change::new(rules::SPECIAL_TOKEN_CHANGED, name, message).unproven());
        }
        return;
    };
    let mut explained = templates_changed;
    for (key, before, after) in both(&before.special, &after.special) {
        if before != after {
            explained = true;
            let word = |value: Option<&Json>| value.map_or("none".to_owned(), Json::to_string);
            let message = format!("{key} is {}, it was {}", word(after), word(before));
            let change = Change::new(rules::SPECIAL_TOKEN_CHANGED, key, message);
            changes.push(change.values(before, after));
        }
    }
    for (key, before, after) in both(&before.rest, &after.rest) {
        if before != after {
            explained = true;
            let word =
                |value: Option<&Json>| value.map_or("not stated".to_owned(), Json::to_string);
            let message = format!("{key} is {}, it was {}", word(after), word(before));
            let change = Change::new(rules::TOKENIZER_CONFIG_CHANGED, key, message);
            changes.push(change.values(before, after));
        }
    }
    explained |= changes.iter().any(|change| {
        change.rule == rules::TOKENIZER_SETTING_CHANGED.id
            || TOKENIZER_SETTINGS.contains(&change.subject.as_str())
    });
    if !explained {
        let message = format!("{} says the same in other words", changed.join(" and "));
        changes.push(Change::new(rules::TOKENIZER_RESPELLED, changed[0], message));
    }
}

/// What the two files say together.
struct Config {
    special: BTreeMap<String, Json>,
    rest: BTreeMap<String, Json>,
}

impl Config {
    /// `None` if a file is there and cannot be read.
    fn of(version: &Version) -> Option<Config> {
        if !version.has_files() {
            return None;
        }
        let (mut special, mut rest) = (BTreeMap::new(), BTreeMap::new());
        for name in [CONFIG, SPECIAL] {
            if version.file(name).is_none() {
                continue;
            }
            let json = crate::base::json::parse(&version.read(name)?, 0).ok()?;
            for (key, value) in json.as_object()? {
                let own = TOKENIZER_SETTINGS.contains(&key.as_str()) || key == "chat_template";
                if own || value.is_null() {
                    continue;
                }
                if key.ends_with("_token") || key.ends_with("_special_tokens") {
                    // `"<s>"` and `{"content": "<s>", …}` name the same token.
                    let content = |value: &Json| {
                        value.get("content").cloned().unwrap_or_else(|| value.clone())
                    };
                    let value = match value {
                        Json::Array(list) => Json::Array(list.iter().map(content).collect()),
                        value => content(value),
                    };
                    special.insert(key.clone(), value);
                } else {
                    rest.insert(key.clone(), value.clone());
                }
            }
        }
        Some(Config { special, rest })
    }
}

/// Licences, documents, and what else stands beside the tensors.
fn files(old: &Manifest, new: &Manifest, changes: &mut Vec<Change>) {
    let known = architecture(old).is_some() && architecture(new).is_some();
    let listed = |manifest: &Manifest| -> BTreeMap<String, FileEntry> {
        let files = manifest.files.iter().filter(|file| !is_packing(file));
        files.map(|file| (file.path.clone(), file.clone())).collect()
    };
    // A package of an unknown architecture keeps the foreign config in `source.json`.
    let one_is_foreign = old.model.is_some() != new.model.is_some();
    for (path, before, after) in both(&listed(old), &listed(new)) {
        if one_is_foreign && path == CONFIG_FILE {
            continue;
        }
        let what = match (before, after) {
            (Some(before), Some(after)) if before.sha256 == after.sha256 => continue,
            (Some(_), Some(_)) => "has changed",
            (Some(_), None) => "is gone",
            _ => "is new",
        };
        let role = before.or(after).map_or(FileRole::Other, |file| file.role);
        let rule = match role {
            // Told of by what they say.
            FileRole::Tokenizer | FileRole::Template => continue,
            FileRole::License => rules::LICENCE_CHANGED,
            FileRole::Docs => rules::DOCS_CHANGED,
            FileRole::Config if known => rules::CONFIG_FILE_CHANGED,
            FileRole::Config => rules::UNKNOWN_CONFIG_CHANGED,
            FileRole::Component => rules::COMPONENT_CHANGED,
            _ => rules::FILE_CHANGED,
        };
        let hash = |file: Option<&FileEntry>| file.map(|file| file.sha256.clone());
        let change = Change::new(rule, path, format!("{path} {what}"));
        changes.push(change.values(hash(before), hash(after)));
    }
}
