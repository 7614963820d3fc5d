//! The files of one input, mapped into memory, and places in them.
//!
//! A name that comes from inside a file passes [`Source::add`], which takes no name that climbs out
//! of the input's folder. Links in the folder that the user named are followed, or refused where the
//! source says so.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::mirror::{self, Mirrored};

mod bytes;
mod missing;
mod state;

use self::bytes::{Archive, Bytes, read_at};
pub use self::missing::survive;
use self::state::{State, changed};

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
    /// The archive that has the files, where they are no files of a folder.
    archive: Option<Arc<Archive>>,
}

struct Mapped {
    name: String,
    path: PathBuf,
    bytes: Bytes,
    /// Where its bytes come from, of a file that lies elsewhere.
    mirrored: Option<Partial>,
    /// What the file was when it was opened; `None` of bytes that no file holds.
    state: Option<State>,
}

/// A file that is fetched as it is read.
struct Partial {
    file: Mirrored,
    /// So many of its first bytes are there from the start.
    prefix: usize,
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
            files: vec![Mapped {
                name: name.to_owned(),
                path: name.into(),
                bytes,
                mirrored: None,
                state: None,
            }],
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
        let archive = self.layout.archive.clone();
        self.layout = Arc::new(Layout { home: Some(home.into()), replaced, archive });
    }

    /// The input whose files are the members of one of the files here, at these ranges of it or of what it
    /// is `unpacked`. Their paths are those below the archive.
    ///
    /// # Errors
    /// A member passes the end.
    pub fn into_members(
        mut self,
        file: FileId,
        unpacked: Option<Vec<u8>>,
        members: BTreeMap<String, Range<u64>>,
    ) -> Result<Source> {
        let Mapped { path, bytes, state, .. } = self.files.swap_remove(file.0 as usize);
        let bytes = unpacked.map_or(bytes, Bytes::Owned);
        let n = bytes.slice().len();
        let place = |(name, range): (String, Range<u64>)| {
            let start = usize::try_from(range.start).ok();
            let range = start.zip(usize::try_from(range.end).ok());
            match range.filter(|(start, end)| start <= end && *end <= n) {
                Some((start, end)) => Ok((name, start..end)),
                None => {
                    let message = format!("the member {name:?} passes the end of the archive");
                    Err(Error::new(ErrorKind::Malformed, message).in_file(&path))
                }
            }
        };
        let members = members.into_iter().map(place).collect::<Result<_>>()?;
        let archive = Archive { path: path.clone(), bytes, state, members };
        let layout = Layout { archive: Some(Arc::new(archive)), ..Layout::default() };
        let no_follow = self.no_follow;
        Ok(Source { root: path, files: Vec::new(), no_follow, layout: Arc::new(layout) })
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.member(name).is_some() || self.place(name).is_file()
    }

    /// Where a name is in the archive.
    fn member(&self, name: &str) -> Option<(&Arc<Archive>, &Range<usize>)> {
        let archive = self.layout.archive.as_ref()?;
        let own = || archive.members.get(name);
        let home = self.layout.home.as_ref().map(|home| home.join(name));
        // A folder that is elsewhere comes first.
        if home.as_ref().is_some_and(|path| path.is_absolute() && path.is_file()) {
            return None;
        }
        let at_home = home.and_then(|path| archive.members.get(path.to_str()?));
        at_home.or_else(own).map(|range| (archive, range))
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
        if let Some((archive, range)) = self.member(name) {
            let bytes = Bytes::Part(Arc::clone(archive), range.clone());
            let (path, state) = (archive.path.join(name), archive.state);
            return Ok(self.push(Mapped {
                name: name.to_owned(),
                path,
                bytes,
                mirrored: None,
                state,
            }));
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
        if self.member(name).is_some() {
            return Ok(None);
        }
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
        let mirrored = match mirror::find(&path) {
            Some(file) => {
                let prefix = usize::try_from(file.open()?).unwrap_or(usize::MAX);
                Some(Partial { file, prefix })
            }
            None => None,
        };
        let is_whole = mirrored.as_ref().is_none_or(|of| of.prefix as u64 >= metadata.len());
        let mut file = File::open(&path).map_err(|err| Error::io(&path, "open", err))?;
        let metadata = file.metadata().map_err(|err| Error::io(&path, "look at", err))?;
        let state = State::of(&metadata);
        let bytes = if metadata.len() <= MAX_READ_LEN && is_whole {
            let mut bytes = Vec::with_capacity(metadata.len() as usize);
            let read = file.by_ref().take(MAX_READ_LEN + 1).read_to_end(&mut bytes);
            read.map_err(|err| Error::io(&path, "read", err))?;
            if bytes.len() as u64 != metadata.len() {
                let now = State { len: bytes.len() as u64, ..state };
                return Err(changed(&path, &state.difference(now).unwrap_or_default()));
            }
            Bytes::Owned(bytes)
        } else {
            Bytes::map(file).map_err(|err| Error::io(&path, "map", err))?
        };
        Ok(self.push(Mapped { name, path, bytes, mirrored, state: Some(state) }))
    }

    fn push(&mut self, file: Mapped) -> FileId {
        let id = FileId(u32::try_from(self.files.len()).unwrap_or(u32::MAX));
        self.files.push(file);
        id
    }

    /// Adds bytes that no file holds as they are, under the name they are told of by.
    pub fn add_bytes(&mut self, name: &str, bytes: Vec<u8>) -> FileId {
        let (name, path) = (name.to_owned(), self.place(name));
        let bytes = Bytes::Owned(bytes);
        self.push(Mapped { name, path, bytes, mirrored: None, state: None })
    }

    /// Where bytes lie that were borrowed from one of the files; `None` of others, and of none.
    pub fn extent_of(&self, bytes: &[u8]) -> Option<Extent> {
        let start = bytes.as_ptr().addr();
        self.files().find_map(|file| {
            let all = self.all(file);
            let offset = start.checked_sub(all.as_ptr().addr())?;
            let is_inside = !bytes.is_empty() && offset.checked_add(bytes.len())? <= all.len();
            let (start, len) = (offset as u64, bytes.len() as u64);
            is_inside.then_some(Extent { file, start, len })
        })
    }

    /// Copies bytes of a mapped file by reading them anew: of a file that was truncated that is an
    /// error, where touching the map would stop the process.
    ///
    /// # Errors
    /// The file is shorter by now, or the system refuses. `bytes` and `into` have one length.
    pub fn copy(&self, bytes: &[u8], into: &mut [u8]) -> Result<()> {
        let place = self.extent_of(bytes).and_then(|extent| {
            let file = self.file(extent.file);
            let (handle, start) = file.bytes.on_disk()?;
            Some((file, handle, start + extent.start))
        });
        let Some((file, handle, offset)) = place else {
            into.copy_from_slice(bytes);
            return Ok(());
        };
        read_at(handle, into, offset).map_err(|err| match err.kind() {
            std::io::ErrorKind::UnexpectedEof => changed(&file.path, "it is shorter now"),
            _ => Error::io(&file.path, "read", err),
        })
    }

    /// Refuses files that were overwritten, truncated or replaced since they were opened, as far as
    /// their length, time and identity tell it: what was read of them may be of two versions. Refuses files too
    /// of which something was read that could not be had, see `survive`.
    ///
    /// # Errors
    /// One was changed, or cannot be looked at any more.
    pub fn check_unchanged(&self) -> Result<()> {
        for file in &self.files {
            let path = match &file.bytes {
                Bytes::Part(archive, _) => &archive.path,
                _ => &file.path,
            };
            // What comes from elsewhere is held to what it was with each answer.
            if let Some(state) = file.state.filter(|_| file.mirrored.is_none()) {
                let metadata = path.metadata().map_err(|err| match err.kind() {
                    std::io::ErrorKind::NotFound => changed(path, "it is gone"),
                    _ => Error::io(path, "look at it again", err),
                })?;
                if let Some(what) = state.difference(State::of(&metadata)) {
                    return Err(changed(path, &what));
                }
            }
            if file.bytes.is_damaged() {
                let message = "a part of it could not be read, its disk may have a fault";
                return Err(Error::new(ErrorKind::Io, message).in_file(path));
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

    /// Whether it is a file of the disk, and no member of one and no bytes that were added.
    pub fn is_on_disk(&self, file: FileId) -> bool {
        self.is_file(file) && !matches!(self.file(file).bytes, Bytes::Part(..))
    }

    /// A file's name, relative to the input's folder.
    pub fn name(&self, file: FileId) -> &str {
        &self.file(file).name
    }

    /// Where a file is.
    pub fn path(&self, file: FileId) -> &Path {
        &self.file(file).path
    }

    /// All of a file; of one that is fetched as it is read, the first bytes: its header.
    pub fn bytes(&self, file: FileId) -> &[u8] {
        let all = self.all(file);
        match &self.file(file).mirrored {
            Some(partial) => &all[..partial.prefix.min(all.len())],
            None => all,
        }
    }

    /// All of a file, fetched if need be.
    ///
    /// # Errors
    /// It cannot be fetched.
    pub fn whole(&self, file: FileId) -> Result<&[u8]> {
        self.slice(self.extent(file))
    }

    /// Gives the memory back that reading the first `len` bytes of a file took, for headers that are long.
    pub fn forget(&self, file: FileId, len: u64) {
        let all = self.all(file).len();
        let end = usize::try_from(len).map_or(all, |len| len.min(all));
        self.file(file).bytes.forget(0..end);
    }

    fn all(&self, file: FileId) -> &[u8] {
        self.file(file).bytes.slice()
    }

    /// The extent of a whole file.
    pub fn extent(&self, file: FileId) -> Extent {
        Extent { file, start: 0, len: self.all(file).len() as u64 }
    }

    /// The bytes of an extent, or an error if the file is shorter than it says.
    ///
    /// # Errors
    /// The extent passes the end of its file, or its bytes cannot be fetched.
    pub fn slice(&self, extent: Extent) -> Result<&[u8]> {
        let bytes = self.all(extent.file);
        if let Some(partial) = &self.file(extent.file).mirrored {
            partial.file.fetch(extent.start..extent.end())?;
        }
        let start = usize::try_from(extent.start).ok();
        let end = extent.start.checked_add(extent.len).and_then(|end| usize::try_from(end).ok());
        start.zip(end).and_then(|(start, end)| bytes.get(start..end)).ok_or_else(|| {
            let message =
                format!("{} bytes wanted, the file has {} in all", extent.len, bytes.len());
            Error::malformed(extent.start, message).in_file(self.path(extent.file))
        })
    }
}
