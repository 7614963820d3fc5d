//! SHA-256 of two streams at once: of the same bytes for a tensor and its file, or of two tensors.
//!
//! One round of SHA-256 waits for the one before it, so that a processor with SHA instructions
//! idles half the time. Two hashes whose rounds alternate fill each other's gaps: both take
//! hardly longer than one.

#![allow(unsafe_code, reason = "the instructions of x86 processors for SHA-256")]

use sha2::block_api::compress256;

const BLOCK_LEN: usize = 64;

/// A SHA-256 (FIPS 180-4) that can run beside another.
pub struct Hash {
    state: [u32; 8],
    /// The beginning of a block; as many bytes as `len` passes a multiple of its size.
    buffer: [u8; BLOCK_LEN],
    len: u64,
}

impl Default for Hash {
    fn default() -> Hash {
        // FIPS 180-4, 5.3.3.
        let state = [
            0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab,
            0x5be0cd19,
        ];
        Hash { state, buffer: [0; BLOCK_LEN], len: 0 }
    }
}

impl Hash {
    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let bytes = self.fill_buffer(bytes);
        let (blocks, rest) = bytes.as_chunks();
        compress256(&mut self.state, blocks);
        self.len += (blocks.len() * BLOCK_LEN) as u64;
        self.fill_buffer(rest);
    }

    /// Takes bytes until the buffer is empty again, or all of them; returns what is left.
    fn fill_buffer<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let start = (self.len % BLOCK_LEN as u64) as usize;
        let wanted = if start == 0 && BLOCK_LEN <= bytes.len() { 0 } else { BLOCK_LEN - start };
        let (head, rest) = bytes.split_at(wanted.min(bytes.len()));
        self.buffer[start..start + head.len()].copy_from_slice(head);
        self.len += head.len() as u64;
        if !head.is_empty() && start + head.len() == BLOCK_LEN {
            compress256(&mut self.state, &[self.buffer]);
        }
        rest
    }

    /// Returns the hash of all bytes taken, and begins anew.
    pub fn finish(&mut self) -> [u8; 32] {
        let n_bits = self.len.wrapping_mul(8);
        let start = (self.len % BLOCK_LEN as u64) as usize;
        let mut tail = [0; 2 * BLOCK_LEN];
        tail[..start].copy_from_slice(&self.buffer[..start]);
        tail[start] = 0x80;
        let tail_len = if start < BLOCK_LEN - 8 { BLOCK_LEN } else { 2 * BLOCK_LEN };
        tail[tail_len - 8..tail_len].copy_from_slice(&n_bits.to_be_bytes());
        compress256(&mut self.state, tail[..tail_len].as_chunks().0);
        let mut digest = [0; 32];
        for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        *self = Hash::default();
        digest
    }
}

/// Gives the same bytes to two hashes.
pub fn update_both(a: &mut Hash, b: &mut Hash, bytes: &[u8]) {
    update_two([a, b], [bytes, bytes]);
}

/// Gives each of two hashes bytes of its own.
pub fn update_two(hashes: [&mut Hash; 2], bytes: [&[u8]; 2]) {
    let ([a, b], [bytes_a, bytes_b]) = (hashes, bytes);
    let (bytes_a, bytes_b) = (a.fill_buffer(bytes_a), b.fill_buffer(bytes_b));
    let (blocks_a, blocks_b) = (bytes_a.as_chunks().0, bytes_b.as_chunks().0);
    let n = blocks_a.len().min(blocks_b.len());
    compress_both([&mut a.state, &mut b.state], [&blocks_a[..n], &blocks_b[..n]]);
    a.len += (n * BLOCK_LEN) as u64;
    b.len += (n * BLOCK_LEN) as u64;
    a.update(&bytes_a[n * BLOCK_LEN..]);
    b.update(&bytes_b[n * BLOCK_LEN..]);
}

type Blocks<'b> = &'b [[u8; BLOCK_LEN]];

fn compress_both(states: [&mut [u32; 8]; 2], blocks: [Blocks<'_>; 2]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1") {
        // SAFETY: The processor has the instructions.
        unsafe { x86::compress_both(states, blocks) };
        return;
    }
    for (state, blocks) in states.into_iter().zip(blocks) {
        compress256(state, blocks);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Blocks;

    /// FIPS 180-4, 4.2.2.
    #[rustfmt::skip]
    const K: [u32; 64] = [
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    ];

    /// The state of one hash as the instructions want it, and four words of its schedule each.
    struct Side {
        abef: __m128i,
        cdgh: __m128i,
        words: [__m128i; 4],
    }

    /// Runs two hashes over as many blocks each, their rounds in turn.
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    pub(super) fn compress_both(states: [&mut [u32; 8]; 2], blocks: [Blocks<'_>; 2]) {
        let zero = _mm_setzero_si128();
        let [mut a, mut b] = states.each_ref().map(|state| {
            let (abef, cdgh) = unpack(state);
            Side { abef, cdgh, words: [zero; 4] }
        });
        for (block_a, block_b) in blocks[0].iter().zip(blocks[1]) {
            let (before_a, before_b) = ((a.abef, a.cdgh), (b.abef, b.cdgh));
            load(&mut a, block_a);
            load(&mut b, block_b);
            macro_rules! rounds {
                ($($i:literal)*) => {$(
                    if 4 <= $i {
                        extend::<{ $i % 4 }>(&mut a);
                        extend::<{ $i % 4 }>(&mut b);
                    }
                    four_rounds::<$i>(&mut a, &mut b);
                )*};
            }
            rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            a.abef = _mm_add_epi32(a.abef, before_a.0);
            a.cdgh = _mm_add_epi32(a.cdgh, before_a.1);
            b.abef = _mm_add_epi32(b.abef, before_b.0);
            b.cdgh = _mm_add_epi32(b.cdgh, before_b.1);
        }
        for (state, side) in states.into_iter().zip([a, b]) {
            pack(&side, state);
        }
    }

    #[target_feature(enable = "sha,sse4.1,ssse3")]
    #[inline]
    fn load(side: &mut Side, block: &[u8; 64]) {
        let turn = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        for (words, bytes) in side.words.iter_mut().zip(block.as_chunks::<16>().0) {
            // SAFETY: Sixteen bytes, read without alignment.
            let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
            *words = _mm_shuffle_epi8(bytes, turn);
        }
    }

    /// Replaces the oldest four words of the schedule, at `I`, by the next four.
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    #[inline]
    fn extend<const I: usize>(side: &mut Side) {
        let words = &mut side.words;
        let [w0, w1, w2, w3] =
            [words[I], words[(I + 1) % 4], words[(I + 2) % 4], words[(I + 3) % 4]];
        let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8(w3, w2, 4));
        words[I] = _mm_sha256msg2_epu32(sum, w3);
    }

    #[target_feature(enable = "sha,sse4.1,ssse3")]
    #[inline]
    fn four_rounds<const I: usize>(a: &mut Side, b: &mut Side) {
        // SAFETY: Four words from 4·I on, and I is at most 15.
        let k = unsafe { _mm_loadu_si128(K.as_ptr().add(4 * I).cast()) };
        let sum_a = _mm_add_epi32(a.words[I % 4], k);
        let sum_b = _mm_add_epi32(b.words[I % 4], k);
        a.cdgh = _mm_sha256rnds2_epu32(a.cdgh, a.abef, sum_a);
        b.cdgh = _mm_sha256rnds2_epu32(b.cdgh, b.abef, sum_b);
        a.abef = _mm_sha256rnds2_epu32(a.abef, a.cdgh, _mm_shuffle_epi32(sum_a, 0x0E));
        b.abef = _mm_sha256rnds2_epu32(b.abef, b.cdgh, _mm_shuffle_epi32(sum_b, 0x0E));
    }

    #[target_feature(enable = "sha,sse4.1,ssse3")]
    #[inline]
    fn unpack(state: &[u32; 8]) -> (__m128i, __m128i) {
        let [a, b, c, d, e, f, g, h] = state.map(u32::cast_signed);
        (_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h))
    }

    #[target_feature(enable = "sha,sse4.1,ssse3")]
    #[inline]
    fn pack(side: &Side, state: &mut [u32; 8]) {
        let words = |lanes: __m128i| {
            let mut words = [0u32; 4];
            // SAFETY: Sixteen bytes, written without alignment.
            unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), lanes) };
            words
        };
        let ([f, e, b, a], [h, g, d, c]) = (words(side.abef), words(side.cdgh));
        *state = [a, b, c, d, e, f, g, h];
    }
}
