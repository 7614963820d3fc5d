//! What a GGUF file has beside its tensors: its keys, and a name of its own.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::report::ecosystem;
use super::request::{Failure, Request};
use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::error::{Error, Result};
use crate::exec::produce::Producer;
use crate::folder::Opened;
use crate::format::gguf;
use crate::format::gguf::types::TYPES;
use crate::manifest::is_tokenizer_file;
use crate::metadata::{Metadata, Value};
use crate::package::METADATA_FILE;
use crate::plan::export::Export;
use crate::plan::{Decode, Tensors, typed};
use crate::spec::Spec;
use crate::spec::map::Map;
use crate::tokenizer;

/// The version of the block formats that files of today have.
const QUANTIZATION_VERSION: u32 = 2;

/// The file that stands for a source's keys beside its tensors, if it has keys with kinds: its name
/// and its bytes.
///
/// # Errors
/// A key is one that readers refuse.
pub(crate) fn keys_file(opened: &Opened) -> Result<Option<(&'static str, Vec<u8>)>> {
    if opened.is_package || !ecosystem(opened).typed_keys {
        return Ok(None);
    }
    let bytes = gguf::write::header(&opened.checkpoint.typed_metadata, &[])?;
    Ok(Some((METADATA_FILE, bytes)))
}

/// The keys that a package keeps.
///
/// # Errors
/// The file is damaged.
pub(super) fn kept(opened: &mut Opened) -> Result<Option<Metadata>> {
    if !opened.has(METADATA_FILE) {
        return Ok(None);
    }
    let file = opened.source.add(METADATA_FILE)?;
    let keys = gguf::keys(opened.source.bytes(file));
    keys.map(Some).map_err(|err| err.in_file(opened.source.path(file)))
}

/// The file of a tokenizer that other formats take.
pub(super) const TOKENIZER_FILE: &str = "tokenizer.json";

/// The files of the tokenizer that these keys describe, but for those that are there. None are made
/// of a tokenizer that cannot be said in them: the keys are kept then.
pub(super) fn tokenizer_files(
    opened: &Opened,
    spec: &Spec,
    keys: &Metadata,
    findings: &mut Vec<Diagnostic>,
) -> Vec<(&'static str, String)> {
    match tokenizer::from_gguf(keys, &spec.pretokenizers) {
        Ok(None) => Vec::new(),
        Ok(Some(made)) => {
            findings.extend(made.findings);
            made.files.into_iter().filter(|(name, _)| !opened.has(name)).collect()
        }
        Err(error) => {
            let message = format!(
                "no {TOKENIZER_FILE} is made, the keys are kept as {METADATA_FILE}: {}",
                error.message
            );
            findings.push(Diagnostic { level: Level::Warning, message, ..error });
            Vec::new()
        }
    }
}

/// The keys of the file to write: those of the source, where it was such a file, with what the
/// mapping says and with what the tensors are.
///
/// # Errors
/// The mapping gives a value that no kind of key has.
pub(super) fn metadata(
    opened: &Opened,
    request: &Request<'_>,
    kept: Option<Metadata>,
    exported: &mut Export,
    map: &Map,
    findings: &mut Vec<Diagnostic>,
) -> std::result::Result<Metadata, Failure> {
    let is_new = kept.is_none();
    let mut metadata = kept.unwrap_or_default();
    typed::take_numbers(map, &mut exported.tensors, &mut metadata, |tensors, output| {
        let producer = Producer::new(&opened.source, &tensors.inputs, output)?;
        let all = 0..producer.len();
        let mut buffer = Vec::new();
        let len = producer.bytes(all.clone(), &mut buffer)?.len();
        Ok(producer.borrow(all).map_or_else(|| buffer[..len].to_vec(), <[u8]>::to_vec))
    })?;
    let mut config = exported.config.clone();
    // Which ids are written, the tokenizer decides together with the model.
    let ids = if is_new { take_ids(&mut config) } else { BTreeMap::new() };
    typed::set_keys(&mut metadata, &config).map_err(|(key, why)| {
        let message = format!("the key `{key}` cannot be written: {why}");
        Diagnostic::error("P005", message).key(key)
    })?;
    let recoded = request.plan.decode != Decode::Nothing || request.plan.quantize.is_some();
    if is_new {
        metadata.set("general.type", Value::from("model"));
        let stem = opened.source.root().file_name().map(|name| name.to_string_lossy().into_owned());
        if let Some(stem) = stem.filter(|stem| !stem.is_empty()) {
            metadata.set("general.name", Value::from(stem.as_str()));
        }
        let n_rows = exported.config.get("rows").and_then(|rows| rows.get("token_embd.weight"));
        let n_rows = n_rows.and_then(Json::as_u64).unwrap_or(0);
        add_tokenizer(opened, request, map, (n_rows, &ids), &mut metadata, findings)?;
    }
    if is_new || recoded || request.plan.dtype.is_some() {
        if let Some(file_type) = file_type(&exported.tensors) {
            metadata.set("general.file_type", Value::U32(file_type));
        }
        if !exported.tensors.encodings.is_empty() {
            metadata.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
        }
    }
    Ok(metadata)
}

/// The keys of the ids that mappings write, by role.
const ID_KEYS: [(&str, &str); 3] =
    [("bos", "bos_token_id"), ("eos", "eos_token_id"), ("pad", "padding_token_id")];

/// Takes the ids of roles out of the keys that a mapping wrote: one each, or a list.
fn take_ids(config: &mut Json) -> BTreeMap<&'static str, Json> {
    let Some(Json::Object(keys)) = config.pointer_mut("/tokenizer/ggml") else {
        return BTreeMap::new();
    };
    let taken = ID_KEYS.into_iter().filter_map(|(role, key)| Some((role, keys.remove(key)?)));
    taken.filter(|(_, id)| !id.is_null()).collect()
}

/// The number of the type that most bytes of the tensors are of.
fn file_type(tensors: &Tensors) -> Option<u32> {
    let mut sizes: Vec<(u32, u64)> = Vec::new();
    for output in tensors.outputs.iter().filter(|output| 1 < output.shape.len()) {
        let kind = TYPES.of(output.dtype, tensors.encodings.get(&output.name))?;
        let Some(number) = kind.file_type() else { continue };
        match sizes.iter_mut().find(|(known, _)| *known == number) {
            Some((_, size)) => *size += output.n_bytes(),
            None => sizes.push((number, output.n_bytes())),
        }
    }
    sizes.into_iter().max_by_key(|(_, size)| *size).map(|(number, _)| number)
}

/// Adds the keys of the tokenizer whose files stand beside the checkpoint. Where there are none, or
/// where it is allowed to lose what no program of this format has, the file says that it has none.
fn add_tokenizer(
    opened: &Opened,
    request: &Request<'_>,
    map: &Map,
    (n_rows, ids): (u64, &BTreeMap<&str, Json>),
    metadata: &mut Metadata,
    findings: &mut Vec<Diagnostic>,
) -> std::result::Result<(), Failure> {
    // A file that cannot be read is not a tokenizer that cannot be said.
    let failed: RefCell<Option<Error>> = RefCell::new(None);
    let read = |name: &str| -> Result<Option<Vec<u8>>> {
        if !opened.has(name) {
            return Ok(None);
        }
        let read = || {
            let mut source = opened.source.again();
            let file = source.add(name)?;
            source.check_unchanged()?;
            Ok(source.whole(file)?.to_vec())
        };
        read().map(Some).map_err(|err: Error| {
            let told = Error::new(err.kind(), err.message());
            failed.borrow_mut().get_or_insert(err);
            told
        })
    };
    let keys = tokenizer::to_gguf(&read, n_rows, ids, &map.tokenizer, &request.spec.pretokenizers);
    if let Some(err) = failed.take() {
        return Err(err.into());
    }
    match keys {
        Ok(keys) => {
            findings.extend(keys.findings);
            // What the mapping has said stands.
            for (key, value) in keys.metadata.iter() {
                let _ = metadata.push(key.to_owned(), value.clone());
            }
        }
        // A model whose texts nobody can split does not serve: that has to be asked for.
        Err(errors)
            if !request.allow_no_tokenizer
                && opened.files.iter().any(|file| is_tokenizer_file(&file.name)) =>
        {
            let lost = errors.into_iter().map(|error| Diagnostic {
                message: format!("the file would get no tokenizer: {}", error.message),
                help: Some(match error.help {
                    Some(help) => {
                        format!("{help}; --allow-no-tokenizer writes the file without one")
                    }
                    None => "--allow-no-tokenizer writes the file without one".to_owned(),
                }),
                ..error
            });
            return Err(Failure::Findings(lost.collect()));
        }
        Err(errors) => {
            metadata.set("tokenizer.ggml.model", Value::from("none"));
            for (role, key) in ID_KEYS {
                let id = ids.get(role).and_then(|id| id.as_u64().or_else(|| id.get(0)?.as_u64()));
                if let Some(id) = id.filter(|id| *id < n_rows).and_then(|id| id.try_into().ok()) {
                    metadata.set(&format!("tokenizer.ggml.{key}"), Value::U32(id));
                }
            }
            findings.extend(errors.into_iter().map(|error| Diagnostic {
                level: Level::Warning,
                message: format!("the file gets no tokenizer: {}", error.message),
                ..error
            }));
        }
    }
    Ok(())
}
