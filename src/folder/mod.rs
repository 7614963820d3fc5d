//! Which files of a folder are the checkpoint, and reading them as one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

mod choose;
mod index;
mod modules;
pub mod sentence_transformers;
mod trainer;

pub use self::choose::shard_number;
use self::choose::{Choice, check_no_extra_shard, choose, ending, is_weights};
use self::index::read_index;
use self::modules::{beside, lay_out, listed, read_modules};
use self::sentence_transformers::MODULES_FILE;
use self::trainer::beside_config;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::json;
use crate::base::source::Source;
use crate::checkpoint::{Checkpoint, Payload, StoredPart, Tensor};
use crate::encoding::layout::{self, LAYOUTS, Stored};
use crate::format::dcp::METADATA_FILE;
use crate::format::{self, Format, gguf, read_file};
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
    /// The names that files have for tensors that the checkpoint has under other ones.
    pub renamed: BTreeMap<String, String>,
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

/// Opens a checkpoint: a file, a folder, or an index file.
///
/// # Errors
/// There is nothing, or more than one thing, that can be read; or what is there is damaged.
pub fn open(path: &Path) -> Result<Opened> {
    open_as(path, &How::default())
}

/// What is to be known of an input beside its path.
#[derive(Clone, Copy, Default)]
pub struct How<'h> {
    /// The format that is read, where a folder has several.
    pub format: Option<&'static Format>,
    /// What is done with links that lead out.
    pub links: Links,
    /// The folder in which the config and the tokenizer are, where they are not beside the weights.
    pub config: Option<&'h Path>,
    /// Which of the steps that a trainer left is read: the name of its folder, or its number.
    pub step: Option<&'h str>,
}

/// What is done with links that lead out of the folder that was named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Links {
    /// They are followed, and told of.
    #[default]
    Follow,
    /// They are refused.
    Refuse,
}

/// As [`open`], of one format where a folder has several, and with a word on links.
///
/// # Errors
/// As [`open`]; or a link leads out of the folder, and those are refused.
pub fn open_with(path: &Path, wanted: Option<&'static Format>, links: Links) -> Result<Opened> {
    open_as(path, &How { format: wanted, links, ..How::default() })
}

/// As [`open`], with what is to be known beside the path.
///
/// # Errors
/// As [`open`]; or a link leads out of the folder, and those are refused; or what was asked for is not
/// there, or is for another kind of input.
pub fn open_as(path: &Path, how: &How<'_>) -> Result<Opened> {
    let links = how.links;
    let mut opened = open_any(path, how)?;
    if how.config.is_some()
        && (opened.is_package
            || format::find(opened.checkpoint.format).is_some_and(|format| format.is_complete))
    {
        let message = "has its config in itself: --config has no effect, leave it out";
        return Err(Error::unsupported(message).in_file(path));
    }
    let mut out = Vec::new();
    for file in &opened.files {
        if let Ok(Some(target)) = opened.source.leads_out(&file.name) {
            if links == Links::Refuse {
                let message = format!(
                    "is a link to {}, which is not in the folder; links are not followed here",
                    target.display()
                );
                return Err(Error::new(ErrorKind::Malformed, message)
                    .in_file(&opened.source.place(&file.name)));
            }
            out.push(format!("{} -> {}", file.name, target.display()));
        }
    }
    if !out.is_empty() {
        let more = out.len().saturating_sub(MAX_SHOWN_LINKS);
        out.truncate(MAX_SHOWN_LINKS);
        let more = if more == 0 { String::new() } else { format!(", and {more} more") };
        let message = format!("links to files elsewhere are followed: {}{more}", out.join(", "));
        opened.checkpoint.findings.push(
            Diagnostic::note("R015", message)
                .help("--no-follow refuses them, for folders of people you do not know"),
        );
    }
    Ok(opened)
}

/// The most links that a finding shows.
const MAX_SHOWN_LINKS: usize = 5;

fn open_any(path: &Path, how: &How<'_>) -> Result<Opened> {
    let wanted = how.format;
    let new_source = |root: &Path| match how.links {
        Links::Follow => Source::new(root),
        Links::Refuse => Source::inside(root),
    };
    let metadata = path.metadata().map_err(|err| Error::io(path, "open", err))?;
    if metadata.is_dir() {
        let files = list(path)?;
        return open_folder(path, new_source(path), files, how);
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
    let mut source = new_source(&parent);
    if name.ends_with(".index.json") {
        let mut checkpoint = Checkpoint::default();
        let weights = read_index(&mut source, &name, wanted, &mut checkpoint)?;
        let files = beside(&source, list(&parent)?)?;
        let files = with_config(&mut source, files, how)?;
        return Ok(Opened::new(path, source, checkpoint, files, weights));
    }
    let file = source.add_path(path)?;
    let mut checkpoint = read_file(&mut source, file, wanted)?;
    let mut weights = vec![name];
    add_read(&source, &mut weights);
    let format = format::find(checkpoint.format);
    if let Some(split) = format.and_then(|format| format.split.as_ref()) {
        weights = (split.names)(&weights[0], &checkpoint).map_err(|err| err.in_file(path))?;
        let parts = weights.iter().map(|name| read_part(&mut source, name, wanted));
        let parts = parts.collect::<Result<_>>()?;
        checkpoint = (split.join)(parts).map_err(|err| err.in_file(&parent))?;
    }
    if format.is_some_and(|format| format.is_complete) {
        // Config and tokenizer are inside: what lies around it may be of other models.
        let files = weights.iter().filter_map(|name| {
            let len = source.extent(source.find(name)?).len;
            Some(FolderFile { name: name.clone(), len })
        });
        let files = files.collect();
        return Ok(Opened::new(path, source, checkpoint, files, weights));
    }
    let files = beside(&source, list(&parent)?)?;
    let files = with_config(&mut source, files, how)?;
    Ok(Opened::new(path, source, checkpoint, files, weights))
}

/// The files of an input, with those of the folder that its config is in.
fn with_config(
    source: &mut Source,
    files: Vec<FolderFile>,
    how: &How<'_>,
) -> Result<Vec<FolderFile>> {
    let Some(folder) = how.config else { return Ok(files) };
    let found = beside_config(list(folder)?);
    if !found.iter().any(|file| file.name == CONFIG_FILE) {
        let message = format!("has no {CONFIG_FILE}: --config names the folder of one");
        return Err(Error::new(ErrorKind::Io, message).in_file(folder));
    }
    let home = std::path::absolute(folder).map_err(|err| Error::io(folder, "find", err))?;
    source.lay_out(&home, BTreeMap::new());
    let all = files.into_iter().chain(found).map(|file| (file.name, file.len));
    let all: BTreeMap<String, u64> = all.collect();
    Ok(all.into_iter().map(|(name, len)| FolderFile { name, len }).collect())
}

fn open_folder(
    path: &Path,
    mut source: Source,
    files: Vec<FolderFile>,
    how: &How<'_>,
) -> Result<Opened> {
    let wanted = how.format;
    let has = |name: &str| files.iter().any(|file| file.name == name);
    let is_package = has(package::MODEL_FILE) && is_model_file(path)?;
    if !is_package && let Some(mut run) = trainer::find(&source, path, &files, wanted, how.step)? {
        let files = match how.config {
            Some(_) => with_config(&mut source, files, how)?,
            None => run.lay_out(&mut source, files),
        };
        let (mut checkpoint, mut weights) = run.read(&mut source, &files)?;
        add_read(&source, &mut weights);
        note_others(&files, &weights, &mut checkpoint);
        return Ok(Opened::new(path, source, checkpoint, files, weights));
    }
    let mut checkpoint = Checkpoint::default();
    let files = lay_out(&mut source, files, &mut checkpoint)?;
    let files = with_config(&mut source, files, how)?;
    let weights = match choose(path, &files, wanted)? {
        Choice::Index(name) => {
            let weights = read_index(&mut source, &name, wanted, &mut checkpoint)?;
            check_no_extra_shard(path, &files, &weights)?;
            weights
        }
        Choice::Files(names) => {
            let parts = names.iter().map(|name| read_part(&mut source, name, wanted));
            let parts = parts.collect::<Result<Vec<_>>>()?;
            let first = parts.first().and_then(|(_, part)| format::find(part.format));
            let alike = |format: &&Format| parts.iter().all(|(_, part)| part.format == format.id);
            match first.filter(alike).and_then(|format| format.split.as_ref()) {
                Some(split) => {
                    checkpoint = (split.join)(parts).map_err(|err| err.in_file(path))?;
                }
                None => {
                    let mut joined = Joined::new(checkpoint);
                    for (name, part) in parts {
                        joined.append(part, &name);
                    }
                    checkpoint = joined.finish()?;
                }
            }
            let mut weights = names;
            add_read(&source, &mut weights);
            weights
        }
    };
    let mut weights = weights;
    if is_package {
        read_encodings(path, &mut checkpoint)?;
    } else {
        read_modules(&mut source, &files, &mut checkpoint, &mut weights)?;
    }
    note_others(&files, &weights, &mut checkpoint);
    Ok(Opened { is_package, ..Opened::new(path, source, checkpoint, files, weights) })
}

/// Adds the files that reading others added: those that have the elements.
fn add_read(source: &Source, weights: &mut Vec<String>) {
    let known: BTreeSet<&str> = weights.iter().map(String::as_str).collect();
    let added = source.files().filter(|file| source.is_file(*file)).map(|file| source.name(file));
    let added: Vec<String> =
        added.filter(|name| !known.contains(name)).map(str::to_owned).collect();
    weights.extend(added);
}

fn read_part(
    source: &mut Source,
    name: &str,
    wanted: Option<&'static Format>,
) -> Result<(String, Checkpoint)> {
    let file = source.add(name).map_err(|err| err.context(&format!("the part `{name}`")))?;
    Ok((name.to_owned(), read_file(source, file, wanted)?))
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

/// Parts that become one checkpoint.
struct Joined {
    checkpoint: Checkpoint,
    /// The files, with the place of the first tensor behind those of each.
    ends: Vec<(usize, String)>,
}

impl Joined {
    /// None yet, beside what is known already.
    fn new(checkpoint: Checkpoint) -> Joined {
        Joined { checkpoint, ends: Vec::new() }
    }

    fn append(&mut self, part: Checkpoint, file: &str) {
        let checkpoint = &mut self.checkpoint;
        checkpoint.format = part.format;
        checkpoint.tensors.extend(part.tensors);
        checkpoint.metadata.extend(part.metadata);
        checkpoint.findings.extend(part.findings);
        checkpoint.checksums.extend(part.checksums);
        self.ends.push((checkpoint.tensors.len(), file.to_owned()));
    }

    /// The one checkpoint.
    ///
    /// # Errors
    /// Two parts have one tensor.
    fn finish(self) -> Result<Checkpoint> {
        let tensors = &self.checkpoint.tensors;
        let mut known = HashSet::with_capacity(tensors.len());
        if let Some(place) = tensors.iter().position(|tensor| !known.insert(tensor.name.as_str())) {
            let file = self.ends.iter().find(|(end, _)| place < *end);
            let (name, file) = (&tensors[place].name, file.map_or("", |(_, file)| file));
            let message = format!("the tensor `{name}` is in two shards, the second is `{file}`");
            return Err(Error::new(ErrorKind::Malformed, message));
        }
        drop(known);
        Ok(self.checkpoint)
    }
}

/// Tells of weight files of the folder that were not read.
fn note_others(files: &[FolderFile], weights: &[String], checkpoint: &mut Checkpoint) {
    let others = files.iter().map(|file| file.name.as_str());
    let others =
        others.filter(|name| is_weights(name) && !weights.iter().any(|weight| weight == name));
    let mut by_format: BTreeMap<&str, (&Format, Vec<&str>)> = BTreeMap::new();
    for name in others {
        if let Some(format) = format::of_ending(ending(name)) {
            by_format.entry(format.id).or_insert((format, Vec::new())).1.push(name);
        }
    }
    let Some(read) = format::find(checkpoint.format).filter(|_| !by_format.is_empty()) else {
        return;
    };
    let held = by_format.values().map(|(of, names)| format!("{} ({})", of.name, names.join(", ")));
    let held = held.collect::<Vec<_>>().join(" and ");
    let message = format!(
        "other weights of the folder are not read: {held}; what is read is {} ({})",
        read.name,
        weights.join(", ")
    );
    let ids = by_format.keys().filter(|id| **id != read.id).map(|id| format!("`--from {id}`"));
    let ids = ids.collect::<Vec<_>>().join(" or ");
    let help = match ids.is_empty() {
        true => "name a file instead of the folder to read it".to_owned(),
        false => format!("{ids} reads the others, or name a file instead of the folder"),
    };
    checkpoint.findings.push(Diagnostic::note("R014", message).help(help));
}

/// The files below a folder, sorted by path. What [`survey`] finds beside them is passed over.
///
/// # Errors
/// The folder cannot be read, or holds too many files.
pub fn list(folder: &Path) -> Result<Vec<FolderFile>> {
    Ok(survey(folder)?.files)
}

/// What lies below a folder.
#[derive(Debug, Default)]
pub struct Survey {
    /// The files, sorted by path.
    pub files: Vec<FolderFile>,
    /// What is not looked into, or is nothing: its path, and what it is.
    pub odd: Vec<(String, &'static str)>,
}

/// The files below a folder, and what is there beside them.
///
/// # Errors
/// The folder cannot be read, or holds too many files.
pub fn survey(folder: &Path) -> Result<Survey> {
    let mut survey = Survey::default();
    walk(folder, "", 0, &mut survey)?;
    survey.files.sort();
    survey.odd.sort();
    Ok(survey)
}

fn walk(folder: &Path, prefix: &str, depth: usize, survey: &mut Survey) -> Result<()> {
    let entries =
        std::fs::read_dir(folder).map_err(|err| Error::io(folder, "read the folder", err))?;
    for entry in entries {
        let entry = entry.map_err(|err| Error::io(folder, "read the folder", err))?;
        let name = match entry.file_name().into_string() {
            Ok(name) => name,
            Err(name) => {
                let name = format!("{prefix}{}", name.to_string_lossy());
                survey.odd.push((name, "has a name that is not UTF-8"));
                continue;
            }
        };
        // Repositories and download caches keep their own files in hidden folders.
        if name.starts_with('.') && name != METADATA_FILE {
            continue;
        }
        let name = format!("{prefix}{name}");
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        let metadata = match entry.path().metadata() {
            Ok(metadata) => metadata,
            // A link to nothing is a file that cannot be read: told when it is wanted.
            Err(_) if is_link => {
                survey.odd.push((name.clone(), "is a link to nothing"));
                survey.files.push(FolderFile { name, len: 0 });
                continue;
            }
            Err(err) => return Err(Error::io(&entry.path(), "look at", err)),
        };
        if metadata.is_dir() {
            match () {
                () if is_link => survey.odd.push((name, "is a link to a folder")),
                () if depth == MAX_DEPTH => {
                    survey.odd.push((name, "is a folder that lies too deep to be looked into"));
                }
                () => walk(&entry.path(), &format!("{name}/"), depth + 1, survey)?,
            }
        } else if metadata.is_file() {
            survey.files.push(FolderFile { name, len: metadata.len() });
        } else {
            survey.odd.push((name, "is neither a file nor a folder"));
        }
        if MAX_FILES < survey.files.len().max(survey.odd.len()) {
            let message = format!("has more than {MAX_FILES} files");
            return Err(Error::new(ErrorKind::Limit, message).in_file(folder));
        }
    }
    Ok(())
}

impl Opened {
    /// A checkpoint that is no package, under the names of its files.
    fn new(
        path: &Path,
        source: Source,
        checkpoint: Checkpoint,
        files: Vec<FolderFile>,
        weights: Vec<String>,
    ) -> Opened {
        Opened {
            path: path.to_owned(),
            source,
            checkpoint,
            is_package: false,
            files,
            weights,
            renamed: BTreeMap::new(),
        }
    }

    /// Gives stored tensors other names, by their old ones.
    pub fn rename(&mut self, names: &BTreeMap<String, String>) {
        for tensor in &mut self.checkpoint.tensors {
            let Some(name) = names.get(&tensor.name) else { continue };
            let old = std::mem::replace(&mut tensor.name, name.clone());
            let first = self.renamed.remove(&old).unwrap_or(old);
            self.renamed.insert(name.clone(), first);
        }
    }

    /// The folders of the modules that sentence-transformers lists.
    pub fn module_folders(&self) -> Vec<String> {
        if !self.has(MODULES_FILE) {
            return Vec::new();
        }
        let listed = listed(&self.source);
        listed.map(|json| sentence_transformers::folders(&json)).unwrap_or_default()
    }

    /// The name that the files have for a tensor.
    pub fn name_in_file<'n>(&'n self, name: &'n str) -> &'n str {
        self.renamed.get(name).map_or(name, String::as_str)
    }

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
        let path = self.source.place(name);
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
        let path = self.source.place(name);
        if text.starts_with('\u{feff}') {
            let message = "begins with a byte order mark (BOM), which no JSON has; save it as UTF-8 \
                           without BOM";
            return Err(Error::malformed(0, message).in_file(&path));
        }
        json::parse_python(text.as_bytes(), 0).map(Some).map_err(|err| err.in_file(&path))
    }

    /// The checkpoint of a foreign folder with each tensor that is stored as several as the one
    /// that it is; `None` if it has none.
    ///
    /// # Errors
    /// The config, which says how they are stored, cannot be read.
    pub fn logical(&mut self) -> Result<Option<Checkpoint>> {
        if self.is_package || format::find(self.checkpoint.format).is_some_and(|of| of.is_complete)
        {
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
