//! Makes one checkpoint of the parts that several files hold.

use std::sync::Arc;

use serde_json::Value as Json;

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hash::{HashMap, HashSet};
use crate::checkpoint::{Checkpoint, Payload, StoredPart, Tensor};
use crate::encoding::layout::{Layouts, Stored};

/// Makes one tensor of those that a package stores as several.
pub(super) fn join_parts(
    layouts: &Layouts,
    entries: &serde_json::Map<String, Json>,
    checkpoint: &mut Checkpoint,
) {
    let tensors = &checkpoint.tensors;
    let stored: Vec<Stored<'_>> = tensors.iter().map(Stored::of).collect();
    let index: HashMap<&str, usize> =
        stored.iter().enumerate().map(|(at, tensor)| (tensor.name, at)).collect();
    let mut wholes: HashMap<usize, Tensor> = HashMap::default();
    let mut taken: HashSet<usize> = HashSet::default();
    for (name, entry) in entries {
        let found = layouts.packaged(name, entry, &stored, |name| index.get(name).copied());
        let Ok(Some((encoding, layout, places))) = found else { continue };
        let parts: Vec<StoredPart> = places
            .iter()
            .map(|(role, at)| StoredPart { role: role.clone(), tensor: tensors[*at].clone() })
            .collect();
        taken.extend(places.iter().map(|(_, at)| *at));
        let payload = Payload::Parts(Arc::clone(layout), parts.clone());
        let whole = Tensor::of_parts(name.clone(), encoding, &parts, payload);
        wholes.extend(places.first().map(|(_, at)| (*at, whole)));
    }
    let joined = tensors.iter().enumerate().filter_map(|(at, tensor)| match wholes.remove(&at) {
        Some(whole) => Some(whole),
        None => (!taken.contains(&at)).then(|| tensor.clone()),
    });
    checkpoint.tensors = joined.collect();
}

/// Parts that become one checkpoint.
pub(super) struct Joined {
    pub(super) checkpoint: Checkpoint,
    /// The files, with the place of the first tensor behind those of each.
    ends: Vec<(usize, String)>,
}

impl Joined {
    /// None yet, beside what is known already.
    pub(super) fn new(checkpoint: Checkpoint) -> Joined {
        Joined { checkpoint, ends: Vec::new() }
    }

    pub(super) fn append(&mut self, part: Checkpoint, file: &str) {
        let checkpoint = &mut self.checkpoint;
        checkpoint.format = part.format;
        checkpoint.tensors.extend(part.tensors);
        checkpoint.metadata.extend(part.metadata);
        checkpoint.findings.extend(part.findings);
        checkpoint.checksums.extend(part.checksums);
        checkpoint.signatures.extend(part.signatures);
        self.ends.push((checkpoint.tensors.len(), file.to_owned()));
    }

    /// The one checkpoint.
    ///
    /// # Errors
    /// Two parts have one tensor.
    pub(super) fn finish(self) -> Result<Checkpoint> {
        let tensors = &self.checkpoint.tensors;
        let mut known = HashSet::with_capacity_and_hasher(tensors.len(), Default::default());
        if let Some(place) = tensors.iter().position(|tensor| !known.insert(tensor.name.as_str())) {
            let file = self.ends.iter().find(|(end, _)| place < *end);
            let (name, file) = (&tensors[place].name, file.map_or("", |(_, file)| file));
            let message = format!("the tensor `{name}` is in two shards, the second is `{file}`");
            return Err(Error::new(ErrorKind::Malformed, message));
        }
        drop(known);
        Ok(self.checkpoint)
    }
}
