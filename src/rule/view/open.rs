//! Reads what rules look at: a package, a manifest alone, or what a plan would write.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{PackageView, Part, Shard, Stored, index_file, json_part};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::json;
use crate::base::source::{FileId, Source};
use crate::checkpoint::{Checkpoint, DType, Payload};
use crate::folder::{self, FolderFile, Survey};
use crate::format::{self, safetensors};
use crate::manifest::{Manifest, SCHEMA};
use crate::package::{MANIFEST_FILE, MODEL_FILE, Model, Provenance, SOURCE_FILE, SOURCE_SCHEMA};
use crate::rule::surroundings::Surroundings;
use crate::spec::Spec;

impl<'a> PackageView<'a> {
    /// Nothing that was read of a source.
    fn empty(spec: &'a Spec, source: Source) -> PackageView<'a> {
        PackageView {
            spec,
            files: BTreeMap::new(),
            outside: Vec::new(),
            model: Part::Absent,
            manifest: Part::Absent,
            provenance: Part::Absent,
            index: Part::Absent,
            shards: Vec::new(),
            tensors: Vec::new(),
            findings: Vec::new(),
            census: Vec::new(),
            around: Surroundings::default(),
            source,
            scans: BTreeMap::new(),
            covered: Vec::new(),
            deep: false,
            planned: false,
            alone: false,
            places: OnceCell::new(),
            problems: OnceCell::new(),
            expected: OnceCell::new(),
            vocabularies: OnceCell::new(),
            tokenizer_file: OnceCell::new(),
            templates: OnceCell::new(),
        }
    }

    /// Reads a package as far as it can be read: headers and JSON.
    ///
    /// # Errors
    /// The system refuses to list the folder or to open a file.
    pub fn open(spec: &'a Spec, folder: &Path) -> Result<PackageView<'a>> {
        let Survey { mut files, odd } = folder::survey(folder)?;
        files.retain(|file| !odd.iter().any(|(name, _)| *name == file.name));
        let mut source = Source::inside(folder);
        let odd =
            odd.into_iter().map(|(name, what)| (name, Error::new(ErrorKind::Malformed, what)));
        let mut outside: Vec<(String, Error)> = odd.collect();
        for file in &files {
            match source.add(&file.name) {
                Ok(_) => {}
                Err(err) if err.kind() == ErrorKind::Malformed => {
                    outside.push((file.name.clone(), err));
                }
                Err(err) => return Err(err),
            }
        }
        let mut view = PackageView {
            model: typed(&source, MODEL_FILE, |_| Ok(())),
            manifest: manifest(&source, MANIFEST_FILE),
            provenance: typed(&source, SOURCE_FILE, |provenance: &Provenance| {
                schema(&provenance.schema, SOURCE_SCHEMA)
            }),
            index: json_part(&source, &index_file()),
            around: Surroundings::of_files(&files),
            files: files.into_iter().map(|file| (file.name, file.len)).collect(),
            outside,
            ..PackageView::empty(spec, source)
        };
        view.read_shards();
        Ok(view)
    }

    /// What a foreign checkpoint would become, without a package around it: `source` is its folder.
    pub fn planned(
        spec: &'a Spec,
        model: Model,
        tensors: Vec<Stored>,
        mut source: Source,
        files: Vec<FolderFile>,
    ) -> PackageView<'a> {
        for file in &files {
            // A file that cannot be opened is as good as none; the weights were opened before.
            let _ = source.add(&file.name);
        }
        PackageView {
            around: Surroundings::of_files(&files),
            files: files.into_iter().map(|file| (file.name, file.len)).collect(),
            model: Part::Good(model),
            tensors,
            planned: true,
            ..PackageView::empty(spec, source)
        }
    }

    /// The folder of a foreign checkpoint that there is no plan for: what stands around its tensors.
    pub fn unplanned(spec: &'a Spec, mut source: Source, around: Surroundings) -> PackageView<'a> {
        for name in around.files.keys() {
            let _ = source.add(name);
        }
        PackageView {
            files: around.files.clone(),
            around,
            planned: true,
            ..PackageView::empty(spec, source)
        }
    }

    /// With all that stands around the tensors of a foreign checkpoint, whether or not a package of it
    /// would have it.
    #[must_use]
    pub fn within(mut self, around: Surroundings) -> PackageView<'a> {
        for name in around.files.keys() {
            let _ = self.source.add(name);
        }
        self.around = around;
        self
    }

    /// A manifest without its package: what it says of the model and its tensors.
    ///
    /// # Errors
    /// The system refuses to open it.
    pub fn of_manifest(spec: &'a Spec, path: &Path) -> Result<PackageView<'a>> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mut source = Source::new(folder);
        source.add(name)?;
        let manifest = manifest(&source, name);
        let (mut model, mut tensors, mut files) = (Part::Absent, Vec::new(), BTreeMap::new());
        if let Part::Good(manifest) = &manifest {
            if let Some(says) = &manifest.model {
                model = Part::Good(says.model(&manifest.spec));
            }
            files.extend(manifest.files.iter().map(|file| (file.path.clone(), file.len)));
            tensors.extend(manifest.tensors.iter().filter_map(|entry| {
                Some(Stored {
                    name: entry.name.clone(),
                    dtype: DType::parse(&entry.dtype)?,
                    shape: entry.shape.clone(),
                    file: entry.file.clone().unwrap_or_else(|| "".into()),
                    start: entry.start.unwrap_or_default(),
                    len: entry.len,
                })
            }));
        }
        Ok(PackageView {
            files,
            model,
            manifest,
            tensors,
            alone: true,
            ..PackageView::empty(spec, source)
        })
    }

    fn read_shards(&mut self) {
        // A tensor file that the manifest does not know is told of, and is no part of the model.
        let listed = self.manifest.good().map(|manifest| {
            let paths = manifest.files.iter().map(|file| file.path.clone());
            paths.collect::<BTreeSet<String>>()
        });
        let is_tensors = |name: &&String| name.ends_with(".safetensors") && !name.contains('/');
        let mut names: BTreeSet<String> = match &listed {
            Some(listed) => listed.iter().filter(is_tensors).cloned().collect(),
            None => self.files.keys().filter(is_tensors).cloned().collect(),
        };
        if names.is_empty() {
            names = self.files.keys().filter(is_tensors).cloned().collect();
        }
        for name in names {
            let header = match self.source.find(&name) {
                None => Part::Absent,
                Some(file) => match read_shard(&self.source, file) {
                    Ok(header) => Part::Good(header),
                    Err(err) => Part::Bad(err),
                },
            };
            if let Part::Good(header) = &header {
                self.findings.extend(header.findings.iter().cloned());
                let shared: Arc<str> = name.as_str().into();
                for tensor in &header.tensors {
                    let (start, len) = match &tensor.payload {
                        Payload::Range(extent) => (extent.start, extent.len),
                        Payload::View(view) => (view.storage.start, view.storage.len),
                        Payload::Tiles(_) | Payload::Parts(..) | Payload::Unreadable(_) => (0, 0),
                    };
                    self.tensors.push(Stored {
                        name: tensor.name.clone(),
                        dtype: tensor.dtype,
                        shape: tensor.shape.clone(),
                        file: Arc::clone(&shared),
                        start,
                        len,
                    });
                }
            }
            self.shards.push(Shard { name, header, scan: None });
        }
    }
}

fn read_shard(source: &Source, file: FileId) -> Result<Checkpoint> {
    if format::is_lfs_pointer(source.bytes(file)) {
        let message = "is a Git LFS pointer, not the weights; `git lfs pull` fetches them";
        return Err(Error::malformed(0, message).in_file(source.path(file)));
    }
    safetensors::read(source, file)
}

/// A manifest, which of many tensors is long.
fn manifest(source: &Source, name: &str) -> Part<Manifest> {
    let by_lines = source.find(name).and_then(|file| Manifest::of_lines(source, file));
    match by_lines {
        Some(manifest) => Part::Good(manifest),
        None => typed(source, name, |manifest: &Manifest| schema(&manifest.schema, SCHEMA)),
    }
}

fn typed<T: DeserializeOwned>(source: &Source, name: &str, check: fn(&T) -> Result<()>) -> Part<T> {
    let Some(file) = source.find(name) else { return Part::Absent };
    let text = source.bytes(file);
    // What only the lenient parser takes must not pass.
    if let Err(err) = json::check(text, 0) {
        return Part::Bad(err.in_file(source.path(file)));
    }
    let value = serde_json::from_slice(text).map_err(|err| json::error(text, 0, &err));
    match value.and_then(|value| check(&value).map(|()| value)) {
        Ok(value) => Part::Good(value),
        Err(err) => Part::Bad(err),
    }
}

fn schema(found: &str, expected: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let message = format!("its schema is {found:?}, and {expected:?} is known here");
    Err(Error::new(ErrorKind::Malformed, message))
}
