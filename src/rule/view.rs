//! What rules look at: a package read as far as it can be, or what a foreign checkpoint would
//! become.

mod around;
mod model;
mod open;
mod values;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::sync::Arc;

use serde_json::Value as Json;

use super::NotChecked;
use super::surroundings::Surroundings;
use super::template::Template;
use super::tokenizer_file::TokenizerFile;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, Result};
use crate::base::hash::HashMap;
use crate::base::json;
use crate::base::mirror;
use crate::base::name::Name;
use crate::base::source::Source;
use crate::checkpoint::{Checkpoint, DType};
use crate::exec::scan::{FileScan, Values};
use crate::folder::FolderFile;
use crate::manifest::Manifest;
use crate::package::{
    Conformance, MANIFEST_FILE, MODEL_FILE, Model, Provenance, TENSORS_STEM, is_meant_as_manifest,
    is_meant_as_model,
};
use crate::plan::program::Output;
use crate::spec::Spec;
use crate::spec::arch::Expected;
use crate::spec::hparams::Problem;
use crate::tokenizer::vocabulary::Vocabulary;

/// A file that is there, is not, or cannot be read.
pub enum Part<T> {
    /// It is not there.
    Absent,
    /// It does not keep its form.
    Bad(Error),
    /// It is as it should be.
    Good(T),
}

impl<T> Part<T> {
    /// What the file says, if it can be read.
    pub fn good(&self) -> Option<&T> {
        match self {
            Part::Good(good) => Some(good),
            Part::Absent | Part::Bad(_) => None,
        }
    }
}

/// A tensor file of a package.
pub struct Shard {
    /// Its name.
    pub name: String,
    /// Its header.
    pub header: Part<Checkpoint>,
    /// What its bytes are, where they were read.
    pub scan: Option<(Vec<ScannedTensor>, FileScan)>,
}

/// A tensor whose bytes were read.
pub struct ScannedTensor {
    /// Its name.
    pub name: String,
    /// Its first byte in the file.
    pub start: u64,
    /// The number of its bytes.
    pub len: u64,
}

/// A tensor of a package.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its name.
    pub name: Name,
    /// Its dtype.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u64>,
    /// The file it is in.
    pub file: Arc<str>,
    /// Its first byte in the file.
    pub start: u64,
    /// The number of its bytes.
    pub len: u64,
}

impl Stored {
    /// Tensors that a plan would write, which has no file for them yet.
    pub fn planned(outputs: impl Iterator<Item = Output>) -> Vec<Stored> {
        let file: Arc<str> = "".into();
        let stored = |output: Output| {
            let len = output.n_bytes();
            let Output { name, dtype, shape, .. } = output;
            Stored { name, dtype, shape, file: Arc::clone(&file), start: 0, len }
        };
        outputs.map(stored).collect()
    }
}

/// A tensor whose values were looked at.
pub struct Counted {
    /// Its name: in a package the standard's, else the foreign one.
    pub name: String,
    /// The file it is in.
    pub file: String,
    /// Its bytes there: first, and one past the last.
    pub bytes: [u64; 2],
    /// What they are.
    pub dtype: DType,
    /// Its dimensions.
    pub shape: Vec<u64>,
    /// What its values are; of a packed tensor, those that it stands for.
    pub values: Values,
    /// The SHA-256 of its values.
    pub sha256: [u8; 32],
}

/// What rules look at.
pub struct PackageView<'a> {
    /// The standard.
    pub spec: &'a Spec,
    /// The files of the folder with their lengths.
    pub files: BTreeMap<String, u64>,
    /// The files that lead out of the folder.
    pub outside: Vec<(String, Error)>,
    /// `model.json`.
    pub model: Part<Model>,
    /// `manifest.json`.
    pub manifest: Part<Manifest>,
    /// `source.json`.
    pub provenance: Part<Provenance>,
    /// The shard index.
    pub index: Part<Json>,
    /// The tensor files, in the order of their names.
    pub shards: Vec<Shard>,
    /// The tensors of all files, in the order of the files.
    pub tensors: Vec<Stored>,
    /// What the readers noticed.
    pub findings: Vec<Diagnostic>,
    /// The values of the tensors, where they were read.
    pub census: Vec<Counted>,
    /// What stands around the tensors.
    pub around: Surroundings,
    source: Source,
    scans: BTreeMap<String, [u8; 32]>,
    covered: Vec<String>,
    deep: bool,
    planned: bool,
    alone: bool,
    places: OnceCell<HashMap<Name, usize>>,
    problems: OnceCell<Vec<Problem>>,
    expected: OnceCell<Result<Vec<Expected>, String>>,
    vocabularies: OnceCell<Vec<(String, Result<Vocabulary, Error>)>>,
    pub(super) tokenizer_file: OnceCell<Option<TokenizerFile>>,
    pub(super) templates: OnceCell<Vec<Template>>,
}

/// Shorter tensor files are hashed as a whole too, which takes no time worth sparing.
const MIN_COVERED_LEN: u64 = 16 << 20;

/// Why a rule about packages says nothing of a foreign checkpoint.
pub(super) const NO_PACKAGE: &str = "it is about packages";

/// The name of the shard index of a package.
pub fn index_file() -> String {
    format!("{TENSORS_STEM}.safetensors.index.json")
}

/// Whether a path of a package stays inside it.
pub fn is_inside(path: &str) -> bool {
    let normal = |part| matches!(part, Component::Normal(_));
    !path.is_empty() && !path.contains(['\\', '\0']) && Path::new(path).components().all(normal)
}

/// Whether a folder is, or was meant to be, a package of the standard.
pub fn is_package(folder: &Path, files: &[FolderFile]) -> bool {
    let text = |name: &str| {
        let listed = files.iter().any(|file| file.name == name);
        let path = folder.join(name);
        listed.then(|| mirror::whole(&path).ok().and_then(|()| std::fs::read(path).ok())).flatten()
    };
    text(MODEL_FILE).is_some_and(|text| is_meant_as_model(&text))
        || text(MANIFEST_FILE).is_some_and(|text| is_meant_as_manifest(&text))
}

impl<'a> PackageView<'a> {
    /// Whether this is no package yet.
    pub fn is_planned(&self) -> bool {
        self.planned
    }

    /// Whether this is a manifest without its package.
    pub fn is_alone(&self) -> bool {
        self.alone
    }

    /// The bytes of a file, if it is there.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.source.find(name).map(|file| self.source.bytes(file))
    }

    /// A file as JSON, if it is there and is JSON.
    pub fn json(&self, name: &str) -> Option<Json> {
        match json_part(&self.source, name) {
            Part::Good(json) => Some(json),
            Part::Absent | Part::Bad(_) => None,
        }
    }

    /// The level that `model.json` claims.
    pub fn claimed(&self) -> Option<Conformance> {
        self.model.good().map(|model| model.conformance)
    }

    /// `model.json`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn model(&self) -> Result<&Model, NotChecked> {
        self.model.good().ok_or(NotChecked::Blocked("model.json cannot be read"))
    }

    /// The bytes of a file of the package, if it is there.
    pub fn text(&self, name: &str) -> Option<&[u8]> {
        self.source.find(name).map(|file| self.source.bytes(file))
    }

    /// `manifest.json`.
    ///
    /// # Errors
    /// It cannot be read, or this is no package.
    pub fn manifest(&self) -> Result<&Manifest, NotChecked> {
        if self.planned {
            return Err(NotChecked::NotApplicable(NO_PACKAGE));
        }
        self.manifest.good().ok_or(NotChecked::Blocked("manifest.json cannot be read"))
    }
}

fn json_part(source: &Source, name: &str) -> Part<Json> {
    let Some(file) = source.find(name) else { return Part::Absent };
    match json::parse(source.bytes(file), 0) {
        Ok(json) => Part::Good(json),
        Err(err) => Part::Bad(err.in_file(source.path(file))),
    }
}
