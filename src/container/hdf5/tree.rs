//! B-trees of version 2, of which the records of links are read.
//!
//! ```text
//! BTHD  kind, size of a node, of a record, depth, root
//! BTIN  records, then (address, number of records, all below) for each child      BTLF  records
//! ```

use super::header::is_none;
use super::{File, uint};
use crate::base::error::{Error, Result};

/// The kind of records that are a hash of a name and an id of a heap.
const LINK_NAMES: u8 = 5;
/// The bytes of the hash.
const HASH_LEN: usize = 4;
/// What a node has beside records and children.
const NODE_LEN: u64 = 4 + 1 + 1 + 4;
/// Deeper trees have more records than there are objects in a file.
const MAX_DEPTH: u16 = 16;

/// The sizes of the nodes of a tree.
struct Sizes {
    record: u64,
    /// The bytes of the number of records of a child.
    count: u8,
    /// For each level above the leaves the bytes of the number of all records below a child.
    below: Vec<u8>,
}

impl Sizes {
    fn of(node: u64, record: u64, depth: u16, address: u8) -> Option<Sizes> {
        let width = |n: u64| (n.max(1).ilog2() / 8 + 1) as u8;
        let most = node.checked_sub(NODE_LEN)?.checked_div(record)?;
        let count = width(most);
        let mut below = vec![0];
        let mut all = most;
        for level in 1..=depth {
            let child = u64::from(address + count + below[usize::from(level) - 1]);
            let n = node.checked_sub(NODE_LEN + child)?.checked_div(record + child)?;
            all = n.checked_add(1)?.checked_mul(all)?.checked_add(n)?;
            below.push(width(all));
        }
        Some(Sizes { record, count, below })
    }
}

impl<'a> File<'a> {
    /// The ids of the objects of a heap that a tree of names lists.
    pub(super) fn link_ids(&mut self, address: u64) -> Result<Vec<Vec<u8>>> {
        let mut cursor = self.at(address, "a tree of names")?;
        if cursor.take(4, "a signature")? != b"BTHD" || cursor.u8("a version")? != 0 {
            return Err(Error::malformed(address, "is no tree of version 0"));
        }
        let kind = cursor.u8("a kind")?;
        let node = u64::from(cursor.u32_le("the size of a node")?);
        let record = u64::from(cursor.u16_le("the size of a record")?);
        let depth = cursor.u16_le("a depth")?;
        cursor.take(2, "how full nodes are")?;
        let root = self.address(&mut cursor)?;
        let n = u64::from(cursor.u16_le("a count")?);
        if kind != LINK_NAMES || record <= HASH_LEN as u64 || MAX_DEPTH < depth {
            return Err(Error::malformed(address, "is no tree of the names of links"));
        }
        let sizes = Sizes::of(node, record, depth, self.widths[0])
            .ok_or_else(|| Error::malformed(address, "nodes that are too small for a record"))?;
        let mut ids = Vec::new();
        if !is_none(root) {
            self.node(root, n, usize::from(depth), &sizes, &mut ids)?;
        }
        Ok(ids)
    }

    fn node(
        &mut self,
        address: u64,
        n: u64,
        level: usize,
        sizes: &Sizes,
        ids: &mut Vec<Vec<u8>>,
    ) -> Result<()> {
        self.count(address)?;
        let mut cursor = self.at(address, "a node of a tree")?;
        let signature: &[u8] = if level == 0 { b"BTLF" } else { b"BTIN" };
        if cursor.take(4, "a signature")? != signature {
            return Err(Error::malformed(address, "is no node of this level"));
        }
        cursor.take(2, "a kind")?;
        for _ in 0..n {
            self.count(address)?;
            ids.push(cursor.take(sizes.record, "a record")?[HASH_LEN..].to_vec());
        }
        if level == 0 {
            return Ok(());
        }
        let mut children = Vec::new();
        for _ in 0..=n {
            let child = self.address(&mut cursor)?;
            let n = uint(&mut cursor, sizes.count, "a count")?;
            cursor.take(u64::from(sizes.below[level - 1]), "a count")?;
            children.push((child, n));
        }
        // A level below each: no tree leads into itself.
        for (child, n) in children {
            self.node(child, n, level - 1, sizes, ids)?;
        }
        Ok(())
    }
}
