//! Any input in the terms of a manifest: what `llmstd manifest` prints and `llmstd diff`
//! compares. Nothing is written.
//!
//! A foreign checkpoint of a known architecture has the manifest of the package that it would
//! become: the plan of the way in says which tensors there would be, and their bytes are hashed
//! as they would be written. One of an unknown architecture has its own names.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::base::diagnostic::Diagnostic;
use crate::base::hex;
use crate::base::source::Source;
use crate::convert::{Progress, Silent};
use crate::format::Format;
use crate::manifest::{FileEntry, FileRole, Manifest};
use crate::package::MODEL_FILE;
use crate::plan::Tensors;
use crate::spec::Spec;

mod open;
mod prepared;

/// How an input is turned into a manifest.
pub struct Options<'a> {
    /// The standard.
    pub spec: &'a Spec,
    /// The architecture, where the config does not say it.
    pub arch: Option<&'a str>,
    /// Whether to keep the names of a foreign checkpoint, whatever its architecture.
    pub generic: bool,
    /// Whether to hash the weights of a package rather than believe its manifest.
    pub rehash: bool,
    /// Whether the manifest names the hashes of whole weight files too, beside those of their tensors.
    pub whole_files: bool,
    /// How many threads hash.
    pub n_threads: usize,
    /// Reports progress.
    pub progress: &'a dyn Progress,
    /// The format that is read, where a folder has several.
    pub format: Option<&'static Format>,
}

impl<'a> Options<'a> {
    /// What the config and the manifest say, on one thread.
    pub fn new(spec: &'a Spec) -> Options<'a> {
        Options {
            spec,
            arch: None,
            generic: false,
            rehash: false,
            whole_files: true,
            n_threads: 1,
            progress: &Silent,
            format: None,
        }
    }
}

/// What an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A package of the standard.
    Package,
    /// A manifest alone; no weights are at hand.
    Manifest,
    /// A foreign checkpoint, in the standard's terms.
    Planned,
    /// A foreign checkpoint under its own names.
    Plain,
}

/// An input, with its manifest.
#[non_exhaustive]
pub struct Version {
    /// The path it was given by.
    pub label: String,
    /// What it is.
    pub kind: Kind,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its weights, where they are at hand.
    pub weights: Option<Weights>,
    /// How many tensors have the hash that a manifest says, and not one of their bytes as they are.
    pub n_believed: u64,
    /// What is worth knowing about how it was read.
    pub findings: Vec<Diagnostic>,
    /// Its folder, where there is one.
    folder: Option<Source>,
    /// Files that a conversion would write beside the tensors, and that are not there.
    made: BTreeMap<String, Vec<u8>>,
}

/// The weights of an input.
pub struct Weights {
    /// The files.
    pub source: Source,
    /// The tensors of the manifest, and how each is read.
    pub tensors: Tensors,
}

impl Version {
    /// A manifest without files.
    pub fn of_manifest(label: &str, manifest: Manifest) -> Version {
        Version {
            label: label.to_owned(),
            kind: Kind::Manifest,
            n_believed: manifest.tensors.len() as u64,
            manifest,
            weights: None,
            findings: Vec::new(),
            folder: None,
            made: BTreeMap::new(),
        }
    }

    /// The bytes of a file that the manifest lists, if the file is at hand and still is the one
    /// that was hashed.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let entry = self.file(path)?;
        if let Some(bytes) = self.made.get(path) {
            return Some(bytes.clone());
        }
        let mut source = self.folder.as_ref()?.again();
        let file = source.add(path).ok()?;
        let bytes = source.whole(file).ok()?;
        (hex::encode(&Sha256::digest(bytes)) == entry.sha256).then(|| bytes.to_vec())
    }

    /// The entry of a file.
    pub fn file(&self, path: &str) -> Option<&FileEntry> {
        self.manifest.files.iter().find(|file| file.path == path)
    }

    /// Whether files can be read at all.
    pub fn has_files(&self) -> bool {
        self.folder.is_some()
    }
}

/// Whether a file says how tensors are packed rather than what the model is.
pub(crate) fn is_packing(file: &FileEntry) -> bool {
    matches!(file.role, FileRole::Tensors | FileRole::Source) || file.path == MODEL_FILE
}
