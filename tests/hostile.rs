//! Files that lie: about lengths, places, counts and depth. Each is refused with what is wrong, and none
//! takes memory that its bytes do not justify.

use std::fs;
use std::path::Path;

use llmstd::checkpoint::{Checkpoint, Payload};
use llmstd::folder;
use llmstd::plan::program::whole;

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
