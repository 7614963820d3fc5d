//! How fast blocks decode and encode: `cargo bench --bench encoding`.
//!
//! One thread, more values than the caches hold, the best of several runs; beside it a copy of as
//! many bytes as are decoded, which is what the memory allows. `encoding.py` measures gguf-py on
//! the same numbers of values.

use std::hint::black_box;
use std::time::{Duration, Instant};

use llmstd::encoding::BLOCK_TYPES;

/// Values in a run: 64 MiB of F32.
const LEN: usize = 1 << 24;
const RUNS: usize = 5;

fn main() {
    let values: Vec<f32> = (0..LEN as u32)
        .map(|i| (i.wrapping_mul(0x9E37_79B9) >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect();
    let mut out = vec![0.0; LEN];

    let copy = best(|| out.copy_from_slice(black_box(&values)));
    report("copy", "", copy, copy);
    for block in BLOCK_TYPES {
        let n_bytes = LEN / block.block_len * block.block_bytes;
        let mut blocks: Vec<u8> = (0..n_bytes as u32).map(|i| (i * 7 % 61) as u8).collect();
        if block.can_quantize() {
            // K-blocks are searched for, which takes a while.
            let part = if block.id.ends_with("_k") { 16 } else { 1 };
            let (values, blocks) = (&values[..LEN / part], &mut blocks[..n_bytes / part]);
            let encode = best(|| block.quantize(black_box(values), blocks).expect("they fit"));
            report(block.id, "encode", encode * part as u32, copy);
        }
        let decode = best(|| block.dequantize(black_box(&blocks), &mut out).expect("they fit"));
        report(block.id, "decode", decode, copy);
    }
}

fn best(mut run: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..RUNS).map(time).min().unwrap_or_default()
}

#[expect(clippy::print_stdout, reason = "a bench prints")]
fn report(id: &str, what: &str, time: Duration, copy: Duration) {
    let seconds = time.as_secs_f64();
    let gigabytes = (4 * LEN) as f64 / 1e9 / seconds;
    let ratio = seconds / copy.as_secs_f64();
    println!("{id:14} {what:7} {gigabytes:8.3} GB/s of F32, {ratio:7.2} copies");
}
