//! The objects of a TensorFlow checkpoint, which say what each variable is for.
//!
//! ```text
//! TrackableObjectGraph 1 nodes { 1 children {1 node, 2 name}  2 attributes {2 full_name, 3 key}  3 slots }
//! ```
//!
//! Spec: `tensorflow/core/protobuf/trackable_object_graph.proto`.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::error::{Error, Result};
use crate::container::protobuf::{Field, walk};

/// More objects than this are no model.
const MAX_NODES: usize = 1 << 20;
/// What an object calls its optimizer, what Keras keeps of training, and the number of times saved.
const NO_MODEL: &[&str] = &["optimizer", "_optimizer", "keras_api", "save_counter"];

#[derive(Default)]
struct Node {
    children: Vec<(u64, String)>,
    /// Of each variable its key, and the name that it has in the program; nothing where it has none.
    variables: Vec<(String, String)>,
    /// Whether it keeps values of its own for variables of others: it is an optimizer.
    has_slots: bool,
}

/// What objects say of the keys of a checkpoint.
#[derive(Default)]
pub(super) struct Objects {
    /// The keys of what is no part of the model: state of an optimizer, metrics.
    pub(super) aside: BTreeSet<String>,
    /// The names that variables have in the program that saved them, by their keys. Keys that have one name
    /// have none.
    pub(super) names: BTreeMap<String, String>,
}

/// Reads the objects of a checkpoint.
///
/// # Errors
/// The bytes are no such graph.
pub(super) fn read(bytes: &[u8], base: u64) -> Result<Objects> {
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
        let variables = nodes.flat_map(|(node, _)| &node.variables);
        variables.map(|(key, _)| key.clone()).collect::<BTreeSet<String>>()
    };
    let aside: BTreeSet<String> = keys(false).difference(&keys(true)).cloned().collect();
    let mut keys_of: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
    let variables = nodes.iter().flat_map(|node| &node.variables);
    for (key, name) in variables.filter(|(key, name)| !name.is_empty() && !aside.contains(key)) {
        keys_of.entry(name).or_default().insert(key);
    }
    let single = keys_of.into_iter().filter(|(_, keys)| keys.len() == 1);
    let names =
        single.flat_map(|(name, keys)| keys.into_iter().map(|key| (key.clone(), name.clone())));
    let names = names.collect();
    Ok(Objects { aside, names })
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
                let (mut name, mut key) = (String::new(), None);
                for field in walk(attribute, at) {
                    match field? {
                        (2, Field::Bytes(text, _)) => {
                            name = String::from_utf8_lossy(text).into_owned();
                        }
                        (3, Field::Bytes(text, _)) => {
                            key = Some(String::from_utf8_lossy(text).into_owned());
                        }
                        _ => {}
                    }
                }
                node.variables.extend(key.map(|key| (key, name)));
            }
            (3, Field::Bytes(..)) => node.has_slots = true,
            _ => {}
        }
    }
    Ok(node)
}
