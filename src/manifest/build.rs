//! The manifest of a model, from the hashes of its tensors and files.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rayon::prelude::*;

use super::digest::{content_leaf, leaf};
use super::document::{Digests, FileEntry, Manifest, SCHEMA, Semantics, TensorEntry, Tool};
use super::facts::{ManifestInput, TensorFacts};
use super::role::FileRole;
use super::texts::texts;
use crate::package::MANIFEST_FILE;

impl Manifest {
    /// Makes the manifest of a model.
    pub fn build(facts: ManifestInput<'_>) -> Manifest {
        let encodings = facts.model.map(|model| &model.encodings);
        let entry = |tensor: TensorFacts| {
            let sha256 = &tensor.sha256;
            let dtype = tensor.dtype.name();
            let (file, start) = tensor.place.unzip();
            TensorEntry {
                leaf: leaf(&tensor.name, dtype, &tensor.shape, sha256).into(),
                content: content_leaf(dtype, &tensor.shape, sha256).into(),
                encoding: encodings
                    .and_then(|encodings| encodings.get(&*tensor.name))
                    .map(|encoding| Box::new(encoding.clone())),
                sha256: tensor.sha256.into(),
                dtype: Cow::Borrowed(dtype),
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
                sha256: file.sha256.into(),
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
            tensors: facts.tensors.into_par_iter().map(entry).collect(),
            files,
        };
        manifest.dtypes = manifest.census();
        manifest.digests = manifest.compute_digests();
        manifest
    }
}
