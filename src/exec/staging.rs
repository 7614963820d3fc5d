//! A folder, or a file, that appears under its name when it is whole, or not at all.
//!
//! Everything is written into a hidden folder beside the destination, whose name is unique and
//! which is locked for as long as its process lives: one without a lock was left by a process that
//! was killed, and is removed by the next one. What had the name stays there until the new is whole;
//! then the two change places in one step, and the old is removed last.

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::error::{Error, ErrorKind, Result};

/// What to do with something that has the destination's name already.
#[derive(Clone, Copy)]
pub enum Existing<'a> {
    /// Nothing is written.
    Keep,
    /// It is replaced, unless this refuses.
    Replace(&'a dyn Fn(&Path) -> Result<()>),
}

/// A hidden folder beside the destination; removed when dropped before [`Staging::commit`].
pub struct Staging<'a> {
    destination: PathBuf,
    partial: PathBuf,
    /// Holds the lock.
    lock: Option<File>,
    /// The file of the folder that the destination is to be; the folder itself if none.
    file: Option<String>,
    existing: Existing<'a>,
    stale: Vec<PathBuf>,
}

/// The partial folders of this process, so that they can be removed when it is told to end.
static PARTIALS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn partials() -> MutexGuard<'static, Vec<PathBuf>> {
    PARTIALS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The hidden folders of what this process has begun to write and not finished.
pub fn begun() -> Vec<PathBuf> {
    partials().clone()
}

/// Removes what this process has begun to write and not finished, for one that ends without
/// unwinding; the folders that are gone. Nothing can be committed from then on.
pub fn abandon() -> Vec<PathBuf> {
    // Kept locked for ever: a commit that waits for it waits for the end of the process.
    let mut partials = partials();
    let removed = partials.iter().filter(|partial| remove(partial).is_ok()).cloned().collect();
    partials.clear();
    std::mem::forget(partials);
    removed
}

/// Removes a folder that threads may still be writing into.
fn remove(folder: &Path) -> std::io::Result<()> {
    let mut result = Ok(());
    for _ in 0..20 {
        result = fs::remove_dir_all(folder);
        match &result {
            Ok(()) => return Ok(()),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    }
    result
}

impl<'a> Staging<'a> {
    /// Makes the folder `.NAME.llmstd-partial-PID-RANDOM` beside `destination`, and removes those
    /// that killed processes left there.
    ///
    /// # Errors
    /// `destination` exists and may not be replaced, or has no name; or the system refuses.
    pub fn new(destination: &Path, existing: Existing<'a>) -> Result<Staging<'a>> {
        Staging::begin(destination, None, existing)
    }

    /// The same folder, of which the file with the name of `destination` gets that name, and what
    /// else is in it is removed.
    ///
    /// # Errors
    /// As of [`Staging::new`]; or `destination` is a folder.
    pub fn of_file(destination: &Path, existing: Existing<'a>) -> Result<Staging<'a>> {
        let name = destination.file_name().map(|name| name.to_string_lossy().into_owned());
        Staging::begin(destination, Some(name.unwrap_or_default()), existing)
    }

    fn begin(
        destination: &Path,
        file: Option<String>,
        existing: Existing<'a>,
    ) -> Result<Staging<'a>> {
        // `dst/` and `dst` are the same.
        let destination: PathBuf = destination.components().collect();
        if destination.file_name().is_none() {
            let message = "the destination needs a name of its own";
            return Err(Error::new(ErrorKind::Io, message).in_file(&destination));
        }
        check_destination(&destination, file.is_some(), existing)?;
        let parent = parent(&destination);
        if !parent.is_dir() {
            return Err(Error::new(ErrorKind::Io, "there is no such folder").in_file(parent));
        }
        let stale = remove_stale(&destination);
        let (partial, lock) = create(&destination)?;
        partials().push(partial.clone());
        Ok(Staging { destination, partial, lock, file, existing, stale })
    }

    /// The folder to write into.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// The folders that killed processes had left, and which are removed now.
    pub fn stale(&self) -> &[PathBuf] {
        &self.stale
    }

    /// Brings everything to the disk and gives the folder its name.
    ///
    /// What had the name changes places with it in one step where the system can do that, else it
    /// is moved aside first; it is removed last, so that at every moment one of the two is there,
    /// whole.
    ///
    /// # Errors
    /// The destination appeared meanwhile, or the system refuses; the partial folder is then
    /// removed, and what had the name before has it again. An error that comes later says that the
    /// result stands.
    pub fn commit(self) -> Result<()> {
        sync_tree(&self.partial)?;
        // From here to the new name nothing is abandoned half way.
        let guard = partials();
        check_destination(&self.destination, self.file.is_some(), self.existing)?;
        let is_there = self.destination.symlink_metadata().is_ok();
        match &self.file {
            // A file is replaced in one step.
            Some(file) if is_there => rename(&self.partial.join(file), &self.destination)?,
            Some(file) => rename_new(&self.partial.join(file), &self.destination)?,
            None if is_there => exchange(&self.partial, &self.destination)?,
            None => rename_new(&self.partial, &self.destination)?,
        }
        drop(guard);
        let synced = sync_folder(parent(&self.destination));
        synced.map_err(|err| {
            let message = format!(
                "is written and whole under its name, but whether it would outlive a crash of the \
                 machine is not known: {}",
                err.message()
            );
            Error::new(ErrorKind::Io, message).in_file(&self.destination)
        })?;
        // What is left at the hidden name: what was replaced, or the rest of a file's folder.
        remove(&self.partial).map_err(|err| {
            let old = self.partial.display();
            let message = format!("is written and whole; what it replaced stays as {old}: {err}");
            Error::new(ErrorKind::Io, message).in_file(&self.destination)
        })
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if remove(&self.partial).is_err() {
            // A process that may open no more files lists the folder with the one of the lock. Nothing more
            // can be done about an error here; the name says what the folder is.
            self.lock = None;
            let _ = remove(&self.partial);
        }
        partials().retain(|partial| *partial != self.partial);
    }
}

fn check_destination(destination: &Path, is_file: bool, existing: Existing<'_>) -> Result<()> {
    let Ok(metadata) = destination.symlink_metadata() else { return Ok(()) };
    let Existing::Replace(check) = existing else {
        let message = "already exists; --force replaces it";
        return Err(Error::new(ErrorKind::Io, message).in_file(destination));
    };
    let refuse = |message: &str| {
        let help = ": remove it yourself, or choose another name";
        Err(Error::new(ErrorKind::Io, format!("{message}{help}")).in_file(destination))
    };
    if metadata.is_symlink() {
        return refuse("is a link, and --force replaces none");
    }
    if is_file && !metadata.is_file() {
        return refuse("is no file, and --force only replaces a file by this one");
    }
    if !is_file && !metadata.is_dir() {
        return refuse("is no folder, and --force only replaces folders");
    }
    check(destination)
}

/// What the hidden names beside `destination` begin with.
fn hidden_prefix(destination: &Path) -> String {
    let name = destination.file_name().unwrap_or_default().to_string_lossy();
    // A name has at most 255 bytes on most systems.
    let end = name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= 160);
    format!(".{}.llmstd-partial-", &name[..end.last().unwrap_or(0)])
}

/// Makes a hidden folder beside `destination` that no other process takes, and locks it.
fn create(destination: &Path) -> Result<(PathBuf, Option<File>)> {
    let prefix = hidden_prefix(destination);
    let mut last = None;
    for _ in 0..16 {
        let random = RandomState::new().build_hasher().finish();
        let name = format!("{prefix}{}-{random:016x}", std::process::id());
        let partial = destination.with_file_name(name);
        match fs::create_dir(&partial) {
            Ok(()) => {}
            Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => {
                last = Some((partial, err));
                continue;
            }
            Err(err) => return Err(Error::io(&partial, "create the folder", err)),
        }
        let lock = File::open(&partial).ok();
        match lock.as_ref().map(File::try_lock) {
            // A process that cleans up thought that it was left behind: another name.
            Some(Err(TryLockError::WouldBlock)) => continue,
            // Where folders cannot be locked, nobody takes an unlocked one for left behind.
            _ if partial.is_dir() => return Ok((partial, lock)),
            _ => continue,
        }
    }
    let (partial, err) =
        last.unwrap_or_else(|| (destination.to_owned(), std::io::ErrorKind::AlreadyExists.into()));
    Err(Error::io(&partial, "create a folder of its own beside it", err))
}

/// Removes the hidden folders beside `destination` whose processes are gone, as their locks show.
fn remove_stale(destination: &Path) -> Vec<PathBuf> {
    let prefix = hidden_prefix(destination);
    let Ok(entries) = fs::read_dir(parent(destination)) else { return Vec::new() };
    let mut removed = Vec::new();
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix));
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let lock = File::open(&path).ok();
        let is_free = lock.as_ref().is_some_and(|folder| folder.try_lock().is_ok());
        if is_free && fs::remove_dir_all(&path).is_ok() {
            removed.push(path);
        }
    }
    removed.sort();
    removed
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

/// Renames to a name that nothing has, where the system can hold that.
fn rename_new(from: &Path, to: &Path) -> Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            Err(Errno::EXIST) => {
                let message = "appeared while it was written; nothing is replaced";
                return Err(Error::new(ErrorKind::Io, message).in_file(to));
            }
            done => {
                let doing = format!("rename to {}", to.display());
                return done.map_err(|err| Error::io(from, &doing, err.into()));
            }
        }
    }
    rename(from, to)
}

/// Gives `new` the name of `old`, and `old` that of `new`.
fn exchange(new: &Path, old: &Path) -> Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            done => {
                let doing = format!("exchange with {}", old.display());
                return done.map_err(|err| Error::io(new, &doing, err.into()));
            }
        }
    }
    let mut aside = new.as_os_str().to_owned();
    aside.push("-replaced");
    let aside = PathBuf::from(aside);
    rename(old, &aside)?;
    if let Err(err) = rename(new, old) {
        rename(&aside, old)?;
        return Err(err);
    }
    rename(&aside, new)
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
