//! A sample that is planned there and back.

use std::collections::BTreeMap;

use super::Sample;
use crate::author::tiny;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::Result;
use crate::base::source::{Extent, Source};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor, n_elements};
use crate::metadata::Metadata;
use crate::plan::export::{self, Origin};
use crate::plan::program::Make;
use crate::plan::{self, Facts, Tensors, import};
use crate::spec::Spec;
use crate::spec::map::Map;

/// Nothing is read: what was planned as a copy is one.
pub(crate) struct AsPlanned;

impl Facts for AsPlanned {
    fn equal(&self, _: &Tensor, _: &Tensor) -> Result<bool> {
        Ok(true)
    }

    fn made(&self, _: &Tensor, _: &Make) -> Result<bool> {
        Ok(true)
    }
}

/// Plans the way out and the way in again, from names and shapes alone.
pub(super) fn check(
    spec: &Spec,
    map: &Map,
    sample: &Sample,
) -> std::result::Result<(), Vec<Diagnostic>> {
    let arch = spec.arch(&map.arch).expect("a mapping's architecture is checked when it is read");
    let source = Source::from_bytes("sample", &[]);
    let storage = source.files().next().map(|file| source.extent(file));
    let storage = storage.expect("it has one file");
    let canonical = header(&sample.tensors, storage);
    let canonical = Tensors::of_checkpoint(&canonical).map_err(|finding| vec![finding])?;
    let plan = plan::Options::default();
    let (model, origin) = (&sample.model, Origin { provenance: &sample.source, config: None });
    let out = export::export(spec, map, model, &canonical, None, Some(&origin), plan)?;
    let outputs = out.tensors.outputs.iter();
    let foreign: Vec<Tensor> = outputs
        .map(|output| Tensor {
            dtype: output.dtype,
            payload: Payload::Range(Extent { len: output.n_bytes(), ..storage }),
            ..tensor(&output.name, &output.shape, storage)
        })
        .collect();
    let foreign = Checkpoint { tensors: foreign, ..header(&[], storage) };
    let back = import::import(spec, map, &foreign, &out.config, &AsPlanned, plan)?;
    let mut found: Vec<(String, Vec<u64>)> =
        back.tensors.outputs.iter().map(|out| (out.name.to_string(), out.shape.clone())).collect();
    found.sort();
    let wrong =
        |message: String| Err(vec![Diagnostic::error("P021", message).key(arch.id.clone())]);
    if found != sample.tensors {
        return wrong("other tensors come back".to_owned());
    }
    if back.arch != arch.id || !tiny::alike(&back.keys.hparams, &model.hyperparameters) {
        return wrong("other hyperparameters come back".to_owned());
    }
    Ok(())
}

fn header(tensors: &[(String, Vec<u64>)], storage: Extent) -> Checkpoint {
    Checkpoint {
        format: "safetensors",
        tensors: tensors.iter().map(|(name, shape)| tensor(name, shape, storage)).collect(),
        metadata: BTreeMap::new(),
        typed_metadata: Metadata::default(),
        findings: Vec::new(),
        checksums: Vec::new(),
        signatures: Vec::new(),
    }
}

/// A tensor whose bytes nobody reads: they lie beyond the end of the file, as many as it takes.
pub(super) fn tensor(name: &str, shape: &[u64], storage: Extent) -> Tensor {
    let len = n_elements(shape).and_then(|n| DType::F32.n_bytes(n)).unwrap_or(u64::MAX);
    let storage = Extent { len, ..storage };
    Tensor {
        name: name.into(),
        dtype: DType::F32,
        shape: shape.to_vec(),
        encoding: None,
        payload: Payload::Range(storage),
    }
}

/// What is wrong with a sample, in one line.
pub(super) fn messages(label: &str, findings: Vec<Diagnostic>) -> String {
    let messages: Vec<String> = findings.into_iter().map(|finding| finding.message).collect();
    format!("{label}: {}", messages.join("; "))
}
