//! Brings a package to another minor version of the standard. No weight is touched: the version stands in
//! `model.json`, `manifest.json` and the headers of the tensor files, and every other file is copied as
//! it lies, so that there and back gives the same bytes. Links are followed, and hidden files
//! left, as no part of a package.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::destination::{check_apart, replaceable};
use super::read::read_model;
use super::sidecar::json_text;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hex::{self, Hex};
use crate::exec::staging::{Existing, Staging};
use crate::folder;
use crate::manifest::Manifest;
use crate::package::{MANIFEST_FILE, MODEL_FILE};
use crate::spec::Spec;
use crate::spec::versions::numbers;

/// The schema of [`Migrated`].
pub const SCHEMA: &str = "llmstd.migrate/1";

/// Bytes are copied and hashed this many at a time.
const CHUNK_LEN: usize = 4 << 20;

/// What was migrated.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Migrated {
    /// `llmstd.migrate/1`.
    pub schema: &'static str,
    /// The version of the package.
    pub from: String,
    /// The version of what was written.
    pub to: String,
    /// What a reader of it must know beside the first version.
    pub requires: Vec<String>,
    /// The files whose bytes changed; all others were copied as they are.
    pub changed: Vec<String>,
}

/// Writes a package with the version of `to` at `destination`. `known` is the newest standard.
///
/// # Errors
/// It is no package; it uses something that came with a later version than `to`; a file is not the one
/// that its manifest names; or something cannot be read or written. Nothing is left then.
pub fn migrate(
    package: &Path,
    destination: &Path,
    known: &Spec,
    to: &Spec,
    force: bool,
) -> Result<Migrated> {
    let mut opened = folder::open_as(package, &known.how())?;
    if !opened.is_package {
        let message = "no package of the standard: `llmstd convert` makes one of it";
        return Err(Error::new(ErrorKind::Unsupported, message).in_file(package));
    }
    check_apart(&opened, destination)?;
    let mut model = read_model(&mut opened)?;
    let from = model.spec.clone();
    let unknown = model.requires.iter().find(|of| !known.later.contains_key(*of));
    if let Some(feature) = unknown {
        let message =
            format!("it requires {feature:?}, which is not known here: use a newer llmstd");
        return Err(Error::new(ErrorKind::Unsupported, message).in_file(&package.join(MODEL_FILE)));
    }
    let tensors = || opened.checkpoint.tensors.iter().map(|of| (of.name.as_str(), of.dtype));
    let (least, requires) = known.least_version(&model, tensors());
    if numbers(&to.version) < numbers(&least) {
        let lacking = requires.iter().filter(|of| !to.later.contains_key(*of));
        let lacking = lacking.map(String::as_str).collect::<Vec<_>>().join(", ");
        let message =
            format!("version {} of the standard lacks what it uses: {lacking}", to.version);
        return Err(Error::new(ErrorKind::Unsupported, message).in_file(&package.join(MODEL_FILE)));
    }
    (model.spec, model.requires) = (to.version.clone(), requires.clone());

    let mut manifest = Manifest::read(&opened.source.place(MANIFEST_FILE))?.ok_or_else(|| {
        Error::new(ErrorKind::Malformed, "it has no manifest").in_file(&package.join(MANIFEST_FILE))
    })?;
    let existing = if force { Existing::Replace(&replaceable) } else { Existing::Keep };
    let staging = Staging::new(destination, existing)?;
    let mut changed = Vec::new();
    let mut texts = vec![(from.clone(), to.version.clone())];
    let names: Vec<String> = opened.files.iter().map(|file| file.name.clone()).collect();
    let read = |name: &str| {
        let path = opened.source.place(name);
        fs::read_to_string(&path).map_err(|err| Error::io(&path, "read", err))
    };
    for name in names.iter().filter(|name| *name != MANIFEST_FILE) {
        let path = staging.path().join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .map_err(|err| Error::io(parent, "create the folder", err))?;
        }
        let mut source = opened.source.again();
        let file = source.add(name)?;
        let bytes = source.bytes(file);
        let start = if name == MODEL_FILE {
            let text = said(&read(name)?, &texts[..1], &model, || json_text(&model));
            Some((bytes.len(), text.into_bytes()))
        } else if opened.weights.contains(name) {
            let place = opened.source.place(name);
            let header = header(bytes, &from, &to.version).map_err(|err| err.in_file(&place))?;
            Some((header.len(), header))
        } else {
            None
        };
        let start = start.filter(|(len, new)| bytes.get(..*len) != Some(new.as_slice()));
        let (old, new, len) = copy(bytes, start, &path)?;
        source.check_unchanged()?;
        let Some(entry) = manifest.files.iter_mut().find(|entry| entry.path == *name) else {
            continue;
        };
        if entry.sha256 != Hex::from(old.as_str()) {
            let message = format!("its SHA-256 is {old}, the manifest says {}", entry.sha256);
            let err = Error::new(ErrorKind::Malformed, message);
            return Err(err.in_file(&opened.source.place(name)));
        }
        if new != old {
            changed.push(name.clone());
            texts.push((old, new.clone()));
            (entry.sha256, entry.len) = (Hex::from(new.as_str()), len);
        }
    }
    if let Some(entry) = manifest.files.iter().find(|entry| !names.contains(&entry.path)) {
        let message = "the manifest names it, and it is not there: get the package again";
        let path = opened.source.place(&entry.path);
        return Err(Error::new(ErrorKind::Malformed, message).in_file(&path));
    }
    manifest.spec.clone_from(&to.version);
    if let Some(semantics) = &mut manifest.model {
        semantics.requires = requires.clone();
    }
    let old = read(MANIFEST_FILE)?;
    let text = said(&old, &texts, &manifest, || manifest.to_text());
    if text != old {
        changed.push(MANIFEST_FILE.to_owned());
    }
    let path = staging.path().join(MANIFEST_FILE);
    fs::write(&path, text).map_err(|err| Error::io(&path, "write", err))?;
    opened.source.check_unchanged()?;
    staging.commit()?;
    Ok(Migrated { schema: SCHEMA, from, to: to.version.clone(), requires, changed })
}

/// A document with some strings in it exchanged, each where it stands first; written anew where that does
/// not say what it has to. Whoever wrote it, its layout is kept.
fn said<T: DeserializeOwned + PartialEq>(
    text: &str,
    texts: &[(String, String)],
    wanted: &T,
    anew: impl Fn() -> String,
) -> String {
    let quoted = |text: &str| format!("\"{text}\"");
    let mut exchanged = text.to_owned();
    for (old, new) in texts {
        exchanged = exchanged.replacen(&quoted(old), &quoted(new), 1);
    }
    match serde_json::from_str::<T>(&exchanged) {
        Ok(says) if says == *wanted => exchanged,
        _ => anew(),
    }
}

/// The bytes of a safetensors file up to its tensors with another version in them, as many as before.
fn header(bytes: &[u8], from: &str, to: &str) -> Result<Vec<u8>> {
    let len = bytes.first_chunk().map(|len| u64::from_le_bytes(*len));
    let end = len.and_then(|len| usize::try_from(len).ok()?.checked_add(8));
    let text = end.and_then(|end| std::str::from_utf8(bytes.get(8..end)?).ok());
    let Some(text) = text else { return Err(Error::malformed(0, "a header that is cut short")) };
    let mut exchanged = said_version(text, from, to).ok_or_else(|| {
        Error::malformed(8, format!("the header does not say that it keeps {from}"))
    })?;
    let longer = exchanged.len().saturating_sub(text.len());
    if longer != 0 {
        let room = exchanged.len() - exchanged.trim_end_matches(' ').len();
        if room < longer {
            return Err(Error::malformed(8, "the header has no room for a longer version"));
        }
        exchanged.truncate(text.len());
    }
    exchanged.extend(std::iter::repeat_n(' ', text.len() - exchanged.len()));
    Ok([&bytes[..8], exchanged.as_bytes()].concat())
}

/// A header in which the entry `llmstd` of the metadata is another version; `None` if it was not `from`.
fn said_version(text: &str, from: &str, to: &str) -> Option<String> {
    let parse = |text: &str| serde_json::from_str::<Json>(text).ok();
    let mut wanted = parse(text)?;
    let said = wanted.get_mut("__metadata__")?.get_mut("llmstd")?;
    if said.as_str() != Some(from) {
        return None;
    }
    *said = to.into();
    // White space is as the writer left it; whatever else looks like the entry is not the first.
    let places = text.match_indices("\"llmstd\"").map(|(at, _)| at);
    let mut exchanged = places.filter_map(|at| {
        let (before, after) = text.split_at(at);
        let after = after.replacen(&format!("\"{from}\""), &format!("\"{to}\""), 1);
        let exchanged = format!("{before}{after}");
        (parse(&exchanged)? == wanted).then_some(exchanged)
    });
    exchanged.next()
}

/// Writes bytes to a file, the first of them replaced: the SHA-256 of the old ones and of the new ones,
/// and how many were written.
fn copy(
    bytes: &[u8],
    start: Option<(usize, Vec<u8>)>,
    path: &Path,
) -> Result<(String, String, u64)> {
    let fail = |err| Error::io(path, "write", err);
    let mut file = File::create(path).map_err(fail)?;
    let (replaced, new_start) = start.unwrap_or_default();
    let (head, rest) = bytes.split_at(replaced);
    let (mut old, mut new) = (Sha256::new(), Sha256::new());
    old.update(head);
    new.update(&new_start);
    file.write_all(&new_start).map_err(fail)?;
    for chunk in rest.chunks(CHUNK_LEN) {
        old.update(chunk);
        if replaced != 0 {
            new.update(chunk);
        }
        file.write_all(chunk).map_err(fail)?;
    }
    let old = hex::encode(&old.finalize());
    let new = if replaced == 0 { old.clone() } else { hex::encode(&new.finalize()) };
    Ok((old, new, (new_start.len() + rest.len()) as u64))
}
