//! Words of the command line.

use std::path::{Path, PathBuf};

use super::request::STD;
use super::target::{TARGETS, find};
use crate::checkpoint::DType;
use crate::encoding::{BLOCK_TYPES, BlockType};
use crate::format::gguf::types::TYPES;

/// A size of the command line: `5GB`, `500MB`, `1GiB`, or bytes.
///
/// # Errors
/// The text is no size.
pub fn parse_size(text: &str) -> std::result::Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let factor: u64 = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" => 1_000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "T" | "TB" => 1_000_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        "TIB" => 1 << 40,
        other => return Err(format!("{other:?} is no unit of size: B, KB, MB, GB, KiB, MiB, GiB")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no size, like 5GB"))?;
    number
        .checked_mul(factor)
        .filter(|&size| size != 0)
        .ok_or_else(|| format!("{text:?} is no size"))
}

/// A dtype of the command line: `bf16`, `float16`, `F32`.
///
/// # Errors
/// The text names no dtype that can be cast to.
pub fn parse_dtype(text: &str) -> std::result::Result<DType, String> {
    let lower = text.to_ascii_lowercase();
    let short = lower.replace("bfloat", "bf").replace("float", "f");
    let dtype = match short.as_str() {
        "f16" | "half" => DType::F16,
        "bf16" => DType::BF16,
        "f32" => DType::F32,
        "f64" => DType::F64,
        _ => return Err(format!("{text:?} is no dtype to cast to: f16, bf16, f32, f64")),
    };
    Ok(dtype)
}

/// A type of blocks of the command line: `q8_0`, `Q4_K`.
///
/// # Errors
/// The text names none that this program packs numbers in.
pub fn parse_quant(text: &str) -> std::result::Result<&'static BlockType, String> {
    let id = format!("ggml.{}", text.to_ascii_lowercase());
    // Others are of activations, or are no blocks.
    let is_of_weights = |id| TYPES.block(id).is_some_and(|block| block.file_type.is_some());
    let can = |blocks: &&BlockType| blocks.can_quantize() && is_of_weights(blocks.id);
    BlockType::find(&id).filter(can).ok_or_else(|| {
        let known =
            BLOCK_TYPES.iter().filter(can).map(|blocks| blocks.id.trim_start_matches("ggml."));
        format!("{text:?} is no type to pack in: {}", known.collect::<Vec<_>>().join(", "))
    })
}

/// The format to write: what was asked for, or what the name of the destination says, or the
/// standard.
///
/// # Errors
/// The two contradict.
pub fn target<'a>(
    destination: &Path,
    asked: Option<&'a str>,
) -> std::result::Result<&'a str, String> {
    let ending = destination.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let fits = |of: &str| ending.eq_ignore_ascii_case(of);
    let named = TARGETS.iter().find(|target| target.ending.is_some_and(fits));
    let named = named.map(|target| target.id);
    match (asked, named) {
        (Some(asked), Some(named)) if asked != named => Err(format!(
            "{} names a {named} file, and --to {asked} is something else: leave --to out, or name \
             the destination otherwise",
            destination.display()
        )),
        (asked, named) => Ok(asked.or(named).unwrap_or(STD)),
    }
}

/// The most bytes of tensors in one file of a folder, where nothing else is asked for.
const MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// The most bytes of tensors in one file, where nothing else is asked for: 5 GB, and no limit for a
/// destination that is one file.
pub fn max_shard_bytes(to: &str, destination: &Path) -> Option<u64> {
    let is_whole = find(to).is_some_and(|of| !of.is_split || of.is_file(destination));
    (!is_whole).then_some(MAX_SHARD_BYTES)
}

/// The path of a request's destination without a trailing slash.
pub fn strip_slash(path: &Path) -> PathBuf {
    path.components().collect()
}
