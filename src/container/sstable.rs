//! LevelDB's tables of sorted keys and values, in which TensorFlow keeps the index of a checkpoint.
//!
//! ```text
//! (block, compression (1 byte), CRC-32C (4 bytes))*   footer: places of the last two, magic
//! block: (shared key bytes, new key bytes, value bytes: varints; new bytes; value)*  restarts
//! ```
//!
//! Spec: `leveldb/doc/table_format.md`; a block's checksum is masked.

mod write;

pub use self::write::write;
use super::protobuf::varint;
use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};

const FOOTER_LEN: usize = 48;
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
/// A block that is compressed becomes no longer than this; TensorFlow writes 256 KiB.
const MAX_BLOCK_LEN: u64 = 64 << 20;
/// All keys together are no longer than this: a million tensors take a third of it.
const MAX_KEYS_LEN: u64 = 256 << 20;
/// Keys are no longer than this.
const MAX_KEY_LEN: u64 = 64 << 10;

/// Whether a file of these bytes ends as a table does.
pub fn is_table(bytes: &[u8]) -> bool {
    bytes.len() >= FOOTER_LEN && bytes.ends_with(&MAGIC.to_le_bytes())
}

/// The entries of a table, in order; each value with its offset where its block is stored as it
/// is, else with that of the block.
pub type Entries = Vec<(Vec<u8>, Vec<u8>, u64)>;

/// Reads all entries of a table.
///
/// # Errors
/// The bytes are no table, a checksum is wrong, or keys are out of order.
pub fn read(bytes: &[u8]) -> Result<Entries> {
    let footer = bytes.len().checked_sub(FOOTER_LEN).filter(|_| is_table(bytes));
    let footer = footer.ok_or_else(|| {
        Error::malformed(bytes.len() as u64, "does not end with the magic number of a table")
    })?;
    let mut cursor = Cursor::new(&bytes[footer..], footer as u64);
    for what in ["the place of the meta index", "its length"] {
        varint(&mut cursor, what)?;
    }
    let index = handle(&mut cursor)?;
    let mut entries: Entries = Vec::new();
    let mut seen = 0u64;
    let mut room = MAX_KEYS_LEN;
    for (_, value, at) in block(bytes, index, &mut room)? {
        let place = handle(&mut Cursor::new(&value, at))?;
        // Blocks lie one behind the other; a table that names one twice never ends.
        if place.0 < seen {
            return Err(Error::malformed(at, "a block lies before the one that it comes after"));
        }
        seen = place.0.saturating_add(place.1);
        for entry in block(bytes, place, &mut room)? {
            if entries.last().is_some_and(|(last, ..)| entry.0 <= *last) {
                return Err(Error::malformed(entry.2, "two keys are the same, or out of order"));
            }
            entries.push(entry);
        }
    }
    Ok(entries)
}

fn handle(cursor: &mut Cursor<'_>) -> Result<(u64, u64)> {
    Ok((varint(cursor, "the place of a block")?, varint(cursor, "the length of a block")?))
}

/// The entries of a block; `room` is how long keys may still be.
fn block(bytes: &[u8], (start, len): (u64, u64), room: &mut u64) -> Result<Entries> {
    let outside = || Error::malformed(start, format!("a block of {len} bytes passes the end"));
    let from = usize::try_from(start).map_err(|_| outside())?;
    let rest = bytes.get(from..).ok_or_else(outside)?;
    let mut cursor = Cursor::new(rest, start);
    let stored = cursor.take(len, "a block")?;
    let kind = cursor.u8("the compression of a block")?;
    let checksum = cursor.u32_le("the checksum of a block")?;
    let found = mask(crc32c::crc32c_append(crc32c::crc32c(stored), &[kind]));
    if found != checksum {
        let message =
            format!("the checksum of a block is {found:08x}, the file says {checksum:08x}");
        return Err(Error::malformed(start, message));
    }
    match kind {
        0 => entries(stored, start, room),
        1 => entries(&unsnap(stored, start)?, start, room),
        kind => Err(Error::unsupported(format!("a block of the compression {kind}")).at(start)),
    }
}

/// The CRC-32C that was stored so.
pub fn unmask(stored: u32) -> u32 {
    stored.wrapping_sub(0xa282_ead8).rotate_left(15)
}

/// A CRC-32C as LevelDB and TensorFlow store it.
pub fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn entries(block: &[u8], base: u64, room: &mut u64) -> Result<Entries> {
    let short = || Error::malformed(base, "a block ends before its restarts");
    let tail = block.len().checked_sub(4).ok_or_else(short)?;
    let n = u32::from_le_bytes(block[tail..].try_into().expect("four bytes"));
    let restarts = (n as usize).checked_mul(4).and_then(|len| tail.checked_sub(len));
    let mut cursor = Cursor::new(&block[..restarts.ok_or_else(short)?], base);
    let mut entries: Entries = Vec::new();
    while !cursor.is_empty() {
        let at = cursor.offset();
        let shared = varint(&mut cursor, "the shared part of a key")?;
        let own = varint(&mut cursor, "the length of a key")?;
        let len = varint(&mut cursor, "the length of a value")?;
        let last = entries.last().map_or(&[][..], |(key, ..)| key.as_slice());
        let shared = usize::try_from(shared).ok().and_then(|shared| last.get(..shared));
        let shared = shared
            .ok_or_else(|| Error::malformed(at, "a key shares more than the last one has"))?;
        let key_len = own.saturating_add(shared.len() as u64);
        if MAX_KEY_LEN < key_len {
            return Err(Error::limit(at, format!("a key of more than {MAX_KEY_LEN} bytes")));
        }
        let left = room.checked_sub(key_len);
        *room = left.ok_or_else(|| {
            Error::limit(at, format!("keys of more than {MAX_KEYS_LEN} bytes together"))
        })?;
        let key = [shared, cursor.take(own, "a key")?].concat();
        let at = cursor.offset();
        entries.push((key, cursor.take(len, "a value")?.to_vec(), at));
    }
    Ok(entries)
}

/// Undoes Snappy's raw format (`snappy/format_description.txt`).
fn unsnap(bytes: &[u8], base: u64) -> Result<Vec<u8>> {
    let mut cursor = Cursor::new(bytes, base);
    let len = varint(&mut cursor, "the length of a block")?;
    if MAX_BLOCK_LEN < len {
        return Err(Error::limit(base, format!("a block of {len} bytes")));
    }
    let mut out: Vec<u8> = Vec::new();
    while !cursor.is_empty() {
        let at = cursor.offset();
        let tag = cursor.u8("a tag")?;
        let high = u64::from(tag >> 2);
        let number = |cursor: &mut Cursor<'_>, n: u64| -> Result<u64> {
            let bytes = cursor.take(n, "a number")?;
            Ok(bytes.iter().rev().fold(0, |number, &byte| (number << 8) | u64::from(byte)))
        };
        let (n, back) = match tag & 3 {
            0 => {
                let n = if high < 60 { high } else { number(&mut cursor, high - 59)? } + 1;
                out.extend_from_slice(cursor.take(n, "a literal")?);
                (0, 0)
            }
            1 => {
                let low = number(&mut cursor, 1)?;
                (4 + (high & 7), ((high >> 3) << 8) | low)
            }
            kind => (high + 1, number(&mut cursor, if kind == 2 { 2 } else { 4 })?),
        };
        if len < out.len() as u64 + n {
            return Err(Error::malformed(at, format!("more than the {len} bytes of the block")));
        }
        if n != 0 {
            let from = usize::try_from(back).ok().filter(|&back| back != 0);
            let from = from.and_then(|back| out.len().checked_sub(back));
            let from = from.ok_or_else(|| Error::malformed(at, "a copy from before the start"))?;
            // A copy may go on into what it writes.
            for at in from..from + n as usize {
                out.push(out[at]);
            }
        }
    }
    if out.len() as u64 != len {
        return Err(Error::malformed(base, format!("{} bytes of {len} in a block", out.len())));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snappy_literals_and_copies_are_undone() {
        // "abcd", then eight bytes from four before: a copy that goes on into itself.
        let bytes = [12, 3 << 2, b'a', b'b', b'c', b'd', (7 << 2) | 2, 4, 0];
        assert_eq!(unsnap(&bytes, 0).unwrap(), b"abcdabcdabcd");
        let bytes = [8, 3 << 2, b'a', b'b', b'c', b'd', 1, 4];
        assert_eq!(unsnap(&bytes, 0).unwrap(), b"abcdabcd");
        for bad in [
            &[12, 3 << 2, b'a'][..],
            &[4, (7 << 2) | 2, 4, 0],
            &[2, 3 << 2, 1, 2, 3, 4],
            &[9, 0, 1],
        ] {
            assert!(unsnap(bad, 0).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn masks_are_taken_off() {
        for crc in [0, 1, 0xdead_beef, u32::MAX] {
            assert_eq!(unmask(mask(crc)), crc);
        }
    }

    #[test]
    fn tables_that_lie_are_refused() {
        assert!(read(b"short").is_err());
        let mut footer = [0u8; FOOTER_LEN];
        footer[..4].copy_from_slice(&[0, 0, 100, 100]);
        footer[40..].copy_from_slice(&MAGIC.to_le_bytes());
        let err = read(&footer).unwrap_err();
        assert!(err.message().contains("a block"), "{err}");
    }
}
