//! What a checkpoint is, from its headers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use crate::checkpoint::{Payload, Tensor};
use crate::convert::read_model;
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::format::folder::{self, Opened};
use crate::plan::import::choose;
use crate::source::Extent;
use crate::spec::Spec;

/// What a checkpoint is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Inspection {
    /// `llmstd.inspect/1`.
    pub schema: &'static str,
    /// The input.
    pub path: String,
    /// The format and the container.
    pub format: String,
    /// The architecture, where the standard knows it.
    pub architecture: Option<String>,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Tensors of each dtype.
    pub dtypes: BTreeMap<String, u64>,
    /// The weight files.
    pub files: Vec<InspectedFile>,
    /// Free text of the container.
    pub metadata: BTreeMap<String, String>,
    /// The config, or the hyperparameters of a package.
    pub config: BTreeMap<String, Json>,
    /// The tensors, in the order of the file.
    pub tensors: Vec<InspectedTensor>,
    /// What the reader noticed.
    pub findings: Vec<Diagnostic>,
}

/// A weight file.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct InspectedFile {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// A tensor.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct InspectedTensor {
    /// Its name.
    pub name: String,
    /// Its dtype.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its bytes when packed.
    pub len: Option<u64>,
    /// The file its bytes lie in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The first byte in that file, and one past the last, of its storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<[u64; 2]>,
    /// What is unusual: a view, a shared storage, values that cannot be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Reads the headers of a checkpoint.
///
/// # Errors
/// It cannot be read.
pub fn inspect(path: &Path, spec: &Spec) -> Result<Inspection> {
    let mut opened = folder::open(path)?;
    let (architecture, config) = described(&mut opened, spec)?;
    let checkpoint = &opened.checkpoint;
    let mut dtypes: BTreeMap<String, u64> = BTreeMap::new();
    for tensor in &checkpoint.tensors {
        *dtypes.entry(tensor.dtype.name().to_owned()).or_default() += 1;
    }
    let mut owners: BTreeMap<(Extent, u64), &str> = BTreeMap::new();
    let mut tensors = Vec::with_capacity(checkpoint.tensors.len());
    for tensor in &checkpoint.tensors {
        tensors.push(inspected(&opened, tensor, &mut owners));
    }
    let kind = if opened.is_package { "std" } else { "foreign" };
    let files = opened.weights.iter().map(|name| InspectedFile {
        name: name.clone(),
        len: opened.source.find(name).map_or(0, |file| opened.source.extent(file).len),
    });
    let sum = |of: fn(&Tensor) -> Option<u64>| {
        checkpoint.tensors.iter().filter_map(of).fold(0u64, u64::saturating_add)
    };
    Ok(Inspection {
        schema: "llmstd.inspect/1",
        path: path.display().to_string(),
        format: format!("{} ({kind})", checkpoint.format),
        architecture,
        parameters: sum(Tensor::n_elements),
        tensor_bytes: sum(Tensor::n_bytes),
        dtypes,
        files: files.collect(),
        metadata: checkpoint.metadata.clone(),
        config,
        tensors,
        findings: checkpoint.findings.clone(),
    })
}

type Described = (Option<String>, BTreeMap<String, Json>);

/// The architecture and the config.
fn described(opened: &mut Opened, spec: &Spec) -> Result<Described> {
    if opened.is_package {
        let model = read_model(opened)?;
        let config = model
            .hyperparameters
            .iter()
            .map(|(key, value)| (key.clone(), serde_json::to_value(value).unwrap_or(Json::Null)));
        return Ok((model.architecture, config.collect()));
    }
    let Some(Json::Object(config)) = opened.json("config.json")? else {
        return Ok((None, BTreeMap::new()));
    };
    let json = Json::Object(config.clone());
    // What is not known is shown without an architecture; converting says why.
    let map = choose(spec, "hf", &opened.checkpoint, &json, None, &mut Vec::new()).ok();
    Ok((map.map(|map| map.arch.clone()), config.into_iter().collect()))
}

fn inspected<'a>(
    opened: &Opened,
    tensor: &'a Tensor,
    owners: &mut BTreeMap<(Extent, u64), &'a str>,
) -> InspectedTensor {
    let mut notes = BTreeSet::new();
    let place = match &tensor.payload {
        Payload::Range(extent) => Some((*extent, 0)),
        Payload::View(view) => {
            let order = if view.big_endian { ", big-endian" } else { "" };
            notes.insert(format!("strides {:?}{order}", view.strides));
            Some((view.storage, view.offset))
        }
        Payload::Unreadable(why) => {
            notes.insert(format!("unreadable: {why}"));
            None
        }
    };
    if let Some(place) = place
        && place.0.len != 0
        && let Some(owner) = owners.insert(place, &tensor.name)
    {
        notes.insert(format!("shares its storage with {owner}"));
    }
    InspectedTensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype.name().to_owned(),
        shape: tensor.shape.clone(),
        len: tensor.n_bytes(),
        file: place.map(|(extent, _)| opened.source.name(extent.file).to_owned()),
        bytes: place.map(|(extent, _)| [extent.start, extent.end()]),
        note: (!notes.is_empty()).then(|| notes.into_iter().collect::<Vec<_>>().join("; ")),
    }
}
