//! Which file each output is written to.

use std::ops::Range;

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hash::HashSet;
use crate::plan::program::Output;

/// One file to write, and which of the outputs it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The file's name.
    pub name: String,
    /// The outputs, which stand in the file in this order.
    pub outputs: Range<usize>,
}

/// Distributes outputs over files of at most `max_shard_bytes` of tensors each.
///
/// A tensor is never split; one that is longer than the limit gets a file of its own. Names are
/// those of Hugging Face, which are those of llama.cpp too: `stem.safetensors`, or
/// `stem-00001-of-00003.safetensors`.
pub fn shards(
    outputs: &[Output],
    max_shard_bytes: Option<u64>,
    stem: &str,
    ending: &str,
) -> Vec<Shard> {
    let max = max_shard_bytes.unwrap_or(u64::MAX);
    let empty: Range<usize> = 0..0;
    let mut ranges = vec![empty];
    let mut len = 0u64;
    for (index, output) in outputs.iter().enumerate() {
        let range = ranges.last_mut().expect("there is always one");
        let n_bytes = output.n_bytes();
        if range.start < range.end && max < len.saturating_add(n_bytes) {
            ranges.push(index..index + 1);
            len = n_bytes;
        } else {
            range.end = index + 1;
            len = len.saturating_add(n_bytes);
        }
    }
    let n = ranges.len();
    let name = |index: usize| match n {
        1 => format!("{stem}.{ending}"),
        _ => format!("{stem}-{:05}-of-{n:05}.{ending}", index + 1),
    };
    let shards = ranges.into_iter().enumerate();
    shards.map(|(index, outputs)| Shard { name: name(index), outputs }).collect()
}

pub(super) fn check_names(outputs: &[Output], shards: &[Shard]) -> Result<()> {
    let broken = |message: String| Error::new(ErrorKind::Malformed, message);
    let mut names = HashSet::default();
    names.reserve(outputs.len());
    if let Some(output) = outputs.iter().find(|output| !names.insert(&output.name)) {
        return Err(broken(format!("two outputs are named `{}`", output.name)));
    }
    let mut next = 0;
    for shard in shards {
        if shard.outputs.start != next || shard.outputs.end < next {
            return Err(broken(format!(
                "`{}` does not go on where the last shard ends",
                shard.name
            )));
        }
        next = shard.outputs.end;
    }
    if next != outputs.len() {
        return Err(broken(format!("the shards hold {next} of {} outputs", outputs.len())));
    }
    Ok(())
}
