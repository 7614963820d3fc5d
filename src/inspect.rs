//! What a checkpoint is, from its headers.

mod run;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use crate::base::diagnostic::Diagnostic;
use crate::base::error::Result;
use crate::base::source::Extent;
use crate::checkpoint::tiles::Tile;
use crate::checkpoint::{Payload, StoredPart, Tensor, n_elements};
use crate::convert::{config_of, read_model};
use crate::folder::{self, How, Opened};
use crate::format;
use crate::format::gguf::types::{Block, TYPES};
use crate::metadata::Value;
use crate::package::MODEL_FILE;
use crate::plan::dialect;
use crate::plan::import::choose;
use crate::spec::Spec;

pub use self::run::{InspectedRun, is_of_run};

/// What a checkpoint is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Inspection {
    /// `llmstd.inspect/1`.
    pub schema: &'static str,
    /// The input.
    pub path: String,
    /// The format and the container.
    pub format: String,
    /// The architecture, where the standard knows it.
    pub architecture: Option<String>,
    /// The run of a trainer that left it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<InspectedRun>,
    /// Values of all tensors.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Tensors of each dtype, or type of blocks.
    pub dtypes: BTreeMap<String, u64>,
    /// The weight files.
    pub files: Vec<InspectedFile>,
    /// Free text of the container.
    pub metadata: BTreeMap<String, String>,
    /// Keys of the container whose values have types, in the order of the file.
    pub typed_metadata: Vec<InspectedValue>,
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

/// A key of the container and its value.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct InspectedValue {
    /// The key.
    pub key: String,
    /// The kind of the value: `u32`, `[string]`.
    pub kind: String,
    /// The value; of an array the first items.
    pub value: Json,
    /// How many items the whole array has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub len: Option<u64>,
}

/// A tensor.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct InspectedTensor {
    /// Its name.
    pub name: String,
    /// Its dtype; of a quantized one the type of its blocks, `Q4_K`.
    pub dtype: Cow<'static, str>,
    /// The shape of its values.
    pub shape: Vec<u64>,
    /// The id of the encoding of a quantized one, `ggml.q4_k`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// The bits that one value of a quantized one takes, scales included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_per_value: Option<f64>,
    /// Its bytes when packed.
    pub len: Option<u64>,
    /// The file its bytes lie in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub file: Option<Arc<str>>,
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
    inspect_as(path, &spec.how(), spec)
}

/// As [`inspect`], with what is to be known beside the path.
///
/// # Errors
/// It cannot be read.
pub fn inspect_as(path: &Path, how: &How<'_>, spec: &Spec) -> Result<Inspection> {
    let mut opened = folder::open_as(path, how)?;
    let (architecture, config, stated) = described(&mut opened, spec)?;
    let logical = opened.logical()?;
    let mut checkpoint = logical.unwrap_or_else(|| std::mem::take(&mut opened.checkpoint));
    let stored = std::mem::take(&mut checkpoint.tensors);
    let mut dtypes: BTreeMap<String, u64> = BTreeMap::new();
    for tensor in &stored {
        let name = type_name(tensor);
        match dtypes.get_mut(name.as_ref()) {
            Some(n) => *n += 1,
            None => _ = dtypes.insert(name.into_owned(), 1),
        }
    }
    let sum = |of: fn(&Tensor) -> Option<u64>| {
        stored.iter().filter_map(of).fold(0u64, u64::saturating_add)
    };
    let parameters = sum(|tensor| n_elements(tensor.logical_shape()));
    let tensor_bytes = sum(Tensor::n_bytes);
    let names: Vec<Arc<str>> =
        opened.source.files().map(|file| opened.source.name(file).into()).collect();
    let sharing = sharing(&stored);
    let mut tensors: Vec<InspectedTensor> = Vec::with_capacity(stored.len());
    for (number, tensor) in stored.into_iter().enumerate() {
        let shared = sharing.get(&number).map(|&before| tensors[before].name.as_str());
        let one = inspected(&opened, tensor, &names, shared);
        tensors.push(one);
    }
    let kind = if opened.is_package { "std" } else { "foreign" };
    let files = opened.weights.iter().map(|name| InspectedFile {
        name: name.clone(),
        len: opened.source.find(name).map_or(0, |file| opened.source.extent(file).len),
    });
    opened.source.check_unchanged()?;
    Ok(Inspection {
        schema: "llmstd.inspect/1",
        path: path.display().to_string(),
        format: format!("{} ({kind})", checkpoint.format),
        architecture,
        run: run::of(&checkpoint, stated),
        parameters,
        tensor_bytes,
        dtypes,
        files: files.collect(),
        metadata: checkpoint.metadata.clone(),
        typed_metadata: checkpoint.typed_metadata.iter().map(inspected_value).collect(),
        config,
        tensors,
        findings: checkpoint.findings,
    })
}

type Described = (Option<String>, BTreeMap<String, Json>, Option<String>);

/// The architecture, the config, and where that stands.
fn described(opened: &mut Opened, spec: &Spec) -> Result<Described> {
    if opened.is_package {
        let model = read_model(opened)?;
        let config = model
            .hyperparameters
            .iter()
            .map(|(key, value)| (key.clone(), serde_json::to_value(value).unwrap_or(Json::Null)));
        return Ok((model.architecture, config.collect(), Some(MODEL_FILE.to_owned())));
    }
    // Where a file is complete, a config beside it is of other files.
    let format = format::find(opened.checkpoint.format);
    if format.is_some_and(|format| format.is_complete) {
        return Ok((None, BTreeMap::new(), None));
    }
    let format = format.map_or("hf", |format| format.dialect);
    let own = dialect::of(spec, format, &opened.checkpoint);
    let Some((Json::Object(config), stored)) = config_of(opened, own)? else {
        return Ok((None, BTreeMap::new(), None));
    };
    let mut json = Json::Object(config.clone());
    // What is not known is shown without an architecture; converting says why.
    let translated = own
        .and_then(|of| Some((of, dialect::read(of, &opened.checkpoint, &|_, _| Ok(true)).ok()?)));
    let (format, checkpoint) = match &translated {
        Some((dialect, translated)) => (dialect.of.as_str(), &translated.checkpoint),
        None => (format, &opened.checkpoint),
    };
    // A compound is of the architecture of its text model.
    if let Some(compound) = spec.compound(format, &json) {
        json = compound.inner(&json);
    }
    let map = choose(spec, format, checkpoint, &json, None, &mut Vec::new()).ok();
    Ok((map.map(|map| map.arch.clone()), config.into_iter().collect(), Some(stored.path)))
}

/// Arrays are shown so far.
const MAX_ITEMS: usize = 8;

fn inspected_value((key, value): (&str, &Value)) -> InspectedValue {
    InspectedValue {
        key: key.to_owned(),
        kind: value.kind_name(),
        value: value.to_plain(MAX_ITEMS),
        len: value.as_array().map(|items| items.len() as u64),
    }
}

/// The name of the dtype, or of the type of blocks.
fn type_name(tensor: &Tensor) -> Cow<'static, str> {
    match &tensor.encoding {
        Some(encoding) => {
            let block = TYPES.block(&encoding.id);
            Cow::Owned(block.map_or_else(|| encoding.id.clone(), Block::name))
        }
        None => Cow::Borrowed(tensor.dtype.name()),
    }
}

/// The place of a tensor's elements, where they have one: a storage, and the first of them in it.
fn place(tensor: &Tensor) -> Option<(Extent, u64)> {
    match &tensor.payload {
        Payload::Range(extent) => Some((*extent, 0)),
        Payload::View(view) => Some((view.storage, view.offset)),
        Payload::Tiles(_) | Payload::Parts(..) | Payload::Unreadable(_) => None,
    }
}

/// For each tensor that lies where one before it does, the last such.
fn sharing(tensors: &[Tensor]) -> BTreeMap<usize, usize> {
    let key = |&number: &usize| {
        let (Extent { file, start, len }, offset) = place(&tensors[number])?;
        (len != 0).then_some((file.number(), start, len, offset))
    };
    let mut order: Vec<usize> = (0..tensors.len()).filter(|number| key(number).is_some()).collect();
    order.sort_by_key(key);
    let pairs = order.windows(2).filter(|pair| key(&pair[0]) == key(&pair[1]));
    pairs.map(|pair| (pair[1], pair[0])).collect()
}

/// One tensor. `names` are those of the files, `shared` is that of one before it in the same place.
fn inspected(
    opened: &Opened,
    tensor: Tensor,
    names: &[Arc<str>],
    shared: Option<&str>,
) -> InspectedTensor {
    let mut notes = BTreeSet::new();
    match &tensor.payload {
        Payload::Range(_) => {}
        Payload::View(view) => {
            let order = if view.big_endian { ", big-endian" } else { "" };
            notes.insert(format!("strides {:?}{order}", view.strides));
        }
        Payload::Tiles(tiles) => {
            notes.insert(tiles_note(opened, tiles));
        }
        Payload::Parts(_, parts) => {
            let parts = parts.iter().map(|StoredPart { role, tensor }| {
                format!("{role} {} {:?}", tensor.dtype, tensor.shape)
            });
            notes.insert(parts.collect::<Vec<_>>().join(", "));
        }
        Payload::Unreadable(why) => {
            notes.insert(format!("unreadable: {why}"));
        }
    }
    if let Some(owner) = shared {
        notes.insert(format!("shares its storage with {owner}"));
    }
    let place = place(&tensor);
    let n_values = n_elements(tensor.logical_shape());
    let bits = tensor.encoding.as_ref().and(tensor.n_bytes()).zip(n_values.filter(|&n| n != 0));
    let (dtype, len) = (type_name(&tensor), tensor.n_bytes());
    let (shape, encoding) = match tensor.encoding {
        Some(encoding) => (encoding.shape, Some(encoding.id)),
        None => (tensor.shape, None),
    };
    InspectedTensor {
        name: tensor.name.to_string(),
        dtype,
        shape,
        encoding,
        bits_per_value: bits.map(|(n_bytes, n_values)| n_bytes as f64 * 8.0 / n_values as f64),
        len,
        file: place.map(|(extent, _)| names[extent.file.number() as usize].clone()),
        bytes: place.map(|(extent, _)| [extent.start, extent.end()]),
        note: (!notes.is_empty()).then(|| notes.into_iter().collect::<Vec<_>>().join("; ")),
    }
}

/// How many tiles there are, in which files, and how they are coded.
fn tiles_note(opened: &Opened, tiles: &[Tile]) -> String {
    let n = tiles.len();
    let files = tiles.iter().map(|tile| opened.source.name(tile.data.storage.file));
    let files: BTreeSet<&str> = files.collect();
    let steps = tiles.iter().flat_map(|tile| &tile.coding).flat_map(|coding| &coding.steps);
    let steps: BTreeSet<String> = steps.map(ToString::to_string).collect();
    let coded = match steps.is_empty() {
        true => String::new(),
        false => format!(" ({})", steps.into_iter().collect::<Vec<_>>().join(", ")),
    };
    let tiles = if n == 1 { "tile" } else { "tiles" };
    format!("{n} {tiles}{coded} of {}", files.into_iter().collect::<Vec<_>>().join(", "))
}
