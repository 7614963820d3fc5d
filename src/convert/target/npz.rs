//! NumPy's archives of arrays, with the names of the source.

use std::path::Path;

use super::Target;
use crate::base::checksum::Checksum;
use crate::base::error::{Error, ErrorKind, Result};
use crate::container::zip::write::{Member, finish, local_header};
use crate::exec::container::{Container, Frame, Insert};
use crate::exec::write::{Shard, Written};
use crate::format::numpy::write::{descr, header};
use crate::plan::program::Output;

pub(super) static TARGET: Target = Target {
    id: "npz",
    format: "numpy",
    keeps_names: true,
    ending: Some("npz"),
    is_split: false,
    is_single: true,
    has: |dtype| descr(dtype).is_some(),
    container: |_| Box::new(Archive),
    ..Target::DEFAULT
};

struct Archive;

/// The header of an array, and of its member.
fn headers(output: &Output) -> Result<(Vec<u8>, Vec<u8>)> {
    let Output { name, dtype, shape, .. } = output;
    let array = header(name, *dtype, shape)?;
    let len = (array.len() as u64).checked_add(output.n_bytes());
    let len = len.ok_or_else(|| {
        Error::new(ErrorKind::Limit, format!("`{name}` has more than 2^64 bytes"))
    })?;
    Ok((local_header(&format!("{name}.npy"), len)?, array))
}

impl Container for Archive {
    fn frame(&self, outputs: &[Output], shards: &[Shard], number: usize) -> Result<Frame> {
        let inserts = shards[number].outputs.clone().map(|output| {
            let (member, array) = headers(&outputs[output])?;
            Ok(Insert { output, at: 0, bytes: [member, array].concat() })
        });
        Ok(Frame { header: Vec::new(), inserts: inserts.collect::<Result<_>>()? })
    }

    fn checksum(&self) -> Option<Checksum> {
        Some(Checksum::Crc32)
    }

    fn finish(
        &self,
        dir: &Path,
        outputs: &[Output],
        shards: &[Shard],
        written: &Written,
    ) -> Result<()> {
        for (shard, file) in shards.iter().zip(&written.files) {
            let mut members = Vec::with_capacity(shard.outputs.len());
            for at in shard.outputs.clone() {
                let (output, tensor) = (&outputs[at], &written.tensors[at]);
                let (member, array) = headers(output)?;
                let mut crc = crc32fast::Hasher::new();
                crc.update(&array);
                let elements = crc32fast::Hasher::new_with_initial_len(tensor.checksum, tensor.len);
                crc.combine(&elements);
                members.push(Member {
                    name: format!("{}.npy", output.name),
                    len: array.len() as u64 + tensor.len,
                    start: tensor.offset - (member.len() + array.len()) as u64,
                    crc: crc.finalize(),
                });
            }
            finish(&dir.join(&file.name), &members, file.len)?;
        }
        Ok(())
    }
}
