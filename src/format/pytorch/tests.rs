use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::*;
use crate::checkpoint::{View, row_major_strides};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/pytorch")
}

fn fixture_files() -> Vec<PathBuf> {
    let files = fs::read_dir(fixtures()).expect("the fixtures are committed");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("it lists").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "pt"));
    files.sort();
    files
}

fn open(path: &Path) -> (Source, FileId) {
    let mut source = Source::new(path.parent().expect("a file has a folder"));
    let name = path.file_name().and_then(|name| name.to_str()).expect("fixtures have plain names");
    let file = source.add(name).expect("the fixture opens");
    (source, file)
}

fn read_bytes(bytes: &[u8]) -> Result<Checkpoint> {
    let source = Source::from_bytes("model.bin", bytes);
    let file = source.find("model.bin").expect("it was just made");
    read(&source, file)
}

/// The packed little-endian bytes of a readable tensor.
fn gather(source: &Source, tensor: &Tensor) -> Vec<u8> {
    let view = match &tensor.payload {
        Payload::Range(extent) => return source.slice(*extent).expect("ranges lie inside").to_vec(),
        Payload::View(view) => view,
        Payload::Unreadable(reason) => panic!("{}: {reason}", tensor.name),
    };
    let View { storage, offset, strides, big_endian } = view;
    let storage = source.slice(*storage).expect("storages lie inside");
    let width = usize::try_from(tensor.dtype.bits() / 8).expect("elements are small");
    let part = if tensor.dtype.name().starts_with('C') { width / 2 } else { width };
    let mut packed = Vec::new();
    let logical = row_major_strides(&tensor.shape);
    for at in 0..tensor.n_elements().expect("fixtures are small") {
        let mut element = *offset;
        for ((dim, stride), logical) in tensor.shape.iter().zip(strides).zip(&logical) {
            element += at / logical % dim * stride;
        }
        let start = usize::try_from(element).expect("fixtures are small") * width;
        for part in storage[start..start + width].chunks(part) {
            if *big_endian {
                packed.extend(part.iter().rev());
            } else {
                packed.extend(part);
            }
        }
    }
    packed
}

/// The lines of `golden.py`.
fn values(path: &Path) -> String {
    let (source, file) = open(path);
    let Ok(checkpoint) = read(&source, file) else { return "refused\n".to_owned() };
    let mut text = String::new();
    for tensor in &checkpoint.tensors {
        let digest = match tensor.payload {
            Payload::Unreadable(_) => "unreadable".to_owned(),
            _ => Sha256::digest(gather(&source, tensor)).iter().fold(
                String::new(),
                |mut digest, byte| {
                    write!(digest, "{byte:02x}").expect("strings take all");
                    digest
                },
            ),
        };
        writeln!(text, "{} {} {:?} {digest}", tensor.name, tensor.dtype, tensor.shape)
            .expect("strings take all");
    }
    text
}

/// Everything but the values, as a person would read it.
fn report(checkpoint: &Result<Checkpoint>) -> String {
    let mut text = String::new();
    let checkpoint = match checkpoint {
        Ok(checkpoint) => checkpoint,
        Err(err) => return format!("{:?}: {}\n", err.kind(), err.message()),
    };
    for (key, value) in &checkpoint.metadata {
        writeln!(text, "{key} = {value}").expect("strings take all");
    }
    for tensor in &checkpoint.tensors {
        let payload = match &tensor.payload {
            Payload::Range(extent) => format!("{} bytes at {:#x}", extent.len, extent.start),
            Payload::View(view) => format!(
                "view of {} bytes at {:#x}, offset {}, strides {:?}{}",
                view.storage.len,
                view.storage.start,
                view.offset,
                view.strides,
                if view.big_endian { ", big-endian" } else { "" }
            ),
            Payload::Unreadable(reason) => format!("unreadable: {reason}"),
        };
        writeln!(text, "{} {} {:?}: {payload}", tensor.name, tensor.dtype, tensor.shape)
            .expect("strings take all");
    }
    for finding in &checkpoint.findings {
        writeln!(text, "{:?} {}: {}", finding.level, finding.rule, finding.message)
            .expect("strings take all");
    }
    text
}

fn check_golden(name: &str, found: &str) {
    let path = fixtures().join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, found).expect("the golden file is ours");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    for (at, (expected, found)) in expected.lines().zip(found.lines()).enumerate() {
        assert_eq!(expected, found, "line {} of {name}", at + 1);
    }
    assert_eq!(expected.lines().count(), found.lines().count(), "lines of {name}");
}

#[test]
fn values_are_those_of_torch() {
    let mut found = String::new();
    for path in fixture_files() {
        let name = path.file_name().expect("it is a file").to_string_lossy();
        write!(found, "== {name}\n{}", values(&path)).expect("strings take all");
    }
    // Made by torch itself with golden.py: never blessed from here.
    let expected = fs::read_to_string(fixtures().join("golden.txt")).expect("it is committed");
    for (at, (expected, found)) in expected.lines().zip(found.lines()).enumerate() {
        assert_eq!(expected, found, "line {} of golden.txt", at + 1);
    }
    assert_eq!(expected.len(), found.len());
}

#[test]
fn reports_read_well() {
    let mut found = String::new();
    for path in fixture_files() {
        let (source, file) = open(&path);
        let name = source.name(file);
        write!(found, "== {name}\n{}", report(&read(&source, file))).expect("strings take all");
    }
    check_golden("report.txt", &found);
}

#[test]
fn every_fixture_is_probed() {
    for path in fixture_files() {
        let bytes = fs::read(&path).expect("the fixture reads");
        assert!(probe(&bytes[..bytes.len().min(4096)]), "{}", path.display());
    }
    assert!(!probe(b""));
    assert!(!probe(b"PK\x03\x04"));
    assert!(!probe(b"GGUF\x03\0\0\0"));
    assert!(!probe(b"\x80\x02}q\0."), "a pickle of something else");
}

/// Reads everything a caller could, so that a bad extent would show.
fn touch(source: &Source, file: FileId) {
    let Ok(checkpoint) = read(source, file) else { return };
    for tensor in &checkpoint.tensors {
        let extent = match &tensor.payload {
            Payload::Range(extent) => *extent,
            Payload::View(view) => view.storage,
            Payload::Unreadable(_) => continue,
        };
        source.slice(extent).expect("every extent lies inside the file");
    }
}

fn touch_bytes(bytes: &[u8]) {
    let source = Source::from_bytes("model.bin", bytes);
    let file = source.find("model.bin").expect("it was just made");
    touch(&source, file);
}

#[test]
fn cut_anywhere_it_is_refused_or_read_without_harm() {
    for path in fixture_files() {
        let bytes = fs::read(&path).expect("the fixture reads");
        let step = if 6000 < bytes.len() { 97 } else { 1 };
        for len in (0..bytes.len()).step_by(step) {
            touch_bytes(&bytes[..len]);
        }
    }
}

#[test]
fn any_byte_changed_it_is_refused_or_read_without_harm() {
    for path in fixture_files() {
        let mut bytes = fs::read(&path).expect("the fixture reads");
        let step = if 6000 < bytes.len() { 97 } else { 1 };
        for at in (0..bytes.len()).step_by(step) {
            for mask in [0x01, 0x04, 0x80, 0xff] {
                bytes[at] ^= mask;
                touch_bytes(&bytes);
                bytes[at] ^= mask;
            }
        }
    }
}
