//! The hash of a standard over its data files. The build of this program takes it of the versions that the program
//! carries, with this very file: no command waits for the hashing of megabytes that are known.

use sha2::{Digest, Sha256};

/// SHA-256 over those files that decide what is written, by name and text in the order given.
pub(crate) fn of<'f>(files: impl Iterator<Item = (&'f str, &'f str)>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for (name, text) in files.filter(|(name, _)| name.ends_with(".toml")) {
        for part in [name, text] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    hasher.finalize().into()
}
