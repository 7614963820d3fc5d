//! Versions of the standard: a minor version is a folder that adds to the one below, and a package says
//! the least version that has all that it uses. `spec/versions.md` has the text.

pub(super) mod digest;
pub(super) mod merge;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::names::plain_name;
use super::text::Text;
use super::{Files, Spec, bad};
use crate::base::error::Result;
use crate::checkpoint::DType;
use crate::package::Model;
use merge::SPEC_FILE;

/// More versions than there will be.
const MAX_BELOW: usize = 32;

/// What later minor versions add: each feature, `key:NAME`, with the version that has it first.
pub type Features = BTreeMap<String, String>;

/// A version with those that it extends.
pub(super) struct Whole {
    /// The files, put together.
    pub(super) files: Files,
    /// What was added on the way.
    pub(super) later: Features,
    /// Where its hash is from.
    pub(super) hashed: Hashed,
}

/// A version that the program carries, put together by the build.
pub(super) struct Carried {
    /// Its number, `1.1`.
    pub(super) version: &'static str,
    /// Its hash, in hex.
    pub(super) hash: &'static str,
    /// What was added on the way.
    pub(super) later: &'static [(&'static str, &'static str)],
    /// The files, put together.
    pub(super) files: &'static [(&'static str, &'static Text)],
}

impl Carried {
    /// The version as it is read.
    pub(super) fn whole(&self) -> Whole {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Whole {
            files: self
                .files
                .iter()
                .map(|(path, text)| ((*path).to_owned(), (*text).clone()))
                .collect(),
            later: self.later.iter().map(owned).collect(),
            hashed: Hashed::Known(self.hash),
        }
    }
}

/// Where the hash of a version is from.
pub(super) enum Hashed {
    /// The build took it.
    Known(&'static str),
    /// The files that are read.
    Read,
    /// These files, `1.1/hparams.toml`: the read ones were put together of them.
    Apart(Files),
}

/// The files of a version with those of the versions that it extends, and what was added on the way.
/// `files_of` gives the files of a version by its number, `1.0`.
///
/// # Errors
/// A version that is extended is missing, or its files do not keep the form.
pub(super) fn whole(own: Files, files_of: &dyn Fn(&str) -> Result<Files>) -> Result<Whole> {
    let in_head = |err: toml::de::Error| bad(SPEC_FILE, &err.to_string());
    let head =
        |files: &Files| files.get(SPEC_FILE).cloned().ok_or_else(|| bad(SPEC_FILE, "is missing"));
    let mut chain = vec![own];
    while let Some(below) = merge::extends(&head(&chain[chain.len() - 1])?).map_err(in_head)? {
        if MAX_BELOW < chain.len() {
            return Err(bad(SPEC_FILE, "versions extend each other in a circle"));
        }
        chain.push(files_of(&below)?);
    }
    let hashed = match chain.as_slice() {
        [_] => Hashed::Read,
        chain => {
            let mut apart = Files::new();
            for files in chain {
                let version = merge::word(&head(files)?, "version").map_err(in_head)?;
                let version = version.unwrap_or_default();
                let folder = version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
                let files = files.iter().filter(|(path, _)| path.ends_with(".toml"));
                apart.extend(files.map(|(path, text)| (format!("{folder}/{path}"), text.clone())));
            }
            Hashed::Apart(apart)
        }
    };
    let mut files = chain.pop().unwrap_or_default();
    let mut later = Features::new();
    for added in chain.into_iter().rev() {
        let features = merge::features(|file| added.get(file).map(|text| &**text));
        later.extend(features.map_err(|(file, err)| bad(file, &err.to_string()))?);
        merge::add(&mut files, added).map_err(|(path, err)| bad(&path, &err.to_string()))?;
    }
    Ok(Whole { files, later, hashed })
}

/// The files of the version beside the folder of another one: `spec/1.0` beside `spec/1.1`.
pub(super) fn beside(dir: &Path, version: &str) -> Result<Files> {
    let is_version = version.chars().all(|char| char.is_ascii_digit() || char == '.');
    if !is_version || version.split('.').count() != 2 {
        return Err(bad(SPEC_FILE, &format!("extends {version:?}, which is no version as `1.0`")));
    }
    let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mut files = Files::new();
    super::read_dir(&real.with_file_name(version), "", &mut files)?;
    Ok(files)
}

impl Spec {
    /// The least version that has all that a model uses, and the features of it that are newer than the
    /// first version of this major one, in order. `tensors` are its names and dtypes.
    pub fn least_version<'t>(
        &self,
        model: &Model,
        tensors: impl Iterator<Item = (&'t str, DType)>,
    ) -> (String, Vec<String>) {
        if self.later.is_empty() {
            return (self.first.clone(), Vec::new());
        }
        let mut used = BTreeSet::new();
        let mut feature = |kind: &str, name: &str| {
            let feature = format!("{kind}:{name}");
            if self.later.contains_key(&feature) {
                used.insert(feature);
            }
        };
        model.architecture.iter().for_each(|id| feature("architecture", id));
        let arch = model.architecture.as_ref().and_then(|id| self.archs.get(id));
        for id in arch.map_or(Vec::new(), |arch| self.loosened(arch, &model.hyperparameters)) {
            feature("constraint", id);
        }
        for name in model.hyperparameters.keys() {
            feature("key", self.key(name).map_or(name, |key| &key.name));
            feature("key", plain_name(name).unwrap_or(name));
        }
        model.tasks.iter().for_each(|task| feature("task", &task.id));
        let encodings =
            model.encodings.values().filter_map(|entry| entry.get("encoding")?.as_str());
        for id in encodings {
            feature("blocks", id);
            feature("layout", id);
        }
        for (name, dtype) in tensors {
            if let Some(of) = self.role(name) {
                feature("role", &of.role.written);
            }
            feature("dtype", dtype.name());
        }
        let versions = used.iter().filter_map(|feature| self.later.get(feature));
        let least = versions.max_by_key(|version| numbers(version)).unwrap_or(&self.first);
        (least.clone(), used.into_iter().collect())
    }

    /// Has a model say the least version that suffices, and what it requires. `tensors` are its names
    /// and dtypes.
    pub fn state_version<'t>(
        &self,
        model: &mut Model,
        tensors: impl Iterator<Item = (&'t str, DType)>,
    ) {
        (model.spec, model.requires) = self.least_version(model, tensors);
    }
}

/// `1.0.0` as numbers; `None` if it is no version.
pub fn numbers(version: &str) -> Option<[u32; 3]> {
    let numbers: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
    numbers?.try_into().ok()
}
