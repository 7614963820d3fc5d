//! The folders that transformers' Flax classes read: a tree of maps in msgpack, or several with an
//! index.

use super::Target;
use crate::base::error::Result;
use crate::exec::container::{Container, Frame, Insert, index};
use crate::exec::write::Shard;
use crate::format::flax::write::{self, Entry};
use crate::plan::program::Output;

pub(super) static TARGET: Target = Target {
    id: "flax",
    format: "flax",
    ending: Some("msgpack"),
    stem: "flax_model",
    index_file: Some("flax_model.msgpack.index.json"),
    sort: |tensors| {
        tensors.sort_by_key(|name| {
            write::keys(name).into_iter().map(str::to_owned).collect::<Vec<_>>()
        });
    },
    has: |dtype| write::dtype_name(dtype).is_some(),
    container: |_| Box::new(Msgpack),
    ..Target::DEFAULT
};

struct Msgpack;

impl Container for Msgpack {
    fn frame(&self, outputs: &[Output], shards: &[Shard], number: usize) -> Result<Frame> {
        let range = shards[number].outputs.clone();
        let entries: Vec<Entry<'_>> = outputs[range.clone()]
            .iter()
            .map(|Output { name, dtype, shape, .. }| Entry { name, dtype: *dtype, shape })
            .collect();
        if entries.is_empty() {
            return Ok(Frame { header: write::empty(), inserts: Vec::new() });
        }
        let inserts = write::inserts(&entries, write::MAX_CHUNK_LEN)?.into_iter();
        let inserts =
            inserts.map(|(at, byte, bytes)| Insert { output: range.start + at, at: byte, bytes });
        Ok(Frame { header: Vec::new(), inserts: inserts.collect() })
    }

    fn index(&self, outputs: &[Output], shards: &[Shard]) -> Option<String> {
        Some(index(outputs, shards, &|name| write::keys(name).join("/").into()))
    }
}
