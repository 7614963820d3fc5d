//! What each opcode of a pickle does: it makes nodes, and calls nothing.

use super::op;
use std::borrow::Cow;

use super::literal::{bad_number, long, raw_unicode_escape, unquote};
use super::machine::{MAX_LEN, MAX_MARKS, MAX_OPCODES, Machine, memo_index, pairs};
use super::value::{EMPTY_TUPLE, FALSE, NONE, Node, NodeId, Pickle, TRUE, kind};
use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};

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
}

impl<'a> Machine<'a> {
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
}
