//! What a manifest is made from.

use std::sync::Arc;

use super::entry::TensorEntry;
use crate::base::name::Name;
use crate::checkpoint::DType;
use crate::package::Model;

/// What a manifest is made from.
#[derive(Clone, Debug, Default)]
pub struct ManifestInput<'a> {
    /// The version of the standard, `1.0.0`.
    pub spec: &'a str,
    /// What `model.json` says.
    pub model: Option<&'a Model>,
    /// The tensors.
    pub tensors: Vec<TensorEntry>,
    /// The files; `manifest.json` is passed over.
    pub files: Vec<FileFacts<'a>>,
}

/// What is known of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorFacts {
    /// Its name.
    pub name: Name,
    /// Its dtype.
    pub dtype: DType,
    /// Its dimensions, slowest first.
    pub shape: Vec<u64>,
    /// The number of its bytes.
    pub len: u64,
    /// The SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// The file and the first byte in it, where one range of a file holds it.
    pub place: Option<(Arc<str>, u64)>,
}

impl From<TensorFacts> for TensorEntry {
    fn from(facts: TensorFacts) -> TensorEntry {
        let TensorFacts { name, dtype, shape, len, sha256, place } = facts;
        let (file, start) = place.unzip();
        TensorEntry {
            name,
            dtype: dtype.name().into(),
            shape,
            encoding: None,
            file,
            start,
            len,
            sha256: sha256.into(),
            wrong_leaves: None,
        }
    }
}

/// What is known of one file.
#[derive(Clone, Debug)]
pub struct FileFacts<'a> {
    /// Its path, relative to the package, with `/`.
    pub path: String,
    /// The number of its bytes.
    pub len: u64,
    /// The SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// Its bytes, for the files that `needs_text` names.
    pub text: Option<&'a [u8]>,
}
