//! Opens a file or a folder as one checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;

use super::archive;
use super::choose::{Choice, check_no_extra_shard, choose, ending, is_weights};
use super::index::read_index;
use super::index::read_part;
use super::join::{Joined, join_parts};
use super::list::CONFIG_FILE;
use super::list::{FolderFile, list};
use super::modules::{beside, lay_out, read_modules};
use super::opened::Opened;
use super::trainer::beside_config;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::mirror;
use crate::base::source::Source;
use crate::checkpoint::Checkpoint;
use crate::encoding::layout::Layouts;
use crate::format::{self, Format, gguf, read_file};
use crate::package;

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
    /// How libraries store one tensor as several; as this program carries it where nothing is said.
    pub layouts: Option<&'h Arc<Layouts>>,
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
    opened.layouts = how.layouts.cloned();
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
    source = match archive::mount(source, file)? {
        Ok((source, files)) => return open_folder(path, source, files, how),
        Err(source) => source,
    };
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
    if !is_package
        && let Some(mut run) =
            crate::folder::trainer::find(&source, path, &files, wanted, how.step)?
    {
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
        read_encodings(path, how.layouts, &mut checkpoint)?;
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

/// Whether `model.json` is the standard's, or may be: one that is no JSON is told as such later.
fn is_model_file(folder: &Path) -> Result<bool> {
    let json: Option<Json> = serde_json::from_slice(&read_model_file(folder)?).ok();
    Ok(json.as_ref().is_none_or(package::is_model))
}

/// Tells the tensors of a package that are blocks what they are. What `model.json` says wrongly is
/// left alone: the rules of the package find it.
fn read_encodings(
    folder: &Path,
    layouts: Option<&Arc<Layouts>>,
    checkpoint: &mut Checkpoint,
) -> Result<()> {
    let json: Json = serde_json::from_slice(&read_model_file(folder)?).unwrap_or_default();
    let Some(Json::Object(entries)) = json.get("encodings") else { return Ok(()) };
    let layouts = layouts.map_or_else(Layouts::carried, Arc::clone);
    join_parts(&layouts, entries, checkpoint);
    for tensor in &mut checkpoint.tensors {
        let Some(entry) = entries.get(&*tensor.name) else { continue };
        if tensor.encoding.is_none() {
            let encoding = gguf::types::TYPES.encoding(entry, tensor.dtype, &tensor.shape);
            tensor.encoding = encoding.ok().map(Box::new);
        }
    }
    Ok(())
}

fn read_model_file(folder: &Path) -> Result<Vec<u8>> {
    let path = folder.join(package::MODEL_FILE);
    mirror::whole(&path)?;
    std::fs::read(&path).map_err(|err| Error::io(&path, "read", err))
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
