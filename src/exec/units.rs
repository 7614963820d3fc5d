//! Shards of a conversion made by several processes, on one machine or on many, and joined at the end.
//!
//! They share a folder. A shard is written under a name of its own, brought to the disk, and gets its
//! name in one step; then so does the record of what was written. A shard with a record is whole: whoever
//! made it, and however often it was made, its bytes are the same. What the file system has to do is to
//! rename in one step, to keep what was synced, and to show every process what another has renamed.

use std::fs::{self, File};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::write::{Options, Writer, Written, WrittenFile, WrittenTensor};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hex;
use crate::package::Loss;

/// The schema of a record.
const SCHEMA: &str = "llmstd.unit/1";

/// The folder of shards that are made.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

/// What was written into one shard.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    schema: String,
    /// The bytes of the file.
    len: u64,
    /// Its SHA-256, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// Its tensors, in their order.
    tensors: Vec<TensorRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorRecord {
    sha256: String,
    #[serde(default)]
    checksum: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss: Option<Loss>,
}

impl Record {
    fn of(file: &WrittenFile, tensors: &[WrittenTensor]) -> Record {
        let tensors = tensors.iter().map(|tensor| TensorRecord {
            sha256: hex::encode(&tensor.sha256),
            checksum: tensor.checksum,
            loss: tensor.loss.as_deref().copied(),
        });
        Record {
            schema: SCHEMA.to_owned(),
            len: file.len,
            sha256: file.sha256.map(|sha256| hex::encode(&sha256)),
            tensors: tensors.collect(),
        }
    }

    /// Says of a shard what the record does; `None` if the record is of another one.
    fn tell(&self, file: &mut WrittenFile, tensors: &mut [WrittenTensor]) -> Option<()> {
        if self.schema != SCHEMA || self.len != file.len || self.tensors.len() != tensors.len() {
            return None;
        }
        file.sha256 = match &self.sha256 {
            Some(sha256) => Some(hex::decode32(sha256)?),
            None => None,
        };
        for (tensor, record) in tensors.iter_mut().zip(&self.tensors) {
            tensor.sha256 = hex::decode32(&record.sha256)?;
            tensor.checksum = record.checksum;
            tensor.loss = record.loss.map(Box::new);
        }
        Some(())
    }
}

impl Store {
    /// The store in a folder, which [`Store::write`] makes.
    pub fn new(folder: PathBuf) -> Store {
        Store { folder }
    }

    /// Writes those of the shards that are not there, one after the other; returns which these were.
    ///
    /// # Errors
    /// A tensor cannot be had, the system refuses, or the work is to end. Shards that were made stay.
    pub fn write(
        &self,
        writer: &mut Writer<'_>,
        shards: &[usize],
        options: &Options<'_>,
    ) -> Result<Vec<usize>> {
        let make = |folder: &Path| {
            fs::create_dir_all(folder).map_err(|err| Error::io(folder, "create", err))
        };
        make(&self.folder)?;
        let own = Own(self.folder.join(format!("{}-{:016x}", std::process::id(), random())));
        let mut made = Vec::new();
        for &number in shards {
            if self.take(writer, number, options.hash_files)? {
                continue;
            }
            make(&own.0)?;
            writer.write(&[number], &own.0, options)?;
            let (file, tensors) = writer.written(number);
            let name = file.name.clone();
            let record = Record::of(file, tensors);
            self.place(&own.0, &name)?;
            let text = serde_json::to_vec(&record).expect("our own types have string keys");
            let record = record_name(&name);
            let path = own.0.join(&record);
            let written = File::create(&path).and_then(|mut file| file.write_all(&text));
            written.map_err(|err| Error::io(&path, "write", err))?;
            self.place(&own.0, &record)?;
            made.push(number);
        }
        Ok(made)
    }

    /// Brings a file to the disk, and gives it its name in the store.
    fn place(&self, from: &Path, name: &str) -> Result<()> {
        let (own, shared) = (from.join(name), self.folder.join(name));
        let synced = File::open(&own).and_then(|file| file.sync_all());
        synced.map_err(|err| Error::io(&own, "sync", err))?;
        fs::rename(&own, &shared).map_err(|err| Error::io(&shared, "rename to", err))?;
        // Where a folder cannot be synced, its names are kept as they are.
        if let Ok(folder) = File::open(&self.folder) {
            let _ = folder.sync_all();
        }
        Ok(())
    }

    /// Which of all shards are not there; says of the others what was written.
    ///
    /// # Errors
    /// The system refuses to read.
    pub fn missing(&self, writer: &mut Writer<'_>, hash_files: bool) -> Result<Vec<usize>> {
        let mut missing = Vec::new();
        for number in 0..writer.n_shards() {
            if !self.take(writer, number, hash_files)? {
                missing.push(number);
            }
        }
        Ok(missing)
    }

    /// Whether a shard is there; says then what was written.
    fn take(&self, writer: &mut Writer<'_>, number: usize, hash_files: bool) -> Result<bool> {
        let (file, tensors) = writer.written_mut(number);
        let path = self.folder.join(record_name(&file.name));
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(err) => return Err(Error::io(&path, "read", err)),
        };
        let Ok(record) = serde_json::from_slice::<Record>(&text) else { return Ok(false) };
        let len = fs::metadata(self.folder.join(&file.name)).map(|metadata| metadata.len());
        Ok(len.is_ok_and(|len| len == record.len)
            && record.sha256.is_some() == hash_files
            && record.tell(file, tensors).is_some())
    }

    /// Puts all shards into a folder, which none of them is in.
    ///
    /// # Errors
    /// One is not there any more, or the system refuses.
    pub fn join(&self, writer: Writer<'_>, folder: &Path) -> Result<Written> {
        for number in 0..writer.n_shards() {
            let name = &writer.written(number).0.name;
            let (from, to) = (self.folder.join(name), folder.join(name));
            // A second name costs nothing; some file systems have none.
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).map_err(|err| Error::io(&to, "write", err))?;
            }
        }
        writer.finish(folder)
    }

    /// Removes what is no longer needed.
    ///
    /// # Errors
    /// The system refuses.
    pub fn remove(self) -> Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                let message = format!("what the units made is left, and no longer needed: {err}");
                Err(Error::new(ErrorKind::Io, message).in_file(&self.folder))
            }
            _ => Ok(()),
        }
    }
}

fn record_name(shard: &str) -> String {
    format!("{shard}.unit.json")
}

/// A number that no other process has.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The folder that one process writes into; gone with it, if it ends by itself.
struct Own(PathBuf);

impl Drop for Own {
    fn drop(&mut self) {
        // What stays is removed with the store.
        let _ = fs::remove_dir_all(&self.0);
    }
}
