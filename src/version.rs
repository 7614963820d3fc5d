//! Any input in the terms of a manifest: what `llmstd manifest` prints and `llmstd diff`
//! compares. Nothing is written.
//!
//! A foreign checkpoint of a known architecture has the manifest of the package that it would
//! become: the plan of the way in says which tensors there would be, and their bytes are hashed
//! as they would be written. One of an unknown architecture has its own names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hex::Hex;
use crate::base::source::Source;
use crate::convert::{self, Failure, Progress, Silent};
use crate::folder;
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
pub enum Weights {
    /// Some were read.
    Planned(Planned),
    /// A package here, whose manifest was believed for each tensor.
    Unread(PathBuf),
}

/// How weights are read.
pub struct Planned {
    /// The files.
    pub source: Source,
    /// The tensors of the manifest, and how each is read.
    pub tensors: Tensors,
}

impl Weights {
    fn planned(&self) -> Option<&Planned> {
        match self {
            Weights::Planned(planned) => Some(planned),
            Weights::Unread(_) => None,
        }
    }

    /// How they are read, where nobody has asked yet.
    ///
    /// # Errors
    /// The package cannot be opened again.
    fn plan(&self, spec: &Spec) -> Result<Option<Planned>> {
        let Weights::Unread(path) = self else { return Ok(None) };
        let opened = folder::open_as(path, &spec.how())?;
        let tensors =
            convert::generic_copies(&opened.checkpoint).map_err(|failure| match failure {
                Failure::Error(err) => err,
                Failure::Findings(findings) => {
                    let messages: Vec<&str> =
                        findings.iter().map(|of| of.message.as_str()).collect();
                    Error::new(ErrorKind::Unsupported, messages.join("; ")).in_file(path)
                }
            })?;
        Ok(Some(Planned { source: opened.source, tensors }))
    }
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

    /// How the weights of two versions are read, and `then` of both.
    ///
    /// # Errors
    /// Those of one are not at hand or cannot be opened, and those of `then`.
    pub fn with_weights<T>(
        sides: [&Version; 2],
        spec: &Spec,
        then: impl FnOnce([&Planned; 2]) -> Result<T>,
    ) -> Result<T> {
        fn weights(version: &Version) -> Result<&Weights> {
            version.weights.as_ref().ok_or_else(|| {
                let message =
                    format!("{}: there are no weights to read, only a manifest", version.label);
                Error::new(ErrorKind::Unsupported, message)
            })
        }
        let [old, new] = [weights(sides[0])?, weights(sides[1])?];
        let planned = [old.plan(spec)?, new.plan(spec)?];
        let planned =
            [planned[0].as_ref().or(old.planned()), planned[1].as_ref().or(new.planned())];
        let [Some(old), Some(new)] = planned else {
            unreachable!("what is not planned was planned")
        };
        then([old, new])
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
        (entry.sha256 == Hex::Hash(Sha256::digest(bytes).into())).then(|| bytes.to_vec())
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
