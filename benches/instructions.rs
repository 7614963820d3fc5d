//! One kernel on a fixed input, for `instructions.sh`, which counts what it takes.
//!
//! `instructions KERNEL` makes the input and runs the kernel once; `instructions KERNEL none` makes the input
//! alone; without arguments the names of the kernels are printed.

use std::hint::black_box;

use llmstd::base::source::Source;
use llmstd::checkpoint::DType;
use llmstd::encoding::BLOCK_TYPES;
use llmstd::exec::hash::Hash;
use llmstd::exec::scan::{Job, Piece, scan};
use llmstd::format::safetensors;

const KERNELS: &[&str] = &["sha256", "scan-bf16", "scan-f32", "headers"];
const LEN: usize = 1 << 20;
const N_TENSORS: usize = 5_000;
/// Block types whose encoding and decoding are counted.
const BLOCKS: &[&str] = &["q8_0", "q4_0", "q4_k", "q6_k"];

#[expect(clippy::print_stdout, reason = "a bench prints")]
fn main() {
    // `cargo bench` gives arguments of its own.
    let given: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let Some(kernel) = given.first() else {
        let blocks = BLOCKS.iter().flat_map(|id| [format!("{id}-encode"), format!("{id}-decode")]);
        let names = KERNELS.iter().map(|name| (*name).to_owned()).chain(blocks);
        names.for_each(|name| println!("{name}"));
        return;
    };
    let runs = given.get(1).is_none_or(|word| word != "none");
    let bytes: Vec<u8> =
        (0..LEN).map(|i| if i % 2 == 1 { 0x3f } else { (i * 31 % 251) as u8 }).collect();
    let folder = tempfile::tempdir().expect("a scratch folder");
    let mut source = Source::new(folder.path());
    match kernel.as_str() {
        "sha256" => {
            let mut hash = Hash::default();
            if runs {
                hash.update(black_box(&bytes));
            }
            black_box(hash.finish());
        }
        "scan-bf16" | "scan-f32" => {
            std::fs::write(folder.path().join("bytes"), &bytes).expect("room for it");
            let file = source.add("bytes").expect("it was written");
            let dtype = if kernel == "scan-f32" { DType::F32 } else { DType::BF16 };
            let pieces = vec![Piece { start: 0, len: LEN as u64, dtype }];
            let jobs = [Job { file, pieces, is_whole: false }];
            if runs {
                black_box(scan(&source, black_box(&jobs), 1, &|_| ()).expect("it fits"));
            }
        }
        "headers" => {
            let entry = |i: usize| {
                format!(
                    "\"layers.{}.experts.{}.up.weight\":{{\"dtype\":\"BF16\",\"shape\":[1,1],\"data_offsets\":[{},{}]}}",
                    i / 256,
                    i % 256,
                    2 * i,
                    2 * i + 2
                )
            };
            let entries: Vec<String> = (0..N_TENSORS).map(entry).collect();
            let header = format!("{{{}}}", entries.join(","));
            let mut file = (header.len() as u64).to_le_bytes().to_vec();
            file.extend(header.bytes());
            file.resize(file.len() + 2 * N_TENSORS, 0);
            std::fs::write(folder.path().join("many.safetensors"), &file).expect("room for it");
            let many = source.add("many.safetensors").expect("it was written");
            if runs {
                black_box(safetensors::read(&source, many).expect("it is sound"));
            }
        }
        other => {
            let found = other.rsplit_once('-').and_then(|(id, what)| {
                Some((
                    BLOCK_TYPES.iter().find(|block| block.id.strip_prefix("ggml.") == Some(id))?,
                    what,
                ))
            });
            let (block, what) = found.expect("one of the names that are printed");
            let n_values = LEN / 16;
            let mut values: Vec<f32> = (0..n_values as u32)
                .map(|i| (i.wrapping_mul(0x9E37_79B9) >> 8) as f32 / (1 << 23) as f32 - 1.0)
                .collect();
            let n_bytes = n_values / block.block_len * block.block_bytes;
            let mut blocks: Vec<u8> = (0..n_bytes as u32).map(|i| (i * 7 % 61) as u8).collect();
            match what {
                _ if !runs => {}
                "encode" => block.quantize(black_box(&values), &mut blocks).expect("they fit"),
                _ => block.dequantize(black_box(&blocks), &mut values).expect("they fit"),
            }
            black_box((values, blocks));
        }
    }
}
