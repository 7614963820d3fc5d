//! Keras's `.keras` archives: a zip archive of a config and of an HDF5 file of weights.
//!
//! ```text
//! metadata.json  config.json  model.weights.h5
//! ```
//!
//! Spec: `keras/src/saving/saving_lib.py`. Weights that are stored as they are stay where they are;
//! those that are packed are unpacked into memory.

use serde_json::Value as Json;

use super::{Format, Probe, keras};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::{FileId, Source};
use crate::checkpoint::Checkpoint;
use crate::container::zip::{LOCAL_SIGNATURE, Method, Zip};

/// The format for the registry.
pub static FORMAT: Format = Format {
    id: "keras-archive",
    name: "Keras archive",
    endings: &["keras"],
    singles: &["model.keras"],
    dialect: "keras",
    probe,
    read,
    ..Format::DEFAULT
};

const WEIGHTS: &str = "model.weights.h5";
const METADATA: &str = "metadata.json";
/// Weights that are packed are unpacked up to so many bytes.
const MAX_UNPACKED_LEN: u64 = 2 << 30;
/// The longest text of metadata.
const MAX_TEXT_LEN: u64 = 1 << 20;

fn probe(head: &[u8], name: &str) -> Probe {
    let fits = name.ends_with(".keras") && head.starts_with(LOCAL_SIGNATURE);
    if fits { Probe::Sure } else { Probe::No }
}

fn read(source: &mut Source, file: FileId) -> Result<Checkpoint> {
    let path = source.path(file).to_owned();
    let about = |err: Error| err.in_file(&path);
    let bytes = source.bytes(file);
    let zip = Zip::read(bytes).map_err(about)?;
    let member = zip.find(WEIGHTS).ok_or_else(|| {
        let message = format!("has no member `{WEIGHTS}`: its weights are kept in another way");
        about(Error::new(ErrorKind::Unsupported, message))
    })?;
    let metadata = zip.find(METADATA).map(|member| member.unpack(bytes, MAX_TEXT_LEN));
    let metadata: Json = match metadata {
        Some(text) => serde_json::from_slice(&text.map_err(about)?).unwrap_or_default(),
        None => Json::Null,
    };
    let extent = match member.method {
        Method::Stored => {
            let end = member.start.saturating_add(member.packed_len);
            source.extent(file).part(member.start, end).ok_or_else(|| {
                let message = format!("the member `{WEIGHTS}` passes the end");
                about(Error::malformed(member.start, message))
            })?
        }
        _ => {
            let unpacked = member.unpack(bytes, MAX_UNPACKED_LEN).map_err(about)?.into_owned();
            if !member.matches(&unpacked) {
                let message = format!("the checksum of the member `{WEIGHTS}` is wrong");
                return Err(about(Error::malformed(member.start, message)));
            }
            let name = format!("{}: {WEIGHTS}", source.name(file));
            let id = source.add_bytes(&name, unpacked);
            source.extent(id)
        }
    };
    let mut checkpoint = keras::of_extent(source, extent)
        .map_err(|err| about(err.context(&format!("the member `{WEIGHTS}`"))))?;
    checkpoint.format = FORMAT.id;
    if let Json::Object(metadata) = metadata {
        for (key, value) in metadata {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            checkpoint.metadata.insert(key, text);
        }
    }
    Ok(checkpoint)
}
