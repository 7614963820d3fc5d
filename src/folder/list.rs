//! The files of a folder.

use std::path::Path;

use crate::base::error::{Error, ErrorKind, Result};
use crate::format::dcp::METADATA_FILE;

/// The config of a foreign folder.
pub const CONFIG_FILE: &str = "config.json";

/// A file of a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FolderFile {
    /// Its path relative to the folder, with `/`.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// Folders with more files than this are not listed.
const MAX_FILES: usize = 100_000;

/// Files whose names begin with a dot and that are of checkpoints, one of zarr.
const HIDDEN: [&str; 2] = [METADATA_FILE, ".zarray"];

/// How deep folders are listed: `1_Pooling/config.json` is at 1.
const MAX_DEPTH: usize = 3;

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
        if name.starts_with('.') && !HIDDEN.contains(&name.as_str()) {
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
