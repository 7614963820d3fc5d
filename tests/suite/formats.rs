//! Files of other formats read to what their own libraries read, and damaged ones are refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use llmstd::base::hex;
use llmstd::checkpoint::{Checkpoint, DType, Payload, Tensor};
use llmstd::exec::digest::digest;
use llmstd::folder::{self, Opened};
use llmstd::format::{self, FORMATS};
use llmstd::plan::whole::whole;

use crate::folders::copy;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats")
}

/// What there is to say of a tensor, as `golden.py` says it.
fn line(opened: &Opened, tensor: &Tensor) -> String {
    let name = &tensor.name;
    let digest = whole(tensor, 0)
        .and_then(|(inputs, output)| digest(&opened.source, &inputs, &output))
        .map(|digest| hex::encode(&digest));
    match digest {
        Ok(digest) if tensor.dtype != DType::Unknown => {
            let dims: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
            format!("{name} {} [{}] {digest}", tensor.dtype, dims.join(","))
        }
        _ => format!("{name} unreadable"),
    }
}

fn check_golden(format: &str) {
    let text = fs::read_to_string(fixtures().join(format!("golden_{format}.txt"))).unwrap();
    let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in text.lines() {
        let (file, rest) = line.split_once(' ').unwrap();
        wanted.entry(file).or_default().push(rest);
    }
    assert!(!wanted.is_empty(), "{format}");
    for (file, mut lines) in wanted {
        let opened = folder::open(&fixtures().join(file)).unwrap();
        let tensors = opened.checkpoint.tensors.iter();
        let mut found: Vec<String> = tensors.map(|tensor| line(&opened, tensor)).collect();
        found.sort();
        lines.sort_unstable();
        assert_eq!(found, lines, "{file}");
    }
}

#[test]
fn numpy_files_read_as_numpy_reads_them() {
    check_golden("numpy");
}

#[test]
fn flax_files_read_as_flax_reads_them() {
    check_golden("flax");
}

#[test]
fn tensorflow_checkpoints_read_as_tensorflow_reads_them() {
    check_golden("tf");
    check_golden("tf1");
}

#[test]
fn hdf5_files_of_every_age_read_as_h5py_reads_them() {
    check_golden("keras");
}

#[test]
fn graphs_read_as_onnx_reads_them() {
    check_golden("onnx");
}

#[test]
fn archives_of_keras_read_as_keras_reads_them() {
    check_golden("keras_archive");
}

#[test]
fn arrays_of_zarr_read_as_tensorstore_reads_them() {
    check_golden("orbax");
}

#[test]
fn paddle_and_ctranslate2_files_read_as_they_were_written() {
    check_golden("paddle");
    check_golden("ctranslate2");
}

#[test]
fn what_torch_wrote_in_other_containers_reads_as_torch_reads_it() {
    check_golden("torch");
}

#[test]
fn constants_of_tensorflow_lite_read_as_its_interpreter_has_them() {
    check_golden("tflite");
    let opened = folder::open(&fixtures().join("tflite/int8.tflite")).unwrap();
    assert_eq!(opened.checkpoint.findings[0].rule, "R035");
    let told = &opened.checkpoint.metadata["signature.graph"];
    assert!(told.contains("x:0 F32 [?,40] -> ") && told.ends_with("F32 [?,30]"), "{told}");
}

/// Each has a line of words that are said of it; `hazards.py` makes them.
#[test]
fn hazards_are_refused_or_told() {
    let home = fixtures().parent().unwrap().join("hostile");
    let lines = fs::read_to_string(home.join("hazards.txt")).unwrap();
    for line in lines.lines() {
        let (path, words) = line.split_once(' ').unwrap();
        let told = match folder::open(&home.join("hazards").join(path)) {
            Err(err) => vec![err.to_string()],
            Ok(opened) => {
                let tensors = opened.checkpoint.tensors.iter();
                let unreadable = tensors.filter_map(|tensor| match &tensor.payload {
                    Payload::Unreadable(why) => Some(why.clone()),
                    _ => None,
                });
                let found = opened.checkpoint.findings.iter().map(|of| of.message.clone());
                unreadable.chain(found).collect()
            }
        };
        assert!(told.iter().any(|text| text.contains(words)), "{path}: {told:?}");
    }
    assert!(20 < lines.lines().count());
}

#[test]
fn groups_that_lie_in_themselves_and_files_that_end_early_are_refused() {
    let whole = fs::read(fixtures().join("keras/old.h5")).unwrap();
    let refused = |bytes: &[u8]| {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("x.h5"), bytes).unwrap();
        folder::open(&scratch.path().join("x.h5")).err().unwrap().message().to_owned()
    };
    let root: [u8; 8] = whole[64..72].try_into().unwrap();
    let mut looped = whole.clone();
    for at in (0..whole.len() - 24).filter(|&at| whole[at..].starts_with(b"SNOD")) {
        looped[at + 16..at + 24].copy_from_slice(&root);
    }
    let err = refused(&looped);
    assert!(err.ends_with("lies in itself"), "{err}");
    // A tree of names whose child is itself.
    let mut looped = whole.clone();
    let tree = (0..whole.len()).find(|&at| whole[at..].starts_with(b"TREE\0")).unwrap();
    looped[tree + 32..tree + 40].copy_from_slice(&(tree as u64).to_le_bytes());
    let err = refused(&looped);
    assert!(err.contains("a tree of names that leads into itself"), "{err}");
    let err = refused(&whole[..whole.len() - 1]);
    assert!(err.contains("says that it has"), "{err}");
}

#[test]
fn a_saved_model_is_found_in_its_folder() {
    let opened = folder::open(&fixtures().join("tf/saved")).unwrap();
    let files = ["variables/variables.index", "variables/variables.data-00000-of-00001"];
    assert_eq!(opened.weights, files);
    assert_eq!(opened.checkpoint.tensors.len(), 5);
    // The graph beside them is no file of weights; its functions are told.
    let signature = &opened.checkpoint.signatures[0];
    assert_eq!(signature.name, "serving_default");
    assert_eq!(opened.checkpoint.metadata["signature.serving_default"], signature.to_string());
}

/// Without the objects the variables would have other names, and the model would be none that is known.
#[test]
fn a_file_of_elements_that_was_cut_is_told_of() {
    let scratch = tempfile::tempdir().unwrap();
    let (index, data) = ("ckpt-1.index", "ckpt-1.data-00000-of-00001");
    let from = fixtures().join("tf/slots");
    fs::copy(from.join(index), scratch.path().join(index)).unwrap();
    let whole = fs::read(from.join(data)).unwrap();
    fs::write(scratch.path().join(data), &whole[..whole.len() - 1]).unwrap();
    let err = folder::open(scratch.path()).err().unwrap();
    assert!(err.to_string().contains("that file was cut"), "{err}");
}

#[test]
fn arrays_of_objects_are_refused_by_name() {
    let opened = folder::open(&fixtures().join("numpy/o.npy")).unwrap();
    let err = whole(&opened.checkpoint.tensors[0], 0).unwrap_err();
    assert!(err.message().contains("a pickle, which is never run here"), "{err}");
}

#[test]
fn a_folder_of_several_formats_is_read_as_the_first_or_the_wanted_one() {
    let scratch = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| {
        fs::copy(fixtures().join(from), scratch.path().join(to)).unwrap();
    };
    copy("flax/chunk.msgpack", "flax_model.msgpack");
    copy("numpy/stored.npz", "weights.npz");
    let opened = folder::open(scratch.path()).unwrap();
    assert_eq!(opened.checkpoint.format, "flax");
    let told = opened.checkpoint.findings.iter().find(|finding| finding.rule == "R014").unwrap();
    assert!(told.message.contains("NumPy (weights.npz)"), "{}", told.message);
    let opened =
        folder::open_with(scratch.path(), format::find("numpy"), folder::Links::Follow).unwrap();
    assert_eq!(opened.checkpoint.format, "numpy");
    let err = folder::open_with(scratch.path(), format::find("gguf"), folder::Links::Follow)
        .err()
        .unwrap();
    assert!(err.message().starts_with("has no weights: no .gguf file"), "{err}");
}

#[test]
fn every_format_has_an_id_and_endings_of_its_own() {
    let ends: Vec<&str> = FORMATS.iter().flat_map(|format| format.endings).copied().collect();
    for format in FORMATS {
        assert!(std::ptr::eq(format::find(format.id).unwrap(), *format));
        // One that whole folders are of has no files that are told by their endings.
        assert!(!format.name.is_empty());
        assert!(
            !format.endings.is_empty() || ["megatron", "meta", "nemo", "t5x"].contains(&format.id)
        );
        assert!(format.singles.iter().all(|name| {
            !name.contains('.')
                || format.endings.iter().any(|end| name.ends_with(&format!(".{end}")))
        }));
    }
    // An ending of two formats is that of the first; the bytes tell the second.
    let mut shared: Vec<&str> = ends.clone();
    shared.sort_unstable();
    let shared = shared.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
    assert_eq!(shared.collect::<Vec<_>>(), ["bin", "ckpt"]);
}

/// Reads every tensor of a file that may be damaged: it must end, in values or in an error.
fn read_all(folder: &Path, file: &str) -> Option<Checkpoint> {
    // A graph is read beside the weights of its folder.
    let is_graph = file == "saved_model.pb";
    let opened =
        folder::open(&if is_graph { folder.to_owned() } else { folder.join(file) }).ok()?;
    for tensor in &opened.checkpoint.tensors {
        let small = tensor.n_bytes().is_some_and(|n| n < 1 << 24);
        let read = whole(tensor, 0).ok().filter(|_| small);
        let _ = read.map(|(inputs, output)| digest(&opened.source, &inputs, &output));
    }
    Some(opened.checkpoint)
}

#[test]
fn damaged_files_are_refused_or_read_and_never_stop_the_program() {
    let mut numbers = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |n: usize| {
        numbers ^= numbers << 13;
        numbers ^= numbers >> 7;
        numbers ^= numbers << 17;
        (numbers % n.max(1) as u64) as usize
    };
    for (folder, file) in [
        ("numpy", "orders.npz"),
        ("numpy", "cube.npy"),
        ("flax", "flax_model.msgpack"),
        ("flax", "chunk.msgpack"),
        ("keras", "old.h5"),
        ("keras", "new.h5"),
        ("tf/v2", "bert_model.ckpt.index"),
        ("tf/obj", "ckpt-1.index"),
        ("tf/slots", "ckpt-1.index"),
        ("tf/saved", "saved_model.pb"),
        ("tf1", "model.ckpt"),
        ("onnx", "dtypes.onnx"),
        ("keras_archive", "packed.keras"),
        ("orbax/odd", "manifest.ocdbt"),
        ("orbax/plain_z3", "_METADATA"),
        ("paddle", "p2.pdparams"),
        ("paddle", "inf.pdiparams"),
        ("ctranslate2/tiny", "model.bin"),
        ("onnx", "beside.onnx"),
        ("names/albert/onnx", "model.onnx"),
        ("keras", "dense.h5"),
        ("torch", "old.pt"),
        ("torch", "program.pt2"),
        ("tflite", "int8.tflite"),
        ("names/t5/t5x/checkpoint_1000", "checkpoint"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        copy(&fixtures().join(folder), scratch.path());
        let path = scratch.path().join(file);
        let good = fs::read(&path).unwrap();
        assert!(read_all(scratch.path(), file).is_some(), "{file}");
        for round in 0..400 {
            let mut bytes = good.clone();
            match round % 4 {
                0 => bytes.truncate(next(good.len())),
                1 => bytes[next(good.len())] ^= 1 << next(8),
                2 => bytes[next(good.len())] = [0, 0x7f, 0x80, 0xff][next(4)],
                _ => {
                    let at = next(good.len());
                    bytes.insert(at, next(256) as u8);
                }
            }
            fs::write(&path, bytes).unwrap();
            let _ = read_all(scratch.path(), file);
        }
    }
}

#[test]
fn elements_of_another_folder_are_not_read() {
    // An index names no file: its own name does, which stays in its folder. Without the elements
    // beside it, it is refused.
    let scratch = tempfile::tempdir().unwrap();
    fs::copy(fixtures().join("tf/v2/bert_model.ckpt.index"), scratch.path().join("x.index"))
        .unwrap();
    let err = folder::open(scratch.path()).err().unwrap();
    assert!(err.message().contains("x.data-00000-of-00001"), "{err}");
}

#[test]
fn what_is_easily_taken_for_something_else_is_not() {
    let opened = folder::open(&fixtures().join("odd.h5")).unwrap();
    let why =
        |name: &str| match &opened.checkpoint.tensors.iter().find(|tensor| tensor.name == name) {
            Some(Tensor { payload: Payload::Unreadable(why), .. }) => why.as_str(),
            other => panic!("{name}: {other:?}"),
        };
    assert!(why("bias").starts_with("its numbers of 32 bits have 8 of exponent (bias 100)"));
    assert_eq!(why("narrow"), "its integers are 16 bits of 32 from 8 on");
    assert_eq!(why("words"), "its elements are words of a list");
    assert_eq!(why("external"), "is a link into another file");
    let told: Vec<(&str, &str)> = opened
        .checkpoint
        .findings
        .iter()
        .map(|finding| (finding.rule, finding.message.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("R014", "`soft` is a link to another name, and is left aside"),
            (
                "R030",
                "the file says of the elements of `opaque` that they have two bytes, and no more"
            ),
        ]
    );
}

#[test]
fn arrays_behind_the_first_and_members_without_their_ending_are_told_of() {
    let scratch = tempfile::tempdir().unwrap();
    let one = fs::read(fixtures().join("numpy/cube.npy")).unwrap();
    let two = scratch.path().join("two.npy");
    fs::write(&two, [one.as_slice(), &one].concat()).unwrap();
    let findings = folder::open(&two).unwrap().checkpoint.findings;
    assert_eq!(findings[0].rule, "R008");
    assert!(
        findings[0].message.ends_with("bytes follow the array `two`, and NumPy reads it alone")
    );

    let path = fixtures().join("members.npz");
    let checkpoint = folder::open(&path).unwrap().checkpoint;
    let names: Vec<&str> = checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(checkpoint.findings[0].message, "`notes.txt` is no array, and is left aside");
}
