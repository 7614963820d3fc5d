//! What a manifest is made from.

use std::sync::Arc;

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
    pub tensors: Vec<TensorFacts>,
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
