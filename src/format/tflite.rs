//! TensorFlow Lite's models: a graph in a FlatBuffer, with the constants that it starts from.
//!
//! ```text
//! Model 2 subgraphs { 0 tensors { 0 shape, 1 dtype, 2 buffer, 3 name, 4 quantization } }  4 buffers { 0 data, 1 offset, 2 size }
//! ```
//!
//! Names are those of the graph, as the converter left them. Spec:
//! `tensorflow/compiler/mlir/lite/schema/schema.fbs`.

use std::collections::{BTreeMap, BTreeSet};

use super::{Format, Probe};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, Result};
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::signature::{Signature, SignaturePort};
use crate::checkpoint::tiles::{Coding, Filter, Tile};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor, View, n_elements, row_major_strides};
use crate::container::flatbuffers::{Buffer, Table};

/// The format for the registry.
pub static FORMAT: Format = Format {
    id: "tflite",
    name: "TensorFlow Lite",
    endings: &["tflite"],
    singles: &["model.tflite"],
    dialect: "tflite",
    probe,
    read,
    ..Format::DEFAULT
};

/// What stands behind the first number of a file.
const MAGIC: &[u8] = b"TFL3";
/// More graphs, tensors or buffers than these are no model.
const MAX_ITEMS: u64 = 1 << 20;
/// More dimensions than these no tensor of TensorFlow has.
const MAX_DIMS: usize = 254;
/// Names and shapes of tensors have in all at most so many times the bytes of the file: of one that is no trap each
/// lies in it once.
const MAX_TIMES: u64 = 8;
/// How a finding is told that speaks of quantized graphs.
const QUANTIZED: &str = "R035";
/// The names that tensors of a second graph have in front.
const SUBGRAPH: &str = "subgraph";

fn probe(head: &[u8], _: &str) -> Probe {
    if head.get(4..8) == Some(MAGIC) { Probe::Sure } else { Probe::No }
}

fn read(source: &mut Source, file: FileId) -> Result<Checkpoint> {
    let extent = source.extent(file);
    let mut checkpoint =
        model(source.bytes(file), extent).map_err(|err| err.in_file(source.path(file)))?;
    for finding in &mut checkpoint.findings {
        finding.file.get_or_insert_with(|| source.name(file).to_owned());
    }
    Ok(checkpoint)
}

/// The numbers that the schema has for types of elements; and the bits of integers narrower than a byte.
fn dtype(number: u8) -> Result<(DType, Option<u8>), String> {
    Ok(match number {
        0 => (DType::F32, None),
        1 => (DType::F16, None),
        2 => (DType::I32, None),
        3 => (DType::U8, None),
        4 => (DType::I64, None),
        5 => return Err("its elements are texts".to_owned()),
        6 => (DType::Bool, None),
        7 => (DType::I16, None),
        8 => (DType::C64, None),
        9 => (DType::I8, None),
        10 => (DType::F64, None),
        11 => (DType::C128, None),
        12 => (DType::U64, None),
        15 => (DType::U32, None),
        16 => (DType::U16, None),
        17 => (DType::I8, Some(4)),
        18 => (DType::BF16, None),
        19 => (DType::I8, Some(2)),
        other => return Err(format!("its elements are of the type {other} of TensorFlow Lite")),
    })
}

/// How many bytes may still be taken up by what is read: many tables of a FlatBuffer may be one.
struct Room(u64);

impl Room {
    fn take(&mut self, bytes: usize) -> Result<()> {
        let left = self.0.checked_sub(bytes as u64);
        self.0 = left.ok_or_else(|| {
            Error::limit(0, "names and shapes of tensors that are much longer than the file")
        })?;
        Ok(())
    }

    fn name(&mut self, tensor: &Table<'_>) -> Result<String> {
        let name = tensor.text(3)?.unwrap_or_default();
        self.take(name.len() + size_of::<Tensor>())?;
        Ok(name)
    }

    fn dims(&mut self, tensor: &Table<'_>, field: u64) -> Result<Option<Vec<i32>>> {
        let dims = tensor.numbers(field)?;
        self.take(dims.as_ref().map_or(0, |dims| dims.len() * size_of::<u64>()))?;
        Ok(dims)
    }
}

fn model(bytes: &[u8], file: Extent) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint { format: FORMAT.id, ..Checkpoint::default() };
    let root = Buffer::new(bytes).root()?;
    if let Some(version) = root.u32(0)? {
        checkpoint.metadata.insert("version".to_owned(), version.to_string());
    }
    if let Some(text) = root.text(3)?.filter(|text| !text.is_empty()) {
        checkpoint.metadata.insert("description".to_owned(), text);
    }
    let buffers = root.tables(4, MAX_ITEMS)?;
    let graphs = root.tables(2, MAX_ITEMS)?;
    let (mut names, mut n_quantized, mut n_left) = (BTreeSet::new(), 0u64, MAX_ITEMS);
    // How often a name stood already, so that none is tried twice.
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut room = Room(file.len.saturating_mul(MAX_TIMES));
    for (number, graph) in graphs.iter().enumerate() {
        let tensors = graph.tables(0, n_left)?;
        n_left -= tensors.len() as u64;
        if let Some(signature) = signature(graph, &tensors, number, &mut room)? {
            checkpoint.add_signature(signature);
        }
        for tensor in &tensors {
            let number_of_buffer = tensor.u32(2)?.unwrap_or(0) as usize;
            let Some(buffer) = buffers.get(number_of_buffer) else {
                let message =
                    format!("a tensor in the buffer {number_of_buffer}, of {}", buffers.len());
                return Err(Error::malformed(0, message));
            };
            let Some(bytes) = elements(buffer, file)? else { continue };
            let mut name = room.name(tensor)?;
            if 0 < number {
                name = format!("{SUBGRAPH}{number}/{name}");
            }
            // The names of a graph need not differ.
            let mut unique = name.clone();
            while unique.is_empty() || !names.insert(unique.clone()) {
                let count = counts.entry(name.clone()).or_default();
                *count += 1;
                unique = format!("{name}:{count}");
            }
            n_quantized += u64::from(is_quantized(tensor)?);
            checkpoint.tensors.push(constant(unique, tensor, bytes, &mut room)?);
        }
    }
    if n_quantized != 0 {
        let message = format!(
            "{n_quantized} tensors of the graph are quantized: their values are integers, whose scales and \
             zero points the graph has"
        );
        let help = "convert the checkpoint that the model was exported from";
        checkpoint.findings.push(Diagnostic::warning(QUANTIZED, message).help(help));
    }
    Ok(checkpoint)
}

/// The bytes of a buffer, in the FlatBuffer or behind it; `None` of one that is empty.
fn elements(buffer: &Table<'_>, file: Extent) -> Result<Option<Extent>> {
    if let Some(vector) = buffer.vector(0, 1)?.filter(|vector| vector.count != 0) {
        return Ok(Some(Extent { start: vector.start, len: vector.count, ..file }));
    }
    let (offset, len) = (buffer.u64(1)?.unwrap_or(0), buffer.u64(2)?.unwrap_or(0));
    // 1 stands for a place that was not filled in yet.
    if offset <= 1 || len == 0 {
        return Ok(None);
    }
    let part = offset.checked_add(len).and_then(|end| file.part(offset, end));
    let part = part.ok_or_else(|| {
        Error::malformed(offset, format!("{len} bytes of a buffer pass the end of the file"))
    })?;
    Ok(Some(part))
}

/// Whether a tensor has scales.
fn is_quantized(tensor: &Table<'_>) -> Result<bool> {
    let Some(quantization) = tensor.table(4)? else { return Ok(false) };
    Ok(quantization.vector(2, 4)?.is_some_and(|scales| scales.count != 0))
}

fn constant(name: String, tensor: &Table<'_>, bytes: Extent, room: &mut Room) -> Result<Tensor> {
    let dims = room.dims(tensor, 0)?.unwrap_or_default();
    let shape: Option<Vec<u64>> = dims.iter().map(|&dim| u64::try_from(dim).ok()).collect();
    let shape = shape.filter(|shape| shape.len() <= MAX_DIMS).ok_or_else(|| {
        Error::malformed(bytes.start, format!("`{name}` has the dimensions {dims:?}"))
    })?;
    let kind = dtype(tensor.byte(1)?.unwrap_or(0));
    let payload = kind.clone().and_then(|(dtype, bits)| {
        let n = n_elements(&shape);
        let n_bytes = n.and_then(|n| dtype.n_bytes(n)).ok_or("its shape is too large")?;
        let per_byte = bits.map_or(1, |bits| 8 / u64::from(bits));
        let packed = if bits.is_some() { n_bytes.div_ceil(per_byte) } else { n_bytes };
        if tensor.table(6).is_ok_and(|sparse| sparse.is_some()) {
            return Err("it is sparse".to_owned());
        }
        if bytes.len != packed {
            return Err(format!("takes {packed} bytes, the file has {}", bytes.len));
        }
        Ok(match bits {
            None => Payload::Range(bytes),
            Some(bits) => Payload::Tiles(vec![Tile {
                at: vec![0; shape.len()],
                shape: shape.clone(),
                data: View {
                    storage: bytes,
                    offset: 0,
                    strides: row_major_strides(&shape),
                    big_endian: false,
                },
                coding: Some(Coding {
                    steps: vec![Filter::Unpack { bits, signed: true }],
                    len: n_bytes,
                }),
            }]),
        })
    });
    let dtype = kind.map_or(DType::Unknown, |(dtype, _)| dtype);
    let payload = payload.unwrap_or_else(Payload::Unreadable);
    Ok(Tensor { name: name.into(), dtype, shape, encoding: None, payload })
}

/// What a graph takes and gives.
fn signature(
    graph: &Table<'_>,
    tensors: &[Table<'_>],
    number: usize,
    room: &mut Room,
) -> Result<Option<Signature>> {
    let mut ports = |field: u64| -> Result<Vec<SignaturePort>> {
        let list = graph.numbers(field)?.unwrap_or_default();
        let known = list.into_iter().filter_map(|at| tensors.get(usize::try_from(at).ok()?));
        let ports = known.map(|tensor| {
            // Dimensions that are left open are below 0 in the signature of the shape.
            let dims = match room.dims(tensor, 7)? {
                Some(dims) => Some(dims),
                None => room.dims(tensor, 0)?,
            };
            let shape = dims.map(|dims| dims.iter().map(|&dim| u64::try_from(dim).ok()).collect());
            let kind = dtype(tensor.byte(1)?.unwrap_or(0));
            let dtype = kind.map_or(DType::Unknown, |(dtype, _)| dtype);
            Ok(SignaturePort { name: room.name(tensor)?, dtype, shape })
        });
        ports.collect()
    };
    let (inputs, outputs) = (ports(1)?, ports(2)?);
    let name = if number == 0 { "graph".to_owned() } else { format!("{SUBGRAPH}{number}") };
    Ok((!outputs.is_empty()).then_some(Signature { name, inputs, outputs }))
}
