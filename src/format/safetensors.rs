//! Safetensors: a JSON header, then the weights, back to back.
//!
//! ```text
//! 0        8            8 + n                      end of file
//! | n: u64 | JSON, n bytes | weights                        |
//! ```
//!
//! Offsets in the header count from the first byte after it. The ranges of all tensors tile the
//! weights: no hole, no overlap, no trailing byte.
//! Spec: <https://github.com/huggingface/safetensors#format>, version 0.8.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};

use super::{Format, Probe};
use crate::base::cursor::Cursor;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, Result};
use crate::base::hash::HashSet;
use crate::base::json;
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor, n_elements};

/// The reference implementation refuses headers over this size; so do we.
const MAX_HEADER_LEN: u64 = 100_000_000;

/// The key whose value is free text about the file, not a tensor.
const METADATA_KEY: &str = "__metadata__";

/// The format for the registry.
pub static FORMAT: Format = Format {
    id: "safetensors",
    name: "safetensors",
    endings: &["safetensors"],
    singles: &["model.safetensors"],
    // There is no magic number: the best sign is the brace that opens the header, and the name
    // counts as much.
    probe: |head, name| match head.get(8) == Some(&b'{') || name.ends_with(".safetensors") {
        true => Probe::Maybe,
        false => Probe::No,
    },
    read: |source, file| read(source, file),
    header_len: Some(|head| {
        let len = u64::from_le_bytes(*head.first_chunk()?);
        Some(len.saturating_add(8))
    }),
    ..Format::DEFAULT
};

/// Reads the header of one file.
///
/// # Errors
/// The file does not keep the format; the error has the byte.
pub fn read(source: &Source, file: FileId) -> Result<Checkpoint> {
    let extent = source.extent(file);
    let checkpoint = read_header(source.bytes(file), extent);
    let checkpoint = checkpoint.map_err(|err| err.in_file(source.path(file)))?;
    let starts = checkpoint.tensors.iter().filter_map(|tensor| match &tensor.payload {
        Payload::Range(extent) => Some(extent.start),
        _ => None,
    });
    source.forget(file, starts.min().unwrap_or_default());
    Ok(checkpoint)
}

fn read_header(bytes: &[u8], extent: Extent) -> Result<Checkpoint> {
    let mut cursor = Cursor::new(bytes, 0);
    let header_len = cursor.u64_le("the header length")?;
    if MAX_HEADER_LEN < header_len {
        let message = format!("a header of {header_len} bytes, at most {MAX_HEADER_LEN} are read");
        return Err(Error::limit(0, message));
    }
    let header_start = cursor.offset();
    let text = cursor.take(header_len, "the header")?;
    if text.first() != Some(&b'{') {
        let found = text.first().map_or("nothing".to_owned(), |byte| format!("byte {byte:#04x}"));
        return Err(Error::malformed(
            header_start,
            format!("the header starts with {found}, not `{{`"),
        ));
    }
    let end = text.trim_ascii_end().len();
    if let Some(pad) = text[end..].iter().position(|&byte| byte != b' ') {
        let offset = header_start.saturating_add((end + pad) as u64);
        return Err(Error::malformed(
            offset,
            "the header is padded with something else than spaces",
        ));
    }
    let Header { entries, metadata } =
        serde_json::from_slice(text).map_err(|err| json::error(text, header_start, &err))?;
    let weights_start = cursor.offset();
    let len = extent.len.saturating_sub(weights_start);
    let weights = Extent { start: weights_start, len, ..extent };
    check_tiles(&entries, weights)?;

    let mut checkpoint = Checkpoint { format: "safetensors", metadata, ..Checkpoint::default() };
    checkpoint.tensors.reserve_exact(entries.len());
    for (name, entry) in entries {
        checkpoint.tensors.push(tensor(name, entry, weights, &mut checkpoint.findings)?);
    }
    Ok(checkpoint)
}

/// Checks that the ranges of the tensors tile the weights.
fn check_tiles(entries: &[(String, Entry<'_>)], weights: Extent) -> Result<()> {
    let mut ranges: Vec<(u64, u64, &str)> = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let [start, end] = entry.data_offsets;
        if end < start || weights.len < end {
            let message = format!(
                "tensor `{name}` claims bytes {start}..{end} of the weights, which have {}",
                weights.len
            );
            return Err(Error::malformed(weights.start.saturating_add(start), message));
        }
        ranges.push((start, end, name));
    }
    ranges.sort_unstable();
    let mut at = 0;
    let mut last = "the header";
    for (start, end, name) in ranges {
        let offset = weights.start.saturating_add(start.min(at));
        if at < start {
            let message =
                format!("{} bytes between `{last}` and `{name}` are no tensor's", start - at);
            return Err(Error::malformed(offset, message));
        }
        if start < at && start < end {
            let message = format!("tensor `{name}` lies {} bytes over `{last}`", at - start);
            return Err(Error::malformed(offset, message));
        }
        at = at.max(end);
        last = name;
    }
    if at < weights.len {
        let message = format!("{} bytes after `{last}` are no tensor's", weights.len - at);
        return Err(Error::malformed(weights.start.saturating_add(at), message));
    }
    Ok(())
}

fn tensor(
    name: String,
    entry: Entry<'_>,
    weights: Extent,
    findings: &mut Vec<Diagnostic>,
) -> Result<Tensor> {
    let [start, end] = entry.data_offsets;
    let offset = weights.start.saturating_add(start);
    let extent = weights.part(start, end).ok_or_else(|| {
        Error::malformed(offset, format!("tensor `{name}` lies outside the file"))
    })?;
    let mut shape = entry.shape;
    shape.shrink_to_fit();
    let Some(dtype) = DType::ALL.iter().find(|dtype| dtype.name() == entry.dtype).copied() else {
        let why = format!("its dtype {:?} is not known here", entry.dtype);
        let message = format!("the values of `{name}` cannot be had: {why}");
        findings.push(Diagnostic::warning("R003", message).tensor(&name));
        let payload = Payload::Unreadable(why);
        return Ok(Tensor {
            name: name.into(),
            dtype: DType::Unknown,
            shape,
            encoding: None,
            payload,
        });
    };
    let n_bytes = n_elements(&shape).and_then(|n| dtype.n_bytes(n));
    if n_bytes != Some(extent.len) {
        let takes = n_bytes.map_or("no whole number of bytes".to_owned(), |n| format!("{n} bytes"));
        let message = format!(
            "tensor `{name}` of {dtype} {shape:?} takes {takes}, the header gives it {}",
            extent.len
        );
        return Err(Error::malformed(offset, message));
    }
    Ok(Tensor { name: name.into(), dtype, shape, encoding: None, payload: Payload::Range(extent) })
}

struct Header<'t> {
    entries: Vec<(String, Entry<'t>)>,
    metadata: BTreeMap<String, String>,
}

/// One tensor, as the header spells it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'t> {
    #[serde(borrow)]
    dtype: Cow<'t, str>,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A name, borrowed from the text where it has no escapes.
#[derive(Deserialize)]
struct Name<'t>(#[serde(borrow)] Cow<'t, str>);

impl<'de> Deserialize<'de> for Header<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Header<'de>, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header<'de>, A::Error> {
        let mut header = Header { entries: Vec::new(), metadata: BTreeMap::new() };
        let mut names = HashSet::default();
        while let Some(Name(name)) = map.next_key()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("the tensor {name:?} stands twice")));
            }
            if name == METADATA_KEY {
                let Metadata(metadata) = map.next_value()?;
                header.metadata = metadata;
            } else {
                let entry = map.next_value::<Entry<'de>>();
                let entry =
                    entry.map_err(|err| A::Error::custom(format!("tensor {name:?}: {err}")))?;
                header.entries.push((name.into_owned(), entry));
            }
        }
        Ok(header)
    }
}

struct Metadata(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Metadata, D::Error> {
        struct MetadataVisitor;
        impl<'de> Visitor<'de> for MetadataVisitor {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut metadata = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    if metadata.contains_key(&key) {
                        return Err(A::Error::custom(format!("{key:?} stands twice")));
                    }
                    let value = map.next_value::<String>()?;
                    metadata.insert(key, value);
                }
                Ok(Metadata(metadata))
            }
        }
        deserializer.deserialize_map(MetadataVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a file of this header and that many weight bytes; prints what came of it.
    #[track_caller]
    fn check(header: &str, n_weights: usize, expected: &str) {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + n_weights, 0);
        assert_eq!(read_text(&file), expected, "{header}");
    }

    fn read_text(file: &[u8]) -> String {
        let source = Source::from_bytes("t", file);
        let file = source.files().next().unwrap();
        match read(&source, file) {
            Ok(checkpoint) => {
                let lines = checkpoint.tensors.iter().map(|tensor| {
                    let place = match &tensor.payload {
                        Payload::Range(extent) => format!("{}..{}", extent.start, extent.end()),
                        other => format!("{other:?}"),
                    };
                    format!("{} {} {:?} {place}", tensor.name, tensor.dtype, tensor.shape)
                });
                lines.collect::<Vec<_>>().join("\n")
            }
            Err(err) => format!("error: {err}"),
        }
    }

    const GOOD: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

    #[test]
    fn offsets_count_from_the_end_of_the_header() {
        check(GOOD, 8, "a F32 [2] 62..70");
        check("{}", 0, "");
        check("{}   ", 0, "");
    }

    #[test]
    fn every_cut_of_a_good_file_is_an_error() {
        let file = [&(GOOD.len() as u64).to_le_bytes()[..], GOOD.as_bytes(), &[0; 8]].concat();
        for cut in 0..file.len() {
            assert!(read_text(&file[..cut]).starts_with("error: "), "cut at {cut}");
        }
    }

    #[test]
    fn no_flipped_byte_panics() {
        let file = [&(GOOD.len() as u64).to_le_bytes()[..], GOOD.as_bytes(), &[0; 8]].concat();
        for at in 0..file.len() {
            for mask in [0x01, 0x20, 0x80, 0xff] {
                let mut file = file.clone();
                file[at] ^= mask;
                read_text(&file);
            }
        }
    }

    #[test]
    fn names_that_stand_twice_are_refused() {
        let twice = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        check(twice, 1, "error: t: JSON: the tensor \"a\" stands twice (at byte 0x3f)");
        let escaped = twice.replacen(r#","a":"#, r#","\u0061":"#, 1);
        check(&escaped, 1, "error: t: JSON: the tensor \"a\" stands twice (at byte 0x44)");
        check(
            r#"{"__metadata__":{"k":"1","k":"2"}}"#,
            0,
            "error: t: JSON: \"k\" stands twice (at byte 0x23)",
        );
    }

    #[test]
    fn ranges_must_tile_the_weights() {
        let two = |a: &str, b: &str| {
            format!(
                r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{a}}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{b}}}}}"#
            )
        };
        check(&two("[0,4]", "[4,8]"), 8, "a U8 [4] 113..117\nb U8 [4] 117..121");
        check(&two("[4,8]", "[0,4]"), 8, "a U8 [4] 117..121\nb U8 [4] 113..117");
        check(
            &two("[0,4]", "[5,9]"),
            9,
            "error: t: 1 bytes between `a` and `b` are no tensor's (at byte 0x75)",
        );
        check(
            &two("[0,4]", "[2,6]"),
            6,
            "error: t: tensor `b` lies 2 bytes over `a` (at byte 0x73)",
        );
        check(
            &two("[0,4]", "[4,8]"),
            9,
            "error: t: 1 bytes after `b` are no tensor's (at byte 0x79)",
        );
        check(
            &two("[0,4]", "[4,8]"),
            7,
            "error: t: tensor `b` claims bytes 4..8 of the weights, which have 7 (at byte 0x75)",
        );
        check(
            &two("[4,0]", "[4,8]"),
            8,
            "error: t: tensor `a` claims bytes 4..0 of the weights, which have 8 (at byte 0x75)",
        );
    }

    #[test]
    fn sizes_are_checked_without_overflow() {
        let one = |dtype: &str, shape: &str, end: u64| {
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}}}"#)
        };
        check(
            &one("F32", "[3]", 8),
            8,
            "error: t: tensor `a` of F32 [3] takes 12 bytes, the header gives it 8 (at byte 0x3e)",
        );
        let huge = "[4294967296,4294967296,4]";
        assert!(read_text_of(&one("F32", huge, 0), 0).contains("takes no whole number of bytes"));
        let hidden = "[4294967296,4294967296,4,0]";
        assert!(read_text_of(&one("F32", hidden, 0), 0).contains("takes no whole number of bytes"));
        check(&one("F4", "[2]", 1), 1, "a F4 [2] 61..62");
        assert!(read_text_of(&one("F4", "[3]", 1), 1).contains("takes no whole number of bytes"));
        assert!(read_text_of(&one("F32", "[1.0]", 4), 4).contains("expected u64"));
        assert!(read_text_of(&one("F32", "[-1]", 4), 4).contains("expected u64"));
        assert!(read_text_of(&one("X9", "[1]", 4), 4).contains("Unreadable"));
    }

    fn read_text_of(header: &str, n_weights: usize) -> String {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + n_weights, 0);
        read_text(&file)
    }

    #[test]
    fn headers_are_bounded_and_plain() {
        for claimed in [1 << 32, 1 << 60, u64::MAX, 100_000_001] {
            let text = read_text(&u64::to_le_bytes(claimed));
            assert!(text.contains("at most 100000000 are read"), "{text}");
        }
        check(" {}", 0, "error: t: the header starts with byte 0x20, not `{` (at byte 0x8)");
        check(
            "{}\n",
            0,
            "error: t: the header is padded with something else than spaces (at byte 0xa)",
        );
        assert!(
            read_text_of(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}"#, 1)
                .starts_with("error")
        );
        assert!(read_text_of(r#"{"a":{"dtype":"U8","shape":[1]}}"#, 1).contains("missing field"));
        assert!(read_text_of(r#"{"__metadata__":{"k":1}}"#, 0).contains("expected a string"));
    }
}
