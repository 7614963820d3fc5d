//! The stack, the marks and the memo of the machine that a pickle is a program of.

use super::op;
use std::borrow::Cow;
use std::collections::HashMap;

use super::literal::bad_number;
use super::value::{FALSE, Node, NodeId, Object, TRUE, kind};
use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};

/// The longest pickle that is read. Those of the largest checkpoints take some 100 MB, nearly
/// all of it optimizer state and tokenizers.
pub const MAX_LEN: u64 = 256 << 20;

/// The most opcodes that are run.
pub(super) const MAX_OPCODES: u64 = 50_000_000;

/// The most nodes that are kept: a checkpoint of a million tensors has about eight million.
const MAX_NODES: usize = 16_000_000;

/// The most marks that may be open. Python's pickler recurses at least once for each, and stops
/// at 1,000 levels.
pub(super) const MAX_MARKS: usize = 1000;

pub(super) struct Machine<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) stack: Vec<NodeId>,
    /// The heights of the stack at the open marks.
    pub(super) marks: Vec<usize>,
    pub(super) memo: Memo,
    pub(super) not_utf8: Option<u64>,
}

/// Values by number. Picklers count up from 0, so nearly all lie in a row.
#[derive(Default)]
pub(super) struct Memo {
    pub(super) row: Vec<NodeId>,
    pub(super) others: HashMap<u64, NodeId>,
}

impl Memo {
    pub(super) fn len(&self) -> usize {
        self.row.len() + self.others.len()
    }

    pub(super) fn get(&self, index: u64) -> Option<NodeId> {
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
    pub(super) fn new() -> Machine<'a> {
        Machine {
            nodes: vec![Node::None, Node::Bool(false), Node::Bool(true), Node::Tuple(Vec::new())],
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Memo::default(),
            not_utf8: None,
        }
    }

    pub(super) fn get(&self, id: NodeId) -> Option<&Node<'a>> {
        self.nodes.get(id.index())
    }

    pub(super) fn push(&mut self, at: u64, node: Node<'a>) -> Result<()> {
        if self.nodes.len() == MAX_NODES {
            let message = format!("the pickle passes the limit of {MAX_NODES} values");
            return Err(Error::limit(at, message));
        }
        // The limit is far below 2^32.
        self.stack.push(NodeId(self.nodes.len() as u32));
        self.nodes.push(node);
        Ok(())
    }

    pub(super) fn push_object(
        &mut self,
        at: u64,
        callable: NodeId,
        args: NodeId,
        kwargs: Option<NodeId>,
    ) -> Result<()> {
        self.push(at, Node::Object(Object { callable, args, kwargs, filled: None }))
    }

    pub(super) fn push_text(&mut self, at: u64, bytes: &'a [u8]) -> Result<()> {
        let text = String::from_utf8_lossy(bytes);
        if let Cow::Owned(_) = text {
            self.not_utf8.get_or_insert(at);
        }
        self.push(at, Node::Text(text))
    }

    /// A string of Python 2, which had one type for text and for bytes.
    pub(super) fn push_string(&mut self, at: u64, bytes: Cow<'a, [u8]>) -> Result<()> {
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

    pub(super) fn push_decimal(
        &mut self,
        opcode: u8,
        at: u64,
        cursor: &mut Cursor<'a>,
    ) -> Result<()> {
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

    pub(super) fn push_global(&mut self, at: u64, cursor: &mut Cursor<'a>) -> Result<()> {
        self.push_text(at, cursor.line("the module of a global")?)?;
        self.push_text(at, cursor.line("the name of a global")?)?;
        let [name, module] = [self.pop(at)?, self.pop(at)?];
        self.push(at, Node::Global(module, name))
    }

    pub(super) fn memoize(&mut self, at: u64, index: u64) -> Result<()> {
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

    pub(super) fn pop(&mut self, at: u64) -> Result<NodeId> {
        let top = self.top(at)?;
        self.stack.pop();
        Ok(top)
    }

    pub(super) fn top(&self, at: u64) -> Result<NodeId> {
        let top = if self.floor() < self.stack.len() { self.stack.last() } else { None };
        top.copied().ok_or_else(|| Error::malformed(at, "an opcode finds the pickle's stack empty"))
    }

    pub(super) fn pop_to_mark(&mut self, at: u64) -> Result<Vec<NodeId>> {
        let Some(mark) = self.marks.pop() else {
            return Err(Error::malformed(at, "an opcode closes a mark, and none is open"));
        };
        Ok(self.stack.split_off(mark))
    }

    pub(super) fn extend(&mut self, opcode: &str, at: u64, members: &[NodeId]) -> Result<()> {
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

    pub(super) fn set_items(
        &mut self,
        opcode: &str,
        at: u64,
        items: &[(NodeId, NodeId)],
    ) -> Result<()> {
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

pub(super) fn memo_index(opcode: u8, at: u64, cursor: &mut Cursor<'_>) -> Result<u64> {
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

pub(super) fn pairs(members: &[NodeId], at: u64) -> Result<Vec<(NodeId, NodeId)>> {
    let (pairs, rest) = members.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Error::malformed(at, "a key of a dictionary has no value"));
    }
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}
