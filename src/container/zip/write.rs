//! What a zip archive has around members that are stored as they are, as Python's `zipfile` writes it
//! where it may not know how long a member gets: every local header has 64-bit sizes.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use super::directory::{DIRECTORY_SIGNATURE, END_SIGNATURE, END64_SIGNATURE, LOCATOR_SIGNATURE};
use super::extra::ZIP64_EXTRA;
use super::local::LOCAL_SIGNATURE;
use crate::base::error::{Error, Result};

/// Readers of zip from version 4.5 on know 64-bit sizes.
const VERSION: u16 = 45;
/// The bytes of the names are UTF-8.
const UTF8: u16 = 1 << 11;
/// The first of January 1980, before which there are no dates.
const DATE: u16 = 0x21;
/// The id of the field that PyTorch pads with.
const PADDING_EXTRA: [u8; 2] = *b"FB";
/// Where the checksum stands in a local header.
const CRC_OFFSET: u64 = 14;

/// A member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// The length of its payload.
    pub len: u64,
    /// Where its local header begins.
    pub start: u64,
    /// The checksum of its payload.
    pub crc: u32,
}

fn flags(name: &str) -> u16 {
    if name.is_ascii() { 0 } else { UTF8 }
}

fn name_len(name: &str) -> Result<u16> {
    u16::try_from(name.len())
        .map_err(|_| Error::unsupported(format!("a name of {} bytes in a zip archive", name.len())))
}

/// What stands before a payload. The checksum, which is known later, is 0.
///
/// # Errors
/// The name is too long.
pub fn local_header(name: &str, len: u64) -> Result<Vec<u8>> {
    aligned_header(name, len, 0, 1)
}

/// What stands before a payload that begins on a multiple of `alignment`, as PyTorch has it; the
/// header itself begins at `start`.
///
/// # Errors
/// The name is too long.
pub fn aligned_header(name: &str, len: u64, start: u64, alignment: u64) -> Result<Vec<u8>> {
    let mut header = LOCAL_SIGNATURE.to_vec();
    for number in [VERSION, flags(name), 0, 0, DATE] {
        header.extend(number.to_le_bytes());
    }
    for number in [0, u32::MAX, u32::MAX] {
        header.extend(number.to_le_bytes());
    }
    header.extend(name_len(name)?.to_le_bytes());
    let bare = start.saturating_add((header.len() + 2 + name.len() + 20) as u64);
    let padding = match alignment {
        0 | 1 => None,
        _ => {
            let begin = bare.saturating_add(4).checked_next_multiple_of(alignment);
            Some(begin.map_or(0, |begin| begin - bare - 4))
        }
    };
    let padding = padding.map(|len| u16::try_from(len).unwrap_or(0));
    header.extend((20 + padding.map_or(0, |len| len + 4)).to_le_bytes());
    header.extend(name.as_bytes());
    header.extend(ZIP64_EXTRA.to_le_bytes());
    header.extend(16u16.to_le_bytes());
    for _ in 0..2 {
        header.extend(len.to_le_bytes());
    }
    if let Some(len) = padding {
        header.extend(PADDING_EXTRA);
        header.extend(len.to_le_bytes());
        header.resize(header.len() + usize::from(len), b'Z');
    }
    Ok(header)
}

/// Makes an archive of a file whose headers and payloads are written, up to `end`: the checksums come into
/// the headers, and the directory behind the last payload.
///
/// # Errors
/// A name is too long, or the file cannot be written.
pub fn finish(path: &Path, members: &[Member], end: u64) -> Result<()> {
    let failed = |err| Error::io(path, "write", err);
    let mut file = File::options().write(true).open(path).map_err(failed)?;
    for member in members {
        file.seek(SeekFrom::Start(member.start + CRC_OFFSET)).map_err(failed)?;
        file.write_all(&member.crc.to_le_bytes()).map_err(failed)?;
    }
    file.seek(SeekFrom::Start(end)).map_err(failed)?;
    file.write_all(&directory(members, end)?).map_err(failed)
}

/// What follows the last payload, which ends at `start`.
fn directory(members: &[Member], start: u64) -> Result<Vec<u8>> {
    let mut end = Vec::new();
    for member in members {
        let mut wide = Vec::new();
        let mut narrow = |number: u64, times: usize| {
            u32::try_from(number).ok().filter(|&number| number != u32::MAX).unwrap_or_else(|| {
                for _ in 0..times {
                    wide.extend(number.to_le_bytes());
                }
                u32::MAX
            })
        };
        let (len, offset) = (narrow(member.len, 2), narrow(member.start, 1));
        end.extend(DIRECTORY_SIGNATURE.to_le_bytes());
        // Made by that version, on Unix.
        for number in [VERSION | (3 << 8), VERSION, flags(&member.name), 0, 0, DATE] {
            end.extend(number.to_le_bytes());
        }
        for number in [member.crc, len, len] {
            end.extend(number.to_le_bytes());
        }
        let extra = if wide.is_empty() { 0 } else { wide.len() as u16 + 4 };
        for number in [name_len(&member.name)?, extra, 0, 0, 0] {
            end.extend(number.to_le_bytes());
        }
        // Its owner may read and write the file.
        end.extend((0o600u32 << 16).to_le_bytes());
        end.extend(offset.to_le_bytes());
        end.extend(member.name.as_bytes());
        if !wide.is_empty() {
            end.extend(ZIP64_EXTRA.to_le_bytes());
            end.extend((wide.len() as u16).to_le_bytes());
            end.extend(wide);
        }
    }
    let (len, n) = (end.len() as u64, members.len() as u64);
    let is_wide = u64::from(u16::MAX) <= n || u64::from(u32::MAX) <= len.max(start);
    if is_wide {
        let record = start.saturating_add(len);
        end.extend(END64_SIGNATURE.to_le_bytes());
        end.extend(44u64.to_le_bytes());
        end.extend([VERSION, VERSION].map(u16::to_le_bytes).concat());
        end.extend([0u8; 8]);
        for number in [n, n, len, start] {
            end.extend(number.to_le_bytes());
        }
        end.extend(LOCATOR_SIGNATURE.to_le_bytes());
        end.extend(0u32.to_le_bytes());
        end.extend(record.to_le_bytes());
        end.extend(1u32.to_le_bytes());
    }
    end.extend(END_SIGNATURE);
    end.extend([0u8; 4]);
    for _ in 0..2 {
        end.extend(u16::try_from(n).unwrap_or(u16::MAX).to_le_bytes());
    }
    for number in [len, start] {
        end.extend(u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
    }
    end.extend([0u8; 2]);
    Ok(end)
}

#[cfg(test)]
mod tests {
    use flate2::Crc;

    use super::super::Zip;
    use super::*;

    /// An archive of `n` members of a few bytes each.
    fn archive(n: usize) -> Vec<u8> {
        let (mut bytes, mut members) = (Vec::new(), Vec::new());
        for i in 0..n {
            let (name, payload) = (format!("m{i}.é"), vec![i as u8; i % 5]);
            let start = bytes.len() as u64;
            let mut crc = Crc::new();
            crc.update(&payload);
            let header = local_header(&name, payload.len() as u64).unwrap();
            bytes.extend(header);
            let at = start as usize + CRC_OFFSET as usize;
            bytes[at..at + 4].copy_from_slice(&crc.sum().to_le_bytes());
            bytes.extend(&payload);
            members.push(Member { name, len: payload.len() as u64, start, crc: crc.sum() });
        }
        let end = directory(&members, bytes.len() as u64).unwrap();
        bytes.extend(end);
        bytes
    }

    #[test]
    fn archives_of_few_and_of_many_members_are_read() {
        for n in [0, 1, 7, 65_534, 65_535, 65_600] {
            let bytes = archive(n);
            let zip = Zip::read(&bytes).unwrap();
            assert_eq!(zip.members().len(), n);
            for (i, member) in zip.members().iter().enumerate().step_by(4999) {
                let payload = member.unpack(&bytes, 10).unwrap();
                assert_eq!(payload.as_ref(), vec![i as u8; i % 5]);
                assert!(member.matches(&payload));
            }
        }
    }

    #[test]
    fn payloads_begin_where_they_should() {
        for (start, name) in [(0u64, "a"), (7, "a/b"), (12345, "a/data.pkl"), (63, "")] {
            let header = aligned_header(name, 5, start, 64).unwrap();
            assert_eq!((start + header.len() as u64) % 64, 0, "{start} {name}");
            assert_eq!(header[26..28], (name.len() as u16).to_le_bytes());
            let extra = u16::from_le_bytes(header[28..30].try_into().unwrap());
            assert_eq!(header.len(), 30 + name.len() + usize::from(extra));
        }
        assert_eq!(local_header("a", 5).unwrap().len(), 30 + 1 + 20);
    }

    #[test]
    fn what_passes_32_bits_is_said_in_64() {
        let far = u64::from(u32::MAX) + 5;
        let member = Member { name: "a".to_owned(), len: far, start: far + 7, crc: 1 };
        let end = directory(&[member], 3 * far).unwrap();
        let wide = [far, far, far + 7].map(u64::to_le_bytes).concat();
        assert!(end.windows(wide.len()).any(|at| at == wide));
        assert_eq!(end[20..28], [0xff; 8]);
        assert_eq!(end[42..46], [0xff; 4]);
        assert_eq!(end[end.len() - 6..end.len() - 2], [0xff; 4]);
    }
}
