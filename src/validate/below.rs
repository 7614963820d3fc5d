//! The packages and checkpoints below a folder.

use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::base::error::{Error, ErrorKind, Result};
use crate::folder::{self, shard_number};
use crate::format;
use crate::rule::view::is_package;

/// An input that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its path.
    pub path: PathBuf,
    /// Why it is nothing to check, where it looked like something.
    pub nothing: Option<String>,
}

/// How deep folders are looked into.
const MAX_DEPTH: usize = 16;

/// Finds packages and checkpoints below a folder, sorted by path. A folder that is one is not looked
/// into; hidden folders are not either. What has the ending of weights and is none is told as such.
///
/// # Errors
/// A folder cannot be listed.
pub fn below(folder: &Path) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let walk = WalkDir::new(folder).max_depth(MAX_DEPTH).sort_by_file_name();
    let mut walk = walk.into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(|err| {
            let path = err.path().unwrap_or(folder).to_owned();
            let message = format!("cannot list: {err}");
            Error::new(ErrorKind::Io, message).in_file(&path)
        })?;
        if entry.depth() != 0 && is_hidden(&entry) {
            if entry.file_type().is_dir() {
                walk.skip_current_dir();
            }
            continue;
        }
        if !entry.file_type().is_dir() {
            continue;
        }
        if entry.depth() == MAX_DEPTH {
            let why = format!("it lies {MAX_DEPTH} folders deep, and is not looked into");
            found.push(Found { path: entry.path().to_owned(), nothing: Some(why) });
            continue;
        }
        let here = inputs_of(entry.path())?;
        if !here.is_empty() {
            // Its subfolders belong to it, but for a folder of many models.
            let whole = here.iter().any(|one| one.path == entry.path() && one.nothing.is_none());
            if whole {
                walk.skip_current_dir();
            }
            found.extend(here);
        }
    }
    Ok(found)
}

fn is_hidden(entry: &DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with('.')
}

/// The inputs that a folder itself is or has.
fn inputs_of(folder: &Path) -> Result<Vec<Found>> {
    let input = |path: &Path| Found { path: path.to_owned(), nothing: None };
    let mut names: Vec<String> = Vec::new();
    let entries = std::fs::read_dir(folder).map_err(|err| Error::io(folder, "list", err))?;
    for entry in entries {
        let entry = entry.map_err(|err| Error::io(folder, "list", err))?;
        if entry.path().is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort_unstable();
    if names
        .iter()
        .any(|name| name == crate::package::MODEL_FILE || name == crate::package::MANIFEST_FILE)
        && is_package(folder, &folder::list(folder)?)
    {
        return Ok(vec![input(folder)]);
    }
    let end = |name: &String| name.rsplit_once('.').map_or("", |(_, end)| end).to_ascii_lowercase();
    let weights: Vec<&String> =
        names.iter().filter(|name| format::of_ending(&end(name)).is_some()).collect();
    if weights.is_empty() {
        return Ok(Vec::new());
    }
    // Files that hold a whole model each lie beside each other: quantizations of one model.
    if weights.iter().all(|name| end(name) == "gguf") {
        let first = |name: &&&String| {
            let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
            shard_number(stem).is_none_or(|(number, _)| number <= 1)
        };
        let files = weights.iter().filter(first).map(|name| input(&folder.join(name)));
        return Ok(files.collect());
    }
    let nothing = match folder::open(folder) {
        Err(err) if err.kind() == ErrorKind::Unsupported => Some(err.message().to_owned()),
        // What is damaged is told by the rules.
        _ => None,
    };
    Ok(vec![Found { path: folder.to_owned(), nothing }])
}
