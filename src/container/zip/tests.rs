use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::directory::{ENCRYPTED, SIZES_FOLLOW};
use super::*;

/// A member as each of the two places tells of it.
#[derive(Clone)]
struct Made {
    local_name: &'static str,
    name: &'static str,
    flags: u16,
    method: u16,
    payload: Vec<u8>,
    local_len: u32,
    len: u32,
    packed_len: u32,
    /// The offset that the directory gives, if not the true one.
    at: Option<u32>,
    extra: Vec<u8>,
}

fn stored(name: &'static str, payload: &[u8]) -> Made {
    let len = u32::try_from(payload.len()).expect("tests are small");
    Made {
        local_name: name,
        name,
        flags: 0,
        method: 0,
        payload: payload.to_vec(),
        local_len: len,
        len,
        packed_len: len,
        at: None,
        extra: Vec::new(),
    }
}

fn deflated(name: &'static str, payload: &[u8], len: u32) -> Made {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(payload).expect("vectors take all");
    let packed = encoder.finish().expect("vectors take all");
    Made { method: 8, len, local_len: len, ..stored(name, &packed) }
}

fn make(members: &[Made]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for member in members {
        let at = u32::try_from(file.len()).expect("tests are small");
        let fields = |name: &str, len: u32, packed_len: u32, extra: &[u8]| {
            let mut bytes = Vec::new();
            bytes.extend(member.flags.to_le_bytes());
            bytes.extend(member.method.to_le_bytes());
            bytes.extend([0; 8]);
            bytes.extend(packed_len.to_le_bytes());
            bytes.extend(len.to_le_bytes());
            bytes.extend(u16::try_from(name.len()).expect("names are short").to_le_bytes());
            bytes.extend(u16::try_from(extra.len()).expect("extras are short").to_le_bytes());
            bytes
        };
        let local_packed = if member.method == 0 { member.local_len } else { member.packed_len };
        file.extend(b"PK\x03\x04\0\0");
        file.extend(fields(member.local_name, member.local_len, local_packed, &[]));
        file.extend(member.local_name.bytes());
        file.extend(&member.payload);
        directory.extend(b"PK\x01\x02\0\0\0\0");
        directory.extend(fields(member.name, member.len, member.packed_len, &member.extra));
        directory.extend([0; 10]);
        directory.extend(member.at.unwrap_or(at).to_le_bytes());
        directory.extend(member.name.bytes());
        directory.extend(&member.extra);
    }
    let n = u16::try_from(members.len()).expect("tests are small").to_le_bytes();
    let start = u32::try_from(file.len()).expect("tests are small");
    let len = u32::try_from(directory.len()).expect("tests are small");
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([n, n].concat());
    file.extend(len.to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0; 2]);
    file
}

fn read(bytes: &[u8]) -> String {
    match Zip::read(bytes) {
        Ok(zip) => {
            let members = zip.members().iter();
            let shown = members.map(|member| format!("{} {}", member.name, member.len));
            shown.collect::<Vec<_>>().join(", ")
        }
        Err(err) => format!("{:?}: {err}", err.kind()),
    }
}

fn check(members: &[Made], expected: &str) {
    assert_eq!(read(&make(members)), expected);
}

#[test]
fn members_are_listed_in_order() {
    check(&[stored("m/b", b"12"), stored("m/a", b"")], "m/b 2, m/a 0");
}

#[test]
fn torch_leaves_local_sizes_open() {
    let open = Made { flags: SIZES_FOLLOW, local_len: 0, ..stored("m/a", b"12") };
    check(&[open], "m/a 2");
}

#[test]
fn two_members_of_one_name_are_refused() {
    check(
        &[stored("m/data.pkl", b"1"), stored("m/data.pkl", b"2")],
        "Malformed: two members are named `m/data.pkl`; readers disagree on which of them counts \
         (at byte 0x8a)",
    );
}

#[test]
fn a_local_name_that_differs_is_refused() {
    check(
        &[Made { local_name: "m/b", ..stored("m/a", b"1") }],
        "Malformed: the directory names the member `m/a`, its local header `m/b` (at byte 0x0)",
    );
}

#[test]
fn a_local_size_that_differs_is_refused() {
    check(
        &[Made { local_len: 1, ..stored("m/a", b"12") }],
        "Malformed: the directory gives `m/a` 2 bytes, its local header 1 (at byte 0x0)",
    );
}

#[test]
fn members_that_overlap_are_refused() {
    // The second member is a whole zip member inside the payload of the first.
    let inner = make(&[stored("m/b", b"1")]);
    let outer = stored("m/a", &inner);
    let start = u32::try_from(30 + outer.name.len()).expect("tests are small");
    let mut members = vec![outer, stored("m/b", b"1")];
    members[1].at = Some(start);
    check(
        &members,
        "Malformed: two members overlap: one ends at byte 0x8a, the next starts before it (at \
         byte 0x21)",
    );
}

#[test]
fn encrypted_members_are_refused() {
    check(
        &[Made { flags: ENCRYPTED, ..stored("m/a", b"1") }],
        "Unsupported: `m/a` is encrypted (at byte 0x22)",
    );
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["/m/a", "m/../a", "..", "\\m", "C:a", "m\\..\\a", "m/\0"] {
        let found = read(&make(&[stored(name, b"")]));
        assert!(found.contains("leads out of the archive"), "{name:?}: {found}");
    }
    check(&[stored("m/..a", b"")], "m/..a 0");
}

#[test]
fn a_size_past_the_end_is_refused() {
    check(
        &[Made { len: 9, packed_len: 9, local_len: 9, ..stored("m/a", b"1") }],
        "Malformed: `m/a` takes 9 bytes, 1 are left before the directory (at byte 0x21)",
    );
}

#[test]
fn two_sizes_of_a_stored_member_are_refused() {
    check(
        &[Made { len: 9, ..stored("m/a", b"1") }],
        "Malformed: `m/a` is stored as it is, and has the two sizes 9 and 1 (at byte 0x22)",
    );
}

#[test]
fn zip64_sizes_are_read_and_their_lies_refused() {
    let wide =
        |extra: Vec<u8>| Made { len: u32::MAX, packed_len: u32::MAX, extra, ..stored("m/a", b"1") };
    let field = |len: u64| [&[1, 0, 16, 0], &len.to_le_bytes()[..], &len.to_le_bytes()].concat();
    check(&[wide(field(1))], "m/a 1");
    check(
        &[wide(field(1 << 60))],
        "Malformed: the directory gives `m/a` 1152921504606846976 bytes, its local header 1 (at \
         byte 0x0)",
    );
    check(
        &[wide(Vec::new())],
        "Malformed: a size points to a zip64 field, which the member does not have (at byte 0x22)",
    );
    check(
        &[wide(vec![1, 0, 8, 0, 1, 0, 0, 0, 0, 0, 0, 0])],
        "Malformed: a number of the zip64 field takes 8 bytes, 0 are left (at byte 0x2a)",
    );
}

#[test]
fn zip64_end_records_that_disagree_are_refused() {
    let plain = make(&[stored("m/a", b"1")]);
    let end = plain.len() - 22;
    let zip64 = |n: u64| {
        let mut record = b"PK\x06\x06".to_vec();
        record.extend(44u64.to_le_bytes());
        record.extend([0; 12]);
        let directory_start = 34u64;
        for number in [n, n, end as u64 - directory_start, directory_start] {
            record.extend(number.to_le_bytes());
        }
        record.extend(b"PK\x06\x07\0\0\0\0");
        record.extend((end as u64).to_le_bytes());
        record.extend(1u32.to_le_bytes());
        [&plain[..end], &record, &plain[end..]].concat()
    };
    assert_eq!(read(&zip64(1)), "m/a 1");
    assert_eq!(
        read(&zip64(2)),
        "Malformed: the end record and the zip64 end record do not say the same (at byte 0x9f)"
    );
}

#[test]
fn bytes_before_or_behind_are_refused() {
    let zip = make(&[stored("m/a", b"1")]);
    assert_eq!(
        read(&[&zip[..], b"more"].concat()),
        "Malformed: the end record announces 0 bytes after it, 4 are there (at byte 0x53)"
    );
    assert_eq!(
        read(&[b"more", &zip[..]].concat()),
        "Malformed: the directory starts at byte 0x22 and takes 49 bytes, and does not end where \
         the end record begins, at byte 0x57 (at byte 0x57)"
    );
    assert_eq!(
        read(b"PK\x03\x04"),
        "Malformed: the file starts as a zip file and has no end record: it is cut short (at byte \
         0x4)"
    );
}

#[test]
fn deflated_members_unpack_up_to_their_size() {
    let bomb = vec![0; 1 << 20];
    let unpack = |claimed: u32, max_len: u64| {
        let bytes = make(&[deflated("m/a", &bomb, claimed)]);
        let zip = Zip::read(&bytes).expect("its numbers agree");
        let member = zip.find("m/a").expect("it is there");
        member.unpack(&bytes, max_len).map(|bytes| bytes.len()).map_err(|err| err.to_string())
    };
    assert_eq!(unpack(1 << 20, 1 << 20), Ok(1 << 20));
    assert_eq!(
        unpack(1 << 20, 99),
        Err("`m/a` takes 1048576 bytes, the limit is 99 (at byte 0x21)".to_owned())
    );
    assert_eq!(
        unpack(99, 99),
        Err("`m/a` claims 99 bytes and inflates to more (at byte 0x21)".to_owned())
    );
}

#[test]
fn names_that_differ_in_case_are_told() {
    let bytes = make(&[stored("m/a", b""), stored("M/A", b"")]);
    let zip = Zip::read(&bytes).expect("it is whole");
    assert_eq!(zip.case_twins(), [("m/a", "M/A")]);
}
