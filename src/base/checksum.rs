//! The checksums that containers keep of bytes.

/// A kind of checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// That of zip.
    Crc32,
    /// Castagnoli's, that of TensorFlow.
    Crc32c,
}

impl Checksum {
    /// The sum of no bytes.
    pub(crate) fn start(self) -> Sum {
        match self {
            Checksum::Crc32 => Sum::Crc32(crc32fast::Hasher::new()),
            Checksum::Crc32c => Sum::Crc32c(0),
        }
    }
}

/// A checksum under way.
#[derive(Debug)]
pub(crate) enum Sum {
    Crc32(crc32fast::Hasher),
    Crc32c(u32),
}

impl Sum {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Sum::Crc32(crc) => crc.update(bytes),
            Sum::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
        }
    }

    /// The sum, and begins anew.
    pub(crate) fn finish(&mut self) -> u32 {
        match self {
            Sum::Crc32(crc) => std::mem::take(crc).finalize(),
            Sum::Crc32c(crc) => std::mem::take(crc),
        }
    }
}
