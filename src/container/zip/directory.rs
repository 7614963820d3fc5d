//! Finds and reads the directory at the end of a zip file.

use super::extra::{quote, slice, widen};
use super::member::Method;
use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};

pub(super) const DIRECTORY_SIGNATURE: u32 = 0x0201_4b50;

pub(super) const END_SIGNATURE: &[u8; 4] = b"PK\x05\x06";

pub(super) const END64_SIGNATURE: u32 = 0x0606_4b50;

pub(super) const LOCATOR_SIGNATURE: u32 = 0x0706_4b50;

const END_LEN: usize = 22;

const LOCATOR_LEN: u64 = 20;

/// The flag of an encrypted member.
pub(super) const ENCRYPTED: u16 = 1 << 0;

/// The flag of a member whose sizes follow its payload; its local header may keep zeros.
pub(super) const SIZES_FOLLOW: u16 = 1 << 3;

/// The flags of strong encryption and of an encrypted directory.
pub(super) const STRONG_ENCRYPTION: u16 = 1 << 6 | 1 << 13;

/// What the end records say.
pub(super) struct End {
    pub(super) n_entries: u64,
    pub(super) directory_start: u64,
    pub(super) directory_len: u64,
}

pub(super) fn find_end(bytes: &[u8]) -> Result<End> {
    let file_len = bytes.len() as u64;
    // The end record is the last thing in the file, but for a comment of up to 64 KiB.
    let window_start = bytes.len().saturating_sub(END_LEN + usize::from(u16::MAX));
    let window = bytes.get(window_start..).unwrap_or_default();
    let Some(position) = window.windows(END_SIGNATURE.len()).rposition(|at| at == END_SIGNATURE)
    else {
        let message = "the file starts as a zip file and has no end record: it is cut short";
        return Err(Error::malformed(file_len, message));
    };
    let end_start = (window_start + position) as u64;
    let mut cursor = Cursor::new(window.get(position..).unwrap_or_default(), end_start);
    cursor.take(4, "the end record's signature")?;
    let disk = cursor.u16_le("the disk number")?;
    let directory_disk = cursor.u16_le("the directory's disk number")?;
    let n_entries_here = cursor.u16_le("the number of members on this disk")?;
    let n_entries = cursor.u16_le("the number of members")?;
    let directory_len = cursor.u32_le("the directory's length")?;
    let directory_start = cursor.u32_le("the directory's offset")?;
    let comment_len = cursor.u16_le("the comment's length")?;
    if cursor.left() != u64::from(comment_len) {
        let message = format!(
            "the end record announces {comment_len} bytes after it, {} are there",
            cursor.left()
        );
        return Err(Error::malformed(end_start, message));
    }
    let mut end = End {
        n_entries: n_entries.into(),
        directory_start: directory_start.into(),
        directory_len: directory_len.into(),
    };
    let multi_disk = || Error::unsupported("the zip file is one of several disks").at(end_start);
    let mut directory_end = end_start;
    let small = (disk, directory_disk, n_entries_here, n_entries, directory_len, directory_start);
    match find_end64(bytes, end_start)? {
        Some((start64, end64)) => {
            let differs =
                |small: u64, all_ones: u64, large: u64| small != all_ones && small != large;
            let lie = differs(end.n_entries, u16::MAX.into(), end64.n_entries)
                || differs(end.directory_len, u32::MAX.into(), end64.directory_len)
                || differs(end.directory_start, u32::MAX.into(), end64.directory_start);
            if lie {
                let message = "the end record and the zip64 end record do not say the same";
                return Err(Error::malformed(end_start, message));
            }
            if ![0, u16::MAX].contains(&disk) || ![0, u16::MAX].contains(&directory_disk) {
                return Err(multi_disk());
            }
            directory_end = start64;
            end = end64;
        }
        None => {
            if small.0 != 0 || small.1 != 0 || small.2 != small.3 {
                return Err(multi_disk());
            }
            if small.4 == u32::MAX || small.5 == u32::MAX {
                let message = "the end record points to a zip64 end record, which is not there";
                return Err(Error::malformed(end_start, message));
            }
        }
    }
    if end.directory_start.checked_add(end.directory_len) != Some(directory_end) {
        let message = format!(
            "the directory starts at byte {:#x} and takes {} bytes, and does not end where the \
             end record begins, at byte {directory_end:#x}",
            end.directory_start, end.directory_len
        );
        return Err(Error::malformed(end_start, message));
    }
    Ok(end)
}

/// Reads the zip64 end record, if a locator stands before the end record; gives its offset too.
fn find_end64(bytes: &[u8], end_start: u64) -> Result<Option<(u64, End)>> {
    let Some(locator_start) = end_start.checked_sub(LOCATOR_LEN) else { return Ok(None) };
    let Some(locator) = slice(bytes, locator_start, LOCATOR_LEN) else { return Ok(None) };
    let mut cursor = Cursor::new(locator, locator_start);
    if cursor.u32_le("the zip64 locator's signature")? != LOCATOR_SIGNATURE {
        return Ok(None);
    }
    let multi_disk = |at| Error::unsupported("the zip file is one of several disks").at(at);
    let disk = cursor.u32_le("the zip64 end record's disk number")?;
    let start = cursor.u64_le("the zip64 end record's offset")?;
    let n_disks = cursor.u32_le("the number of disks")?;
    // Info-ZIP counts disks from 1, some writers leave 0.
    if disk != 0 || 1 < n_disks {
        return Err(multi_disk(locator_start));
    }
    let Some(record) = locator_start.checked_sub(start).and_then(|len| slice(bytes, start, len))
    else {
        let message =
            format!("the zip64 end record is said to start at byte {start:#x}, behind it");
        return Err(Error::malformed(locator_start, message));
    };
    let mut cursor = Cursor::new(record, start);
    if cursor.u32_le("the zip64 end record's signature")? != END64_SIGNATURE {
        let message = "no zip64 end record stands where the locator says";
        return Err(Error::malformed(start, message));
    }
    let rest_len = cursor.u64_le("the zip64 end record's length")?;
    if rest_len != cursor.left() {
        let message = format!(
            "the zip64 end record announces {rest_len} bytes more, {} stand before its locator",
            cursor.left()
        );
        return Err(Error::malformed(start, message));
    }
    cursor.take(4, "the zip64 end record's versions")?;
    let disk = cursor.u32_le("the disk number")?;
    let directory_disk = cursor.u32_le("the directory's disk number")?;
    let n_entries_here = cursor.u64_le("the number of members on this disk")?;
    let n_entries = cursor.u64_le("the number of members")?;
    let directory_len = cursor.u64_le("the directory's length")?;
    let directory_start = cursor.u64_le("the directory's offset")?;
    if disk != 0 || directory_disk != 0 || n_entries != n_entries_here {
        return Err(multi_disk(start));
    }
    Ok(Some((start, End { n_entries, directory_start, directory_len })))
}

/// One entry of the directory.
pub(super) struct Entry {
    pub(super) at: u64,
    pub(super) name: String,
    pub(super) method: Method,
    pub(super) crc: u32,
    pub(super) packed_len: u64,
    pub(super) len: u64,
    pub(super) header_start: u64,
}

pub(super) fn read_directory(bytes: &[u8], end: &End) -> Result<Vec<Entry>> {
    let directory = slice(bytes, end.directory_start, end.directory_len).ok_or_else(|| {
        let message = format!("the directory takes {} bytes, past the end", end.directory_len);
        Error::malformed(end.directory_start, message)
    })?;
    let mut cursor = Cursor::new(directory, end.directory_start);
    let mut entries = Vec::new();
    while !cursor.is_empty() {
        entries.push(read_entry(&mut cursor)?);
    }
    if entries.len() as u64 != end.n_entries {
        let message = format!(
            "the end record announces {} members, the directory has {}",
            end.n_entries,
            entries.len()
        );
        return Err(Error::malformed(end.directory_start, message));
    }
    Ok(entries)
}

/// The numbers that stand alike in a directory entry and in a local header.
pub(super) struct Common {
    pub(super) flags: u16,
    pub(super) method: Method,
    pub(super) crc: u32,
    pub(super) packed_len: u32,
    pub(super) len: u32,
    pub(super) name_len: u16,
    pub(super) extra_len: u16,
}

impl Common {
    /// Reads them from where the flags stand.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Common> {
        let flags = cursor.u16_le("the flags")?;
        let method = method_of(cursor.u16_le("the method")?);
        cursor.take(4, "the time")?;
        Ok(Common {
            flags,
            method,
            crc: cursor.u32_le("the checksum")?,
            packed_len: cursor.u32_le("the packed size")?,
            len: cursor.u32_le("the size")?,
            name_len: cursor.u16_le("the name's length")?,
            extra_len: cursor.u16_le("the extra fields' length")?,
        })
    }
}

fn read_entry(cursor: &mut Cursor<'_>) -> Result<Entry> {
    let at = cursor.offset();
    if cursor.u32_le("a directory entry's signature")? != DIRECTORY_SIGNATURE {
        return Err(Error::malformed(at, "no directory entry stands where one is due"));
    }
    cursor.take(4, "the versions")?;
    let Common { flags, method, crc, packed_len, len, name_len, extra_len } = Common::read(cursor)?;
    let comment_len = cursor.u16_le("the comment's length")?;
    let disk = cursor.u16_le("the disk number")?;
    cursor.take(6, "the attributes")?;
    let header_start = cursor.u32_le("the local header's offset")?;
    let name = check_name(cursor.take(name_len.into(), "the name")?, at)?;
    let extra = cursor.take(extra_len.into(), "the extra fields")?;
    cursor.take(comment_len.into(), "the comment")?;
    let wide = widen(extra, at, &[len, packed_len, header_start])?;
    let [len, packed_len, header_start] = wide[..] else {
        return Err(Error::malformed(at, "the zip64 field has too few numbers"));
    };
    if flags & (ENCRYPTED | STRONG_ENCRYPTION) != 0 {
        let message = format!("{} is encrypted", quote(&name));
        return Err(Error::unsupported(message).at(at));
    }
    if disk != 0 {
        return Err(Error::unsupported("the zip file is one of several disks").at(at));
    }
    if method == Method::Stored && len != packed_len {
        let message = format!(
            "{} is stored as it is, and has the two sizes {len} and {packed_len}",
            quote(&name)
        );
        return Err(Error::malformed(at, message));
    }
    Ok(Entry { at, name, method, crc, packed_len, len, header_start })
}

fn method_of(number: u16) -> Method {
    match number {
        0 => Method::Stored,
        8 => Method::Deflated,
        other => Method::Other(other),
    }
}

fn check_name(bytes: &[u8], at: u64) -> Result<String> {
    let Ok(name) = std::str::from_utf8(bytes) else {
        let message = format!("the member name {} is not UTF-8", quote(&bytes.escape_ascii()));
        return Err(Error::malformed(at, message));
    };
    let drive = name.as_bytes().get(1) == Some(&b':');
    let climbs = name.split(['/', '\\']).any(|part| part == "..");
    if name.is_empty() || name.starts_with(['/', '\\']) || drive || climbs || name.contains('\0') {
        let message = format!("the member name {} leads out of the archive", quote(name));
        return Err(Error::malformed(at, message));
    }
    Ok(name.to_owned())
}
