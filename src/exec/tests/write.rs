//! Files that are written, their hashes, and what ends the work.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::staging::names;
use super::{Numbers, all, source};
use crate::base::error::ErrorKind;
use crate::base::source::Source;
use crate::checkpoint::{DType, Payload, Tensor, n_elements};
use crate::exec::container::{Container, Safetensors};
use crate::exec::digest::{Side, digest, digests, digests_and_files, digests_of_two};
use crate::exec::hash::{Hash, update_both};
use crate::exec::staging::{Existing, Staging};
use crate::exec::write::{Options, Shard, Written, shards, write};
use crate::plan::program::{Content, Dim, Input, Kernel, Make, Output, Program, Recipe};
use crate::plan::whole::whole;

/// Outputs of every kind, some longer than a chunk, some empty, many small.
fn model(numbers: &mut Numbers) -> (Source, Vec<Input>, Vec<Output>) {
    let bytes = numbers.bytes(12 << 20);
    let (source, extent) = source(&bytes);
    let mut inputs = Vec::new();
    let mut outputs = Vec::new();
    let mut add = |name: &str, dtype: DType, shape: &[u64], start: u64| {
        let n_bytes = n_elements(shape).and_then(|n| dtype.n_bytes(n)).expect("small");
        let payload = Payload::Range(extent.part(start, start + n_bytes).expect("inside"));
        let tensor =
            Tensor { name: name.into(), dtype, shape: shape.to_vec(), encoding: None, payload };
        let (read, output) = whole(&tensor, inputs.len()).expect("sound");
        inputs.extend(read);
        outputs.push(output);
    };
    add("embed", DType::BF16, &[5000, 1024 / 2], 3);
    for i in 0..60 {
        add(&format!("layers.{i}.norm"), DType::F32, &[i % 7, 33], i * 1000);
        if i % 20 == 0 {
            add(&format!("layers.{i}.w"), DType::F16, &[300, 200 + i], i * 777);
        }
    }
    add("transposed", DType::F32, &[1024, 1500], 17);
    add("cast", DType::F32, &[1200, 1000], 91);
    add("wide", DType::BF16, &[900, 1000], 4);
    add("byte", DType::U8, &[], 9);
    add("nothing", DType::F32, &[0], 9);
    let edit = |outputs: &mut Vec<Output>, name: &str, f: &dyn Fn(&mut Output, &mut Program)| {
        let output = outputs.iter_mut().find(|output| output.name == name).expect("added");
        let Content::Gather(mut program) = output.content.clone() else { panic!("a gather") };
        f(output, &mut program);
        output.content = Content::Gather(program);
    };
    edit(&mut outputs, "transposed", &|output, program| {
        output.shape = vec![1500, 1024];
        program.copies[0].dims = vec![
            Dim { len: 1500, input_stride: 1, output_stride: 1024 },
            Dim { len: 1024, input_stride: 1500, output_stride: 1 },
        ];
    });
    edit(&mut outputs, "cast", &|output, program| {
        output.dtype = DType::BF16;
        program.kernels = vec![Kernel::Cast(DType::BF16)];
    });
    edit(&mut outputs, "wide", &|output, program| {
        output.dtype = DType::F64;
        program.kernels = vec![Kernel::Add(1.0), Kernel::Cast(DType::F64)];
    });
    let made = Make {
        dtype: DType::Bool,
        shape: vec![700, 700],
        recipe: Recipe::CausalMask { window: None },
    };
    let (dtype, shape) = (made.dtype, made.shape.clone());
    let content = Content::Make(Box::new(made));
    outputs.insert(1, Output { name: "mask \"é\"".into(), dtype, shape, content });
    (source, inputs, outputs)
}

fn write_model(
    (source, inputs, outputs): &(Source, Vec<Input>, Vec<Output>),
    shards: &[Shard],
    n_threads: usize,
    hash_files: bool,
    dir: &Path,
) -> Written {
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let options = Options { n_threads, hash_files, progress: &|_| (), cancel: None };
    write(source, inputs, outputs, shards, &Safetensors(&metadata), dir, &options)
        .expect("a sound plan")
}

#[test]
fn headers_that_are_too_long_to_keep_are_made_again() {
    let (source, inputs, outputs) = &model(&mut Numbers(7));
    let shards = shards(outputs, Some(1 << 20), "model", "safetensors");
    assert!(2 < shards.len());
    // Two of these pass what is kept.
    let metadata = BTreeMap::from([("long".to_owned(), "x".repeat(5 << 20))]);
    let container = Safetensors(&metadata);
    for n_threads in [1, 3] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { n_threads, hash_files: true, progress: &|_| (), cancel: None };
        let written = write(source, inputs, outputs, &shards, &container, dir.path(), &options);
        for (number, file) in written.expect("a sound plan").files.iter().enumerate() {
            let bytes = std::fs::read(dir.path().join(&file.name)).unwrap();
            let header = container.frame(outputs, &shards, number).unwrap().header;
            assert!(bytes.starts_with(&header), "{}", file.name);
            assert_eq!(file.len, bytes.len() as u64);
            assert_eq!(file.sha256, Some(Sha256::digest(&bytes).into()));
        }
    }
}

#[test]
fn files_are_what_the_reference_reader_reads_at_any_thread_count() {
    let model = model(&mut Numbers(99));
    let (source, inputs, outputs) = &model;
    let expected = digests(source, inputs, outputs, 3, &|_| ()).expect("sound");
    for (output, expected) in outputs.iter().zip(&expected) {
        assert_eq!(&digest(source, inputs, output).unwrap(), expected);
        let bytes = all(source, inputs, output).expect("sound");
        assert_eq!(<[u8; 32]>::from(Sha256::digest(&bytes)), *expected, "{}", output.name);
    }
    for max_shard_bytes in [None, Some(7 << 20), Some(1)] {
        let shards = shards(outputs, max_shard_bytes, "model", "safetensors");
        let mut first: Option<(Written, Vec<Vec<u8>>)> = None;
        for n_threads in [1, 2, 7] {
            let dir = tempfile::tempdir().unwrap();
            let written = write_model(&model, &shards, n_threads, true, dir.path());
            let read = |file: &crate::exec::write::WrittenFile| {
                std::fs::read(dir.path().join(&file.name)).unwrap()
            };
            let files: Vec<Vec<u8>> = written.files.iter().map(read).collect();
            match &first {
                None => first = Some((written, files)),
                Some(first) => assert!(*first == (written, files), "{n_threads} threads"),
            }
        }
        let (written, files) = first.expect("written");
        for (file, bytes) in written.files.iter().zip(&files) {
            assert_eq!(file.len, bytes.len() as u64);
            assert_eq!(file.sha256, Some(Sha256::digest(bytes).into()));
            let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) + 8;
            assert_eq!(header_len % 64, 0);
        }
        for ((output, written), expected) in outputs.iter().zip(&written.tensors).zip(&expected) {
            let bytes = &files[written.file];
            let tensors = safetensors::SafeTensors::deserialize(bytes).expect("a sound file");
            let tensor = tensors.tensor(&output.name).expect("it is there");
            assert_eq!(tensor.dtype().to_string(), output.dtype.name());
            let shape: Vec<u64> = tensor.shape().iter().map(|&dim| dim as u64).collect();
            assert_eq!(shape, output.shape);
            assert_eq!(&<[u8; 32]>::from(Sha256::digest(tensor.data())), expected);
            assert_eq!(&written.sha256, expected);
            let range = written.offset as usize..(written.offset + written.len) as usize;
            assert_eq!(&bytes[range], tensor.data());
            let has_kernels =
                matches!(&output.content, Content::Gather(program) if !program.kernels.is_empty());
            assert_eq!(
                written.loss.as_ref().map(|loss| loss.elements),
                has_kernels.then(|| { n_elements(&output.shape).unwrap() })
            );
        }
    }
}

#[test]
fn two_hashes_side_by_side_are_those_of_sha2() {
    let mut numbers = Numbers(17);
    let bytes = numbers.bytes(5000);
    for case in 0..400 {
        let (mut a, mut b) = (Hash::default(), Hash::default());
        let start = numbers.below(140) as usize & if case % 3 == 0 { 64 } else { 255 };
        a.update(&bytes[..start]);
        let mut at = start;
        let end = start + numbers.below(if case % 2 == 0 { 300 } else { 4800 }) as usize;
        while at < end {
            let next = end.min(at + 1 + numbers.below(700) as usize);
            update_both(&mut a, &mut b, &bytes[at..next]);
            at = next;
        }
        assert_eq!(a.finish(), <[u8; 32]>::from(Sha256::digest(&bytes[..end])));
        assert_eq!(b.finish(), <[u8; 32]>::from(Sha256::digest(&bytes[start..end])));
        assert_eq!(a.finish(), <[u8; 32]>::from(Sha256::digest([])));
    }
}

#[test]
fn files_are_not_hashed_unless_asked() {
    let model = model(&mut Numbers(5));
    let dir = tempfile::tempdir().unwrap();
    let shards = shards(&model.2, None, "model", "safetensors");
    let written = write_model(&model, &shards, 2, false, dir.path());
    assert_eq!(written.files[0].sha256, None);
    assert_eq!(written.index, None);
}

#[test]
fn every_dtype_has_the_name_that_safetensors_gives_it() {
    let (source, extent) = source(&[0; 128]);
    for &dtype in DType::ALL {
        let named = !matches!(dtype, DType::C128 | DType::Unknown);
        let payload = Payload::Range(extent.part(0, dtype.bits()).expect("inside"));
        let tensor = Tensor { name: "t".into(), dtype, shape: vec![8], encoding: None, payload };
        let (inputs, output) = whole(&tensor, 0).expect("sound");
        let dir = tempfile::tempdir().unwrap();
        let options = Options { n_threads: 1, hash_files: false, progress: &|_| (), cancel: None };
        let outputs = [output];
        let shards = shards(&outputs, None, "model", "safetensors");
        let metadata = BTreeMap::new();
        let written = write(
            &source,
            &inputs,
            &outputs,
            &shards,
            &Safetensors(&metadata),
            dir.path(),
            &options,
        );
        assert_eq!(written.is_ok(), named, "{dtype}");
        if written.is_ok() {
            let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
            let read = safetensors::SafeTensors::deserialize(&bytes);
            assert!(read.is_ok(), "{dtype}: {:?}", read.err());
        }
    }
}

#[test]
fn shards_split_between_tensors() {
    let output = |name: &str, len: u64| {
        let recipe = Recipe::Constant(0.0);
        let make = Make { dtype: DType::U8, shape: vec![len], recipe };
        let content = Content::Make(Box::new(make));
        Output { name: name.into(), dtype: DType::U8, shape: vec![len], content }
    };
    let outputs = [output("a", 4), output("b", 6), output("c", 11), output("d", 1), output("e", 9)];
    let ranges = |max: Option<u64>| {
        let shards = shards(&outputs, max, "model", "safetensors");
        shards.into_iter().map(|shard| (shard.name, shard.outputs)).collect::<Vec<_>>()
    };
    assert_eq!(ranges(None), [("model.safetensors".to_owned(), 0..5)]);
    let expected = [
        ("model-00001-of-00003.safetensors".to_owned(), 0..2),
        ("model-00002-of-00003.safetensors".to_owned(), 2..3),
        ("model-00003-of-00003.safetensors".to_owned(), 3..5),
    ];
    assert_eq!(ranges(Some(10)), expected);
    assert_eq!(shards(&[], Some(10), "model", "safetensors").len(), 1);

    let (source, _) = source(&[0]);
    let dir = tempfile::tempdir().unwrap();
    let model = (source, Vec::new(), outputs.to_vec());
    let shards = shards(&outputs, Some(10), "model", "safetensors");
    let index = write_model(&model, &shards, 2, true, dir.path()).index.expect("three shards");
    let expected = r#"{
  "metadata": {
    "total_size": 31
  },
  "weight_map": {
    "a": "model-00001-of-00003.safetensors",
    "b": "model-00001-of-00003.safetensors",
    "c": "model-00002-of-00003.safetensors",
    "d": "model-00003-of-00003.safetensors",
    "e": "model-00003-of-00003.safetensors"
  }
}
"#;
    assert_eq!(index, expected);
}

#[test]
fn an_error_leaves_nothing_behind() {
    let model = model(&mut Numbers(11));
    let (source, inputs, outputs) = &model;
    let dir = tempfile::tempdir().unwrap();
    for n_threads in [1, 2, 7] {
        let staging = Staging::new(&dir.path().join("out"), Existing::Keep).unwrap();
        let shards = shards(outputs, Some(3 << 20), "model", "safetensors");
        // The last file cannot be created.
        std::fs::create_dir(staging.path().join(&shards.last().unwrap().name)).unwrap();
        let options = Options { n_threads, hash_files: true, progress: &|_| (), cancel: None };
        let metadata = BTreeMap::new();
        let result = write(
            source,
            inputs,
            outputs,
            &shards,
            &Safetensors(&metadata),
            staging.path(),
            &options,
        );
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Io);
        drop(staging);
        assert_eq!(names(dir.path()), [""; 0]);
    }
}

#[test]
fn a_panic_in_one_thread_ends_all() {
    let (source, inputs, outputs) = model(&mut Numbers(13));
    for n_threads in [1, 2, 7] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            n_threads,
            hash_files: true,
            progress: &|_| panic!("as it should"),
            cancel: None,
        };
        let shards = shards(&outputs, Some(5 << 20), "model", "safetensors");
        let metadata = BTreeMap::new();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            write(
                &source,
                &inputs,
                &outputs,
                &shards,
                &Safetensors(&metadata),
                dir.path(),
                &options,
            )
        }));
        assert!(result.is_err());
    }
}

#[test]
fn progress_counts_the_bytes_of_all_tensors() {
    let (source, inputs, outputs) = model(&mut Numbers(12));
    let n_bytes: u64 = outputs.iter().map(Output::n_bytes).sum();
    let dir = tempfile::tempdir().unwrap();
    let seen = std::sync::atomic::AtomicU64::new(0);
    let progress = |n| _ = seen.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
    let options = Options { n_threads: 3, hash_files: false, progress: &progress, cancel: None };
    let shards = shards(&outputs, Some(5 << 20), "model", "safetensors");
    write(
        &source,
        &inputs,
        &outputs,
        &shards,
        &Safetensors(&BTreeMap::new()),
        dir.path(),
        &options,
    )
    .unwrap();
    assert_eq!(seen.into_inner(), n_bytes);
}

#[test]
fn pairs_are_hashed_once_and_others_by_themselves() {
    let (one, other) = (model(&mut Numbers(99)), model(&mut Numbers(98)));
    let alone = |(source, inputs, outputs): &(Source, Vec<Input>, Vec<Output>)| {
        digests(source, inputs, outputs, 2, &|_| ()).expect("sound")
    };
    fn side<'a>((source, inputs, outputs): &'a (Source, Vec<Input>, Vec<Output>)) -> Side<'a> {
        Side { source, inputs, outputs }
    }
    let expected = [alone(&one), alone(&other)];
    let n = one.2.len();
    // Each with itself, the last with the first: what is alike, and what is not.
    let same = (0..n).map(|at| [at, at]).collect::<Vec<_>>();
    let turned = (0..n).map(|at| [at, n - 1 - at]).collect::<Vec<_>>();
    let across = (0..n.min(other.2.len())).map(|at| [at, at]).collect::<Vec<_>>();
    for pairs in [&same, &turned] {
        let [left, right] = digests_of_two(&side(&one), &side(&one), pairs, 3, &|_| ()).unwrap();
        assert_eq!((&left, &right), (&expected[0], &expected[0]));
    }
    let found = digests_of_two(&side(&one), &side(&other), &across, 1, &|_| ());
    assert_eq!(found.unwrap(), expected);
    assert_ne!(expected[0], expected[1]);
}

#[test]
fn files_are_hashed_beside_tensors() {
    let (source, inputs, outputs) = model(&mut Numbers(7));
    let files: Vec<_> = source.files().collect();
    let [tensors, of_files] =
        digests_and_files(&source, &inputs, &outputs, &files, 3, &|_| ()).expect("sound");
    assert_eq!(tensors, digests(&source, &inputs, &outputs, 1, &|_| ()).expect("sound"));
    for (file, digest) in files.into_iter().zip(of_files) {
        assert_eq!(digest, <[u8; 32]>::from(Sha256::digest(source.bytes(file))));
    }
}
