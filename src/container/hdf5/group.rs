//! The links of a group: a symbol table, or messages of its header.

use std::collections::BTreeSet;

use super::header::{LINK, LINK_INFO, Message, SYMBOL_TABLE, is_none};
use super::{File, uint};
use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};

/// A symbol that is a link to a name, not to an object.
const SOFT_LINK: u32 = 2;

/// The kinds of links that are messages.
const HARD_LINK: u8 = 0;
const SOFT_LINK_MESSAGE: u8 = 1;
const EXTERNAL_LINK: u8 = 64;
/// Names are no longer than this.
const MAX_NAME_LEN: usize = 64 << 10;

/// What a link leads to.
pub(super) enum Target {
    /// An object, by its address.
    Object(u64),
    /// Another name of the file.
    Name,
    /// Something that is not read: why.
    Elsewhere(String),
}

/// Names and what they lead to.
type Links = Vec<(String, Target)>;

impl<'a> File<'a> {
    /// The links of a group; `None` of what is no group.
    pub(super) fn links(&mut self, messages: &[Message<'a>]) -> Result<Option<Links>> {
        let mut links = Vec::new();
        let mut is_group = false;
        for message in messages {
            match message.kind {
                SYMBOL_TABLE => {
                    is_group = true;
                    let mut cursor = message.cursor();
                    let (tree, heap) = (self.address(&mut cursor)?, self.address(&mut cursor)?);
                    let names = self.heap(heap)?;
                    self.symbols(tree, &names, None, &mut BTreeSet::new(), &mut links)?;
                }
                LINK => {
                    is_group = true;
                    links.push(self.link(&mut message.cursor())?);
                }
                LINK_INFO => {
                    is_group = true;
                    let mut cursor = message.cursor();
                    cursor.take(1, "a version")?;
                    let flags = cursor.u8("flags")?;
                    cursor.take(if flags & 1 != 0 { 8 } else { 0 }, "an order")?;
                    let heap = self.address(&mut cursor)?;
                    let index = self.address(&mut cursor)?;
                    if !is_none(heap) {
                        self.dense_links(heap, index, &mut links)?;
                    }
                }
                _ => {}
            }
        }
        Ok(is_group.then_some(links))
    }

    /// The links that lie in a heap, sorted by name as other groups have them; the tree lists their places.
    fn dense_links(&mut self, heap: u64, index: u64, links: &mut Links) -> Result<()> {
        let heap = self.fractal_heap(heap)?;
        let mut found = Vec::new();
        for id in self.link_ids(index)? {
            let mut cursor = self.heap_object(&heap, &id)?;
            self.count(cursor.offset())?;
            found.push(self.link(&mut cursor)?);
        }
        found.sort_by(|(left, _), (right, _)| left.cmp(right));
        links.extend(found);
        Ok(())
    }

    fn link(&self, cursor: &mut Cursor<'_>) -> Result<(String, Target)> {
        let at = cursor.offset();
        let version = cursor.u8("the version of a link")?;
        if version != 1 {
            return Err(Error::malformed(at, format!("a link of version {version}")));
        }
        let flags = cursor.u8("flags")?;
        let kind = if flags & 8 != 0 { cursor.u8("the kind of a link")? } else { 0 };
        cursor.take(if flags & 4 != 0 { 8 } else { 0 }, "an order")?;
        cursor.take(if flags & 0x10 != 0 { 1 } else { 0 }, "a character set")?;
        let len = uint(cursor, 1 << (flags & 3), "the length of a name")?;
        let name = name(cursor.take(len, "a name")?, at)?;
        let target = match kind {
            HARD_LINK => Target::Object(self.address(cursor)?),
            SOFT_LINK_MESSAGE => Target::Name,
            EXTERNAL_LINK => Target::Elsewhere("is a link into another file".to_owned()),
            other => Target::Elsewhere(format!("is a link of the kind {other}")),
        };
        Ok((name, target))
    }

    /// The bytes of the names of a group.
    fn heap(&self, address: u64) -> Result<Cursor<'a>> {
        let mut cursor = self.at(address, "the names of a group")?;
        if cursor.take(4, "a signature")? != b"HEAP" {
            return Err(Error::malformed(address, "is no heap of names"));
        }
        cursor.take(4, "a version")?;
        let len = self.length(&mut cursor)?;
        self.length(&mut cursor)?;
        let start = self.address(&mut cursor)?;
        self.part(start, len, "the names of a group")
    }

    /// The symbols below a node of a tree.
    fn symbols(
        &mut self,
        address: u64,
        names: &Cursor<'a>,
        above: Option<u8>,
        seen: &mut BTreeSet<u64>,
        links: &mut Links,
    ) -> Result<()> {
        self.count(address)?;
        if !seen.insert(address) {
            return Err(Error::malformed(address, "a tree of names that leads into itself"));
        }
        let mut cursor = self.at(address, "a tree of names")?;
        match cursor.take(4, "a signature")? {
            b"TREE" => {
                let kind = cursor.u8("a kind")?;
                let level = cursor.u8("a level")?;
                if kind != 0 || above.is_some_and(|above| above <= level) {
                    return Err(Error::malformed(address, "is no tree of names of this level"));
                }
                let n = cursor.u16_le("a count")?;
                self.address(&mut cursor)?;
                self.address(&mut cursor)?;
                for _ in 0..n {
                    self.length(&mut cursor)?;
                    let child = self.address(&mut cursor)?;
                    self.symbols(child, names, Some(level), seen, links)?;
                }
            }
            b"SNOD" => {
                cursor.take(2, "a version")?;
                let n = cursor.u16_le("a count")?;
                for _ in 0..n {
                    let at = self.address(&mut cursor)?;
                    let object = self.address(&mut cursor)?;
                    let kind = cursor.u32_le("a kind")?;
                    cursor.take(4 + 16, "padding")?;
                    self.count(address)?;
                    let mut text = names.clone();
                    text.take(at, "a name")?;
                    let rest = text.take(text.left(), "a name")?;
                    let rest = &rest[..rest.len().min(MAX_NAME_LEN)];
                    let len = rest.iter().position(|&byte| byte == 0).ok_or_else(|| {
                        let message = "a name that does not end in its heap, or is too long";
                        Error::malformed(address, message)
                    })?;
                    self.count_name(address, len)?;
                    let target = match kind {
                        SOFT_LINK => Target::Name,
                        _ => Target::Object(object),
                    };
                    links.push((name(&rest[..len], address)?, target));
                }
            }
            _ => return Err(Error::malformed(address, "is no tree of names")),
        }
        Ok(())
    }
}

fn name(bytes: &[u8], at: u64) -> Result<String> {
    let text = std::str::from_utf8(bytes).ok().filter(|name| !name.is_empty());
    text.map(str::to_owned).ok_or_else(|| Error::malformed(at, "a name that is no text"))
}
