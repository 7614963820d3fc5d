//! The heads of the members themselves, held to what the directory says of them.

use super::directory::{Common, ENCRYPTED, Entry, SIZES_FOLLOW, STRONG_ENCRYPTION};
use super::extra::{quote, slice, widen};
use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};

/// The first bytes of a zip file that has members.
pub const LOCAL_SIGNATURE: &[u8; 4] = b"PK\x03\x04";

/// Compares the local header with the directory; gives the offset of the payload.
pub(super) fn check_local_header(bytes: &[u8], entry: &Entry, directory_start: u64) -> Result<u64> {
    let what = quote(&entry.name);
    let at = entry.header_start;
    let before_directory = directory_start.checked_sub(at);
    let Some(rest) = before_directory.and_then(|len| slice(bytes, at, len)) else {
        let message = format!(
            "the local header of {what} is said to lie at byte {at:#x}, where no member can be"
        );
        return Err(Error::malformed(entry.at, message));
    };
    let mut cursor = Cursor::new(rest, at);
    if cursor.take(4, "a local header's signature")? != LOCAL_SIGNATURE {
        return Err(Error::malformed(at, format!("{what} has no local header where one is due")));
    }
    cursor.take(2, "the version")?;
    let Common { flags, method, crc, packed_len, len, name_len, extra_len } =
        Common::read(&mut cursor)?;
    let name = cursor.take(name_len.into(), "the local name")?;
    let extra = cursor.take(extra_len.into(), "the extra fields")?;
    if name != entry.name.as_bytes() {
        let message = format!(
            "the directory names the member {what}, its local header {}",
            quote(&name.escape_ascii())
        );
        return Err(Error::malformed(at, message));
    }
    if flags & (ENCRYPTED | STRONG_ENCRYPTION) != 0 {
        return Err(Error::unsupported(format!("{what} is encrypted")).at(at));
    }
    if method != entry.method {
        let message = format!("the directory and the local header pack {what} by other methods");
        return Err(Error::malformed(at, message));
    }
    // torch writes zeros here and the numbers behind the payload.
    let left_open = flags & SIZES_FOLLOW != 0 && len == 0 && packed_len == 0;
    if !left_open {
        let wide = widen(extra, at, &[len, packed_len])?;
        if wide != [entry.len, entry.packed_len] {
            let message = format!(
                "the directory gives {what} {} bytes, its local header {}",
                entry.len,
                wide.first().copied().unwrap_or_default()
            );
            return Err(Error::malformed(at, message));
        }
        if crc != entry.crc && flags & SIZES_FOLLOW == 0 {
            let message = format!("the directory and the local header give {what} other checksums");
            return Err(Error::malformed(at, message));
        }
    }
    let start = cursor.offset();
    if cursor.left() < entry.packed_len {
        let message = format!(
            "{what} takes {} bytes, {} are left before the directory",
            entry.packed_len,
            cursor.left()
        );
        return Err(Error::malformed(start, message));
    }
    Ok(start)
}
