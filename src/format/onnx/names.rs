//! The names that exporters of PyTorch take from weights, and what of the graph gives them back.
//!
//! A linear map becomes a `MatMul` with a constant, its weight turned over and named anew, as
//! `onnx::MatMul_470`. The bias that is added to its output keeps its name, and the node has the path
//! of its module: `/encoder/layer.0/output/dense/MatMul`. Newer exporters write that path beside it.

use std::collections::{BTreeMap, HashMap};

use super::GRAPH;
use super::graph::{Graph, Node};
use crate::base::diagnostic::Diagnostic;
use crate::checkpoint::{Checkpoint, Payload, Tensor, View, row_major_strides};
use crate::format::wrappers::INNER_MODEL;

/// What the name of a bias ends with, and that of the weight beside it.
const BIAS: &str = ".bias";
const WEIGHT: &str = ".weight";
/// What stands behind the name of a weight that the graph has a second time; the dialect of graphs takes
/// it off, and compares the two.
const COPY: &str = ":copy";

/// How often a tensor is passed on as it is.
const MAX_HOPS: usize = 8;

/// Gives weights their names back, and adds those that a graph has under another's name.
pub(super) fn recover(graph: &Graph, checkpoint: &mut Checkpoint) {
    let wires = Wires::of(graph, checkpoint);
    let mut found: BTreeMap<usize, Found> = BTreeMap::new();
    for node in &graph.nodes {
        let Some((at, name, is_turned)) = wires.weight(node, checkpoint) else { continue };
        found.entry(at).or_insert(Found { name, is_turned });
    }
    // A name that several would have is none's.
    let mut claims: BTreeMap<String, usize> = BTreeMap::new();
    for Found { name, .. } in found.values() {
        *claims.entry(name.clone()).or_default() += 1;
    }
    found.retain(|_, Found { name, .. }| claims[name] == 1);
    let copies = wires.copies(graph, checkpoint);
    let mut example = None;
    let (mut n_found, mut n_turned) = (0, 0);
    for (at, Found { name, is_turned }) in found {
        // A map that shares its weight with a table, which the graph has beside it.
        let is_copy = wires.tensors.contains_key(&name) || copies.contains_key(&name);
        let name = if is_copy { name + COPY } else { name };
        let tensor = &mut checkpoint.tensors[at];
        let turned = if is_turned { turned(tensor) } else { Some(tensor.clone()) };
        let Some(turned) = turned else { continue };
        n_found += 1;
        n_turned += usize::from(is_turned);
        example.get_or_insert_with(|| format!("`{}` is `{name}`", tensor.name));
        *tensor = Tensor { name: name.into(), ..turned };
    }
    for (name, at) in copies {
        let copy = Tensor { name: name.into(), ..checkpoint.tensors[at].clone() };
        checkpoint.tensors.push(copy);
    }
    drop(wires);
    keep_first(&mut checkpoint.tensors);
    if let Some(example) = example {
        let message = format!(
            "{n_found} weights have their names from the biases and nodes beside them, {n_turned} of \
             them with their axes exchanged, as maps have them: {example}"
        );
        checkpoint.findings.push(Diagnostic::note(GRAPH, message));
    }
    tell_lost(checkpoint);
    strip_wrapper(checkpoint);
}

/// A name that a weight has lost.
struct Found {
    name: String,
    /// Whether the graph has it with its axes in the other order.
    is_turned: bool,
}

/// What leads from node to node.
struct Wires<'g> {
    /// The places of tensors, by name.
    tensors: HashMap<String, usize>,
    /// What a node gives out that passes it on as it is.
    passed: HashMap<&'g str, &'g str>,
    /// What is added to the output of a node.
    added: HashMap<&'g str, &'g str>,
}

impl<'g> Wires<'g> {
    fn of(graph: &'g Graph, checkpoint: &Checkpoint) -> Wires<'g> {
        let places = checkpoint.tensors.iter().enumerate();
        let tensors = places.map(|(at, tensor)| (tensor.name.to_string(), at)).collect();
        let (mut passed, mut added) = (HashMap::new(), HashMap::new());
        for node in &graph.nodes {
            match (node.operator.as_str(), node.inputs.as_slice(), node.outputs.as_slice()) {
                ("Identity", [input], [output]) => {
                    passed.insert(output.as_str(), input.as_str());
                }
                ("Add", [left, right], _) => {
                    added.insert(left.as_str(), right.as_str());
                    added.insert(right.as_str(), left.as_str());
                }
                _ => {}
            }
        }
        Wires { tensors, passed, added }
    }

    /// The tensor that a wire carries.
    fn tensor(&self, wire: &str) -> Option<usize> {
        let mut wire = wire;
        for _ in 0..MAX_HOPS {
            if let Some(at) = self.tensors.get(wire) {
                return Some(*at);
            }
            wire = self.passed.get(wire)?;
        }
        None
    }

    /// The weight of a node that has lost its name, that name, and whether it is turned over.
    fn weight(&self, node: &'g Node, checkpoint: &Checkpoint) -> Option<(usize, String, bool)> {
        let (is_turned, bias) = match node.operator.as_str() {
            "MatMul" => (true, node.outputs.first().and_then(|out| self.added.get(out.as_str()))),
            "Gemm" => {
                let is_turned = node.integers.get("transB").is_none_or(|turn| *turn == 0);
                (is_turned, None)
            }
            _ => return None,
        };
        let bias = bias.copied().or_else(|| node.inputs.get(2).map(String::as_str));
        let bias = bias.filter(|bias| self.tensor(bias).is_some());
        let at = self.tensor(node.inputs.get(1)?)?;
        let tensor = &checkpoint.tensors[at];
        if !is_made_up(&tensor.name) || tensor.shape.len() != 2 || !tensor.dtype.is_float() {
            return None;
        }
        let bias = bias.filter(|bias| !is_lost(bias));
        let module = bias.and_then(|bias| bias.strip_suffix(BIAS));
        let path = node.scope.clone().or_else(|| path(&node.name));
        let module = match (module, path) {
            // A bias of the module that has the map, as the one of a head over the vocabulary.
            (Some(module), Some(path)) if starts_inside(&path, module) => path,
            // What is added may be of another module; the map is of its own.
            (Some(module), Some(path)) if last(module) != last(&path) => path,
            (Some(module), _) => module.to_owned(),
            (None, Some(path)) => path,
            (None, None) => return None,
        };
        Some((at, module + WEIGHT, is_turned))
    }

    /// Tensors that the graph has under the name of an equal one.
    fn copies(&self, graph: &Graph, checkpoint: &Checkpoint) -> BTreeMap<String, usize> {
        let copies = graph.nodes.iter().filter_map(|node| {
            let name = match node.operator.as_str() {
                "Identity" => node.outputs.first()?.clone(),
                // A table that has the name of the map which shares it.
                "Gather" => {
                    let at = self.tensor(node.inputs.first()?)?;
                    let table = &checkpoint.tensors[at];
                    let is_table = table.shape.len() == 2 && table.dtype.is_float();
                    let axis = node.integers.get("axis").copied().unwrap_or(0);
                    if !is_table || axis != 0 {
                        return None;
                    }
                    format!("{}{WEIGHT}", node.scope.as_ref()?)
                }
                _ => return None,
            };
            let is_new = !is_lost(&name) && !self.tensors.contains_key(&name);
            Some((name, self.tensor(node.inputs.first()?)?)).filter(|_| is_new)
        });
        copies.filter(|(_, at)| !is_lost(&checkpoint.tensors[*at].name)).collect()
    }
}

/// Whether a name is none that a parameter has, but one that an exporter made up.
fn is_lost(name: &str) -> bool {
    !name.contains('.') || name.starts_with(['/', '.']) || name.contains("::")
}

/// Whether an exporter made a name up for a parameter that was turned or folded: a number, or
/// `onnx::MatMul_470`, `val_7`, `/encoder/Constant_output_0`.
fn is_made_up(name: &str) -> bool {
    let number = name.strip_prefix("val_").unwrap_or(name);
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number || name.starts_with('/') || name.contains("::")
}

/// The last segment of a name.
fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Whether a module lies in another.
fn starts_inside(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
}

/// The module that a node is of, by its name: `/encoder/layer.0/dense/MatMul` is of
/// `encoder.layer.0.dense`. A member of a list repeats the name of the list: `/head/head.0/Gemm`.
fn path(name: &str) -> Option<String> {
    let (path, operator) = name.strip_prefix('/')?.rsplit_once('/')?;
    if !operator.starts_with("MatMul") && !operator.starts_with("Gemm") {
        return None;
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        let list = segment.split_once('.').map(|(list, _)| list);
        if list.is_some() && list == segments.last().copied() {
            segments.pop();
        }
        segments.push(segment);
    }
    Some(segments.join("."))
}

/// A matrix with its axes in the other order; `None` of one that is in no single piece.
fn turned(tensor: &Tensor) -> Option<Tensor> {
    let swap = |of: &[u64]| of.iter().rev().copied().collect::<Vec<u64>>();
    let payload = match &tensor.payload {
        Payload::Range(storage) => Payload::View(Box::new(View {
            storage: *storage,
            offset: 0,
            strides: swap(&row_major_strides(&tensor.shape)),
            big_endian: false,
        })),
        Payload::Tiles(tiles) => {
            let mut tiles = tiles.clone();
            for tile in &mut tiles {
                tile.at.reverse();
                tile.shape.reverse();
                tile.data.strides.reverse();
            }
            Payload::Tiles(tiles)
        }
        Payload::Unreadable(why) => Payload::Unreadable(why.clone()),
        Payload::View(_) | Payload::Parts(..) => return None,
    };
    Some(Tensor { shape: swap(&tensor.shape), payload, ..tensor.clone() })
}

/// Keeps the first of tensors that are one under one name; what differs stays, and is told of.
fn keep_first(tensors: &mut Vec<Tensor>) {
    let mut kept: HashMap<String, String> = HashMap::new();
    tensors.retain(|tensor| {
        let place = format!("{:?} {:?} {:?}", tensor.dtype, tensor.shape, tensor.payload);
        match kept.get(&*tensor.name) {
            Some(first) => *first != place,
            None => {
                kept.insert(tensor.name.to_string(), place);
                true
            }
        }
    });
}

/// Tells of maps whose names nothing gives back.
fn tell_lost(checkpoint: &mut Checkpoint) {
    let lost = checkpoint.tensors.iter().filter(|tensor| {
        tensor.name.starts_with("onnx::") && tensor.dtype.is_float() && tensor.shape.len() == 2
    });
    let lost: Vec<&str> = lost.map(|tensor| tensor.name.as_str()).collect();
    if let Some(first) = lost.first() {
        let message = format!(
            "{} matrices have lost their names, as `{first}`, and no node beside them says whose \
             they are",
            lost.len()
        );
        let help = "convert the checkpoint that the graph was exported from";
        checkpoint.findings.push(Diagnostic::note(GRAPH, message).help(help));
    }
}

/// Takes the way to the model inside of another module off the names, where all have it.
fn strip_wrapper(checkpoint: &mut Checkpoint) {
    let named = checkpoint.tensors.iter().filter(|tensor| !is_lost(&tensor.name));
    let mut prefixes = named.map(|tensor| {
        let at = tensor.name.find(INNER_MODEL)? + INNER_MODEL.len();
        Some(tensor.name[..at].to_owned())
    });
    let Some(Some(prefix)) = prefixes.next() else { return };
    if !prefixes.all(|other| other.as_ref() == Some(&prefix)) {
        return;
    }
    for tensor in &mut checkpoint.tensors {
        if let Some(name) = tensor.name.strip_prefix(&prefix) {
            tensor.name = name.into();
        }
    }
    let message = format!("the names of tensors began with `{prefix}`, which was taken off");
    checkpoint.findings.push(Diagnostic::note("R005", message));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_nodes_are_names_of_modules() {
        let of = |name: &str| path(name).unwrap_or_default();
        assert_eq!(of("/encoder/layer.0/output/dense/MatMul"), "encoder.layer.0.output.dense");
        assert_eq!(of("/model/model.0/auto_model/pooler/Gemm_1"), "model.0.auto_model.pooler");
        assert_eq!(of("/head/head.0/Gemm"), "head.0");
        assert_eq!(of("/head/Add"), "");
        assert_eq!(of("MatMul_45"), "");
    }

    #[test]
    fn names_that_exporters_made_up_are_told() {
        for name in ["onnx::MatMul_470", "/encoder/Constant_output_0", "463", "val_7", "onnx::a.b"]
        {
            assert!(is_lost(name) && is_made_up(name), "{name}");
        }
        assert!(!is_lost("encoder.layer.0.output.dense.bias"));
        assert!(!is_made_up("text_projection"), "a parameter of the model itself");
    }
}
