//! The tensors of the ranks that share matrices and experts, put together.

use std::collections::BTreeMap;

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::{FileId, Source};
use crate::checkpoint::tiles::Tile;
use crate::checkpoint::{Payload, Tensor};
use crate::format::pytorch::quote;
use crate::format::ranks::same_values;

/// How tensor ranks share a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Every rank has it whole.
    Whole,
    /// Each has as many entries along an axis.
    Axis(usize),
    /// Each has rows of the gate, then as many of the other map.
    Halves,
}

/// The tensors that are shared, by the ends of their names; `true`: the rows may be those of two maps.
const SHARES: &[(&str, usize, bool)] = &[
    ("word_embeddings.weight", 0, false),
    ("output_layer.weight", 0, false),
    ("linear_qkv.weight", 0, false),
    ("linear_qkv.bias", 0, false),
    ("linear_proj.weight", 1, false),
    ("linear_fc1.weight", 0, true),
    ("linear_fc1.bias", 0, true),
    ("linear_fc2.weight", 1, false),
];

/// How a tensor is shared; `is_gated`: the first map of an MLP has a gate.
pub fn share_of(name: &str, is_gated: bool) -> Share {
    let fits = |end: &str| {
        name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    match SHARES.iter().find(|(end, ..)| fits(end)) {
        None => Share::Whole,
        Some((_, _, true)) if is_gated => Share::Halves,
        Some((_, axis, _)) => Share::Axis(*axis),
    }
}

/// Before the number of an expert.
pub(super) const EXPERTS: &str = ".mlp.experts.local_experts.";
/// Before the number of a layer.
pub(super) const LAYERS: &str = "decoder.layers.";

/// The name of a tensor of an expert where the implementation in groups has another:
/// `….mlp.experts.linear_fc1.weight3`.
pub(super) fn usual(name: &str) -> String {
    let grouped = || {
        let (layer, rest) = name.split_once(".mlp.experts.linear_fc")?;
        let digits = rest.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (rest, expert) = rest.split_at(rest.len() - digits);
        (!expert.is_empty() && rest.len() > 2)
            .then(|| format!("{layer}{EXPERTS}{expert}.linear_fc{rest}"))
    };
    grouped().unwrap_or_else(|| name.to_owned())
}

/// A name with its number of a layer raised, and that number.
///
/// # Errors
/// The number is too large.
pub(super) fn shifted(name: &str, by: u64) -> Result<(String, Option<u64>), String> {
    let Some((number, rest)) = name.strip_prefix(LAYERS).and_then(|rest| rest.split_once('.'))
    else {
        return Ok((name.to_owned(), None));
    };
    let layer = number.parse::<u64>().ok().filter(|layer| *layer < 1 << 20);
    let layer = layer.ok_or_else(|| format!("{} is of no layer", quote(name)))?;
    let layer = layer + by;
    Ok((format!("{LAYERS}{layer}.{rest}"), Some(layer)))
}

/// The tensors of one chunk of layers in the file of a rank.
pub(super) struct Part<'a> {
    pub(super) file: FileId,
    pub(super) tensors: &'a [Tensor],
}

/// Puts the parts of tensor ranks together, which there are for each rank of the experts.
pub(super) fn merged(source: &Source, experts: &[Vec<Part<'_>>]) -> Result<Vec<Tensor>> {
    let mut tensors: Vec<Tensor> = Vec::new();
    let mut places: BTreeMap<String, (usize, FileId)> = BTreeMap::new();
    let mut n_experts = 0;
    for (number, parts) in experts.iter().enumerate() {
        let mut next = n_experts;
        for tensor in of_tensor_ranks(source, parts)? {
            let file = parts[0].file;
            let wrong = |message: String| {
                Error::new(ErrorKind::Malformed, message).in_file(source.path(file))
            };
            if let Some((layer, rest)) = tensor.name.split_once(EXPERTS) {
                let (expert, rest) = rest.split_once('.').unwrap_or((rest, ""));
                let expert = expert.parse::<u64>().ok().filter(|expert| *expert < 1 << 20);
                let expert = expert
                    .ok_or_else(|| wrong(format!("{} is of no expert", quote(&tensor.name))))?;
                let expert = n_experts + expert;
                next = next.max(expert + 1);
                let name = format!("{layer}{EXPERTS}{expert}.{rest}");
                tensors.push(Tensor { name: name.into(), ..tensor });
                continue;
            }
            let Some((at, other)) = places.get(&*tensor.name).filter(|_| 0 < number) else {
                if 0 < number {
                    let other = source.name(experts[0][0].file);
                    let name = quote(&tensor.name);
                    return Err(wrong(format!("has {name}, and `{other}` does not")));
                }
                places.insert(tensor.name.to_string(), (tensors.len(), file));
                tensors.push(tensor);
                continue;
            };
            // Ranks of experts have all else whole.
            check_same(source, (&tensors[*at], *other), (&tensor, file))?;
        }
        n_experts = next;
    }
    Ok(tensors)
}

fn of_tensor_ranks(source: &Source, parts: &[Part<'_>]) -> Result<Vec<Tensor>> {
    let Some((first, rest)) = parts.split_first() else { return Ok(Vec::new()) };
    let mut others = Vec::with_capacity(rest.len());
    for part in rest {
        let names: BTreeMap<&str, &Tensor> =
            part.tensors.iter().map(|of| (of.name.as_str(), of)).collect();
        if names.len() != first.tensors.len() {
            let (n, wanted) = (names.len(), first.tensors.len());
            let other = source.name(first.file);
            let message = format!("has {n} tensors, and `{other}` has {wanted}");
            return Err(Error::new(ErrorKind::Malformed, message).in_file(source.path(part.file)));
        }
        others.push((part.file, names));
    }
    let by_name: BTreeMap<&str, &Tensor> =
        first.tensors.iter().map(|of| (of.name.as_str(), of)).collect();
    let mut whole = Vec::with_capacity(first.tensors.len());
    for tensor in first.tensors {
        let mut all = vec![(first.file, tensor)];
        for (file, names) in &others {
            let Some(other) = names.get(tensor.name.as_str()) else {
                let message = format!(
                    "has no {}, which `{}` has",
                    quote(&tensor.name),
                    source.name(first.file)
                );
                return Err(Error::new(ErrorKind::Malformed, message).in_file(source.path(*file)));
            };
            all.push((*file, *other));
        }
        // The second map has half as many columns as the first has rows where that has a gate.
        let is_gated = tensor.name.rsplit_once("linear_fc1.").is_some_and(|(before, _)| {
            let second = by_name.get(format!("{before}linear_fc2.weight").as_str());
            let columns = second.and_then(|second| second.shape.get(1));
            let rows = tensor.shape.first().copied();
            columns.is_some_and(|columns| rows == columns.checked_mul(2))
        });
        whole.push(joined(source, &all, share_of(&tensor.name, is_gated))?);
    }
    Ok(whole)
}

fn check_same(
    source: &Source,
    (first, other): (&Tensor, FileId),
    (tensor, file): (&Tensor, FileId),
) -> Result<()> {
    let wrong =
        |message: String| Error::new(ErrorKind::Malformed, message).in_file(source.path(file));
    let alike = (first.dtype, &first.shape) == (tensor.dtype, &tensor.shape);
    let tiles = |of: &Tensor| -> Option<Vec<Tile>> {
        match &of.payload {
            Payload::Tiles(tiles) => Some(tiles.clone()),
            _ => {
                let at = vec![0; of.shape.len()];
                let data = of.view().ok()?;
                Some(vec![Tile { at, shape: of.shape.clone(), data, coding: None }])
            }
        }
    };
    let (Some(left), Some(right)) = (tiles(first), tiles(tensor)) else { return Ok(()) };
    let mut same = alike && left.len() == right.len();
    for (left, right) in left.iter().zip(&right) {
        same = same
            && left.shape == right.shape
            && same_values(source, first.dtype.bits() / 8, &left.shape, &left.data, &right.data)
                .map_err(&wrong)?;
    }
    if same {
        return Ok(());
    }
    Err(wrong(format!(
        "has other values of {} than `{}`, and both should be the same",
        quote(&tensor.name),
        source.name(other)
    )))
}

/// One tensor of the parts that tensor ranks have.
fn joined(source: &Source, parts: &[(FileId, &Tensor)], share: Share) -> Result<Tensor> {
    let Some(((first_file, first), rest)) = parts.split_first() else {
        return Err(Error::new(ErrorKind::Malformed, "has no parts"));
    };
    let axis = match share {
        Share::Whole => None,
        Share::Axis(axis) => Some(axis),
        Share::Halves => Some(0),
    };
    let Some(axis) = axis.filter(|axis| *axis < first.shape.len() && !rest.is_empty()) else {
        for (file, tensor) in rest {
            check_same(source, (first, *first_file), (tensor, *file))?;
        }
        return Ok((*first).clone());
    };
    let n = parts.len() as u64;
    let len = first.shape[axis];
    let total = len.checked_mul(n).ok_or_else(|| {
        Error::new(ErrorKind::Malformed, format!("{} is too large", quote(&first.name)))
    })?;
    let mut tiles = Vec::with_capacity(2 * parts.len());
    for (rank, (file, tensor)) in parts.iter().enumerate() {
        let wrong =
            |message: String| Error::new(ErrorKind::Malformed, message).in_file(source.path(*file));
        if (tensor.dtype, &tensor.shape) != (first.dtype, &first.shape) {
            return Err(wrong(format!(
                "has {} as {} {:?}, and `{}` as {} {:?}: they are of two models",
                quote(&first.name),
                tensor.dtype,
                tensor.shape,
                source.name(*first_file),
                first.dtype,
                first.shape
            )));
        }
        let data = tensor.view().map_err(|why| {
            Error::unsupported(format!("{} {why}", quote(&tensor.name))).in_file(source.path(*file))
        })?;
        let n_pieces = if share == Share::Halves { 2 } else { 1 };
        let piece = len / n_pieces;
        for number in 0..n_pieces {
            let mut at = vec![0; tensor.shape.len()];
            // Below the total, which was checked.
            at[axis] = number * (total / n_pieces) + rank as u64 * piece;
            let mut shape = tensor.shape.clone();
            shape[axis] = piece;
            let mut data = data.clone();
            data.offset = data
                .strides
                .get(axis)
                .and_then(|stride| stride.checked_mul(number * piece))
                .and_then(|by| data.offset.checked_add(by))
                .ok_or_else(|| wrong(format!("{} passes its storage", quote(&tensor.name))))?;
            tiles.push(Tile { at, shape, data, coding: None });
        }
    }
    let mut shape = first.shape.clone();
    shape[axis] = total;
    Ok(Tensor { shape, payload: Payload::Tiles(tiles), ..(*first).clone() })
}
