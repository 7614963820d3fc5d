//! Files that lie: about lengths, places, counts and depth. Each is refused with what is wrong, and none
//! takes memory that its bytes do not justify.

use std::fs;
use std::path::Path;

use llmstd::checkpoint::{Checkpoint, Payload};
use llmstd::folder;
use llmstd::plan::whole::whole;

/// Writes files into a folder, and opens the first of them.
fn open(files: &[(&str, Vec<u8>)]) -> Result<Checkpoint, String> {
    let scratch = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = scratch.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    open_file(&scratch.path().join(files[0].0))
}

fn open_file(path: &Path) -> Result<Checkpoint, String> {
    let opened = folder::open(path).map_err(|err| err.to_string())?;
    Ok(opened.checkpoint)
}

/// Why the first tensor of a checkpoint cannot be read.
fn unreadable(checkpoint: &Checkpoint) -> String {
    match &checkpoint.tensors[0].payload {
        Payload::Unreadable(why) => why.clone(),
        _ => whole(&checkpoint.tensors[0], 0).err().map_or_else(String::new, |err| err.to_string()),
    }
}

/// Messages of protocol buffers.
mod proto {
    pub(super) fn varint(mut n: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while 0x7f < n {
            bytes.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes
    }

    pub(super) fn number(field: u64, n: u64) -> Vec<u8> {
        [varint(field << 3), varint(n)].concat()
    }

    pub(super) fn bytes(field: u64, bytes: &[u8]) -> Vec<u8> {
        [varint(field << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
    }
}

mod onnx {
    use super::proto::{bytes, number};
    use super::*;

    fn model(graph: &[u8]) -> Vec<u8> {
        [number(1, 8), bytes(7, graph)].concat()
    }

    /// A model of one tensor of F32 with these dimensions and fields.
    fn of(dims: &[u64], fields: &[Vec<u8>]) -> Vec<u8> {
        model(&bytes(5, &tensor("w", dims, fields)))
    }

    fn tensor(name: &str, dims: &[u64], fields: &[Vec<u8>]) -> Vec<u8> {
        let dims: Vec<u8> = dims.iter().flat_map(|dim| number(1, *dim)).collect();
        [dims, number(2, 1), bytes(8, name.as_bytes()), fields.concat()].concat()
    }

    fn entry(key: &str, value: &str) -> Vec<u8> {
        bytes(13, &[bytes(1, key.as_bytes()), bytes(2, value.as_bytes())].concat())
    }

    fn beside(location: &str, offset: &str, len: &str) -> Vec<u8> {
        let fields = [
            entry("location", location),
            entry("offset", offset),
            entry("length", len),
            number(14, 1),
        ];
        of(&[2], &fields)
    }

    fn refused(bytes: Vec<u8>) -> String {
        open(&[("in/x.onnx", bytes), ("in/x.data", vec![0; 12]), ("x.data", vec![0; 12])])
            .err()
            .expect("it is refused")
    }

    fn no_values(bytes: Vec<u8>) -> String {
        unreadable(&open(&[("x.onnx", bytes), ("x.data", vec![0; 12])]).unwrap())
    }

    #[test]
    fn elements_beside_a_graph_stay_in_its_folder() {
        for name in ["../x.data", "/etc/hostname", "a/../../x.data", "..\\x.data", "./../x.data"] {
            let err = refused(beside(name, "0", "8"));
            assert!(err.contains("does not stay inside") && err.contains("`w` has its"), "{err}");
        }
        let err = refused(beside("gone.data", "0", "8"));
        assert!(err.contains("`w` has its elements in \"gone.data\""), "{err}");
        assert!(open(&[("x.onnx", beside("./x.data", "4", "8")), ("x.data", vec![0; 12])]).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn elements_behind_a_link_out_of_the_folder_are_not_read() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("in");
        fs::create_dir(&folder).unwrap();
        fs::write(scratch.path().join("secret"), [0; 12]).unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("x.data")).unwrap();
        fs::write(folder.join("x.onnx"), beside("x.data", "0", "8")).unwrap();
        let err = open_file(&folder.join("x.onnx")).err().unwrap();
        assert!(err.contains("that is a link to") && err.contains("secret"), "{err}");
    }

    #[test]
    fn places_beside_a_graph_are_held_against_the_file() {
        let err = refused(beside("x.data", "-4", "8"));
        assert!(err.contains("`offset` of data in another file is \"-4\""), "{err}");
        let why = no_values(beside("x.data", "8", "8"));
        assert_eq!(why, "8 bytes at 8 pass the 12 of \"x.data\"");
        let why = no_values(beside("x.data", &u64::MAX.to_string(), "8"));
        assert!(why.contains("pass the 12 of"), "{why}");
        assert_eq!(no_values(beside("x.data", "0", "4")), "takes 8 bytes, the file has 4");
        let why = no_values(of(&[2], &[number(14, 1)]));
        assert_eq!(why, "says that its elements are in another file, and not in which");
        let both = [entry("location", "x.data"), number(14, 1), bytes(9, &[0; 8])];
        assert_eq!(no_values(of(&[2], &both)), "has its elements in more than one place");
    }

    #[test]
    fn elements_behind_four_gibibytes_are_read() {
        let scratch = tempfile::tempdir().unwrap();
        let start = 5u64 << 30;
        let file = fs::File::create(scratch.path().join("x.data")).unwrap();
        if file.set_len(start + 8).is_err() {
            return;
        }
        fs::write(scratch.path().join("x.onnx"), beside("x.data", &start.to_string(), "8"))
            .unwrap();
        let checkpoint = open_file(&scratch.path().join("x.onnx")).unwrap();
        let Payload::Range(extent) = checkpoint.tensors[0].payload else { panic!() };
        assert_eq!((extent.start, extent.len), (start, 8));
    }

    #[test]
    fn shapes_and_elements_are_held_against_each_other() {
        assert_eq!(no_values(of(&[2], &[bytes(9, &[0; 7])])), "takes 8 bytes, the file has 7");
        assert_eq!(no_values(of(&[2], &[])), "takes 8 bytes, and has none");
        let why = no_values(of(&[1 << 40, 1 << 40], &[]));
        assert!(why.contains("no whole number of bytes below 2^64"), "{why}");
        // An empty axis hides no overflow.
        assert!(!no_values(of(&[0, 1 << 40, 1 << 40], &[])).is_empty());
        assert_eq!(
            no_values(of(&[1 << 50], &[])),
            format!("takes {} bytes, and has none", 4u64 << 50)
        );
        let err = refused(of(&[u64::MAX], &[]));
        assert!(err.contains("a dimension of -1"), "{err}");
        let err = refused(of(&[1; 65], &[]));
        assert!(err.contains("more than 64 dimensions"), "{err}");
        // Numbers of a field that F32 is not in.
        let why = no_values(of(&[2], &[bytes(5, &[1, 1])]));
        assert_eq!(why, "its elements are F32, and it has numbers of the field 5");
        let err = refused(of(&[2], &[number(9, 3)]));
        assert!(err.contains("raw_data that is no bytes"), "{err}");
        let few = [number(1, 1 << 40), number(2, 6), bytes(8, b"w"), bytes(5, &[1, 1])].concat();
        let why = no_values(model(&bytes(5, &few)));
        assert!(why.contains("has fewer numbers than"), "{why}");
    }

    #[test]
    fn graphs_that_cannot_be_are_refused() {
        let twice = [bytes(5, &tensor("w", &[0], &[])), bytes(5, &tensor("w", &[0], &[]))].concat();
        let err = refused(model(&twice));
        assert!(err.contains("two tensors of the graph are named `w`"), "{err}");
        let err = refused([number(1, 8), bytes(2, b"nobody")].concat());
        assert!(err.contains("it has no graph"), "{err}");
        let err = refused([number(1, 8), bytes(7, &[]), bytes(7, &[])].concat());
        assert!(err.contains("has two graphs"), "{err}");
        let mut deep = Vec::new();
        for _ in 0..40 {
            deep = bytes(1, &bytes(5, &bytes(6, &deep)));
        }
        let err = refused(model(&deep));
        assert!(err.contains("more than 16 deep in each other"), "{err}");
        // A length past the end, and one past 64 bits.
        let err = refused(vec![8, 8, 0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(err.contains("takes 4294967295 bytes, 0 are left"), "{err}");
        let err = refused([&[8, 8, 0x3a][..], &[0xff; 11]].concat());
        assert!(err.contains("more than 64 bits"), "{err}");
    }
}

mod ctranslate2 {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u16 + 1).to_le_bytes(), text.as_bytes(), &[0]].concat()
    }

    fn model(rest: &[u8]) -> Vec<u8> {
        [&6u32.to_le_bytes()[..], &text("TinySpec"), &3u32.to_le_bytes(), rest].concat()
    }

    /// A variable of F32.
    fn variable(dims: &[u32], len: u32, bytes: &[u8]) -> Vec<u8> {
        let mut all = [text("w"), vec![dims.len() as u8]].concat();
        all.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
        [&all[..], &[0], &len.to_le_bytes(), bytes].concat()
    }

    fn refused(rest: &[&[u8]]) -> String {
        open(&[("model.bin", model(&rest.concat()))]).err().expect("it is refused")
    }

    #[test]
    fn lengths_and_names_are_held_against_the_file() {
        let one = 1u32.to_le_bytes();
        let none = 0u32.to_le_bytes();
        let good = variable(&[2], 8, &[0; 8]);
        assert!(open(&[("model.bin", model(&[&one[..], &good, &none].concat()))]).is_ok());
        let err = refused(&[&u32::MAX.to_le_bytes()]);
        assert!(err.contains("the name of a variable takes"), "{err}");
        let err = refused(&[&one, &variable(&[2], u32::MAX, &[0; 8])]);
        assert!(err.contains("`w`: the elements takes 4294967295 bytes, 8 are left"), "{err}");
        let err = refused(&[&one, &variable(&[u32::MAX; 16], 8, &[0; 8]), &none]);
        assert!(err.contains("in 8 bytes"), "{err}");
        let err = refused(&[&one, &variable(&[1; 17], 4, &[0; 4]), &none]);
        assert!(err.contains("`w`: 17 dimensions"), "{err}");
        let err = refused(&[&2u32.to_le_bytes(), &good, &good, &none]);
        assert!(err.contains("two variables are named `w`"), "{err}");
        let err = refused(&[&one, &good, &one, &text("x"), &text("gone")]);
        assert!(err.contains("`x` is `gone`, and there is no such variable"), "{err}");
        let err = refused(&[&one, &good, &none, b"more"]);
        assert!(err.contains("4 bytes are left"), "{err}");
    }
}

mod paddle {
    use super::proto::{bytes, number};
    use super::*;

    /// A tensor of a type and dimensions.
    fn tensor(kind: u64, dims: &[u64], elements: &[u8]) -> Vec<u8> {
        let dims: Vec<u8> = dims.iter().flat_map(|dim| number(2, *dim)).collect();
        let description = [number(1, kind), dims].concat();
        let len = (description.len() as u32).to_le_bytes();
        [&[0; 16][..], &len, &description, elements].concat()
    }

    fn refused(name: &str, bytes: Vec<u8>) -> String {
        open(&[(name, bytes)]).err().expect("it is refused")
    }

    #[test]
    fn tensors_of_programs_are_held_against_the_file() {
        let file = |bytes| open(&[("x.pdiparams", bytes)]);
        let read = file(tensor(5, &[2], &[0; 8])).unwrap();
        assert_eq!(read.tensors[0].name, "0");
        assert!(read.findings.iter().any(|finding| finding.rule == "R034"));
        let err = refused("x.pdiparams", tensor(5, &[3], &[0; 8]));
        assert!(err.contains("the elements takes 12 bytes, 8 are left"), "{err}");
        let err = refused("x.pdiparams", tensor(5, &[1 << 62, 8], &[0; 8]));
        assert!(err.contains("more bytes than 2^64"), "{err}");
        let err = refused("x.pdiparams", tensor(99, &[2], &[0; 8]));
        assert!(err.contains("the tensor of number 0: its elements are of the type 99"), "{err}");
        let err = refused("x.pdiparams", tensor(5, &[1; 65], &[0; 4]));
        assert!(err.contains("more than 64 dimensions"), "{err}");
        let mut long = tensor(5, &[2], &[0; 8]);
        long[16..20].fill(0xff);
        let err = refused("x.pdiparams", long);
        assert!(err.contains("a description takes 4294967295 bytes"), "{err}");
        let levels = [&[0; 4][..], &[0xff; 8], &[0; 32]].concat();
        assert!(refused("x.pdiparams", levels).contains("levels, where 0 and a few should be"));
        // A program that is no JSON leaves tensors without names.
        let files = [("x.pdiparams", tensor(5, &[0], &[])), ("x.json", b"[".to_vec())];
        assert_eq!(open(&files).unwrap().tensors[0].name, "0");
        let program = bytes(1, &bytes(3, &[bytes(1, b"fc.w_0"), number(3, 1)].concat()));
        let files = [("x.pdiparams", tensor(5, &[0], &[])), ("x.pdmodel", program)];
        assert_eq!(open(&files).unwrap().tensors[0].name, "fc.w_0");
    }

    #[test]
    fn a_pickle_that_calls_what_no_array_needs_is_refused() {
        let err = refused("x.pdparams", b"\x80\x02cposix\nsystem\nX\x02\0\0\0ls\x85R.".to_vec());
        assert!(err.contains("posix") && err.contains("system"), "{err}");
        let err = refused("x.pdparams", b"\x80\x02K\x01.".to_vec());
        assert!(err.contains("is no dictionary"), "{err}");
    }
}

mod orbax {
    use super::proto::varint;
    use super::*;

    /// A checkpoint of one array with this name and description.
    fn checkpoint(name: &str, array: &str) -> Vec<(&'static str, Vec<u8>)> {
        let metadata = format!(
            r#"{{"tree_metadata": {{"x": {{"key_metadata": [{{"key": "{name}", "key_type": 2}}]}}}},
                "use_ocdbt": false}}"#
        );
        vec![("_METADATA", metadata.into_bytes()), ("a/.zarray", array.as_bytes().to_vec())]
    }

    fn array(shape: &str, chunks: &str, more: &str) -> String {
        format!(
            r#"{{"shape": {shape}, "chunks": {chunks}, "dtype": "<f4", "compressor": null{more}}}"#
        )
    }

    #[test]
    fn arrays_that_cannot_be_are_refused_or_have_no_values() {
        let read = |name: &str, array: &str| open(&checkpoint(name, array));
        // What is absent is 0, whatever its size.
        assert_eq!(unreadable(&read("a", &array("[3]", "[2]", "")).unwrap()), "");
        let err = read("../a", &array("[3]", "[2]", "")).err();
        assert!(err.is_none_or(|err| err.contains("does not stay inside")));
        let err = read("a", &array("[1099511627776]", "[1]", "")).err().unwrap();
        assert!(err.contains("more chunks than are followed"), "{err}");
        let err = read("a", &array("[-1]", "[1]", "")).err().unwrap();
        assert!(err.contains("no list of dimensions"), "{err}");
        let why = unreadable(&read("a", &array("[4]", "[0]", "")).unwrap());
        assert_eq!(why, "has chunks of [0] and [0] for [4]");
        let why = unreadable(&read("a", &array("[4]", "[4611686018427387904]", "")).unwrap());
        assert!(why.contains("more bytes than 2^64"), "{why}");
        let why = unreadable(&read("a", &array("[4]", "[1099511627776]", "")).unwrap());
        assert!(why.contains("at most 4294967296 are decoded"), "{why}");
        let why = unreadable(&read("a", &array("[3]", "[2]", r#", "fill_value": 1"#)).unwrap());
        assert!(why.contains("stands for a value that is not 0"), "{why}");
        let mut files = checkpoint("a", &array("[3]", "[3]", ""));
        files.push(("a/0", vec![0; 11]));
        assert!(!unreadable(&open(&files).unwrap()).is_empty());
    }

    /// A manifest of OCDBT whose root is in this file.
    fn manifest(kind: u64, file: &str) -> Vec<u8> {
        let mut body = vec![7; 16];
        for number in [kind, 1024, 100] {
            body.extend(varint(number));
        }
        body.extend([4, 0]);
        // One file, one version: generation, height, file, offset, length.
        body.extend([1, file.len() as u8, 0]);
        body.extend(file.as_bytes());
        body.extend([1, 1, 0, 0, 0, 9]);
        let mut all = [&[0x0c, 0xdb, 0x3a, 0x2a][..], &[0; 8], &[0, 0], &body].concat();
        let len = all.len() as u64 + 4;
        all[4..12].copy_from_slice(&len.to_le_bytes());
        let sum = crc32c::crc32c(&all);
        all.extend(sum.to_le_bytes());
        all
    }

    #[test]
    fn stores_stay_in_their_folder_and_keep_their_checksums() {
        let refused = |bytes: Vec<u8>| {
            open(&[("in/manifest.ocdbt", bytes), ("in/x", vec![0; 9]), ("x", vec![0; 9])])
                .err()
                .expect("it is refused")
        };
        let err = refused(manifest(0, "../x"));
        assert!(err.contains("does not stay inside"), "{err}");
        let err = refused(manifest(1, "x"));
        assert!(err.contains("numbered manifests"), "{err}");
        let err = refused(manifest(0, "x"));
        assert!(err.contains("00000000, where a node of OCDBT begins with 0cdb20de"), "{err}");
        let mut wrong = manifest(0, "x");
        wrong[20] ^= 1;
        assert!(refused(wrong).contains("the checksum of a manifest"));
        let mut short = manifest(0, "x");
        short.pop();
        assert!(refused(short).contains("says that it has"));
    }
}
