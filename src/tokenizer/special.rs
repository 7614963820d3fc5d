//! Tokens with a role, what programs add to texts, and chat templates.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::folder::{Folder, brief, content};
use super::table::Table;
use super::{Keys, Named, rule};
use crate::base::diagnostic::Diagnostic;
use crate::metadata::{Array, Texts, Value};

/// The roles by their names in settings and in GGUF, which has none for `cls`: a text begins with
/// `bos`.
pub(super) const ROLES: [(&str, Option<&str>); 9] = [
    ("bos", Some("bos")),
    ("eos", Some("eos")),
    ("unk", Some("unknown")),
    // Spelled so in GGUF.
    ("sep", Some("seperator")),
    ("pad", Some("padding")),
    ("cls", None),
    ("mask", Some("mask")),
    ("eot", Some("eot")),
    ("eom", Some("eom")),
];

/// What a vocabulary itself says.
#[derive(Default)]
pub(super) struct Known {
    /// Ids by role.
    pub(super) ids: Vec<(&'static str, u64)>,
    /// The roles of the tokens that are put around texts.
    pub(super) around: Vec<String>,
    /// Whether programs add the token of beginnings where no key says so.
    pub(super) adds_bos: Option<bool>,
    /// Whether letters are made small first.
    pub(super) lowercase: Option<bool>,
}

/// The tokens with a role by their texts, as settings and post-processor have them together, and
/// which of them are added.
#[derive(Default)]
struct Roles {
    names: [Option<String>; ROLES.len()],
    adds: [Option<bool>; ROLES.len()],
}

const BOS: usize = 0;
const EOS: usize = 1;
const SEP: usize = 3;
const CLS: usize = 5;
const EOT: usize = 7;
const EOM: usize = 8;

/// `known_ends` are the texts of tokens that readers take as the end of a generation.
pub(super) fn put(
    folder: &Folder,
    known: &Known,
    table: &Table,
    named: &Named,
    known_ends: &[String],
    keys: &mut Keys,
) {
    let mut roles = Roles::default();
    // The last two are told by the post-processor alone.
    for (index, (role, _)) in ROLES.iter().enumerate().take(EOT) {
        roles.names[index] = folder.named(&format!("{role}_token")).map(str::to_owned);
    }
    if let Some(json) = &folder.tokenizer {
        for (role, other) in [(BOS, CLS), (EOS, SEP)] {
            if roles.names[role].is_none() {
                roles.names[role] = roles.names[other].clone();
            }
        }
        let step = &json["post_processor"];
        match step["processors"].as_array() {
            Some(steps) => steps.iter().for_each(|step| roles.process(step)),
            None => roles.process(step),
        }
    }
    for (index, (role, _)) in ROLES.iter().enumerate() {
        let said = folder.settings.get(format!("add_{role}_token")).and_then(Json::as_bool);
        roles.adds[index] = roles.adds[index].or(said);
    }
    for (index, (role, _)) in ROLES.iter().enumerate() {
        if known.around.iter().any(|around| around == role) {
            roles.adds[index].get_or_insert(true);
        }
    }
    // Else a program adds what the tokenizer does not.
    if known.adds_bos == Some(true) {
        roles.adds[BOS].get_or_insert(false);
    }
    ids(folder, &roles, known, table, named, keys);
    further_ends(folder, table, known_ends, keys);
    for (index, name) in [(BOS, "bos"), (EOS, "eos"), (SEP, "sep")] {
        if let Some(adds) = roles.adds[index] {
            keys.metadata.set(&format!("tokenizer.ggml.add_{name}_token"), Value::Bool(adds));
        }
    }
    templates(folder, keys);
    let mut flags = (known.lowercase, None);
    if let Some(json) = &folder.tokenizer {
        normalizer(&json["normalizer"], &mut flags);
    }
    for (name, flag) in [("lowercase", flags.0), ("strip_accents", flags.1)] {
        if let Some(flag) = flag {
            keys.metadata.set(&format!("tokenizer.ggml.normalizer.{name}"), Value::Bool(flag));
        }
    }
}

impl Roles {
    fn is(&self, role: usize, text: &str) -> bool {
        self.names[role].as_deref() == Some(text)
    }

    /// Takes what a step of the post-processor says of the tokens around texts.
    fn process(&mut self, step: &Json) {
        match step["type"].as_str() {
            Some("ByteLevel") => {
                self.adds[BOS].get_or_insert(false);
                self.adds[EOS].get_or_insert(false);
            }
            Some("RobertaProcessing") => {
                for role in [BOS, EOS, SEP] {
                    self.adds[role] = Some(true);
                }
                for (role, key) in [(CLS, "cls"), (SEP, "sep")] {
                    if self.names[role].is_none() {
                        self.names[role] = step[key][0].as_str().map(str::to_owned);
                    }
                }
            }
            Some("TemplateProcessing") => self.template(step),
            _ => {}
        }
    }

    /// Takes a template: `[first] A [last]` and `[first] A [sep] ([sep]) B [last]`.
    fn template(&mut self, step: &Json) {
        let list = |key: &str| step[key].as_array().map(Vec::as_slice).unwrap_or_default();
        fn token(entry: Option<&Json>) -> Option<&str> {
            entry?["SpecialToken"]["id"].as_str()
        }
        let (single, mut pair) = (list("single"), list("pair"));
        let (mut first, mut last) = (None, None);
        if 1 < single.len() {
            (first, last) = (token(single.first()), token(single.last()));
        }
        if let Some(first) = first {
            if !self.is(BOS, first) && !self.is(CLS, first) {
                for role in [BOS, CLS] {
                    self.names[role].get_or_insert_with(|| first.to_owned());
                }
            }
            self.adds[BOS] = Some(self.is(BOS, first) || self.is(CLS, first));
        }
        if let Some(last) = last {
            if !self.is(EOS, last) {
                // The token that ends an answer is another one then.
                let free = [EOT, EOM].into_iter().find(|&role| self.names[role].is_none());
                if let (Some(role), Some(eos)) = (free, self.names[EOS].take()) {
                    self.names[role] = Some(eos);
                }
                self.names[EOS] = Some(last.to_owned());
            }
            self.adds[EOS] = Some(true);
        }
        if first.is_some() && token(pair.first()) == first {
            pair = &pair[1..];
        }
        if last.is_some() && token(pair.last()) == last {
            pair = &pair[..pair.len() - 1];
        }
        let [a, between @ .., b] = pair else { return };
        if a["Sequence"]["id"] != "A" || b["Sequence"]["id"] != "B" || between.is_empty() {
            return;
        }
        let separates = |index: usize| {
            let token = token(between.get(index));
            token.is_some_and(|token| self.is(SEP, token) || self.is(EOS, token))
        };
        // With one token between them it ends the first text, unless nothing ends a text.
        let adds = (separates(0) && last.is_none()) || (between.len() == 2 && separates(1));
        self.adds[SEP] = Some(adds);
        if adds && self.names[SEP].is_none() {
            self.names[SEP] = self.names[EOS].clone();
        }
    }
}

/// The ids that a file gives a role: one, or a list; negative ones stand for none.
fn configured(file: &Json, role: &str) -> Vec<u64> {
    match file.get(format!("{role}_token_id")) {
        Some(Json::Array(list)) => list.iter().filter_map(Json::as_u64).collect(),
        Some(id) => id.as_u64().into_iter().collect(),
        None => Vec::new(),
    }
}

/// Writes the ids, one for each role: by the names that the tokenizer's own files give, as
/// `config.json` has them, as the vocabulary has them; of a list the first.
fn ids(
    folder: &Folder,
    roles: &Roles,
    known: &Known,
    table: &Table,
    named: &Named,
    keys: &mut Keys,
) {
    let inner = folder.config.get("text_config").unwrap_or(&Json::Null);
    let tokenizer = folder.tokenizer.as_ref().and_then(|json| json.get("added_tokens"));
    let added: &[Json] = tokenizer.and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    for (index, (role, key)) in ROLES.iter().enumerate() {
        let Some(key) = key else { continue };
        let name = roles.names[index].as_deref();
        if EOT <= index && name.is_none() {
            continue;
        }
        let own = name
            .and_then(|name| {
                added.iter().find(|token| content(token) == Some(name))?.get("id")?.as_u64()
            })
            .or_else(|| name.and_then(|name| table.id(name)).map(|id| id as u64));
        let files = [&folder.config, inner].into_iter().flat_map(|file| configured(file, role));
        let files: Vec<u64> = files.collect();
        let vocabulary = known.ids.iter().filter(|(known, _)| known == role).map(|(_, id)| *id);
        let generation = configured(&folder.generation, role);
        let all = own.into_iter().chain(files.iter().copied()).chain(vocabulary).chain(generation);
        let mut chosen = None;
        for id in all {
            match u32::try_from(id).ok().filter(|_| id < table.len() as u64) {
                Some(id) => {
                    chosen.get_or_insert(id);
                }
                None => keys.findings.push(
                    Diagnostic::warning(
                        rule::APPROXIMATE,
                        format!("the id of {role} has no row in the embedding and is left out"),
                    )
                    .key(format!("{role}_token_id"))
                    .mismatch(format!("an id below {}", table.len()), id),
                ),
            }
        }
        let Some(id) = chosen else { continue };
        keys.metadata.set(&id_key(key), Value::U32(id));
        if !files.is_empty() && !files.contains(&u64::from(id)) {
            let message = format!(
                "config.json has another {role}_token_id than the tokenizer, whose own is written"
            );
            keys.findings.push(
                Diagnostic::note(rule::ASSUMED, message)
                    .key(format!("{role}_token_id"))
                    .mismatch(id, brief(&json!(files))),
            );
        }
    }
    for (role, text) in named {
        if let Some(id) = table.id(text).and_then(|id| u32::try_from(id).ok()) {
            // What the files say stands.
            let _ = keys.metadata.push(id_key(role), Value::U32(id));
        }
    }
}

/// The ids at which a generation ends, as the files list them.
pub(super) fn ends(folder: &Folder) -> Vec<u64> {
    let files = [Some(&folder.config), folder.config.get("text_config"), Some(&folder.generation)];
    let mut ends: Vec<u64> =
        files.into_iter().flatten().flat_map(|file| configured(file, "eos")).collect();
    let mut seen = BTreeSet::new();
    ends.retain(|id| seen.insert(*id));
    ends
}

/// Gives the ends of a generation that are not `eos`, and that readers do not know by their texts,
/// the keys that GGUF has for further ones.
fn further_ends(folder: &Folder, table: &Table, known: &[String], keys: &mut Keys) {
    let written = |keys: &Keys, role: &str| keys.metadata.get(&id_key(role)).cloned();
    for id in ends(folder) {
        let Some(token) = usize::try_from(id).ok().and_then(|id| table.get(id)) else { continue };
        let Ok(id) = u32::try_from(id) else { continue };
        let value = Value::U32(id);
        let has = |role| written(keys, role).as_ref() == Some(&value);
        if ["eos", "eot", "eom"].into_iter().any(has) || known.contains(&token.text) {
            continue;
        }
        match ["eot", "eom"].into_iter().find(|role| written(keys, role).is_none()) {
            Some(role) => keys.metadata.set(&id_key(role), value),
            None => {
                let message = format!(
                    "GGUF has no key left for {:?}, which ends a generation too: readers go on \
                     after it",
                    token.text
                );
                let finding = Diagnostic::warning(rule::APPROXIMATE, message);
                keys.findings.push(finding.key("eos_token_id").mismatch("three ids", id));
            }
        }
    }
}

fn id_key(name: &str) -> String {
    format!("tokenizer.ggml.{name}_token_id")
}

/// Writes the chat template, or those of a list by their names.
fn templates(folder: &Folder, keys: &mut Keys) {
    const KEY: &str = "tokenizer.chat_template";
    let Some(list) = folder.template.as_ref().and_then(Json::as_array) else {
        if let Some(text) = folder.template.as_ref().and_then(Json::as_str) {
            keys.metadata.set(KEY, text.into());
        }
        return;
    };
    let (mut names, mut default) = (Vec::new(), None);
    for entry in list {
        let (Some(name), Some(text)) = (entry["name"].as_str(), entry["template"].as_str()) else {
            continue;
        };
        let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
        let name: String = name.chars().map(plain).collect();
        if name == "default" {
            default = Some(text);
        } else if !name.is_empty() {
            keys.metadata.set(&format!("{KEY}.{name}"), text.into());
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if !names.is_empty() {
        let names: Texts = names.iter().map(String::as_str).collect();
        keys.metadata.set("tokenizer.chat_templates", Value::Array(Array::String(Box::new(names))));
    }
    if let Some(text) = default {
        keys.metadata.set(KEY, text.into());
    }
}

/// Whether letters are made small, and lose their accents.
fn normalizer(step: &Json, flags: &mut (Option<bool>, Option<bool>)) {
    match step["type"].as_str() {
        Some("Lowercase") => flags.0 = Some(true),
        Some("StripAccents") => flags.1 = Some(true),
        Some("BertNormalizer") => {
            flags.0 = step["lowercase"].as_bool().or(flags.0);
            flags.1 = step["strip_accents"].as_bool().or(flags.1);
        }
        Some("Sequence") => {
            for step in step["normalizers"].as_array().into_iter().flatten() {
                normalizer(step, flags);
            }
        }
        _ => {}
    }
}
