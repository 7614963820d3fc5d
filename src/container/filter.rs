//! Undoing what stands between the bytes of a file and those of elements.

use std::borrow::Cow;
use std::io::Read;

use flate2::Crc;
use flate2::read::{DeflateDecoder, GzDecoder, ZlibDecoder};

use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::tiles::{Coding, Filter};
use crate::container::protobuf::numbers;

/// How many bytes a checksum takes behind those it is of.
const CHECKSUM_LEN: usize = 4;

/// Decodes bytes; the result is as long as the coding says. What is in memory at once is twice
/// that at most, and a stream that is longer is not followed.
///
/// # Errors
/// The bytes are no such stream, are of another length when decoded, or do not have their
/// checksum.
pub fn decode<'a>(coding: &Coding, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>> {
    let mut bytes = Cow::Borrowed(bytes);
    // What later steps take off before and behind the elements.
    let extra = |step: &Filter| match step {
        Filter::Crc32c | Filter::Fletcher32 => CHECKSUM_LEN as u64,
        Filter::Skip(n) => *n,
        _ => 0,
    };
    let extra = coding.steps.iter().map(extra).fold(0, u64::saturating_add);
    let most = coding.len.saturating_add(extra);
    for step in &coding.steps {
        bytes = undo(*step, bytes, most).map_err(|err| err.context(&step.to_string()))?;
    }
    if bytes.len() as u64 != coding.len {
        let message =
            format!("{} bytes when decoded, the elements take {}", bytes.len(), coding.len);
        return Err(Error::new(ErrorKind::Malformed, message));
    }
    Ok(bytes)
}

fn undo(step: Filter, bytes: Cow<'_, [u8]>, most: u64) -> Result<Cow<'_, [u8]>> {
    let wrong = |found: u32, stored: u32| {
        let message = format!("the checksum is {found:08x}, the file says {stored:08x}");
        Error::new(ErrorKind::Malformed, message)
    };
    match step {
        Filter::Deflate => inflate(DeflateDecoder::new(&*bytes), most).map(Cow::Owned),
        Filter::Zlib => inflate(ZlibDecoder::new(&*bytes), most).map(Cow::Owned),
        Filter::Gzip => inflate(GzDecoder::new(&*bytes), most).map(Cow::Owned),
        Filter::Zstd => unpack_zstd(&bytes, most).map(Cow::Owned),
        Filter::Shuffle(width) => {
            let width = usize::try_from(width).ok().filter(|&width| width != 0);
            let width = width
                .ok_or_else(|| Error::new(ErrorKind::Malformed, "elements of so many bytes"))?;
            let n = bytes.len() / width;
            let mut all = vec![0; bytes.len()];
            for (place, plane) in bytes[..n * width].chunks_exact(n.max(1)).enumerate() {
                for (element, byte) in plane.iter().enumerate() {
                    all[element * width + place] = *byte;
                }
            }
            // What is no whole element stands at the end as it is.
            all[n * width..].copy_from_slice(&bytes[n * width..]);
            Ok(Cow::Owned(all))
        }
        Filter::Crc32c => {
            let (bytes, stored) = checksum(bytes)?;
            let found = crc32c::crc32c(&bytes);
            if found == stored { Ok(bytes) } else { Err(wrong(found, stored)) }
        }
        Filter::Fletcher32 => {
            let (bytes, stored) = checksum(bytes)?;
            let found = fletcher32(&bytes);
            if found == stored { Ok(bytes) } else { Err(wrong(found, stored)) }
        }
        Filter::Skip(n) => {
            let n = usize::try_from(n).ok().filter(|&n| n <= bytes.len());
            let n = n.ok_or_else(|| Error::new(ErrorKind::Malformed, "too short for a header"))?;
            Ok(match bytes {
                Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[n..]),
                Cow::Owned(mut bytes) => {
                    bytes.drain(..n);
                    Cow::Owned(bytes)
                }
            })
        }
        Filter::Varints(width) => varints(&bytes, width, most).map(Cow::Owned),
        Filter::Unpack { bits, signed } => unpack(&bytes, bits, signed, most).map(Cow::Owned),
        Filter::Crc32(stored) => {
            let mut crc = Crc::new();
            crc.update(&bytes);
            if crc.sum() == stored { Ok(bytes) } else { Err(wrong(crc.sum(), stored)) }
        }
    }
}

/// Decodes a zstd frame that becomes no longer than `most` bytes.
///
/// # Errors
/// It is none, or becomes longer.
pub fn unpack_zstd(bytes: &[u8], most: u64) -> Result<Vec<u8>> {
    let decoder = ruzstd::decoding::StreamingDecoder::new(bytes);
    let decoder =
        decoder.map_err(|err| Error::new(ErrorKind::Malformed, format!("no zstd frame: {err}")))?;
    inflate(decoder, most)
}

/// The low bytes of numbers, each of which fits in so many with a sign or without.
fn varints(bytes: &[u8], width: u64, most: u64) -> Result<Vec<u8>> {
    let malformed = |message: String| Error::new(ErrorKind::Malformed, message);
    let width = usize::try_from(width).ok().filter(|width| (1..=8).contains(width));
    let width = width.ok_or_else(|| malformed("elements of so many bytes".to_owned()))?;
    let mut all = Vec::new();
    for number in numbers(bytes, 0) {
        let number = number.map_err(|err| malformed(err.message().to_owned()))?;
        let signed = number.cast_signed();
        let unused = 64 - 8 * width;
        let fits = (number << unused) >> unused == number || (signed << unused) >> unused == signed;
        if !fits {
            return Err(malformed(format!("the number {signed} does not fit in {width} bytes")));
        }
        if most < (all.len() + width) as u64 {
            return Err(malformed(format!("more than the {most} bytes that its elements take")));
        }
        all.extend_from_slice(&number.to_le_bytes()[..width]);
    }
    Ok(all)
}

/// Integers of a few bits, a byte each. What passes the elements is the rest of the last byte.
fn unpack(bytes: &[u8], bits: u8, signed: bool, most: u64) -> Result<Vec<u8>> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let places = usize::from(8 / bits.clamp(1, 8));
    if bytes.len() != most.div_ceil(places) {
        let message = format!("{} bytes for {most} integers of {bits} bits", bytes.len());
        return Err(Error::new(ErrorKind::Malformed, message));
    }
    let unused = 8 - u32::from(bits.clamp(1, 8));
    let mut all = Vec::with_capacity(most);
    for (byte, place) in bytes.iter().flat_map(|byte| (0..places).map(move |place| (byte, place))) {
        let high = (byte >> (place * usize::from(bits))) << unused;
        let value =
            if signed { (high.cast_signed() >> unused).cast_unsigned() } else { high >> unused };
        all.push(value);
    }
    all.truncate(most);
    Ok(all)
}

/// The bytes before a checksum, and it.
fn checksum(bytes: Cow<'_, [u8]>) -> Result<(Cow<'_, [u8]>, u32)> {
    let at = bytes.len().checked_sub(CHECKSUM_LEN);
    let at = at.ok_or_else(|| Error::new(ErrorKind::Malformed, "too short for a checksum"))?;
    let stored = u32::from_le_bytes(bytes[at..].try_into().expect("four bytes"));
    let before = match bytes {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[..at]),
        Cow::Owned(mut bytes) => {
            bytes.truncate(at);
            Cow::Owned(bytes)
        }
    };
    Ok((before, stored))
}

fn inflate(stream: impl Read, most: u64) -> Result<Vec<u8>> {
    // The buffer grows with what comes out, not with what is claimed.
    let mut bytes = Vec::new();
    let mut stream = stream.take(most.saturating_add(1));
    stream.read_to_end(&mut bytes).map_err(|err| match err.kind() {
        std::io::ErrorKind::OutOfMemory => {
            let message = format!("the memory does not hold the {most} bytes that it becomes");
            Error::new(ErrorKind::Limit, message)
        }
        _ => Error::new(ErrorKind::Malformed, format!("damaged: {err}")),
    })?;
    if most < bytes.len() as u64 {
        let message = format!("more than the {most} bytes that its elements take");
        return Err(Error::new(ErrorKind::Malformed, message));
    }
    Ok(bytes)
}

/// HDF5's Fletcher-32: over 16-bit words with their high byte first.
fn fletcher32(bytes: &[u8]) -> u32 {
    let (mut low, mut high) = (0u32, 0u32);
    let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
    for words in bytes.chunks(512) {
        for word in words.chunks(2) {
            let word = [word[0], word.get(1).copied().unwrap_or(0)];
            low += u32::from(u16::from_be_bytes(word));
            high += low;
        }
        (low, high) = (fold(low), fold(high));
    }
    (low, high) = (fold(low), fold(high));
    (high << 16) | low
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn deflated(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn shuffled_deflated_checked_bytes_come_back() {
        let elements: Vec<u8> = (0..3 * 4).collect();
        let planes: Vec<u8> = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11].to_vec();
        let mut file = deflated(&planes);
        file.extend(crc32c::crc32c(&file).to_le_bytes());
        let coding =
            Coding { steps: vec![Filter::Crc32c, Filter::Zlib, Filter::Shuffle(4)], len: 12 };
        assert_eq!(*decode(&coding, &file).unwrap(), elements);
        file[3] ^= 1;
        let err = decode(&coding, &file).unwrap_err();
        assert!(err.message().starts_with("crc32c: the checksum is"), "{err}");
    }

    #[test]
    fn streams_of_another_length_are_refused() {
        let file = deflated(&vec![0; 1 << 20]);
        let refused = |len| {
            let coding = Coding { steps: vec![Filter::Zlib], len };
            decode(&coding, &file).unwrap_err().message().to_owned()
        };
        assert_eq!(refused(16), "zlib: more than the 16 bytes that its elements take");
        let n = (1 << 20) + 1;
        assert_eq!(refused(n), format!("1048576 bytes when decoded, the elements take {n}"));
        let coding = Coding { steps: vec![Filter::Zstd], len: 4 };
        assert!(decode(&coding, b"no zstd").is_err());
    }

    #[test]
    fn numbers_become_elements_of_their_width() {
        let decoded = |steps: Vec<Filter>, len, bytes: &[u8]| {
            decode(&Coding { steps, len }, bytes).map(Cow::into_owned)
        };
        // 1, 300, -2.
        let list = [1, 0xac, 2, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        let found = decoded(vec![Filter::Varints(2)], 6, &list).unwrap();
        assert_eq!(found, [1, 0, 0x2c, 1, 0xfe, 0xff]);
        let err = decoded(vec![Filter::Varints(1)], 3, &list).unwrap_err();
        assert_eq!(err.message(), "varints: the number 300 does not fit in 1 bytes");
        let err = decoded(vec![Filter::Varints(2)], 4, &list).unwrap_err();
        assert!(err.message().contains("more than the 4 bytes"), "{err}");
        let signed = Filter::Unpack { bits: 4, signed: true };
        assert_eq!(decoded(vec![signed], 3, &[0xe1, 0x03]).unwrap(), [1, 0xfe, 3]);
        let plain = Filter::Unpack { bits: 2, signed: false };
        assert_eq!(decoded(vec![plain], 5, &[0b11_10_01_00, 2]).unwrap(), [0, 1, 2, 3, 2]);
        assert!(decoded(vec![plain], 9, &[0, 0]).is_err());
    }

    #[test]
    fn fletcher32_sums_words_with_their_high_byte_first() {
        let words = [0x0100u16, 0x0102, 0x0304];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let (a, b) = (0x0100 + 0x0102 + 0x0304, 3 * 0x0100 + 2 * 0x0102 + 0x0304);
        assert_eq!(fletcher32(&bytes), (b << 16) | a);
    }
}
