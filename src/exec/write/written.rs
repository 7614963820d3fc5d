//! Where the written tensors are, and the hashes of what was written.

use crate::package::Loss;

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The tensors, in the order of the outputs.
    pub tensors: Vec<WrittenTensor>,
    /// The files, in the order of the shards.
    pub files: Vec<WrittenFile>,
    /// The text of the index file that several shards need; not written to the folder.
    pub index: Option<String>,
}

/// Where a tensor was written, and what its bytes are.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenTensor {
    /// Which of the files.
    pub file: usize,
    /// The first byte in the file.
    pub offset: u64,
    /// The number of bytes.
    pub len: u64,
    /// The SHA-256 of the bytes.
    pub sha256: [u8; 32],
    /// Its checksum, where the container keeps one.
    pub checksum: u32,
    /// What kernels lost, if it passed any.
    pub loss: Option<Box<Loss>>,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFile {
    /// Its name.
    pub name: String,
    /// The number of bytes.
    pub len: u64,
    /// The SHA-256 of the whole file, if it was asked for.
    pub sha256: Option<[u8; 32]>,
}
