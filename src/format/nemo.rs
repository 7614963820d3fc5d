//! NeMo: Megatron-Core's tensors with a config of NeMo's in YAML.
//!
//! ```text
//! NAME.nemo, a tar archive, or what it is unpacked to
//!   model_config.yaml
//!   model_weights.ckpt                          the tensors, where one rank has all
//!   mp_rank_01/model_weights.ckpt               or those of a rank of tensor parallelism
//!   tp_rank_01_pp_rank_000/model_weights.ckpt   and of a stage of a pipeline
//!   model_weights/                              or a distributed checkpoint: torch_dist, zarr
//! NAME/, of NeMo 2
//!   context/model.yaml                          the config is the entry `config`
//!   weights/                                    a distributed checkpoint
//! ```
//!
//! Spec: NVIDIA/NeMo `nemo/core/connectors/save_restore_connector.py`,
//! `nemo/collections/nlp/parts/nlp_overrides.py`, `nemo/lightning/io`.

use serde_json::{Map, Value as Json};

use super::Format;
use crate::base::error::{Error, Result};
use crate::base::source::Source;
use crate::base::yaml;
use crate::checkpoint::Checkpoint;

/// The format for the registry. No file is told to be of it by itself: its folder is.
pub static FORMAT: Format = Format { id: "nemo", name: "NeMo", dialect: "nemo", ..Format::DEFAULT };

/// The name of the config in a checkpoint's metadata, as JSON.
pub const CONFIG: &str = "config";

/// The config of NeMo 1, beside the weights or above their folder.
pub const CONFIG_FILE: &str = "model_config.yaml";
/// The config of NeMo 2, beside the folder of the weights.
const CONTEXT_FILE: &str = "context/model.yaml";
/// The entry of it that has the hyperparameters.
const CONTEXT_KEY: &str = "config";

/// The start of names of a model that NeMo wrote with layers of its own.
const OWN_LAYERS: &str = "language_model.";

/// Reads the config beside the folder of a checkpoint, which is of NeMo then.
///
/// # Errors
/// The config is no YAML, or the tensors are not those of Megatron-Core.
pub fn configure(source: &mut Source, folder: &str, checkpoint: &mut Checkpoint) -> Result<()> {
    let above = folder.trim_end_matches('/').rfind('/').map_or("", |at| &folder[..=at]);
    let places = [folder, above].into_iter().flat_map(|folder| {
        [CONFIG_FILE, CONTEXT_FILE].map(|file| (format!("{folder}{file}"), file))
    });
    let places: Vec<(String, &str)> = places.collect();
    let Some((name, file)) = places.into_iter().find(|(name, _)| source.has(name)) else {
        return Ok(());
    };
    let id = source.add(&name)?;
    let path = source.path(id).to_owned();
    let config = yaml::parse(source.bytes(id)).map_err(|err| err.in_file(&path))?;
    let config = match config.get(CONTEXT_KEY).filter(|_| file == CONTEXT_FILE) {
        Some(config) => config,
        None => &config,
    };
    if checkpoint.tensors.iter().any(|tensor| tensor.name.starts_with(OWN_LAYERS)) {
        let message = "has the names of NeMo's layers from before Megatron-Core; bring it to Megatron-Core \
                       with NeMo's `convert_gpt_nemo_to_mcore.py` first";
        return Err(Error::unsupported(message).in_file(&source.place(folder)));
    }
    checkpoint.format = FORMAT.id;
    checkpoint.metadata.insert("trainer".to_owned(), "NeMo".to_owned());
    checkpoint.metadata.insert(CONFIG.to_owned(), flat(config).to_string());
    Ok(())
}

/// The entries that say something: without those that are null, with the class or function for what one
/// is made of, and with the value that another entry has for `${.other}`.
fn flat(config: &Json) -> Json {
    let entries = config.as_object().into_iter().flatten();
    let value = |value: &Json| -> Option<Json> {
        let named = value.as_str().and_then(|text| {
            let name = text.strip_prefix("${")?.strip_suffix('}')?;
            let name = name.strip_prefix("model.").or(name.strip_prefix('.'))?;
            config.get(name)
        });
        match named.unwrap_or(value) {
            Json::Null => None,
            Json::Object(object) => object.get("_target_").cloned(),
            other => Some(other.clone()),
        }
    };
    let entries = entries.filter_map(|(key, of)| Some((key.clone(), value(of)?)));
    Json::Object(entries.collect::<Map<_, _>>())
}
