//! The signatures of a SavedModel: what its functions take and give. The graph itself is not read.
//!
//! ```text
//! SavedModel 2 meta_graphs { 1 info { 4 tags }, 5 signatures { 1 key, 2 value { 1 inputs, 2 outputs } } }
//! inputs, outputs: 1 key, 2 TensorInfo { 2 dtype, 3 shape { 2 dim { 1 size }, 3 unknown_rank } }
//! ```
//!
//! Spec: `tensorflow/core/protobuf/{saved_model,meta_graph}.proto`.

use crate::base::error::{Error, Result};
use crate::base::source::{FileId, Source};
use crate::checkpoint::signature::{Signature, SignaturePort};
use crate::checkpoint::{Checkpoint, DType};
use crate::container::protobuf::{Field, walk};

/// The graph beside the folder of the variables.
const GRAPH_FILE: &str = "saved_model.pb";
/// The folder of the variables.
const VARIABLES: &str = "variables";
/// The tag of the graph that answers, where there are several.
const SERVE: &str = "serve";
/// A function that sets the model up, and answers nothing.
const INIT: &str = "__saved_model_init_op";
/// More signatures, or more tensors of one, than these no model has.
const MAX_ITEMS: usize = 1 << 12;
/// More dimensions than these no tensor of TensorFlow has.
const MAX_DIMS: usize = 254;

/// Adds the signatures of the graph to which an index of variables belongs, if there is one beside it.
///
/// # Errors
/// The graph is no message, or says what cannot be.
pub(super) fn add(source: &Source, index: FileId, checkpoint: &mut Checkpoint) -> Result<()> {
    let name = source.name(index);
    let Some((folder, _)) = name.rsplit_once('/') else { return Ok(()) };
    let graph = match folder.rsplit_once('/') {
        Some((above, VARIABLES)) => format!("{above}/{GRAPH_FILE}"),
        None if folder == VARIABLES => GRAPH_FILE.to_owned(),
        _ => return Ok(()),
    };
    if !source.has(&graph) {
        return Ok(());
    }
    // It is no file of weights, and so none of this input.
    let mut beside = source.again();
    let file = beside.add(&graph)?;
    let signatures = read(beside.bytes(file)).map_err(|err| err.in_file(beside.path(file)))?;
    signatures.into_iter().for_each(|signature| checkpoint.add_signature(signature));
    Ok(())
}

/// The signatures of a graph, sorted by name.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Signature>> {
    let mut chosen: Option<(bool, Vec<Signature>)> = None;
    for field in walk(bytes, 0) {
        let (2, Field::Bytes(graph, at)) = field? else { continue };
        let (serves, signatures) = meta_graph(graph, at)?;
        if chosen.as_ref().is_none_or(|(before, _)| serves && !before) {
            chosen = Some((serves, signatures));
        }
    }
    let mut signatures = chosen.map_or_else(Vec::new, |(_, signatures)| signatures);
    signatures.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(signatures)
}

fn meta_graph(bytes: &[u8], base: u64) -> Result<(bool, Vec<Signature>)> {
    let (mut serves, mut signatures) = (false, Vec::new());
    for field in walk(bytes, base) {
        match field? {
            (1, Field::Bytes(info, at)) => {
                for field in walk(info, at) {
                    serves |=
                        matches!(field?, (4, Field::Bytes(tag, _)) if tag == SERVE.as_bytes());
                }
            }
            (5, Field::Bytes(entry, at)) => {
                let (name, value) = entry_of(entry, at)?;
                if name == INIT {
                    continue;
                }
                if MAX_ITEMS <= signatures.len() {
                    return Err(Error::limit(at, format!("more than {MAX_ITEMS} signatures")));
                }
                let mut signature = Signature { name, inputs: Vec::new(), outputs: Vec::new() };
                let (value, at) = value.unwrap_or((&[], at));
                for field in walk(value, at) {
                    let (ports, bytes, at) = match field? {
                        (1, Field::Bytes(bytes, at)) => (&mut signature.inputs, bytes, at),
                        (2, Field::Bytes(bytes, at)) => (&mut signature.outputs, bytes, at),
                        _ => continue,
                    };
                    if MAX_ITEMS <= ports.len() {
                        return Err(Error::limit(at, format!("more than {MAX_ITEMS} tensors")));
                    }
                    ports.push(port(bytes, at)?);
                }
                // Maps of protocol buffers have no order.
                signature.inputs.sort_by(|left, right| left.name.cmp(&right.name));
                signature.outputs.sort_by(|left, right| left.name.cmp(&right.name));
                signatures.push(signature);
            }
            _ => {}
        }
    }
    Ok((serves, signatures))
}

type Entry<'a> = (String, Option<(&'a [u8], u64)>);

/// The key and the message of an entry of a map.
fn entry_of(bytes: &[u8], base: u64) -> Result<Entry<'_>> {
    let (mut name, mut value) = (String::new(), None);
    for field in walk(bytes, base) {
        match field? {
            (1, Field::Bytes(text, _)) => name = String::from_utf8_lossy(text).into_owned(),
            (2, Field::Bytes(message, at)) => value = Some((message, at)),
            _ => {}
        }
    }
    Ok((name, value))
}

fn port(bytes: &[u8], base: u64) -> Result<SignaturePort> {
    let (name, value) = entry_of(bytes, base)?;
    let mut port = SignaturePort { name, dtype: DType::Unknown, shape: None };
    let (value, at) = value.unwrap_or((&[], base));
    for field in walk(value, at) {
        match field? {
            (2, Field::Varint(number)) => {
                port.dtype = super::dtype(number).unwrap_or(DType::Unknown);
            }
            (3, Field::Bytes(shape, at)) => port.shape = dims(shape, at)?,
            _ => {}
        }
    }
    Ok(port)
}

/// The dimensions, of which those below 0 are the caller's; `None` where their number is too.
fn dims(bytes: &[u8], base: u64) -> Result<Option<Vec<Option<u64>>>> {
    let mut dims = Vec::new();
    for field in walk(bytes, base) {
        match field? {
            (2, Field::Bytes(dim, at)) => {
                if MAX_DIMS <= dims.len() {
                    return Err(Error::limit(at, format!("more than {MAX_DIMS} dimensions")));
                }
                let mut size = 0;
                for field in walk(dim, at) {
                    if let (1, Field::Varint(number)) = field? {
                        size = number;
                    }
                }
                dims.push(i64::try_from(size).ok().map(|_| size));
            }
            (3, Field::Varint(unknown)) if unknown != 0 => return Ok(None),
            _ => {}
        }
    }
    Ok(Some(dims))
}
