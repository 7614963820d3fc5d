//! A bill of materials for a model, CycloneDX 1.6: the model with its card, digests and licences, and
//! each of its files.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::name_of;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::mirror;
use crate::manifest::{Manifest, Tool};
use crate::package::{Extents, Port};
use crate::validate;

/// The file that states licences at its head.
const CARD: &str = "README.md";

/// The bill of the model at a path, which has this manifest. It depends on neither time nor place.
///
/// # Errors
/// The model card cannot be read.
pub fn bill(path: &Path, manifest: &Manifest) -> Result<Json> {
    let model = manifest.digests.model.as_deref().unwrap_or_default();
    let mut component = json!({
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": name_of(path),
        "modelCard": {"modelParameters": parameters(manifest)},
        "properties": properties(manifest),
    });
    if is_sha256(model) {
        component["hashes"] = json!([{"alg": "SHA-256", "content": model}]);
    }
    let licences = licences(path)?;
    if !licences.is_empty() {
        let named = licences.iter().map(|name| json!({"license": {"name": name}}));
        component["licenses"] = named.collect();
    }
    let files = manifest.files.iter().map(|file| {
        let properties = json!([
            {"name": "llmstd:role", "value": json!(file.role)},
            {"name": "llmstd:bytes", "value": file.len.to_string()},
        ]);
        json!({
            "type": "file",
            "bom-ref": reference(&file.path),
            "name": file.path,
            "hashes": [{"alg": "SHA-256", "content": file.sha256}],
            "properties": properties,
        })
    });
    let references: Vec<String> = manifest.files.iter().map(|file| reference(&file.path)).collect();
    let tool = Tool::this();
    let mut bill = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": {"components": [
                {"type": "application", "name": tool.name, "version": tool.version},
            ]},
            "component": component,
        },
        "components": files.collect::<Vec<_>>(),
        "dependencies": [{"ref": "model", "dependsOn": references}],
    });
    if let Some(uuid) = uuid(model) {
        bill["serialNumber"] = format!("urn:uuid:{uuid}").into();
    }
    Ok(bill)
}

fn reference(path: &str) -> String {
    format!("file:{path}")
}

fn is_sha256(hex: &str) -> bool {
    hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A UUID of version 8 whose free bits are those of a digest: one model, one number.
fn uuid(digest: &str) -> Option<String> {
    if !is_sha256(digest) {
        return None;
    }
    let part = |start: usize, end: usize| digest.get(start..end);
    Some(format!(
        "{}-{}-8{}-8{}-{}",
        part(0, 8)?,
        part(8, 12)?,
        part(13, 16)?,
        part(17, 20)?,
        part(20, 32)?
    ))
}

/// The licences that the model card states.
fn licences(path: &Path) -> Result<Vec<String>> {
    let card = path.join(CARD);
    if card.is_file() {
        mirror::whole(&card)?;
    }
    match std::fs::read(&card) {
        Ok(text) => Ok(validate::licences(&String::from_utf8_lossy(&text))),
        Err(_) if !card.is_file() => Ok(Vec::new()),
        Err(err) => Err(Error::new(ErrorKind::Io, format!("cannot be read: {err}")).in_file(&card)),
    }
}

/// What the card says of the model itself.
fn parameters(manifest: &Manifest) -> Json {
    let Some(model) = &manifest.model else { return json!({}) };
    let mut parameters = json!({});
    if let Some(architecture) = &model.architecture {
        parameters["architectureFamily"] = architecture.as_str().into();
    }
    if let Some(task) = model.tasks.first() {
        let ports =
            |ports: &[Port]| ports.iter().map(|port| json!({"format": format(port)})).collect();
        parameters["task"] = task.id.as_str().into();
        parameters["inputs"] = ports(&task.inputs);
        parameters["outputs"] = ports(&task.outputs);
    }
    parameters
}

/// `logits F32 [batch, sequence, 9]`.
fn format(port: &Port) -> String {
    let sizes = port.shape.iter().map(|extent| match extent {
        Extents::Fixed(size) => size.to_string(),
        Extents::Symbolic(word) => word.clone(),
    });
    format!("{} {} [{}]", port.name, port.dtype, sizes.collect::<Vec<_>>().join(", "))
}

/// What the form has no member for: digests, tensors, tasks.
fn properties(manifest: &Manifest) -> Json {
    let digests =
        manifest.digests.each().into_iter().filter_map(|(name, digest)| {
            Some((format!("llmstd:digest:{name}"), digest?.to_owned()))
        });
    let census = manifest
        .dtypes
        .iter()
        .map(|(dtype, census)| (format!("llmstd:elements:{dtype}"), census.elements.to_string()));
    let tasks = manifest.model.iter().flat_map(|model| &model.tasks);
    let tasks = tasks.map(|task| ("llmstd:task".to_owned(), task.id.clone()));
    let n_tensors = ("llmstd:tensors".to_owned(), manifest.tensors.len().to_string());
    let spec = ("llmstd:spec".to_owned(), manifest.spec.clone());
    let all = [spec, n_tensors].into_iter().chain(census).chain(tasks).chain(digests);
    all.map(|(name, value)| json!({"name": name, "value": value})).collect()
}
