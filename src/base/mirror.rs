//! Folders whose files lie elsewhere and are fetched as they are read.
//!
//! Whoever has such files makes a folder of files that have their names and lengths and hold nothing yet,
//! and registers it here; [`Source`](crate::base::source::Source) asks before it reads.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use crate::base::error::Result;

/// What fetches the files of a folder.
pub trait Fetch: Send + Sync {
    /// Fetches what readers take of a file without asking: all of it, or the header of a format whose
    /// weights are asked for one by one. How many of its first bytes are there then.
    ///
    /// # Errors
    /// They cannot be fetched.
    fn open(&self, name: &str) -> Result<u64>;

    /// Fetches bytes of a file, where they are not there yet.
    ///
    /// # Errors
    /// They cannot be fetched.
    fn fetch(&self, name: &str, bytes: Range<u64>) -> Result<()>;

    /// Where the files lie, as it is told of; no secret is in it.
    fn address(&self) -> &str;
}

/// A file of a mirror.
#[derive(Clone)]
pub struct Mirrored {
    mirror: Arc<dyn Fetch>,
    name: String,
}

impl Mirrored {
    /// As [`Fetch::open`].
    ///
    /// # Errors
    /// They cannot be fetched.
    pub fn open(&self) -> Result<u64> {
        self.mirror.open(&self.name)
    }

    /// As [`Fetch::fetch`].
    ///
    /// # Errors
    /// They cannot be fetched.
    pub fn fetch(&self, bytes: Range<u64>) -> Result<()> {
        self.mirror.fetch(&self.name, bytes)
    }
}

struct Registered {
    folder: PathBuf,
    address: String,
    /// What fetches, for as long as somebody keeps it; the address is told of after that, too.
    mirror: Weak<dyn Fetch>,
}

static MIRRORS: RwLock<Vec<Registered>> = RwLock::new(Vec::new());

/// Registers a folder, whose path is canonical, for as long as `mirror` is kept.
pub fn register(folder: &Path, mirror: &Arc<dyn Fetch>) {
    let mut mirrors = MIRRORS.write().unwrap_or_else(PoisonError::into_inner);
    mirrors.push(Registered {
        folder: folder.to_owned(),
        address: mirror.address().to_owned(),
        mirror: Arc::downgrade(mirror),
    });
}

/// The file of a path, if it lies in a mirror.
pub fn find(path: &Path) -> Option<Mirrored> {
    let mirrors = MIRRORS.read().unwrap_or_else(PoisonError::into_inner);
    let (mirror, rest) = mirrors.iter().find_map(|known| {
        Some((known.mirror.upgrade()?, path.strip_prefix(&known.folder).ok()?))
    })?;
    let name = rest.iter().map(|part| part.to_str()).collect::<Option<Vec<_>>>()?.join("/");
    Some(Mirrored { mirror, name })
}

/// Makes all of a file be there, for who reads it by other means.
///
/// # Errors
/// It cannot be fetched.
pub fn whole(path: &Path) -> Result<()> {
    let Some(file) = find(path) else { return Ok(()) };
    file.open()?;
    file.fetch(0..u64::MAX)
}

/// A text for people with the addresses of mirrors in place of their folders.
pub fn told(text: &str) -> Cow<'_, str> {
    let mirrors = MIRRORS.read().unwrap_or_else(PoisonError::into_inner);
    let mut text = Cow::Borrowed(text);
    for known in mirrors.iter() {
        let folder = known.folder.to_string_lossy();
        if text.contains(folder.as_ref()) {
            text = Cow::Owned(text.replace(folder.as_ref(), &known.address));
        }
    }
    text
}
