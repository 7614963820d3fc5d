//! The destination: what may be replaced there, and how a folder says who wrote it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::request::Request;
use super::sidecar::{json_text, write_file};
use crate::base::error::{Error, ErrorKind, Result};
use crate::exec::staging::{Existing, Staging};
use crate::folder::Opened;
use crate::format::{self, Probe};
use crate::package::{BUFFERS_FILE, MANIFEST_FILE, MODEL_FILE, SOURCE_FILE, is_model};

/// The hidden file of a folder that this program wrote and that is no package.
pub(super) const MARKER_FILE: &str = ".llmstd.json";

/// What the marker says.
#[derive(Serialize, Deserialize)]
struct Marker {
    /// `llmstd.output/1`.
    schema: String,
    /// The program that wrote the folder.
    tool: String,
    /// The format that was asked for.
    to: String,
    /// The files that were written.
    files: Vec<String>,
}

/// Says in a folder that is no package which files of it were written here, so that `--force`
/// knows what it may replace.
pub(super) fn mark(folder: &Path, to: &str) -> Result<()> {
    let marker = Marker {
        schema: "llmstd.output/1".to_owned(),
        tool: concat!("llmstd ", env!("CARGO_PKG_VERSION")).to_owned(),
        to: to.to_owned(),
        files: files_below(folder)?.into_iter().collect(),
    };
    write_file(&folder.join(MARKER_FILE), json_text(&marker).as_bytes())
}

/// Begins to write the destination of a request.
///
/// # Errors
/// As of [`check`], or the system refuses.
pub(super) fn stage<'a>(
    opened: &Opened,
    request: &Request<'_>,
    is_file: bool,
    existing: &'a dyn Fn(&Path) -> Result<()>,
) -> Result<Staging<'a>> {
    check_apart(opened, request.destination)?;
    let existing = if request.force { Existing::Replace(existing) } else { Existing::Keep };
    match is_file {
        true => Staging::of_file(request.destination, existing),
        false => Staging::new(request.destination, existing),
    }
}

/// Refuses a destination that cannot be written, before anything is.
///
/// # Errors
/// It exists and may not be replaced, or it is, holds or lies in the source.
pub(super) fn check(opened: &Opened, request: &Request<'_>) -> Result<()> {
    let destination = request.destination;
    check_apart(opened, destination)?;
    match destination.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(_) if !request.force => {
            let message = "already exists; --force replaces it";
            Err(Error::new(ErrorKind::Io, message).in_file(destination))
        }
        Ok(_) => replaceable(destination),
    }
}

/// Refuses to replace what this program did not write.
///
/// # Errors
/// The destination is something else, or has something else in it; or it cannot be read.
pub(super) fn replaceable(destination: &Path) -> Result<()> {
    let refuse = |message: String| {
        let message = format!("{message}; --force replaces only what llmstd wrote");
        Error::new(ErrorKind::Io, message).in_file(destination)
    };
    let metadata = destination
        .symlink_metadata()
        .map_err(|err| Error::io(destination, "look at what is there", err))?;
    if metadata.is_file() {
        let is_of_format = metadata.len() == 0 || has_magic(destination)?;
        let end = ending(destination);
        let message = || refuse(format!("is no {end} file in spite of its name"));
        return if is_of_format { Ok(()) } else { Err(message()) };
    }
    if !metadata.is_dir() {
        return Ok(()); // Refused where it is written.
    }
    let files = files_below(destination)?;
    if files.is_empty() {
        return Ok(());
    }
    let Some(own) = own_files(destination)? else {
        let message = "is neither a package, nor a folder with the marker .llmstd.json, nor empty";
        return Err(refuse(message.to_owned()));
    };
    match files.difference(&own).next() {
        None => Ok(()),
        Some(other) => Err(refuse(format!(
            "has `{other}`, which llmstd did not write there: move it away, or name another folder"
        ))),
    }
}

fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether a file begins like one of the format that its name says.
fn has_magic(path: &Path) -> Result<bool> {
    use std::io::Read as _;
    let mut head = Vec::new();
    let file = fs::File::open(path).map_err(|err| Error::io(path, "open", err))?;
    file.take(512).read_to_end(&mut head).map_err(|err| Error::io(path, "read", err))?;
    let of_ending = format::of_ending(&ending(path));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(of_ending.is_some_and(|format| (format.probe)(&head, &name) != Probe::No))
}

/// The files that this program wrote into a folder, if it did.
fn own_files(folder: &Path) -> Result<Option<BTreeSet<String>>> {
    let read = |name: &str| -> Result<Option<Json>> {
        let path = folder.join(name);
        match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(Error::io(&path, "read", err)),
        }
    };
    if let Some(marker) = read(MARKER_FILE)?
        && let Ok(marker) = serde_json::from_value::<Marker>(marker)
        && marker.schema == "llmstd.output/1"
    {
        return Ok(Some(marker.files.into_iter().chain([MARKER_FILE.to_owned()]).collect()));
    }
    if !read(MODEL_FILE)?.is_some_and(|json| is_model(&json)) {
        return Ok(None);
    }
    let Some(manifest) = read(MANIFEST_FILE)? else { return Ok(None) };
    let Some(listed) = manifest.get("files").and_then(Json::as_array) else { return Ok(None) };
    let paths = listed.iter().filter_map(|file| Some(file.get("path")?.as_str()?.to_owned()));
    let beside = [MODEL_FILE, MANIFEST_FILE, SOURCE_FILE, BUFFERS_FILE].map(str::to_owned);
    Ok(Some(paths.chain(beside).collect()))
}

/// Every file below a folder, hidden ones too, as a path relative to it; no link is followed.
fn files_below(folder: &Path) -> Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((path, prefix)) = folders.pop() {
        let entries = fs::read_dir(&path).map_err(|err| Error::io(&path, "list", err))?;
        for entry in entries {
            let entry = entry.map_err(|err| Error::io(&path, "list", err))?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().map_err(|err| Error::io(&entry.path(), "look at", err))?;
            if kind.is_dir() {
                folders.push((entry.path(), format!("{name}/")));
            } else {
                files.insert(name);
            }
        }
    }
    Ok(files)
}

/// Refuses a destination that is, holds or lies in the source, wherever links lead.
pub(super) fn check_apart(opened: &Opened, destination: &Path) -> Result<()> {
    let refuse = |how: &str, what: &Path| {
        let message = format!("{how} the source {}: choose another destination", what.display());
        Err(Error::new(ErrorKind::Io, message).in_file(destination))
    };
    let canonical =
        |path: &Path| path.canonicalize().map_err(|err| Error::io(path, "look at", err));
    // The destination by its own name and, where it is a link, by what it leads to.
    let mut places = Vec::new();
    if let Some(name) = destination.file_name() {
        let parent = match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // A folder that is not there is told of where it is written.
        let Ok(parent) = parent.canonicalize() else { return Ok(()) };
        places.push(parent.join(name));
    }
    places.extend(destination.canonicalize().ok());
    let named = canonical(&opened.path)?;
    let root = opened.source.root();
    let root = canonical(if root.as_os_str().is_empty() { Path::new(".") } else { root })?;
    // By the names that the source has them under, and by what these lead to.
    let names = opened.weights.iter().chain(opened.files.iter().map(|file| &file.name));
    let mut sources: BTreeSet<PathBuf> = names
        .map(|name| {
            let path = opened.source.place(name);
            path.strip_prefix(opened.source.root()).map_or(path.clone(), |rest| root.join(rest))
        })
        .collect();
    sources.extend(sources.clone().iter().filter_map(|path| path.canonicalize().ok()));
    sources.insert(named.clone());
    let folders: BTreeSet<&Path> = sources.iter().flat_map(|path| path.ancestors()).collect();
    for place in &places {
        if is_same(place, &named) {
            return refuse("is", &opened.path);
        }
        if let Some(found) = folders.iter().find(|folder| is_same(place, folder)) {
            return refuse(
                if sources.contains(*found) { "is a file of" } else { "holds" },
                &opened.path,
            );
        }
        if named.is_dir() && place.ancestors().any(|folder| is_same(folder, &named)) {
            return refuse("lies in", &opened.path);
        }
    }
    Ok(())
}

/// Whether two canonical paths are one file or folder, under one name or, through mounts, two.
fn is_same(left: &Path, right: &Path) -> bool {
    if left == right {
        return true;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        // Two names of a file are replaced apart; of a folder there is one only.
        let identity = |path: &Path| {
            let metadata = path.symlink_metadata().ok().filter(fs::Metadata::is_dir)?;
            Some((metadata.dev(), metadata.ino()))
        };
        identity(left).is_some_and(|left| Some(left) == identity(right))
    }
    #[cfg(not(unix))]
    false
}

/// A folder below another one, which is made; the path comes from a file and stays inside.
pub(super) fn inside(folder: &Path, path: &str) -> Result<PathBuf> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || path.is_empty() {
        let message = format!("the path {path:?} does not stay inside the folder");
        return Err(Error::new(ErrorKind::Malformed, message).in_file(folder));
    }
    let path = folder.join(path);
    fs::create_dir_all(&path).map_err(|err| Error::io(&path, "create the folder", err))?;
    Ok(path)
}
