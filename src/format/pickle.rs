//! Python pickles, read as data: nothing is imported, called or built.
//!
//! A pickle is a program for a stack machine. This machine runs it into an arena of [`Node`]s
//! that name each other by index. The opcodes that would call into Python (`REDUCE`, `NEWOBJ`,
//! `BUILD`, …) only record what would be called, with what. Nodes may be shared and may form
//! cycles: who walks over them bounds the walk.
//!
//! Spec: `Lib/pickletools.py` and `Modules/_pickle.c` of CPython 3.14, protocols 0 to 5.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};

mod graph;

/// The longest pickle that is read. Those of the largest checkpoints take some 100 MB, nearly
/// all of it optimizer state and tokenizers.
pub const MAX_LEN: u64 = 256 << 20;

/// The most opcodes that are run.
const MAX_OPCODES: u64 = 50_000_000;

/// The most nodes that are kept: a checkpoint of a million tensors has about eight million.
const MAX_NODES: usize = 16_000_000;

/// The most marks that may be open. Python's pickler recurses at least once for each, and stops
/// at 1,000 levels.
const MAX_MARKS: usize = 1000;

/// The place of a [`Node`] in its [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

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
    filled: Option<Box<Filled>>,
}

#[derive(Debug, Default)]
struct Filled {
    states: Vec<NodeId>,
    elements: Vec<NodeId>,
    items: Vec<(NodeId, NodeId)>,
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

    fn fill(&mut self) -> &mut Filled {
        self.filled.get_or_insert_default()
    }
}

/// A pickle that was read.
#[derive(Debug)]
pub struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: NodeId,
    not_utf8: Option<u64>,
}

impl<'a> Pickle<'a> {
    /// Reads one pickle, and leaves the cursor behind it.
    ///
    /// # Errors
    /// The pickle is cut short, breaks the stack machine's rules, has an opcode whose meaning
    /// lies outside of the file, or passes a limit.
    pub fn read(cursor: &mut Cursor<'a>) -> Result<Pickle<'a>> {
        let mut machine = Machine::new();
        let root = machine.run_to_stop(cursor)?;
        Ok(Pickle { nodes: machine.nodes, root, not_utf8: machine.not_utf8 })
    }

    /// Reads one pickle as far as it can be read: what stands before the fault, and the fault. The
    /// value of the whole is `None` then.
    pub fn read_partly(cursor: &mut Cursor<'a>) -> (Pickle<'a>, Option<Error>) {
        let mut machine = Machine::new();
        let (root, fault) = match machine.run_to_stop(cursor) {
            Ok(root) => (root, None),
            Err(err) => (NodeId(0), Some(err)),
        };
        (Pickle { nodes: machine.nodes, root, not_utf8: machine.not_utf8 }, fault)
    }

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

/// The opcodes, as `pickletools` names them.
mod op {
    pub(super) const MARK: u8 = b'(';
    pub(super) const STOP: u8 = b'.';
    pub(super) const POP: u8 = b'0';
    pub(super) const POP_MARK: u8 = b'1';
    pub(super) const DUP: u8 = b'2';
    pub(super) const FLOAT: u8 = b'F';
    pub(super) const INT: u8 = b'I';
    pub(super) const BININT: u8 = b'J';
    pub(super) const BININT1: u8 = b'K';
    pub(super) const LONG: u8 = b'L';
    pub(super) const BININT2: u8 = b'M';
    pub(super) const NONE: u8 = b'N';
    pub(super) const PERSID: u8 = b'P';
    pub(super) const BINPERSID: u8 = b'Q';
    pub(super) const REDUCE: u8 = b'R';
    pub(super) const STRING: u8 = b'S';
    pub(super) const BINSTRING: u8 = b'T';
    pub(super) const SHORT_BINSTRING: u8 = b'U';
    pub(super) const UNICODE: u8 = b'V';
    pub(super) const BINUNICODE: u8 = b'X';
    pub(super) const APPEND: u8 = b'a';
    pub(super) const BUILD: u8 = b'b';
    pub(super) const GLOBAL: u8 = b'c';
    pub(super) const DICT: u8 = b'd';
    pub(super) const EMPTY_DICT: u8 = b'}';
    pub(super) const APPENDS: u8 = b'e';
    pub(super) const GET: u8 = b'g';
    pub(super) const BINGET: u8 = b'h';
    pub(super) const INST: u8 = b'i';
    pub(super) const LONG_BINGET: u8 = b'j';
    pub(super) const LIST: u8 = b'l';
    pub(super) const EMPTY_LIST: u8 = b']';
    pub(super) const OBJ: u8 = b'o';
    pub(super) const PUT: u8 = b'p';
    pub(super) const BINPUT: u8 = b'q';
    pub(super) const LONG_BINPUT: u8 = b'r';
    pub(super) const SETITEM: u8 = b's';
    pub(super) const TUPLE: u8 = b't';
    pub(super) const EMPTY_TUPLE: u8 = b')';
    pub(super) const SETITEMS: u8 = b'u';
    pub(super) const BINFLOAT: u8 = b'G';
    pub(super) const PROTO: u8 = 0x80;
    pub(super) const NEWOBJ: u8 = 0x81;
    pub(super) const EXT1: u8 = 0x82;
    pub(super) const EXT2: u8 = 0x83;
    pub(super) const EXT4: u8 = 0x84;
    pub(super) const TUPLE1: u8 = 0x85;
    pub(super) const TUPLE2: u8 = 0x86;
    pub(super) const TUPLE3: u8 = 0x87;
    pub(super) const NEWTRUE: u8 = 0x88;
    pub(super) const NEWFALSE: u8 = 0x89;
    pub(super) const LONG1: u8 = 0x8a;
    pub(super) const LONG4: u8 = 0x8b;
    pub(super) const BINBYTES: u8 = b'B';
    pub(super) const SHORT_BINBYTES: u8 = b'C';
    pub(super) const SHORT_BINUNICODE: u8 = 0x8c;
    pub(super) const BINUNICODE8: u8 = 0x8d;
    pub(super) const BINBYTES8: u8 = 0x8e;
    pub(super) const EMPTY_SET: u8 = 0x8f;
    pub(super) const ADDITEMS: u8 = 0x90;
    pub(super) const FROZENSET: u8 = 0x91;
    pub(super) const NEWOBJ_EX: u8 = 0x92;
    pub(super) const STACK_GLOBAL: u8 = 0x93;
    pub(super) const MEMOIZE: u8 = 0x94;
    pub(super) const FRAME: u8 = 0x95;
    pub(super) const BYTEARRAY8: u8 = 0x96;
    pub(super) const NEXT_BUFFER: u8 = 0x97;
    pub(super) const READONLY_BUFFER: u8 = 0x98;
}

/// The nodes that every pickle shares.
const NONE: NodeId = NodeId(0);
const FALSE: NodeId = NodeId(1);
const TRUE: NodeId = NodeId(2);
const EMPTY_TUPLE: NodeId = NodeId(3);

struct Machine<'a> {
    nodes: Vec<Node<'a>>,
    stack: Vec<NodeId>,
    /// The heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: Memo,
    not_utf8: Option<u64>,
}

/// Values by number. Picklers count up from 0, so nearly all lie in a row.
#[derive(Default)]
struct Memo {
    row: Vec<NodeId>,
    others: HashMap<u64, NodeId>,
}

impl Memo {
    fn len(&self) -> usize {
        self.row.len() + self.others.len()
    }

    fn get(&self, index: u64) -> Option<NodeId> {
        let in_row = usize::try_from(index).ok().and_then(|index| self.row.get(index));
        in_row.or_else(|| self.others.get(&index)).copied()
    }

    fn insert(&mut self, index: u64, id: NodeId) {
        let next = self.row.len() as u64;
        match usize::try_from(index).ok().and_then(|index| self.row.get_mut(index)) {
            Some(place) => *place = id,
            None if index == next => {
                self.row.push(id);
                self.others.remove(&index);
            }
            None => {
                self.others.insert(index, id);
            }
        }
    }
}

impl<'a> Machine<'a> {
    fn new() -> Machine<'a> {
        Machine {
            nodes: vec![Node::None, Node::Bool(false), Node::Bool(true), Node::Tuple(Vec::new())],
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Memo::default(),
            not_utf8: None,
        }
    }

    /// Runs opcodes up to STOP; the value that it ends with.
    fn run_to_stop(&mut self, cursor: &mut Cursor<'a>) -> Result<NodeId> {
        let start = cursor.offset();
        for _ in 0..MAX_OPCODES {
            let at = cursor.offset();
            if MAX_LEN < at - start {
                let message = format!("the pickle passes the limit of {MAX_LEN} bytes");
                return Err(Error::limit(at, message));
            }
            let opcode = cursor.u8("an opcode of the pickle, which ends with STOP,")?;
            if let Some(root) = self.run(opcode, at, cursor)? {
                return Ok(root);
            }
        }
        let message = format!("the pickle passes the limit of {MAX_OPCODES} opcodes");
        Err(Error::limit(cursor.offset(), message))
    }

    /// Runs one opcode; gives the value of the pickle when it was the last.
    fn run(&mut self, opcode: u8, at: u64, cursor: &mut Cursor<'a>) -> Result<Option<NodeId>> {
        match opcode {
            op::PROTO => {
                let protocol = cursor.u8("the protocol")?;
                if 5 < protocol {
                    let message = format!("the pickle has protocol {protocol}; 0 to 5 are known");
                    return Err(Error::unsupported(message).at(at));
                }
            }
            op::FRAME => {
                let len = cursor.u64_le("the length of FRAME")?;
                if cursor.left() < len {
                    let message =
                        format!("FRAME announces {len} bytes, {} are left", cursor.left());
                    return Err(Error::malformed(at, message));
                }
            }
            op::STOP => return self.pop(at).map(Some),

            op::MARK => {
                if self.marks.len() == MAX_MARKS {
                    let message = format!("more than {MAX_MARKS} marks are open");
                    return Err(Error::limit(at, message));
                }
                self.marks.push(self.stack.len());
            }
            op::POP => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop(at)?;
                }
            }
            op::POP_MARK => {
                self.pop_to_mark(at)?;
            }
            op::DUP => {
                let top = self.top(at)?;
                self.stack.push(top);
            }

            op::NONE => self.stack.push(NONE),
            op::NEWTRUE => self.stack.push(TRUE),
            op::NEWFALSE => self.stack.push(FALSE),
            op::EMPTY_TUPLE => self.stack.push(EMPTY_TUPLE),
            op::INT | op::LONG => self.push_decimal(opcode, at, cursor)?,
            op::BININT => {
                let int = cursor.i32_le("the value of BININT")?;
                self.push(at, Node::Int(int.into()))?;
            }
            op::BININT1 => {
                let int = cursor.u8("the value of BININT1")?;
                self.push(at, Node::Int(int.into()))?;
            }
            op::BININT2 => {
                let int = cursor.u16_le("the value of BININT2")?;
                self.push(at, Node::Int(int.into()))?;
            }
            op::LONG1 => {
                let len = cursor.u8("the length of LONG1")?;
                let bytes = cursor.take(len.into(), "the value of LONG1")?;
                self.push(at, long(bytes))?;
            }
            op::LONG4 => {
                let len = cursor.i32_le("the length of LONG4")?;
                let len = u64::try_from(len)
                    .map_err(|_| Error::malformed(at, format!("LONG4 takes {len} bytes")))?;
                let bytes = cursor.take(len, "the value of LONG4")?;
                self.push(at, long(bytes))?;
            }
            op::FLOAT => {
                let line = cursor.line("FLOAT")?;
                let float = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
                let float = float.ok_or_else(|| bad_number("FLOAT", line, at))?;
                self.push(at, Node::Float(float))?;
            }
            op::BINFLOAT => {
                let float = cursor.f64_be("the value of BINFLOAT")?;
                self.push(at, Node::Float(float))?;
            }

            op::STRING => {
                let line = cursor.line("STRING")?;
                self.push_string(at, unquote(line, at)?)?;
            }
            op::BINSTRING => {
                let len = cursor.i32_le("the length of BINSTRING")?;
                let len = u64::try_from(len)
                    .map_err(|_| Error::malformed(at, format!("BINSTRING takes {len} bytes")))?;
                let bytes = cursor.take(len, "the value of BINSTRING")?;
                self.push_string(at, Cow::Borrowed(bytes))?;
            }
            op::SHORT_BINSTRING => {
                let len = cursor.u8("the length of SHORT_BINSTRING")?;
                let bytes = cursor.take(len.into(), "the value of SHORT_BINSTRING")?;
                self.push_string(at, Cow::Borrowed(bytes))?;
            }
            op::UNICODE => {
                let line = cursor.line("UNICODE")?;
                self.push(at, Node::Text(Cow::Owned(raw_unicode_escape(line))))?;
            }
            op::SHORT_BINUNICODE => {
                let len = cursor.u8("the length of SHORT_BINUNICODE")?;
                let bytes = cursor.take(len.into(), "the value of SHORT_BINUNICODE")?;
                self.push_text(at, bytes)?;
            }
            op::BINUNICODE => {
                let len = cursor.u32_le("the length of BINUNICODE")?;
                let bytes = cursor.take(len.into(), "the value of BINUNICODE")?;
                self.push_text(at, bytes)?;
            }
            op::BINUNICODE8 => {
                let len = cursor.u64_le("the length of BINUNICODE8")?;
                let bytes = cursor.take(len, "the value of BINUNICODE8")?;
                self.push_text(at, bytes)?;
            }
            op::SHORT_BINBYTES => {
                let len = cursor.u8("the length of SHORT_BINBYTES")?;
                let bytes = cursor.take(len.into(), "the value of SHORT_BINBYTES")?;
                self.push(at, Node::Bytes(bytes))?;
            }
            op::BINBYTES => {
                let len = cursor.u32_le("the length of BINBYTES")?;
                let bytes = cursor.take(len.into(), "the value of BINBYTES")?;
                self.push(at, Node::Bytes(bytes))?;
            }
            op::BINBYTES8 | op::BYTEARRAY8 => {
                let len = cursor.u64_le("the length of bytes")?;
                let bytes = cursor.take(len, "the value of bytes")?;
                self.push(at, Node::Bytes(bytes))?;
            }

            op::EMPTY_LIST => self.push(at, Node::List(Vec::new()))?,
            op::EMPTY_DICT => self.push(at, Node::Dict(Vec::new()))?,
            op::EMPTY_SET => self.push(at, Node::Set(Vec::new()))?,
            op::LIST => {
                let members = self.pop_to_mark(at)?;
                self.push(at, Node::List(members))?;
            }
            op::TUPLE => {
                let members = self.pop_to_mark(at)?;
                self.push(at, Node::Tuple(members))?;
            }
            op::FROZENSET => {
                let members = self.pop_to_mark(at)?;
                self.push(at, Node::Set(members))?;
            }
            op::DICT => {
                let members = self.pop_to_mark(at)?;
                self.push(at, Node::Dict(pairs(&members, at)?))?;
            }
            op::TUPLE1 => {
                let members = vec![self.pop(at)?];
                self.push(at, Node::Tuple(members))?;
            }
            op::TUPLE2 => {
                let [b, a] = [self.pop(at)?, self.pop(at)?];
                self.push(at, Node::Tuple(vec![a, b]))?;
            }
            op::TUPLE3 => {
                let [c, b, a] = [self.pop(at)?, self.pop(at)?, self.pop(at)?];
                self.push(at, Node::Tuple(vec![a, b, c]))?;
            }
            op::APPEND => {
                let member = self.pop(at)?;
                self.extend("APPEND", at, &[member])?;
            }
            op::APPENDS => {
                let members = self.pop_to_mark(at)?;
                self.extend("APPENDS", at, &members)?;
            }
            op::ADDITEMS => {
                let members = self.pop_to_mark(at)?;
                self.extend("ADDITEMS", at, &members)?;
            }
            op::SETITEM => {
                let [value, key] = [self.pop(at)?, self.pop(at)?];
                self.set_items("SETITEM", at, &[(key, value)])?;
            }
            op::SETITEMS => {
                let members = self.pop_to_mark(at)?;
                self.set_items("SETITEMS", at, &pairs(&members, at)?)?;
            }

            op::PUT | op::BINPUT | op::LONG_BINPUT => {
                let index = memo_index(opcode, at, cursor)?;
                self.memoize(at, index)?;
            }
            op::MEMOIZE => self.memoize(at, self.memo.len() as u64)?,
            op::GET | op::BINGET | op::LONG_BINGET => {
                let index = memo_index(opcode, at, cursor)?;
                let Some(id) = self.memo.get(index) else {
                    let message = format!("the memo has no value {index}");
                    return Err(Error::malformed(at, message));
                };
                self.stack.push(id);
            }

            op::GLOBAL => self.push_global(at, cursor)?,
            op::STACK_GLOBAL => {
                let [name, module] = [self.pop(at)?, self.pop(at)?];
                let is_text = |id| matches!(self.get(id), Some(Node::Text(_)));
                if !is_text(module) || !is_text(name) {
                    let message = "STACK_GLOBAL wants the texts of a module and of a name";
                    return Err(Error::malformed(at, message));
                }
                self.push(at, Node::Global(module, name))?;
            }
            op::PERSID => {
                let line = cursor.line("PERSID")?;
                self.push_text(at, line)?;
                let id = self.pop(at)?;
                self.push(at, Node::Persistent(id))?;
            }
            op::BINPERSID => {
                let id = self.pop(at)?;
                self.push(at, Node::Persistent(id))?;
            }
            op::REDUCE | op::NEWOBJ => {
                let [args, callable] = [self.pop(at)?, self.pop(at)?];
                self.push_object(at, callable, args, None)?;
            }
            op::NEWOBJ_EX => {
                let [kwargs, args, callable] = [self.pop(at)?, self.pop(at)?, self.pop(at)?];
                self.push_object(at, callable, args, Some(kwargs))?;
            }
            op::OBJ => {
                let mut members = self.pop_to_mark(at)?;
                if members.is_empty() {
                    return Err(Error::malformed(at, "OBJ wants a class, the stack has none"));
                }
                let callable = members.remove(0);
                self.push(at, Node::Tuple(members))?;
                let args = self.pop(at)?;
                self.push_object(at, callable, args, None)?;
            }
            op::INST => {
                let members = self.pop_to_mark(at)?;
                self.push_global(at, cursor)?;
                let callable = self.pop(at)?;
                self.push(at, Node::Tuple(members))?;
                let args = self.pop(at)?;
                self.push_object(at, callable, args, None)?;
            }
            op::BUILD => {
                let state = self.pop(at)?;
                let target = self.top(at)?;
                match self.nodes.get_mut(target.index()) {
                    Some(Node::Object(object)) => object.fill().states.push(state),
                    other => {
                        let message = format!(
                            "BUILD wants an object, the stack has {}",
                            kind(other.as_deref())
                        );
                        return Err(Error::malformed(at, message));
                    }
                }
            }

            op::EXT1 | op::EXT2 | op::EXT4 => {
                let message = "the pickle names a class by a number of Python's extension \
                               registry (EXT), which is not in the file";
                return Err(Error::unsupported(message).at(at));
            }
            op::NEXT_BUFFER | op::READONLY_BUFFER => {
                let message = "the pickle keeps data in buffers outside of the file (NEXT_BUFFER)";
                return Err(Error::unsupported(message).at(at));
            }
            other => {
                return Err(Error::malformed(at, format!("{other:#04x} is no opcode of a pickle")));
            }
        }
        Ok(None)
    }

    fn get(&self, id: NodeId) -> Option<&Node<'a>> {
        self.nodes.get(id.index())
    }

    fn push(&mut self, at: u64, node: Node<'a>) -> Result<()> {
        if self.nodes.len() == MAX_NODES {
            let message = format!("the pickle passes the limit of {MAX_NODES} values");
            return Err(Error::limit(at, message));
        }
        // The limit is far below 2^32.
        self.stack.push(NodeId(self.nodes.len() as u32));
        self.nodes.push(node);
        Ok(())
    }

    fn push_object(
        &mut self,
        at: u64,
        callable: NodeId,
        args: NodeId,
        kwargs: Option<NodeId>,
    ) -> Result<()> {
        self.push(at, Node::Object(Object { callable, args, kwargs, filled: None }))
    }

    fn push_text(&mut self, at: u64, bytes: &'a [u8]) -> Result<()> {
        let text = String::from_utf8_lossy(bytes);
        if let Cow::Owned(_) = text {
            self.not_utf8.get_or_insert(at);
        }
        self.push(at, Node::Text(text))
    }

    /// A string of Python 2, which had one type for text and for bytes.
    fn push_string(&mut self, at: u64, bytes: Cow<'a, [u8]>) -> Result<()> {
        let node = match bytes {
            Cow::Borrowed(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Node::Text(Cow::Borrowed(text)),
                Err(_) => Node::Bytes(bytes),
            },
            Cow::Owned(bytes) => {
                let text = String::from_utf8(bytes);
                Node::Text(Cow::Owned(text.unwrap_or_else(|err| {
                    self.not_utf8.get_or_insert(at);
                    String::from_utf8_lossy(err.as_bytes()).into_owned()
                })))
            }
        };
        self.push(at, node)
    }

    fn push_decimal(&mut self, opcode: u8, at: u64, cursor: &mut Cursor<'a>) -> Result<()> {
        let line = cursor.line("an integer")?;
        let (name, digits) = match opcode {
            op::INT => ("INT", line),
            _ => ("LONG", line.strip_suffix(b"L").unwrap_or(line)),
        };
        if opcode == op::INT && (line == b"00" || line == b"01") {
            self.stack.push(if line == b"01" { TRUE } else { FALSE });
            return Ok(());
        }
        let unsigned = digits.strip_prefix(b"-").unwrap_or(digits);
        if unsigned.is_empty() || !unsigned.iter().all(u8::is_ascii_digit) {
            return Err(bad_number(name, line, at));
        }
        let int = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
        self.push(at, int.map_or(Node::BigInt(digits), Node::Int))
    }

    fn push_global(&mut self, at: u64, cursor: &mut Cursor<'a>) -> Result<()> {
        self.push_text(at, cursor.line("the module of a global")?)?;
        self.push_text(at, cursor.line("the name of a global")?)?;
        let [name, module] = [self.pop(at)?, self.pop(at)?];
        self.push(at, Node::Global(module, name))
    }

    fn memoize(&mut self, at: u64, index: u64) -> Result<()> {
        let top = self.top(at)?;
        if self.memo.len() == MAX_NODES {
            let message = format!("the memo passes the limit of {MAX_NODES} values");
            return Err(Error::limit(at, message));
        }
        self.memo.insert(index, top);
        Ok(())
    }

    /// The height that nothing may be popped below.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self, at: u64) -> Result<NodeId> {
        let top = self.top(at)?;
        self.stack.pop();
        Ok(top)
    }

    fn top(&self, at: u64) -> Result<NodeId> {
        let top = if self.floor() < self.stack.len() { self.stack.last() } else { None };
        top.copied().ok_or_else(|| Error::malformed(at, "an opcode finds the pickle's stack empty"))
    }

    fn pop_to_mark(&mut self, at: u64) -> Result<Vec<NodeId>> {
        let Some(mark) = self.marks.pop() else {
            return Err(Error::malformed(at, "an opcode closes a mark, and none is open"));
        };
        Ok(self.stack.split_off(mark))
    }

    fn extend(&mut self, opcode: &str, at: u64, members: &[NodeId]) -> Result<()> {
        let target = self.top(at)?;
        match self.nodes.get_mut(target.index()) {
            Some(Node::List(list) | Node::Set(list)) => list.extend_from_slice(members),
            Some(Node::Object(object)) => object.fill().elements.extend_from_slice(members),
            other => {
                let message =
                    format!("{opcode} wants a list, the stack has {}", kind(other.as_deref()));
                return Err(Error::malformed(at, message));
            }
        }
        Ok(())
    }

    fn set_items(&mut self, opcode: &str, at: u64, items: &[(NodeId, NodeId)]) -> Result<()> {
        let target = self.top(at)?;
        match self.nodes.get_mut(target.index()) {
            Some(Node::Dict(dict)) => dict.extend_from_slice(items),
            Some(Node::Object(object)) => object.fill().items.extend_from_slice(items),
            other => {
                let message = format!(
                    "{opcode} wants a dictionary, the stack has {}",
                    kind(other.as_deref())
                );
                return Err(Error::malformed(at, message));
            }
        }
        Ok(())
    }
}

fn memo_index(opcode: u8, at: u64, cursor: &mut Cursor<'_>) -> Result<u64> {
    match opcode {
        op::BINPUT | op::BINGET => cursor.u8("a memo index").map(u64::from),
        op::LONG_BINPUT | op::LONG_BINGET => cursor.u32_le("a memo index").map(u64::from),
        _ => {
            let line = cursor.line("a memo index")?;
            let index = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
            index.ok_or_else(|| bad_number("a memo index", line, at))
        }
    }
}

fn pairs(members: &[NodeId], at: u64) -> Result<Vec<(NodeId, NodeId)>> {
    let (pairs, rest) = members.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Error::malformed(at, "a key of a dictionary has no value"));
    }
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}

/// A little-endian integer in two's complement.
fn long(bytes: &[u8]) -> Node<'_> {
    let negative = bytes.last().is_some_and(|last| 0x80 <= *last);
    let mut padded = if negative { [0xff; 8] } else { [0; 8] };
    match padded.get_mut(..bytes.len()) {
        Some(low) => {
            low.copy_from_slice(bytes);
            Node::Int(i64::from_le_bytes(padded))
        }
        None => Node::BigInt(bytes),
    }
}

/// Undoes the `repr` of a Python 2 string.
fn unquote(line: &[u8], at: u64) -> Result<Cow<'_, [u8]>> {
    let inner = match line {
        [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
        _ => return Err(Error::malformed(at, "STRING has no quotes around it")),
    };
    if !inner.contains(&b'\\') {
        return Ok(Cow::Borrowed(inner));
    }
    let mut bytes = Vec::new();
    let mut rest = inner;
    while let Some((&byte, tail)) = rest.split_first() {
        let (value, tail) = match (byte, tail) {
            (b'\\', [b'x', high, low, tail @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, tail),
                _ => return Err(Error::malformed(at, "STRING has a broken \\x escape")),
            },
            (b'\\', [b'n', tail @ ..]) => (b'\n', tail),
            (b'\\', [b't', tail @ ..]) => (b'\t', tail),
            (b'\\', [b'r', tail @ ..]) => (b'\r', tail),
            (b'\\', [quoted @ (b'\\' | b'\'' | b'"'), tail @ ..]) => (*quoted, tail),
            _ => (byte, tail),
        };
        bytes.push(value);
        rest = tail;
    }
    Ok(Cow::Owned(bytes))
}

/// Decodes Python's `raw-unicode-escape`: Latin-1, but for `\uXXXX` and `\UXXXXXXXX`.
fn raw_unicode_escape(line: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some((&byte, tail)) = rest.split_first() {
        let n_digits = match (byte, tail.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => 0,
        };
        let digits = tail.get(1..=n_digits).filter(|_| n_digits != 0);
        let code = digits.and_then(|digits| {
            digits
                .iter()
                .try_fold(0u32, |code, &digit| Some(code.checked_mul(16)? | u32::from(hex(digit)?)))
        });
        match (code, digits) {
            (Some(code), Some(_)) => {
                text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                rest = tail.get(1 + n_digits..).unwrap_or_default();
            }
            _ => {
                text.push(char::from(byte));
                rest = tail;
            }
        }
    }
    text
}

fn hex(digit: u8) -> Option<u8> {
    // A digit of base 16 fits.
    char::from(digit).to_digit(16).map(|value| value as u8)
}

fn bad_number(opcode: &str, line: &[u8], at: u64) -> Error {
    let shown = line.get(..40).unwrap_or(line).escape_ascii();
    Error::malformed(at, format!("{opcode} wants a number, `{shown}` is there"))
}

fn kind(node: Option<&Node<'_>>) -> &'static str {
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

#[cfg(test)]
mod tests;
