//! Which files of a folder are the checkpoint, and reading them as one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

pub mod sentence_transformers;

use self::sentence_transformers::MODULES_FILE;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::json;
use crate::base::source::{FileId, Source};
use crate::checkpoint::{Checkpoint, Payload, StoredPart, Tensor};
use crate::encoding::layout::{self, LAYOUTS, Stored};
use crate::format::{gguf, pytorch, safetensors};
use crate::package;

/// A checkpoint with the files around it.
pub struct Opened {
    /// What was named: the folder, the weight file or the index.
    pub path: PathBuf,
    /// The files whose tensors are read.
    pub source: Source,
    /// The tensors.
    pub checkpoint: Checkpoint,
    /// Whether it is a package of the standard.
    pub is_package: bool,
    /// The files of the folder, sorted by path; all of them for a folder, those that belong to
    /// the checkpoint by their name for a file.
    pub files: Vec<FolderFile>,
    /// The weight files, in the order they are read.
    pub weights: Vec<String>,
}

/// A file of a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FolderFile {
    /// Its path relative to the folder, with `/`.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// The config of a foreign folder.
pub const CONFIG_FILE: &str = "config.json";

/// Folders with more files than this are not listed.
const MAX_FILES: usize = 10_000;

/// How deep folders are listed: `1_Pooling/config.json` is at 1.
const MAX_DEPTH: usize = 3;

/// A text file that is read whole is not longer than this.
const MAX_TEXT_LEN: u64 = 256 << 20;

/// Files that have the endings of weights and are none: of trainers, and of packages.
const NOT_WEIGHTS: &[&str] = &[
    package::METADATA_FILE,
    "training_args.bin",
    "optimizer.bin",
    "optimizer.pt",
    "scheduler.pt",
    "scheduler.bin",
    "scaler.pt",
    "rng_state.pth",
    "random_states_0.pkl",
];

/// Single weight files by their usual names, best first.
const SINGLE_FILES: &[&str] = &["model.safetensors", "pytorch_model.bin"];

/// The ends of shard indexes, best first.
const INDEX_ENDS: &[&str] = &[".safetensors.index.json", ".bin.index.json"];

/// The endings of weight files, best first.
const WEIGHT_ENDS: &[&str] = &["safetensors", "bin", "pt", "pth", "ckpt", "gguf"];

/// Opens a checkpoint: a file, a folder, or an index file.
///
/// # Errors
/// There is nothing, or more than one thing, that can be read; or what is there is damaged.
pub fn open(path: &Path) -> Result<Opened> {
    let metadata = path.metadata().map_err(|err| Error::io(path, "open", err))?;
    if metadata.is_dir() {
        let files = list(path)?;
        return open_folder(path, files);
    }
    if !metadata.is_file() {
        let message = "is neither a file nor a folder";
        return Err(Error::new(ErrorKind::Io, message).in_file(path));
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut source = Source::new(&parent);
    if name.ends_with(".index.json") {
        let mut checkpoint = Checkpoint::default();
        let weights = read_index(&mut source, &name, &mut checkpoint)?;
        let files = list(&parent)?;
        return Ok(Opened {
            path: path.to_owned(),
            source,
            checkpoint,
            is_package: false,
            files,
            weights,
        });
    }
    let file = source.add_path(path)?;
    let mut checkpoint = read_file(&source, file)?;
    let mut weights = vec![name];
    if checkpoint.format == "gguf" {
        weights = gguf::split::names(&weights[0], &checkpoint).map_err(|err| err.in_file(path))?;
        let parts = weights.iter().map(|name| read_part(&mut source, name));
        let parts = parts.collect::<Result<_>>()?;
        checkpoint = gguf::split::join(parts).map_err(|err| err.in_file(&parent))?;
        // Config and tokenizer are inside: what lies around it may be of other models.
        let files = weights.iter().filter_map(|name| {
            let len = source.extent(source.find(name)?).len;
            Some(FolderFile { name: name.clone(), len })
        });
        let files = files.collect();
        return Ok(Opened {
            path: path.to_owned(),
            source,
            checkpoint,
            is_package: false,
            files,
            weights,
        });
    }
    let files = list(&parent)?;
    Ok(Opened { path: path.to_owned(), source, checkpoint, is_package: false, files, weights })
}

fn open_folder(path: &Path, files: Vec<FolderFile>) -> Result<Opened> {
    let mut source = Source::new(path);
    let mut checkpoint = Checkpoint::default();
    let has = |name: &str| files.iter().any(|file| file.name == name);
    let is_package = has(package::MODEL_FILE) && is_model_file(path)?;
    let weights = match choose(path, &files)? {
        Choice::Index(name) => {
            let weights = read_index(&mut source, &name, &mut checkpoint)?;
            check_no_extra_shard(path, &files, &weights)?;
            weights
        }
        Choice::Files(names) => {
            let parts = names.iter().map(|name| read_part(&mut source, name));
            let parts = parts.collect::<Result<Vec<_>>>()?;
            if parts.iter().all(|(_, part)| part.format == "gguf") {
                checkpoint = gguf::split::join(parts).map_err(|err| err.in_file(path))?;
            } else {
                for (name, part) in parts {
                    append(&mut checkpoint, part, &name)?;
                }
            }
            names
        }
    };
    let mut weights = weights;
    if is_package {
        read_encodings(path, &mut checkpoint)?;
    } else {
        read_modules(&mut source, &files, &mut checkpoint, &mut weights)?;
    }
    note_others(&files, &weights, &mut checkpoint);
    Ok(Opened { path: path.to_owned(), source, checkpoint, is_package, files, weights })
}

fn read_part(source: &mut Source, name: &str) -> Result<(String, Checkpoint)> {
    let file = source.add(name).map_err(|err| err.context(&format!("the part `{name}`")))?;
    Ok((name.to_owned(), read_file(source, file)?))
}

/// Whether `model.json` is the standard's: other tools write files of that name too.
fn is_model_file(folder: &Path) -> Result<bool> {
    let json: Option<Json> = serde_json::from_slice(&read_model_file(folder)?).ok();
    let has = |key: &str| json.as_ref().is_some_and(|json| json.get(key).is_some());
    Ok(json.is_none() || (has("spec") && has("conformance")))
}

/// Tells the tensors of a package that are blocks what they are. What `model.json` says wrongly is
/// left alone: the rules of the package find it.
fn read_encodings(folder: &Path, checkpoint: &mut Checkpoint) -> Result<()> {
    let json: Json = serde_json::from_slice(&read_model_file(folder)?).unwrap_or_default();
    let Some(Json::Object(entries)) = json.get("encodings") else { return Ok(()) };
    join_parts(entries, checkpoint);
    for tensor in &mut checkpoint.tensors {
        let Some(entry) = entries.get(&tensor.name) else { continue };
        if tensor.encoding.is_none() {
            let encoding = gguf::types::TYPES.encoding(entry, tensor.dtype, &tensor.shape);
            tensor.encoding = encoding.ok();
        }
    }
    Ok(())
}

fn read_model_file(folder: &Path) -> Result<Vec<u8>> {
    let path = folder.join(package::MODEL_FILE);
    std::fs::read(&path).map_err(|err| Error::io(&path, "read", err))
}

/// Makes one tensor of those that a package stores as several.
fn join_parts(entries: &serde_json::Map<String, Json>, checkpoint: &mut Checkpoint) {
    let tensors = &checkpoint.tensors;
    let stored: Vec<Stored<'_>> = tensors.iter().map(Stored::of).collect();
    let index: HashMap<&str, usize> =
        stored.iter().enumerate().map(|(at, tensor)| (tensor.name, at)).collect();
    let mut wholes: HashMap<usize, Tensor> = HashMap::new();
    let mut taken: HashSet<usize> = HashSet::new();
    for (name, entry) in entries {
        let found = LAYOUTS.packaged(name, entry, &stored, |name| index.get(name).copied());
        let Ok(Some((encoding, places))) = found else { continue };
        let parts: Vec<StoredPart> = places
            .iter()
            .map(|(role, at)| StoredPart { role: role.clone(), tensor: tensors[*at].clone() })
            .collect();
        taken.extend(places.iter().map(|(_, at)| *at));
        let payload = Payload::Parts(parts.clone());
        let whole = Tensor::of_parts(name.clone(), encoding, &parts, payload);
        wholes.extend(places.first().map(|(_, at)| (*at, whole)));
    }
    let joined = tensors.iter().enumerate().filter_map(|(at, tensor)| match wholes.remove(&at) {
        Some(whole) => Some(whole),
        None => (!taken.contains(&at)).then(|| tensor.clone()),
    });
    checkpoint.tensors = joined.collect();
}

enum Choice {
    Index(String),
    Files(Vec<String>),
}

/// The weights of a folder: by index, by the usual name, by a scheme of shard names, or the only
/// file that can be meant; safetensors first.
fn choose(folder: &Path, files: &[FolderFile]) -> Result<Choice> {
    let top: Vec<&str> =
        files.iter().map(|file| file.name.as_str()).filter(|name| !name.contains('/')).collect();
    for end in WEIGHT_ENDS {
        // transformers takes the single file before an index; so does everyone who tests with it.
        let single = SINGLE_FILES.iter().find(|name| ending(name) == *end);
        if let Some(single) = single.filter(|single| top.contains(single)) {
            return Ok(Choice::Files(vec![(*single).to_string()]));
        }
        // The index that ends alike: `model.safetensors.index.json`, and with a variant
        // `model.safetensors.index.fp16.json`.
        let indexes: Vec<&&str> = top
            .iter()
            .filter(|name| name.contains(&format!(".{end}.index.")) && name.ends_with(".json"))
            .collect();
        let plain = indexes.iter().find(|name| INDEX_ENDS.iter().any(|end| name.ends_with(end)));
        if let Some(index) = plain.or(indexes.first()) {
            return Ok(Choice::Index((**index).to_string()));
        }
        let candidates: Vec<&str> = top
            .iter()
            .copied()
            .filter(|name| ending(name) == *end && !NOT_WEIGHTS.contains(name))
            .collect();
        let shards: Vec<Shard<'_>> = candidates.iter().filter_map(|name| shard(name)).collect();
        if let Some(first) = shards.first() {
            let kin: Vec<&Shard<'_>> =
                shards.iter().filter(|shard| shard.series == first.series).collect();
            if kin.len() < shards.len() {
                let message = format!(
                    "two series of shards: `{}` and `{}`",
                    first.name,
                    shards.iter().find(|shard| shard.series != first.series).map_or("", |s| s.name)
                );
                return Err(Error::new(ErrorKind::Malformed, message).in_file(folder));
            }
            let numbers: BTreeSet<u64> = kin.iter().map(|shard| shard.number).collect();
            if let Some(missing) = (1..=first.count).find(|number| !numbers.contains(number)) {
                let message = format!(
                    "shard {missing} of {} is missing beside `{}`",
                    first.count, first.name
                );
                return Err(Error::new(ErrorKind::Malformed, message).in_file(folder));
            }
            if numbers.len() as u64 != first.count || kin.len() != numbers.len() {
                let message = format!("{} files are shards of {}", kin.len(), first.count);
                return Err(Error::new(ErrorKind::Malformed, message).in_file(folder));
            }
            let mut kin = kin;
            kin.sort_by_key(|shard| shard.number);
            return Ok(Choice::Files(kin.iter().map(|shard| shard.name.to_owned()).collect()));
        }
        match candidates.as_slice() {
            [] => {}
            [name] => return Ok(Choice::Files(vec![(*name).to_owned()])),
            several => {
                let message = format!(
                    "several files could be the weights: {}; name one of them instead of the folder",
                    several.join(", ")
                );
                return Err(Error::unsupported(message).in_file(folder));
            }
        }
    }
    let message =
        "has no weights: no .safetensors, .bin, .pt, .pth, .ckpt or .gguf file, and no shard index";
    Err(Error::unsupported(message).in_file(folder))
}

fn ending(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, end)| end)
}

/// One file of a series, `model-00001-of-00014.safetensors` or
/// `model.safetensors-00001-of-00014.safetensors`.
struct Shard<'a> {
    name: &'a str,
    series: (&'a str, &'a str, u64),
    number: u64,
    count: u64,
}

fn shard(name: &str) -> Option<Shard<'_>> {
    let (before, after) = name.split_once("-of-")?;
    let digits = before.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (stem, number) = before.split_at(before.len() - digits);
    let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    let (count, rest) = after.split_at(end);
    let (number, count) = (number.parse().ok()?, count.parse().ok()?);
    Some(Shard { name, series: (stem, rest, count), number, count })
}

fn check_no_extra_shard(folder: &Path, files: &[FolderFile], weights: &[String]) -> Result<()> {
    let known: BTreeSet<&str> = weights.iter().map(String::as_str).collect();
    let series: BTreeSet<_> = weights
        .iter()
        .filter_map(|name| shard(name))
        .map(|shard| (shard.series.0, shard.series.1))
        .collect();
    for file in files {
        let Some(shard) = shard(&file.name) else { continue };
        if series.contains(&(shard.series.0, shard.series.1)) && !known.contains(shard.name) {
            let message = format!("the shard `{}` is not in the index", file.name);
            return Err(Error::new(ErrorKind::Malformed, message).in_file(folder));
        }
    }
    Ok(())
}

/// Reads every shard that an index names, and holds the two against each other.
fn read_index(source: &mut Source, name: &str, checkpoint: &mut Checkpoint) -> Result<Vec<String>> {
    let index_file = source.add(name)?;
    let path = source.path(index_file).to_owned();
    let text = source.bytes(index_file);
    let index = json::parse(text, 0).map_err(|err| err.in_file(&path))?;
    let malformed = |message: String| Error::new(ErrorKind::Malformed, message).in_file(&path);
    let Some(Json::Object(map)) = index.get("weight_map") else {
        return Err(malformed(
            "a shard index has an object `weight_map`; there is none".to_owned(),
        ));
    };
    let mut by_file: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().ok_or_else(|| {
            malformed(format!("`weight_map` gives `{tensor}` {file}, where a file name should be"))
        })?;
        by_file.entry(file).or_default().insert(tensor);
    }
    let mut weights = Vec::new();
    for (file, tensors) in by_file {
        let id =
            source.add(file).map_err(|err| err.context(&format!("shard `{file}` of the index")))?;
        let part = read_file(source, id)?;
        let present: BTreeSet<&str> =
            part.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        if let Some(missing) = tensors.difference(&present).next() {
            return Err(malformed(format!(
                "the index puts `{missing}` in `{file}`, which does not have it"
            )));
        }
        if let Some(extra) = present.difference(&tensors).next() {
            let place = map.get(*extra).map_or_else(
                || "does not know it".to_owned(),
                |place| format!("puts it in {place}"),
            );
            return Err(malformed(format!("`{file}` has `{extra}`, and the index {place}")));
        }
        append(checkpoint, part, file)?;
        weights.push(file.to_owned());
    }
    let claimed = index.get("metadata").and_then(|metadata| metadata.get("total_size"));
    let total: u64 = checkpoint.tensors.iter().filter_map(crate::checkpoint::Tensor::n_bytes).sum();
    if let Some(claimed) = claimed
        && claimed.as_u64().is_some_and(|claimed| claimed != total)
    {
        checkpoint.findings.push(
            Diagnostic::warning(
                "R013",
                format!("`total_size` of {name} is {claimed}, the tensors have {total} bytes"),
            )
            .file(name)
            .mismatch(total, claimed),
        );
    }
    Ok(weights)
}

/// Reads the weights of the modules that follow a transformer, which lie in folders of their own.
fn read_modules(
    source: &mut Source,
    files: &[FolderFile],
    checkpoint: &mut Checkpoint,
    weights: &mut Vec<String>,
) -> Result<()> {
    if !files.iter().any(|file| file.name == MODULES_FILE) {
        return Ok(());
    }
    let id = source.add(MODULES_FILE)?;
    let listed = json::parse(source.bytes(id), 0).map_err(|err| err.in_file(source.path(id)))?;
    for (index, path) in sentence_transformers::dense_paths(&listed).iter().enumerate() {
        let names =
            sentence_transformers::DENSE_WEIGHTS.iter().map(|name| format!("{path}/{name}"));
        let found = names.into_iter().find(|name| files.iter().any(|file| file.name == *name));
        let Some(name) = found else { continue };
        let id = source.add(&name)?;
        let mut part = read_file(source, id)?;
        for tensor in &mut part.tensors {
            tensor.name = sentence_transformers::dense_name(index + 1, &tensor.name);
        }
        // The container is that of the transformer.
        part.format = checkpoint.format;
        append(checkpoint, part, &name)?;
        weights.push(name);
    }
    Ok(())
}

/// Reads one weight file of any format.
///
/// # Errors
/// The file is of no known format, or damaged.
pub fn read_file(source: &Source, file: FileId) -> Result<Checkpoint> {
    let bytes = source.bytes(file);
    let head = &bytes[..bytes.len().min(512)];
    if head.starts_with(b"version https://git-lfs") {
        let message = "is a Git LFS pointer, not the weights; `git lfs pull` fetches them";
        return Err(Error::new(ErrorKind::Malformed, message).in_file(source.path(file)));
    }
    if gguf::probe(head) {
        return gguf::read(source, file);
    }
    if pytorch::probe(head) {
        return pytorch::read(source, file);
    }
    // Without a magic number, the name counts as much as the bytes.
    if safetensors::probe(head) || source.name(file).ends_with(".safetensors") {
        return safetensors::read(source, file);
    }
    let message = if bytes.is_empty() {
        "is empty".to_owned()
    } else {
        "is of no format known here: safetensors, PyTorch and GGUF files are".to_owned()
    };
    Err(Error::unsupported(message).in_file(source.path(file)))
}

fn append(checkpoint: &mut Checkpoint, part: Checkpoint, file: &str) -> Result<()> {
    let twice = {
        let known: BTreeSet<&str> = checkpoint.tensors.iter().map(|t| t.name.as_str()).collect();
        part.tensors.iter().find(|tensor| known.contains(tensor.name.as_str()))
    };
    if let Some(twice) = twice {
        let message =
            format!("the tensor `{}` is in two shards, the second is `{file}`", twice.name);
        return Err(Error::new(ErrorKind::Malformed, message));
    }
    checkpoint.format = part.format;
    checkpoint.tensors.extend(part.tensors);
    checkpoint.metadata.extend(part.metadata);
    checkpoint.findings.extend(part.findings);
    Ok(())
}

/// Tells of weight files of the folder that were not read.
fn note_others(files: &[FolderFile], weights: &[String], checkpoint: &mut Checkpoint) {
    let others: Vec<&str> = files
        .iter()
        .map(|file| file.name.as_str())
        .filter(|name| {
            WEIGHT_ENDS.contains(&ending(name))
                && !weights.iter().any(|weight| weight == name)
                && !name.contains('/')
                && !NOT_WEIGHTS.contains(name)
        })
        .collect();
    if !others.is_empty() {
        checkpoint.findings.push(
            Diagnostic::note(
                "R014",
                format!("other weights of the folder are not read: {}", others.join(", ")),
            )
            .help("name a file instead of the folder to read it"),
        );
    }
}

/// The files below a folder, sorted by path.
///
/// # Errors
/// The folder cannot be read, or holds too many files.
pub fn list(folder: &Path) -> Result<Vec<FolderFile>> {
    let mut files = Vec::new();
    walk(folder, "", 0, &mut files)?;
    files.sort();
    Ok(files)
}

fn walk(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<FolderFile>) -> Result<()> {
    let entries =
        std::fs::read_dir(folder).map_err(|err| Error::io(folder, "read the folder", err))?;
    for entry in entries {
        let entry = entry.map_err(|err| Error::io(folder, "read the folder", err))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Repositories and download caches keep their own files in hidden folders.
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{name}");
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        let metadata = match entry.path().metadata() {
            Ok(metadata) => metadata,
            // A link to nothing is a file that cannot be read: told when it is wanted.
            Err(_) if is_link => {
                files.push(FolderFile { name, len: 0 });
                continue;
            }
            Err(err) => return Err(Error::io(&entry.path(), "look at", err)),
        };
        if metadata.is_dir() && !is_link && depth < MAX_DEPTH {
            walk(&entry.path(), &format!("{name}/"), depth + 1, files)?;
        } else if metadata.is_file() {
            files.push(FolderFile { name, len: metadata.len() });
        }
        if MAX_FILES < files.len() {
            let message = format!("has more than {MAX_FILES} files");
            return Err(Error::new(ErrorKind::Limit, message).in_file(folder));
        }
    }
    Ok(())
}

impl Opened {
    /// Whether there is such a file.
    pub fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.name == name)
    }

    /// The text of a file of the folder, if it is there.
    ///
    /// # Errors
    /// It cannot be read, is no UTF-8, or is too long to be text.
    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        let Some(file) = self.files.iter().find(|file| file.name == name) else { return Ok(None) };
        let path = self.source.root().join(name);
        if MAX_TEXT_LEN < file.len {
            let message = format!("{} bytes of text, at most {MAX_TEXT_LEN} are read", file.len);
            return Err(Error::new(ErrorKind::Limit, message).in_file(&path));
        }
        let id = self.source.add(name)?;
        let text = String::from_utf8(self.source.bytes(id).to_vec());
        text.map(Some).map_err(|err| {
            let offset = err.utf8_error().valid_up_to() as u64;
            Error::malformed(offset, "is not UTF-8").in_file(&path)
        })
    }

    /// A file of the folder as JSON, if it is there; strict but for the infinite numbers of
    /// Python's configs.
    ///
    /// # Errors
    /// It cannot be read, or is no JSON.
    pub fn json(&mut self, name: &str) -> Result<Option<Json>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let path = self.source.root().join(name);
        json::parse_python(text.as_bytes(), 0).map(Some).map_err(|err| err.in_file(&path))
    }

    /// The checkpoint of a foreign folder with each tensor that is stored as several as the one
    /// that it is; `None` if it has none.
    ///
    /// # Errors
    /// The config, which says how they are stored, cannot be read.
    pub fn logical(&mut self) -> Result<Option<Checkpoint>> {
        if self.is_package || self.checkpoint.format == "gguf" {
            return Ok(None);
        }
        let config = self.config()?.map(|(config, _)| config);
        Ok(layout::logical(&self.checkpoint, config.as_ref(), &self.source))
    }

    /// The config of a foreign folder and its text. Where it does not say how tensors are packed,
    /// and a file beside it does, with that.
    ///
    /// # Errors
    /// One of them cannot be read, or is no JSON.
    pub fn config(&mut self) -> Result<Option<(Json, String)>> {
        let Some(mut config) = self.json(CONFIG_FILE)? else { return Ok(None) };
        if !LAYOUTS.is_told(&config) {
            for beside in &LAYOUTS.beside {
                if let Some(says) = self.json(&beside.file)? {
                    LAYOUTS.tell(&mut config, beside, says);
                    let text = serde_json::to_string_pretty(&config).expect("it was JSON");
                    return Ok(Some((config, text + "\n")));
                }
            }
        }
        let text = self.text(CONFIG_FILE)?;
        Ok(text.map(|text| (config, text)))
    }
}
