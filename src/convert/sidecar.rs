//! The files beside the weights: which are carried over, and what is said of the others.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, Result};
use crate::folder::{CONFIG_FILE, Opened};
use crate::format;
use crate::manifest::{FileRole, is_tokenizer_file, needs_text};
use crate::package::{BUFFERS_FILE, MANIFEST_FILE, MODEL_FILE, SOURCE_FILE, component_of};
use crate::spec::Spec;

/// The text of a JSON file of a package.
pub(super) fn json_text<T: Serialize>(value: &T) -> String {
    let text = serde_json::to_string_pretty(value).expect("our own types have string keys");
    format!("{text}\n")
}

pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|err| Error::io(path, "write", err))
}

/// Writes a file bit by bit.
pub(super) fn write_with(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let cannot = |err| Error::io(path, "write", err);
    let mut file = BufWriter::new(File::create(path).map_err(cannot)?);
    write(&mut file).and_then(|()| file.flush()).map_err(cannot)
}

/// Writes the text of [`json_text`] without having it in memory.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    write_with(path, |file| {
        serde_json::to_writer_pretty(&mut *file, value)?;
        file.write_all(b"\n")
    })
}

/// The length of a file, its SHA-256, and its text where a manifest looks into it.
pub(super) type Carried = (u64, [u8; 32], Option<Vec<u8>>);

/// Copies a file of the source beside the tensors.
pub(super) fn carry(opened: &Opened, folder: &Path, name: &str) -> Result<Carried> {
    let mut source = opened.source.again();
    let file = source.add(name)?;
    let bytes = source.whole(file)?;
    source.check_unchanged()?;
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|err| Error::io(parent, "create the folder", err))?;
    }
    write_file(&path, bytes)?;
    let text = needs_text(name).then(|| bytes.to_vec());
    Ok((bytes.len() as u64, Sha256::digest(bytes).into(), text))
}

/// The files of a package that were carried over when it was made.
pub(super) fn sidecar_files_of_package(opened: &Opened) -> Vec<String> {
    let own = [MODEL_FILE, MANIFEST_FILE, SOURCE_FILE, BUFFERS_FILE];
    let names = opened.files.iter().map(|file| &file.name);
    let carried = names.filter(|name| {
        !own.contains(&name.as_str())
            && !opened.weights.contains(name)
            && !name.ends_with(".index.json")
            && component_of(name).is_none()
    });
    carried.cloned().collect()
}

/// The files beside the weights: those that are carried over, and those that are left behind.
pub(crate) fn sidecar_files(opened: &Opened, spec: &Spec) -> (Vec<String>, Vec<String>) {
    let names = opened.files.iter().map(|file| file.name.as_str());
    let format = format::find(opened.checkpoint.format);
    let is_known = |name: &str| {
        let companions = format.map_or(&[][..], |format| format.companions);
        let mut configs = spec.dialects.iter().filter_map(|dialect| {
            let config = dialect.config.as_ref()?;
            format.is_some_and(|format| format.dialect == dialect.format).then_some(&config.file)
        });
        let ends = |end: &&str| name == *end || end.starts_with('.') && name.ends_with(end);
        companions.iter().any(ends) || configs.any(|file| file == name)
    };
    let others = names.filter(|name| {
        *name != CONFIG_FILE
            && !is_known(name)
            && !opened.weights.iter().any(|weight| weight == name)
            && !name.ends_with(".index.json")
    });
    // What a module needs is in its folder, whether or not the standard has a role for it.
    let modules = opened.module_folders();
    let is_of_module = |name: &str| {
        modules.iter().any(|folder| {
            name.strip_prefix(folder.as_str()).is_some_and(|rest| rest.starts_with('/'))
        }) && FileRole::of(name) != FileRole::Code
            && !name.ends_with(".bin")
    };
    let (carried, left): (Vec<&str>, Vec<&str>) =
        others.partition(|name| spec.file_role(name).is_some() || is_of_module(name));
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    (owned(carried), owned(left))
}

/// Tells of the files that are not carried over: by itself of each that has to do with text, as the
/// result may serve otherwise without it, and of all others together.
pub(super) fn left_behind(left: &[String]) -> Vec<Diagnostic> {
    const WORDS: &[&str] = &["token", "vocab", "merges", "bpe", "template"];
    const MAX_NAMED: usize = 12;
    const ENDS: &[&str] = &[".spm", ".model", ".jinja"];
    let of_text = |name: &&String| {
        let lower = name.rsplit('/').next().unwrap_or_default().to_lowercase();
        is_tokenizer_file(name)
            || WORDS.iter().any(|word| lower.contains(word))
            || ENDS.iter().any(|end| lower.ends_with(end))
    };
    let (texts, others): (Vec<&String>, Vec<&String>) = left.iter().partition(of_text);
    let mut findings: Vec<Diagnostic> = texts
        .into_iter()
        .map(|name| {
            let message = format!("{name} is not carried over, and seems to be of the tokenizer");
            Diagnostic::warning("P041", message)
                .file(name)
                .help("copy it beside the result, if what serves the model needs it")
        })
        .collect();
    if !others.is_empty() {
        // The report lists them all.
        let names: Vec<&str> = others.iter().map(|name| name.as_str()).take(MAX_NAMED).collect();
        let more = match others.len().saturating_sub(MAX_NAMED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let message = format!("not carried over: {}{more}", names.join(", "));
        findings.push(Diagnostic::note("P041", message));
    }
    findings
}
