//! The zip archive, read so that no two readers can disagree on what it holds.
//!
//! ```text
//! (local header, payload, descriptor)*  directory  [zip64 end, locator]  end
//! ```
//!
//! Readers of zip files differ where a file says a thing twice: with two members of one name,
//! torch takes the first and Python the last; some believe the local header, some the directory.
//! This one refuses every file in which the two places differ, members overlap, or bytes lie
//! between the directory and the end record.
//!
//! Spec: PKWARE `APPNOTE.TXT` 6.3.10, sections 4.3 to 4.5.

pub mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;

use flate2::Crc;
use flate2::read::DeflateDecoder;

use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};

/// The first bytes of a zip file that has members.
pub const LOCAL_SIGNATURE: &[u8; 4] = b"PK\x03\x04";

const DIRECTORY_SIGNATURE: u32 = 0x0201_4b50;
const END_SIGNATURE: &[u8; 4] = b"PK\x05\x06";
const END64_SIGNATURE: u32 = 0x0606_4b50;
const LOCATOR_SIGNATURE: u32 = 0x0706_4b50;

const END_LEN: usize = 22;
const LOCATOR_LEN: u64 = 20;

/// The id of the extra field that keeps 64-bit sizes.
const ZIP64_EXTRA: u16 = 0x0001;

/// The flag of an encrypted member.
const ENCRYPTED: u16 = 1 << 0;
/// The flag of a member whose sizes follow its payload; its local header may keep zeros.
const SIZES_FOLLOW: u16 = 1 << 3;
/// The flags of strong encryption and of an encrypted directory.
const STRONG_ENCRYPTION: u16 = 1 << 6 | 1 << 13;

/// The names and places of the members of a zip file.
#[derive(Debug)]
pub struct Zip {
    members: Vec<Member>,
    by_name: BTreeMap<String, usize>,
}

/// One member of a [`Zip`].
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

impl Zip {
    /// Reads the directory of a whole zip file and checks it against every local header.
    ///
    /// # Errors
    /// The file is no zip file, is cut short, or can be read in more than one way.
    pub fn read(bytes: &[u8]) -> Result<Zip> {
        let end = find_end(bytes)?;
        let entries = read_directory(bytes, &end)?;
        let mut members = Vec::with_capacity(entries.len());
        let mut by_name = BTreeMap::new();
        let mut spans = Vec::with_capacity(entries.len());
        for entry in entries {
            if by_name.insert(entry.name.clone(), members.len()).is_some() {
                let message = format!(
                    "two members are named {}; readers disagree on which of them counts",
                    quote(&entry.name)
                );
                return Err(Error::malformed(entry.at, message));
            }
            let start = check_local_header(bytes, &entry, end.directory_start)?;
            spans.push((entry.header_start, start.saturating_add(entry.packed_len)));
            members.push(Member {
                name: entry.name,
                method: entry.method,
                start,
                packed_len: entry.packed_len,
                len: entry.len,
                crc: entry.crc,
            });
        }
        spans.sort_unstable();
        for pair in spans.windows(2) {
            if let [before, after] = pair
                && after.0 < before.1
            {
                let message = format!(
                    "two members overlap: one ends at byte {:#x}, the next starts before it",
                    before.1
                );
                return Err(Error::malformed(after.0, message));
            }
        }
        Ok(Zip { members, by_name })
    }

    /// The members, in the order of the directory.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member of this name.
    pub fn find(&self, name: &str) -> Option<&Member> {
        self.members.get(*self.by_name.get(name)?)
    }

    /// The names that differ from the name of an earlier member only in the case of letters.
    pub fn case_twins(&self) -> Vec<(&str, &str)> {
        let mut folded = BTreeMap::new();
        let mut twins = Vec::new();
        for member in &self.members {
            let first = *folded.entry(member.name.to_lowercase()).or_insert(member.name.as_str());
            if first != member.name {
                twins.push((first, member.name.as_str()));
            }
        }
        twins
    }
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

/// What the end records say.
struct End {
    n_entries: u64,
    directory_start: u64,
    directory_len: u64,
}

fn find_end(bytes: &[u8]) -> Result<End> {
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
struct Entry {
    at: u64,
    name: String,
    method: Method,
    crc: u32,
    packed_len: u64,
    len: u64,
    header_start: u64,
}

fn read_directory(bytes: &[u8], end: &End) -> Result<Vec<Entry>> {
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

fn read_entry(cursor: &mut Cursor<'_>) -> Result<Entry> {
    let at = cursor.offset();
    if cursor.u32_le("a directory entry's signature")? != DIRECTORY_SIGNATURE {
        return Err(Error::malformed(at, "no directory entry stands where one is due"));
    }
    cursor.take(4, "the versions")?;
    let flags = cursor.u16_le("the flags")?;
    let method = method_of(cursor.u16_le("the method")?);
    cursor.take(4, "the time")?;
    let crc = cursor.u32_le("the checksum")?;
    let packed_len = cursor.u32_le("the packed size")?;
    let len = cursor.u32_le("the size")?;
    let name_len = cursor.u16_le("the name's length")?;
    let extra_len = cursor.u16_le("the extra fields' length")?;
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

/// Replaces each 32-bit number that is all ones by the next one of the zip64 extra field.
fn widen(extra: &[u8], at: u64, numbers: &[u32]) -> Result<Vec<u64>> {
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

/// Compares the local header with the directory; gives the offset of the payload.
fn check_local_header(bytes: &[u8], entry: &Entry, directory_start: u64) -> Result<u64> {
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
    let flags = cursor.u16_le("the flags")?;
    let method = method_of(cursor.u16_le("the method")?);
    cursor.take(4, "the time")?;
    let crc = cursor.u32_le("the checksum")?;
    let packed_len = cursor.u32_le("the packed size")?;
    let len = cursor.u32_le("the size")?;
    let name_len = cursor.u16_le("the name's length")?;
    let extra_len = cursor.u16_le("the extra fields' length")?;
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

fn slice(bytes: &[u8], start: u64, len: u64) -> Option<&[u8]> {
    let end = start.checked_add(len)?;
    bytes.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

/// Quotes a name of the file for a message, cut to a length that fits one.
fn quote(name: &(impl ToString + ?Sized)) -> String {
    const MAX_QUOTED: usize = 120;
    let name = name.to_string();
    let mut quoted: String = name.chars().take(MAX_QUOTED).flat_map(char::escape_debug).collect();
    if name.chars().nth(MAX_QUOTED).is_some() {
        quoted.push('…');
    }
    format!("`{quoted}`")
}

#[cfg(test)]
mod tests;
