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
        Payload::Range(extent) => {
            return source.slice(*extent).expect("ranges lie inside").to_vec();
        }
        Payload::View(view) => view,
        other => panic!("{}: {other:?}", tensor.name),
    };
    let View { storage, offset, strides, big_endian } = &**view;
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
            Payload::Tiles(_) | Payload::Parts(..) | Payload::Unreadable(_) => {
                "unreadable".to_owned()
            }
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
            Payload::Tiles(_) | Payload::Parts(..) => "parts".to_owned(),
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
            Payload::Tiles(_) | Payload::Parts(..) | Payload::Unreadable(_) => continue,
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

/// Makes a stored zip file of members, without zip64.
fn zip_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, payload) in members {
        let mut crc = flate2::Crc::new();
        crc.update(payload);
        let at = u32::try_from(file.len()).expect("tests are small");
        let len = u32::try_from(payload.len()).expect("tests are small").to_le_bytes();
        let name_len = u16::try_from(name.len()).expect("names are short").to_le_bytes();
        let common =
            [&[0; 8][..], &crc.sum().to_le_bytes(), &len, &len, &name_len, &[0; 2]].concat();
        file.extend([b"PK\x03\x04\0\0", &common[..], name.as_bytes(), payload].concat());
        let tail = [&[0; 10][..], &at.to_le_bytes(), name.as_bytes()].concat();
        directory.extend([b"PK\x01\x02\0\0\0\0", &common[..], &tail].concat());
    }
    let n = u16::try_from(members.len()).expect("tests are small").to_le_bytes();
    let start = u32::try_from(file.len()).expect("tests are small").to_le_bytes();
    let len = u32::try_from(directory.len()).expect("tests are small").to_le_bytes();
    file.extend(directory);
    file.extend([b"PK\x05\x06\0\0\0\0", &n[..], &n, &len, &start, &[0; 2]].concat());
    file
}

/// Reads an archive of this pickle, written in the text opcodes of protocol 0 where that helps,
/// and of one storage `0` of 24 bytes.
fn check(pickle: &[u8], expected: &str) {
    let members = [("m/data.pkl", pickle), ("m/data/0", &[1; 24]), ("m/version", b"3\n")];
    assert_eq!(report(&read_bytes(&zip_of(&members))).trim_end(), expected);
}

/// A pickle of `{'w': _rebuild_tensor_v2(storage '0' of six floats, <arguments>, False, {})}`.
fn tensor_of(arguments: &str) -> Vec<u8> {
    let storage = "(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI6\ntQ";
    let text =
        format!("}}S'w'\nctorch._utils\n_rebuild_tensor_v2\n({storage}{arguments}I00\n}}tRs.");
    text.into_bytes()
}

/// What the reader says of a tensor it cannot read.
fn unreadable(tensor: &str, reason: &str) -> String {
    format!(
        "pytorch.container = zip\n{tensor}: unreadable: {reason}\n\
         Warning R003: the values of `w` cannot be read: {reason}"
    )
}

#[test]
fn a_view_inside_its_storage_is_read() {
    check(
        &tensor_of("I0\n(I2\nI3\nt(I3\nI1\nt"),
        "pytorch.container = zip\nw F32 [2, 3]: 24 bytes at 0xc3",
    );
}

#[test]
fn a_view_past_its_storage_is_unreadable() {
    let reason = "its last element ends at byte 28 of its storage, which has 24 bytes";
    check(&tensor_of("I1\n(I2\nI3\nt(I3\nI1\nt"), &unreadable("w F32 [2, 3]", reason));
}

#[test]
fn a_negative_size_or_stride_is_unreadable() {
    check(&tensor_of("I0\n(I-2\nt(I1\nt"), &unreadable("w F32 []", "its shape holds -2"));
    check(&tensor_of("I0\n(I2\nt(I-1\nt"), &unreadable("w F32 [2]", "its strides holds -1"));
    check(&tensor_of("I-1\n(I2\nt(I1\nt"), &unreadable("w F32 [2]", "its offset is -1"));
}

#[test]
fn products_and_sums_past_64_bits_are_unreadable() {
    let huge = i64::MAX;
    check(
        &tensor_of(&format!("I0\n(I{huge}\nI8\nt(I0\nI0\nt")),
        &unreadable(
            &format!("w F32 [{huge}, 8]"),
            "its shape has more bytes than a 64-bit number can count",
        ),
    );
    check(
        &tensor_of(&format!("I{huge}\n(I3\nt(I{huge}\nt")),
        &unreadable("w F32 [3]", "its last element lies past every 64-bit offset"),
    );
}

#[test]
fn shape_and_strides_of_other_lengths_are_unreadable() {
    let reason = "it has 2 dimensions and 1 strides";
    check(&tensor_of("I0\n(I2\nI3\nt(I1\nt"), &unreadable("w F32 [2, 3]", reason));
}

#[test]
fn a_storage_of_another_size_is_unreadable() {
    let pickle = String::from_utf8(tensor_of("I0\n(I2\nI3\nt(I3\nI1\nt")).expect("it is text");
    let reason = "its storage `0` should have 5 elements of 4 bytes, and has 24 bytes";
    check(pickle.replace("I6\n", "I5\n").as_bytes(), &unreadable("w F32 [2, 3]", reason));
    let reason = "its storage `0` should have 6 elements of 8 bytes, and has 24 bytes";
    check(pickle.replace("Float", "Double").as_bytes(), &unreadable("w F64 [2, 3]", reason));
    let reason = "its storage `7` is not in the file";
    check(pickle.replace("'0'", "'7'").as_bytes(), &unreadable("w F32 [2, 3]", reason));
    let reason = "its storage has the class `torch.NewStorage`, which is not known";
    let found = unreadable("w UNKNOWN [2, 3]", reason);
    let note = "Note R002: the pickle names `torch.NewStorage`, which this reader does not know; \
                nothing of it is ever run\n";
    check(
        pickle.replace("Float", "New").as_bytes(),
        &found.replace("Warning", &format!("{note}Warning")),
    );
}

#[test]
fn a_call_of_the_system_is_named_and_not_made() {
    check(
        b"}S'w'\ncos\nsystem\n(S'echo'\ntRs.",
        "pytorch.container = zip\n\
         Error R002: the pickle calls `os.system`, which no checkpoint needs; nothing of it was run\n\
         Note R004: these top-level keys are not read as weights: `w` (`os.system`)",
    );
}

#[test]
fn a_key_that_stands_twice_has_its_last_value() {
    check(
        b"}(S'w'\nI1\nS'w'\nI2\nu.",
        "pytorch.container = zip\n\
         Warning R006: the key `w` stands twice; the last one counts\n\
         Note R004: these top-level keys are not read as weights: `w` (an integer)",
    );
}

#[test]
fn bytes_after_the_pickle_are_reported() {
    check(
        b"}.cos\nsystem\n",
        "pytorch.container = zip\n\
         Warning R008: 11 bytes follow the pickle in data.pkl, and torch does not read them",
    );
}

#[test]
fn a_dictionary_in_itself_is_read_once() {
    check(
        b"}p0\nS'x'\ng0\ns.",
        "pytorch.container = zip\n\
         Warning R007: the value of `x` contains itself\n\
         Note R004: these top-level keys are not read as weights: `x` (a dictionary)",
    );
}

#[test]
fn values_that_multiply_by_sharing_are_refused() {
    // 60 dictionaries, each with the next one twice: 2^60 paths.
    let mut pickle = b"}p0\n".to_vec();
    for level in 1..60 {
        pickle.extend(format!("}}p{level}\n(S'a'\ng{0}\nS'b'\ng{0}\nu", level - 1).bytes());
    }
    pickle.push(b'.');
    check(&pickle, "Limit: values share each other so often that listing them would not end");
}

#[test]
fn deep_nesting_is_refused() {
    let pickle = [&b"}"[..], &b"S'a'\n}".repeat(200), &b"s".repeat(200), b"."].concat();
    check(&pickle, "Limit: values are nested more than 128 deep");
}

#[test]
fn names_longer_than_any_are_refused() {
    let name = "n".repeat(1 << 17);
    check(
        format!("}}S'{name}'\nI1\ns.").as_bytes(),
        "Limit: a key passes the limit of 65536 bytes",
    );
}

#[test]
fn a_false_checksum_of_the_pickle_is_reported() {
    let mut bytes = zip_of(&[("m/data.pkl", b"}.")]);
    for at in (0..bytes.len() - 4).rev() {
        // The checksum lies 14 bytes into a local header, 16 into an entry of the directory.
        match bytes.get(at..at + 4) {
            Some(b"PK\x03\x04") => bytes[at + 14] ^= 1,
            Some(b"PK\x01\x02") => bytes[at + 16] ^= 1,
            _ => {}
        }
    }
    assert_eq!(
        report(&read_bytes(&bytes)),
        "pytorch.container = zip\n\
         Warning R011: the checksum of `m/data.pkl` is not that of its bytes\n"
    );
}

#[test]
fn members_that_differ_in_case_are_reported() {
    let members = [("m/data.pkl", &b"}."[..]), ("m/DATA.pkl", b"}."), ("m/version", b"3\n")];
    assert_eq!(
        report(&read_bytes(&zip_of(&members))),
        "pytorch.container = zip\nWarning R009: the members `m/data.pkl` and `m/DATA.pkl` differ \
         only in the case of letters; torch takes them for one\n"
    );
}

#[test]
fn text_that_is_not_utf8_is_reported() {
    check(
        b"}X\x02\0\0\0a\xffI1\ns.",
        "pytorch.container = zip\n\
         Warning R010: a string at byte 0x29 is not UTF-8; what is wrong in it is shown as `\u{fffd}`\n\
         Note R004: these top-level keys are not read as weights: `a\u{fffd}` (an integer)",
    );
}

#[test]
fn other_zip_files_are_explained() {
    let check = |members: &[(&str, &[u8])], expected: &str| {
        assert_eq!(report(&read_bytes(&zip_of(members))).trim_end(), expected);
    };
    check(
        &[("m/archive_format", b"pt2")],
        "Unsupported: this is a program of `torch.export` without weights; name the file that has \
         them",
    );
    check(&[("w.npy", b"")], "Unsupported: this is an `.npz` file of NumPy, not one of PyTorch");
    check(
        &[("a/b", b"")],
        "Malformed: a PyTorch archive has a member `a/data.pkl`, this zip file does not",
    );
    check(
        &[("m/data.pkl", b"}."), ("m/byteorder", b"middle")],
        "Malformed: the byte order is `middle`; `little` or `big` is due",
    );
}

#[test]
fn bytes_after_a_stream_are_reported() {
    let mut bytes = fs::read(fixtures().join("stream_views.pt")).expect("the fixture reads");
    bytes.extend(b"more");
    let checkpoint = read_bytes(&bytes).expect("the stream itself is whole");
    let rules: Vec<&str> = checkpoint.findings.iter().map(|finding| finding.rule).collect();
    assert_eq!(rules, [rule::TRAILING_BYTES]);
}

#[test]
fn every_rule_has_a_page() {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/1.0/rules");
    for number in 1..=12 {
        let id = format!("R{number:03}");
        let page = fs::read_dir(&pages).expect("the pages are committed").find_map(|page| {
            let path = page.expect("it lists").path();
            let name = path.file_stem()?.to_str()?.to_owned();
            let title = name.strip_prefix(&format!("{id}-"))?;
            Some((format!("# {id} {title}\n"), fs::read_to_string(path).ok()?))
        });
        let (title, text) = page.unwrap_or_else(|| panic!("{id} has no page"));
        assert!(text.starts_with(&title), "{id}");
        for section in ["\n## Why it matters\n", "\n## What to do\n", "\n## Example\n"] {
            assert!(text.contains(section), "{id} has no section {section:?}");
        }
    }
}
