//! Reads files whole: the SHA-256 of each file and of each tensor in it, and what values there
//! are.

use super::lanes::{Produced, Stream, hash_streams};
use super::produce::Producer;
use crate::base::error::{Error, Result};
use crate::base::source::{FileId, Source};
use crate::checkpoint::DType;
use crate::plan::program::{Input, Output};

/// Bytes are taken this many at a time, so that they are still in the cache for the next reader.
/// A multiple of every element's size.
const CHUNK_LEN: usize = 256 << 10;

/// A file to read, and the tensors in it.
#[derive(Clone, Debug)]
pub struct Job {
    /// The file.
    pub file: FileId,
    /// Its tensors, sorted by their first byte; none lies over another.
    pub pieces: Vec<Piece>,
    /// Whether the file is hashed as a whole too.
    pub is_whole: bool,
}

/// A tensor of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its first byte in the file.
    pub start: u64,
    /// The number of its bytes.
    pub len: u64,
    /// What its bytes are.
    pub dtype: DType,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileScan {
    /// The SHA-256 of all its bytes, where that was asked for.
    pub sha256: Option<[u8; 32]>,
    /// What each of its tensors holds, in the order of the job.
    pub pieces: Vec<PieceScan>,
}

/// What a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceScan {
    /// The SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// What its values are.
    pub values: Values,
}

/// A census of a tensor's values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// Elements that are no number.
    pub nans: u64,
    /// Elements that are infinite.
    pub infinities: u64,
    /// Whether a bit is set anywhere; the sign of a zero counts.
    pub nonzero: bool,
    /// Whether two elements differ in a bit.
    pub varied: bool,
    /// How many bytes at the end are zero.
    pub zero_tail: u64,
    /// The largest finite element without its sign, as the bits of its dtype; 0 where the dtype is
    /// none of those whose NaNs and infinities are counted.
    pub largest: u64,
    /// The first element, to hold the others against: its bytes, and zeros behind.
    first: Option<[u8; MAX_ELEMENT_LEN]>,
}

/// The longest element, `C128`.
const MAX_ELEMENT_LEN: usize = 16;

/// Reads files, on `n_threads` threads: each tensor, and each file that is hashed as a whole, is a
/// stream of its own.
///
/// `progress` is called with the number of bytes of every batch that is done.
///
/// # Errors
/// A tensor lies outside its file, or over another one.
pub fn scan(
    source: &Source,
    jobs: &[Job],
    n_threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<FileScan>> {
    let mut streams: Vec<(usize, Option<DType>, &[u8])> = Vec::new();
    for (index, job) in jobs.iter().enumerate() {
        let bytes = source.whole(job.file)?;
        let mut at = 0;
        for piece in &job.pieces {
            let end = piece.start.checked_add(piece.len);
            let (Ok(start), Some(Ok(end))) =
                (usize::try_from(piece.start), end.map(usize::try_from))
            else {
                return Err(misplaced(source, job.file, at));
            };
            let of_piece = bytes.get(start..end).filter(|_| at <= start);
            let of_piece = of_piece.ok_or_else(|| misplaced(source, job.file, at))?;
            streams.push((index, Some(piece.dtype), of_piece));
            at = end;
        }
        if job.is_whole {
            streams.push((index, None, bytes));
        }
    }
    // Long ones first, so that no thread is left alone with the longest.
    let mut order: Vec<usize> = (0..streams.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(streams[index].2.len()));
    let open = |job: usize, buffer| {
        let (_, dtype, bytes) = streams[order[job]];
        Ok(Counting { bytes, dtype, values: Values::default(), buffer })
    };
    let hashed = hash_streams(streams.len(), n_threads, open, progress)?;
    let mut in_order: Vec<Option<PieceScan>> = vec![None; streams.len()];
    for (index, (sha256, values)) in order.into_iter().zip(hashed) {
        in_order[index] = Some(PieceScan { sha256, values });
    }
    let mut scans: Vec<FileScan> = jobs
        .iter()
        .map(|job| FileScan { sha256: None, pieces: Vec::with_capacity(job.pieces.len()) })
        .collect();
    for ((index, dtype, _), scan) in streams.iter().zip(in_order.into_iter().flatten()) {
        match dtype {
            Some(_) => scans[*index].pieces.push(scan),
            None => scans[*index].sha256 = Some(scan.sha256),
        }
    }
    Ok(scans)
}

fn misplaced(source: &Source, file: FileId, at: usize) -> Error {
    Error::malformed(at as u64, "a tensor lies outside the file, or over another one")
        .in_file(source.path(file))
}

/// Bytes of a file, whose values are counted as they are hashed.
struct Counting<'a> {
    bytes: &'a [u8],
    /// What they are; a file as a whole is nothing that is counted.
    dtype: Option<DType>,
    values: Values,
    buffer: Vec<u8>,
}

impl Stream for Counting<'_> {
    type Known = Values;

    fn next(&mut self) -> Result<Option<&[u8]>> {
        let (chunk, rest) = self.bytes.split_at(self.bytes.len().min(CHUNK_LEN));
        self.bytes = rest;
        if let Some(dtype) = self.dtype {
            self.values.take(dtype, chunk);
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    fn end(self) -> (Values, Vec<u8>) {
        (self.values, self.buffer)
    }
}

/// A census of the values of logical tensors, and the SHA-256 of each, in their order, on `n_threads`
/// threads.
///
/// `progress` is called with the number of bytes of every batch that is done.
///
/// # Errors
/// One cannot be produced.
pub fn census(
    source: &Source,
    inputs: &[Input],
    outputs: &[Output],
    n_threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<PieceScan>> {
    let open = |job: usize, buffer| {
        let output = &outputs[job];
        let producer = Producer::new(source, inputs, output)?;
        let bytes = Produced::new(producer, CHUNK_LEN as u64, buffer);
        Ok(CountingOutput { bytes, dtype: output.dtype, values: Values::default() })
    };
    let scans = hash_streams(outputs.len(), n_threads, open, progress)?;
    Ok(scans.into_iter().map(|(sha256, values)| PieceScan { sha256, values }).collect())
}

/// The bytes of an output, whose values are counted as they are hashed.
struct CountingOutput<'a> {
    bytes: Produced<'a>,
    dtype: DType,
    values: Values,
}

impl Stream for CountingOutput<'_> {
    type Known = Values;

    fn next(&mut self) -> Result<Option<&[u8]>> {
        let bytes = self.bytes.next()?;
        if let Some(bytes) = bytes {
            self.values.take(self.dtype, bytes);
        }
        Ok(bytes)
    }

    fn end(self) -> (Values, Vec<u8>) {
        let ((), buffer) = self.bytes.end();
        (self.values, buffer)
    }
}

impl Values {
    /// Counts whole elements, little-endian.
    fn take(&mut self, dtype: DType, bytes: &[u8]) {
        self.nonzero = self.nonzero || bytes.iter().any(|&byte| byte != 0);
        self.compare(dtype, bytes);
        // Without its sign, an element is infinite at the exponent's mask, and no number above.
        match dtype {
            DType::F16 => {
                self.count(bytes.as_chunks::<2>().0, |&b| u16::from_le_bytes(b) & 0x7fff, 0x7c00)
            }
            DType::BF16 => {
                self.count(bytes.as_chunks::<2>().0, |&b| u16::from_le_bytes(b) & 0x7fff, 0x7f80)
            }
            DType::F32 | DType::C64 => self.count(
                bytes.as_chunks::<4>().0,
                |&b| u32::from_le_bytes(b) & 0x7fff_ffff,
                0x7f80_0000,
            ),
            DType::F64 => self.count(
                bytes.as_chunks::<8>().0,
                |&b| u64::from_le_bytes(b) & (u64::MAX >> 1),
                0x7ff0_0000_0000_0000,
            ),
            DType::F8E5M2 => self.count(bytes.as_chunks::<1>().0, |&[b]| b & 0x7f, 0x7c),
            DType::F8E4M3 => {
                self.nans += bytes.iter().filter(|&&byte| byte & 0x7f == 0x7f).count() as u64;
            }
            _ => {}
        }
    }

    /// Holds the elements against the first one, and counts the zeros at the end.
    fn compare(&mut self, dtype: DType, bytes: &[u8]) {
        let zeros = bytes.iter().rev().take_while(|&&byte| byte == 0).count();
        let before = if zeros == bytes.len() { self.zero_tail } else { 0 };
        self.zero_tail = before.saturating_add(zeros as u64);
        let len = usize::try_from(dtype.bits() / 8).unwrap_or(0);
        if self.varied || bytes.len() < len {
            return;
        }
        if !(1..=MAX_ELEMENT_LEN).contains(&len) {
            // What is no whole number of bytes is not compared.
            self.varied = true;
            return;
        }
        let first = self.first.get_or_insert_with(|| {
            let mut first = [0; MAX_ELEMENT_LEN];
            first[..len].copy_from_slice(&bytes[..len]);
            first
        });
        // Each element is as the one before it, and the first of these bytes as the first of all.
        self.varied = bytes[..len] != first[..len] || bytes[len..] != bytes[..bytes.len() - len];
    }

    fn count<const N: usize, U: Ord + Copy + Into<u64> + Default>(
        &mut self,
        elements: &[[u8; N]],
        magnitude: impl Fn(&[u8; N]) -> U,
        infinite: U,
    ) {
        // Loops without branches, which the compiler turns into vector instructions. Most parts have
        // finite numbers alone, and their greatest one says so.
        for part in elements.chunks(1 << 12) {
            let greatest = part.iter().map(&magnitude).fold(U::default(), U::max);
            if greatest < infinite {
                self.largest = self.largest.max(greatest.into());
                continue;
            }
            let (mut nans, mut infinities, mut largest) = (0u32, 0u32, U::default());
            for element in part {
                let magnitude = magnitude(element);
                nans += u32::from(infinite < magnitude);
                infinities += u32::from(infinite == magnitude);
                largest = largest.max(if magnitude < infinite { magnitude } else { U::default() });
            }
            self.largest = self.largest.max(largest.into());
            self.nans += u64::from(nans);
            self.infinities += u64::from(infinities);
        }
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn scan_bytes(bytes: &[u8], pieces: &[(u64, u64, DType)]) -> Result<FileScan> {
        let source = Source::from_bytes("t", bytes);
        let pieces = pieces.iter().map(|&(start, len, dtype)| Piece { start, len, dtype });
        let file = source.files().next().unwrap();
        let job = Job { file, pieces: pieces.collect(), is_whole: true };
        Ok(scan(&source, &[job], 2, &|_| ())?.remove(0))
    }

    #[test]
    fn hashes_are_those_of_the_bytes() {
        let bytes: Vec<u8> = (0..3 * CHUNK_LEN + 77).map(|i| (i * 31 % 251) as u8).collect();
        let cuts = [(5, 100), (105, CHUNK_LEN + 3), (CHUNK_LEN + 108, 0), (2 * CHUNK_LEN, 64)];
        let pieces = cuts.map(|(start, len)| (start as u64, len as u64, DType::U8));
        let scanned = scan_bytes(&bytes, &pieces).unwrap();
        assert_eq!(scanned.sha256, Some(<[u8; 32]>::from(Sha256::digest(&bytes))));
        for ((start, len), piece) in cuts.iter().zip(scanned.pieces) {
            let expected: [u8; 32] = Sha256::digest(&bytes[*start..start + len]).into();
            assert_eq!(piece.sha256, expected, "{start} {len}");
        }
    }

    #[test]
    fn values_that_are_no_numbers_are_counted() {
        let f32s = [0.0, f32::NAN, f32::NEG_INFINITY, f32::MAX, f32::INFINITY];
        let bytes: Vec<u8> = f32s.iter().flat_map(|value| value.to_le_bytes()).collect();
        let whole = |dtype| scan_bytes(&bytes, &[(0, 20, dtype)]).unwrap().pieces[0].values;
        let counts = |values: Values| (values.nans, values.infinities, values.nonzero);
        assert_eq!(counts(whole(DType::F32)), (1, 2, true));
        assert_eq!(counts(whole(DType::U32)), (0, 0, true));

        let check = |bytes: &[u8], dtype, nans, infinities| {
            let found = scan_bytes(bytes, &[(0, bytes.len() as u64, dtype)]).unwrap();
            let values = found.pieces[0].values;
            assert_eq!((values.nans, values.infinities), (nans, infinities), "{dtype}");
        };
        check(&[0x00, 0x7c, 0x01, 0xfc, 0xff, 0x7b], DType::F16, 1, 1);
        check(&[0x80, 0x7f, 0xc0, 0xff, 0x7f, 0x7f], DType::BF16, 1, 1);
        check(&f64::NAN.to_le_bytes(), DType::F64, 1, 0);
        check(&[0x7c, 0xfd, 0x7b], DType::F8E5M2, 1, 1);
        check(&[0x7f, 0xff, 0x7e], DType::F8E4M3, 2, 0);
    }

    #[test]
    fn what_values_have_in_common_is_found_over_all_chunks() {
        let values = |bytes: &[u8], dtype| {
            scan_bytes(bytes, &[(0, bytes.len() as u64, dtype)]).unwrap().pieces[0].values
        };
        let ones = 1.0f32.to_le_bytes().repeat(CHUNK_LEN / 2);
        let same = values(&ones, DType::F32);
        assert_eq!((same.varied, same.zero_tail), (false, 0));
        assert_eq!(same.largest, u64::from(1.0f32.to_bits()));
        let mut other = ones.clone();
        let last = other.len() - 4;
        other[last..].fill(0);
        let other = values(&other, DType::F32);
        assert_eq!((other.varied, other.zero_tail), (true, 4));
        let mut cut = ones;
        cut[100..].fill(0);
        // The last byte of the 25th element is no zero.
        assert_eq!(values(&cut, DType::F32).zero_tail, cut.len() as u64 - 100);
        assert_eq!(values(&[0, 0x80, 0, 0xfc, 1, 0], DType::F16).largest, 1);
    }

    #[test]
    fn tensors_outside_the_file_or_over_each_other_are_errors() {
        for pieces in [&[(0, 9, DType::U8)][..], &[(0, 4, DType::U8), (3, 2, DType::U8)]] {
            assert!(scan_bytes(&[0; 8], pieces).is_err(), "{pieces:?}");
        }
    }
}
