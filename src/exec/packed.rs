//! The numbers of a packed tensor, as if they lay in the file as F32.

use std::sync::{Arc, Mutex, PoisonError};

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::Source;
use crate::checkpoint::n_elements;
use crate::encoding::{BlockType, Decoder, Part};
use crate::plan::program::{self, Parts};

/// How many numbers are decoded at a time: a few blocks, which stay in the nearest cache. No block
/// has more than 256.
const N_DECODED: usize = 1024;
/// The bytes of a number.
const F32_LEN: usize = 4;
/// A run of fewer numbers is not worth a start of its own.
const MIN_RUN: usize = 32;

/// A packed tensor; places in it are bytes of the F32 that it decodes to.
pub(super) struct Packed<'a> {
    kind: Kind<'a>,
    state: Mutex<State<'a>>,
}

enum Kind<'a> {
    Blocks(&'static BlockType, &'a [u8]),
    Parts { parts: &'a Parts, bytes: Vec<&'a [u8]>, len: usize },
}

/// What is made when it is first asked for, and given back at the end of the output.
#[derive(Default)]
struct State<'a> {
    decoders: Option<Arc<Decoders<'a>>>,
    /// All numbers, once something asks for them one by one.
    all: Option<Arc<Vec<u8>>>,
}

impl<'a> Packed<'a> {
    /// `bytes` past the last whole block are not read.
    pub(super) fn blocks(kind: &'static BlockType, bytes: &'a [u8]) -> Packed<'a> {
        Packed { kind: Kind::Blocks(kind, bytes), state: Mutex::default() }
    }

    /// The numbers that parts make.
    ///
    /// # Errors
    /// They do not fit each other, or a file is shorter than they say.
    pub(super) fn parts(source: &'a Source, parts: &'a Parts) -> Result<Packed<'a>> {
        let bytes = parts.parts.iter().map(|part| source.slice(part.storage));
        let bytes = bytes.collect::<Result<Vec<_>>>()?;
        // Scales are read here to see that they are right, and anew when they are needed: a model
        // has too many of them to be held at once.
        let len = Decoders::new(parts, &bytes)?.len();
        Ok(Packed { kind: Kind::Parts { parts, bytes, len }, state: Mutex::default() })
    }

    /// The bytes of all numbers.
    pub(super) fn len(&self) -> u64 {
        let n = match &self.kind {
            Kind::Blocks(kind, bytes) => bytes.len() / kind.block_bytes * kind.block_len,
            Kind::Parts { len, .. } => *len,
        };
        (n as u64).saturating_mul(F32_LEN as u64)
    }

    /// Whether runs of so many bytes are long enough to be decoded where they are needed: a
    /// shorter one would decode the same block again and again.
    pub(super) fn holds(&self, run: usize) -> bool {
        let least = match &self.kind {
            Kind::Blocks(kind, _) => kind.block_len,
            Kind::Parts { .. } => MIN_RUN,
        };
        least * F32_LEN <= run
    }

    /// Fills `out` with the numbers from byte `start` on.
    ///
    /// # Panics
    /// There are not as many.
    pub(super) fn fill(&self, start: usize, out: &mut [u8]) {
        let decoders = match &self.kind {
            Kind::Blocks(..) => None,
            Kind::Parts { .. } => Some(self.decoders()),
        };
        let grain = match &self.kind {
            Kind::Blocks(kind, _) => kind.block_len,
            Kind::Parts { .. } => 1,
        };
        let step = N_DECODED / grain;
        let mut values = [0f32; N_DECODED];
        let mut first = start / (grain * F32_LEN);
        let mut skip = start % (grain * F32_LEN);
        let mut out = out;
        while !out.is_empty() {
            let n = (skip + out.len()).div_ceil(grain * F32_LEN).min(step);
            let values = &mut values[..n * grain];
            match (&self.kind, &decoders) {
                (Kind::Blocks(kind, bytes), _) => {
                    let bytes = &bytes[first * kind.block_bytes..][..n * kind.block_bytes];
                    kind.dequantize(bytes, values).expect("whole blocks of as many values");
                }
                (Kind::Parts { .. }, decoders) => {
                    decoders.as_ref().expect("made above").fill(first, values);
                }
            }
            let n_bytes = (n * grain * F32_LEN - skip).min(out.len());
            let (head, rest) = out.split_at_mut(n_bytes);
            copy(values, skip, head);
            (out, first, skip) = (rest, first + n, 0);
        }
    }

    fn decoders(&self) -> Arc<Decoders<'a>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let decoders = state.decoders.get_or_insert_with(|| {
            let Kind::Parts { parts, bytes, .. } = &self.kind else { unreachable!("of parts") };
            Arc::new(Decoders::new(parts, bytes).expect("they were made before"))
        });
        Arc::clone(decoders)
    }

    /// The numbers of the whole tensor, for copies that take them one by one. They stay in memory
    /// until [`Packed::release`]: the greatest tensors bound what that takes, not the model.
    pub(super) fn all(&self) -> Arc<Vec<u8>> {
        let made = self.state.lock().unwrap_or_else(PoisonError::into_inner).all.clone();
        made.unwrap_or_else(|| {
            let mut all = vec![0; usize::try_from(self.len()).expect("a tensor that fits")];
            self.fill(0, &mut all);
            let all = Arc::new(all);
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(state.all.get_or_insert(all))
        })
    }

    /// Gives back what was made on the way.
    pub(super) fn release(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }
}

/// The decoders of a stack of matrices.
struct Decoders<'a> {
    matrices: Vec<Decoder<'a>>,
    /// The numbers of a matrix.
    matrix_len: usize,
}

impl<'a> Decoders<'a> {
    fn new(parts: &'a Parts, bytes: &[&'a [u8]]) -> Result<Decoders<'a>> {
        let Parts { layout, encoding, parts } = parts;
        let malformed = |message: String| Error::new(ErrorKind::Malformed, message);
        let (lead, matrix) = encoding.shape.split_at(encoding.shape.len().saturating_sub(2));
        let size = |dims: &[u64]| n_elements(dims).and_then(|n| usize::try_from(n).ok());
        let sizes = size(lead).zip(size(matrix)).filter(|(n, len)| n.checked_mul(*len).is_some());
        let (n_matrices, matrix_len) =
            sizes.ok_or_else(|| malformed(format!("{:?} values are too many", encoding.shape)))?;
        // Each part is held against its bytes as a whole, and then cut.
        for (part, bytes) in parts.iter().zip(bytes) {
            Part::new(part.dtype, &part.shape, bytes).map_err(|err| err.context(&part.name))?;
        }
        let cut = |part: &'a program::Part, bytes: &'a [u8], at: usize| {
            let own = part.shape.strip_prefix(lead).filter(|_| n_matrices != 0);
            let Some(shape) = own else { return Part::new(part.dtype, &part.shape, bytes) };
            let len = bytes.len() / n_matrices;
            Part::new(part.dtype, shape, &bytes[at * len..][..len])
        };
        let decoder = |at: usize| {
            let find = |role: &str| {
                let mut all = parts.iter().zip(bytes);
                let (part, bytes) = all.find(|(part, _)| part.role == role)?;
                cut(part, bytes, at).ok()
            };
            let decoder = layout.decoder(&encoding.parameters, find)?;
            if decoder.shape() != matrix {
                let found = decoder.shape();
                let message = format!("its parts make {found:?} values, expected {matrix:?}");
                return Err(malformed(message));
            }
            Ok(decoder)
        };
        let matrices = (0..n_matrices).map(decoder).collect::<Result<_>>()?;
        Ok(Decoders { matrices, matrix_len })
    }

    fn len(&self) -> usize {
        self.matrices.len() * self.matrix_len
    }

    /// The numbers from `first` on; there are as many.
    fn fill(&self, first: usize, values: &mut [f32]) {
        let (mut first, mut values) = (first, values);
        while !values.is_empty() {
            let (matrix, at) = (first / self.matrix_len, first % self.matrix_len);
            let n = values.len().min(self.matrix_len - at);
            let (head, rest) = values.split_at_mut(n);
            self.matrices[matrix].decode(at, head).expect("values that there are");
            (first, values) = (first + n, rest);
        }
    }
}

/// The little-endian bytes of numbers, without the first `skip`.
fn copy(values: &[f32], skip: usize, out: &mut [u8]) {
    if skip.is_multiple_of(F32_LEN) && out.len().is_multiple_of(F32_LEN) {
        for (value, out) in values[skip / F32_LEN..].iter().zip(out.as_chunks_mut().0) {
            *out = value.to_le_bytes();
        }
        return;
    }
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).skip(skip);
    for (byte, out) in bytes.zip(out) {
        *out = byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::BLOCK_TYPES;

    #[test]
    fn any_part_holds_the_numbers_that_the_whole_has_there() {
        for kind in BLOCK_TYPES {
            assert!(kind.block_len <= 256, "{}", kind.id);
            let n_blocks = 2 * N_DECODED / kind.block_len + 3;
            // Any bytes are blocks, but for scales that are not finite.
            let bytes: Vec<u8> =
                (0..n_blocks * kind.block_bytes).map(|i| (i * 7 % 64) as u8).collect();
            let mut values = vec![0f32; n_blocks * kind.block_len];
            kind.dequantize(&bytes, &mut values).unwrap();
            let whole: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let blocks = Packed::blocks(kind, &bytes);
            assert_eq!(blocks.len(), whole.len() as u64);
            assert!(*blocks.all() == whole, "{}", kind.id);
            for start in [0, 4, 5, 4 * kind.block_len, 4 * N_DECODED - 2] {
                for len in [0, 1, 4, 6, 4 * kind.block_len, 4 * N_DECODED + 9] {
                    let end = (start + len).min(whole.len());
                    let mut out = vec![0; end - start];
                    blocks.fill(start, &mut out);
                    assert!(out == whole[start..end], "{} {start} {len}", kind.id);
                }
            }
        }
    }
}
