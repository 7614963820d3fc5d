//! Formats: from the files of a checkpoint to its [`Checkpoint`],
//! headers only.
//!
//! [`FORMATS`] is the one list of them. Which files of a folder are weights, how a file is told
//! from others, what a message names and what `--from` takes, all follow from it: a format is one
//! file here and one line there.

use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::{FileId, Source};
use crate::checkpoint::tiles::prove_cover;
use crate::checkpoint::{Checkpoint, Payload};

pub mod consolidated;
pub mod ctranslate2;
pub mod dcp;
pub mod flax;
pub mod gguf;
pub mod hf_storage;
pub mod keras;
pub mod keras_archive;
pub mod known;
pub mod megatron;
pub mod nemo;
pub mod numpy;
pub mod onnx;
pub mod orbax;
pub mod paddle;
pub mod pickle;
pub mod pytorch;
pub mod ranks;
pub mod safetensors;
pub mod t5x;
pub mod tensorflow;
pub mod tensorflow_v1;
pub mod tflite;
pub mod universal;
pub mod wrappers;
pub mod zero;

/// The formats that are read, those first that a folder with several is read as.
pub static FORMATS: &[&Format] = &[
    &safetensors::FORMAT,
    &dcp::FORMAT,
    &pytorch::FORMAT,
    &gguf::FORMAT,
    &tensorflow::FORMAT,
    &tensorflow_v1::FORMAT,
    &keras::FORMAT,
    &keras_archive::FORMAT,
    &flax::FORMAT,
    &numpy::FORMAT,
    &onnx::FORMAT,
    &orbax::FORMAT,
    &paddle::FORMAT,
    &ctranslate2::FORMAT,
    &tflite::FORMAT,
    &t5x::FORMAT,
    &consolidated::FORMAT,
    &megatron::FORMAT,
    &nemo::FORMAT,
];

/// A format of files that hold tensors.
pub struct Format {
    /// Its name in arguments and reports.
    pub id: &'static str,
    /// Its name for people.
    pub name: &'static str,
    /// The endings of its files, without the dot, best first.
    pub endings: &'static [&'static str],
    /// The files that libraries write where one file has all tensors, as paths in the folder.
    pub singles: &'static [&'static str],
    /// What libraries write beside them that says nothing more of the tensors: whole names, or ends.
    pub companions: &'static [&'static str],
    /// Which mappings know the names that its tensors have.
    pub dialect: &'static str,
    /// Whether config and tokenizer are in the file, so that files beside it may be of others.
    pub is_complete: bool,
    /// Whether a file can be of this format, by its first 512 bytes and its name.
    pub probe: fn(head: &[u8], name: &str) -> Probe,
    /// Reads the headers of a file; others of the same folder are added to the source.
    pub read: fn(source: &mut Source, file: FileId) -> Result<Checkpoint>,
    /// How long the header of a file is, by its first bytes, of a format that reads nothing else before
    /// elements are asked for; `None` within if these are too few to tell.
    pub header_len: Option<HeaderLen>,
    /// How a model in several files is put together that say so themselves.
    pub split: Option<Split>,
}

/// The length of a header whose first bytes these are, or `None` if it takes more of them to tell.
pub type HeaderLen = fn(head: &[u8]) -> Option<u64>;

/// A model in several files that say themselves how many they are.
pub struct Split {
    /// The names of all files of the model that the file `name` is of.
    pub names: fn(name: &str, checkpoint: &Checkpoint) -> Result<Vec<String>>,
    /// Puts them together, each with its name.
    pub join: fn(parts: Vec<(String, Checkpoint)>) -> Result<Checkpoint>,
}

/// Whether a file is of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// It is not.
    No,
    /// Nothing speaks against it; one that is sure comes before.
    Maybe,
    /// It is.
    Sure,
}

impl Format {
    /// What most formats have in common.
    pub const DEFAULT: Format = Format {
        id: "",
        name: "",
        endings: &[],
        singles: &[],
        companions: &[],
        dialect: "hf",
        is_complete: false,
        probe: |_, _| Probe::No,
        read: |_, _| Err(Error::unsupported("reading this format")),
        header_len: None,
        split: None,
    };
}

/// The format of this id.
pub fn find(id: &str) -> Option<&'static Format> {
    FORMATS.iter().copied().find(|format| format.id == id)
}

/// The format whose files have this ending.
pub fn of_ending(end: &str) -> Option<&'static Format> {
    FORMATS.iter().copied().find(|format| format.endings.contains(&end))
}

/// The names of all formats, for a sentence.
pub fn names() -> String {
    let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
    let (last, rest) = names.split_last().expect("there are some");
    format!("{} and {last}", rest.join(", "))
}

/// Whether a file that begins so is a pointer of Git LFS, in place of what it stands for.
pub fn is_lfs_pointer(head: &[u8]) -> bool {
    head.starts_with(b"version https://git-lfs")
}

/// Reads the headers of one file, of the format `wanted` or of the one that its bytes and its name
/// tell. Tensors whose tiles do not hold every element once have no values.
///
/// # Errors
/// The file is of no known format or not of the wanted one, or damaged.
pub fn read_file(
    source: &mut Source,
    file: FileId,
    wanted: Option<&'static Format>,
) -> Result<Checkpoint> {
    let bytes = source.bytes(file);
    let head = &bytes[..bytes.len().min(512)];
    if is_lfs_pointer(head) {
        let message = "is a Git LFS pointer, not the weights; `git lfs pull` fetches them";
        return Err(Error::new(ErrorKind::Malformed, message).in_file(source.path(file)));
    }
    let probed = |format: &&'static Format| (format.probe)(head, source.name(file));
    let candidates = FORMATS.iter().copied().filter(|format| {
        wanted.is_none_or(|wanted| wanted.id == format.id) && probed(format) != Probe::No
    });
    // Of equals the first of the list.
    let found = candidates.rev().max_by_key(probed);
    // What no format is sure of, and what does not keep its format, may be something else.
    let is_sure = found.as_ref().is_some_and(|format| probed(format) == Probe::Sure);
    let known = known::of_file(source.name(file), head).filter(|_| !is_sure);
    let known = known.map(|kind| Error::unsupported(kind.to_string()).in_file(source.path(file)));
    let found = match (found, known) {
        (None, Some(known)) => return Err(known),
        (found, known) => found.map(|format| (format, known)),
    };
    let Some((format, known)) = found else {
        let message = match wanted {
            _ if bytes.is_empty() => "is empty".to_owned(),
            Some(wanted) => format!("is no {} file", wanted.name),
            None => format!("is of no format known here: {} files are", names()),
        };
        return Err(Error::unsupported(message).in_file(source.path(file)));
    };
    let mut checkpoint = (format.read)(source, file).map_err(|err| known.unwrap_or(err))?;
    for tensor in &mut checkpoint.tensors {
        let Payload::Tiles(tiles) = &tensor.payload else { continue };
        if let Err(fault) = prove_cover(&tensor.shape, tiles) {
            let file = |extent: crate::base::source::Extent| source.name(extent.file).to_owned();
            let why = fault
                .tell(&tensor.shape, tiles, &|tile| format!(" in `{}`", file(tile.data.storage)));
            tensor.payload = Payload::Unreadable(why);
        }
    }
    Ok(checkpoint)
}

/// Of a tensor whose file says only that its elements have two bytes.
fn taken_for_bf16(name: &str) -> Diagnostic {
    let message =
        format!("the file says of the elements of `{name}` that they have two bytes, and no more");
    Diagnostic::note("R030", message)
        .tensor(name)
        .help("they are taken for bfloat16, which libraries without a word for it store so")
}
