//! The statement of OpenSSF Model Signing 1.0: every file of a model with its SHA-256, as an in-toto
//! statement that a signature is made over. Git's own files in the folder are left out, as the
//! reference implementation leaves them out.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::name_of;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hex;
use crate::base::mirror;
use crate::base::threads;

/// What is no part of a model, in its folder.
const IGNORED: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];

/// The statement about the files at a path, a folder or one file, hashed by so many threads.
///
/// # Errors
/// A file cannot be read, or has a name that is not UTF-8.
pub fn statement(path: &Path, n_threads: usize) -> Result<Json> {
    let mut files: Vec<(Vec<String>, std::path::PathBuf)> = Vec::new();
    let mut has_links = false;
    // What is named may be a link itself.
    for entry in walkdir::WalkDir::new(path) {
        let entry = entry.map_err(|err| {
            let at = err.path().unwrap_or(path).to_path_buf();
            let message = format!("cannot be listed: {err}");
            Error::new(ErrorKind::Io, message).in_file(&at)
        })?;
        let within = entry.path().strip_prefix(path).unwrap_or(entry.path());
        let parts: Option<Vec<String>> =
            within.iter().map(|part| part.to_str().map(str::to_owned)).collect();
        let Some(parts) = parts else {
            let message = "has a name that is not UTF-8, which a statement cannot say";
            return Err(Error::new(ErrorKind::Unsupported, message).in_file(entry.path()));
        };
        if parts.first().is_some_and(|first| IGNORED.contains(&first.as_str())) {
            continue;
        }
        let is_link = entry.path_is_symlink() && !parts.is_empty();
        has_links |= is_link;
        let fail =
            |message: &str| Err(Error::new(ErrorKind::Unsupported, message).in_file(entry.path()));
        match std::fs::metadata(entry.path()) {
            Ok(found) if found.is_file() => files.push((parts, entry.into_path())),
            Ok(found) if found.is_dir() && is_link => {
                return fail(
                    "is a link to a folder: what lies behind it is signed by nobody; \
                     put the folder itself there",
                );
            }
            Ok(found) if found.is_dir() => {}
            Ok(_) => return fail("is neither a file nor a folder, and cannot be signed"),
            Err(err) => return fail(&format!("cannot be read: {err}")),
        }
    }
    // In the order of their names, part by part.
    files.sort();
    let hashes: Result<Vec<[u8; 32]>> =
        threads::on(n_threads, || files.par_iter().map(|(_, path)| hash(path)).collect())?;
    let mut root = Sha256::new();
    let mut resources = Vec::with_capacity(files.len());
    for ((parts, _), digest) in files.iter().zip(hashes?) {
        root.update(digest);
        let name = if parts.is_empty() { ".".to_owned() } else { parts.join("/") };
        let digest = hex::encode(&digest);
        resources.push(json!({"name": name, "algorithm": "sha256", "digest": digest}));
    }
    Ok(json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name_of(path), "digest": {"sha256": hex::encode(&root.finalize())}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": has_links,
                "ignore_paths": IGNORED,
            },
            "resources": resources,
        },
    }))
}

/// The SHA-256 of a file.
fn hash(path: &Path) -> Result<[u8; 32]> {
    let fail = |err: std::io::Error| {
        Error::new(ErrorKind::Io, format!("cannot be read: {err}")).in_file(path)
    };
    mirror::whole(path)?;
    let mut file = File::open(path).map_err(fail)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(fail)? {
            0 => return Ok(hasher.finalize().into()),
            n => hasher.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}
