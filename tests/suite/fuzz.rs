//! The targets of the fuzzer over the fixtures, and over seeded changes of them: each ends, in a result
//! or in an error. `LLMSTD_FUZZ_ROUNDS=100000 cargo test --test suite fuzz::` goes on for longer. `cargo fuzz run
//! reader` (a nightly toolchain) searches, from the seeds that `LLMSTD_FUZZ_SEEDS=fuzz/corpus cargo test --test suite
//! fuzz::` writes.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use llmstd::format::FORMATS;

use crate::targets;

/// How many changes each target is given where nothing else is said.
const ROUNDS: usize = 10_000;
/// Longer files are no seeds: what is changed in them is hardly ever a header.
const MAX_SEED_LEN: u64 = 40_000;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rounds() -> usize {
    std::env::var("LLMSTD_FUZZ_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("a number"))
}

/// A sequence of numbers that looks like chance, and is the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

/// Changes bytes from `from` on: flips, cuts, copies of a piece to another place, numbers of digits.
fn change(bytes: &mut Vec<u8>, from: usize, numbers: &mut Numbers) {
    for _ in 0..=numbers.below(3) {
        let n = bytes.len() - from;
        if n == 0 {
            return;
        }
        let at = from + numbers.below(n);
        match numbers.below(8) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << numbers.below(8),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][numbers.below(6)],
            3 => bytes.insert(at, numbers.below(256) as u8),
            4 => drop(bytes.remove(at)),
            5 => {
                let len = (1 + numbers.below(16)).min(bytes.len() - at);
                let piece = bytes[at..at + len].to_vec();
                let to = from + numbers.below(n);
                bytes.splice(to..to, piece);
            }
            6 => {
                let len = 8.min(bytes.len() - at);
                let number = [0, 1, 1 << 31, 1 << 40, u64::MAX, 1 << 63][numbers.below(6)];
                bytes[at..at + len].copy_from_slice(&number.to_le_bytes()[..len]);
            }
            _ => {
                // The next digit becomes another number.
                let Some(digit) = bytes[at..].iter().position(u8::is_ascii_digit) else { continue };
                let number =
                    ["0", "-1", "4294967296", "9223372036854775807", "1e400", "[]", "null"];
                let number = number[numbers.below(number.len())].bytes();
                bytes.splice(at + digit..=at + digit, number);
            }
        }
    }
}

/// Runs a target over seeds and over changes of them, of which the first `kept` bytes stay.
fn run(name: &str, target: fn(&[u8]), seeds: &[Vec<u8>], kept: usize, rounds: usize) {
    assert!(!seeds.is_empty());
    if let Ok(corpus) = std::env::var("LLMSTD_FUZZ_SEEDS") {
        let folder = Path::new(&corpus).join(name);
        fs::create_dir_all(&folder).unwrap();
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed).unwrap();
        }
    }
    let tell = |bytes: &[u8]| {
        let failed = catch_unwind(AssertUnwindSafe(|| target(bytes))).is_err();
        if failed {
            let path = std::env::temp_dir().join("llmstd-fuzz-crash");
            let _ = fs::write(&path, bytes);
            panic!("the target panicked; its input is {}", path.display());
        }
    };
    seeds.iter().for_each(|seed| tell(seed));
    // Not on a pool that the targets use too: one that waits would be given another round.
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let work = || {
        while let round = next.fetch_add(1, Ordering::Relaxed)
            && round < rounds
        {
            let seed = (round as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut numbers = Numbers(seed);
            let mut bytes = seeds[numbers.below(seeds.len())].clone();
            let kept = kept.min(bytes.len());
            change(&mut bytes, kept, &mut numbers);
            tell(&bytes);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().expect("no input of the fuzzer panics");
        }
    });
}

/// Every small file below a folder.
fn files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    let mut entries: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, found);
        } else if fs::metadata(&path).unwrap().len() <= MAX_SEED_LEN {
            found.push(path);
        }
    }
}

#[test]
fn readers_end() {
    let mut found = Vec::new();
    for folder in ["formats", "pytorch", "gguf", "demo", "quant", "hostile"] {
        files(&root().join("fixtures").join(folder), &mut found);
    }
    let seeds = found.iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?;
        let chosen = FORMATS.iter().position(|format| {
            let end = name.rsplit_once('.').map_or(name, |(_, end)| end);
            format.endings.contains(&end)
                || format.singles.contains(&name)
                || targets::name_in(format).as_deref() == Some(name)
        })?;
        Some([&[chosen as u8][..], &fs::read(path).unwrap()].concat())
    });
    let seeds: Vec<Vec<u8>> = seeds.collect();
    assert!(50 < seeds.len());
    run("reader", targets::reader, &seeds, 1, rounds());
}

#[test]
fn plans_of_any_config_and_headers_end() {
    let mut seeds = Vec::new();
    let mut folders = Vec::new();
    files(&root().join("fixtures/hf"), &mut folders);
    for config in folders.iter().filter(|path| path.ends_with("config.json")) {
        let weights = config.with_file_name("model.safetensors");
        if fs::metadata(&weights).is_ok_and(|meta| meta.len() <= MAX_SEED_LEN) {
            let (config, weights) = (fs::read(config).unwrap(), fs::read(weights).unwrap());
            seeds.push([&config[..], &[0], &weights].concat());
        }
    }
    run("model", targets::model, &seeds, 0, rounds() / 4);
}

#[test]
fn validation_of_any_package_ends() {
    let folder = tempfile::tempdir().unwrap();
    let package = folder.path().join("package");
    let spec = llmstd::Spec::current();
    let request = llmstd::Request::new(&spec, &package, "std");
    llmstd::convert(llmstd::open(&targets::good_model()).unwrap(), &request).unwrap();
    let seeds = targets::PACKAGE_FILES.iter().zip(0u8..);
    let seeds: Vec<Vec<u8>> = seeds
        .filter_map(|(name, chosen)| {
            Some([&[chosen][..], &fs::read(package.join(name)).ok()?].concat())
        })
        .collect();
    assert!(2 < seeds.len());
    run("package", targets::package, &seeds, 1, rounds() / 4);
}

#[test]
fn runs_of_any_rank_file_end() {
    let seeds: Vec<Vec<u8>> = targets::RANK_FILES
        .iter()
        .zip(0u8..)
        .map(|((run, file), chosen)| {
            let path = targets::fixture("trainers").join(run).join(file);
            [&[chosen][..], &fs::read(path).unwrap()].concat()
        })
        .collect();
    run("ranks", targets::ranks, &seeds, 1, rounds() / 4);
}

#[test]
fn data_files_and_expressions_end() {
    let expressions = [
        "if(n == null, num_heads, n * 2 + 1)",
        "at([1, 2, 3], n) ^ 2",
        "not (n < 4 and n >= 1) or 'full' == 'sliding'",
        "decoder.layers.{i}.attn.{x}_proj.{p}",
    ];
    let mut seeds: Vec<Vec<u8>> =
        expressions.iter().map(|text| [&[255][..], text.as_bytes()].concat()).collect();
    for chosen in 0..targets::SPEC_FILES.len() {
        seeds.push([&[chosen as u8][..], targets::good_text(chosen).as_bytes()].concat());
    }
    run("texts", targets::texts, &seeds, 1, rounds() / 4);
}
