//! Files of `torch.save`: zip archives of a pickle and the storages of its tensors.

use std::path::Path;

use crate::base::checksum::Checksum;
use crate::base::error::{Error, ErrorKind, Result};
use crate::container::zip::write::{Member, aligned_header, finish};
use crate::exec::container::{Container, Frame, Insert};
use crate::exec::write::{Shard, Written};
use crate::format::pytorch::write::Value;
use crate::plan::program::Output;

/// Where payloads begin, so that a map of the file has elements on their boundaries.
const ALIGNMENT: u64 = 64;

/// The pickle of a file with these tensors.
pub(super) type Wrap<'a> = dyn Fn(Vec<(&str, Value<'_>)>) -> Result<Vec<u8>> + Sync + 'a;

/// Archives of tensors that are named `FILE/NAME`, one for each file.
pub(super) struct Archives<'a> {
    pub(super) wrap: Box<Wrap<'a>>,
}

/// The files of tensors that are named `FILE/NAME`, in which those of a file follow each other.
pub(super) fn shards(outputs: &[Output], ending: &str) -> Vec<Shard> {
    let mut shards: Vec<Shard> = Vec::new();
    for (at, output) in outputs.iter().enumerate() {
        let name = format!("{}{ending}", split(&output.name).0);
        match shards.last_mut() {
            Some(shard) if shard.name == name => shard.outputs.end = at + 1,
            _ => shards.push(Shard { name, outputs: at..at + 1 }),
        }
    }
    shards
}

/// The file of an output, and the name that the tensor has in it.
pub(super) fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

/// The headers of a file's tensors, each with where it begins.
type Headers = Vec<(u64, Vec<u8>)>;

/// The records before the first tensor, with their payloads.
type Records = Vec<(String, Vec<u8>)>;

impl Archives<'_> {
    /// The folder that all records of a file are in.
    fn root(shard: &Shard) -> &str {
        let name = shard.name.rsplit_once('/').map_or(&*shard.name, |(_, name)| name);
        name.rsplit_once('.').map_or(name, |(stem, _)| stem)
    }

    fn records(&self, outputs: &[Output], shard: &Shard) -> Result<Records> {
        let tensors = outputs[shard.outputs.clone()].iter().enumerate();
        let tensors = tensors.map(|(key, Output { name, dtype, shape, .. })| {
            (split(name).1, Value::Tensor { key, dtype: *dtype, shape })
        });
        let root = Self::root(shard);
        let pickle = (self.wrap)(tensors.collect())?;
        Ok(vec![
            (format!("{root}/data.pkl"), pickle),
            (format!("{root}/byteorder"), b"little".to_vec()),
            (format!("{root}/version"), b"3\n".to_vec()),
        ])
    }

    /// The headers of a file's tensors, each with where it begins, and where the last payload ends.
    fn headers(outputs: &[Output], shard: &Shard, start: u64) -> Result<(Headers, u64)> {
        let (mut at, root) = (start, Self::root(shard));
        let mut headers = Vec::with_capacity(shard.outputs.len());
        for (key, output) in outputs[shard.outputs.clone()].iter().enumerate() {
            let len = output.n_bytes();
            let header = aligned_header(&format!("{root}/data/{key}"), len, at, ALIGNMENT)?;
            let end = at.checked_add(header.len() as u64).and_then(|end| end.checked_add(len));
            headers.push((at, header));
            at = end.ok_or_else(|| {
                Error::new(ErrorKind::Limit, "the tensors of one file pass 2^64 bytes")
            })?;
        }
        Ok((headers, at))
    }

    /// The bytes before the first tensor, and the records that they are.
    fn head(records: Records) -> Result<(Vec<u8>, Vec<Member>)> {
        let (mut head, mut members) = (Vec::new(), Vec::new());
        for (name, payload) in records {
            let (start, len) = (head.len() as u64, payload.len() as u64);
            let crc = crc32fast::hash(&payload);
            head.extend(aligned_header(&name, len, start, ALIGNMENT)?);
            head.extend(payload);
            members.push(Member { name, len, start, crc });
        }
        Ok((head, members))
    }
}

impl Container for Archives<'_> {
    fn frame(&self, outputs: &[Output], shards: &[Shard], number: usize) -> Result<Frame> {
        let shard = &shards[number];
        let (header, _) = Self::head(self.records(outputs, shard)?)?;
        let (headers, _) = Self::headers(outputs, shard, header.len() as u64)?;
        let inserts = shard.outputs.clone().zip(headers);
        let inserts = inserts.map(|(output, (_, bytes))| Insert { output, at: 0, bytes });
        Ok(Frame { header, inserts: inserts.collect() })
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
        for shard in shards {
            let (head, mut members) = Self::head(self.records(outputs, shard)?)?;
            let (headers, end) = Self::headers(outputs, shard, head.len() as u64)?;
            for (key, (at, (start, _))) in shard.outputs.clone().zip(headers).enumerate() {
                let tensor = &written.tensors[at];
                let name = format!("{}/data/{key}", Self::root(shard));
                members.push(Member { name, len: tensor.len, start, crc: tensor.checksum });
            }
            finish(&dir.join(&shard.name), &members, end)?;
        }
        Ok(())
    }
}
