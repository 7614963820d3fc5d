//! What a pickle holds, as a graph of nodes.

use std::borrow::Cow;

/// The place of a [`Node`] in its [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) u32);

impl NodeId {
    /// The node as a position in a list of all nodes.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One value of a pickle.
#[derive(Debug)]
pub enum Node<'a> {
    /// `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An integer that does not fit; its bytes as the opcode keeps them.
    BigInt(&'a [u8]),
    /// A float.
    Float(f64),
    /// A string. Bytes that are not UTF-8 are replaced, see [`Pickle::not_utf8`].
    Text(Cow<'a, str>),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A list.
    List(Vec<NodeId>),
    /// A tuple.
    Tuple(Vec<NodeId>),
    /// A set or frozen set.
    Set(Vec<NodeId>),
    /// A dictionary as it was filled, where a key may stand twice; the later one counts.
    Dict(Vec<(NodeId, NodeId)>),
    /// A class or function: the texts of its module and of its name.
    Global(NodeId, NodeId),
    /// A reference out of the pickle, with the id that the file gives it.
    Persistent(NodeId),
    /// The result of a call that was not made.
    Object(Object),
}

/// A call that was recorded instead of made, and what was to be done with its result.
#[derive(Debug)]
pub struct Object {
    /// What was to be called: mostly a [`Node::Global`].
    pub callable: NodeId,
    /// A tuple of arguments.
    pub args: NodeId,
    /// A dictionary of arguments by name.
    pub kwargs: Option<NodeId>,
    pub(super) filled: Option<Box<Filled>>,
}

#[derive(Debug, Default)]
pub(super) struct Filled {
    pub(super) states: Vec<NodeId>,
    pub(super) elements: Vec<NodeId>,
    pub(super) items: Vec<(NodeId, NodeId)>,
}

impl Object {
    /// The states given to the object, in order.
    pub fn states(&self) -> &[NodeId] {
        self.filled.as_ref().map_or(&[], |filled| &filled.states)
    }

    /// What was appended to the object.
    pub fn elements(&self) -> &[NodeId] {
        self.filled.as_ref().map_or(&[], |filled| &filled.elements)
    }

    /// What was stored in the object under a key.
    pub fn items(&self) -> &[(NodeId, NodeId)] {
        self.filled.as_ref().map_or(&[], |filled| &filled.items)
    }

    pub(super) fn fill(&mut self) -> &mut Filled {
        self.filled.get_or_insert_default()
    }
}

/// A pickle that was read.
#[derive(Debug)]
pub struct Pickle<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) root: NodeId,
    pub(super) not_utf8: Option<u64>,
}

impl<'a> Pickle<'a> {
    /// The value of the whole pickle.
    pub fn root(&self) -> NodeId {
        self.root
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node<'a> {
        // Ids come from this arena alone; one of another pickle finds nothing.
        self.nodes.get(id.index()).unwrap_or(&Node::None)
    }

    /// Every node, the unused ones too, in the order of their opcodes.
    pub fn nodes(&self) -> &[Node<'a>] {
        &self.nodes
    }

    /// The places of all nodes.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        // The machine keeps the number of nodes far below 2^32.
        (0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)).map(NodeId)
    }

    /// The offset of the first string that is not UTF-8.
    pub fn not_utf8(&self) -> Option<u64> {
        self.not_utf8
    }

    /// What a node is, for a message.
    pub fn kind(&self, id: NodeId) -> &'static str {
        kind(Some(self.node(id)))
    }

    /// The text of a node, if it is one.
    pub fn text(&self, id: NodeId) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer of a node, if it is one.
    pub fn int(&self, id: NodeId) -> Option<i64> {
        match self.node(id) {
            Node::Int(int) => Some(*int),
            _ => None,
        }
    }

    /// The members of a tuple or list, if the node is one.
    pub fn sequence(&self, id: NodeId) -> Option<&[NodeId]> {
        match self.node(id) {
            Node::Tuple(members) | Node::List(members) => Some(members),
            _ => None,
        }
    }

    /// The module and the name of a class or function, if the node is one.
    pub fn global(&self, id: NodeId) -> Option<(&str, &str)> {
        match self.node(id) {
            Node::Global(module, name) => Some((self.text(*module)?, self.text(*name)?)),
            _ => None,
        }
    }
}

/// The nodes that every pickle shares.
pub(super) const NONE: NodeId = NodeId(0);

pub(super) const FALSE: NodeId = NodeId(1);

pub(super) const TRUE: NodeId = NodeId(2);

pub(super) const EMPTY_TUPLE: NodeId = NodeId(3);

pub(super) fn kind(node: Option<&Node<'_>>) -> &'static str {
    match node {
        Some(Node::None) | None => "`None`",
        Some(Node::Bool(_)) => "a truth value",
        Some(Node::Int(_) | Node::BigInt(_)) => "an integer",
        Some(Node::Float(_)) => "a float",
        Some(Node::Text(_)) => "a string",
        Some(Node::Bytes(_)) => "bytes",
        Some(Node::List(_)) => "a list",
        Some(Node::Tuple(_)) => "a tuple",
        Some(Node::Set(_)) => "a set",
        Some(Node::Dict(_)) => "a dictionary",
        Some(Node::Global(..)) => "a class",
        Some(Node::Persistent(_)) => "a reference out of the pickle",
        Some(Node::Object(_)) => "an object",
    }
}
