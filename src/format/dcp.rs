//! PyTorch's distributed checkpoints (DCP), which FSDP, torchtune, torchtitan, accelerate and others
//! write: a folder in which each rank has files of pieces.
//!
//! ```text
//! .metadata      a pickle: name -> dtype, shape, boxes; (name, box) -> file, offset, length
//! __0_0.distcp   pieces of rank 0, one behind the other, each what `torch.save` writes
//! ```
//!
//! Spec: `torch/distributed/checkpoint/metadata.py`, `filesystem.py`, `default_planner.py` of torch
//! 2.15. Nothing of the pickles is run.

mod metadata;

use std::collections::{BTreeMap, HashMap};

use self::metadata::{Metadata, Place, Whole};
use super::pytorch::names::strip_prefixes;
use super::pytorch::{self, quote};
use super::wrappers::{MAX_WRAPPERS, NO_WEIGHTS, WRAPPERS};
use super::{Format, Probe};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::tiles::Tile;
use crate::checkpoint::{Checkpoint, Payload, Tensor};

/// The format for the registry.
pub static FORMAT: Format = Format {
    id: "dcp",
    name: "PyTorch DCP",
    endings: &["metadata", "distcp"],
    singles: &[METADATA_FILE],
    probe,
    read,
    ..Format::DEFAULT
};

/// The file that says where everything is.
pub const METADATA_FILE: &str = ".metadata";

/// The ending of the files of ranks.
const PIECES_END: &str = ".distcp";

/// The most keys that a finding spells out.
const MAX_SHOWN_KEYS: usize = 20;

fn probe(_: &[u8], name: &str) -> Probe {
    let is_one = base(name) == METADATA_FILE || name.ends_with(PIECES_END);
    if is_one { Probe::Sure } else { Probe::No }
}

fn base(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Reads `.metadata`, and of every piece of the weights the headers.
fn read(source: &mut Source, file: FileId) -> Result<Checkpoint> {
    let path = source.path(file).to_owned();
    let name = source.name(file).to_owned();
    if name.ends_with(PIECES_END) {
        let message = "has the pieces of one rank, which `.metadata` beside it puts together: name \
                       the folder";
        return Err(Error::unsupported(message).in_file(&path));
    }
    let metadata = Metadata::read(source.bytes(file)).map_err(|err| err.in_file(&path))?;
    let mut checkpoint = Checkpoint { format: FORMAT.id, ..Checkpoint::default() };
    checkpoint.metadata.insert("trainer".to_owned(), "PyTorch DCP (FSDP)".to_owned());
    let entries = weights(&metadata, &mut checkpoint);
    let mut files = Files {
        folder: name.strip_suffix(METADATA_FILE).unwrap_or_default().to_owned(),
        known: HashMap::new(),
    };
    for (name, key) in entries {
        // Every key was taken from there.
        let Some(whole) = metadata.wholes.get(key) else { continue };
        let tensor = tensor(source, &mut files, &metadata, key, whole);
        let tensor = tensor.map_err(|err| match err.path() {
            None => err.in_file(&path),
            Some(_) => err,
        })?;
        checkpoint.tensors.push(Tensor { name: name.into(), ..tensor });
    }
    let stripped = strip_prefixes(&mut checkpoint.tensors);
    if !stripped.is_empty() {
        let message = format!("the names are given without {}", quote(&stripped.join(" ")));
        checkpoint.findings.push(Diagnostic::note("R005", message));
    }
    Ok(checkpoint)
}

/// Where the bytes of a value that is no tensor are, in the checkpoint of a folder; `None` where it has none of
/// this key.
///
/// # Errors
/// `.metadata` or the file that has them is damaged.
pub(super) fn value(source: &mut Source, folder: &str, key: &str) -> Result<Option<Extent>> {
    let file = source.add(&format!("{folder}{METADATA_FILE}"))?;
    let path = source.path(file).to_owned();
    let metadata = Metadata::read(source.bytes(file)).map_err(|err| err.in_file(&path))?;
    let Some(place) = metadata.places.get(&(key.to_owned(), Vec::new())) else { return Ok(None) };
    if metadata.wholes.contains_key(key) || !place.transforms.is_empty() {
        return Ok(None);
    }
    let mut files = Files { folder: folder.to_owned(), known: HashMap::new() };
    files.extent(source, key, place).map(Some)
}

/// The tensors that are weights: the name that each has in its state dict, and its key. What a
/// program keeps beside the state dict is left out, and told.
fn weights<'m>(metadata: &'m Metadata, checkpoint: &mut Checkpoint) -> Vec<(String, &'m str)> {
    let mut others: Vec<&[String]> = Vec::new();
    let mut entries: Vec<(&[String], &str)> = Vec::new();
    for key in &metadata.order {
        let path = metadata.path(key);
        match metadata.wholes.contains_key(key) {
            true => entries.push((path, key)),
            // Numbers and other values that are no tensors.
            false => others.push(path),
        }
    }
    let mut wrapper: Vec<&str> = Vec::new();
    while wrapper.len() < MAX_WRAPPERS {
        let n = wrapper.len();
        let is_under = |path: &[String], key: &str| n + 1 < path.len() && path[n] == key;
        let wraps = |key: &&&str| entries.iter().any(|(path, _)| is_under(path, key));
        let Some(found) = WRAPPERS.iter().find(wraps) else { break };
        wrapper.push(found);
        let (own, rest): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(path, _)| is_under(path, found));
        entries = own;
        others.extend(rest.into_iter().map(|(path, _)| path));
    }
    let depth = wrapper.len();
    let (own, rest): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(path, _)| {
        let first = path[depth].split('.').next().unwrap_or_default();
        !NO_WEIGHTS.contains(&first)
    });
    others.extend(rest.into_iter().map(|(path, _)| path));
    // The outermost key that is not one of those above the weights.
    let mut left_out: BTreeMap<String, u64> = BTreeMap::new();
    for path in others {
        let shared = path.iter().zip(&wrapper).take_while(|(key, of)| key == of).count();
        let key = path.get(..=shared).unwrap_or(path).join(".");
        *left_out.entry(key).or_default() += 1;
    }
    if !wrapper.is_empty() {
        let wrapper = wrapper.join(".");
        let message = format!("the state dict is the value of the key {}", quote(&wrapper));
        checkpoint.findings.push(Diagnostic::note("R005", message).key(&wrapper));
        checkpoint.metadata.insert("pytorch.wrapper".to_owned(), wrapper);
    }
    if !left_out.is_empty() {
        let more = match left_out.len().saturating_sub(MAX_SHOWN_KEYS) {
            0 => String::new(),
            n => format!(", and {n} more"),
        };
        let shown = left_out.iter().take(MAX_SHOWN_KEYS);
        let shown = shown.map(|(key, n)| format!("{} ({n} values)", quote(key)));
        let shown = shown.collect::<Vec<_>>().join(", ");
        let message = format!("these keys are not read as weights: {shown}{more}");
        checkpoint.findings.push(Diagnostic::note("R004", message));
    }
    own.into_iter().map(|(path, key)| (path[depth..].join("."), key)).collect()
}

/// The files of pieces that are open.
struct Files {
    folder: String,
    known: HashMap<String, FileId>,
}

impl Files {
    /// Where the bytes of a piece are.
    fn extent(&mut self, source: &mut Source, key: &str, place: &Place) -> Result<Extent> {
        let file = match self.known.get(&place.file) {
            Some(file) => *file,
            None => {
                let name = format!("{}{}", self.folder, place.file);
                let file = source.add(&name).map_err(|err| {
                    let rank = rank_of(&place.file);
                    let rank = rank.map_or(String::new(), |rank| format!(" of rank {rank}"));
                    err.context(&format!(
                        "the file `{name}`{rank}, in which `.metadata` puts {}",
                        quote(key)
                    ))
                })?;
                self.known.insert(place.file.clone(), file);
                file
            }
        };
        let whole = source.extent(file);
        let end = place.offset.checked_add(place.len);
        end.and_then(|end| whole.part(place.offset, end)).ok_or_else(|| {
            let message = format!(
                "has {} bytes, and `.metadata` puts {} in the {} bytes from {} on: it is cut short, or \
                 of another save",
                whole.len,
                quote(key),
                place.len,
                place.offset
            );
            Error::new(ErrorKind::Malformed, message).in_file(source.path(file))
        })
    }
}

/// The rank that wrote a file: `__3_0.distcp` is of rank 3.
fn rank_of(file: &str) -> Option<u64> {
    base(file).strip_prefix("__")?.split('_').next()?.parse().ok()
}

fn tensor(
    source: &mut Source,
    files: &mut Files,
    metadata: &Metadata,
    key: &str,
    whole: &Whole,
) -> Result<Tensor> {
    let mut tiles = Vec::with_capacity(whole.boxes.len());
    for (at, shape) in &whole.boxes {
        let place = metadata.places.get(&(key.to_owned(), at.clone())).ok_or_else(|| {
            let message = format!("says of {} at {at:?} in no file where it is", quote(key));
            Error::new(ErrorKind::Malformed, message)
        })?;
        if !place.transforms.is_empty() {
            let steps = place.transforms.join(", ");
            let message =
                format!("{} is packed with {}; save it without", quote(key), quote(&steps));
            return Err(Error::unsupported(message));
        }
        let extent = files.extent(source, key, place)?;
        let piece = pytorch::object::read(source, extent, |object| {
            object.tensor(object.pickle.root()).ok_or_else(|| {
                let kind = object.pickle.kind(object.pickle.root());
                Error::malformed(extent.start, format!("a tensor is due, {kind} is there"))
            })
        });
        let piece = piece.map_err(|err| err.context(&format!("the piece of {}", quote(key))))?;
        if piece.dtype != whole.dtype || piece.shape != *shape {
            let message = format!(
                "the piece of {} at {at:?} is {} {:?}, and `.metadata` says {} {shape:?}: the file is \
                 of another save",
                quote(key),
                piece.dtype,
                piece.shape,
                whole.dtype
            );
            return Err(Error::malformed(extent.start, message).in_file(source.path(extent.file)));
        }
        let data = match piece.view() {
            Ok(data) => data,
            Err(reason) => return Ok(unreadable(whole, reason)),
        };
        tiles.push(Tile { at: at.clone(), shape: shape.clone(), data, coding: None });
    }
    Ok(Tensor {
        name: String::new().into(),
        dtype: whole.dtype,
        shape: whole.shape.clone(),
        encoding: None,
        payload: Payload::Tiles(tiles),
    })
}

fn unreadable(whole: &Whole, reason: String) -> Tensor {
    Tensor {
        name: String::new().into(),
        dtype: whole.dtype,
        shape: whole.shape.clone(),
        encoding: None,
        payload: Payload::Unreadable(reason),
    }
}
