//! A folder, or a file, that appears under its name when it is whole, or not at all.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::base::error::{Error, ErrorKind, Result};

/// A hidden folder beside the destination; removed when dropped before [`Staging::commit`].
pub struct Staging {
    destination: PathBuf,
    partial: PathBuf,
    /// The file of the folder that the destination is to be; the folder itself if none.
    file: Option<String>,
    force: bool,
    is_committed: bool,
}

impl Staging {
    /// Makes the folder `.NAME.llmstd-partial-PID` beside `destination`.
    ///
    /// # Errors
    /// `destination` exists and `force` is not set, or is a file, or has no name; or the system
    /// refuses.
    pub fn new(destination: &Path, force: bool) -> Result<Staging> {
        Staging::begin(destination, None, force)
    }

    /// The same folder, of which the file with the name of `destination` gets that name, and what
    /// else is in it is removed.
    ///
    /// # Errors
    /// As of [`Staging::new`]; with `force`, `destination` is a folder.
    pub fn of_file(destination: &Path, force: bool) -> Result<Staging> {
        let name = destination.file_name().map(|name| name.to_string_lossy().into_owned());
        Staging::begin(destination, Some(name.unwrap_or_default()), force)
    }

    fn begin(destination: &Path, file: Option<String>, force: bool) -> Result<Staging> {
        // `dst/` and `dst` are the same.
        let destination: PathBuf = destination.components().collect();
        if destination.file_name().is_none() {
            let message = "the destination needs a name of its own";
            return Err(Error::new(ErrorKind::Io, message).in_file(&destination));
        }
        check_destination(&destination, file.is_some(), force)?;
        let parent = parent(&destination);
        if !parent.is_dir() {
            return Err(Error::new(ErrorKind::Io, "there is no such folder").in_file(parent));
        }
        let partial = sibling(&destination, "partial");
        if partial.symlink_metadata().is_ok() {
            // Left by a process that was killed: no other one has this process id.
            fs::remove_dir_all(&partial)
                .map_err(|err| Error::io(&partial, "remove the folder", err))?;
        }
        fs::create_dir(&partial).map_err(|err| Error::io(&partial, "create the folder", err))?;
        Ok(Staging { destination, partial, file, force, is_committed: false })
    }

    /// The folder to write into.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Brings everything to the disk and gives the folder its name.
    ///
    /// With force, what had the name is moved aside first and removed last, so that at every
    /// moment one of the two is there, whole.
    ///
    /// # Errors
    /// The destination appeared meanwhile, or the system refuses; the partial folder is then
    /// removed, and what had the name before has it again.
    pub fn commit(mut self) -> Result<()> {
        sync_tree(&self.partial)?;
        check_destination(&self.destination, self.file.is_some(), self.force)?;
        if let Some(file) = &self.file {
            // A file is replaced in one step.
            rename(&self.partial.join(file), &self.destination)?;
            return sync_folder(parent(&self.destination));
        }
        let old = self.destination.symlink_metadata().is_ok();
        let aside = sibling(&self.destination, "replaced");
        if old {
            rename(&self.destination, &aside)?;
        }
        if let Err(err) = rename(&self.partial, &self.destination) {
            if old {
                rename(&aside, &self.destination)?;
            }
            return Err(err);
        }
        self.is_committed = true;
        sync_folder(parent(&self.destination))?;
        if old {
            fs::remove_dir_all(&aside)
                .map_err(|err| Error::io(&aside, "remove the replaced folder", err))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.is_committed {
            // Nothing more can be done about an error here; the name says what the folder is.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

fn check_destination(destination: &Path, is_file: bool, force: bool) -> Result<()> {
    let Ok(metadata) = destination.symlink_metadata() else { return Ok(()) };
    if !force {
        let message = "already exists; --force replaces it";
        return Err(Error::new(ErrorKind::Io, message).in_file(destination));
    }
    if is_file && !metadata.is_file() {
        let message = "is no file, and --force only replaces a file by this one";
        return Err(Error::new(ErrorKind::Io, message).in_file(destination));
    }
    if !is_file && !metadata.is_dir() {
        let message = "is no folder, and --force only replaces folders";
        return Err(Error::new(ErrorKind::Io, message).in_file(destination));
    }
    Ok(())
}

/// The hidden name beside `destination` for a purpose of this process.
fn sibling(destination: &Path, purpose: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(destination.file_name().unwrap_or_default());
    name.push(format!(".llmstd-{purpose}-{}", std::process::id()));
    destination.with_file_name(name)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    let doing = format!("rename to {}", to.display());
    fs::rename(from, to).map_err(|err| Error::io(from, &doing, err))
}

fn sync_tree(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|err| Error::io(folder, "list", err))?;
    for entry in entries {
        let entry = entry.map_err(|err| Error::io(folder, "list", err))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(|err| Error::io(&path, "look at", err))?;
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            let file = File::options().write(true).open(&path);
            let synced = file.and_then(|file| file.sync_all());
            synced.map_err(|err| Error::io(&path, "bring to the disk", err))?;
        }
    }
    sync_folder(folder)
}

/// Brings a folder's names to the disk; only Unix has that for folders.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|file| file.sync_all());
        synced.map_err(|err| Error::io(folder, "bring to the disk", err))?;
    }
    Ok(())
}

/// The bytes that this user can still write on the disk that `path`, or the nearest folder above
/// it that exists, lies on; `None` where the system does not say.
pub fn free_space(path: &Path) -> Option<u64> {
    let absolute = std::path::absolute(path).ok()?;
    let existing = absolute.ancestors().find(|path| path.exists())?;
    free_space_at(existing)
}

#[cfg(unix)]
fn free_space_at(path: &Path) -> Option<u64> {
    let status = rustix::fs::statvfs(path).ok()?;
    status.f_bavail.checked_mul(status.f_frsize)
}

#[cfg(not(unix))]
fn free_space_at(_: &Path) -> Option<u64> {
    None
}
