//! Inputs that lie on other machines: `https://…`, `s3://bucket/prefix`, `hf://org/model@revision`.
//!
//! A remote input is listed, and a folder is made of sparse files with its names and lengths. Headers and
//! small files are fetched when they are opened, weights by blocks when they are read, so that a command
//! that reads headers transfers headers. What was fetched is kept until the command ends.
//!
//! Servers are not believed: every answer has to be the range that was asked for, of a file that has the
//! length and the entity tag that it had at first. An answer that is cut is asked for again from where it
//! ended. No token and no part of an address that may hold one is told of.

mod address;
mod file;
mod http;
mod listing;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use self::address::Address;
use self::file::RemoteFile;
use self::http::Client;
pub use self::listing::Settings;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::mirror::{self, Fetch};
use crate::spec::Spec;

/// Whether an argument names something on another machine.
pub fn is_remote(input: &str) -> bool {
    let begins = |scheme: &&str| {
        input.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
    };
    Address::SCHEMES.iter().any(begins)
}

/// A remote input as a folder or a file of this machine, until it is dropped.
pub struct Local {
    folder: PathBuf,
    path: PathBuf,
    address: String,
    _mirror: Arc<dyn Fetch>,
}

impl Local {
    /// Where it lies, without what may be a secret.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where readers find it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // What is left of it lies among the temporary files of the system.
        let _ = std::fs::remove_dir_all(self.folder.parent().unwrap_or(&self.folder));
    }
}

/// Lists a remote input and makes it readable as a local one. Servers that cannot list are asked for the
/// files that a checkpoint may have. `settings` are those that the programs of a hub and of S3 take from the
/// environment: `HF_TOKEN`, `HF_ENDPOINT`, `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL` and kin.
///
/// # Errors
/// The address is none, the server does not answer or refuses, or there is nothing of a checkpoint.
pub fn open(input: &str, spec: &Spec, settings: Settings<'_>) -> Result<Local> {
    let address = Address::parse(input)?;
    let client = Client::new();
    let listing::Listed { files, shown, name, single } =
        listing::list(&client, &address, spec, settings)?;
    // The last part of the address is the name that reports give to the folder.
    let outer = temporary()?;
    let folder = outer.join(&name);
    let made = make(&folder, files);
    let files = made.inspect_err(|_| _ = std::fs::remove_dir_all(&outer))?;
    let mirror: Arc<dyn Fetch> = Arc::new(Mirror { client, shown, files });
    mirror::register(&folder, &mirror);
    let path = single.map_or_else(|| folder.clone(), |single| folder.join(single));
    Ok(Local { folder, path, address: address.shown(), _mirror: mirror })
}

/// Makes files of those names and lengths.
fn make(
    folder: &Path,
    files: BTreeMap<String, file::Listed>,
) -> Result<BTreeMap<String, RemoteFile>> {
    std::fs::create_dir(folder).map_err(|err| Error::io(folder, "create", err))?;
    let mut made = BTreeMap::new();
    for (name, file) in files {
        let path = folder.join(&name);
        if let Some(parent) = path.parent() {
            let cannot = |err| file.place.error(format!("cannot be written down: {err}"));
            std::fs::create_dir_all(parent).map_err(cannot)?;
        }
        made.insert(name, RemoteFile::create(&path, file)?);
    }
    Ok(made)
}

/// Removes what was fetched of every remote input, when the process is ended before its work is.
pub fn abandon() {
    for folder in &*TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner) {
        let _ = std::fs::remove_dir_all(folder);
    }
}

static TEMPORARY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A new folder among the temporary files of the system (`TMPDIR`), for this user alone.
fn temporary() -> Result<PathBuf> {
    let base = std::env::temp_dir();
    let base = base.canonicalize().map_err(|err| Error::io(&base, "find", err))?;
    let folder = tempfile::Builder::new().prefix("llmstd-remote-").tempdir_in(&base);
    let folder = folder.map_err(|err| Error::io(&base, "create a folder in", err))?.keep();
    TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).push(folder.clone());
    Ok(folder)
}

/// The files of one remote input.
struct Mirror {
    client: Client,
    shown: String,
    files: BTreeMap<String, RemoteFile>,
}

impl Mirror {
    fn file(&self, name: &str) -> Result<&RemoteFile> {
        self.files.get(name).ok_or_else(|| {
            Error::new(ErrorKind::Io, format!("{}/{name}: there is no such file", self.shown))
        })
    }
}

impl Fetch for Mirror {
    fn open(&self, name: &str) -> Result<u64> {
        self.file(name)?.open(&self.client)
    }

    fn fetch(&self, name: &str, bytes: Range<u64>) -> Result<()> {
        self.file(name)?.fetch(&self.client, bytes)
    }

    fn address(&self) -> &str {
        &self.shown
    }
}
