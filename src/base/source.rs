//! The files of one input, mapped into memory, and places in them.
//!
//! A name that comes from inside a file passes [`Source::add`], which takes no name that climbs out
//! of the input's folder. Links in the folder that the user named are followed, or refused where the
//! source says so.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use memmap2::Mmap;

use crate::base::error::{Error, ErrorKind, Result};

/// One file of a [`Source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(u32);

impl FileId {
    /// Which of the source's files it is, in the order they were added.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// A range of bytes in one file: never two loose numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// The file.
    pub file: FileId,
    /// The first byte, counted from the start of the file.
    pub start: u64,
    /// The number of bytes.
    pub len: u64,
}

impl Extent {
    /// The part of this extent from `start` to before `end`, both relative to it.
    pub fn part(self, start: u64, end: u64) -> Option<Extent> {
        let len = end.checked_sub(start)?;
        if self.len < end {
            return None;
        }
        Some(Extent { file: self.file, start: self.start.checked_add(start)?, len })
    }

    /// One past the last byte.
    pub fn end(self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// Files up to this length are read whole instead of mapped: small files are nearly all files, and
/// one that is truncated or cannot be read is an error then, where a map would stop the process.
const MAX_READ_LEN: u64 = 16 << 20;

/// The mapped files of one input.
#[derive(Default)]
pub struct Source {
    root: PathBuf,
    files: Vec<Mapped>,
    no_follow: bool,
    layout: Arc<Layout>,
}

/// What is read where, in a folder that is not laid out as its names say.
#[derive(Default)]
struct Layout {
    /// The folder below the root in which a name is looked up first.
    home: Option<PathBuf>,
    /// The bytes of files that are read as if they were these.
    replaced: BTreeMap<String, Vec<u8>>,
}

struct Mapped {
    name: String,
    path: PathBuf,
    bytes: Bytes,
    /// What the file was when it was opened; `None` of bytes that no file holds.
    state: Option<State>,
}

/// What tells that a file is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    len: u64,
    modified: Option<SystemTime>,
    /// The device and the number of the file on it, where the system has that.
    identity: Option<(u64, u64)>,
}

impl State {
    fn of(metadata: &Metadata) -> State {
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt as _;
            Some((metadata.dev(), metadata.ino()))
        };
        #[cfg(not(unix))]
        let identity = None;
        State { len: metadata.len(), modified: metadata.modified().ok(), identity }
    }

    /// What happened to a file that is `now` this.
    fn difference(self, now: State) -> Option<String> {
        Some(match now {
            now if now == self => return None,
            now if now.identity != self.identity => "another file has its name now".to_owned(),
            now if now.len != self.len => {
                format!("it had {} bytes and has {} now", self.len, now.len)
            }
            _ => "it was written to".to_owned(),
        })
    }
}

enum Bytes {
    /// The map, and the file, which is read where bytes are only copied.
    Mapped(Mmap, File),
    Owned(Vec<u8>),
}

impl Source {
    /// An input without files yet, whose names are relative to the folder `root`.
    pub fn new(root: impl Into<PathBuf>) -> Source {
        Source { root: root.into(), ..Source::default() }
    }

    /// As [`Source::new`], where links that lead out of the folder are refused.
    pub fn inside(root: impl Into<PathBuf>) -> Source {
        Source { no_follow: true, ..Source::new(root) }
    }

    /// An input of one file that is already in memory.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Source {
        let bytes = Bytes::Owned(bytes.to_vec());
        Source {
            root: PathBuf::new(),
            no_follow: true,
            files: vec![Mapped { name: name.to_owned(), path: name.into(), bytes, state: None }],
            layout: Arc::default(),
        }
    }

    /// The same input, with no file mapped yet.
    pub fn again(&self) -> Source {
        Source {
            root: self.root.clone(),
            files: Vec::new(),
            no_follow: self.no_follow,
            layout: Arc::clone(&self.layout),
        }
    }

    /// Looks names up in the folder `home` first, a path below the root or an absolute one, and takes
    /// these bytes for the files of these names.
    pub fn lay_out(&mut self, home: &Path, replaced: BTreeMap<String, Vec<u8>>) {
        self.layout = Arc::new(Layout { home: Some(home.into()), replaced });
    }

    /// Where the file of a name is.
    pub fn place(&self, name: &str) -> PathBuf {
        let at_home = self.layout.home.as_ref().map(|home| self.root.join(home).join(name));
        at_home.filter(|path| path.exists()).unwrap_or_else(|| self.root.join(name))
    }

    /// The folder that names are relative to.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Maps the file `name` of the folder; a file that is already mapped is not mapped twice.
    ///
    /// # Errors
    /// `name` is absolute or has `..`, or is no regular file; or it leads out of the folder through a
    /// link, and this is a source that follows none (but into the `blobs` of a Hugging Face cache,
    /// which is how that cache stores every file).
    pub fn add(&mut self, name: &str) -> Result<FileId> {
        if let Some(id) = self.find(name) {
            return Ok(id);
        }
        let relative = Path::new(name);
        let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || name.is_empty() || name.contains(['\\', '\0']) {
            return Err(Error::new(
                ErrorKind::Malformed,
                format!("the name {name:?} does not stay inside the checkpoint's folder"),
            )
            .in_file(&self.root));
        }
        if let Some(bytes) = self.layout.replaced.get(name) {
            let bytes = bytes.clone();
            return Ok(self.add_bytes(name, bytes));
        }
        let path = self.place(name);
        if self.no_follow
            && let Some(target) = self.leads_out(name)?
        {
            let message = format!(
                "is a link to {}, which is not in the folder; links are not followed here",
                target.display()
            );
            return Err(Error::new(ErrorKind::Malformed, message).in_file(&path));
        }
        self.map(name.to_owned(), path)
    }

    /// Where a name leads through links, if that is out of the folder.
    ///
    /// # Errors
    /// There is no such file.
    pub fn leads_out(&self, name: &str) -> Result<Option<PathBuf>> {
        let path = self.place(name);
        let root = if self.root.as_os_str().is_empty() { Path::new(".") } else { &self.root };
        let canonical_root =
            root.canonicalize().map_err(|err| Error::io(root, "open the folder", err))?;
        let target = path.canonicalize().map_err(|err| Error::io(&path, "open", err))?;
        let home = self.layout.home.as_ref().and_then(|home| root.join(home).canonicalize().ok());
        let is_home = home.as_ref().is_some_and(|home| target.starts_with(home));
        if target.starts_with(&canonical_root) || is_home {
            return Ok(None);
        }
        // A Hugging Face cache keeps models--x/snapshots/<commit>/<file> as links to
        // models--x/blobs/<hash>.
        let cache = canonical_root
            .ancestors()
            .find(|folder| folder.file_name().is_some_and(|name| name == "snapshots"))
            .and_then(Path::parent)
            .map(|models| models.join("blobs"));
        if cache.is_some_and(|blobs| target.starts_with(blobs)) {
            return Ok(None);
        }
        Ok(Some(target))
    }

    /// Maps a file that the user named, wherever it is.
    ///
    /// # Errors
    /// It cannot be opened, or is no regular file.
    pub fn add_path(&mut self, path: &Path) -> Result<FileId> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        self.map(name, path.to_owned())
    }

    fn map(&mut self, name: String, path: PathBuf) -> Result<FileId> {
        // Asked before opening: opening a named pipe would wait for a writer.
        let metadata = path.metadata().map_err(|err| Error::io(&path, "open", err))?;
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::Io, "is not a regular file").in_file(&path));
        }
        let mut file = File::open(&path).map_err(|err| Error::io(&path, "open", err))?;
        let metadata = file.metadata().map_err(|err| Error::io(&path, "look at", err))?;
        let state = State::of(&metadata);
        let bytes = if metadata.len() <= MAX_READ_LEN {
            let mut bytes = Vec::with_capacity(metadata.len() as usize);
            let read = file.by_ref().take(MAX_READ_LEN + 1).read_to_end(&mut bytes);
            read.map_err(|err| Error::io(&path, "read", err))?;
            if bytes.len() as u64 != metadata.len() {
                let now = State { len: bytes.len() as u64, ..state };
                return Err(changed(&path, &state.difference(now).unwrap_or_default()));
            }
            Bytes::Owned(bytes)
        } else {
            // SAFETY: The map is read-only and private. Another process that truncates the file
            // while it is mapped can stop this one with a bus error, as with every mapped reader.
            let map = unsafe { Mmap::map(&file) };
            Bytes::Mapped(map.map_err(|err| Error::io(&path, "map", err))?, file)
        };
        let id = FileId(u32::try_from(self.files.len()).unwrap_or(u32::MAX));
        self.files.push(Mapped { name, path, bytes, state: Some(state) });
        Ok(id)
    }

    /// Adds bytes that no file holds as they are, under the name they are told of by.
    pub fn add_bytes(&mut self, name: &str, bytes: Vec<u8>) -> FileId {
        let id = FileId(u32::try_from(self.files.len()).unwrap_or(u32::MAX));
        let (name, path) = (name.to_owned(), self.place(name));
        self.files.push(Mapped { name, path, bytes: Bytes::Owned(bytes), state: None });
        id
    }

    /// Copies bytes of a mapped file by reading them anew: of a file that was truncated that is an
    /// error, where touching the map would stop the process.
    ///
    /// # Errors
    /// The file is shorter by now, or the system refuses. `bytes` and `into` have one length.
    pub fn copy(&self, bytes: &[u8], into: &mut [u8]) -> Result<()> {
        let start = bytes.as_ptr().addr();
        let place = self.files.iter().find_map(|file| {
            let Bytes::Mapped(map, handle) = &file.bytes else { return None };
            let offset = start.checked_sub(map.as_ptr().addr())?;
            let is_inside = offset.checked_add(bytes.len())? <= map.len();
            is_inside.then_some((file, handle, offset))
        });
        let Some((file, handle, offset)) = place else {
            into.copy_from_slice(bytes);
            return Ok(());
        };
        read_at(handle, into, offset as u64).map_err(|err| match err.kind() {
            std::io::ErrorKind::UnexpectedEof => changed(&file.path, "it is shorter now"),
            _ => Error::io(&file.path, "read", err),
        })
    }

    /// Refuses files that were overwritten, truncated or replaced since they were opened, as far as
    /// their length, time and identity tell it: what was read of them may be of two versions.
    ///
    /// # Errors
    /// One was changed, or cannot be looked at any more.
    pub fn check_unchanged(&self) -> Result<()> {
        for file in &self.files {
            let Some(state) = file.state else { continue };
            let metadata = file.path.metadata().map_err(|err| match err.kind() {
                std::io::ErrorKind::NotFound => changed(&file.path, "it is gone"),
                _ => Error::io(&file.path, "look at it again", err),
            })?;
            if let Some(what) = state.difference(State::of(&metadata)) {
                return Err(changed(&file.path, &what));
            }
        }
        Ok(())
    }

    /// The file of this name, if it is mapped.
    pub fn find(&self, name: &str) -> Option<FileId> {
        let index = self.files.iter().position(|file| file.name == name)?;
        Some(FileId(u32::try_from(index).ok()?))
    }

    /// The mapped files, in the order they were added.
    pub fn files(&self) -> impl Iterator<Item = FileId> + '_ {
        (0..u32::try_from(self.files.len()).unwrap_or(u32::MAX)).map(FileId)
    }

    fn file(&self, id: FileId) -> &Mapped {
        &self.files[id.0 as usize]
    }

    /// Whether it is a file, and no bytes that were added.
    pub fn is_file(&self, file: FileId) -> bool {
        self.file(file).state.is_some()
    }

    /// A file's name, relative to the input's folder.
    pub fn name(&self, file: FileId) -> &str {
        &self.file(file).name
    }

    /// Where a file is.
    pub fn path(&self, file: FileId) -> &Path {
        &self.file(file).path
    }

    /// All of a file.
    pub fn bytes(&self, file: FileId) -> &[u8] {
        match &self.file(file).bytes {
            Bytes::Mapped(map, _) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// The extent of a whole file.
    pub fn extent(&self, file: FileId) -> Extent {
        Extent { file, start: 0, len: self.bytes(file).len() as u64 }
    }

    /// The bytes of an extent, or an error if the file is shorter than it says.
    ///
    /// # Errors
    /// The extent passes the end of its file.
    pub fn slice(&self, extent: Extent) -> Result<&[u8]> {
        let bytes = self.bytes(extent.file);
        let start = usize::try_from(extent.start).ok();
        let end = extent.start.checked_add(extent.len).and_then(|end| usize::try_from(end).ok());
        start.zip(end).and_then(|(start, end)| bytes.get(start..end)).ok_or_else(|| {
            let message =
                format!("{} bytes wanted, the file has {} in all", extent.len, bytes.len());
            Error::malformed(extent.start, message).in_file(self.path(extent.file))
        })
    }
}

#[cfg(unix)]
fn read_at(file: &File, into: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, offset)
}

#[cfg(not(unix))]
fn read_at(file: &File, into: &mut [u8], offset: u64) -> std::io::Result<()> {
    use std::io::{Seek as _, SeekFrom};
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(into)
}

/// The error for a file that did not stay what it was.
fn changed(path: &Path, what: &str) -> Error {
    let message = format!("changed while it was read: {what}; try again when nothing writes to it");
    Error::new(ErrorKind::Io, message).in_file(path)
}
