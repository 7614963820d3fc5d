//! The manifest of a model, from the hashes of its tensors and files.

use std::collections::BTreeMap;

use super::digest::{content_leaf, leaf};
use super::document::{Digests, FileEntry, Manifest, SCHEMA, Semantics, TensorEntry, Tool};
use super::role::FileRole;
use super::texts::texts;
use crate::base::hex;
use crate::checkpoint::DType;
use crate::package::{MANIFEST_FILE, Model};

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
    pub name: String,
    /// Its dtype.
    pub dtype: DType,
    /// Its dimensions, slowest first.
    pub shape: Vec<u64>,
    /// The number of its bytes.
    pub len: u64,
    /// The SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// The file and the first byte in it, where one range of a file holds it.
    pub place: Option<(String, u64)>,
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

impl Manifest {
    /// Makes the manifest of a model.
    pub fn build(facts: ManifestInput<'_>) -> Manifest {
        let encodings = facts.model.map(|model| &model.encodings);
        let entry = |tensor: TensorFacts| {
            let sha256 = &tensor.sha256;
            let dtype = tensor.dtype.name();
            let (file, start) = tensor.place.unzip();
            TensorEntry {
                leaf: hex::encode(&leaf(&tensor.name, dtype, &tensor.shape, sha256)),
                content: hex::encode(&content_leaf(dtype, &tensor.shape, sha256)),
                encoding: encodings.and_then(|encodings| encodings.get(&tensor.name)).cloned(),
                sha256: hex::encode(sha256),
                dtype: dtype.to_owned(),
                shape: tensor.shape,
                len: tensor.len,
                name: tensor.name,
                file,
                start,
            }
        };
        let (tokenizer, templates) = texts(&facts.files);
        let files = facts.files.into_iter().filter(|file| file.path != MANIFEST_FILE);
        let mut files: Vec<FileEntry> = files
            .map(|file| FileEntry {
                role: FileRole::of(&file.path),
                sha256: hex::encode(&file.sha256),
                len: file.len,
                path: file.path,
            })
            .collect();
        files.sort_by(|left, right| left.path.cmp(&right.path));
        let mut manifest = Manifest {
            schema: SCHEMA.to_owned(),
            spec: facts.spec.to_owned(),
            tool: Tool::this(),
            digests: Digests::default(),
            model: facts.model.map(Semantics::of),
            tokenizer,
            templates,
            dtypes: BTreeMap::new(),
            tensors: facts.tensors.into_iter().map(entry).collect(),
            files,
        };
        manifest.dtypes = manifest.census();
        manifest.digests = manifest.compute_digests();
        manifest
    }
}
