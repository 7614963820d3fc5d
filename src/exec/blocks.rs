//! The numbers of a tensor of blocks, as if they lay in the file as F32.

use std::sync::OnceLock;

use crate::encoding::BlockType;

/// How many numbers are decoded at a time: a few blocks, which stay in the nearest cache. No block
/// has more than 256.
const N_DECODED: usize = 1024;
/// The bytes of a number.
const F32_LEN: usize = 4;

/// A tensor of blocks; places in it are bytes of the F32 that it decodes to.
pub(super) struct Blocks<'a> {
    kind: &'static BlockType,
    bytes: &'a [u8],
    /// All numbers, once something asks for them one by one.
    all: OnceLock<Vec<u8>>,
}

impl<'a> Blocks<'a> {
    /// `bytes` past the last whole block are not read.
    pub(super) fn new(kind: &'static BlockType, bytes: &'a [u8]) -> Blocks<'a> {
        Blocks { kind, bytes, all: OnceLock::new() }
    }

    /// The bytes of all numbers.
    pub(super) fn len(&self) -> u64 {
        let n_blocks = (self.bytes.len() / self.kind.block_bytes) as u64;
        n_blocks.saturating_mul((self.kind.block_len * F32_LEN) as u64)
    }

    /// Whether runs of so many bytes are long enough to be decoded where they are needed: a
    /// shorter one would decode the same block again and again.
    pub(super) fn holds(&self, run: usize) -> bool {
        self.kind.block_len * F32_LEN <= run
    }

    /// Fills `out` with the numbers from byte `start` on.
    ///
    /// # Panics
    /// There are not as many.
    pub(super) fn fill(&self, start: usize, out: &mut [u8]) {
        let BlockType { block_len, block_bytes, .. } = *self.kind;
        let decoded_len = block_len * F32_LEN;
        let step = N_DECODED / block_len;
        let mut values = [0f32; N_DECODED];
        let mut block = start / decoded_len;
        let mut skip = start % decoded_len;
        let mut out = out;
        while !out.is_empty() {
            let n_blocks = (skip + out.len()).div_ceil(decoded_len).min(step);
            let values = &mut values[..n_blocks * block_len];
            let bytes = &self.bytes[block * block_bytes..][..n_blocks * block_bytes];
            self.kind.dequantize(bytes, values).expect("whole blocks of as many values");
            let n = (n_blocks * decoded_len - skip).min(out.len());
            let (head, rest) = out.split_at_mut(n);
            copy(values, skip, head);
            (out, block, skip) = (rest, block + n_blocks, 0);
        }
    }

    /// The numbers of the whole tensor, for copies that take them one by one. They stay in memory
    /// while the tensor is written: the greatest tensor bounds what that takes, not the model.
    pub(super) fn all(&self) -> &[u8] {
        self.all.get_or_init(|| {
            let mut all = vec![0; usize::try_from(self.len()).expect("a tensor that fits")];
            self.fill(0, &mut all);
            all
        })
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
            let blocks = Blocks::new(kind, &bytes);
            assert_eq!(blocks.len(), whole.len() as u64);
            assert!(blocks.all() == whole, "{}", kind.id);
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
