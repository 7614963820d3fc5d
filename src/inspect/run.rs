//! What is known of the run that left a checkpoint.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::checkpoint::Checkpoint;

/// The run of a trainer that left the files of its ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct InspectedRun {
    /// Who wrote it.
    pub trainer: String,
    /// The step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// How many ranks wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<String>,
    /// Over how many ranks each thing was cut: `tensor`, `pipeline`, `expert`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parallel: BTreeMap<String, String>,
    /// What says which model it is: a file beside it, or what its own files state; nothing, where it
    /// has to be named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

/// Before the keys of a checkpoint's metadata that tell of a run.
const TRAINER: &str = "trainer";

/// Whether an entry of the metadata is told as one of the run.
pub fn is_of_run(key: &str) -> bool {
    key.strip_prefix(TRAINER).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The run that left a checkpoint, if one did; `config` is what says which model it is.
pub(super) fn of(checkpoint: &Checkpoint, config: Option<String>) -> Option<InspectedRun> {
    let said = |key: &str| checkpoint.metadata.get(key).cloned();
    let parallel = checkpoint.metadata.iter().filter_map(|(key, n)| {
        let kind = key.strip_prefix("trainer.")?.strip_suffix("-parallel")?;
        Some((kind.to_owned(), n.clone()))
    });
    Some(InspectedRun {
        trainer: said(TRAINER)?,
        step: said("trainer.step"),
        ranks: said("trainer.ranks"),
        parallel: parallel.collect(),
        config,
    })
}
