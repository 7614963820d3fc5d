//! Programs of `torch.export` (`.pt2`): their weights, each a member of a zip file. The graph is not read.
//!
//! ```text
//! <top>/archive_format                             `pt2`
//! <top>/data/weights/<model>_weights_config.json   {"config": {name: {path_name, use_pickle, tensor_meta}}}
//! <top>/data/weights/weight_0                      a storage each
//! serialized_state_dict.pt                         before torch 2.8: what `torch.save` wrote
//! ```
//!
//! Spec: `torch/export/pt2_archive/_package.py`, `torch/_export/serde/schema.py` of torch 2.15.

use serde_json::Value as Json;

use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::json;
use crate::base::source::{Extent, Source};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor};
use crate::container::zip::{Member, Method, Zip};

use super::locate::locate;
use super::storage::{self, Class};

/// The ends of the names of the lists of weights and of constants, with the folders of what they list.
const LISTS: &[(&str, &str)] =
    &[("_weights_config.json", "weights"), ("_constants_config.json", "constants")];
/// The state dict as older programs have it.
pub(super) const OLD_STATE: &str = "serialized_state_dict.pt";
/// A longer list is none of a model.
const MAX_LIST_LEN: u64 = 256 << 20;
/// The names of dtypes in torch by the numbers of the schema.
const DTYPES: &[(u64, &str)] = &[
    (1, "uint8"),
    (2, "int8"),
    (3, "int16"),
    (4, "int32"),
    (5, "int64"),
    (6, "float16"),
    (7, "float32"),
    (8, "float64"),
    (9, "complex32"),
    (10, "complex64"),
    (11, "complex128"),
    (12, "bool"),
    (13, "bfloat16"),
    (28, "uint16"),
    (29, "float8_e4m3fn"),
    (30, "float8_e5m2"),
    (31, "float8_e4m3fnuz"),
    (32, "float8_e5m2fnuz"),
    (33, "float8_e8m0fnu"),
    (34, "uint32"),
    (35, "uint64"),
];

/// Whether a zip file is such a program.
pub(super) fn is_program(zip: &Zip) -> bool {
    let (weights, _) = LISTS[0];
    zip.members().iter().any(|member| member.name.ends_with(weights))
}

/// Reads the weights of a program.
pub(super) fn read(source: &Source, zip: &Zip, extent: Extent) -> Result<Checkpoint> {
    let bytes = source.slice(extent)?;
    let mut checkpoint = Checkpoint { format: "pytorch", ..Checkpoint::default() };
    let (end, _) = LISTS[0];
    let lists: Vec<&Member> =
        zip.members().iter().filter(|member| member.name.ends_with(end)).collect();
    for list in &lists {
        let base = list.name.rsplit('/').next().unwrap_or(&list.name);
        let model = base.strip_suffix(end).unwrap_or(base);
        let text = list.unpack(bytes, MAX_LIST_LEN)?;
        let json = json::parse(&text, list.start)?;
        let home = list.name.strip_suffix(base).unwrap_or_default();
        let config = json.get("config").and_then(Json::as_object);
        let config = config.ok_or_else(|| {
            let message = format!("{} has no object `config`", list.name);
            Error::new(ErrorKind::Malformed, message)
        })?;
        for (name, entry) in config {
            // Names are unique in one model.
            let name = if lists.len() == 1 { name.clone() } else { format!("{model}.{name}") };
            let mut tensor = Tensor {
                name: name.into(),
                dtype: DType::Unknown,
                shape: Vec::new(),
                encoding: None,
                payload: Payload::Unreadable(String::new()),
            };
            tensor.payload =
                weight(zip, home, entry, extent, &mut tensor).unwrap_or_else(Payload::Unreadable);
            checkpoint.tensors.push(tensor);
        }
    }
    let (end, what) = LISTS[1];
    let others = zip.members().iter().filter(|member| member.name.contains(&format!("/{what}/")));
    let n = others.filter(|member| !member.name.ends_with(end)).count();
    if n != 0 {
        let message = format!("{n} constants of the program are no weights, and are left aside");
        checkpoint.findings.push(Diagnostic::note(super::rule::LEFT_OUT_KEYS, message));
    }
    super::report_tensors(&checkpoint.tensors, &mut checkpoint.findings);
    checkpoint.metadata.insert("pytorch.container".to_owned(), "zip".to_owned());
    checkpoint.metadata.insert("pytorch.kind".to_owned(), "torch.export".to_owned());
    Ok(checkpoint)
}

/// Where a weight is, or why it cannot be had; what is said of it goes into the tensor.
fn weight(
    zip: &Zip,
    home: &str,
    entry: &Json,
    archive: Extent,
    tensor: &mut Tensor,
) -> Result<Payload, String> {
    let meta = entry.get("tensor_meta").ok_or("the list says no shape of it")?;
    let class = meta.get("dtype").and_then(Json::as_u64).and_then(class);
    let class = class.ok_or("its dtype is not known")?;
    tensor.dtype = class.dtype;
    let numbers =
        |key: &str| -> Option<Vec<u64>> { meta.get(key)?.as_array()?.iter().map(number).collect() };
    tensor.shape = numbers("sizes").ok_or("its shape is not one of numbers")?;
    let strides = numbers("strides").ok_or("its strides are no numbers")?;
    let offset = meta.get("storage_offset").and_then(number).ok_or("its offset is no number")?;
    if entry.get("use_pickle").and_then(Json::as_bool) == Some(true) {
        return Err("it is a pickle of its own; load it with torch and save it plain".to_owned());
    }
    if let Some(fault) = class.fault {
        return Err(fault.to_owned());
    }
    let path =
        entry.get("path_name").and_then(Json::as_str).ok_or("the list names no file of it")?;
    let member = zip.find(&format!("{home}{path}"));
    let member = member.ok_or_else(|| format!("its storage {path:?} is not in the file"))?;
    if member.method != Method::Stored {
        return Err("its storage is compressed".to_owned());
    }
    let end = member.start.checked_add(member.packed_len);
    let bytes = end.and_then(|end| archive.part(member.start, end));
    let bytes = bytes.ok_or_else(|| format!("its storage {path:?} passes the end"))?;
    locate(bytes, offset, &tensor.shape, strides, class, false)
}

/// A number that the compiler of a program may also leave open.
fn number(json: &Json) -> Option<u64> {
    json.as_u64().or_else(|| json.get("as_int")?.as_u64())
}

fn class(number: u64) -> Option<&'static Class> {
    let (_, name) = DTYPES.iter().find(|(known, _)| *known == number)?;
    storage::dtype("torch", name)
}
