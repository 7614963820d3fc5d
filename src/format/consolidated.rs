//! The layout of Meta's own code, which Mistral's follows: `consolidated.00.pth` and more, one file
//! for each rank that the matrices are split over, with `params.json`; or `consolidated.safetensors`.
//!
//! Which axis a matrix is split along follows from its name alone. Spec: meta-llama/llama-models
//! `models/checkpoint.py`, meta-llama/llama3 `llama/model.py`.

use std::collections::{BTreeMap, BTreeSet};

use super::pytorch::object::refused;
use super::pytorch::{self, quote};
use super::ranks::same_values;
use super::{Format, safetensors};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::{FileId, Source};
use crate::checkpoint::tiles::Tile;
use crate::checkpoint::{Checkpoint, Payload, Tensor};

/// The format for the registry. No file is told to be of it by itself: its folder is.
pub static FORMAT: Format = Format { id: "meta", name: "Meta", dialect: "meta", ..Format::DEFAULT };

/// The config beside the weights.
pub const PARAMS_FILE: &str = "params.json";

const WHOLE: &str = "consolidated.safetensors";

/// The matrices that are split, by the ends of their names, and the axis; of one with two axes, the
/// first is right where the other axis has the width of [`WIDTH`].
const SPLIT: &[(&str, &[usize])] = &[
    ("tok_embeddings.weight", &[0, 1]),
    ("output.weight", &[0]),
    ("wq.weight", &[0]),
    ("wk.weight", &[0]),
    ("wv.weight", &[0]),
    ("wo.weight", &[1]),
    ("w1.weight", &[0]),
    ("w2.weight", &[1]),
    ("w3.weight", &[0]),
];

/// The axes that a matrix may be split along, by its name: one, or the first where the other axis has
/// the width of the model; none of what every rank has whole.
pub fn axes_of(name: &str) -> &'static [usize] {
    let is_of = |end: &str| {
        name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    SPLIT.iter().find(|(end, _)| is_of(end)).map_or(&[], |(_, axes)| axes)
}

/// The name of the file of a rank, without its ending.
pub fn stem_of(rank: u64) -> String {
    format!("consolidated.{rank:02}")
}

/// A tensor that every rank has whole, of the width of the model.
const WIDTH: &str = "norm.weight";

/// The rank of `consolidated.03.pth`.
pub fn rank_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("consolidated.")?.strip_suffix(".pth")?;
    digits.parse().ok()
}

/// Whether tensors have the names of this layout, in whatever files.
pub fn is_named_so(tensors: &[Tensor]) -> bool {
    let has = |name: &str| tensors.iter().any(|tensor| tensor.name == name);
    has(SPLIT[0].0) && has(WIDTH)
}

/// Whether the files of a folder are of this layout.
pub fn is_folder(names: &[&str]) -> bool {
    names.iter().any(|name| rank_of(name).is_some())
        || (names.contains(&WHOLE) && names.contains(&PARAMS_FILE))
}

/// Reads the files of all ranks in a folder, and gives their names.
///
/// # Errors
/// A rank is missing, damaged or of another run.
pub fn read(
    source: &mut Source,
    folder: &str,
    names: &[&str],
) -> Result<(Checkpoint, Vec<String>)> {
    if names.contains(&WHOLE) {
        let name = format!("{folder}{WHOLE}");
        let file = source.add(&name)?;
        let mut checkpoint = (safetensors::FORMAT.read)(source, file)?;
        checkpoint.format = FORMAT.id;
        return Ok((checkpoint, vec![name]));
    }
    let ranks: BTreeMap<u64, &str> =
        names.iter().filter_map(|name| Some((rank_of(name)?, *name))).collect();
    let n = ranks.len() as u64;
    if let Some(missing) = (0..n).find(|rank| !ranks.contains_key(rank)) {
        let last = ranks.values().last().copied().unwrap_or_default();
        let message = format!("has `{last}`, and `{}.pth` is missing", stem_of(missing));
        return Err(Error::new(ErrorKind::Malformed, message).in_file(&source.place(folder)));
    }
    let (mut weights, mut parts) = (Vec::new(), Vec::new());
    for name in ranks.values() {
        let name = format!("{folder}{name}");
        let file = source.add(&name)?;
        let part = pytorch::read(source, file)?;
        if let Some(err) = refused(&part.findings) {
            return Err(err.in_file(source.path(file)));
        }
        weights.push(name);
        parts.push((file, part));
    }
    Ok((merged(source, parts)?, weights))
}

fn merged(source: &Source, parts: Vec<(FileId, Checkpoint)>) -> Result<Checkpoint> {
    let mut parts = parts.into_iter();
    let Some((first_file, first)) = parts.next() else { return Ok(Checkpoint::default()) };
    let rest: Vec<(FileId, Checkpoint)> = parts.collect();
    let width = first.tensors.iter().find(|tensor| tensor.name == WIDTH);
    let width = width.and_then(|tensor| tensor.shape.first().copied());
    let mut checkpoint = Checkpoint { format: FORMAT.id, ..first };
    checkpoint.metadata.insert("trainer".to_owned(), "Meta, tensor parallel".to_owned());
    checkpoint.metadata.insert("trainer.ranks".to_owned(), (rest.len() + 1).to_string());
    if rest.is_empty() {
        return Ok(checkpoint);
    }
    let other = source.name(first_file);
    let known: BTreeSet<&str> = checkpoint.tensors.iter().map(|of| of.name.as_str()).collect();
    let mut by_name: Vec<BTreeMap<&str, &Tensor>> = Vec::new();
    for (file, part) in &rest {
        let names: BTreeMap<&str, &Tensor> =
            part.tensors.iter().map(|of| (of.name.as_str(), of)).collect();
        let own: BTreeSet<&str> = names.keys().copied().collect();
        if let Some(name) = known.symmetric_difference(&own).next() {
            let (has, lacks) = if own.contains(name) {
                (source.name(*file), other)
            } else {
                (other, source.name(*file))
            };
            let message = format!("{} is in `{has}`, and not in `{lacks}`", quote(name));
            return Err(Error::new(ErrorKind::Malformed, message).in_file(source.path(*file)));
        }
        by_name.push(names);
    }
    let mut tensors = Vec::with_capacity(checkpoint.tensors.len());
    for tensor in &checkpoint.tensors {
        let others =
            rest.iter().zip(&by_name).map(|((file, _), names)| (*file, names[&*tensor.name]));
        let others: Vec<(FileId, &Tensor)> = others.collect();
        tensors.push(joined(source, other, tensor, &others, width)?);
    }
    checkpoint.tensors = tensors;
    Ok(checkpoint)
}

/// One tensor of the parts that the ranks have.
fn joined(
    source: &Source,
    first_file: &str,
    first: &Tensor,
    others: &[(FileId, &Tensor)],
    width: Option<u64>,
) -> Result<Tensor> {
    let wrong = |file: FileId, message: String| {
        Error::new(ErrorKind::Malformed, message).in_file(source.path(file))
    };
    for (file, tensor) in others {
        if (tensor.dtype, &tensor.shape) != (first.dtype, &first.shape) {
            return Err(wrong(
                *file,
                format!(
                    "has {} as {} {:?}, and `{first_file}` as {} {:?}: they are of two models",
                    quote(&first.name),
                    tensor.dtype,
                    tensor.shape,
                    first.dtype,
                    first.shape
                ),
            ));
        }
    }
    let axis = match axes_of(&first.name) {
        [axis] => Some(*axis),
        [axis, other] => {
            let is_whole = first.shape.get(*other).copied() == width;
            Some(if is_whole { *axis } else { *other })
        }
        _ => None,
    };
    let view = |file: Option<FileId>, tensor: &Tensor| {
        let view = tensor.view();
        view.map_err(|why| {
            let err = Error::unsupported(format!("{} {why}", quote(&tensor.name)));
            match file {
                Some(file) => err.in_file(source.path(file)),
                None => err,
            }
        })
    };
    let Some(axis) = axis.filter(|axis| *axis < first.shape.len()) else {
        // Every rank has it whole.
        for (file, tensor) in others {
            let (left, right) = (view(None, first)?, view(Some(*file), tensor)?);
            let width = first.dtype.bits() / 8;
            let same = same_values(source, width, &first.shape, &left, &right);
            if !same.map_err(|why| wrong(*file, why))? {
                return Err(wrong(
                    *file,
                    format!(
                        "has other values of {} than `{first_file}`, and both should be the same",
                        quote(&first.name)
                    ),
                ));
            }
        }
        return Ok(first.clone());
    };
    let mut tiles = Vec::with_capacity(others.len() + 1);
    let mut start = 0u64;
    let all =
        std::iter::once((None, first)).chain(others.iter().map(|(file, of)| (Some(*file), *of)));
    for (file, tensor) in all {
        let mut at = vec![0; first.shape.len()];
        at[axis] = start;
        start = start.checked_add(tensor.shape[axis]).ok_or_else(|| {
            Error::new(ErrorKind::Malformed, format!("{} is too large", quote(&tensor.name)))
        })?;
        tiles.push(Tile {
            at,
            shape: tensor.shape.clone(),
            data: view(file, tensor)?,
            coding: None,
        });
    }
    let mut shape = first.shape.clone();
    shape[axis] = start;
    Ok(Tensor { shape, payload: Payload::Tiles(tiles), ..first.clone() })
}
