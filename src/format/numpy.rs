//! NumPy's `.npy`, one array a file, and `.npz`, a zip of such files.
//!
//! ```text
//! \x93NUMPY  version (2 bytes)  header length (u16, from version 2 on u32)
//! {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   elements
//! ```
//!
//! Spec: NEP 1 and `numpy/lib/format.py`. Arrays of Python objects are pickles, which nothing here
//! runs: they are listed, and their values cannot be had.

pub mod write;

use std::io::Read;

use flate2::read::DeflateDecoder;

use super::{Format, Probe};
use crate::base::checksum::Checksum;
use crate::base::cursor::Cursor;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, Result};
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::tiles::{Coding, Filter, Tile};
use crate::checkpoint::{
    Checkpoint, DType, Payload, StoredChecksum, Tensor, View, n_elements, row_major_strides,
};
use crate::container::zip::{LOCAL_SIGNATURE, Member, Method, Zip};

/// The format for the registry.
pub static FORMAT: Format =
    Format { id: "numpy", name: "NumPy", endings: &["npz", "npy"], probe, read, ..Format::DEFAULT };

const MAGIC: &[u8] = b"\x93NUMPY";
/// `numpy.lib.format` refuses longer headers of files that it does not trust.
const MAX_HEADER_LEN: u64 = 64 << 10;

fn probe(head: &[u8], _: &str) -> Probe {
    if head.starts_with(MAGIC) {
        return Probe::Sure;
    }
    let member = head.strip_prefix(LOCAL_SIGNATURE).and_then(|rest| {
        let len = u16::from_le_bytes(rest.get(22..24)?.try_into().ok()?);
        rest.get(26..26 + usize::from(len))
    });
    if member.is_some_and(|name| name.ends_with(b".npy")) { Probe::Sure } else { Probe::No }
}

fn read(source: &mut Source, file: FileId) -> Result<Checkpoint> {
    let extent = source.extent(file);
    let bytes = source.bytes(file);
    let mut checkpoint = Checkpoint { format: FORMAT.id, ..Checkpoint::default() };
    let read = match bytes.starts_with(LOCAL_SIGNATURE) {
        true => members(bytes, extent, &mut checkpoint),
        false => {
            let name = source.name(file).rsplit('/').next().unwrap_or_default();
            let name = name.strip_suffix(".npy").unwrap_or(name);
            array(name, bytes, 0).map(|array| {
                checkpoint.findings.extend(array.noticed(name, array.left));
                vec![array.plain(name, extent)]
            })
        }
    };
    for finding in &mut checkpoint.findings {
        finding.file.get_or_insert_with(|| source.name(file).to_owned());
    }
    checkpoint.tensors = read.map_err(|err| err.in_file(source.path(file)))?;
    Ok(checkpoint)
}

fn members(bytes: &[u8], extent: Extent, checkpoint: &mut Checkpoint) -> Result<Vec<Tensor>> {
    let zip = Zip::read(bytes)?;
    let mut tensors = Vec::new();
    for member in zip.members().iter().filter(|member| !member.name.ends_with('/')) {
        match member.name.strip_suffix(".npy") {
            Some(name) => tensors.push(self::member(name, member, bytes, extent, checkpoint)?),
            // NumPy goes by the first bytes, not by the name.
            None => match self::member(&member.name, member, bytes, extent, checkpoint) {
                Ok(tensor) => tensors.push(tensor),
                Err(_) => {
                    let message = format!("`{}` is no array, and is left aside", member.name);
                    checkpoint.findings.push(Diagnostic::note("R014", message));
                }
            },
        }
    }
    Ok(tensors)
}

fn member(
    name: &str,
    member: &Member,
    bytes: &[u8],
    extent: Extent,
    checkpoint: &mut Checkpoint,
) -> Result<Tensor> {
    let end = member.start.checked_add(member.packed_len);
    let packed = end.and_then(|end| extent.part(member.start, end));
    let packed = packed.ok_or_else(|| {
        Error::malformed(member.start, format!("the member `{name}` passes the end"))
    })?;
    let start = usize::try_from(packed.start).unwrap_or(usize::MAX);
    let stored = bytes.get(start..).unwrap_or_default();
    let stored = &stored[..stored.len().min(usize::try_from(packed.len).unwrap_or(usize::MAX))];
    match member.method {
        Method::Stored => {
            let array = array(name, stored, packed.start)?;
            checkpoint.findings.extend(array.noticed(name, array.left));
            checkpoint.checksums.push(StoredChecksum {
                tensor: name.to_owned(),
                bytes: packed,
                kind: Checksum::Crc32,
                value: member.crc,
                is_compared_on_reading: true,
            });
            Ok(array.plain(name, packed))
        }
        Method::Deflated => {
            let mut head = Vec::new();
            let most = MAX_HEADER_LEN + 12;
            DeflateDecoder::new(stored).take(most).read_to_end(&mut head).map_err(|err| {
                Error::malformed(packed.start, format!("cannot inflate `{name}`: {err}"))
            })?;
            let array = array(name, &head, packed.start)?;
            checkpoint.findings.extend(array.noticed(name, array.n_bytes.unwrap_or(0)));
            let taken = array.n_bytes.and_then(|n| n.checked_add(array.start));
            if array.unreadable.is_none() && taken != Some(member.len) {
                let message = format!(
                    "the array `{name}` of {} {:?} does not take the {} bytes of its member",
                    array.dtype, array.shape, member.len
                );
                return Err(Error::malformed(packed.start, message));
            }
            let steps = vec![Filter::Deflate, Filter::Crc32(member.crc), Filter::Skip(array.start)];
            Ok(array.coded(name, packed, steps))
        }
        Method::Other(method) => {
            let why =
                format!("its member is packed with method {method}, which nothing here reads");
            let (dtype, shape) = (DType::Unknown, Vec::new());
            let payload = Payload::Unreadable(why);
            Ok(Tensor { name: name.into(), dtype, shape, encoding: None, payload })
        }
    }
}

/// What a header says.
struct Array {
    dtype: DType,
    /// Whether the file says no more of the dtype than how many bytes an element has.
    is_opaque: bool,
    big_endian: bool,
    fortran: bool,
    shape: Vec<u64>,
    /// The first byte of the elements, from the start of the array.
    start: u64,
    n_bytes: Option<u64>,
    /// Why the values cannot be had.
    unreadable: Option<String>,
    /// Bytes of elements that there are, where the file was seen whole.
    left: u64,
}

fn array(name: &str, bytes: &[u8], base: u64) -> Result<Array> {
    let mut cursor = Cursor::new(bytes, base);
    let about = |err: Error| err.context(&format!("the array `{name}`"));
    let magic = cursor.take(MAGIC.len() as u64, "the magic").map_err(about)?;
    if magic != MAGIC {
        return Err(about(Error::malformed(base, "does not begin with the magic of NumPy")));
    }
    let version = cursor.u8("the version").map_err(about)?;
    cursor.u8("the version").map_err(about)?;
    let len = match version {
        1 => {
            u64::from(cursor.u8("a length").map_err(about)?)
                | (u64::from(cursor.u8("a length").map_err(about)?) << 8)
        }
        2 | 3 => u64::from(cursor.u32_le("the length of the header").map_err(about)?),
        other => {
            let message = format!("is of version {other} of the format; 1 to 3 are read");
            return Err(about(Error::unsupported(message).at(base)));
        }
    };
    let at = cursor.offset();
    if MAX_HEADER_LEN < len {
        let message = format!("a header of {len} bytes, at most {MAX_HEADER_LEN} are read");
        return Err(about(Error::limit(at, message)));
    }
    let text = cursor.take(len, "the header").map_err(about)?;
    let start = cursor.offset() - base;
    let text = std::str::from_utf8(text);
    let header = text.ok().and_then(Literal::header);
    let Some((descr, fortran, shape)) = header else {
        let message = "its header is no dictionary of `descr`, `fortran_order` and `shape`";
        return Err(about(Error::malformed(at, message)));
    };
    let is_opaque = descr.as_deref().is_some_and(|descr| descr.contains('V'));
    let (dtype, big_endian, unreadable) = match descr {
        Some(descr) => match dtype(&descr) {
            Ok((dtype, big_endian)) => (dtype, big_endian, None),
            Err(why) => (DType::Unknown, false, Some(why)),
        },
        None => (DType::Unknown, false, Some("its elements are records of several fields".into())),
    };
    let n_bytes = n_elements(&shape).and_then(|n| dtype.n_bytes(n));
    if unreadable.is_none() && n_bytes.is_none() {
        return Err(about(Error::malformed(at, format!("{shape:?} has more bytes than 2^64"))));
    }
    let left = cursor.left();
    let is_opaque = is_opaque && dtype == DType::BF16;
    Ok(Array { dtype, is_opaque, big_endian, fortran, shape, start, n_bytes, unreadable, left })
}

/// The kinds of numbers, with the bytes that one takes.
const DTYPES: &[(&str, DType)] = &[
    ("b1", DType::Bool),
    ("u1", DType::U8),
    ("i1", DType::I8),
    ("u2", DType::U16),
    ("i2", DType::I16),
    ("u4", DType::U32),
    ("i4", DType::I32),
    ("u8", DType::U64),
    ("i8", DType::I64),
    ("f2", DType::F16),
    ("f4", DType::F32),
    ("f8", DType::F64),
    ("c8", DType::C64),
    ("c16", DType::C128),
    // NumPy has no bfloat16; two bytes of no kind are what libraries that add it leave.
    ("V2", DType::BF16),
];

/// The dtype of a `descr`, and whether its high byte comes first.
pub(super) fn dtype(descr: &str) -> Result<(DType, bool), String> {
    let kind = descr.trim_start_matches(['<', '>', '|', '=']);
    let known = DTYPES.iter().find(|(word, _)| *word == kind);
    let dtype = match kind {
        _ if known.is_some() => known.map_or(DType::Unknown, |(_, dtype)| *dtype),
        // Python's own word for it.
        "?" => DType::Bool,
        "O" => {
            return Err("is an array of Python objects: a pickle, which is never run here; save \
                        its numbers as an array of a numeric dtype"
                .to_owned());
        }
        _ => return Err(format!("its elements are of the dtype {descr:?}, which is no number")),
    };
    Ok((dtype, descr.starts_with('>') && 8 < dtype.bits()))
}

impl Array {
    /// What there is to say of it, where its file has `left` bytes for its elements.
    fn noticed(&self, name: &str, left: u64) -> impl Iterator<Item = Diagnostic> {
        let opaque = self.is_opaque.then(|| super::taken_for_bf16(name));
        opaque.into_iter().chain(self.trailing(name, left))
    }

    /// What follows the elements, of which there are `left` bytes, and no program reads.
    fn trailing(&self, name: &str, left: u64) -> Option<Diagnostic> {
        let n = left.checked_sub(self.n_bytes?).filter(|&n| n != 0 && self.unreadable.is_none())?;
        let message = format!("{n} bytes follow the array `{name}`, and NumPy reads it alone");
        let help = "where several arrays were saved into one file, read them one by one with \
                    numpy.load and save them with numpy.savez";
        Some(Diagnostic::warning("R008", message).tensor(name).help(help))
    }

    fn strides(&self) -> Vec<u64> {
        if !self.fortran {
            return row_major_strides(&self.shape);
        }
        let turned: Vec<u64> = self.shape.iter().rev().copied().collect();
        row_major_strides(&turned).into_iter().rev().collect()
    }

    /// The tensor of an array that lies in a part of a file as it is.
    fn plain(self, name: &str, extent: Extent) -> Tensor {
        let n_bytes = self.n_bytes.unwrap_or(0);
        let storage = self.start.checked_add(n_bytes).and_then(|end| extent.part(self.start, end));
        let payload = match (&self.unreadable, storage) {
            (Some(why), _) => Payload::Unreadable(why.clone()),
            (None, None) => Payload::Unreadable(format!(
                "takes {n_bytes} bytes, the file ends after {}",
                self.left
            )),
            (None, Some(storage)) if !self.big_endian && !self.fortran => Payload::Range(storage),
            (None, Some(storage)) => Payload::View(Box::new(View {
                storage,
                offset: 0,
                strides: self.strides(),
                big_endian: self.big_endian,
            })),
        };
        self.tensor(name, payload)
    }

    /// The tensor of an array that lies in a part of a file behind filters.
    fn coded(self, name: &str, storage: Extent, steps: Vec<Filter>) -> Tensor {
        let payload = match &self.unreadable {
            Some(why) => Payload::Unreadable(why.clone()),
            None => Payload::Tiles(vec![Tile {
                at: vec![0; self.shape.len()],
                shape: self.shape.clone(),
                data: View {
                    storage,
                    offset: 0,
                    strides: self.strides(),
                    big_endian: self.big_endian,
                },
                coding: Some(Coding { steps, len: self.n_bytes.unwrap_or(0) }),
            }]),
        };
        self.tensor(name, payload)
    }

    fn tensor(self, name: &str, payload: Payload) -> Tensor {
        Tensor { name: name.into(), dtype: self.dtype, shape: self.shape, encoding: None, payload }
    }
}

/// The Python dictionary of a header, as much of the language as NumPy and MLX write.
struct Literal<'a>(&'a str);

/// `descr` where it is text and no list of fields, `fortran_order`, and `shape`.
type Header = (Option<String>, bool, Vec<u64>);

impl<'a> Literal<'a> {
    fn header(text: &'a str) -> Option<Header> {
        let mut rest = Literal(text);
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        rest.eat('{')?;
        while rest.eat('}').is_none() {
            let key = rest.string()?;
            rest.eat(':')?;
            match key {
                "descr" if rest.0.trim_start().starts_with(['[', '(']) => {
                    rest.fields()?;
                    descr = Some(None);
                }
                "descr" => descr = Some(Some(rest.string()?.to_owned())),
                "fortran_order" => fortran = Some(rest.bool()?),
                "shape" => shape = Some(rest.tuple()?),
                _ => return None,
            }
            if rest.eat(',').is_none() {
                rest.eat('}')?;
                break;
            }
        }
        rest.0.trim().is_empty().then_some((descr?, fortran?, shape?))
    }

    fn eat(&mut self, wanted: char) -> Option<()> {
        self.0 = self.0.trim_start().strip_prefix(wanted)?;
        Some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start();
        let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
        let (inner, rest) = text[1..].split_once(quote)?;
        self.0 = rest;
        (!inner.contains('\\')).then_some(inner)
    }

    fn bool(&mut self) -> Option<bool> {
        let text = self.0.trim_start();
        let (value, rest) = match text.strip_prefix("True") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("False")?),
        };
        self.0 = rest;
        Some(value)
    }

    fn tuple(&mut self) -> Option<Vec<u64>> {
        self.eat('(')?;
        let mut items = Vec::new();
        while self.eat(')').is_none() {
            let text = self.0.trim_start();
            let len = text.bytes().take_while(u8::is_ascii_digit).count();
            items.push(text[..len].parse().ok()?);
            // Python 2 wrote `3L`.
            self.0 = text[len..].trim_start_matches('L');
            if self.eat(',').is_none() {
                self.eat(')')?;
                break;
            }
        }
        Some(items)
    }

    /// Passes over a list of fields, whatever they are.
    fn fields(&mut self) -> Option<()> {
        let text = self.0.trim_start();
        let mut depth = 0usize;
        for (at, char) in text.char_indices() {
            match char {
                '[' | '(' => depth += 1,
                ']' | ')' => depth = depth.checked_sub(1)?,
                _ => {}
            }
            if depth == 0 {
                self.0 = &text[at + 1..];
                return Some(());
            }
        }
        None
    }
}
