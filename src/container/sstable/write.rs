//! Writes tables as TensorFlow does: nothing is compressed.

use super::{FOOTER_LEN, MAGIC, mask};
use crate::container::protobuf::put_varint;

/// A block is closed when it has so many bytes.
const BLOCK_LEN: usize = 256 << 10;
/// Every so many entries a key of a block is written whole.
const RESTART: usize = 16;

/// The bytes of a table of these keys and values. The keys are in order and no two are the same.
pub fn write<'e>(entries: impl Iterator<Item = (&'e [u8], Vec<u8>)>) -> Vec<u8> {
    let mut table = Vec::new();
    let mut index = Block::new(1);
    let mut block = Block::new(RESTART);
    let mut full: Option<Vec<u8>> = None;
    for (key, value) in entries {
        // The index says of a block what comes after its keys and not after those of the next.
        if let Some(handle) = full.take() {
            index.add(&between(&block.last, key), &handle);
            block = Block::new(RESTART);
        }
        block.add(key, &value);
        if BLOCK_LEN <= block.len() {
            full = Some(put_block(&block, &mut table));
        }
    }
    if full.is_none() && !block.bytes.is_empty() {
        full = Some(put_block(&block, &mut table));
    }
    if let Some(handle) = full {
        index.add(&after(&block.last), &handle);
    }
    let mut footer = put_block(&Block::new(RESTART), &mut table);
    footer.extend(put_block(&index, &mut table));
    footer.resize(FOOTER_LEN - 8, 0);
    footer.extend(MAGIC.to_le_bytes());
    table.extend(footer);
    table
}

/// Adds a block, and gives the place where it is.
fn put_block(block: &Block, table: &mut Vec<u8>) -> Vec<u8> {
    let mut handle = Vec::new();
    put_varint(table.len() as u64, &mut handle);
    let start = table.len();
    table.extend(&block.bytes);
    for restart in &block.restarts {
        table.extend(restart.to_le_bytes());
    }
    table.extend((block.restarts.len() as u32).to_le_bytes());
    put_varint((table.len() - start) as u64, &mut handle);
    table.push(0);
    let crc = crc32c::crc32c(&table[start..]);
    table.extend(mask(crc).to_le_bytes());
    handle
}

/// Keys and values, each key without what it shares with the one before.
struct Block {
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    last: Vec<u8>,
    every: usize,
    n_since: usize,
}

impl Block {
    fn new(every: usize) -> Block {
        Block { bytes: Vec::new(), restarts: vec![0], last: Vec::new(), every, n_since: 0 }
    }

    fn len(&self) -> usize {
        self.bytes.len() + 4 * self.restarts.len() + 4
    }

    fn add(&mut self, key: &[u8], value: &[u8]) {
        let shared = if self.n_since == self.every {
            // Blocks are closed long before 2^32 bytes.
            self.restarts.push(self.bytes.len() as u32);
            self.n_since = 0;
            0
        } else {
            self.last.iter().zip(key).take_while(|(last, key)| last == key).count()
        };
        for number in [shared, key.len() - shared, value.len()] {
            put_varint(number as u64, &mut self.bytes);
        }
        self.bytes.extend(&key[shared..]);
        self.bytes.extend(value);
        self.last = key.to_vec();
        self.n_since += 1;
    }
}

/// A short key that is not before `left`, and before `right`.
fn between(left: &[u8], right: &[u8]) -> Vec<u8> {
    let shared = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    match (left.get(shared), right.get(shared)) {
        (Some(&a), Some(&b)) if a != 0xff && a + 1 < b => [&left[..shared], &[a + 1]].concat(),
        _ => left.to_vec(),
    }
}

/// A short key that is not before `key`.
fn after(key: &[u8]) -> Vec<u8> {
    match key.iter().position(|&byte| byte != 0xff) {
        Some(at) => [&key[..at], &[key[at] + 1]].concat(),
        None => key.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    #[test]
    fn tables_of_any_length_are_read_as_they_were_written() {
        for n in [0usize, 1, 15, 16, 17, 33, 4000] {
            let keys: Vec<String> = (0..n).map(|i| format!("layer_{i:05}/kernel")).collect();
            let value = |i: usize| vec![i as u8; i % 300];
            let table = write(keys.iter().enumerate().map(|(i, key)| (key.as_bytes(), value(i))));
            let entries = read(&table).unwrap();
            assert_eq!(entries.len(), n);
            for (i, (key, found, _)) in entries.iter().enumerate() {
                assert_eq!((key.as_slice(), found), (keys[i].as_bytes(), &value(i)));
            }
        }
    }

    #[test]
    fn keys_of_an_index_are_short_and_between() {
        assert_eq!(between(b"layer_1/a", b"layer_3"), b"layer_2");
        assert_eq!(between(b"layer_1/a", b"layer_2"), b"layer_1/a");
        assert_eq!(between(b"a", b"ab"), b"a");
        assert_eq!(after(b"part"), b"q");
        assert_eq!(after(b"\xff\xff"), b"\xff\xff");
    }
}
