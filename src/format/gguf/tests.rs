//! Files of GGUF: those that are whole, and those that lie. One file, as all of them are built by the same
//! draft.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::*;
use crate::exec::container::Gguf;
use crate::exec::write::{Options, shards, write as write_files};
use crate::folder;
use crate::metadata::{Array, Number, Text, Texts};
use crate::plan::whole::whole;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gguf").join(name)
}

fn read_bytes(bytes: &[u8]) -> Result<Checkpoint> {
    let source = Source::from_bytes("model.gguf", bytes);
    let file = source.find("model.gguf").expect("it was just made");
    read(&source, file)
}

/// A value as the golden listing has it: as Python prints it.
fn python(value: &Value) -> String {
    let kind = |name: &str| match name {
        name if name.starts_with('u') => name.replace('u', "uint"),
        name if name.starts_with('i') => name.replace('i', "int"),
        name if name.starts_with('f') => name.replace('f', "float"),
        name => name.to_owned(),
    };
    let scalar = |value: &Value| match value {
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        // Python prints the F64 that the F32 is.
        Value::F32(value) if value.abs() < 1e-4 => {
            format!("{:e}", f64::from(*value)).replace("e-6", "e-06")
        }
        Value::F32(value) => format!("{:?}", f64::from(*value)),
        Value::String(text) => format!("'{}'", text.to_string().escape_default())
            .replace("\\u{e4}", "ä")
            .replace("\\u{2581}", "▁"),
        value => value.to_plain(1).to_string(),
    };
    match value {
        Value::Array(array) => {
            let items: Vec<Value> = match array {
                Array::I32(items) => items.iter().map(|&item| Value::I32(item)).collect(),
                Array::F32(items) => items.iter().map(|&item| Value::F32(item)).collect(),
                Array::Bool(items) => items.iter().map(|&item| Value::Bool(item)).collect(),
                Array::String(texts) => {
                    texts.iter().map(|text| Value::String(Text(text.to_vec()))).collect()
                }
                other => panic!("{other:?} is in no fixture"),
            };
            let of = kind(array.kind().name());
            let items: Vec<String> = items.iter().map(scalar).collect();
            format!("array {of} [{}]", items.join(", "))
        }
        value => format!("{} {}", kind(value.kind().name()), scalar(value)),
    }
}

/// The bytes of a tensor, little-endian.
fn gathered(source: &Source, tensor: &Tensor) -> Vec<u8> {
    let (inputs, output) = whole(tensor, 0).unwrap();
    let producer = crate::exec::produce::Producer::new(source, &inputs, &output).unwrap();
    producer.bytes(0..producer.len(), &mut Vec::new()).unwrap().to_vec()
}

#[test]
fn fixtures_are_what_the_python_package_reads() {
    let golden = std::fs::read_to_string(fixture("golden.txt")).unwrap();
    let mut listing = String::new();
    for name in golden.lines().filter(|line| !line.starts_with(' ')) {
        let mut source = Source::new(fixture(""));
        let file = source.add(name).unwrap();
        let checkpoint = read(&source, file).unwrap();
        let _ = writeln!(listing, "{name}");
        for (key, value) in checkpoint.typed_metadata.iter() {
            let _ = writeln!(listing, "  key {key} {}", python(value));
        }
        for tensor in &checkpoint.tensors {
            let bytes = gathered(&source, tensor);
            let start = match &tensor.payload {
                Payload::Range(extent) => extent.start,
                Payload::View(view) => view.storage.start,
                other => panic!("{}: {other:?}", tensor.name),
            };
            let kind = TYPES.of(tensor.dtype, tensor.encoding.as_deref()).unwrap().name();
            let digest = crate::base::hex::encode(&Sha256::digest(&bytes)[..8]);
            let _ = writeln!(
                listing,
                "  tensor {} {kind} {:?} {start} {} {}",
                tensor.name,
                tensor.logical_shape(),
                bytes.len(),
                digest
            );
        }
        assert!(checkpoint.findings.is_empty(), "{name}: {:?}", checkpoint.findings);
    }
    assert_eq!(listing, golden);
}

/// A header as it is written down, with any number wrong.
struct Draft {
    bytes: Vec<u8>,
}

impl Draft {
    fn new(version: u32, n_tensors: u64, n_keys: u64) -> Draft {
        let mut draft = Draft { bytes: MAGIC.to_vec() };
        draft.put(version).put(n_tensors).put(n_keys);
        draft
    }

    fn put(&mut self, number: impl Number) -> &mut Draft {
        number.put_le(&mut self.bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Draft {
        self.put(text.len() as u64);
        self.bytes.extend(text.as_bytes());
        self
    }

    fn tensor(&mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> &mut Draft {
        self.text(name).put(dims.len() as u32);
        for &dim in dims {
            self.put(dim);
        }
        self.put(kind).put(offset)
    }

    /// Padding to the default alignment, and so many bytes of tensors.
    fn data(&mut self, n_bytes: usize) -> &mut Draft {
        let start = self.bytes.len().next_multiple_of(32);
        self.bytes.resize(start + n_bytes, 0);
        self
    }

    #[track_caller]
    fn fails(&self, at: u64, words: &str) {
        let err = read_bytes(&self.bytes).err().expect("it must be refused");
        assert!(err.message().contains(words), "{err}");
        assert_eq!(err.offset(), Some(at), "{err}");
    }
}

/// Where the first key or tensor begins.
const START: u64 = 24;

#[test]
fn heads_that_lie_are_refused() {
    for (magic, words) in [
        (b"FUGG", "turned round"),
        (b"lmgg", "before it had GGUF"),
        (b"tjgg", "before it had GGUF"),
        (b"GGUX", "does not begin with"),
    ] {
        let mut draft = Draft::new(3, 0, 0);
        draft.bytes[..4].copy_from_slice(magic);
        assert_eq!(probe(&draft.bytes), magic != b"GGUX");
        draft.fails(0, words);
    }
    for version in [0, 4, 0x0400_0000, u32::MAX, 0x0001_0000] {
        Draft::new(version, 0, 0).fails(4, "is GGUF of version");
    }
    for count in [u64::MAX, 1 << 40, 1 << 63, 1] {
        Draft::new(3, count, 0).fails(8, "take at least 24 bytes each");
        Draft::new(3, 0, count).fails(16, "take at least 13 bytes each");
    }
    let mut many = Draft::new(3, 0, 1_000_001);
    many.bytes.resize(20_000_000, 0);
    many.fails(16, "at most 1000000 are read");
}

#[test]
fn keys_that_lie_are_refused() {
    for len in [1 << 40, u64::MAX, 1 << 63, 100] {
        let mut draft = Draft::new(3, 0, 1);
        draft.put(len).data(64);
        draft.fails(START + 8, "are left");
    }
    Draft::new(3, 0, 1).text("").put(0u32).put(0u8).fails(START, "is empty");
    let mut draft = Draft::new(3, 0, 1);
    draft.put(1u64).put(0xffu8).put(0u32).put(0u8).fails(START, "not UTF-8");
    let mut draft = Draft::new(3, 0, 1);
    draft.put(70_000u64).data(80_000).fails(START, "at most 65535");
    let long = START + 9;
    for kind in [13u32, u32::MAX, 999] {
        Draft::new(3, 0, 1).text("k").put(kind).put(0u64).fails(long, "known are 0 to 12");
        let mut array = Draft::new(3, 0, 1);
        array.text("k").put(9u32).put(kind).put(1u64).put(0u64).fails(long + 4, "known are");
    }
    Draft::new(3, 0, 1).text("k").put(7u32).put(2u8).fails(long + 4, "is a bool");
    for len in [1 << 40, u64::MAX] {
        Draft::new(3, 0, 1).text("k").put(8u32).put(len).fails(long + 12, "are left");
    }
    for (kind, words) in
        [(0u32, "are left"), (4, "are left"), (8, "8 bytes each"), (9, "12 bytes each")]
    {
        for len in [1 << 63, 1 << 30, u64::MAX] {
            let mut draft = Draft::new(3, 0, 1);
            draft.text("k").put(9u32).put(kind).put(len).put(0u64);
            let at = if kind < 8 { long + 16 } else { long + 8 };
            draft.fails(at, words);
        }
    }
    let mut deep = Draft::new(3, 0, 1);
    deep.text("k").put(9u32);
    for _ in 0..2000 {
        deep.put(9u32).put(1u64);
    }
    deep.fails(long + 4 + 12 * 16, "more than 16 deep");
    let mut twice = Draft::new(3, 0, 2);
    twice.text("k").put(0u32).put(0u8).text("k").put(0u32).put(0u8).fails(long + 5, "stands twice");
    let mut odd = Draft::new(3, 0, 1);
    odd.text("k")
        .put(9u32)
        .put(7u32)
        .put(2u64)
        .put(1u8)
        .put(2u8)
        .fails(long + 16, "are not 0 or 1");
}

#[test]
fn alignments_that_programs_refuse_are_refused() {
    for (alignment, words) in [
        (0u32, "power of two"),
        (13, "power of two"),
        (3, "power of two"),
        (4, "multiple of 8"),
        (1 << 31, "at most"),
    ] {
        let mut draft = Draft::new(3, 0, 1);
        draft.text(ALIGNMENT_KEY).put(4u32).put(alignment).fails(START, words);
    }
    Draft::new(3, 0, 1).text(ALIGNMENT_KEY).put(8u32).text("32").fails(START, "is a u32");
    Draft::new(3, 0, 1).text(ALIGNMENT_KEY).put(10u32).put(32u64).fails(START, "is a u32");
}

#[test]
fn tensors_that_lie_are_refused() {
    let dims_at = START + 9;
    Draft::new(3, 1, 0).text("a").put(5u32).put(0u64).put(0u64).fails(dims_at, "at most 4");
    Draft::new(3, 1, 0).text("a").put(1u32 << 31).put(0u64).put(0u64).fails(dims_at, "at most 4");
    let draft = |dims: &[u64], kind, offset| {
        let mut draft = Draft::new(3, 1, 0);
        draft.tensor("a", dims, kind, offset).data(64);
        draft
    };
    draft(&[4, 0], 0, 0).fails(dims_at, "a dimension of 0");
    draft(&[1 << 32, 1 << 32], 0, 0).fails(dims_at, "2^63 values or more");
    draft(&[1 << 32, 1 << 31], 0, 0).fails(dims_at, "2^63 values or more");
    draft(&[u64::MAX], 0, 0).fails(dims_at, "2^63 values or more");
    draft(&[1 << 62], 0, 0).fails(dims_at, "more bytes than can be counted");
    draft(&[16], 8, 0).fails(dims_at, "no multiple of the blocks of 32");
    draft(&[32, 3], 12, 0).fails(dims_at, "no multiple of the blocks of 256");
    draft(&[], 8, 0).fails(dims_at, "no multiple");
    // Name, number of dims, one dim, type: then the offset.
    let offset_at = dims_at + 4 + 8 + 4;
    draft(&[4], 0, 3).fails(offset_at, "no multiple of the alignment");
    draft(&[4], 0, 32).fails(offset_at, "32 bytes between the start");
    draft(&[4], 0, u64::MAX - 31).fails(offset_at, "are no tensor's");
    draft(&[17], 0, 0).fails(offset_at, "takes 68 bytes from 0 of the data on, which has 64");
    draft(&[1 << 57], 0, 0).fails(offset_at, "of the data on, which has 64");
    let two = |second: &str, offset| {
        let mut draft = Draft::new(3, 2, 0);
        draft.tensor("a", &[4], 0, 0).tensor(second, &[4], 0, offset).data(128);
        draft
    };
    let second_at = offset_at + 8;
    two("a", 32).fails(second_at, "`a` stands twice");
    two("b", 0).fails(offset_at + 33, "lies 32 bytes over `a`");
    two("b", 64).fails(offset_at + 33, "32 bytes between `a` and tensor `b`");
    // The padding before the tensors is cut off.
    let mut cut = Draft::new(3, 1, 0);
    cut.tensor("a", &[4], 0, 0);
    cut.fails(cut.bytes.len() as u64, "ends in the padding");
}

#[test]
fn tensors_of_unknown_types_do_not_hide_the_others() {
    for (kind, words) in [
        (4, "Q4_2, was removed"),
        (5, "was removed"),
        (31, "was removed"),
        (33, "was removed"),
        (36, "was removed"),
        (38, "was removed"),
        (43, "is not known"),
        (999, "is not known"),
        (u32::MAX, "is not known"),
    ] {
        let mut draft = Draft::new(3, 2, 0);
        draft.tensor("a", &[7, 3], kind, 0).tensor("b", &[4], 0, 64).data(96);
        let checkpoint = read_bytes(&draft.bytes).unwrap();
        let [a, b] = &checkpoint.tensors[..] else { panic!() };
        assert!(matches!(&a.payload, Payload::Unreadable(why) if why.contains(words)), "{a:?}");
        assert_eq!((a.dtype, &a.shape), (DType::Unknown, &vec![3, 7]));
        assert!(matches!(&b.payload, Payload::Range(extent) if extent.len == 16), "{b:?}");
        assert_eq!(checkpoint.findings.len(), 1);
        let mut outside = Draft::new(3, 2, 0);
        outside.tensor("a", &[4], kind, 0).tensor("b", &[4], kind, 1 << 40).data(32);
        assert!(read_bytes(&outside.bytes).err().unwrap().message().contains("of the data on"));
    }
}

#[test]
fn what_is_odd_and_readable_is_a_finding() {
    let mut draft = Draft::new(3, 1, 0);
    draft.tensor(&"n".repeat(64), &[4], 0, 0).data(33);
    let found = read_bytes(&draft.bytes).unwrap().findings;
    let rules: Vec<&str> = found.iter().map(|finding| finding.rule).collect();
    assert_eq!(rules, ["R020", "R008"]);
    assert_eq!(found[1].bytes, Some([160, 161]));
    // The padding behind the last tensor may be missing.
    let mut draft = Draft::new(3, 1, 0);
    draft.tensor("a", &[4], 0, 0).data(16);
    assert!(read_bytes(&draft.bytes).unwrap().findings.is_empty());
}

#[test]
fn every_version_and_byte_order_says_the_same() {
    let make = |version: u32, big: bool| {
        let mut bytes = MAGIC.to_vec();
        let mut put = |number: u64, len: usize| {
            let little = &number.to_le_bytes()[..len];
            if big { bytes.extend(little.iter().rev()) } else { bytes.extend(little) }
        };
        let size = if version == 1 { 4 } else { 8 };
        put(version.into(), 4);
        put(1, size);
        put(1, size);
        put(1, size);
        put(u64::from(b'k'), 1);
        put(9, 4);
        put(3, 4);
        put(2, size);
        put(0xfffe, 2);
        put(5, 2);
        put(1, size);
        put(u64::from(b't'), 1);
        put(2, 4);
        put(3, size);
        put(2, size);
        put(25, 4);
        put(0, 8);
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        for number in 1..=6u16 {
            bytes.extend(if big { number.to_be_bytes() } else { number.to_le_bytes() });
        }
        bytes
    };
    for version in 1..=3 {
        for big in [false, true] {
            let bytes = make(version, big);
            let source = Source::from_bytes("t", &bytes);
            let checkpoint = read(&source, source.find("t").unwrap()).unwrap();
            let value = checkpoint.typed_metadata.get("k").unwrap();
            assert_eq!(*value, Value::Array(Array::I16(vec![-2, 5])), "{version} {big}");
            let tensor = &checkpoint.tensors[0];
            assert_eq!((tensor.dtype, &tensor.shape), (DType::I16, &vec![2, 3]));
            assert_eq!(gathered(&source, tensor), [1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]);
            assert_eq!(checkpoint.metadata["GGUF.version"], version.to_string());
            assert_eq!(checkpoint.metadata["GGUF.byte_order"], if big { "big" } else { "little" });
        }
    }
    // Blocks of a big-endian file have numbers inside whose order nobody says.
    let mut bytes = make(3, true);
    let at = bytes.windows(4).position(|window| window == [0, 0, 0, 25]).unwrap();
    bytes[at + 3] = 8;
    bytes[at - 1] = 1;
    bytes[at - 9] = 32;
    bytes.resize(bytes.len() + 64, 0);
    let checkpoint = read_bytes(&bytes).unwrap();
    assert!(
        matches!(&checkpoint.tensors[0].payload, Payload::Unreadable(why) if why.contains("big-endian"))
    );
}

#[test]
fn tokenizers_that_programs_would_trip_over_are_findings() {
    let texts = |texts: &[&str]| {
        Value::Array(Array::String(Box::new(texts.iter().copied().collect::<Texts>())))
    };
    let check = |changes: &[(&str, Value)], expected: &[&str]| {
        let mut metadata = Metadata::default();
        metadata.set("tokenizer.ggml.tokens", texts(&["<unk>", "<0x0A>", "a", "b", "ab", " "]));
        metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; 6])));
        let types = vec![2, 6, 1, 1, 1, 1];
        metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
        metadata.set("tokenizer.ggml.merges", texts(&["a b"]));
        metadata.set("tokenizer.ggml.unknown_token_id", Value::U32(0));
        for (key, value) in changes {
            metadata.set(key, value.clone());
        }
        let found = tokenizer::check(&metadata);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (finding, words) in found.iter().zip(expected) {
            assert!(finding.message.contains(words), "{finding:?}");
        }
    };
    check(&[], &[]);
    check(&[("tokenizer.ggml.tokens", Value::U8(1))], &["is an array of strings"]);
    check(&[("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0])))], &["1 items for 6"]);
    check(&[("tokenizer.ggml.scores", texts(&["a"]))], &["is [f32], not [string]"]);
    check(&[("tokenizer.ggml.eos_token_id", Value::U32(6))], &["the ids end before 6"]);
    check(&[("tokenizer.ggml.eos_token_id", Value::I32(-1))], &["is -1"]);
    let bad = texts(&["<unk>", "<0x-1>", "a", "b", "ab", " "]);
    check(&[("tokenizer.ggml.tokens", bad)], &["\"<0x-1>\" stands for a byte"]);
    check(&[("tokenizer.ggml.merges", texts(&["ab"]))], &["no two parts"]);
    check(&[("tokenizer.ggml.merges", texts(&["a c"]))], &["joins what is no token"]);
    check(&[("tokenizer.ggml.merges", texts(&[""]))], &["no two parts"]);
    check(&[("tokenizer.ggml.merges", Value::U8(0))], &["is an array of strings, not u8"]);
}

#[test]
fn damaged_files_give_an_error_or_a_result() {
    for name in ["kinds.gguf", "t.gguf", "be.gguf", "sp-00001-of-00002.gguf"] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        let whole = read_bytes(&bytes).unwrap();
        let end = whole.tensors.iter().filter_map(|tensor| match &tensor.payload {
            Payload::Range(extent) => Some(extent.end()),
            Payload::View(view) => Some(view.storage.end()),
            Payload::Tiles(_) | Payload::Parts(..) | Payload::Unreadable(_) => None,
        });
        let end = end.max().unwrap() as usize;
        for len in 0..bytes.len() {
            let cut = read_bytes(&bytes[..len]);
            assert_eq!(cut.is_ok(), end <= len, "{name} cut to {len}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                if let Err(err) = read_bytes(&flipped) {
                    assert!(err.offset().is_some(), "{name} {at}.{bit}: {err}");
                }
            }
            for byte in [0, 0x7f, 0xff] {
                let mut flipped = bytes.clone();
                flipped[at] = byte;
                let _ = read_bytes(&flipped);
            }
        }
    }
}

/// Writes what is read, into files of at most so many bytes, and reads that.
fn round_trip(
    path: &Path,
    max_shard_bytes: Option<u64>,
    n_threads: usize,
) -> (Vec<Vec<u8>>, folder::Opened) {
    let opened = folder::open(path).unwrap();
    let tensors = &opened.checkpoint.tensors;
    let plan = tensors.iter().enumerate().map(|(index, tensor)| whole(tensor, index).unwrap());
    let (inputs, outputs): (Vec<_>, Vec<_>) = plan.unzip();
    let inputs = inputs.concat();
    let encodings = tensors.iter().filter_map(|tensor| {
        tensor.encoding.as_deref().map(|encoding| (tensor.name.clone(), encoding.clone()))
    });
    let encodings: BTreeMap<_, _> = encodings.collect();
    let metadata = &opened.checkpoint.typed_metadata;
    let container = Gguf { metadata, encodings: &encodings };
    let files = shards(&outputs, max_shard_bytes, "model", "gguf");
    let dir = tempfile::tempdir().unwrap();
    let progress = std::sync::atomic::AtomicU64::new(0);
    let advance = |n| {
        progress.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
    };
    let options = Options { n_threads, hash_files: true, progress: &advance, cancel: None };
    let source = &opened.source;
    let written =
        write_files(source, &inputs, &outputs, &files, &container, dir.path(), &options).unwrap();
    assert_eq!(written.index, None);
    let total: u64 = written.tensors.iter().map(|tensor| tensor.len).sum();
    assert!(progress.into_inner() >= total);
    let mut all = Vec::new();
    for file in &written.files {
        let bytes = std::fs::read(dir.path().join(&file.name)).unwrap();
        assert_eq!(bytes.len() as u64, file.len);
        assert_eq!(file.sha256, Some(Sha256::digest(&bytes).into()));
        all.push(bytes);
    }
    let back = folder::open(dir.path()).unwrap();
    assert_eq!(back.checkpoint.typed_metadata, *metadata);
    assert_eq!(back.checkpoint.tensors.len(), tensors.len());
    for ((old, new), written) in tensors.iter().zip(&back.checkpoint.tensors).zip(&written.tensors)
    {
        assert_eq!((&old.name, old.dtype, &old.shape), (&new.name, new.dtype, &new.shape));
        assert_eq!(old.encoding, new.encoding);
        let bytes = gathered(&back.source, new);
        assert_eq!(gathered(&opened.source, old), bytes, "{}", old.name);
        assert_eq!(written.sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));
        let Payload::Range(extent) = &new.payload else { panic!("{new:?}") };
        assert_eq!((extent.start, extent.len), (written.offset, written.len));
    }
    (all, back)
}

#[test]
fn what_is_written_is_what_was_read() {
    // The writers of these made the same bytes.
    for name in ["kinds.gguf", "t.gguf", "types.gguf"] {
        for n_threads in [1, 3] {
            let (files, _) = round_trip(&fixture(name), None, n_threads);
            assert_eq!(files.len(), 1);
            assert!(files[0] == std::fs::read(fixture(name)).unwrap(), "{name}");
        }
    }
    round_trip(&fixture("be.gguf"), None, 2);
    let (files, _) = round_trip(&fixture("sp-00002-of-00002.gguf"), Some(1), 2);
    let part = |number: u64| std::fs::read(fixture(&split::part_name("sp", number, 2))).unwrap();
    assert!(files == [part(1), part(2)]);
    let (files, back) = round_trip(&fixture("types.gguf"), Some(600), 3);
    assert!(3 < files.len());
    assert_eq!(back.weights.len(), files.len());
}

#[test]
fn large_tensors_pass_the_writer_in_pieces_with_their_padding() {
    let dir = tempfile::tempdir().unwrap();
    let mut draft = Draft::new(3, 3, 1);
    draft.text(ALIGNMENT_KEY).put(4u32).put(4096u32);
    // Borrowed from the map; made in buffers; one of a single byte.
    let (big, small) = (5_000_001u64, 77u64);
    let after = big.next_multiple_of(4096);
    draft.tensor("big", &[big], 24, 0).tensor("small", &[small], 24, after);
    draft.tensor("one", &[1], 24, after + 4096);
    let start = draft.bytes.len().next_multiple_of(4096);
    draft.bytes.resize(start, 0);
    for index in 0..big {
        draft.bytes.push(((index * 7) >> 3) as u8);
    }
    draft.bytes.resize(start + after as usize, 0);
    draft.bytes.extend([5; 77]);
    draft.bytes.resize(start + after as usize + 4096, 0);
    draft.bytes.push(9);
    draft.bytes.resize(start + after as usize + 8192, 0);
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, &draft.bytes).unwrap();
    for n_threads in [1, 4] {
        let (files, _) = round_trip(&path, None, n_threads);
        assert!(files[0] == draft.bytes, "{n_threads} threads");
    }
}

#[test]
fn what_readers_refuse_is_not_written() {
    let f32 = TYPES.by_number(0).unwrap();
    let q8 = TYPES.by_number(8).unwrap();
    let none = Metadata::default();
    let refuse = |name: &str, kind, shape: &[u64], words: &str| {
        let entry = write::Entry { name, kind, shape };
        let err = write::header(&none, &[entry]).unwrap_err();
        assert!(err.message().contains(words), "{err}");
    };
    refuse(&"n".repeat(64), f32, &[1], "at most 63 bytes");
    refuse("a", f32, &[1; 5], "at most 4 axes");
    refuse("a", f32, &[0], "no dimension is 0");
    refuse("a", q8, &[2, 31], "no multiple");
    let mut metadata = Metadata::default();
    metadata.set("", Value::U8(0));
    assert!(write::header(&metadata, &[]).is_err());
    let mut metadata = Metadata::default();
    metadata.set(ALIGNMENT_KEY, Value::U32(12));
    assert!(write::header(&metadata, &[]).is_err());
    assert!(write::part_metadata(&none, 0, 70_000, 1).is_err());
    assert!(write::part_metadata(&none, 0, 2, usize::MAX).is_err());
}

/// Opens a folder of these files; what came of it.
fn open_parts(files: &[(&str, &[u8])], open: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    match folder::open(&dir.path().join(open)) {
        Ok(opened) => format!("{:?}", opened.weights),
        Err(err) => err.to_string(),
    }
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let first = std::fs::read(fixture("sp-00001-of-00002.gguf")).unwrap();
    let second = std::fs::read(fixture("sp-00002-of-00002.gguf")).unwrap();
    let patch = |bytes: &[u8], key: &str, value: u8| {
        let mut bytes = bytes.to_vec();
        let at = bytes.windows(key.len()).position(|window| window == key.as_bytes()).unwrap();
        bytes[at + key.len() + 4] = value;
        bytes
    };
    let (one, two) = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf");
    let both = format!("[{one:?}, {two:?}]");
    for open in ["", one, two] {
        assert_eq!(open_parts(&[(one, &first), (two, &second)], open), both);
    }
    let check = |files: &[(&str, &[u8])], open: &str, words: &str| {
        let text = open_parts(files, open);
        assert!(text.contains(words), "{text}");
    };
    check(&[(one, &first)], one, "the part `m-00002-of-00002.gguf`");
    check(&[(one, &first)], "", "shard 2 of 2 is missing");
    check(&[("m.gguf", &first)], "m.gguf", "does not end in the way");
    check(&[("m.gguf", &first)], "", "says 2 parts in `split.count`, here are 1");
    check(&[(one, &second), (two, &first)], one, "is part 2 of 2 by its keys");
    check(&[(one, &second), (two, &first)], "", "is part 1 by its name, part 2 by its keys");
    check(&[(one, &first), (two, &first)], one, "is part 2 by its name, part 1 by its keys");
    let lie = patch(&first, "split.count", 3);
    check(&[(one, &lie), (two, &second)], "", "says 3 parts in `split.count`, here are 2");
    let total = patch(&second, "split.tensors.count", 3);
    check(&[(one, &first), (two, &total)], one, "the parts are of different models");
    let both_lie = patch(&first, "split.tensors.count", 3);
    check(&[(one, &both_lie), (two, &total)], one, "have 2 tensors together");
    let mut same = second.clone();
    let at = same.windows(2).position(|window| window == b"b\x01").unwrap();
    same[at] = b'a';
    check(&[(one, &first), (two, &same)], one, "has the tensor `a`, as has");
    let plain = std::fs::read(fixture("t.gguf")).unwrap();
    check(&[(one, &first), (two, &plain)], one, "says no count of parts");
}
