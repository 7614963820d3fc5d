//! What a format has for dtypes and blocks.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::base::diagnostic::Diagnostic;
use crate::base::name::Name;
use crate::checkpoint::{DType, Encoding};
use crate::encoding::BlockType;
use crate::package::Provenance;
use crate::plan::{DECODE_HELP, Tensors};
use crate::spec::ecosystem::{Ecosystem, config};

/// Refuses packed tensors in a format whose readers do not know them.
///
/// # Errors
/// There are some.
pub fn refuse_blocks(
    format: &str,
    encodings: &BTreeMap<Name, Encoding>,
) -> Result<(), Vec<Diagnostic>> {
    let is_refused = |encoding: &&Encoding| {
        let is_block = BlockType::find(&encoding.id).is_some();
        is_block != Ecosystem::of(format).blocks
    };
    let mut found = encodings.iter().filter(|(_, encoding)| is_refused(encoding));
    let Some((name, encoding)) = found.next() else { return Ok(()) };
    let n = 1 + found.count();
    let id = &encoding.id;
    let message = format!("`{name}` is in {id}, which no reader of {format} knows ({n} such)");
    Err(vec![Diagnostic::error("P012", message).tensor(name).help(DECODE_HELP)])
}

/// A dtype in the words of configs; F32 where nothing says it.
pub fn dtype_word(dtype: Option<DType>) -> &'static str {
    match dtype {
        Some(DType::BF16) => "bfloat16",
        Some(DType::F16) => "float16",
        Some(DType::F64) => "float64",
        _ => "float32",
    }
}

/// States the dtype of the weights, in the words of old and of new readers.
pub(super) fn write_dtype(config: &mut Json, tensors: &Tensors, source: Option<&Provenance>) {
    let Json::Object(object) = config else { return };
    let mut sizes: BTreeMap<DType, u64> = BTreeMap::new();
    for output in tensors.outputs.iter().filter(|output| output.dtype.is_float()) {
        *sizes.entry(output.dtype).or_default() += output.n_bytes();
    }
    let most = sizes.iter().max_by_key(|(_, bytes)| **bytes).map(|(dtype, _)| *dtype);
    // What the source said stands for tensors that are as they were there, however often they were
    // converted in between.
    let recorded: BTreeMap<&str, &str> = source
        .iter()
        .flat_map(|source| &source.tensors)
        .map(|tensor| (tensor.name.as_str(), &*tensor.dtype))
        .collect();
    let is_cast = tensors.outputs.iter().filter(|output| output.dtype.is_float()).any(|output| {
        let dtype = recorded.get(output.name.as_str()).and_then(|name| DType::parse(name));
        dtype.is_some_and(|dtype| dtype.is_float() && dtype != output.dtype)
    });
    let stated = config::DTYPES
        .iter()
        .find_map(|key| object.get(*key).filter(|stated| stated.is_string() && !is_cast).cloned());
    let word = stated.unwrap_or_else(|| dtype_word(most).into());
    for key in config::DTYPES.iter().rev() {
        object.insert((*key).to_owned(), word.clone());
    }
}
