//! The components of a compound beside its text model: their tensors stay as they are, each component
//! in a file of its own, which the manifest lists.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;

use super::copies::generic_copies;
use super::destination::inside;
use super::request::Failure;
use super::sidecar::Carried;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::name::Name;
use crate::base::source::Source;
use crate::checkpoint::Checkpoint;
use crate::exec::write;
use crate::folder::Opened;
use crate::package::{
    COMPONENTS_FOLDER, Dropped, ForeignTensor, Model, Provenance, WayBack, component_file,
    component_of,
};
use crate::plan::{Tensors, keys};
use crate::spec::Spec;
use crate::spec::compound::Compound;
use crate::spec::ecosystem::config;
use crate::spec::map::Map;

/// The tensors of each component by its name.
pub(crate) type Components = BTreeMap<String, Tensors>;

/// Plans the components of a checkpoint, and records in the source what became of them; `text` is what
/// is recorded of the text model's tensors.
pub(super) fn plan(
    compound: &Compound,
    opened: &Opened,
    text: Vec<ForeignTensor>,
    provenance: &mut Provenance,
) -> std::result::Result<Components, Failure> {
    let mut components = Components::new();
    for (name, checkpoint) in compound.others(&opened.checkpoint) {
        components.insert(name, generic_copies(&checkpoint)?);
    }
    // The order is that of the files.
    let mut text: BTreeMap<Name, ForeignTensor> =
        text.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    for tensor in opened.checkpoint.stored() {
        let name = opened.name_in_file(&tensor.name);
        let Some(component) = compound.component(&tensor.name) else {
            provenance.tensors.extend(text.remove(name));
            continue;
        };
        let dtype = tensor.dtype.name();
        provenance.tensors.push(ForeignTensor {
            name: name.into(),
            dtype: dtype.into(),
            read_as: None,
            axes: None,
        });
        provenance.dropped.push(Dropped {
            name: name.to_owned(),
            dtype: dtype.to_owned(),
            shape: tensor.shape.clone(),
            encoding: None,
            why: component.about.clone(),
            back: WayBack::Kept,
            component: Some(component.name.clone()),
        });
    }
    provenance.tensors.extend(text.into_values());
    Ok(components)
}

/// The components of a package, by name.
///
/// # Errors
/// One that `provenance` has tensors of is not there, or cannot be read.
pub(super) fn read(
    opened: &mut Opened,
    provenance: Option<&Provenance>,
) -> Result<BTreeMap<String, Checkpoint>> {
    let dropped = provenance.into_iter().flat_map(|source| &source.dropped);
    for name in dropped.filter_map(|of| of.component.as_deref()) {
        let path = component_file(name);
        if component_of(&path) != Some(name) || !opened.has(&path) {
            let message = format!(
                "source.json has tensors of the component {name:?}, whose file is not there: get the package \
                 again"
            );
            let place = opened.source.root().join(path);
            return Err(Error::new(ErrorKind::Malformed, message).in_file(&place));
        }
    }
    let files: Vec<String> = opened.files.iter().map(|file| file.name.clone()).collect();
    let mut found = BTreeMap::new();
    for path in files {
        if let Some(name) = component_of(&path) {
            let file = opened.source.add(&path)?;
            let checkpoint = crate::format::safetensors::read(&opened.source, file)?;
            found.insert(name.to_owned(), checkpoint);
        }
    }
    Ok(found)
}

/// Writes the files of the components below a package; returns them by their paths.
pub(super) fn write(
    source: &Source,
    folder: &Path,
    components: &Components,
) -> Result<Vec<(String, Carried)>> {
    let mut files = Vec::new();
    for (name, tensors) in components {
        let metadata = BTreeMap::new();
        let plain = write::Plain {
            inputs: &tensors.inputs,
            outputs: &tensors.outputs,
            metadata: &metadata,
        };
        let written = plain.write(source, &inside(folder, COMPONENTS_FOLDER)?, name)?;
        for file in written.files {
            let sha256 = file.sha256.expect("files beside the tensors are hashed");
            files.push((format!("{COMPONENTS_FOLDER}/{}", file.name), (file.len, sha256, None)));
        }
    }
    Ok(files)
}

/// The paths, lengths and hashes of the files that [`write`] writes.
pub(crate) fn digests(
    source: &Source,
    components: &Components,
) -> Result<Vec<(String, u64, [u8; 32])>> {
    let metadata = BTreeMap::new();
    let digest = |(name, tensors): (&String, &Tensors)| {
        let Tensors { inputs, outputs, .. } = tensors;
        let plain = write::Plain { inputs, outputs, metadata: &metadata };
        let (len, sha256) = plain.digest(source)?;
        Ok((component_file(name), len, sha256))
    };
    components.iter().map(digest).collect()
}

/// Tells of components for which what is written has no place.
pub(super) fn left_out(
    opened: &Opened,
    provenance: Option<&Provenance>,
    format: &str,
) -> Vec<Diagnostic> {
    let dropped = provenance.into_iter().flat_map(|source| &source.dropped);
    let mut names: Vec<&str> = dropped.filter_map(|of| of.component.as_deref()).collect();
    names.extend(opened.files.iter().filter_map(|file| component_of(&file.name)));
    names.sort_unstable();
    names.dedup();
    let told = names.into_iter().map(|name| {
        let message = format!(
            "the component `{name}` stands beside the text model, which is written alone: it is left out \
             of {format}"
        );
        let help = "with the source.json of the package it comes back in the format of the source";
        Diagnostic::warning("P006", message).help(help)
    });
    told.collect()
}

/// The config of a compound whose text model is written. Where that of the source says what the model is,
/// it is repeated as it was: it may say more, for what stands beside the text model.
pub(super) fn config(
    spec: &Spec,
    map: &Map,
    model: &Model,
    written: &Json,
    compound: &Compound,
    source: &Json,
) -> Json {
    let mut inner = compound.inner(source);
    let arch = spec.arch(&map.arch).expect("a mapping's architecture is checked when it is read");
    let says = keys::read(spec, map, arch, &inner).is_ok_and(|mut read| {
        // Bytes say what is tied.
        let tied = model.hyperparameters.get(TIED).cloned();
        read.hparams.extend(tied.map(|tied| (TIED.to_owned(), tied)));
        read.hparams == model.hyperparameters && read.tokens == model.tokens
    });
    let Json::Object(entries) = &mut inner else { return source.clone() };
    if !says {
        return compound.outer(source, written);
    }
    for key in OF_TENSORS {
        if entries.contains_key(key) {
            match written.get(key) {
                Some(value) => entries.insert(key.to_owned(), value.clone()),
                None => entries.remove(key),
            };
        }
    }
    compound.outer(source, &inner)
}

/// Entries of a config that say how tensors are stored.
const OF_TENSORS: [&str; 3] = [config::DTYPES[0], config::DTYPES[1], config::QUANTIZATION];

/// Whether the head is the table of tokens.
const TIED: &str = "tie_embeddings";
