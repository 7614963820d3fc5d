//! ONNX: a graph of operators in a protocol buffer, with the tensors that it starts from.
//!
//! ```text
//! ModelProto 7 graph -> GraphProto 5 initializer, 1 node -> NodeProto 5 attribute -> 5 tensor
//! ```
//!
//! A tensor has its elements as bytes, as a list of numbers of one of five fields, or in a file beside
//! it. What `graph` reads is placed here; `names` gives weights the names that the exporter lost.
//! Spec: `onnx/onnx.proto`, `docs/ExternalData.md`.

use std::collections::{BTreeMap, BTreeSet};

use self::graph::{Graph, Numbers, Outside, RawTensor};
use super::{Format, Probe};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::tiles::{Coding, Filter, Tile};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor, View, n_elements, row_major_strides};
use crate::container::filter;

mod graph;
mod names;
mod signature;

/// The format for the registry.
pub static FORMAT: Format = Format {
    id: "onnx",
    name: "ONNX",
    endings: &["onnx"],
    singles: &["model.onnx", "onnx/model.onnx"],
    dialect: "onnx",
    probe,
    read,
    ..Format::DEFAULT
};

/// The keys of the fields of a `ModelProto`, of which one comes first.
const KEYS: &[u8] = &[0x08, 0x12, 0x1a, 0x22, 0x28, 0x32, 0x3a, 0x42, 0x72];
/// How a finding is told that speaks of what the graph says of its tensors.
const GRAPH: &str = "R034";
/// How a finding is told that speaks of quantized graphs.
const QUANTIZED: &str = "R035";
/// Operators that compute with integers in the place of weights.
const QUANTIZING: &[&str] = &[
    "MatMulInteger",
    "ConvInteger",
    "QLinearMatMul",
    "QLinearConv",
    "DequantizeLinear",
    "QGemm",
    "QAttention",
    "MatMulNBits",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
    "GatherBlockQuantized",
    "MatMulBnb4",
];

fn probe(head: &[u8], name: &str) -> Probe {
    match head.first() {
        Some(first) if name.ends_with(".onnx") && KEYS.contains(first) => Probe::Sure,
        Some(_) if name.ends_with(".onnx") => Probe::Maybe,
        _ => Probe::No,
    }
}

fn read(source: &mut Source, file: FileId) -> Result<Checkpoint> {
    let path = source.path(file).to_owned();
    let about = |err: Error| err.in_file(&path);
    let graph = graph::read(source.bytes(file)).map_err(about)?;
    let outside = outside(source, file, &graph)?;
    let mut checkpoint = Checkpoint { format: FORMAT.id, ..Checkpoint::default() };
    checkpoint.metadata = graph.metadata.clone();
    let extent = source.extent(file);
    let mut known = BTreeSet::new();
    for raw in &graph.tensors {
        if !known.insert(raw.name.as_str()) {
            let message = format!("two tensors of the graph are named `{}`", raw.name);
            return Err(about(Error::malformed(raw.at, message)));
        }
        checkpoint.tensors.push(tensor(raw, source, extent, &outside).map_err(about)?);
    }
    if let Some(signature) = graph.ports.signature(&known) {
        checkpoint.add_signature(signature);
    }
    tell_quantized(&graph, &mut checkpoint);
    names::recover(&graph, &mut checkpoint);
    let name = source.name(file);
    for finding in &mut checkpoint.findings {
        finding.file.get_or_insert_with(|| name.to_owned());
    }
    Ok(checkpoint)
}

/// The files beside the graph that have elements, by the names that it has for them.
fn outside(source: &mut Source, file: FileId, graph: &Graph) -> Result<BTreeMap<String, Extent>> {
    let folder = source.name(file).rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let graph_path = source.path(file).to_owned();
    let mut files = BTreeMap::new();
    for raw in &graph.tensors {
        let Some(Outside { location, .. }) = &raw.outside else { continue };
        if files.contains_key(location) {
            continue;
        }
        let about = |err: Error| {
            let tensor = &raw.name;
            err.context(&format!("`{tensor}` has its elements in {location:?}"))
                .in_file(&graph_path)
        };
        // A file names one beside it, however it spells that.
        let relative = location.strip_prefix("./").unwrap_or(location);
        let name = match &folder {
            Some(folder) if !relative.starts_with('/') => format!("{folder}/{relative}"),
            _ => relative.to_owned(),
        };
        let id = source.add(&name).map_err(about)?;
        if let Some(target) = source.leads_out(&name)? {
            let message = format!(
                "that is a link to {}, which is not in the folder; put the file itself there",
                target.display()
            );
            return Err(about(Error::new(ErrorKind::Malformed, message)));
        }
        files.insert(location.clone(), source.extent(id));
    }
    Ok(files)
}

/// How elements of a type are kept.
struct Kind {
    dtype: DType,
    /// Bits of an integer narrower than a byte, which is widened to `dtype`; and whether it has a sign.
    narrow: Option<(u8, bool)>,
}

fn kind(data_type: u64) -> Result<Kind, String> {
    let narrow = match data_type {
        21 => Some((4, false)),
        22 => Some((4, true)),
        25 => Some((2, false)),
        26 => Some((2, true)),
        _ => None,
    };
    let dtype = match data_type {
        1 => DType::F32,
        2 | 21 | 25 => DType::U8,
        3 | 22 | 26 => DType::I8,
        4 => DType::U16,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        8 => return Err("its elements are texts".to_owned()),
        9 => DType::Bool,
        10 => DType::F16,
        11 => DType::F64,
        12 => DType::U32,
        13 => DType::U64,
        14 => DType::C64,
        15 => DType::C128,
        16 => DType::BF16,
        17 => DType::F8E4M3,
        18 => DType::F8E4M3Fnuz,
        19 => DType::F8E5M2,
        20 => DType::F8E5M2Fnuz,
        23 => DType::F4,
        24 => DType::F8E8M0,
        other => return Err(format!("its elements are of the type {other} of ONNX")),
    };
    Ok(Kind { dtype, narrow })
}

fn tensor(
    raw: &RawTensor,
    source: &mut Source,
    file: Extent,
    outside: &BTreeMap<String, Extent>,
) -> Result<Tensor> {
    let kind = kind(raw.data_type);
    let dtype = kind.as_ref().map_or(DType::Unknown, |kind| kind.dtype);
    let payload = match (kind, &raw.unreadable) {
        (_, Some(why)) => Err(why.clone()),
        (Err(why), None) => Err(why),
        (Ok(kind), None) => payload(raw, &kind, source, file, outside),
    };
    let payload = payload.unwrap_or_else(Payload::Unreadable);
    Ok(Tensor {
        name: raw.name.clone().into(),
        dtype,
        shape: raw.shape.clone(),
        encoding: None,
        payload,
    })
}

fn payload(
    raw: &RawTensor,
    kind: &Kind,
    source: &mut Source,
    file: Extent,
    outside: &BTreeMap<String, Extent>,
) -> Result<Payload, String> {
    let dtype = kind.dtype;
    let n = n_elements(&raw.shape);
    let n_bytes = n.and_then(|n| dtype.n_bytes(n));
    let (Some(n), Some(n_bytes)) = (n, n_bytes) else {
        return Err(format!("{:?} of {dtype} is no whole number of bytes below 2^64", raw.shape));
    };
    // As many bytes as the elements take where narrow ones share one.
    let packed = match kind.narrow {
        Some((bits, _)) => n.div_ceil(8 / u64::from(bits)),
        None => n_bytes,
    };
    let unpack = kind.narrow.map(|(bits, signed)| Filter::Unpack { bits, signed });
    let (storage, first) = match (&raw.outside, raw.raw, &raw.numbers) {
        (Some(place), None, None) => (place_outside(place, packed, outside)?, None),
        (None, Some((start, len)), None) => (Extent { start, len, ..file }, None),
        (None, None, Some(numbers)) => numbers_of(raw, numbers, kind, packed, source, file)?,
        (None, None, None) if packed == 0 => (Extent { len: 0, ..file }, None),
        (None, None, None) => return Err(format!("takes {packed} bytes, and has none")),
        _ => return Err("has its elements in more than one place".to_owned()),
    };
    if first.is_none() && storage.len != packed {
        return Err(format!("takes {packed} bytes, the file has {}", storage.len));
    }
    let steps: Vec<Filter> = first.into_iter().chain(unpack).collect();
    if steps.is_empty() {
        return Ok(Payload::Range(storage));
    }
    let strides = row_major_strides(&raw.shape);
    Ok(Payload::Tiles(vec![Tile {
        at: vec![0; raw.shape.len()],
        shape: raw.shape.clone(),
        data: View { storage, offset: 0, strides, big_endian: false },
        coding: Some(Coding { steps, len: n_bytes }),
    }]))
}

fn place_outside(
    place: &Outside,
    packed: u64,
    outside: &BTreeMap<String, Extent>,
) -> Result<Extent, String> {
    let Outside { location, offset, len } = place;
    let file = outside.get(location).ok_or("its file is not there")?;
    let len = len.unwrap_or(packed);
    let end = offset.checked_add(len);
    end.and_then(|end| file.part(*offset, end))
        .ok_or_else(|| format!("{len} bytes at {offset} pass the {} of {location:?}", file.len))
}

/// The bytes of elements that are a list of numbers, and what makes elements of them.
fn numbers_of(
    raw: &RawTensor,
    numbers: &Numbers,
    kind: &Kind,
    packed: u64,
    source: &mut Source,
    file: Extent,
) -> Result<(Extent, Option<Filter>), String> {
    let (field, width) = match kind.dtype {
        DType::F32 | DType::C64 => (graph::FLOATS, None),
        DType::F64 | DType::C128 => (graph::DOUBLES, None),
        DType::I64 => (graph::LONGS, Some(8)),
        DType::U64 => (graph::ULONGS, Some(8)),
        DType::U32 => (graph::ULONGS, Some(4)),
        dtype => (graph::INTS, Some(dtype.bits().div_ceil(8))),
    };
    if numbers.field != field {
        let (dtype, of) = (kind.dtype, numbers.field);
        return Err(format!("its elements are {dtype}, and it has numbers of the field {of}"));
    }
    let storage = match &numbers.loose {
        None => Extent { start: numbers.start, len: numbers.len, ..file },
        Some(bytes) => {
            let name = format!("{}: {}", source.name(file.file), raw.name);
            let id = source.add_bytes(&name, bytes.clone());
            source.extent(id)
        }
    };
    match width {
        None if storage.len != packed => {
            Err(format!("takes {packed} bytes, the file has {}", storage.len))
        }
        None => Ok((storage, None)),
        // Every number is a byte at least.
        Some(width) if storage.len < packed / width => {
            Err(format!("has fewer numbers than {:?} has elements", raw.shape))
        }
        // Elements that share bytes are in no box with strides.
        Some(width) if kind.dtype.bits() < 8 => {
            let coding = Coding { steps: vec![Filter::Varints(width)], len: packed };
            let bytes = source.slice(storage).and_then(|bytes| filter::decode(&coding, bytes));
            let bytes = bytes.map_err(|err| err.message().to_owned())?.into_owned();
            let name = format!("{}: {}", source.name(file.file), raw.name);
            let id = source.add_bytes(&name, bytes);
            Ok((source.extent(id), None))
        }
        Some(width) => Ok((storage, Some(Filter::Varints(width)))),
    }
}

/// Tells of a graph that computes with integers.
fn tell_quantized(graph: &Graph, checkpoint: &mut Checkpoint) {
    let found: Vec<&str> =
        QUANTIZING.iter().copied().filter(|of| graph.operators.contains(*of)).collect();
    if found.is_empty() {
        return;
    }
    let message = format!(
        "the graph is quantized ({}): its weights are integers whose scales and zero points are \
         tensors of their own",
        found.join(", ")
    );
    let help =
        "convert the export in floating-point numbers, or the checkpoint that it was made of";
    checkpoint.findings.push(Diagnostic::warning(QUANTIZED, message).help(help));
}
