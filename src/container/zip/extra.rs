//! Fields of the heads of a zip file: those that are wider than they are stored, and names in messages.

use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};

/// The id of the extra field that keeps 64-bit sizes.
pub(super) const ZIP64_EXTRA: u16 = 0x0001;

/// Replaces each 32-bit number that is all ones by the next one of the zip64 extra field.
pub(super) fn widen(extra: &[u8], at: u64, numbers: &[u32]) -> Result<Vec<u64>> {
    let mut wide: Vec<u64> = numbers.iter().map(|&number| number.into()).collect();
    if numbers.iter().all(|&number| number != u32::MAX) {
        return Ok(wide);
    }
    let field = find_extra(extra, at, ZIP64_EXTRA)?;
    let Some(field) = field else {
        let message = "a size points to a zip64 field, which the member does not have";
        return Err(Error::malformed(at, message));
    };
    let mut field = Cursor::new(field, at);
    for number in wide.iter_mut().filter(|number| **number == u64::from(u32::MAX)) {
        *number = field.u64_le("a number of the zip64 field")?;
    }
    Ok(wide)
}

fn find_extra(extra: &[u8], at: u64, wanted: u16) -> Result<Option<&[u8]>> {
    let mut cursor = Cursor::new(extra, at);
    // Android and others pad with fewer bytes than a field's own header.
    while 4 <= cursor.left() {
        let id = cursor.u16_le("an extra field's id")?;
        let len = cursor.u16_le("an extra field's length")?;
        if id == wanted {
            return cursor.take(len.into(), "the zip64 field").map(Some);
        }
        let skipped = u64::from(len).min(cursor.left());
        cursor.take(skipped, "an extra field")?;
    }
    Ok(None)
}

pub(super) fn slice(bytes: &[u8], start: u64, len: u64) -> Option<&[u8]> {
    let end = start.checked_add(len)?;
    bytes.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

/// Quotes a name of the file for a message, cut to a length that fits one.
pub(super) fn quote(name: &(impl ToString + ?Sized)) -> String {
    const MAX_QUOTED: usize = 120;
    let name = name.to_string();
    let mut quoted: String = name.chars().take(MAX_QUOTED).flat_map(char::escape_debug).collect();
    if name.chars().nth(MAX_QUOTED).is_some() {
        quoted.push('…');
    }
    format!("`{quoted}`")
}
