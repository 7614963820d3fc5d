//! TensorFlow's checkpoints of version 2, under the names that the code of a model's authors has.

use std::path::Path;

use super::Target;
use crate::base::checksum::Checksum;
use crate::base::error::{Error, Result};
use crate::convert::sidecar::write_file;
use crate::exec::container::{Container, Frame};
use crate::exec::write::{Shard, Written, shards};
use crate::format::tensorflow::write::{self, Entry};
use crate::plan::program::Output;

pub(super) static TARGET: Target = Target {
    id: "tf",
    format: "tf",
    stem: "model.ckpt",
    is_split: false,
    shards: |outputs, max, stem, _| {
        let mut shards = shards(outputs, max, stem, "");
        let count = shards.len();
        for (number, shard) in shards.iter_mut().enumerate() {
            shard.name = write::shard_name(stem, number, count);
        }
        shards
    },
    sort: |tensors| tensors.sort_by_key(str::to_owned),
    has: write::has,
    container: |content| Box::new(Bundle { stem: content.stem }),
    ..Target::DEFAULT
};

struct Bundle<'a> {
    stem: &'a str,
}

impl Container for Bundle<'_> {
    fn frame(&self, outputs: &[Output], _: &[Shard], _: usize) -> Result<Frame> {
        // The key that the header of the table has.
        if outputs.iter().any(|output| output.name.is_empty()) {
            return Err(Error::unsupported("a tensor without a name in TensorFlow"));
        }
        Ok(Frame::default())
    }

    fn checksum(&self) -> Option<Checksum> {
        Some(Checksum::Crc32c)
    }

    fn finish(
        &self,
        dir: &Path,
        outputs: &[Output],
        shards: &[Shard],
        written: &Written,
    ) -> Result<()> {
        let entries: Vec<Entry<'_>> = outputs
            .iter()
            .zip(&written.tensors)
            .map(|(output, tensor)| Entry {
                name: &output.name,
                dtype: output.dtype,
                shape: &output.shape,
                shard: tensor.file as u64,
                offset: tensor.offset,
                len: tensor.len,
                crc: tensor.checksum,
            })
            .collect();
        let index = write::index(shards.len() as u64, &entries)?;
        write_file(&dir.join(format!("{}.index", self.stem)), &index)?;
        write_file(&dir.join("checkpoint"), write::checkpoint(self.stem).as_bytes())
    }
}
