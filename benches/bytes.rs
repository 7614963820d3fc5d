//! How fast bytes are hashed, counted and indexed: `cargo bench --bench bytes`.
//!
//! One thread, the best of several runs, in bytes per second; beside it a copy of as many bytes, which is
//! what the memory allows.

use std::hint::black_box;
use std::time::{Duration, Instant};

use llmstd::base::source::Source;
use llmstd::checkpoint::DType;
use llmstd::exec::hash::{Hash, update_two};
use llmstd::exec::scan::{Job, Piece, scan};
use llmstd::format::safetensors;

/// More than the caches hold.
const LEN: usize = 64 << 20;
const N_TENSORS: usize = 100_000;
const RUNS: usize = 5;

fn main() {
    // Numbers near 1 in every float dtype, so that none is infinite.
    let bytes: Vec<u8> =
        (0..LEN).map(|i| if i % 2 == 1 { 0x3f } else { (i * 31 % 251) as u8 }).collect();
    let mut copy = vec![0; LEN];
    report("copy", LEN, best(|| copy.copy_from_slice(black_box(&bytes))));

    let (one, other) = bytes.split_at(LEN / 2);
    let alone = best(|| {
        let mut hash = Hash::default();
        hash.update(black_box(&bytes));
        black_box(hash.finish());
    });
    report("SHA-256 of one stream", LEN, alone);
    let two = best(|| {
        let (mut a, mut b) = (Hash::default(), Hash::default());
        update_two([&mut a, &mut b], [black_box(one), black_box(other)]);
        black_box((a.finish(), b.finish()));
    });
    report("SHA-256 of two streams", LEN, two);

    let folder = tempfile::tempdir().expect("a scratch folder");
    std::fs::write(folder.path().join("bytes"), &bytes).expect("room for it");
    let mut source = Source::new(folder.path());
    let file = source.add("bytes").expect("it was written");
    for dtype in [DType::U8, DType::BF16, DType::F16, DType::F32, DType::F64, DType::F8E4M3] {
        let half = LEN as u64 / 2;
        let pieces = [0, half].map(|start| Piece { start, len: half, dtype }).to_vec();
        let jobs = [Job { file, pieces, is_whole: false }];
        let time = best(|| {
            black_box(scan(&source, black_box(&jobs), 1, &|_| ()).expect("it fits"));
        });
        report(&format!("two tensors of {dtype}, hashed and counted"), LEN, time);
    }

    let mut header = String::from("{");
    for i in 0..N_TENSORS {
        let comma = if i == 0 { "" } else { "," };
        header += &format!(
            "{comma}\"layers.{}.experts.{}.up.weight\":{{\"dtype\":\"BF16\",\"shape\":[1,1],\
             \"data_offsets\":[{},{}]}}",
            i / 256,
            i % 256,
            2 * i,
            2 * i + 2
        );
    }
    header.push('}');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.resize(file.len() + 2 * N_TENSORS, 0);
    std::fs::write(folder.path().join("many.safetensors"), &file).expect("room for it");
    let many = source.add("many.safetensors").expect("it was written");
    let time = best(|| {
        black_box(safetensors::read(&source, many).expect("it is sound"));
    });
    report("header of 100,000 tensors", header.len(), time);
}

fn best(mut run: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..RUNS).map(time).min().expect("several runs")
}

#[expect(clippy::print_stdout, reason = "a bench prints what it measured")]
fn report(name: &str, n_bytes: usize, time: Duration) {
    let speed = n_bytes as f64 / time.as_secs_f64() / 1e9;
    println!("{name:<48} {:>9.2} ms {speed:>7.2} GB/s", time.as_secs_f64() * 1e3);
}
