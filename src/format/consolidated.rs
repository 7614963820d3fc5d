//! The layouts of labs' own code whose matrices are split over ranks: of Meta's, which Mistral's follows,
//! `consolidated.00.pth` and more, one file for each rank, with `params.json`, or
//! `consolidated.safetensors`; of DeepSeek's, `model0-mp2.safetensors` and more.
//!
//! Which axis a matrix is split along follows from its name alone. Spec: meta-llama/llama-models
//! `models/checkpoint.py`, meta-llama/llama3 `llama/model.py`, deepseek-ai/DeepSeek-V3
//! `inference/convert.py`.

use std::collections::{BTreeMap, BTreeSet};

use self::split::{WIDTH, is_apart, split_of};
use super::pytorch::object::refused;
use super::pytorch::{self, quote};
use super::ranks::same_values;
use super::{Format, safetensors};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::{FileId, Source};
use crate::checkpoint::tiles::Tile;
use crate::checkpoint::{Checkpoint, Payload, Tensor, View};

mod split;

pub use self::split::{axes_of, is_named_so};

/// The format for the registry. No file is told to be of it by itself: its folder is.
pub static FORMAT: Format = Format { id: "meta", name: "Meta", dialect: "meta", ..Format::DEFAULT };

/// The config beside the weights.
pub const PARAMS_FILE: &str = "params.json";

const WHOLE: &str = "consolidated.safetensors";

/// How the files of ranks are called, and what is in them.
struct Layout {
    /// What wrote them, for reports.
    writer: &'static str,
    /// The format that the whole is read as.
    format: &'static Format,
    /// What the name of a file says.
    place: fn(name: &str) -> Option<Place>,
    /// The name of a file.
    name: fn(place: Place) -> String,
    /// Reads one of them.
    read: fn(source: &mut Source, file: FileId) -> Result<Checkpoint>,
    /// The segment of the names of tensors that one rank has whole, and no other.
    own: Option<&'static str>,
    /// The ends of names that say that the matrices are packed, which are not put together.
    packed: &'static [&'static str],
}

/// The rank that wrote a file, and how many there are, where its name says that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    rank: u64,
    world: Option<u64>,
}

static LAYOUTS: &[Layout] = &[
    Layout {
        writer: "Meta, tensor parallel",
        format: &FORMAT,
        place: |name| {
            let digits = name.strip_prefix("consolidated.")?.strip_suffix(".pth")?;
            Some(Place { rank: digits.parse().ok()?, world: None })
        },
        name: |place| format!("{}.pth", stem_of(place.rank)),
        read: |source, file| pytorch::read(source, file),
        own: None,
        packed: &[],
    },
    Layout {
        writer: "DeepSeek, model parallel",
        format: &safetensors::FORMAT,
        place: |name| {
            let rest = name.strip_prefix("model")?.strip_suffix(".safetensors")?;
            let (rank, world) = rest.split_once("-mp")?;
            Some(Place { rank: rank.parse().ok()?, world: Some(world.parse().ok()?) })
        },
        name: |place| format!("model{}-mp{}.safetensors", place.rank, place.world.unwrap_or(1)),
        read: |source, file| (safetensors::FORMAT.read)(source, file),
        own: Some("experts"),
        packed: &[".scale"],
    },
];

/// What Meta's releases in FP8 and in four bits have beside the matrices.
const SCALES: &[&str] = &["fp8_scales_", "int4_scales_"];

/// The name of the file of a rank, without its ending.
pub fn stem_of(rank: u64) -> String {
    format!("consolidated.{rank:02}")
}

/// The format that the files of a folder are read as, if they are of one of the layouts.
pub fn format_of(names: &[&str]) -> Option<&'static Format> {
    let is_whole = || names.contains(&WHOLE) && names.contains(&PARAMS_FILE);
    let layout = layout_of(names).map(|layout| layout.format);
    layout.or_else(|| is_whole().then_some(&FORMAT))
}

fn layout_of(names: &[&str]) -> Option<&'static Layout> {
    LAYOUTS.iter().find(|layout| names.iter().any(|name| (layout.place)(name).is_some()))
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
    let layout = layout_of(names).filter(|_| !names.contains(&WHOLE));
    let Some(layout) = layout else {
        let name = format!("{folder}{WHOLE}");
        let file = source.add(&name)?;
        let mut checkpoint = (safetensors::FORMAT.read)(source, file)?;
        checkpoint.format = FORMAT.id;
        return Ok((checkpoint, vec![name]));
    };
    let place = source.place(folder);
    if let Some(scales) = names.iter().find(|name| SCALES.iter().any(|s| name.starts_with(s))) {
        let message = format!(
            "has `{scales}`, the scales of a quantized release, which is not read: take that in bfloat16"
        );
        return Err(Error::unsupported(message).in_file(&place));
    }
    let ranks = all_ranks(layout, names)
        .map_err(|why| Error::new(ErrorKind::Malformed, why).in_file(&place))?;
    let (mut weights, mut parts) = (Vec::new(), Vec::new());
    for name in ranks {
        let name = format!("{folder}{name}");
        let file = source.add(&name)?;
        let part = (layout.read)(source, file)?;
        if let Some(err) = refused(&part.findings) {
            return Err(err.in_file(source.path(file)));
        }
        let is_packed = |tensor: &&Tensor| {
            let is_fp8 = tensor.dtype.is_float() && tensor.dtype.bits() == 8;
            is_fp8 || layout.packed.iter().any(|end| tensor.name.ends_with(end))
        };
        if let Some(packed) = part.tensors.iter().find(is_packed) {
            let message = format!(
                "has {}, of matrices in FP8, which are not put together: take the model in bfloat16",
                quote(&packed.name)
            );
            return Err(Error::unsupported(message).in_file(source.path(file)));
        }
        weights.push(name);
        parts.push((file, part));
    }
    Ok((merged(source, layout, parts)?, weights))
}

/// The files of all ranks, in their order.
fn all_ranks<'n>(layout: &Layout, names: &[&'n str]) -> std::result::Result<Vec<&'n str>, String> {
    let places = names.iter().filter_map(|name| Some(((layout.place)(name)?, *name)));
    let files: BTreeMap<Place, &str> = places.collect();
    let worlds: BTreeSet<Option<u64>> = files.keys().map(|place| place.world).collect();
    let last = files.values().last().copied().unwrap_or_default();
    if let [Some(one), .., Some(other)] = worlds.iter().copied().collect::<Vec<_>>()[..] {
        return Err(format!(
            "has files of {one} and of {other} ranks, as `{last}`: put one of them elsewhere"
        ));
    }
    let world = worlds.first().copied().flatten();
    let n = world.unwrap_or(files.len() as u64);
    // There are as many turns as files, and one more where one is missing.
    let lacks = (0..n).find(|&rank| !files.contains_key(&Place { rank, world }));
    match lacks {
        Some(rank) => {
            let missing = (layout.name)(Place { rank, world });
            Err(format!("has `{last}`, and `{missing}` is missing"))
        }
        None if (files.len() as u64) != n => {
            Err(format!("has `{last}`, and says that there are {n} ranks"))
        }
        None => Ok(files.into_values().collect()),
    }
}

fn merged(
    source: &Source,
    layout: &Layout,
    parts: Vec<(FileId, Checkpoint)>,
) -> Result<Checkpoint> {
    let mut parts = parts.into_iter();
    let Some((first_file, first)) = parts.next() else { return Ok(Checkpoint::default()) };
    let rest: Vec<(FileId, Checkpoint)> = parts.collect();
    let mut checkpoint = Checkpoint { format: layout.format.id, ..first };
    checkpoint.metadata.insert("trainer".to_owned(), layout.writer.to_owned());
    checkpoint.metadata.insert("trainer.ranks".to_owned(), (rest.len() + 1).to_string());
    if rest.is_empty() {
        return Ok(checkpoint);
    }
    let other = source.name(first_file);
    let is_own = |name: &str| layout.own.is_some_and(|own| name.split('.').any(|part| part == own));
    let all: BTreeMap<&str, &Tensor> =
        checkpoint.tensors.iter().map(|of| (of.name.as_str(), of)).collect();
    let known: BTreeSet<&str> = all.keys().copied().filter(|name| !is_own(name)).collect();
    // Where each tensor is that one rank alone has.
    let own = checkpoint.tensors.iter().filter(|of| is_own(&of.name));
    let mut owners: BTreeMap<&str, FileId> = own.map(|of| (of.name.as_str(), first_file)).collect();
    let mut by_name: Vec<BTreeMap<&str, &Tensor>> = Vec::new();
    for (file, part) in &rest {
        let wrong =
            |message: String| Error::new(ErrorKind::Malformed, message).in_file(source.path(*file));
        for tensor in part.tensors.iter().filter(|of| is_own(&of.name)) {
            if let Some(owner) = owners.insert(&tensor.name, *file) {
                let owner = source.name(owner);
                let name = quote(&tensor.name);
                return Err(wrong(format!("has {name}, as `{owner}` does, and one rank has it")));
            }
        }
        let shared = part.tensors.iter().filter(|of| !is_own(&of.name));
        let names: BTreeMap<&str, &Tensor> = shared.map(|of| (of.name.as_str(), of)).collect();
        let own: BTreeSet<&str> = names.keys().copied().collect();
        if let Some(name) = known.symmetric_difference(&own).next() {
            let (has, lacks) = if own.contains(name) {
                (source.name(*file), other)
            } else {
                (other, source.name(*file))
            };
            return Err(wrong(format!("{} is in `{has}`, and not in `{lacks}`", quote(name))));
        }
        by_name.push(names);
    }
    let mut tensors = Vec::with_capacity(checkpoint.tensors.len());
    for tensor in &checkpoint.tensors {
        if is_own(&tensor.name) {
            tensors.push(tensor.clone());
            continue;
        }
        let others =
            rest.iter().zip(&by_name).map(|((file, _), names)| (*file, names[&*tensor.name]));
        let others: Vec<(FileId, &Tensor)> = others.collect();
        tensors.push(joined(source, other, tensor, &others, &all)?);
    }
    let others = rest.iter().flat_map(|(_, part)| &part.tensors);
    tensors.extend(others.filter(|of| is_own(&of.name)).cloned());
    checkpoint.tensors = tensors;
    Ok(checkpoint)
}

/// One tensor of the parts that the ranks have.
fn joined(
    source: &Source,
    first_file: &str,
    first: &Tensor,
    others: &[(FileId, &Tensor)],
    all: &BTreeMap<&str, &Tensor>,
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
    let width = || all.get(WIDTH)?.shape.first().copied();
    let split = split_of(&first.name);
    let axis = match split.map_or(&[][..], |split| split.axes) {
        [axis] => Some(*axis),
        [axis, other] => {
            let is_whole = first.shape.get(*other).copied() == width();
            Some(if is_whole { *axis } else { *other })
        }
        _ => None,
    };
    if is_apart(&first.name) {
        return Ok(first.clone());
    }
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
    let axis = axis.filter(|axis| *axis < first.shape.len());
    let Some((split, axis)) = split.zip(axis) else {
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
    let too_large =
        || Error::new(ErrorKind::Malformed, format!("{} is too large", quote(&first.name)));
    let runs = split
        .runs(first, axis, all)
        .map_err(|why| Error::new(ErrorKind::Malformed, format!("{} {why}", quote(&first.name))))?;
    let n = others.len() as u64 + 1;
    let mut tiles = Vec::with_capacity(runs.len() * (others.len() + 1));
    let ranks =
        std::iter::once((None, first)).chain(others.iter().map(|(file, of)| (Some(*file), *of)));
    for (rank, (file, tensor)) in (0u64..).zip(ranks) {
        let whole = view(file, tensor)?;
        let (mut start, mut begin) = (0u64, 0u64);
        for &len in &runs {
            // Each run of all ranks lies together, before the next one of the first.
            let mut at = vec![0; first.shape.len()];
            at[axis] = len
                .checked_mul(rank)
                .and_then(|before| begin.checked_add(before))
                .ok_or_else(too_large)?;
            let mut shape = tensor.shape.clone();
            shape[axis] = len;
            let skipped = start.checked_mul(whole.strides[axis]);
            let offset =
                skipped.and_then(|by| whole.offset.checked_add(by)).ok_or_else(too_large)?;
            let data = View { offset, ..whole.clone() };
            tiles.push(Tile { at, shape, data, coding: None });
            start += len;
            begin =
                len.checked_mul(n).and_then(|len| begin.checked_add(len)).ok_or_else(too_large)?;
        }
    }
    let mut shape = first.shape.clone();
    shape[axis] = shape[axis].checked_mul(n).ok_or_else(too_large)?;
    Ok(Tensor { shape, payload: Payload::Tiles(tiles), ..first.clone() })
}
