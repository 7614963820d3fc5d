//! Tiny synthetic checkpoints in a foreign layout, made from the mapping alone: one for each way in
//! which a config or a class of the foreign framework switches rules on, until every rule acts.
//!
//! What they hold is noise. They prove that a mapping is whole and that it comes back, not that it
//! means what the foreign framework means: that takes a checkpoint of that framework.

mod check;
mod choose;
mod make;
mod search;
mod write;

use std::collections::BTreeSet;

use serde_json::Value as Json;

use self::search::Search;
use super::tiny;
use crate::base::error::{Error, ErrorKind, Result};
use crate::package::{Model, Provenance};
use crate::spec::Spec;
use crate::spec::ecosystem::Ecosystem;
use crate::spec::map::Map;

pub(crate) use self::check::AsPlanned;
pub use self::choose::unused;
pub use self::write::write;

/// The rows of heads that no hyperparameter tells of.
const ROWS: u64 = 3;

/// A part of a mapping: a rule, and the words that its variables have.
pub type Part = (usize, Vec<String>);

/// One tiny checkpoint, before it is written.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What sets it apart, `base` or `hidden_act="gelu"`.
    pub label: String,
    /// The package that it is made from.
    pub model: Model,
    /// Where that says it came from: names, copies and buffers that the foreign file has.
    pub source: Provenance,
    /// The canonical tensors with their shapes.
    pub tensors: Vec<(String, Vec<u64>)>,
    /// What of the mapping acts.
    pub parts: BTreeSet<Part>,
    /// Whether it has the files of modules beside the transformer.
    modules: usize,
}

/// The samples of a mapping: the first is the plainest, and together they use every part that any
/// config found uses.
///
/// # Errors
/// No tiny config was found, or the mapping does not bring a sample there and back.
pub fn samples(spec: &Spec, map: &Map, start: Option<&Json>) -> Result<Vec<Sample>> {
    let fail = |why: &str| {
        let message = format!("the mapping {}/{}: {why}", map.format, map.name);
        Error::new(ErrorKind::Malformed, message)
    };
    if Ecosystem::of(&map.format).typed_keys {
        let message = "no samples are made of gguf mappings: such a file says less than a model is; \
                       write a sample of the hf mapping with `convert --to gguf`";
        return Err(Error::unsupported(message));
    }
    let base = tiny::config(spec, map, start).map_err(|findings| {
        let why: Vec<&str> = findings.iter().map(|finding| finding.message.as_str()).collect();
        fail(&format!("no tiny config is one it reads: {}", why.join("; ")))
    })?;
    let mut search = Search::new(spec, map);
    // The plainest comes first, whatever it covers.
    if !search.consider("base", &base.config) {
        let why = search.problem.take();
        return Err(fail(why.as_deref().unwrap_or("no rule acts")));
    }
    if start.is_none() {
        let (telling, silent) = search.changes(&base);
        search.pairs(&base, &telling, silent);
    }
    Ok(search.found)
}
