//! A file inside a zip file, and its bytes.

use std::borrow::Cow;
use std::io::Read;

use flate2::Crc;
use flate2::read::DeflateDecoder;

use super::extra::{quote, slice};
use crate::base::error::{Error, Result};

/// One member of a `Zip`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// How its payload is packed.
    pub method: Method,
    /// The first byte of the payload in the file.
    pub start: u64,
    /// The length of the payload in the file.
    pub packed_len: u64,
    /// The length of the payload when unpacked, as the directory claims it.
    pub len: u64,
    /// The checksum that the directory claims.
    pub crc: u32,
}

/// How a member's payload is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// As it is.
    Stored,
    /// Deflated.
    Deflated,
    /// Something else, by its number in the spec.
    Other(u16),
}

impl Member {
    /// Unpacks the payload, which may take up to `max_len` bytes.
    ///
    /// # Errors
    /// The payload is larger, or is not what its own numbers say, or is packed in a way this
    /// program does not know.
    pub fn unpack<'a>(&self, bytes: &'a [u8], max_len: u64) -> Result<Cow<'a, [u8]>> {
        let what = quote(&self.name);
        if max_len < self.len {
            let message = format!("{what} takes {} bytes, the limit is {max_len}", self.len);
            return Err(Error::limit(self.start, message));
        }
        let packed = slice(bytes, self.start, self.packed_len)
            .ok_or_else(|| Error::malformed(self.start, format!("{what} passes the end")))?;
        match self.method {
            Method::Stored => Ok(Cow::Borrowed(packed)),
            Method::Other(method) => Err(Error::unsupported(format!(
                "{what} is packed with method {method}, which this program does not unpack"
            ))
            .at(self.start)),
            Method::Deflated => {
                let mut unpacked = Vec::new();
                // One byte more than wanted, to see a member that is larger than it claims.
                let wanted = self.len.saturating_add(1);
                DeflateDecoder::new(packed).take(wanted).read_to_end(&mut unpacked).map_err(
                    |err| Error::malformed(self.start, format!("cannot inflate {what}: {err}")),
                )?;
                if unpacked.len() as u64 != self.len {
                    let more = if self.len < unpacked.len() as u64 { "more" } else { "fewer" };
                    let message =
                        format!("{what} claims {} bytes and inflates to {more}", self.len);
                    return Err(Error::malformed(self.start, message));
                }
                Ok(Cow::Owned(unpacked))
            }
        }
    }

    /// Whether `unpacked`, the whole payload, has the checksum of the directory.
    pub fn matches(&self, unpacked: &[u8]) -> bool {
        let mut crc = Crc::new();
        crc.update(unpacked);
        crc.sum() == self.crc
    }
}
