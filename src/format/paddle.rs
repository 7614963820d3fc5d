//! PaddlePaddle's files: `.pdparams`, a pickle of arrays of NumPy, and `.pdiparams`, tensors one behind
//! the other whose names are in the program beside them.
//!
//! ```text
//! .pdiparams: (0 u32  levels u64  0 u32  length i32  TensorDesc {1 type, 2 dims}  elements)*
//! ```
//!
//! Spec: `python/paddle/framework/io.py`, `paddle/fluid/framework/lod_tensor.cc`. No pickle is run.

use super::pickle::{Node, NodeId, Pickle, is_marked};
use super::{Format, Probe, numpy, pytorch};
use crate::base::cursor::Cursor;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, Result};
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor, View, row_major_strides};

mod program;

/// The format for the registry.
pub static FORMAT: Format = Format {
    id: "paddle",
    name: "PaddlePaddle",
    endings: &["pdparams", "pdiparams"],
    dialect: "paddle",
    probe,
    read,
    ..Format::DEFAULT
};

/// Keys of a file that are no tensors: names of parameters, and arrays that were cut.
const NAMES: &str = "StructuredToParameterName@@";
const CUT: &str = "UnpackBigParamInfor@@";

fn probe(head: &[u8], name: &str) -> Probe {
    let is_pickle = is_marked(head);
    let ends = |end: &str| name.ends_with(end);
    match head {
        _ if is_pickle && (ends(".pdparams") || ends(".pdopt")) => Probe::Sure,
        [0, 0, 0, 0, ..] if ends(".pdiparams") => Probe::Sure,
        _ => Probe::No,
    }
}

fn read(source: &mut Source, file: FileId) -> Result<Checkpoint> {
    let path = source.path(file).to_owned();
    let mut checkpoint = Checkpoint { format: FORMAT.id, ..Checkpoint::default() };
    let done = match source.bytes(file).first() {
        Some(0x80) => pickled(source, file, &mut checkpoint),
        _ => program::read(source, file, &mut checkpoint),
    };
    done.map_err(|err| err.in_file(&path))?;
    for finding in &mut checkpoint.findings {
        finding.file.get_or_insert_with(|| source.name(file).to_owned());
    }
    Ok(checkpoint)
}

/// Reads a pickle of names and arrays.
fn pickled(source: &mut Source, file: FileId, checkpoint: &mut Checkpoint) -> Result<()> {
    let extent = source.extent(file);
    let bytes = source.bytes(file);
    let mut texts = Vec::new();
    {
        let pickle = Pickle::read(&mut Cursor::new(bytes, 0))?;
        pytorch::object::refuse_calls(&pickle)?;
        let reader = Reader { pickle: &pickle, bytes, extent };
        let items = pickle.items(pickle.root());
        let items = items.ok_or_else(|| Error::malformed(0, "is no dictionary of names"))?;
        for (key, value) in items {
            let Some(name) = pickle.text(key) else { continue };
            if name == CUT {
                let message = "arrays of more than 2^30 elements are in pieces, each under a name \
                               of its own";
                checkpoint.findings.push(Diagnostic::note("R004", message));
            }
            if name == NAMES || name == CUT {
                continue;
            }
            match reader.array(name, value) {
                Some((tensor, text)) => {
                    if let Some(text) = text {
                        texts.push((checkpoint.tensors.len(), text));
                    }
                    checkpoint.tensors.push(tensor);
                }
                None => {
                    let message = format!("`{name}` is no array, and is left aside");
                    checkpoint.findings.push(Diagnostic::note("R004", message));
                }
            }
        }
    }
    // Elements that the file has as text are none of its bytes.
    for (at, text) in texts {
        let tensor = &mut checkpoint.tensors[at];
        let name = format!("{}: {}", source.name(file), tensor.name);
        let id = source.add_bytes(&name, text);
        let whole = source.extent(id);
        match &mut tensor.payload {
            Payload::View(view) => view.storage = whole,
            payload => *payload = Payload::Range(whole),
        }
    }
    let mut names = std::collections::BTreeSet::new();
    if let Some(twice) = checkpoint.tensors.iter().find(|of| !names.insert(of.name.as_str())) {
        return Err(Error::malformed(0, format!("two tensors are named `{}`", twice.name)));
    }
    tell_halves(checkpoint);
    Ok(())
}

/// Paddle has bfloat16, which NumPy has not.
fn tell_halves(checkpoint: &mut Checkpoint) {
    let halves = checkpoint.tensors.iter().filter(|tensor| tensor.dtype == DType::U16);
    if let Some(first) = halves.clone().next() {
        let message = format!(
            "{} tensors are of U16, as `{}`: Paddle writes bfloat16 so",
            halves.count(),
            first.name
        );
        let help = "save them as F32, or take the bits for what they are";
        checkpoint.findings.push(Diagnostic::note("R030", message).help(help));
    }
}

struct Reader<'a> {
    pickle: &'a Pickle<'a>,
    bytes: &'a [u8],
    extent: Extent,
}

impl Reader<'_> {
    /// The tensor that a value is, and its elements where the file has them as text.
    fn array(&self, name: &str, value: NodeId) -> Option<(Tensor, Option<Vec<u8>>)> {
        let pickle = self.pickle;
        let Node::Object(object) = pickle.node(value) else {
            // A tensor that is no parameter: its name and its array.
            let [_, array] = pickle.sequence(value)? else { return None };
            return matches!(pickle.node(*array), Node::Object(_))
                .then(|| self.array(name, *array))
                .flatten();
        };
        match pickle.class_of(object.callable)? {
            (_, "tuple") => {
                let [pair] = pickle.sequence(object.args)? else { return None };
                return matches!(pickle.node(*pair), Node::Tuple(_) | Node::List(_))
                    .then(|| self.array(name, *pair))
                    .flatten();
            }
            (_, "_reconstruct") => {}
            _ => return None,
        }
        let state = pickle.sequence(*object.states().last()?)?;
        let [_, shape, dtype, fortran, elements] = state else { return None };
        let shape = pickle.sizes(*shape)?;
        let fortran = matches!(pickle.node(*fortran), Node::Bool(true));
        let known = self.dtype(*dtype)?;
        let (dtype, big_endian, why) = match known {
            Ok((dtype, big_endian)) => (dtype, big_endian, None),
            Err(why) => (DType::Unknown, false, Some(why)),
        };
        let place = match why {
            Some(why) => Err(why),
            None => self.elements(*elements).ok_or("its elements are no bytes".to_owned()),
        };
        let (payload, text) = match place {
            Err(why) => (Payload::Unreadable(why), None),
            Ok((storage, text)) => {
                let strides = if fortran {
                    let turned: Vec<u64> = shape.iter().rev().copied().collect();
                    row_major_strides(&turned).into_iter().rev().collect()
                } else {
                    row_major_strides(&shape)
                };
                let view = View { storage, offset: 0, strides, big_endian };
                let plain = !fortran && !big_endian;
                (if plain { Payload::Range(storage) } else { Payload::View(Box::new(view)) }, text)
            }
        };
        let mut tensor = Tensor { name: name.into(), dtype, shape, encoding: None, payload };
        let found = text.as_ref().map(|text| text.len() as u64);
        let found = found.or_else(|| tensor.extents().first().map(|extent| extent.len));
        if let (Some(found), wanted) = (found, tensor.n_bytes())
            && wanted != Some(found)
        {
            let why = format!("{:?} of {dtype} does not take {found} bytes", tensor.shape);
            tensor.payload = Payload::Unreadable(why);
            return Some((tensor, None));
        }
        Some((tensor, text))
    }

    /// The dtype of a `numpy.dtype`, and whether its high byte comes first.
    fn dtype(&self, id: NodeId) -> Option<Result<(DType, bool), String>> {
        let Node::Object(object) = self.pickle.node(id) else { return None };
        let name = self.pickle.text(*self.pickle.sequence(object.args)?.first()?)?;
        let order = object.states().last().and_then(|state| self.pickle.sequence(*state));
        let order = order.and_then(|state| self.pickle.text(*state.get(1)?)).unwrap_or("<");
        Some(numpy::dtype(&format!("{order}{name}")))
    }

    /// Where bytes are; or what they are, where the pickle has them as text.
    fn elements(&self, id: NodeId) -> Option<(Extent, Option<Vec<u8>>)> {
        match self.pickle.node(id) {
            Node::Bytes(bytes) => {
                let start = bytes.as_ptr().addr().checked_sub(self.bytes.as_ptr().addr())?;
                let (start, len) = (start as u64, bytes.len() as u64);
                Some((self.extent.part(start, start.checked_add(len)?)?, None))
            }
            // Protocol 2 has no bytes: `_codecs.encode(text, 'latin1')`.
            Node::Object(object) => {
                let text = self.pickle.text(*self.pickle.sequence(object.args)?.first()?)?;
                let bytes: Option<Vec<u8>> =
                    text.chars().map(|char| u8::try_from(u32::from(char)).ok()).collect();
                Some((Extent { len: 0, ..self.extent }, Some(bytes?)))
            }
            _ => None,
        }
    }
}
