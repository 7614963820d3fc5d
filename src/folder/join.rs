//! Makes one checkpoint of the parts that several files hold.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value as Json;

use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::{Checkpoint, Payload, StoredPart, Tensor};
use crate::encoding::layout::{LAYOUTS, Stored};

/// Makes one tensor of those that a package stores as several.
pub(super) fn join_parts(entries: &serde_json::Map<String, Json>, checkpoint: &mut Checkpoint) {
    let tensors = &checkpoint.tensors;
    let stored: Vec<Stored<'_>> = tensors.iter().map(Stored::of).collect();
    let index: HashMap<&str, usize> =
        stored.iter().enumerate().map(|(at, tensor)| (tensor.name, at)).collect();
    let mut wholes: HashMap<usize, Tensor> = HashMap::new();
    let mut taken: HashSet<usize> = HashSet::new();
    for (name, entry) in entries {
        let found = LAYOUTS.packaged(name, entry, &stored, |name| index.get(name).copied());
        let Ok(Some((encoding, places))) = found else { continue };
        let parts: Vec<StoredPart> = places
            .iter()
            .map(|(role, at)| StoredPart { role: role.clone(), tensor: tensors[*at].clone() })
            .collect();
        taken.extend(places.iter().map(|(_, at)| *at));
        let payload = Payload::Parts(parts.clone());
        let whole = Tensor::of_parts(name.clone(), encoding, &parts, payload);
        wholes.extend(places.first().map(|(_, at)| (*at, whole)));
    }
    let joined = tensors.iter().enumerate().filter_map(|(at, tensor)| match wholes.remove(&at) {
        Some(whole) => Some(whole),
        None => (!taken.contains(&at)).then(|| tensor.clone()),
    });
    checkpoint.tensors = joined.collect();
}

pub(super) fn append(checkpoint: &mut Checkpoint, part: Checkpoint, file: &str) -> Result<()> {
    let twice = {
        let known: BTreeSet<&str> = checkpoint.tensors.iter().map(|t| t.name.as_str()).collect();
        part.tensors.iter().find(|tensor| known.contains(tensor.name.as_str()))
    };
    if let Some(twice) = twice {
        let message =
            format!("the tensor `{}` is in two shards, the second is `{file}`", twice.name);
        return Err(Error::new(ErrorKind::Malformed, message));
    }
    checkpoint.format = part.format;
    checkpoint.tensors.extend(part.tensors);
    checkpoint.metadata.extend(part.metadata);
    checkpoint.findings.extend(part.findings);
    checkpoint.checksums.extend(part.checksums);
    Ok(())
}
