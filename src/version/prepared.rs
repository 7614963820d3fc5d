//! An input that was looked at, of which only the bytes are still to be read.

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{Kind, Options, Planned, Version, Weights};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::Result;
use crate::base::name::Name;
use crate::base::source::{FileId, Source};
use crate::checkpoint::{DType, Payload, Tensor, n_elements};
use crate::convert::{self, Failure, Request};
use crate::exec::digest::{Side, digests_and_files};
use crate::folder::{CONFIG_FILE, Opened};
use crate::manifest::{
    FileFacts, FileRole, Manifest, ManifestInput, TensorEntry, TensorFacts, needs_text,
};
use crate::package::{BUFFERS_FILE, MANIFEST_FILE, Model, SOURCE_FILE};
use crate::plan::Tensors;
use crate::plan::program::{Input, Output};

/// The hash of each stored tensor of a package, where an entry of its manifest describes it as it lies in the file,
/// and its place.
fn look_up(opened: &Opened, entries: &[TensorEntry]) -> (Vec<Option<[u8; 32]>>, Vec<Place>) {
    // Entries stand in the order of the files, as a rule.
    let by_name = LazyCell::new(|| -> HashMap<&str, &TensorEntry> {
        entries.iter().map(|entry| (entry.name.as_str(), entry)).collect()
    });
    let mut names: HashMap<FileId, Arc<str>> = HashMap::new();
    let stored = opened.checkpoint.stored().enumerate().map(|(index, tensor)| {
        let Payload::Range(extent) = tensor.payload else { return (None, None) };
        let name = || opened.source.name(extent.file).into();
        let file = Arc::clone(names.entry(extent.file).or_insert_with(name));
        let entry = entries.get(index).filter(|entry| entry.name == tensor.name);
        let entry = entry.or_else(|| by_name.get(tensor.name.as_str()).copied());
        let entry = entry.filter(|entry| {
            entry.dtype == tensor.dtype.name()
                && entry.shape == tensor.shape
                && entry.len == extent.len
                && entry.file.as_ref() == Some(&file)
                && entry.start == Some(extent.start)
        });
        (entry.and_then(|entry| entry.sha256.bytes()), Some((file, extent.start)))
    });
    stored.unzip()
}

/// A package. Everything but the hashes of the weights is read anew, so that a package that was
/// edited without its manifest is seen as it is.
pub(super) fn package(
    mut opened: Opened,
    options: &Options<'_>,
) -> std::result::Result<Prepared, Failure> {
    let model = convert::read_model(&mut opened)?;
    let mut known = match opened.has(MANIFEST_FILE) && !options.rehash {
        true => Manifest::read(&opened.source.place(MANIFEST_FILE))?,
        false => None,
    };
    let (hashes, places) = {
        let entries = known.as_mut().map(|manifest| std::mem::take(&mut manifest.tensors));
        look_up(&opened, &entries.unwrap_or_default())
    };
    let is_known = hashes.iter().all(Option::is_some);
    let tensors = if is_known { None } else { Some(convert::generic_copies(&opened.checkpoint)?) };
    let mut findings = std::mem::take(&mut opened.checkpoint.findings);
    let n_stale = hashes.iter().filter(|hash| hash.is_none()).count();
    let n_believed = (hashes.len() - n_stale) as u64;
    let files = known.iter().flat_map(|manifest| &manifest.files);
    for file in files.filter(|file| file.role == FileRole::Tensors) {
        let len = opened.files.iter().find(|known| known.name == file.path).map(|file| file.len);
        if len != Some(file.len) {
            let found = len.map_or("is not there".to_owned(), |len| format!("has {len} bytes"));
            let message = format!("{} {found}, manifest.json says {}", file.path, file.len);
            let finding = Diagnostic::warning("D002", message).file(&file.path);
            findings.push(finding.help("the package is damaged: `llmstd validate` says how"));
        }
    }
    if known.is_some() && n_stale != 0 {
        let message = format!(
            "manifest.json does not describe {n_stale} of the tensors as they lie in the files; \
             they were hashed anew"
        );
        findings.push(Diagnostic::warning("D002", message).file(MANIFEST_FILE));
    }
    let own = [MANIFEST_FILE, SOURCE_FILE, BUFFERS_FILE];
    let names = opened.files.iter().map(|file| file.name.clone());
    let files = names.filter(|name| !own.contains(&name.as_str())).collect();
    Ok(Prepared {
        label: String::new(),
        kind: Kind::Package,
        opened,
        tensors,
        model: Some(model),
        known,
        findings,
        n_believed,
        hashes,
        places,
        files,
        components: Vec::new(),
    })
}

pub(super) fn foreign(
    mut opened: Opened,
    options: &Options<'_>,
) -> std::result::Result<Prepared, Failure> {
    let mut findings = Vec::new();
    let planned = if options.generic {
        None
    } else {
        let request = Request {
            arch: options.arch,
            dry_run: true,
            ..Request::new(options.spec, Path::new(""), "std")
        };
        match convert::canonical_or_decoded(&mut opened, &request) {
            Ok(canonical) => Some(canonical),
            Err(Failure::Findings(why))
                if options.arch.is_none() && why.iter().all(|finding| finding.rule == "P001") =>
            {
                let why: Vec<String> = why.into_iter().map(|finding| finding.message).collect();
                let message = format!(
                    "its architecture is not known ({}); its tensors keep their own names",
                    why.join("; ")
                );
                findings.push(Diagnostic::note("D003", message));
                None
            }
            Err(failure) => return Err(failure),
        }
    };
    let (mut carried, _) = convert::sidecar_files(&opened, options.spec);
    let mut components = Vec::new();
    let (kind, tensors, model) = match planned {
        Some(planned) => {
            findings.extend(planned.findings);
            components = convert::components::digests(&opened.source, &planned.components)?;
            (Kind::Planned, planned.tensors, Some(planned.model))
        }
        None => {
            carried.extend(opened.has(CONFIG_FILE).then(|| CONFIG_FILE.to_owned()));
            (Kind::Plain, convert::generic_copies(&opened.checkpoint)?, None)
        }
    };
    findings.append(&mut opened.checkpoint.findings);
    let n_tensors = tensors.outputs.len();
    Ok(Prepared {
        label: String::new(),
        kind,
        opened,
        tensors: Some(tensors),
        model,
        known: None,
        findings,
        n_believed: 0,
        hashes: vec![None; n_tensors],
        places: vec![None; n_tensors],
        files: carried,
        components,
    })
}

/// An input of which only the bytes are still to be read.
pub(super) struct Prepared {
    pub(super) label: String,
    kind: Kind,
    opened: Opened,
    /// How each tensor is read; `None` of a package of which no tensor has to be.
    tensors: Option<Tensors>,
    model: Option<Model>,
    /// The manifest that is believed, without its tensors.
    known: Option<Manifest>,
    findings: Vec<Diagnostic>,
    n_believed: u64,
    /// The hashes of tensors that are known.
    hashes: Vec<Option<[u8; 32]>>,
    places: Vec<Place>,
    /// The files beside the tensors, and of a package those of the tensors too.
    files: Vec<String>,
    /// The files that a conversion would write of tensors apart: path, length and SHA-256.
    components: Vec<(String, u64, [u8; 32])>,
}

/// The file and the first byte in it, where one range of a file holds a tensor.
type Place = Option<(Arc<str>, u64)>;

/// The tensors that are not hashed, and where they stand.
pub(super) struct Missing {
    places: Vec<usize>,
    pub(super) outputs: Vec<Output>,
}

impl Prepared {
    pub(super) fn missing(&self) -> Missing {
        let places = self.hashes.iter().enumerate().filter(|(_, hash)| hash.is_none());
        let places: Vec<usize> = places.map(|(place, _)| place).collect();
        let outputs = self.tensors.as_ref().map_or(&[][..], |tensors| &tensors.outputs);
        let outputs = places.iter().map(|place| outputs[*place].clone()).collect();
        Missing { places, outputs }
    }

    /// The tensors that are missing, to be hashed.
    pub(super) fn side<'a>(&'a self, missing: &'a Missing) -> Side<'a> {
        Side { source: &self.opened.source, inputs: self.inputs(), outputs: &missing.outputs }
    }

    fn inputs(&self) -> &[Input] {
        self.tensors.as_ref().map_or(&[], |tensors| &tensors.inputs)
    }

    pub(super) fn fill(&mut self, missing: &Missing, hashes: Vec<[u8; 32]>) -> Result<()> {
        for (place, hash) in missing.places.iter().zip(hashes) {
            self.hashes[*place] = Some(hash);
        }
        self.opened.source.check_unchanged()
    }

    /// The weight files whose own hash is to be computed: a manifest names it.
    fn weight_files(&self, options: &Options<'_>) -> Vec<(String, FileId)> {
        if !options.whole_files {
            return Vec::new();
        }
        let names = self.files.iter().filter(|name| self.is_weights(name));
        let unknown = names.filter(|name| self.known_file(name).is_none());
        unknown.filter_map(|name| Some((name.clone(), self.opened.source.find(name)?))).collect()
    }

    fn is_weights(&self, name: &str) -> bool {
        self.opened.weights.iter().any(|weight| weight == name)
    }

    /// What the manifest says of a file, if that is believed. Only weights are too long to be read
    /// again.
    fn known_file(&self, name: &str) -> Option<[u8; 32]> {
        let known = self.known.as_ref().filter(|_| self.is_weights(name))?;
        let entry = known.files.iter().find(|file| file.path == name)?;
        let file = self.opened.files.iter().find(|file| file.name == name)?;
        entry.sha256.bytes().filter(|_| entry.len == file.len)
    }

    /// Hashes what is not hashed yet.
    pub(super) fn read(mut self, options: &Options<'_>) -> Result<Version> {
        let missing = self.missing();
        let files = self.weight_files(options);
        let ids: Vec<FileId> = files.iter().map(|(_, id)| *id).collect();
        let source = &self.opened.source;
        let of_files: u64 = ids.iter().map(|id| source.extent(*id).len).sum();
        let of_tensors: u64 = missing.outputs.iter().map(Output::n_bytes).sum();
        if missing.outputs.is_empty() && ids.is_empty() {
            return self.complete(BTreeMap::new(), options);
        }
        options.progress.begin("hashing", of_tensors.saturating_add(of_files));
        let advance = |n_bytes| options.progress.advance(n_bytes);
        let (inputs, n_threads) = (self.inputs(), options.n_threads);
        let hashed = digests_and_files(source, inputs, &missing.outputs, &ids, n_threads, &advance);
        options.progress.end();
        let [hashes, of_files] = hashed?;
        self.fill(&missing, hashes)?;
        let names = files.into_iter().map(|(name, _)| name);
        self.complete(names.zip(of_files).collect(), options)
    }

    /// The version, of which every tensor is hashed; `hashed` are the hashes of files.
    fn complete(
        mut self,
        hashed: BTreeMap<String, [u8; 32]>,
        options: &Options<'_>,
    ) -> Result<Version> {
        let known = |name: &str| hashed.get(name).copied().or_else(|| self.known_file(name));
        // Where nobody asks for the hash of a whole weight file, its tensors stand for it.
        let is_read =
            |name: &&String| options.whole_files || !self.is_weights(name) || known(name).is_some();
        let names: Vec<String> = self.files.iter().filter(is_read).cloned().collect();
        let mut files = read_files(&self.opened.source, &names, &known)?;
        let mut made = BTreeMap::new();
        if self.kind != Kind::Package {
            let keys = convert::gguf::keys_file(&self.opened)?;
            made.extend(keys.map(|(name, bytes)| (name.to_owned(), bytes)));
            files.extend(made.iter().map(|(path, bytes)| Beside::of(path, bytes, None)));
            let component = |(path, len, sha256)| Beside { path, len, sha256, text: None };
            files.extend(std::mem::take(&mut self.components).into_iter().map(component));
            files.sort_by(|left, right| left.path.cmp(&right.path));
        }
        let outputs = self.tensors.iter().flat_map(|tensors| &tensors.outputs);
        let stored = outputs.map(|of| (of.name.as_str(), of.dtype));
        let spec = &match (&self.model, self.kind) {
            (Some(model), Kind::Package) => model.spec.clone(),
            (Some(model), _) => options.spec.least_version(model, stored).0,
            (None, _) => options.spec.first.clone(),
        };
        let hashes = std::mem::take(&mut self.hashes).into_iter().flatten();
        let hashed = hashes.zip(std::mem::take(&mut self.places));
        let facts = |name: Name, dtype: DType, shape: Vec<u64>, (sha256, place)| {
            let len = n_elements(&shape).and_then(|n| dtype.n_bytes(n)).unwrap_or(0);
            TensorEntry::from(TensorFacts { name, dtype, shape, len, sha256, place })
        };
        let tensors: Vec<TensorEntry> = match &self.tensors {
            Some(tensors) => {
                let hashed = tensors.outputs.iter().zip(hashed);
                hashed
                    .map(|(of, hashed)| facts(of.name.clone(), of.dtype, of.shape.clone(), hashed))
                    .collect()
            }
            None => {
                let stored = std::mem::take(&mut self.opened.checkpoint.tensors).into_iter();
                let hashed = stored.flat_map(Tensor::into_stored).zip(hashed);
                hashed.map(|(of, hashed)| facts(of.name, of.dtype, of.shape, hashed)).collect()
            }
        };
        let manifest = Manifest::build(ManifestInput {
            spec,
            model: self.model.as_ref(),
            tensors,
            files: files.iter().map(Beside::facts).collect(),
        });
        let folder = self.opened.source.root().to_owned();
        Ok(Version {
            label: self.label,
            kind: self.kind,
            manifest,
            folder: Some(self.opened.source.again()),
            weights: Some(match self.tensors {
                Some(tensors) => Weights::Planned(Planned { source: self.opened.source, tensors }),
                None => Weights::Unread(folder),
            }),
            n_believed: self.n_believed,
            findings: self.findings,
            made,
        })
    }
}

/// A file beside the tensors.
struct Beside {
    path: String,
    len: u64,
    sha256: [u8; 32],
    text: Option<Vec<u8>>,
}

impl Beside {
    /// A file of these bytes, whose hash may be known.
    fn of(path: &str, bytes: &[u8], sha256: Option<[u8; 32]>) -> Beside {
        let text = needs_text(path).then(|| bytes.to_vec());
        let sha256 = sha256.unwrap_or_else(|| Sha256::digest(bytes).into());
        Beside { path: path.to_owned(), len: bytes.len() as u64, sha256, text }
    }

    fn facts(&self) -> FileFacts<'_> {
        let text = self.text.as_deref();
        FileFacts { path: self.path.clone(), len: self.len, sha256: self.sha256, text }
    }
}

fn read_files(
    folder: &Source,
    names: &[String],
    known: &(dyn Fn(&str) -> Option<[u8; 32]> + Sync),
) -> Result<Vec<Beside>> {
    let read = |name: &String| {
        let mut source = folder.again();
        let file = source.add(name)?;
        let bytes = source.whole(file)?;
        Ok(Beside::of(name, bytes, known(name)))
    };
    names.par_iter().map(read).collect()
}
