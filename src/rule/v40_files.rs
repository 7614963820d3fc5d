//! V401 to V411: files that are not what their names promise, and files that run code.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::json;
use crate::format;
use crate::format::pytorch::{self, Global};
use crate::package::Conformance;
use crate::rule::code::{auto_maps, imported, module_of};
use crate::rule::pickle::is_pickle;
use crate::rule::{Checked, NotChecked, PackageView, Rule};
use crate::tokenizer::vocabulary::Vocabulary;

/// A file is a pointer of Git LFS in place of what it stands for.
pub(super) static POINTER: Rule =
    Rule::of_folder(Conformance::Container, "V401", "lfs-pointer", Level::Error, |view, found| {
        each_head(view, found, &POINTER, |_, head| {
            let is_pointer = format::is_lfs_pointer(head);
            is_pointer
                .then_some(("is a Git LFS pointer, not the file", "`git lfs pull` fetches it"))
        })
    });

/// A file was not fetched to its end.
pub(super) static PARTIAL: Rule = Rule::of_folder(
    Conformance::Container,
    "V402",
    "partial-download",
    Level::Warning,
    |view, found| {
        const ENDS: &[&str] = &[
            ".incomplete",
            ".part",
            ".partial",
            ".crdownload",
            ".download",
            ".aria2",
            ".opdownload",
        ];
        for name in view.around.files.keys() {
            if ENDS.iter().any(|end| name.ends_with(end)) {
                found.push(
                    PARTIAL
                        .finding(format!("{name} is a download that has not ended"))
                        .file(name)
                        .help("get the folder again; another file may be cut or missing"),
                );
            }
        }
        Ok(())
    },
);

/// A file is the page of a web site in place of what it stands for.
pub(super) static PAGE: Rule =
    Rule::of_folder(Conformance::Container, "V403", "web-page", Level::Error, |view, found| {
        each_head(view, found, &PAGE, |name, head| {
            const DOCUMENTS: &[&str] = &["html", "htm", "xhtml", "md", "txt", "svg", "xml"];
            let end = name.rsplit_once('.').map_or("", |(_, end)| end).to_ascii_lowercase();
            let text = String::from_utf8_lossy(head).trim_start().to_ascii_lowercase();
            let is_page = text.starts_with("<!doctype html") || text.starts_with("<html");
            (is_page && !DOCUMENTS.contains(&end.as_str())).then_some((
                "is a web page, not the file",
                "the download answered with a page for people: log in, or correct the address",
            ))
        })
    });

/// A file that a program reads has no bytes.
pub(super) static EMPTY: Rule =
    Rule::of_folder(Conformance::Container, "V404", "empty-file", Level::Error, |view, found| {
        for (name, len) in &view.around.files {
            if *len == 0 && (is_read(view, name) || is_weights(name)) {
                found.push(
                    at(view, &EMPTY, name, format!("{name} is empty"))
                        .help("the download or the disk failed: get the file again"),
                );
            }
        }
        Ok(())
    });

/// What `auto_map` of a config names runs when the model is loaded and its code is trusted.
pub(super) static REMOTE_CODE: Rule = Rule::of_folder(
    Conformance::Container,
    "V405",
    "remote-code",
    Level::Warning,
    |view, found| {
        for (name, classes) in auto_maps(view) {
            // What is missing cannot run, and is told of by rule V407.
            let is_there = |class: &&String| {
                module_of(class).is_none_or(|module| view.around.files.contains_key(&module))
            };
            let listed: Vec<&str> = classes.iter().filter(is_there).map(String::as_str).collect();
            if listed.is_empty() {
                continue;
            }
            found.push(
                REMOTE_CODE
                    .finding(format!(
                        "{name} asks programs to run code that comes with the model: {}",
                        listed.join(", ")
                    ))
                    .file(name)
                    .key("auto_map")
                    .help("read that code before you trust it; nothing here runs or needs it"),
            );
        }
        Ok(())
    },
);

/// A program lies beside a foreign checkpoint.
pub(super) static CODE_FILE: Rule = Rule::of_folder(
    Conformance::Container,
    "V406",
    "code-file",
    Level::Note,
    |view, found| {
        if !view.is_planned() {
            return Err(NotChecked::NotApplicable("in a package, V115 refuses programs"));
        }
        const ENDS: &[&str] =
            &["py", "pyc", "ipynb", "so", "dll", "dylib", "exe", "sh", "bat", "js"];
        let is_code = |name: &&String| {
            name.rsplit_once('.')
                .is_some_and(|(_, end)| ENDS.contains(&end.to_ascii_lowercase().as_str()))
        };
        let maps = auto_maps(view);
        let classes = maps.iter().flat_map(|(_, classes)| classes);
        let named: Vec<String> = classes.filter_map(|class| module_of(class)).collect();
        let imported = imported(view, &named);
        let others = view.around.files.keys().filter(is_code);
        let others: Vec<&String> = others.filter(|name| !named.contains(name)).collect();
        let Some(first) = others.first() else {
            return match maps.is_empty() {
                true => Ok(()),
                false => Err(NotChecked::NotApplicable("rule V405 tells of all that are there")),
            };
        };
        let listed = others.iter().map(|name| match imported.get(*name) {
            Some(by) => format!("{name} (imported by {by})"),
            None => (*name).clone(),
        });
        let besides = if maps.is_empty() { "" } else { " that `auto_map` does not name" };
        let listed = listed.collect::<Vec<_>>().join(", ");
        let message = format!("programs lie beside the weights{besides}: {listed}");
        let help = match imported.is_empty() {
            true => "nothing here runs them, and no conversion carries them over",
            false => {
                "what is imported runs with the code that `auto_map` names: read it before you trust \
                 that; nothing here runs any of them, and no conversion carries them over"
            }
        };
        found.push(CODE_FILE.finding(message).file(first.as_str()).help(help));
        Ok(())
    },
);

/// `auto_map` names a module that is not in the folder.
pub(super) static MISSING_CODE: Rule = Rule::of_folder(
    Conformance::Container,
    "V407",
    "code-missing",
    Level::Warning,
    |view, found| {
        for (name, classes) in auto_maps(view) {
            let modules: BTreeSet<String> =
                classes.iter().filter_map(|class| module_of(class)).collect();
            for module in modules.iter().filter(|module| !view.around.files.contains_key(*module)) {
                found.push(
                    MISSING_CODE
                        .finding(format!("{name} names code in {module}, which is not in the folder"))
                        .file(&name)
                        .key("auto_map")
                        .help("programs that trust the code fail to load the model: add the file, or remove `auto_map`"),
                );
            }
        }
        Ok(())
    },
);

/// What a pickle beside the weights names; as an error: what attacks call.
pub(super) static PICKLE: Rule = Rule::of_folder(
    Conformance::Container,
    "V408",
    "pickle-beside",
    Level::Error,
    |view, found| {
        let mut looked = false;
        for name in view.around.files.keys().filter(|name| !view.around.weights.contains(name)) {
            let Some(bytes) = view.bytes(name).filter(|bytes| is_pickle(name, bytes)) else {
                continue;
            };
            looked = true;
            let globals = pytorch::globals(bytes);
            let of_level = |level: Level| {
                let of_level = globals.iter().filter(move |global| global.level == level);
                of_level.map(|Global { name, .. }| name.as_str()).collect::<Vec<&str>>()
            };
            let calls = of_level(Level::Error);
            if !calls.is_empty() {
                found.push(
                    PICKLE
                        .finding(format!(
                            "the pickle {name} calls {}, which no checkpoint needs; nothing of it was run",
                            calls.join(", ")
                        ))
                        .file(name)
                        .help("do not load this file with torch or pickle, and tell who published it"),
                );
                continue;
            }
            let mut classes = of_level(Level::Warning);
            if classes.is_empty() {
                continue;
            }
            let n_more = classes.len().saturating_sub(MAX_SHOWN);
            classes.truncate(MAX_SHOWN);
            let more = if n_more == 0 { String::new() } else { format!(", and {n_more} more") };
            found.push(
                Diagnostic {
                    level: Level::Note,
                    ..PICKLE.finding(format!(
                        "the pickle {name} names classes that loading it imports: {}{more}",
                        classes.join(", ")
                    ))
                }
                .file(name)
                .help("it is no part of the model; leave it out of what you publish"),
            );
        }
        if looked {
            Ok(())
        } else {
            Err(NotChecked::NotApplicable("no pickle lies beside the weights"))
        }
    },
);

/// The most names that a finding shows.
const MAX_SHOWN: usize = 30;

/// An adapter does not say which model it is for, or says it in a way that holds on one machine.
pub(super) static ADAPTER_BASE: Rule = Rule::of_folder(
    Conformance::Container,
    "V409",
    "adapter-base",
    Level::Warning,
    |view, found| {
        const FILE: &str = "adapter_config.json";
        const KEY: &str = "base_model_name_or_path";
        if !view.around.files.contains_key(FILE) {
            return Err(NotChecked::NotApplicable("there is no adapter"));
        }
        let Some(config) = view.python_json(FILE) else {
            return Err(NotChecked::Blocked("adapter_config.json cannot be read"));
        };
        let base = config.get(KEY).and_then(Json::as_str).unwrap_or_default();
        let is_local = base.starts_with(['/', '~', '.', '\\']) || base.get(1..3) == Some(":\\");
        let problem = match base {
            "" => "does not say which model it changes".to_owned(),
            _ if is_local => format!("names its model by a folder of one machine, {base:?}"),
            _ => return Ok(()),
        };
        found.push(
            ADAPTER_BASE
                .finding(format!("the adapter {problem}"))
                .file(FILE)
                .key(KEY)
                .mismatch("the public name of a model", format!("{base:?}"))
                .help("name the base model: an adapter on another one computes noise"),
        );
        Ok(())
    },
);

/// A file of JSON around the tensors does not keep its form.
pub(super) static BROKEN_JSON: Rule =
    Rule::around("V410", "json-unreadable", Level::Error, |view, found| {
        for name in view.around.files.keys() {
            // Rule V302 reads vocabularies.
            let is_json = name.ends_with(".json") && Vocabulary::reader(name).is_none();
            let Some(text) = view.bytes(name).filter(|text| is_json && !text.is_empty()) else {
                continue;
            };
            let head = &text[..text.len().min(MAX_HEAD)];
            if !is_read(view, name) || format::is_lfs_pointer(head) || head.starts_with(b"<") {
                continue;
            }
            if let Err(err) = json::parse_python(text, 0) {
                found.push(
                    super::unreadable(&BROKEN_JSON, name, &err)
                        .help("programs refuse the file, or take one of two values: correct it"),
                );
            }
        }
        Ok(())
    });

/// Two weight files have the same header: one is a copy under another name.
pub(super) static COPY: Rule = Rule::of_folder(
    Conformance::Container,
    "V411",
    "weights-copied",
    Level::Warning,
    |view, found| {
        let mut seen: Vec<(&String, u64, &[u8])> = Vec::new();
        let folder = |name: &str| name.rsplit_once('/').map(|(folder, _)| folder.to_owned());
        for (name, len) in
            view.around.files.iter().filter(|(name, len)| is_weights(name) && **len != 0)
        {
            // Of a file that is fetched as it is read only the header is there, which tells of no copy.
            let bytes = view.bytes(name).filter(|bytes| bytes.len() as u64 == *len);
            let Some(bytes) = bytes else { continue };
            // A header tells the names and shapes of what lies behind it.
            let header_len = bytes.first_chunk().map_or(0, |len| u64::from_le_bytes(*len));
            let end = usize::try_from(header_len.saturating_add(8)).unwrap_or(usize::MAX);
            if !name.ends_with(".safetensors") || end <= 16 || bytes.len() < end {
                continue;
            }
            // Those of one length and header that differ, as the weights and their average do, differ
            // soon; a folder for each rank or step has its own.
            let same = |(other, other_len, other_bytes): &&(&String, u64, &[u8])| {
                other_len == len && folder(other) == folder(name) && *other_bytes == bytes
            };
            match seen.iter().find(same) {
            Some((other, ..)) => found.push(
                COPY.finding(format!("{name} and {other} hold the same tensors"))
                    .file(name)
                    .help("one is a copy: remove it, as programs differ in which of the two they read"),
            ),
            None => seen.push((name, *len, bytes)),
        }
        }
        Ok(())
    },
);

/// So much of a file is looked at to tell what it is.
const MAX_HEAD: usize = 512;

fn head<'v>(view: &'v PackageView<'_>, name: &str) -> &'v [u8] {
    view.bytes(name).map(|bytes| &bytes[..bytes.len().min(MAX_HEAD)]).unwrap_or_default()
}

/// What a file is, by its name and its first bytes, and what to do about it.
type Tell = fn(&str, &[u8]) -> Option<(&'static str, &'static str)>;

/// Tells of each file whose first bytes are those of something else: what it is, and what to do.
fn each_head(
    view: &PackageView<'_>,
    found: &mut Vec<Diagnostic>,
    rule: &Rule,
    what: Tell,
) -> Checked {
    for name in view.around.files.keys() {
        // A tensor file of a package that is something else is told of by rule V101.
        if !view.is_planned() && view.shards.iter().any(|shard| shard.name == *name) {
            continue;
        }
        if let Some((what, help)) = what(name, head(view, name)) {
            found.push(at(view, rule, name, format!("{name} {what}")).help(help));
        }
    }
    Ok(())
}

/// A finding about a file: a warning where nothing reads the file.
fn at(view: &PackageView<'_>, rule: &Rule, name: &str, message: String) -> Diagnostic {
    let level = if is_read(view, name) || view.around.weights.iter().any(|weight| weight == name) {
        rule.weight
    } else {
        Level::Warning
    };
    Diagnostic { level, ..rule.finding(message) }.file(name)
}

/// Whether a file is one that programs read beside the weights.
fn is_read(view: &PackageView<'_>, name: &str) -> bool {
    let role = view.spec.file_role(name);
    name == crate::folder::CONFIG_FILE
        || role.is_some_and(|role| !matches!(role, "license" | "docs"))
}

fn is_weights(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, end)| format::of_ending(end).is_some())
}
