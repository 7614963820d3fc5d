//! The numbers of a packed tensor, as if they lay in the file as F32.

use std::sync::{Arc, Mutex, PoisonError};

use crate::encoding::layout::LAYOUTS;
use crate::encoding::{BlockType, Decoder, Part};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::program::Parts;
use crate::source::Source;

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
    decoder: Option<Arc<Decoder<'a>>>,
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
        let decoder = decoder(parts, &bytes)?;
        if decoder.shape() != parts.encoding.shape {
            let (found, expected) = (decoder.shape(), &parts.encoding.shape);
            let message = format!("its parts make {found:?} values, expected {expected:?}");
            return Err(Error::new(ErrorKind::Malformed, message));
        }
        let n = decoder.shape().iter().product::<u64>();
        let len = usize::try_from(n).expect("as many as the decoder counts");
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
        let decoder = match &self.kind {
            Kind::Blocks(..) => None,
            Kind::Parts { .. } => Some(self.decoder()),
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
            match (&self.kind, &decoder) {
                (Kind::Blocks(kind, bytes), _) => {
                    let bytes = &bytes[first * kind.block_bytes..][..n * kind.block_bytes];
                    kind.dequantize(bytes, values).expect("whole blocks of as many values");
                }
                (Kind::Parts { .. }, decoder) => {
                    let decoder = decoder.as_ref().expect("made above");
                    decoder.decode(first, values).expect("values that there are");
                }
            }
            let n_bytes = (n * grain * F32_LEN - skip).min(out.len());
            let (head, rest) = out.split_at_mut(n_bytes);
            copy(values, skip, head);
            (out, first, skip) = (rest, first + n, 0);
        }
    }

    fn decoder(&self) -> Arc<Decoder<'a>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let decoder = state.decoder.get_or_insert_with(|| {
            let Kind::Parts { parts, bytes, .. } = &self.kind else { unreachable!("of parts") };
            Arc::new(decoder(parts, bytes).expect("it was made before"))
        });
        Arc::clone(decoder)
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

fn decoder<'a>(parts: &'a Parts, bytes: &[&'a [u8]]) -> Result<Decoder<'a>> {
    let Parts { encoding, parts } = parts;
    let layout = LAYOUTS.find(&encoding.id);
    let layout = layout.ok_or_else(|| Error::unsupported(format!("reading {}", encoding.id)))?;
    let made = parts.iter().zip(bytes).map(|(part, &bytes)| {
        let made = Part::new(part.dtype, &part.shape, bytes);
        made.map(|made| (part.role.as_str(), made)).map_err(|err| err.context(&part.name))
    });
    let made = made.collect::<Result<Vec<_>>>()?;
    let find = |role: &str| made.iter().find(|(own, _)| *own == role).map(|(_, part)| *part);
    layout.decoder(&encoding.parameters, find)
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
