//! CTranslate2's `model.bin`: variables one behind the other, then the names that share one.
//!
//! ```text
//! version u32  name of the spec (u16 length with a NUL)  revision u32  count u32
//! (name  rank u8  dims u32*  type u8  bytes u32  elements)*  count u32  (name  variable)*
//! ```
//!
//! Spec: `CTranslate2/python/ctranslate2/specs/model_spec.py`, `src/models/model.cc`.

use std::collections::{BTreeMap, BTreeSet};

use super::{Format, Probe};
use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};
use crate::base::name::Name;
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor};

/// The format for the registry.
pub static FORMAT: Format = Format {
    id: "ctranslate2",
    name: "CTranslate2",
    endings: &["bin"],
    singles: &["model.bin"],
    dialect: "ctranslate2",
    probe,
    read,
    ..Format::DEFAULT
};

/// The versions that are read.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=6;
/// What the name of a spec ends with.
const SPEC: &[u8] = b"Spec\0";
/// The most dimensions of a variable.
const MAX_RANK: u8 = 16;

fn probe(head: &[u8], _: &str) -> Probe {
    let spec = head.get(4..6).map(|len| usize::from(u16::from_le_bytes([len[0], len[1]])));
    let version = head.get(..4).map(|v| u32::from_le_bytes([v[0], v[1], v[2], v[3]]));
    let name = spec.and_then(|len| head.get(6..6 + len));
    let fits = version.is_some_and(|version| VERSIONS.contains(&version))
        && name.is_some_and(|name| name.ends_with(SPEC));
    if fits { Probe::Sure } else { Probe::No }
}

fn read(source: &mut Source, file: FileId) -> Result<Checkpoint> {
    let extent = source.extent(file);
    model(source.bytes(file), extent).map_err(|err| err.in_file(source.path(file)))
}

fn model(bytes: &[u8], file: Extent) -> Result<Checkpoint> {
    let mut cursor = Cursor::new(bytes, 0);
    let mut checkpoint = Checkpoint { format: FORMAT.id, ..Checkpoint::default() };
    let version = cursor.u32_le("the version")?;
    if !VERSIONS.contains(&version) {
        let message = format!("is of version {version}; {VERSIONS:?} are read");
        return Err(Error::unsupported(message).at(0));
    }
    let spec = text(&mut cursor, "the name of the spec")?;
    let revision = cursor.u32_le("the revision")?;
    for (key, value) in
        [("version", version.to_string()), ("spec", spec), ("revision", revision.to_string())]
    {
        checkpoint.metadata.insert(key.to_owned(), value);
    }
    let mut names = BTreeSet::new();
    // The list grows with what is there, not with the count.
    for _ in 0..cursor.u32_le("the number of variables")? {
        let at = cursor.offset();
        let tensor = variable(&mut cursor, version, file)?;
        if !names.insert(tensor.name.clone()) {
            let message = format!("two variables are named `{}`", tensor.name);
            return Err(Error::malformed(at, message));
        }
        checkpoint.tensors.push(tensor);
    }
    if 3 <= version {
        aliases(&mut cursor, names, &mut checkpoint)?;
    }
    if !cursor.is_empty() {
        let message = format!("{} bytes are left behind the last name", cursor.left());
        return Err(Error::malformed(cursor.offset(), message));
    }
    Ok(checkpoint)
}

/// Names of variables that are there under another one.
fn aliases(
    cursor: &mut Cursor<'_>,
    mut names: BTreeSet<Name>,
    checkpoint: &mut Checkpoint,
) -> Result<()> {
    let variables = checkpoint.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.clone()));
    let variables: BTreeMap<Name, Tensor> = variables.collect();
    for _ in 0..cursor.u32_le("the number of other names")? {
        let at = cursor.offset();
        let name = Name::from(text(cursor, "another name")?);
        let of = text(cursor, "the name of a variable")?;
        let variable = variables.get(&*of).ok_or_else(|| {
            Error::malformed(at, format!("`{name}` is `{of}`, and there is no such variable"))
        })?;
        if !names.insert(name.clone()) {
            return Err(Error::malformed(at, format!("two variables are named `{name}`")));
        }
        checkpoint.tensors.push(Tensor { name, ..variable.clone() });
    }
    Ok(())
}

fn variable(cursor: &mut Cursor<'_>, version: u32, file: Extent) -> Result<Tensor> {
    let name = text(cursor, "the name of a variable")?;
    let about = |err: Error| err.context(&format!("`{name}`"));
    let at = cursor.offset();
    let rank = cursor.u8("the number of dimensions").map_err(about)?;
    if MAX_RANK < rank {
        return Err(about(Error::malformed(at, format!("{rank} dimensions"))));
    }
    let dims = (0..rank).map(|_| cursor.u32_le("a dimension").map(u64::from));
    let shape: Vec<u64> = dims.collect::<Result<_>>().map_err(about)?;
    let kind = cursor.u8("the type").map_err(about)?;
    let count = u64::from(cursor.u32_le("the number of bytes").map_err(about)?);
    // Before version 4 an element's width and the number of elements.
    let (dtype, len) = match (version, kind) {
        (..=3, 1) => (Some(DType::I8), count),
        (..=3, 2) => (Some(DType::I16), count * 2),
        (..=3, 4) => (Some(DType::F32), count * 4),
        (..=3, width) => (None, count * u64::from(width)),
        (_, 0) => (Some(DType::F32), count),
        (_, 1) => (Some(DType::I8), count),
        (_, 2) => (Some(DType::I16), count),
        (_, 3) => (Some(DType::I32), count),
        (_, 4) => (Some(DType::F16), count),
        (_, 5) => (Some(DType::BF16), count),
        _ => (None, count),
    };
    let start = cursor.offset();
    cursor.take(len, "the elements").map_err(about)?;
    let payload = match dtype {
        Some(_) => Payload::Range(Extent { start, len, ..file }),
        None => Payload::Unreadable(format!("its elements are of the type {kind} of CTranslate2")),
    };
    let dtype = dtype.unwrap_or(DType::Unknown);
    let tensor = Tensor { name: name.clone().into(), dtype, shape, encoding: None, payload };
    if dtype != DType::Unknown && tensor.n_bytes() != Some(len) {
        let message = format!("{:?} of {dtype} in {len} bytes", tensor.shape);
        return Err(about(Error::malformed(start, message)));
    }
    Ok(tensor)
}

/// A text with its length, in which a NUL at its end counts.
fn text(cursor: &mut Cursor<'_>, what: &str) -> Result<String> {
    let at = cursor.offset();
    let len = [cursor.u8(what)?, cursor.u8(what)?];
    let bytes = cursor.take(u64::from(u16::from_le_bytes(len)), what)?;
    let text = bytes.strip_suffix(&[0]).and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.map(str::to_owned).ok_or_else(|| Error::malformed(at, format!("{what} is no text")))
}
