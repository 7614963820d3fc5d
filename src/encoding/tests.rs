//! Golden vectors: what the libraries compute, bit for bit. `fixtures/quant` has the scripts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use super::ggml::BLOCK_TYPES;

/// The tensors of a golden file and its metadata.
pub(super) struct Golden {
    bytes: Vec<u8>,
    pub(super) metadata: BTreeMap<String, String>,
}

impl Golden {
    pub(super) fn read(path: &str) -> Golden {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/quant");
        let bytes = std::fs::read(root.join(path)).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        Golden { bytes, metadata }
    }

    pub(super) fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        self.tensors().tensor(name).unwrap().data().to_vec()
    }

    pub(super) fn floats(&self, name: &str) -> Vec<f32> {
        self.bytes(name).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }
}

/// Fails with the first value of which other bits were expected.
#[track_caller]
pub(super) fn assert_same_bits(what: &str, actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert!(
            actual.to_bits() == expected.to_bits(),
            "{what}: value {i} is {actual:?}, expected {expected:?}"
        );
    }
}

/// splitmix64, as in `make_ggml.py`.
fn stream(seed: u64) -> impl Iterator<Item = u64> {
    (1u64..).map(move |i| {
        let mut z = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

const MANY: usize = 1024;

fn many_blocks(seed: u32, block_bytes: usize) -> Vec<u8> {
    let words = stream(seed.into()).flat_map(u64::to_le_bytes);
    words.take(MANY * block_bytes).collect()
}

fn many_values(seed: u32, block_len: usize) -> Vec<f32> {
    let words = stream(1000 + u64::from(seed));
    let value = |(i, word): (usize, u64)| {
        let sum: u64 = [0, 16, 32, 48].iter().map(|shift| word >> shift & 0xffff).sum();
        let power = 2f32.powi((i / block_len % 24) as i32 - 30);
        (sum as i64 - 131_070) as f32 * power
    };
    words.enumerate().map(value).take(MANY * block_len).collect()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn ggml_blocks_decode_as_the_reference_decodes_them() {
    for block in BLOCK_TYPES {
        let golden = Golden::read(&format!("{}.safetensors", block.id.replace('.', "/")));
        let blocks = golden.bytes("blocks");
        let mut values = vec![0.0; blocks.len() / block.block_bytes * block.block_len];
        block.dequantize(&blocks, &mut values).unwrap();
        assert_same_bits(block.id, &values, &golden.floats("values"));

        let mut values = vec![0.0; MANY * block.block_len];
        block.dequantize(&many_blocks(block.ggml_type, block.block_bytes), &mut values).unwrap();
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(digest(&bytes), golden.metadata["many_values"], "{}", block.id);
    }
}

#[test]
fn ggml_blocks_encode_as_the_reference_encodes_them() {
    for block in BLOCK_TYPES {
        let golden = Golden::read(&format!("{}.safetensors", block.id.replace('.', "/")));
        assert_eq!(block.can_quantize(), golden.metadata.contains_key("many_quantized"));
        if !block.can_quantize() {
            continue;
        }
        let values = golden.floats("input");
        let mut blocks = vec![0; values.len() / block.block_len * block.block_bytes];
        block.quantize(&values, &mut blocks).unwrap();
        let size = block.block_bytes;
        for (i, (actual, expected)) in
            blocks.chunks(size).zip(golden.bytes("quantized").chunks(size)).enumerate()
        {
            assert_eq!(actual, expected, "{}: block {i}", block.id);
        }

        let mut blocks = vec![0; MANY * block.block_bytes];
        block.quantize(&many_values(block.ggml_type, block.block_len), &mut blocks).unwrap();
        assert_eq!(digest(&blocks), golden.metadata["many_quantized"], "{}", block.id);
    }
}
