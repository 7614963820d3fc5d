//! The manifest of a model, from the hashes of its tensors and files.

use std::collections::BTreeMap;

use super::document::{Digests, FileEntry, Manifest, SCHEMA, Semantics, Tool};
use super::facts::ManifestInput;
use super::role::FileRole;
use super::texts::texts;
use crate::package::MANIFEST_FILE;

impl Manifest {
    /// Makes the manifest of a model.
    pub fn build(facts: ManifestInput<'_>) -> Manifest {
        let encodings = facts.model.map(|model| &model.encodings);
        let mut tensors = facts.tensors;
        if let Some(encodings) = encodings.filter(|encodings| !encodings.is_empty()) {
            for tensor in &mut tensors {
                let encoding = encodings.get(tensor.name.as_str());
                tensor.encoding = encoding.map(|encoding| Box::new(encoding.clone()));
            }
        }
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
            tensors,
            files,
        };
        manifest.dtypes = manifest.census();
        manifest.digests = manifest.compute_digests();
        manifest
    }
}
