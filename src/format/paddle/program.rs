//! `.pdiparams`: the parameters of a program, whose names the program has, in their order.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::base::cursor::Cursor;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, Result};
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor};
use crate::container::protobuf::{Field, numbers, walk};

/// The most dimensions of a tensor, and levels of one that is cut into sequences.
const MAX_RANK: usize = 64;
const MAX_LEVELS: u64 = 16;

/// Reads the tensors, and their names of the program beside the file.
pub(super) fn read(source: &mut Source, file: FileId, checkpoint: &mut Checkpoint) -> Result<()> {
    let extent = source.extent(file);
    let bytes = source.bytes(file);
    let mut cursor = Cursor::new(bytes, 0);
    while !cursor.is_empty() {
        let number = checkpoint.tensors.len();
        let tensor = tensor(&mut cursor, extent, number)
            .map_err(|err| err.context(&format!("the tensor of number {number}")))?;
        checkpoint.tensors.push(tensor);
    }
    let names = names(source, file);
    if names.as_ref().is_some_and(|names| names.len() == checkpoint.tensors.len()) {
        for (tensor, name) in checkpoint.tensors.iter_mut().zip(names.into_iter().flatten()) {
            tensor.name = name.into();
        }
    } else {
        let message = "has no names; the program beside it (`.json`, `.pdmodel`) does not have as \
                       many, so that tensors are numbered";
        checkpoint.findings.push(Diagnostic::note("R034", message));
    }
    Ok(())
}

fn tensor(cursor: &mut Cursor<'_>, file: Extent, number: usize) -> Result<Tensor> {
    let at = cursor.offset();
    let version = cursor.u32_le("a version")?;
    let levels = cursor.u64_le("the number of levels")?;
    if version != 0 || MAX_LEVELS < levels {
        let message = format!("version {version} and {levels} levels, where 0 and a few should be");
        return Err(Error::malformed(at, message));
    }
    for _ in 0..levels {
        let len = cursor.u64_le("the length of a level")?;
        cursor.take(len, "a level")?;
    }
    let at = cursor.offset();
    let version = cursor.u32_le("a version")?;
    if version != 0 {
        return Err(Error::malformed(at, format!("a tensor of version {version}")));
    }
    let len = u64::from(cursor.u32_le("the length of a description")?);
    let base = cursor.offset();
    let (mut kind, mut shape) = (None, Vec::new());
    for field in walk(cursor.take(len, "a description")?, base) {
        let dims: Vec<u64> = match field? {
            (1, Field::Varint(number)) => {
                kind = Some(number);
                continue;
            }
            (2, Field::Varint(dim)) => vec![dim],
            (2, Field::Bytes(packed, at)) => {
                numbers(packed, at).take(MAX_RANK + 1).collect::<Result<_>>()?
            }
            _ => continue,
        };
        shape.extend(dims);
        if MAX_RANK < shape.len() {
            return Err(Error::malformed(base, format!("more than {MAX_RANK} dimensions")));
        }
    }
    let dtype = kind.and_then(dtype);
    let dtype = dtype.ok_or_else(|| {
        // What follows begins where these elements end, and nothing says where.
        let kind = kind.map_or("no type".to_owned(), |kind| format!("the type {kind} of Paddle"));
        Error::unsupported(format!("its elements are of {kind}")).at(base)
    })?;
    let name = format!("{number}");
    let mut tensor =
        Tensor { name: name.into(), dtype, shape, encoding: None, payload: Payload::Range(file) };
    let len = tensor.n_bytes().ok_or_else(|| {
        Error::malformed(base, format!("{:?} of {dtype} has more bytes than 2^64", tensor.shape))
    })?;
    let start = cursor.offset();
    cursor.take(len, "the elements")?;
    tensor.payload = Payload::Range(Extent { start, len, ..file });
    Ok(tensor)
}

/// `VarType.Type` of `framework.proto`.
fn dtype(kind: u64) -> Option<DType> {
    Some(match kind {
        0 => DType::Bool,
        1 => DType::I16,
        2 => DType::I32,
        3 => DType::I64,
        4 => DType::F16,
        5 => DType::F32,
        6 => DType::F64,
        20 => DType::U8,
        21 => DType::I8,
        22 => DType::BF16,
        23 => DType::C64,
        24 => DType::C128,
        32 => DType::F8E4M3,
        33 => DType::F8E5M2,
        _ => return None,
    })
}

/// The names of the parameters of the program that lies beside a file, as they are sorted.
fn names(source: &mut Source, file: FileId) -> Option<Vec<String>> {
    let stem = source.name(file).strip_suffix(".pdiparams")?.to_owned();
    let mut beside = |end: &str| {
        let name = format!("{stem}{end}");
        let found = source.has(&name).then(|| source.add(&name).ok()).flatten();
        found.map(|id| source.bytes(id).to_vec())
    };
    let names = match beside(".json") {
        Some(text) => of_json(&text)?,
        None => of_proto(&beside(".pdmodel")?).ok()?,
    };
    Some(names.into_iter().collect())
}

/// The operations `p` of a program in JSON have the names of parameters.
fn of_json(text: &[u8]) -> Option<BTreeSet<String>> {
    let json: Json = serde_json::from_slice(text).ok()?;
    let list = |json: &Json, key: &str| json.get(key).and_then(Json::as_array).cloned();
    let mut names = BTreeSet::new();
    for region in list(json.get("program")?, "regions")? {
        for block in list(&region, "blocks").unwrap_or_default() {
            for op in list(&block, "ops").unwrap_or_default() {
                if op.get("#").and_then(Json::as_str) == Some("p") {
                    names.insert(list(&op, "A")?.get(3)?.as_str()?.to_owned());
                }
            }
        }
    }
    Some(names)
}

/// `ProgramDesc.blocks.vars`: those that are kept, and no feed or fetch.
fn of_proto(bytes: &[u8]) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for block in walk(bytes, 0) {
        let (1, Field::Bytes(block, at)) = block? else { continue };
        for var in walk(block, at) {
            let (3, Field::Bytes(var, at)) = var? else { continue };
            let (mut name, mut is_kept, mut kind) = (String::new(), false, 0);
            for field in walk(var, at) {
                match field? {
                    (1, Field::Bytes(text, _)) => name = String::from_utf8_lossy(text).into_owned(),
                    (2, Field::Bytes(of, at)) => {
                        let first = walk(of, at).next().transpose()?;
                        kind = first.and_then(|(_, field)| field.varint()).unwrap_or(0);
                    }
                    (3, Field::Varint(flag)) => is_kept = flag == 1,
                    _ => {}
                }
            }
            // A feed and a fetch list.
            if is_kept && !matches!(kind, 9 | 10) {
                names.insert(name);
            }
        }
    }
    Ok(names)
}
