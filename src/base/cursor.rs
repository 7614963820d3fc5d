//! A walk over bytes that checks every bound and knows where in the file it is.

use crate::base::error::{Error, Result};

/// Reads forward over a slice. Errors carry the absolute offset and name the field.
#[derive(Clone)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    base: u64,
}

macro_rules! integers {
    ($($(#[$doc:meta])* $name:ident: $type:ty, $from:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// Fewer bytes are left than the field takes.
        pub fn $name(&mut self, field: &str) -> Result<$type> {
            let bytes = self.take(size_of::<$type>() as u64, field)?;
            Ok(<$type>::$from(bytes.try_into().expect("take returns as many bytes as asked")))
        }
    )*};
}

impl<'a> Cursor<'a> {
    /// Walks over `bytes`, whose first lies at the absolute offset `base` of its file.
    pub fn new(bytes: &'a [u8], base: u64) -> Cursor<'a> {
        Cursor { bytes, position: 0, base }
    }

    /// The absolute offset of the next byte.
    pub fn offset(&self) -> u64 {
        self.base.saturating_add(self.position as u64)
    }

    /// How many bytes are left.
    pub fn left(&self) -> u64 {
        (self.bytes.len() - self.position) as u64
    }

    /// Whether no byte is left.
    pub fn is_empty(&self) -> bool {
        self.left() == 0
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn take(&mut self, len: u64, field: &str) -> Result<&'a [u8]> {
        if self.left() < len {
            let message = format!("{field} takes {len} bytes, {} are left", self.left());
            return Err(Error::malformed(self.offset(), message));
        }
        let start = self.position;
        // No more than what is left of a slice, so it fits.
        self.position += len as usize;
        Ok(&self.bytes[start..self.position])
    }

    integers! {
        /// One byte.
        u8: u8, from_le_bytes;
        /// A little-endian `u16`.
        u16_le: u16, from_le_bytes;
        /// A little-endian `u32`.
        u32_le: u32, from_le_bytes;
        /// A little-endian `u64`.
        u64_le: u64, from_le_bytes;
        /// A little-endian `i32`.
        i32_le: i32, from_le_bytes;
        /// A little-endian `i64`.
        i64_le: i64, from_le_bytes;
        /// A big-endian `f64`.
        f64_be: f64, from_be_bytes;
    }

    /// The bytes up to the next newline, which is passed over.
    ///
    /// # Errors
    /// There is no newline.
    pub fn line(&mut self, field: &str) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.position..];
        let Some(len) = rest.iter().position(|&byte| byte == b'\n') else {
            let message = format!("{field} ends with a newline, and none is left");
            return Err(Error::malformed(self.offset(), message));
        };
        self.position += len + 1;
        Ok(&rest[..len])
    }
}
