//! Any input in the terms of a manifest: what `llmstd manifest` prints and `llmstd diff`
//! compares. Nothing is written.
//!
//! A foreign checkpoint of a known architecture has the manifest of the package that it would
//! become: the plan of the way in says which tensors there would be, and their bytes are hashed
//! as they would be written. One of an unknown architecture has its own names.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::base::diagnostic::Diagnostic;
use crate::base::error::Result;
use crate::base::hex;
use crate::base::source::Source;
use crate::checkpoint::{Payload, n_elements};
use crate::convert::{self, Failure, Progress, Request, Silent};
use crate::exec::compare::digests;
use crate::folder::{self, CONFIG_FILE, How, Opened};
use crate::format::Format;
use crate::manifest::{
    FileEntry, FileFacts, FileRole, Manifest, ManifestInput, TensorFacts, needs_text,
};
use crate::package::{BUFFERS_FILE, MANIFEST_FILE, MODEL_FILE, SOURCE_FILE};
use crate::plan::{self, Tensors};
use crate::rule::view::is_inside;
use crate::spec::Spec;

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
pub struct Weights {
    /// The files.
    pub source: Source,
    /// The tensors of the manifest, and how each is read.
    pub tensors: Tensors,
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

    /// Opens a package, a manifest, or a foreign checkpoint.
    ///
    /// # Errors
    /// It cannot be read, or a foreign checkpoint of a known architecture does not fit it.
    pub fn open(path: &Path, options: &Options<'_>) -> std::result::Result<Version, Failure> {
        let label = path.display().to_string();
        if path.extension().is_some_and(|end| end == "json")
            && path.is_file()
            && let Some(manifest) = Manifest::read(path)?
        {
            return Ok(Version::of_manifest(&label, manifest.trusted(path)?));
        }
        let how = How { format: options.format, ..How::default() };
        let opened = match folder::open_as(path, &how) {
            Ok(opened) => opened,
            // A registry may hold everything but the weights. Weights that are there and damaged are
            // another thing.
            Err(err) if path.is_dir() => {
                let file = path.join(MANIFEST_FILE);
                let Some(manifest) = Manifest::read(&file).ok().flatten() else {
                    return Err(err.into());
                };
                if has_weights(path, &manifest) {
                    return Err(err.into());
                }
                let mut version = Version::of_manifest(&label, manifest.trusted(&file)?);
                let message =
                    format!("the weights are not at hand ({err}); manifest.json stands for them");
                version.findings.push(Diagnostic::note("D001", message).file(MANIFEST_FILE));
                version.folder = Some(Source::new(path));
                return Ok(version);
            }
            Err(err) => return Err(err.into()),
        };
        let mut version =
            if opened.is_package { package(opened, options)? } else { foreign(opened, options)? };
        version.label = label;
        Ok(version)
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
        let bytes = source.bytes(file);
        (hex::encode(&Sha256::digest(bytes)) == entry.sha256).then(|| bytes.to_vec())
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

/// Whether weights of a package are there: files of tensors that are more than pointers to them.
fn has_weights(folder: &Path, manifest: &Manifest) -> bool {
    let tensors = manifest.files.iter().filter(|file| file.role == FileRole::Tensors);
    let mut paths =
        tensors.filter(|file| is_inside(&file.path)).map(|file| folder.join(&file.path));
    paths.any(|path| path.exists() && !is_lfs_pointer(&path))
}

/// Whether a file stands for one that Git LFS keeps elsewhere.
fn is_lfs_pointer(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(64).read_to_end(&mut head));
    read.is_ok() && crate::format::is_lfs_pointer(&head)
}

/// A package. Everything but the hashes of the weights is read anew, so that a package that was
/// edited without its manifest is seen as it is.
fn package(mut opened: Opened, options: &Options<'_>) -> std::result::Result<Version, Failure> {
    let model = convert::read_model(&mut opened)?;
    let known = match opened.has(MANIFEST_FILE) && !options.rehash {
        true => Manifest::read(&opened.source.place(MANIFEST_FILE))?,
        false => None,
    };
    let tensors = convert::generic_copies(&opened.checkpoint)?;
    let known_tensors: BTreeMap<&str, _> = known
        .iter()
        .flat_map(|manifest| &manifest.tensors)
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let mut places: Vec<Option<(String, u64)>> = Vec::new();
    let mut hashes: Vec<Option<[u8; 32]>> = Vec::new();
    for tensor in opened.checkpoint.stored() {
        let Payload::Range(extent) = tensor.payload else {
            places.push(None);
            hashes.push(None);
            continue;
        };
        let place = (opened.source.name(extent.file).to_owned(), extent.start);
        let entry = known_tensors.get(tensor.name.as_str()).filter(|entry| {
            entry.dtype == tensor.dtype.name()
                && entry.shape == tensor.shape
                && entry.len == extent.len
                && entry.file.as_ref() == Some(&place.0)
                && entry.start == Some(place.1)
        });
        hashes.push(entry.and_then(|entry| hex::decode32(&entry.sha256)));
        places.push(Some(place));
    }
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
    let hashes = fill_hashes(&opened.source, &tensors, hashes, options)?;

    let own = [MANIFEST_FILE, SOURCE_FILE, BUFFERS_FILE];
    let names: Vec<&str> = opened.files.iter().map(|file| file.name.as_str()).collect();
    let names = names.into_iter().filter(|name| !own.contains(name));
    let names: Vec<String> = names.map(str::to_owned).collect();
    let known_files: BTreeMap<&str, &FileEntry> = known
        .iter()
        .flat_map(|manifest| &manifest.files)
        .map(|file| (file.path.as_str(), file))
        .collect();
    let files = read_files(&opened.source, &names, &|name, len| {
        // Only weights are too long to be read again.
        let entry = known_files.get(name)?;
        let is_weights = opened.weights.iter().any(|weight| weight == name);
        hex::decode32(&entry.sha256).filter(|_| is_weights && entry.len == len)
    })?;
    let manifest = Manifest::build(ManifestInput {
        spec: &model.spec,
        model: Some(&model),
        tensors: facts(&tensors, hashes, places),
        files: files.iter().map(Beside::facts).collect(),
    });
    let (folder, made) = (Some(opened.source.again()), BTreeMap::new());
    let weights = Some(Weights { source: opened.source, tensors });
    let label = String::new();
    let kind = Kind::Package;
    Ok(Version { label, kind, manifest, n_believed, weights, findings, folder, made })
}

fn foreign(mut opened: Opened, options: &Options<'_>) -> std::result::Result<Version, Failure> {
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
    let hashes = fill_hashes(&opened.source, &tensors, vec![None; n_tensors], options)?;
    let mut files = read_files(&opened.source, &carried, &|_, _| None)?;
    let keys = convert::gguf::keys_file(&opened)?;
    let made = keys.map(|(name, bytes)| (name.to_owned(), bytes));
    let made: BTreeMap<String, Vec<u8>> = made.into_iter().collect();
    files.extend(made.iter().map(|(path, bytes)| Beside::of(path, bytes, None)));
    let component = |(path, len, sha256)| Beside { path, len, sha256, text: None };
    files.extend(components.into_iter().map(component));
    files.sort_by(|left, right| left.path.cmp(&right.path));
    let manifest = Manifest::build(ManifestInput {
        spec: &options.spec.version,
        model: model.as_ref(),
        tensors: facts(&tensors, hashes, vec![None; n_tensors]),
        files: files.iter().map(Beside::facts).collect(),
    });
    let (label, folder) = (String::new(), Some(opened.source.again()));
    let weights = Some(Weights { source: opened.source, tensors });
    let n_believed = 0;
    Ok(Version { label, kind, manifest, n_believed, weights, findings, folder, made })
}

/// The hashes that are known, and those of the other tensors from their bytes.
fn fill_hashes(
    source: &Source,
    tensors: &Tensors,
    known: Vec<Option<[u8; 32]>>,
    options: &Options<'_>,
) -> Result<Vec<[u8; 32]>> {
    let pairs = tensors.outputs.iter().zip(&known);
    let missing: Vec<_> =
        pairs.filter(|(_, hash)| hash.is_none()).map(|(output, _)| output.clone()).collect();
    if missing.is_empty() {
        return Ok(known.into_iter().flatten().collect());
    }
    let n_bytes = missing.iter().map(plan::program::Output::n_bytes).sum();
    options.progress.begin("hashing", n_bytes);
    let advance = |n_bytes| options.progress.advance(n_bytes);
    let hashed = digests(source, &tensors.inputs, &missing, options.n_threads, &advance);
    options.progress.end();
    let mut hashed = hashed?.into_iter();
    source.check_unchanged()?;
    Ok(known.into_iter().filter_map(|hash| hash.or_else(|| hashed.next())).collect())
}

fn facts(
    tensors: &Tensors,
    hashes: Vec<[u8; 32]>,
    places: Vec<Option<(String, u64)>>,
) -> Vec<TensorFacts> {
    let rows = tensors.outputs.iter().zip(hashes).zip(places);
    rows.map(|((output, sha256), place)| TensorFacts {
        name: output.name.clone(),
        dtype: output.dtype,
        shape: output.shape.clone(),
        len: n_elements(&output.shape).and_then(|n| output.dtype.n_bytes(n)).unwrap_or(0),
        sha256,
        place,
    })
    .collect()
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
    known: &(dyn Fn(&str, u64) -> Option<[u8; 32]> + Sync),
) -> Result<Vec<Beside>> {
    let read = |name: &String| {
        let mut source = folder.again();
        let file = source.add(name)?;
        let bytes = source.bytes(file);
        Ok(Beside::of(name, bytes, known(name, bytes.len() as u64)))
    };
    names.par_iter().map(read).collect()
}

/// Whether a file says how tensors are packed rather than what the model is.
pub(crate) fn is_packing(file: &FileEntry) -> bool {
    matches!(file.role, FileRole::Tensors | FileRole::Source) || file.path == MODEL_FILE
}
