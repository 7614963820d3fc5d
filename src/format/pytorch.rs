//! PyTorch checkpoints: what `torch.save` wrote in its three containers, TorchScript and `torch.export`.
//!
//! ```text
//! archive (torch 1.6 and newer): a zip file       stream (older): five pickles, then storages
//!   <top>/data.pkl    the object, a pickle          magic number, version, system
//!   <top>/byteorder   `little` or `big`             the object
//!   <top>/data/<key>  one storage each              the list of storage keys
//!   <top>/version                                   (element count: i64, elements) for each key
//! ```
//!
//! Before 0.1.10 it was a tar file of four members, `tar` has them; `torch.export` writes a zip file with
//! its weights one by one, `exported` has them.
//!
//! The object is mostly a dictionary of tensors, and a tensor is a recorded call of
//! `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, …)`. Nothing of the pickle is
//! ever run, and one tensor that cannot be read does not hide the others.
//!
//! Spec: `torch/serialization.py`, `torch/_utils.py` and `torch/storage.py` of torch 2.15.

mod archive;
pub(crate) mod dtensor;
mod exported;
mod locate;
pub(crate) mod names;
pub mod object;
mod state_dict;
mod storage;
mod stream;
mod tar;
mod tensor;
pub mod write;

use std::collections::BTreeSet;

use super::{Format, Probe};
use crate::base::cursor::Cursor;
use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::error::{Error, Result};
use crate::base::source::{FileId, Source};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor};
use crate::container::zip;
use crate::format::pickle::{self, Node, Pickle};

/// The ids of this reader's findings; each has a page under `spec/1.0/rules`.
mod rule {
    pub(super) const STORAGE_NEVER_WRITTEN: &str = "R001";
    pub(super) const OPAQUE_GLOBAL: &str = "R002";
    pub(super) const UNREADABLE_TENSOR: &str = "R003";
    pub(super) const LEFT_OUT_KEYS: &str = "R004";
    pub(super) const WRAPPER_STRIPPED: &str = "R005";
    pub(super) const DUPLICATE_NAME: &str = "R006";
    pub(super) const CYCLIC_VALUE: &str = "R007";
    pub(super) const TRAILING_BYTES: &str = "R008";
    pub(super) const MEMBER_NAME_CASE: &str = "R009";
    pub(super) const TEXT_NOT_UTF8: &str = "R010";
    pub(super) const CHECKSUM_MISMATCH: &str = "R011";
    pub(super) const BYTE_ORDER_DISPUTED: &str = "R012";
}

/// The most different globals that are reported one by one.
const MAX_REPORTED_GLOBALS: usize = 100;

/// The members of a PyTorch archive, below its top folder.
const MEMBERS: &[&str] = &[
    ".data/",
    ".format_version",
    ".storage_alignment",
    "archive_format",
    "attributes.pkl",
    "byteorder",
    "code/",
    "constants.pkl",
    "data.pkl",
    "data/",
    "extra/",
    "model.json",
    "tensors/",
    "version",
];

/// The format for the registry.
pub static FORMAT: Format = Format {
    id: "pytorch",
    name: "PyTorch",
    endings: &["bin", "pt", "pth", "ckpt", "pt2"],
    singles: &["pytorch_model.bin"],
    probe: |head, _| if probe(head) { Probe::Sure } else { Probe::No },
    read: |source, file| read(source, file),
    ..Format::DEFAULT
};

/// Tells whether a file that starts with `head` is one that `torch.save` wrote.
pub fn probe(head: &[u8]) -> bool {
    if head.starts_with(zip::LOCAL_SIGNATURE) {
        return first_member(head).is_some_and(|name| {
            // Programs of `torch.export` before torch 2.8 have no folder.
            if name.starts_with("serialized_") {
                return true;
            }
            let (_, below) = name.split_once('/').unwrap_or_default();
            MEMBERS.iter().any(|member| match member.strip_suffix('/') {
                Some(_) => below.starts_with(member),
                None => below == *member,
            })
        });
    }
    stream::probe(head) || tar::probe(head)
}

/// The name in the local header at the start of a zip file.
fn first_member(head: &[u8]) -> Option<&str> {
    let name_len = head.get(26..28)?.try_into().ok().map(u16::from_le_bytes)?;
    let name = head.get(30..)?;
    std::str::from_utf8(name.get(..name_len.into())?).ok()
}

/// Reads the index of a PyTorch checkpoint, and none of its weights.
///
/// # Errors
/// The file breaks its container or its pickle, or is of a kind that is not read.
pub fn read(source: &Source, file: FileId) -> Result<Checkpoint> {
    let read = || {
        let bytes = source.bytes(file);
        if bytes.starts_with(zip::LOCAL_SIGNATURE) {
            return archive::read(source, file);
        }
        if tar::probe(bytes) {
            return tar::read(source, file);
        }
        if stream::probe(bytes) {
            return stream::read(source, file);
        }
        Err(Error::malformed(0, "neither a zip file nor a stream of pickles starts here"))
    };
    let mut checkpoint = read().map_err(|err| err.in_file(source.path(file)))?;
    for finding in &mut checkpoint.findings {
        finding.file.get_or_insert_with(|| source.name(file).to_owned());
    }
    Ok(checkpoint)
}

/// Interprets the object of a file, whose storages are known.
fn interpret(
    source: &Source,
    pickle: &Pickle<'_>,
    storages: &storage::Storages,
) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint { format: "pytorch", ..Checkpoint::default() };
    report_globals(pickle, &mut checkpoint.findings);
    if let Some(at) = pickle.not_utf8() {
        let message = format!(
            "a string at byte {at:#x} is not UTF-8; what is wrong in it is shown as `\u{fffd}`"
        );
        checkpoint.findings.push(
            Diagnostic::warning(rule::TEXT_NOT_UTF8, message)
                .help("load the file with torch and write it again with clean names"),
        );
    }
    state_dict::read(pickle, storages, &mut checkpoint)?;
    dtensor::describe(pickle, &mut checkpoint.metadata);
    report_tensors(&checkpoint.tensors, &mut checkpoint.findings);
    checkpoint.findings.extend(storages.find_never_written(source, &checkpoint.tensors));
    checkpoint.checksums = storages.checksums(&checkpoint.tensors);
    Ok(checkpoint)
}

fn report_tensors(tensors: &[Tensor], findings: &mut Vec<Diagnostic>) {
    for tensor in tensors {
        match &tensor.payload {
            Payload::Unreadable(reason) => {
                let message =
                    format!("the values of {} cannot be read: {reason}", quote(&tensor.name));
                findings.push(
                    Diagnostic::warning(rule::UNREADABLE_TENSOR, message).tensor(&tensor.name),
                );
            }
            Payload::View(view)
                if view.big_endian && storage::is_swapped_by_dtype_alone(tensor.dtype) =>
            {
                let message = format!(
                    "{} is read with the high byte first, as a big-endian machine wrote it; torch \
                     2.15 on a little-endian machine forgets to swap {}",
                    quote(&tensor.name),
                    tensor.dtype
                );
                findings.push(
                    Diagnostic::warning(rule::BYTE_ORDER_DISPUTED, message)
                        .tensor(&tensor.name)
                        .help("compare the values with those on the machine that wrote the file"),
                );
            }
            _ => {}
        }
    }
}

/// Globals that appear in ordinary state dicts: modules, each with the names in it; `*` is any.
const KNOWN_GLOBALS: &[(&str, &[&str])] = &[
    (
        "__builtin__",
        &["set", "frozenset", "bytearray", "complex", "dict", "list", "tuple", "object", "slice"],
    ),
    (
        "builtins",
        &["set", "frozenset", "bytearray", "complex", "dict", "list", "tuple", "object", "slice"],
    ),
    ("_codecs", &["encode"]),
    ("argparse", &["Namespace"]),
    ("collections", &["OrderedDict", "defaultdict", "Counter", "deque"]),
    ("copy_reg", &["_reconstructor"]),
    ("copyreg", &["_reconstructor"]),
    ("pathlib", &["*"]),
    ("numpy", &["dtype", "ndarray"]),
    ("numpy._core.multiarray", &["scalar", "_reconstruct"]),
    ("numpy.core.multiarray", &["scalar", "_reconstruct"]),
    ("torch", &["Size", "Tensor", "device"]),
    ("torch._C", &["_TensorBase"]),
    ("torch._tensor", &["_rebuild_from_type_v2"]),
    ("torch._utils", &["*"]),
    ("torch.autograd.variable", &["Variable"]),
    ("torch.distributed._mesh_layout", &["*"]),
    ("torch.distributed._shard.metadata", &["*"]),
    ("torch.distributed._shard.sharded_tensor.api", &["*"]),
    ("torch.distributed._shard.sharded_tensor.metadata", &["*"]),
    ("torch.distributed._shard.sharded_tensor.shard", &["*"]),
    ("torch.distributed._shard.sharding_spec.api", &["*"]),
    ("torch.distributed._shard.sharding_spec.chunk_sharding_spec", &["*"]),
    ("torch.distributed._tensor.api", &["DTensor"]),
    ("torch.distributed._tensor.placement_types", &["*"]),
    ("torch.distributed.checkpoint.filesystem", &["_StorageInfo"]),
    ("torch.distributed.checkpoint.metadata", &["*"]),
    ("torch.distributed.device_mesh", &["DeviceMesh"]),
    ("torch.distributed.remote_device", &["_remote_device"]),
    ("torch.distributed.tensor", &["DTensor"]),
    ("torch.distributed.tensor._api", &["DTensor"]),
    ("torch.distributed.tensor._dtensor_spec", &["*"]),
    ("torch.distributed.tensor.placement_types", &["*"]),
    ("torch.jit._pickle", &["*"]),
    ("torch.nn.parameter", &["Parameter", "Buffer"]),
    ("torch.serialization", &["_get_layout"]),
    ("torch.tensor", &["_rebuild_from_type_v2"]),
];

/// Modules whose functions no checkpoint needs, and which attacks call.
const DANGEROUS_MODULES: &[&str] = &[
    "asyncio",
    "bdb",
    "cloudpickle",
    "code",
    "commands",
    "ctypes",
    "ftplib",
    "http",
    "httplib",
    "importlib",
    "marshal",
    "multiprocessing",
    "nt",
    "os",
    "pdb",
    "pickle",
    "pip",
    "posix",
    "profile",
    "pty",
    "requests",
    "runpy",
    "shutil",
    "smtplib",
    "socket",
    "ssl",
    "subprocess",
    "sys",
    "timeit",
    "trace",
    "urllib",
    "urllib2",
    "venv",
    "webbrowser",
];

/// Built-in functions that attacks call.
const DANGEROUS_BUILTINS: &[&str] =
    &["eval", "exec", "execfile", "compile", "open", "__import__", "apply", "input", "breakpoint"];

fn level_of(module: &str, name: &str) -> Option<Level> {
    let known = |names: &[&str]| names.contains(&name) || names.contains(&"*");
    if KNOWN_GLOBALS.iter().any(|(of, names)| *of == module && known(names)) {
        return None;
    }
    let element = storage::class(module, name).is_some() || storage::dtype(module, name).is_some();
    if element || storage::is_scheme(module, name) {
        return None;
    }
    let top = module.split('.').next().unwrap_or_default();
    let builtin = matches!(module, "builtins" | "__builtin__");
    if DANGEROUS_MODULES.contains(&top) || builtin && DANGEROUS_BUILTINS.contains(&name) {
        return Some(Level::Error);
    }
    // TorchScript classes live in the file itself, those of torch come with torch.
    Some(if matches!(top, "torch" | "__torch__") { Level::Note } else { Level::Warning })
}

/// A class or function that a pickle names, and that ordinary state dicts do not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Global {
    /// What the name tells: an error is what attacks call, a warning a class of some library, a note
    /// one of torch.
    pub level: Level,
    /// Module and name, `os.system`.
    pub name: String,
}

/// The classes and functions that a file names which is not read as weights: a pickle, a stream of
/// them, or a zip archive with pickles in it; each once, sorted. What cannot be read to its end is read
/// as far as it can be.
pub fn globals(bytes: &[u8]) -> BTreeSet<Global> {
    let mut found = BTreeSet::new();
    if !bytes.starts_with(zip::LOCAL_SIGNATURE) {
        collect_globals(bytes, &mut found);
    } else if let Ok(zip) = zip::Zip::read(bytes) {
        for member in zip.members().iter().filter(|member| member.name.ends_with(".pkl")) {
            if let Ok(unpacked) = member.unpack(bytes, pickle::MAX_LEN) {
                collect_globals(&unpacked, &mut found);
            }
        }
    }
    found
}

fn collect_globals(bytes: &[u8], found: &mut BTreeSet<Global>) {
    let mut cursor = Cursor::new(bytes, 0);
    // A stream of torch has five pickles before the bytes of its storages.
    for _ in 0..MAX_PICKLES {
        let (pickle, fault) = Pickle::read_partly(&mut cursor);
        for node in pickle.nodes() {
            let Node::Global(module, name) = node else { continue };
            let text = |id| pickle.text(id).map(cut);
            let (Some(module), Some(name)) = (text(*module), text(*name)) else { continue };
            let Some(level) = level_of(module, name) else { continue };
            // What would run code is always worth its line, up to a point.
            let most = MAX_REPORTED_GLOBALS * if level == Level::Error { 2 } else { 1 };
            if found.len() < most {
                found.insert(Global { level, name: quote_global(module, name) });
            }
        }
        if fault.is_some() {
            return;
        }
    }
}

/// More pickles of one file than these are not looked into.
const MAX_PICKLES: usize = 64;

/// Reports the classes and functions that a pickle names and that are not known.
pub(crate) fn report_globals(pickle: &Pickle<'_>, findings: &mut Vec<Diagnostic>) {
    let mut seen = BTreeSet::new();
    let mut n_more = 0u64;
    for node in pickle.nodes() {
        let Node::Global(module, name) = node else { continue };
        let (Some(module), Some(name)) = (pickle.text(*module), pickle.text(*name)) else {
            continue;
        };
        let (module, name) = (cut(module), cut(name));
        if seen.contains(&(module, name)) {
            continue;
        }
        let Some(level) = level_of(module, name) else { continue };
        // What would run code is always worth its line.
        if seen.len() == MAX_REPORTED_GLOBALS && level != Level::Error {
            n_more += 1;
            continue;
        }
        if 2 * MAX_REPORTED_GLOBALS <= seen.len() {
            n_more += 1;
            continue;
        }
        seen.insert((module, name));
        let what = quote_global(module, name);
        let (message, help) = match level {
            Level::Error => (
                format!(
                    "the pickle calls {what}, which no checkpoint needs; nothing of it was run"
                ),
                "do not load this file with torch or pickle: that would run the call",
            ),
            _ => (
                format!(
                    "the pickle names {what}, which this reader does not know; nothing of it is ever run"
                ),
                "what this class keeps to itself is not read; its tensors in dictionaries are",
            ),
        };
        findings.push(Diagnostic::new(rule::OPAQUE_GLOBAL, level, message).help(help));
    }
    if n_more != 0 {
        let message = format!("the pickle names unknown classes or functions {n_more} times more");
        findings.push(Diagnostic::warning(rule::OPAQUE_GLOBAL, message));
    }
}

/// Whether files of PyTorch have tensors of a dtype in storages of their own class.
pub fn has(dtype: DType) -> bool {
    storage::class_of(dtype).is_some()
}

/// The dtype that a constant of torch is.
pub(crate) fn dtype(module: &str, name: &str) -> Option<DType> {
    storage::dtype(module, name).map(|class| class.dtype)
}

/// Reports bytes behind the last one that belongs to anything.
fn report_trailing(what: &str, start: u64, end: u64, findings: &mut Vec<Diagnostic>) {
    if start < end {
        let message = format!("{} bytes follow {what}, and torch does not read them", end - start);
        findings.push(
            Diagnostic::warning(rule::TRAILING_BYTES, message)
                .bytes(start, end)
                .help("find out what wrote them; a copy made with torch does not have them"),
        );
    }
}

/// The most bytes of a name that a message or a comparison takes.
const MAX_QUOTED: usize = 200;

/// Quotes a name of the file for a message, cut to a length that fits one.
pub(crate) fn quote(name: &str) -> String {
    let shown = cut(name);
    let dots = if shown.len() < name.len() { "…" } else { "" };
    format!("`{}{dots}`", shown.escape_debug())
}

/// Quotes the name of a class or function.
fn quote_global(module: &str, name: &str) -> String {
    quote(&format!("{}.{}", cut(module), cut(name)))
}

/// The start of a text, which may be as long as the file.
pub(crate) fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_QUOTED)).unwrap_or(text)
}

#[cfg(test)]
mod tests;
