//! What a file of ONNX says: its tensors, and the nodes that tell what a tensor is.

use std::collections::{BTreeMap, BTreeSet};

use super::signature::Ports;
use crate::base::error::{Error, Result};
use crate::container::protobuf::{Field, numbers, walk};

/// How deep graphs lie in nodes of graphs.
const MAX_DEPTH: usize = 16;
/// More tensors or nodes than this are no model.
const MAX_ITEMS: usize = 1 << 20;
/// The most dimensions of a tensor.
const MAX_DIMS: usize = 64;

/// The fields of a tensor that have its elements as numbers.
pub(super) const FLOATS: u64 = 4;
pub(super) const INTS: u64 = 5;
pub(super) const LONGS: u64 = 7;
pub(super) const DOUBLES: u64 = 10;
pub(super) const ULONGS: u64 = 11;

/// The operators by which tensors are told what they are.
const TELLING: &[&str] = &["MatMul", "Gemm", "Add", "Identity", "Gather"];

/// What PyTorch's exporter says of a node: the modules that it lies in, outermost first, and itself,
/// as a Python list of texts.
const SCOPES: &str = "pkg.torch.onnx.name_scopes";

/// A model: its graph, and those in it.
#[derive(Default)]
pub(super) struct Graph {
    pub tensors: Vec<RawTensor>,
    /// Those that tell what a tensor is.
    pub nodes: Vec<Node>,
    /// All operators that there are.
    pub operators: BTreeSet<String>,
    pub metadata: BTreeMap<String, String>,
    /// What the outermost graph takes and gives.
    pub ports: Ports,
}

/// A node of a graph.
#[derive(Default)]
pub(super) struct Node {
    pub operator: String,
    pub name: String,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    /// The module that it is of, where the exporter says so.
    pub scope: Option<String>,
    /// The attributes that are integers.
    pub integers: BTreeMap<String, u64>,
}

/// A tensor as the file has it; offsets count from the start of the file.
#[derive(Default)]
pub(super) struct RawTensor {
    pub name: String,
    /// Where its message begins.
    pub at: u64,
    pub data_type: u64,
    pub shape: Vec<u64>,
    /// Its elements as bytes: the first, and how many.
    pub raw: Option<(u64, u64)>,
    pub numbers: Option<Numbers>,
    pub outside: Option<Outside>,
    /// Why its values cannot be had, where its own message says so.
    pub unreadable: Option<String>,
}

/// Elements as a list of numbers.
pub(super) struct Numbers {
    /// The field.
    pub field: u64,
    /// The first byte of the list, and how many.
    pub start: u64,
    pub len: u64,
    /// The bytes, where the list is in pieces.
    pub loose: Option<Vec<u8>>,
}

/// Elements in another file.
#[derive(Clone, Default)]
pub(super) struct Outside {
    /// Its name, from the folder of the graph on.
    pub location: String,
    pub offset: u64,
    pub len: Option<u64>,
}

/// Reads a model.
///
/// # Errors
/// It is no message, has no graph, or says what cannot be.
pub(super) fn read(bytes: &[u8]) -> Result<Graph> {
    let mut graph = Graph::default();
    let mut found = false;
    for field in walk(bytes, 0) {
        match field? {
            (1, Field::Varint(version)) => {
                graph.metadata.insert("ir_version".to_owned(), version.to_string());
            }
            (2, Field::Bytes(name, _)) => {
                graph.metadata.insert("producer_name".to_owned(), lossy(name));
            }
            (3, Field::Bytes(version, _)) => {
                graph.metadata.insert("producer_version".to_owned(), lossy(version));
            }
            (7, Field::Bytes(inner, at)) => {
                if std::mem::replace(&mut found, true) {
                    return Err(Error::malformed(at, "has two graphs"));
                }
                graph.read(inner, at, 0)?;
            }
            (14, Field::Bytes(pair, at)) => {
                let (key, value) = self::pair(pair, at)?;
                graph.metadata.insert(key, value);
            }
            _ => {}
        }
    }
    if !found {
        return Err(Error::malformed(0, "is no model of ONNX: it has no graph"));
    }
    Ok(graph)
}

impl Graph {
    fn read(&mut self, bytes: &[u8], base: u64, depth: usize) -> Result<()> {
        if MAX_DEPTH < depth {
            let message = format!("graphs lie more than {MAX_DEPTH} deep in each other");
            return Err(Error::limit(base, message));
        }
        for field in walk(bytes, base) {
            match field? {
                (1, Field::Bytes(node, at)) => self.node(node, at, depth)?,
                (5, Field::Bytes(tensor, at)) => {
                    let tensor = RawTensor::read(tensor, at)?;
                    self.add(tensor)?;
                }
                (11, Field::Bytes(input, at)) if depth == 0 => self.ports.add_input(input, at)?,
                (12, Field::Bytes(output, at)) if depth == 0 => {
                    self.ports.add_output(output, at)?
                }
                (15, Field::Bytes(sparse, at)) => {
                    let tensor = sparse_tensor(sparse, at)?;
                    self.add(tensor)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, tensor: RawTensor) -> Result<()> {
        if MAX_ITEMS <= self.tensors.len() {
            return Err(Error::limit(tensor.at, format!("more than {MAX_ITEMS} tensors")));
        }
        self.tensors.push(tensor);
        Ok(())
    }

    fn node(&mut self, bytes: &[u8], base: u64, depth: usize) -> Result<()> {
        let mut node = Node::default();
        let mut constant = None;
        for field in walk(bytes, base) {
            match field? {
                (1, Field::Bytes(name, at)) => node.inputs.push(text(name, at)?),
                (2, Field::Bytes(name, at)) => node.outputs.push(text(name, at)?),
                (3, Field::Bytes(name, _)) => node.name = lossy(name),
                (4, Field::Bytes(operator, _)) => node.operator = lossy(operator),
                (5, Field::Bytes(attribute, at)) => {
                    self.attribute(attribute, at, depth, &mut node, &mut constant)?;
                }
                (9, Field::Bytes(entry, at)) => {
                    let (key, value) = pair(entry, at)?;
                    if key == SCOPES {
                        node.scope = scope(&value);
                    }
                }
                _ => {}
            }
        }
        if let (Some(mut tensor), "Constant", Some(output)) =
            (constant, node.operator.as_str(), node.outputs.first())
        {
            tensor.name.clone_from(output);
            self.add(tensor)?;
        }
        if self.operators.len() < MAX_OPERATORS {
            self.operators.insert(node.operator.clone());
        }
        if TELLING.contains(&node.operator.as_str()) {
            if MAX_ITEMS <= self.nodes.len() {
                return Err(Error::limit(base, format!("more than {MAX_ITEMS} nodes")));
            }
            self.nodes.push(node);
        }
        Ok(())
    }

    fn attribute(
        &mut self,
        bytes: &[u8],
        base: u64,
        depth: usize,
        node: &mut Node,
        constant: &mut Option<RawTensor>,
    ) -> Result<()> {
        let (mut name, mut integer) = (String::new(), None);
        for field in walk(bytes, base) {
            match field? {
                (1, Field::Bytes(of, _)) => name = lossy(of),
                (3, Field::Varint(value)) => integer = Some(value),
                (5, Field::Bytes(tensor, at)) => *constant = Some(RawTensor::read(tensor, at)?),
                (6 | 11, Field::Bytes(graph, at)) => self.read(graph, at, depth + 1)?,
                _ => {}
            }
        }
        if let Some(value) = integer {
            node.integers.insert(name, value);
        }
        Ok(())
    }
}

/// The innermost module of a list of scopes: `['', 'encoder', 'encoder.dense', 'linear']`.
fn scope(list: &str) -> Option<String> {
    let texts: Vec<&str> = list.split('\'').skip(1).step_by(2).collect();
    let scope = texts.len().checked_sub(2).map(|at| texts[at]);
    scope.filter(|scope| !scope.is_empty() && !scope.starts_with('_')).map(str::to_owned)
}

/// Operators are told apart up to this many.
const MAX_OPERATORS: usize = 1 << 12;

impl RawTensor {
    fn read(bytes: &[u8], base: u64) -> Result<RawTensor> {
        let mut tensor = RawTensor { at: base, ..RawTensor::default() };
        let (mut is_outside, mut outside) = (false, None::<Outside>);
        let mut why = None;
        for field in walk(bytes, base) {
            match field? {
                (1, Field::Varint(dim)) => tensor.dim(dim, base)?,
                (1, Field::Bytes(packed, at)) => {
                    for dim in numbers(packed, at) {
                        tensor.dim(dim?, at)?;
                    }
                }
                (2, Field::Varint(data_type)) => tensor.data_type = data_type,
                (3, Field::Bytes(..)) => why = Some("is a part of a tensor that is in segments"),
                (number @ (FLOATS | INTS | LONGS | DOUBLES | ULONGS), field) => {
                    tensor.numbers(number, field, base)?;
                }
                (8, Field::Bytes(name, at)) => tensor.name = text(name, at)?,
                (9, Field::Bytes(raw, at)) => tensor.raw = Some((at, raw.len() as u64)),
                (9, _) => return Err(Error::malformed(base, "raw_data that is no bytes")),
                (13, Field::Bytes(entry, at)) => {
                    let (key, value) = pair(entry, at)?;
                    let outside = outside.get_or_insert_default();
                    let number = |value: &str| {
                        value.parse::<u64>().map_err(|_| {
                            let message = format!("`{key}` of data in another file is {value:?}");
                            Error::malformed(at, message)
                        })
                    };
                    match key.as_str() {
                        "location" => outside.location = value,
                        "offset" => outside.offset = number(&value)?,
                        "length" => outside.len = Some(number(&value)?),
                        _ => {}
                    }
                }
                (14, Field::Varint(location)) => is_outside = location == 1,
                _ => {}
            }
        }
        if is_outside {
            let place = outside.filter(|outside| !outside.location.is_empty());
            if place.is_none() {
                why = Some("says that its elements are in another file, and not in which");
            }
            tensor.outside = place;
        }
        tensor.unreadable = why.map(str::to_owned);
        Ok(tensor)
    }

    fn dim(&mut self, dim: u64, at: u64) -> Result<()> {
        if i64::try_from(dim).is_err() {
            let message = format!("a dimension of {}", dim.cast_signed());
            return Err(Error::malformed(at, message));
        }
        if MAX_DIMS <= self.shape.len() {
            return Err(Error::limit(at, format!("more than {MAX_DIMS} dimensions")));
        }
        self.shape.push(dim);
        Ok(())
    }

    /// Adds what a field has: a list of numbers, or one.
    fn numbers(&mut self, number: u64, field: Field<'_>, at: u64) -> Result<()> {
        let (bytes, start) = match field {
            Field::Bytes([], _) => return Ok(()),
            Field::Bytes(bytes, start) => (bytes.to_vec(), Some(start)),
            Field::Varint(value) => (varint_bytes(value), None),
            Field::Fixed32(value) => (value.to_le_bytes().to_vec(), None),
            Field::Fixed64(value) => (value.to_le_bytes().to_vec(), None),
        };
        match (&mut self.numbers, start) {
            (None, Some(start)) => {
                let len = bytes.len() as u64;
                self.numbers = Some(Numbers { field: number, start, len, loose: None });
            }
            (None, None) => {
                let loose = Some(bytes);
                self.numbers = Some(Numbers { field: number, start: at, len: 0, loose });
            }
            (Some(numbers), _) if numbers.field != number => {
                self.unreadable = Some("has numbers of two fields".to_owned());
            }
            (Some(numbers), _) => match &mut numbers.loose {
                Some(loose) => loose.extend(bytes),
                // Nothing writes a list in pieces that are lists.
                None => return Err(Error::malformed(at, "a list of numbers in two pieces")),
            },
        }
        Ok(())
    }
}

fn varint_bytes(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while 0x7f < value {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A `SparseTensorProto`, of which only the name and the dimensions are told.
fn sparse_tensor(bytes: &[u8], base: u64) -> Result<RawTensor> {
    let mut tensor = RawTensor::default();
    let mut shape = Vec::new();
    for field in walk(bytes, base) {
        match field? {
            (1, Field::Bytes(values, at)) => tensor = RawTensor::read(values, at)?,
            (3, Field::Varint(dim)) if shape.len() < MAX_DIMS => shape.push(dim),
            (3, Field::Bytes(packed, at)) => {
                for dim in numbers(packed, at).take(MAX_DIMS) {
                    shape.push(dim?);
                }
            }
            _ => {}
        }
    }
    let why = "is sparse: the file has the places and values of some elements; make it dense first";
    Ok(RawTensor {
        name: tensor.name,
        at: base,
        data_type: tensor.data_type,
        shape,
        unreadable: Some(why.to_owned()),
        ..RawTensor::default()
    })
}

/// A `StringStringEntryProto`.
fn pair(bytes: &[u8], base: u64) -> Result<(String, String)> {
    let (mut key, mut value) = (String::new(), String::new());
    for field in walk(bytes, base) {
        match field? {
            (1, Field::Bytes(text, at)) => key = self::text(text, at)?,
            (2, Field::Bytes(text, at)) => value = self::text(text, at)?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn text(bytes: &[u8], at: u64) -> Result<String> {
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned).map_err(|_| Error::malformed(at, "a name that is no UTF-8"))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
