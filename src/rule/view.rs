//! What rules look at: a package read as far as it can be, or what a foreign checkpoint would
//! become.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::NotChecked;
use super::surroundings::Surroundings;
use super::template::Template;
use super::tokenizer_file::TokenizerFile;
use super::vocabulary::Vocabulary;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::json;
use crate::base::limits::Backing;
use crate::base::source::{FileId, Source};
use crate::checkpoint::{Checkpoint, DType, Encoding, Payload};
use crate::encoding::layout::{self, LAYOUTS};
use crate::exec::container::safetensors_header;
use crate::exec::scan::{FileScan, Job, Piece, Values, scan};
use crate::folder::{self, FolderFile, Survey};
use crate::format::safetensors;
use crate::manifest::{FileEntry, Manifest, SCHEMA, TensorEntry};
use crate::package::{
    Conformance, Hparams, MANIFEST_FILE, MODEL_FILE, Model, Provenance, SOURCE_FILE, SOURCE_SCHEMA,
    TENSORS_STEM, Value,
};
use crate::plan::program::Output;
use crate::spec::Spec;
use crate::spec::arch::{Arch, Expected};

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
    pub name: String,
    /// Its dtype.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u64>,
    /// The file it is in.
    pub file: String,
    /// Its first byte in the file.
    pub start: u64,
    /// The number of its bytes.
    pub len: u64,
}

impl Stored {
    /// A tensor that a plan would write.
    pub fn planned(output: &Output) -> Stored {
        Stored {
            name: output.name.clone(),
            dtype: output.dtype,
            shape: output.shape.clone(),
            file: String::new(),
            start: 0,
            len: output.n_bytes(),
        }
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
        if listed { std::fs::read(folder.join(name)).ok() } else { None }
    };
    let says = |text: &[u8], words: &str| {
        text.windows(words.len()).any(|window| window == words.as_bytes())
    };
    // Other tools write files of these names too; a damaged one of ours still has some of its
    // words.
    let ours = |text: &[u8]| says(text, "\"conformance\"") || says(text, "\"hyperparameters\"");
    text(MODEL_FILE).is_some_and(|text| ours(&text))
        || text(MANIFEST_FILE).is_some_and(|text| {
            says(&text, "llmstd.manifest") || (says(&text, "\"digests\"") && ours(&text))
        })
}

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
            manifest: typed(&source, MANIFEST_FILE, |manifest: &Manifest| {
                schema(&manifest.schema, SCHEMA)
            }),
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
        let manifest = typed(&source, name, |manifest: &Manifest| schema(&manifest.schema, SCHEMA));
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
                    file: entry.file.clone().unwrap_or_default(),
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
                for tensor in &header.tensors {
                    let (start, len) = match &tensor.payload {
                        Payload::Range(extent) => (extent.start, extent.len),
                        Payload::View(view) => (view.storage.start, view.storage.len),
                        Payload::Tiles(_) | Payload::Parts(_) | Payload::Unreadable(_) => (0, 0),
                    };
                    self.tensors.push(Stored {
                        name: tensor.name.clone(),
                        dtype: tensor.dtype,
                        shape: tensor.shape.clone(),
                        file: name.clone(),
                        start,
                        len,
                    });
                }
            }
            self.shards.push(Shard { name, header, scan: None });
        }
    }

    /// The bytes that [`PackageView::read_bytes`] reads.
    pub fn n_bytes(&self) -> u64 {
        self.files.values().fold(0, |sum, len| sum.saturating_add(*len))
    }

    /// Reads every byte of every file, for the rules that need them.
    ///
    /// A tensor file that is as this program writes it is hashed as a whole only with `whole_files`:
    /// its tensors are, and its header is held to what follows from the manifest.
    ///
    /// # Errors
    /// A tensor lies outside its file, where what is known to do so is left out before; or a file
    /// was changed meanwhile.
    pub fn read_bytes(
        &mut self,
        whole_files: bool,
        n_threads: usize,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        let mut jobs = Vec::new();
        let mut owners = Vec::new();
        let listed = self.listed();
        let names: Vec<String> = self.files.keys().cloned().collect();
        for name in &names {
            let Some(file) = self.source.find(name) else { continue };
            let shard = self.shards.iter().position(|shard| shard.name == *name);
            let tensors = shard.map_or_else(Vec::new, |_| self.pieces_of(name, file));
            let pieces = tensors.iter().map(|(tensor, dtype)| Piece {
                start: tensor.start,
                len: tensor.len,
                dtype: *dtype,
            });
            let is_whole = whole_files || !self.is_covered(name, file, &listed);
            if !is_whole {
                self.covered.push(name.clone());
            }
            jobs.push(Job { file, pieces: pieces.collect(), is_whole });
            let tensors: Vec<ScannedTensor> =
                tensors.into_iter().map(|(tensor, _)| tensor).collect();
            owners.push((name.clone(), shard, tensors));
        }
        let scans = scan(&self.source, &jobs, n_threads, progress)?;
        self.source.check_unchanged()?;
        let stored: BTreeMap<&str, &Stored> =
            self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        for ((name, shard, tensors), scan) in owners.into_iter().zip(scans) {
            self.scans.extend(scan.sha256.map(|sha256| (name.clone(), sha256)));
            if let Some(shard) = shard {
                let counted =
                    tensors.iter().zip(&scan.pieces).filter(|(tensor, _)| tensor.len != 0);
                self.census.extend(counted.map(|(tensor, piece)| {
                    let stored = stored.get(tensor.name.as_str());
                    Counted {
                        name: tensor.name.clone(),
                        file: name.clone(),
                        bytes: [tensor.start, tensor.start.saturating_add(tensor.len)],
                        dtype: stored.map_or(DType::Unknown, |stored| stored.dtype),
                        shape: stored.map_or_else(Vec::new, |stored| stored.shape.clone()),
                        values: piece.values,
                        sha256: piece.sha256,
                    }
                }));
                self.shards[shard].scan = Some((tensors, scan));
            }
        }
        self.deep = true;
        Ok(())
    }

    /// The tensors that the manifest puts into each file.
    fn listed(&self) -> BTreeMap<String, Vec<usize>> {
        let mut listed: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let entries = self.manifest.good().into_iter().flat_map(|manifest| &manifest.tensors);
        for (index, entry) in entries.enumerate() {
            if let Some(file) = &entry.file {
                listed.entry(file.clone()).or_default().push(index);
            }
        }
        listed
    }

    /// Whether the hashes of tensors leave no byte of a long tensor file open: it is as long as the
    /// manifest says, and begins with the header that this program writes for what the manifest says.
    fn is_covered(&self, name: &str, file: FileId, listed: &BTreeMap<String, Vec<usize>>) -> bool {
        let bytes = self.source.bytes(file);
        let Some((manifest, own)) = self.manifest.good().zip(listed.get(name)) else {
            return false;
        };
        let same_len = |entry: &FileEntry| entry.path == name && entry.len == bytes.len() as u64;
        let is_good = self
            .shards
            .iter()
            .any(|shard| shard.name == name && matches!(shard.header, Part::Good(_)));
        if (bytes.len() as u64) < MIN_COVERED_LEN
            || !is_good
            || !manifest.files.iter().any(same_len)
        {
            return false;
        }
        let mut entries: Vec<&TensorEntry> = own.iter().map(|at| &manifest.tensors[*at]).collect();
        entries.sort_by_key(|entry| (entry.start, entry.len));
        let tensors = entries.iter().map(|entry| {
            let dtype = DType::parse(&entry.dtype).unwrap_or(DType::Unknown);
            (entry.name.as_str(), dtype, entry.shape.as_slice())
        });
        // A package says in its files which version of the standard they keep, and nothing else.
        let metadata = BTreeMap::from([("llmstd".to_owned(), manifest.spec.clone())]);
        safetensors_header(tensors, &metadata).is_ok_and(|header| bytes.starts_with(&header))
    }

    /// The tensor files that were not hashed as a whole, as the hashes of their tensors and their
    /// header leave no byte open.
    pub fn covered(&self) -> &[String] {
        &self.covered
    }

    /// Says what the values of tensors are, which somebody else has read: those of a foreign
    /// checkpoint, or those that packed tensors stand for.
    pub fn count(&mut self, census: Vec<Counted>) {
        let names: BTreeSet<&str> = census.iter().map(|counted| counted.name.as_str()).collect();
        self.census.retain(|counted| !names.contains(counted.name.as_str()));
        self.census.extend(census);
        self.deep = true;
    }

    /// The tensors of a file, by its header, or by the manifest where the header cannot be read.
    fn pieces_of(&self, name: &str, file: FileId) -> Vec<(ScannedTensor, DType)> {
        let of_header = self.tensors.iter().filter(|tensor| tensor.file == name);
        let mut pieces: Vec<(ScannedTensor, DType)> = of_header
            .map(|tensor| {
                let (name, start, len) = (tensor.name.clone(), tensor.start, tensor.len);
                (ScannedTensor { name, start, len }, tensor.dtype)
            })
            .collect();
        if pieces.is_empty() {
            let entries = self.manifest.good().into_iter().flat_map(|manifest| &manifest.tensors);
            let entries = entries.filter(|entry| entry.file.as_deref() == Some(name));
            let placed = entries.filter_map(|entry| {
                let dtype = DType::parse(&entry.dtype).unwrap_or(DType::Unknown);
                let (name, len) = (entry.name.clone(), entry.len);
                Some((ScannedTensor { name, start: entry.start?, len }, dtype))
            });
            pieces = placed.collect();
        }
        pieces.sort_by_key(|(tensor, _)| (tensor.start, tensor.len));
        // What lies outside the file, or over its neighbour, cannot be read as said.
        let mut at = 0;
        let file_len = self.source.extent(file).len;
        pieces.retain(|(tensor, _)| {
            let end = tensor.start.checked_add(tensor.len);
            let fits = at <= tensor.start && end.is_some_and(|end| end <= file_len);
            if fits {
                at = end.unwrap_or(at);
            }
            fits
        });
        pieces
    }

    /// Whether every byte was read.
    pub fn is_deep(&self) -> bool {
        self.deep
    }

    /// Whether this is no package yet.
    pub fn is_planned(&self) -> bool {
        self.planned
    }

    /// Whether this is a manifest without its package.
    pub fn is_alone(&self) -> bool {
        self.alone
    }

    /// The SHA-256 of a file, where every byte was read.
    pub fn sha256(&self, name: &str) -> Option<&[u8; 32]> {
        self.scans.get(name)
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

    /// The architecture.
    ///
    /// # Errors
    /// It is not known.
    pub fn arch(&self) -> Result<&'a Arch, NotChecked> {
        let id = self.model()?.architecture.as_deref();
        let spec = self.spec;
        id.and_then(|id| spec.arch(id)).ok_or(NotChecked::Blocked("the architecture is not known"))
    }

    /// The tensors of all files.
    ///
    /// # Errors
    /// A file cannot be read, so that tensors are missing here.
    pub fn all_tensors(&self) -> Result<&[Stored], NotChecked> {
        if self.shards.iter().any(|shard| shard.header.good().is_none()) {
            return Err(NotChecked::Blocked("a tensor file cannot be read"));
        }
        Ok(&self.tensors)
    }

    /// The hyperparameters, where they are as they should be.
    ///
    /// # Errors
    /// Something is wrong with them.
    pub fn hparams(&self) -> Result<&Hparams, NotChecked> {
        let hparams = &self.model()?.hyperparameters;
        let arch = self.arch()?;
        if !self.spec.check_hparams(arch, hparams).is_empty() {
            return Err(NotChecked::Blocked("the hyperparameters are wrong"));
        }
        Ok(hparams)
    }

    /// The number of layers that a stack stores.
    pub fn n_layers(hparams: &Hparams, stack: &str) -> Option<u64> {
        // Where layers share their weights, fewer are stored than run.
        let stated = ["num_stored_layers", "num_layers"]
            .iter()
            .find_map(|key| hparams.get(&format!("{stack}.{key}")).or_else(|| hparams.get(*key)));
        match stated {
            Some(Value::Int(int)) => u64::try_from(*int).ok(),
            _ => None,
        }
    }

    /// The layers that tensors are stored of, each with its stack.
    ///
    /// # Errors
    /// A tensor file cannot be read.
    pub fn stored_layers(&self) -> Result<BTreeSet<(String, u64)>, NotChecked> {
        let layers = self.all_tensors()?.iter().filter_map(|tensor| {
            let role = self.spec.role(&tensor.name)?;
            Some((role.stack?, role.layer?))
        });
        Ok(layers.collect())
    }

    /// The layers that the hyperparameters count and no tensor is of.
    ///
    /// # Errors
    /// As [`PackageView::expected`].
    pub fn missing_layers(&self) -> Result<BTreeSet<(String, u64)>, NotChecked> {
        let stored = self.stored_layers()?;
        let layers = self.expected()?.iter().filter_map(|tensor| {
            let role = self.spec.role(&tensor.name)?;
            Some((role.stack?, role.layer?))
        });
        Ok(layers.filter(|layer| !stored.contains(layer)).collect())
    }

    /// The rows of a head's projection, whether it is stored or tied.
    pub fn head_rows(&self, head: &str) -> Option<u64> {
        let name = format!("heads.{head}.proj.weight");
        let ties = self.model.good().into_iter().flat_map(|model| &model.ties);
        let target = ties.into_iter().find(|[tied, _]| *tied == name);
        let stored = target.map_or(name.as_str(), |[_, target]| target);
        let tensor = self.tensors.iter().find(|tensor| tensor.name == stored)?;
        self.shape(tensor).first().copied()
    }

    /// The dimensions of a tensor's values, where it is of a known encoding; else its own.
    pub fn shape(&self, tensor: &Stored) -> Vec<u64> {
        let entry = self.model.good().and_then(|model| model.encodings.get(&tensor.name));
        let encoding = entry.and_then(|entry| self.encoding(tensor, entry).ok());
        encoding.map_or_else(|| tensor.shape.clone(), |encoding| encoding.shape)
    }

    /// What a package says of a tensor of blocks or of parts, held against what is stored.
    ///
    /// # Errors
    /// It says what is not so, or names no encoding; the reason.
    pub fn encoding(&self, tensor: &Stored, entry: &Json) -> std::result::Result<Encoding, String> {
        let stored: Vec<layout::Stored<'_>> = LAYOUTS
            .companions(&tensor.name, entry)
            .iter()
            .filter_map(|name| self.tensors.iter().find(|tensor| tensor.name == *name))
            .chain([tensor])
            .map(|Stored { name, dtype, shape, .. }| layout::Stored { name, dtype: *dtype, shape })
            .collect();
        let find = |name: &str| stored.iter().position(|stored| stored.name == name);
        match LAYOUTS.packaged(&tensor.name, entry, &stored, find)? {
            Some((encoding, _)) => Ok(encoding),
            None => self.spec.encodings.encoding(entry, tensor.dtype, &tensor.shape),
        }
    }

    /// How many tensors there are; those of parts are one each.
    pub fn n_tensors(&self) -> usize {
        self.tensors.iter().filter(|tensor| self.whole_of(&tensor.name).is_none()).count()
    }

    /// The name of the tensor that a stored one is a part of, beside the payload.
    pub fn whole_of(&self, name: &str) -> Option<&str> {
        let (whole, _) = name.rsplit_once('.')?;
        let (whole, entry) = self.model.good()?.encodings.get_key_value(whole)?;
        LAYOUTS.companions(whole, entry).iter().any(|part| part == name).then_some(whole)
    }

    /// The names of tensors that are stored, and of those that are tied to one.
    pub fn present(&self) -> BTreeSet<&str> {
        let ties = self.model.good().into_iter().flat_map(|model| &model.ties);
        let tied = ties.map(|[tied, _]| tied.as_str());
        self.tensors.iter().map(|tensor| tensor.name.as_str()).chain(tied).collect()
    }

    /// The tensors that the architecture has under these hyperparameters.
    ///
    /// # Errors
    /// The architecture or the hyperparameters do not say.
    pub fn expected(&self) -> Result<&[Expected], NotChecked> {
        let hparams = self.hparams()?;
        let arch = self.arch()?;
        self.all_tensors()?;
        // A layer has one tensor at least: a claim of more layers is wrong, and not to be
        // written out.
        let n_tensors = self.tensors.len() as u64;
        let wrong = |stack: &String| {
            PackageView::n_layers(hparams, stack).is_some_and(|n_layers| n_tensors < n_layers)
        };
        if arch.stacks.iter().any(wrong) {
            return Err(NotChecked::Blocked("there are fewer tensors than layers"));
        }
        let expected = self.expected.get_or_init(|| {
            let backing = Backing::of(self.tensors.iter().map(|tensor| tensor.shape.as_slice()));
            self.spec.expected(arch, hparams, &self.present(), backing)
        });
        let why = NotChecked::Blocked("the hyperparameters do not say which tensors there are");
        expected.as_deref().map_err(|_| why)
    }

    /// What the files of the tokenizer say about ids, each with its name.
    pub fn vocabularies(&self) -> &[(String, Result<Vocabulary, Error>)] {
        self.vocabularies.get_or_init(|| {
            let known = self.files.keys().filter_map(|name| {
                let read = Vocabulary::reader(name)?;
                let path = self.source.place(name);
                let read = read(self.bytes(name)?).map_err(|err| err.in_file(&path));
                Some((name.clone(), read))
            });
            known.collect()
        })
    }
}

fn read_shard(source: &Source, file: FileId) -> Result<Checkpoint> {
    if source.bytes(file).starts_with(b"version https://git-lfs") {
        let message = "is a Git LFS pointer, not the weights; `git lfs pull` fetches them";
        return Err(Error::malformed(0, message).in_file(source.path(file)));
    }
    safetensors::read(source, file)
}

fn json_part(source: &Source, name: &str) -> Part<Json> {
    let Some(file) = source.find(name) else { return Part::Absent };
    match json::parse(source.bytes(file), 0) {
        Ok(json) => Part::Good(json),
        Err(err) => Part::Bad(err.in_file(source.path(file))),
    }
}

fn typed<T: DeserializeOwned>(source: &Source, name: &str, check: fn(&T) -> Result<()>) -> Part<T> {
    let json = match json_part(source, name) {
        Part::Good(json) => json,
        Part::Absent => return Part::Absent,
        Part::Bad(err) => return Part::Bad(err),
    };
    // Parsed once more from the text, as only that knows the place of what is wrong.
    let text = source.find(name).map(|file| source.bytes(file)).unwrap_or_default();
    let value = serde_json::from_slice(text).map_err(|err| json::error(text, 0, &err));
    // What only the lenient parser takes must not pass.
    drop(json);
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
