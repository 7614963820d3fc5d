//! Whether the files of a package are those of a manifest, byte for byte, and where they are not.
//!
//! Every tensor and every file is hashed, each by itself and all in parallel, so that damage is told
//! as a tensor, its file and its bytes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;

use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hex::Hex;
use crate::base::name::Name;
use crate::base::source::{Extent, FileId, Source};
use crate::base::threads;
use crate::checkpoint::DType;
use crate::convert::Progress;
use crate::exec::hash::Hash;
use crate::manifest::{FileRole, Manifest, TensorEntry};
use crate::package::MANIFEST_FILE;
use crate::rule::PackageView;
use crate::rule::view::{Stored, is_inside};
use crate::spec::Spec;

/// The schema of [`Verified`].
pub const SCHEMA: &str = "llmstd.verify/1";

/// What verification says of a package.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Verified {
    /// `llmstd.verify/1`.
    pub schema: &'static str,
    /// The package.
    pub path: String,
    /// The manifest that it was held to.
    pub manifest: String,
    /// The digest of the model that the manifest names.
    pub model: Option<String>,
    /// Whether every byte is as the manifest says.
    pub whole: bool,
    /// How many tensors were hashed.
    pub tensors: u64,
    /// How many files were hashed.
    pub files: u64,
    /// The bytes of the files.
    pub bytes: u64,
    /// What is damaged, missing, or another one.
    pub findings: Vec<Diagnostic>,
}

/// Bytes are read this many at a time.
const CHUNK_LEN: usize = 1 << 20;

/// Something to hash: a tensor, or a whole file.
struct Job<'a> {
    extent: Extent,
    wanted: &'a Hex,
    what: What<'a>,
}

enum What<'a> {
    Tensor(&'a TensorEntry),
    File(&'a str),
}

/// Holds the files of a package to a manifest: its own, or one that stands elsewhere. Where the
/// tensors lie in other files than that one says, the headers of those tell where.
///
/// # Errors
/// The manifest is none or contradicts itself, or a file cannot be read.
pub fn verify(
    folder: &Path,
    against: Option<&Path>,
    spec: &Spec,
    n_threads: usize,
    progress: &dyn Progress,
) -> Result<Verified> {
    let own_path = folder.join(MANIFEST_FILE);
    let path = against.unwrap_or(&own_path);
    let none = || Error::new(ErrorKind::Malformed, "is no manifest").in_file(path);
    let manifest = Manifest::read(path)?.ok_or_else(none)?.trusted(path)?;
    // Of the tensors whose files are not there.
    let is_here = |file: &str| folder.join(file).is_file();
    let place = |entry: &TensorEntry| {
        let file = entry.file.clone().filter(|file| is_here(file))?;
        Some(Stored {
            name: entry.name.clone(),
            dtype: DType::parse(&entry.dtype)?,
            shape: entry.shape.clone(),
            file,
            start: entry.start?,
            len: entry.len,
        })
    };
    let mut places: BTreeMap<Name, Stored> = BTreeMap::new();
    if manifest.tensors.iter().any(|entry| place(entry).is_none()) {
        let stored = PackageView::open(spec, folder)?.tensors;
        places.extend(stored.into_iter().map(|tensor| (tensor.name.clone(), tensor)));
    }
    let found_in = |entry: &TensorEntry| place(entry).or_else(|| places.get(&entry.name).cloned());
    // Other shards of the same tensors are no damage.
    let repacked = manifest.tensors.iter().all(|entry| found_in(entry).is_some());
    let mut found = Vec::new();
    let mut source = Source::inside(folder);
    let mut files: BTreeMap<String, Option<FileId>> = BTreeMap::new();
    let mut jobs = Vec::new();
    let mut n_files = 0;
    for file in &manifest.files {
        if repacked && file.role == FileRole::Tensors && !is_here(&file.path) {
            continue;
        }
        let Some(id) = open(&mut source, &mut files, &file.path, &mut found) else { continue };
        let extent = source.extent(id);
        n_files += 1;
        if extent.len != file.len {
            let message =
                format!("{} has {} bytes, the manifest says {}", file.path, extent.len, file.len);
            let finding = Diagnostic::error("V105", message).file(&file.path);
            let finding = finding.mismatch(format!("{} bytes", file.len), extent.len);
            found.push(finding.help("get the file again: it is cut off, or another one"));
            continue;
        }
        jobs.push(Job { extent, wanted: &file.sha256, what: What::File(&file.path) });
    }
    for entry in &manifest.tensors {
        let Some(place) = found_in(entry) else {
            let message = format!("`{}` is not in the package", entry.name);
            let finding = Diagnostic::error("V120", message).tensor(&entry.name);
            found.push(finding.help(AGAIN));
            continue;
        };
        if (place.dtype.name(), &place.shape) != (&*entry.dtype, &entry.shape) {
            let message = format!("`{}` is another tensor", entry.name);
            let finding = Diagnostic::error("V120", message).tensor(&entry.name);
            let wanted = format!("{} {:?}", entry.dtype, entry.shape);
            let is = format!("{} {:?}", place.dtype, place.shape);
            found.push(finding.mismatch(wanted, is).help(AGAIN));
            continue;
        }
        let (file, start) = (&place.file, place.start);
        let Some(id) = open(&mut source, &mut files, file, &mut found) else { continue };
        let extent = Extent { file: id, start, len: place.len };
        if source.slice(extent).is_err() {
            let end = start.saturating_add(place.len);
            let message = format!("`{}` ends beyond the end of {file}", entry.name);
            let finding = Diagnostic::error("V120", message).tensor(&entry.name).file(&**file);
            found.push(finding.bytes(start, end).help(AGAIN));
            continue;
        }
        jobs.push(Job { extent, wanted: &entry.sha256, what: What::Tensor(entry) });
    }
    let n_tensors = jobs.iter().filter(|job| matches!(job.what, What::Tensor(_))).count() as u64;
    let bytes = files.values().flatten().map(|id| source.extent(*id).len);
    let bytes = bytes.fold(0, u64::saturating_add);
    // The longest first, so that no thread begins with it when the others are done.
    jobs.sort_by_key(|job| std::cmp::Reverse(job.extent.len));
    let hashes = hash(&source, &jobs, n_threads, progress)?;
    source.check_unchanged()?;
    found.extend(damage(&source, &jobs, &hashes));
    found.sort_by(|one, other| {
        let key =
            |finding: &Diagnostic| (finding.file.clone(), finding.bytes, finding.tensor.clone());
        key(one).cmp(&key(other)).then(one.rule.cmp(other.rule))
    });
    Ok(Verified {
        schema: SCHEMA,
        path: folder.display().to_string(),
        manifest: path.display().to_string(),
        model: manifest.digests.model.clone(),
        whole: found.is_empty(),
        tensors: n_tensors,
        files: n_files,
        bytes,
        findings: found,
    })
}

const AGAIN: &str = "get the file again; nothing can be mended in place";

/// Opens a file once; tells if it is not there.
fn open(
    source: &mut Source,
    files: &mut BTreeMap<String, Option<FileId>>,
    path: &str,
    found: &mut Vec<Diagnostic>,
) -> Option<FileId> {
    if let Some(known) = files.get(path) {
        return *known;
    }
    let added = if is_inside(path) {
        source.add(path).map_err(|err| err.message().to_owned())
    } else {
        Err("its path leads out of the package".to_owned())
    };
    let id = match added {
        Ok(id) => Some(id),
        Err(why) => {
            let finding = Diagnostic::error("V105", format!("{path} cannot be read: {why}"));
            found.push(finding.file(path).help("get the file again"));
            None
        }
    };
    files.insert(path.to_owned(), id);
    id
}

/// The SHA-256 of each job, in their order.
fn hash(
    source: &Source,
    jobs: &[Job<'_>],
    n_threads: usize,
    progress: &dyn Progress,
) -> Result<Vec<Hex>> {
    let n_bytes = jobs.iter().map(|job| job.extent.len).fold(0, u64::saturating_add);
    progress.begin("hashing", n_bytes);
    let buffers: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let take = || {
        let free = buffers.lock().ok().and_then(|mut free| free.pop());
        free.unwrap_or_else(|| vec![0; CHUNK_LEN])
    };
    let one = |job: &Job<'_>| -> Result<Hex> {
        let mut hash = Hash::default();
        let mut buffer = take();
        for chunk in source.slice(job.extent)?.chunks(CHUNK_LEN) {
            let into = &mut buffer[..chunk.len()];
            source.copy(chunk, into)?;
            hash.update(into);
            progress.advance(chunk.len() as u64);
        }
        if let Ok(mut free) = buffers.lock() {
            free.push(buffer);
        }
        Ok(Hex::Hash(hash.finish()))
    };
    // One job at a time, the longest first.
    let hashes = threads::on(n_threads, || jobs.par_iter().with_max_len(1).map(one).collect());
    progress.end();
    hashes?
}

/// What the hashes say: of a damaged file, which tensors, or that it is none of them.
fn damage(source: &Source, jobs: &[Job<'_>], hashes: &[Hex]) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let bad: Vec<(&Job<'_>, &Hex)> =
        jobs.iter().zip(hashes).filter(|(job, hash)| job.wanted != *hash).collect();
    let of_tensor = |job: &Job<'_>| matches!(job.what, What::Tensor(_));
    for (job, hash) in &bad {
        let name = source.name(job.extent.file);
        let (start, end) = (job.extent.start, job.extent.end());
        let finding = match job.what {
            What::Tensor(entry) => {
                let message =
                    format!("`{}` is damaged: bytes {start} to {end} of {name}", entry.name);
                Diagnostic::error("V120", message).tensor(&entry.name).bytes(start, end)
            }
            What::File(path) => {
                let tensors = bad
                    .iter()
                    .filter(|(other, _)| of_tensor(other) && other.extent.file == job.extent.file);
                let has_tensors = jobs
                    .iter()
                    .filter(|other| of_tensor(other) && other.extent.file == job.extent.file);
                let first = has_tensors.map(|other| other.extent.start).min();
                let message = match (tensors.count(), first) {
                    (0, Some(first)) => format!(
                        "{path} is damaged outside of its tensors, which are whole: its header is \
                         bytes 0 to {first}"
                    ),
                    (0, None) => format!("{path} is damaged"),
                    (1, _) => format!("{path} is damaged in one tensor"),
                    (n, _) => format!("{path} is damaged in {n} tensors"),
                };
                Diagnostic::error("V121", message)
            }
        };
        found.push(finding.file(name).mismatch(job.wanted, hash).help(AGAIN));
    }
    found
}
