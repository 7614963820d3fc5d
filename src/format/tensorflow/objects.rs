//! The objects of a TensorFlow checkpoint, which say what each variable is for.
//!
//! ```text
//! TrackableObjectGraph 1 nodes { 1 children {1 node, 2 name}  2 attributes {3 key}  3 slots }
//! ```
//!
//! Spec: `tensorflow/core/protobuf/trackable_object_graph.proto`.

use std::collections::BTreeSet;

use crate::base::error::{Error, Result};
use crate::container::protobuf::{Field, walk};

/// More objects than this are no model.
const MAX_NODES: usize = 1 << 20;
/// What an object calls its optimizer, what Keras keeps of training, and the number of times saved.
const NO_MODEL: &[&str] = &["optimizer", "_optimizer", "keras_api", "save_counter"];

#[derive(Default)]
struct Node {
    children: Vec<(u64, String)>,
    keys: Vec<String>,
    /// Whether it keeps values of its own for variables of others: it is an optimizer.
    has_slots: bool,
}

/// The keys of what is no part of the model: state of an optimizer, metrics.
///
/// # Errors
/// The bytes are no such graph.
pub(super) fn aside(bytes: &[u8], base: u64) -> Result<BTreeSet<String>> {
    let mut nodes = Vec::new();
    for field in walk(bytes, base) {
        let (1, Field::Bytes(message, at)) = field? else { continue };
        if MAX_NODES <= nodes.len() {
            return Err(Error::limit(at, format!("more than {MAX_NODES} objects")));
        }
        nodes.push(node(message, at)?);
    }
    // What the root leads to without passing an optimizer.
    let mut is_model = vec![false; nodes.len()];
    let mut next: Vec<usize> = Vec::new();
    if let Some(root) = is_model.first_mut() {
        *root = true;
        next.push(0);
    }
    while let Some(at) = next.pop() {
        let children = nodes[at].children.iter();
        for (child, _) in children.filter(|(_, name)| !NO_MODEL.contains(&name.as_str())) {
            let child = usize::try_from(*child).unwrap_or(usize::MAX);
            let Some(seen) = is_model.get_mut(child).filter(|seen| !**seen) else { continue };
            if !nodes[child].has_slots {
                *seen = true;
                next.push(child);
            }
        }
    }
    let keys = |of_model: bool| {
        let nodes = nodes.iter().zip(&is_model).filter(move |(_, is)| **is == of_model);
        nodes.flat_map(|(node, _)| node.keys.iter().cloned()).collect::<BTreeSet<String>>()
    };
    Ok(keys(false).difference(&keys(true)).cloned().collect())
}

fn node(bytes: &[u8], base: u64) -> Result<Node> {
    let mut node = Node::default();
    for field in walk(bytes, base) {
        match field? {
            (1, Field::Bytes(child, at)) => {
                let (mut id, mut name) = (0, String::new());
                for field in walk(child, at) {
                    match field? {
                        (1, Field::Varint(number)) => id = number,
                        (2, Field::Bytes(text, _)) => {
                            name = String::from_utf8_lossy(text).into_owned();
                        }
                        _ => {}
                    }
                }
                node.children.push((id, name));
            }
            (2, Field::Bytes(attribute, at)) => {
                for field in walk(attribute, at) {
                    if let (3, Field::Bytes(key, _)) = field? {
                        node.keys.push(String::from_utf8_lossy(key).into_owned());
                    }
                }
            }
            (3, Field::Bytes(..)) => node.has_slots = true,
            _ => {}
        }
    }
    Ok(node)
}
