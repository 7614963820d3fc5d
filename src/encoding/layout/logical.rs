//! A foreign checkpoint with its logical tensors in place of the stored ones.

use std::sync::Arc;

use serde_json::Value;

use super::group::{Grouped, Stored};
use super::rules::Layouts;
use crate::base::source::Source;
use crate::checkpoint::layout::Layout;
use crate::checkpoint::{Checkpoint, Encoding, Payload, StoredPart, Tensor};
use crate::encoding::grouped;

/// A checkpoint of a foreign folder with each tensor that is stored as several as the one that it
/// is; `None` if it has none. `config` is a whole `config.json`.
///
/// The values of one whose parts are missing or do not fit cannot be had; why is its payload.
pub fn logical(
    layouts: &Layouts,
    checkpoint: &Checkpoint,
    config: Option<&Value>,
    source: &Source,
) -> Option<Checkpoint> {
    let tensors = &checkpoint.tensors;
    let stored: Vec<Stored<'_>> = tensors.iter().map(Stored::of).collect();
    let groups = layouts.group(&stored, config, &checkpoint.metadata);
    if groups.is_empty() {
        return None;
    }
    let mut places: Vec<Option<&Grouped<'_>>> = vec![None; tensors.len()];
    let mut is_part = vec![false; tensors.len()];
    for group in &groups {
        let first = group.parts.values().copied().min();
        first.into_iter().for_each(|at| places[at] = Some(group));
        group.parts.values().for_each(|&at| is_part[at] = true);
    }
    let logical = tensors.iter().enumerate().filter_map(|(at, tensor)| match places[at] {
        Some(group) => Some(group.tensor(tensors, source)),
        None => (!is_part[at]).then(|| tensor.clone()),
    });
    Some(Checkpoint {
        format: checkpoint.format,
        tensors: logical.collect(),
        metadata: checkpoint.metadata.clone(),
        typed_metadata: checkpoint.typed_metadata.clone(),
        findings: checkpoint.findings.clone(),
        checksums: checkpoint.checksums.clone(),
        signatures: checkpoint.signatures.clone(),
    })
}

impl Grouped<'_> {
    /// The logical tensor.
    fn tensor(&self, tensors: &[Tensor], source: &Source) -> Tensor {
        let parts = self.layout.parts.iter().filter_map(|rule| {
            let at = *self.parts.get(rule.role.as_str())?;
            Some(StoredPart { role: rule.role.clone(), tensor: tensors[at].clone() })
        });
        let parts: Vec<StoredPart> = parts.collect();
        let shape = self.shape.clone().or_else(|| {
            self.layout.stated_shape(|role| {
                let part = parts.iter().find(|part| part.role == role)?;
                source.slice(part.tensor.packed_extent()?).ok()
            })
        });
        let unreadable = self.problems.first().cloned().or_else(|| {
            let strided = parts.iter().find(|part| part.tensor.packed_extent().is_none());
            let strided = strided.map(|part| format!("`{}` is not contiguous", part.tensor.name));
            strided.or_else(|| shape.is_none().then(|| "its shape does not follow".to_owned()))
        });
        let payload = match unreadable {
            Some(why) => Payload::Unreadable(format!("{}: {why}", self.layout.id)),
            None => Payload::Parts(Arc::clone(self.layout), parts.clone()),
        };
        let encoding = Encoding {
            id: self.layout.id.clone(),
            shape: shape.unwrap_or_default(),
            parameters: self.parameters.clone(),
        };
        Tensor::of_parts(self.name.clone(), encoding, &parts, payload)
    }
}

impl Layout {
    /// The shape where it is in the bytes of a part.
    fn stated_shape<'a>(&self, bytes: impl Fn(&str) -> Option<&'a [u8]>) -> Option<Vec<u64>> {
        match self.decode.as_str() {
            "bitsandbytes_4bit" => grouped::stated_shape(bytes("quant_state")?),
            "pack_quantized" => {
                let ints = bytes("shape")?;
                let size = |int: i64| u64::try_from(int).ok();
                match ints.len() {
                    8 => ints
                        .as_chunks()
                        .0
                        .iter()
                        .map(|&b| size(i32::from_le_bytes(b).into()))
                        .collect(),
                    _ => ints.as_chunks().0.iter().map(|&b| size(i64::from_le_bytes(b))).collect(),
                }
            }
            _ => None,
        }
    }
}
