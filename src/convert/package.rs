//! Writes packages: of a foreign checkpoint, or of a package anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::canonical::{Canonical, canonical, encodings};
use super::components::{self, Components};
use super::copies::generic_copies;
use super::destination::inside;
use super::destination::{replaceable, stage};
use super::outputs::check_outputs;
use super::read::{read_buffers, read_provenance, read_whole_model};
use super::report::{Report, report};
use super::request::{Failure, Request};
use super::sidecar::{
    carry, json_text, sidecar_files, sidecar_files_of_package, write_file, write_json, write_with,
};
use super::verify::{verify, verify_same};
use super::write::{commit, package_shards, write_tensors};
use super::{check, gguf, units};
use crate::base::diagnostic::Diagnostic;
use crate::checkpoint::DType;
use crate::exec::container::Safetensors;
use crate::exec::write;
use crate::folder::Opened;
use crate::manifest::{FileFacts, Manifest, ManifestInput, TensorEntry, TensorFacts};
use crate::package::{
    BUFFERS_FILE, Event, MANIFEST_FILE, MODEL_FILE, Model, Provenance, SOURCE_FILE, TENSORS_STEM,
};
use crate::plan::{self, Decode, Step, Tensors};

pub(super) fn to_std(
    opened: &mut Opened,
    request: &Request<'_>,
) -> std::result::Result<Report, Failure> {
    let plan = plan::Options { is_final: true, ..request.plan };
    let mut canonical = canonical(opened, &Request { plan, ..*request })?;
    canonical.model = request.spec.normal_model(canonical.model);
    request.spec.state_version(&mut canonical.model, stored(&canonical.tensors));
    record(&mut canonical.model, request, Some("convert"));
    let (carried, left) = sidecar_files(opened, request.spec);
    let tensors = Arc::new(std::mem::take(&mut canonical.tensors));
    let mut report = report(opened, request, &tensors, carried, left);
    report.architecture.clone_from(&canonical.model.architecture);
    report.map.clone_from(&canonical.map);
    report.conformance = Some(canonical.model.conformance);
    report.dropped.clone_from(&canonical.provenance.dropped);
    report.copies.clone_from(&canonical.provenance.copies);
    report.findings.append(&mut canonical.findings);
    check::before_writing(&report, request)?;
    if !goes_on(opened, request, &tensors, &canonical.model, &mut report)? {
        return Ok(report);
    }
    let Canonical { buffers, components, model, provenance, .. } = canonical;
    if !request.verify && !request.check_outputs {
        // Nobody looks at the index of the source again, which takes as much memory as the plan.
        opened.checkpoint.tensors = Vec::new();
    }
    let staging = stage(opened, request, false, &replaceable)?;
    let package = Package {
        model: &model,
        provenance: Some(provenance),
        tensors: &tensors,
        buffers: &buffers,
        components: &components,
    };
    write_package(opened, request, staging.path(), package, &mut report)?;
    if request.verify {
        report.verified =
            Some(verify(opened, request, staging.path(), &tensors, &report.findings)?);
    }
    if request.check_outputs {
        check_outputs(opened, request, staging.path(), &mut report)?;
    }
    commit(staging, opened, request, &mut report)?;
    Ok(report)
}

/// Whether there is more to do than to plan, or to make the share of a unit, which is done here.
fn goes_on(
    opened: &Opened,
    request: &Request<'_>,
    tensors: &Tensors,
    model: &Model,
    report: &mut Report,
) -> std::result::Result<bool, Failure> {
    let shards = package_shards(request, tensors);
    report.findings.extend(check::shard_size(request.max_shard_bytes, &tensors.outputs, &shards)?);
    units::note(opened, request, report, tensors, &shards)?;
    if request.dry_run {
        return Ok(false);
    }
    let metadata = text_of(model);
    let container = Safetensors(&metadata);
    Ok(!units::share(opened, request, report, tensors, &shards, &container, true)?)
}

/// The free text of the tensor files of a package.
fn text_of(model: &Model) -> BTreeMap<String, String> {
    BTreeMap::from([("llmstd".to_owned(), model.spec.clone())])
}

/// The names and dtypes of what is written.
fn stored(tensors: &Tensors) -> impl Iterator<Item = (&str, DType)> {
    tensors.outputs.iter().map(|output| (output.name.as_str(), output.dtype))
}

/// Adds to the history what is done to the model beside `first`: a decode, a cast.
fn record(model: &mut Model, request: &Request<'_>, first: Option<&str>) {
    let decode = (request.plan.decode != Decode::Nothing).then_some("decode");
    let cast = request.plan.dtype.is_some().then_some("cast");
    for op in [first, decode, cast].into_iter().flatten() {
        let mut details =
            BTreeMap::from([("spec_hash".to_owned(), request.spec.hash().to_owned())]);
        if let Some(dtype) = request.plan.dtype.filter(|_| op == "cast") {
            details.insert("dtype".to_owned(), dtype.name().to_owned());
        }
        model.history.push(Event { op: op.to_owned(), details });
    }
}

/// Writes a package anew: other shards, another dtype.
pub(super) fn repack(
    opened: &mut Opened,
    request: &Request<'_>,
) -> std::result::Result<Report, Failure> {
    let mut model = request.spec.normal_model(read_whole_model(opened)?);
    let provenance = read_provenance(opened)?;
    let plan = plan::Options { is_final: true, ..request.plan };
    let mut tensors = Tensors::default();
    for tensor in &opened.checkpoint.tensors {
        let (expr, dtype) = tensors.read(tensor).map_err(|why| {
            Diagnostic::error(
                "P017",
                format!("the values of `{}` cannot be had: {why}", tensor.name),
            )
        })?;
        let step = Step::copy(&tensor.name);
        tensors.write(&tensor.name, expr, dtype, plan, step)?;
    }
    tensors.sort_by_key(|name| request.spec.order(name));
    model.encodings = encodings(&tensors);
    request.spec.state_version(&mut model, stored(&tensors));
    record(&mut model, request, None);
    let mut buffers = Tensors::default();
    if let Some(kept) = read_buffers(opened)? {
        buffers = generic_copies(&kept)?;
    }
    let mut components = Components::new();
    for (name, kept) in components::read(opened, provenance.as_ref())? {
        components.insert(name, generic_copies(&kept)?);
    }
    let carried = sidecar_files_of_package(opened);
    let tensors = Arc::new(tensors);
    let mut report = report(opened, request, &tensors, carried, Vec::new());
    report.architecture.clone_from(&model.architecture);
    report.conformance = Some(model.conformance);
    check::before_writing(&report, request)?;
    if !goes_on(opened, request, &tensors, &model, &mut report)? {
        return Ok(report);
    }
    let staging = stage(opened, request, false, &replaceable)?;
    let package = Package {
        model: &model,
        provenance,
        tensors: &tensors,
        buffers: &buffers,
        components: &components,
    };
    write_package(opened, request, staging.path(), package, &mut report)?;
    if request.verify {
        report.verified = Some(verify_same(opened, request, staging.path(), &tensors, &|_| false)?);
    }
    if request.check_outputs {
        check_outputs(opened, request, staging.path(), &mut report)?;
    }
    commit(staging, opened, request, &mut report)?;
    Ok(report)
}

struct Package<'a> {
    model: &'a Model,
    provenance: Option<Provenance>,
    tensors: &'a Tensors,
    buffers: &'a Tensors,
    components: &'a Components,
}

fn write_package(
    opened: &Opened,
    request: &Request<'_>,
    folder: &Path,
    package: Package<'_>,
    report: &mut Report,
) -> std::result::Result<(), Failure> {
    let metadata = text_of(package.model);
    let mut written =
        write_tensors(opened, request, folder, package.tensors, &metadata, true, report)?;
    if !package.buffers.outputs.is_empty() {
        let (parent, file) = BUFFERS_FILE.split_once('/').expect("it lies in a folder");
        let buffers = write::Plain {
            inputs: &package.buffers.inputs,
            outputs: &package.buffers.outputs,
            metadata: &BTreeMap::new(),
        };
        let stem = file.trim_end_matches(".safetensors");
        buffers.write(&opened.source, &inside(folder, parent)?, stem)?;
    }
    let mut files = components::write(&opened.source, folder, package.components)?;
    for file in &written.files {
        let sha256 = file.sha256.expect("files of a package are hashed");
        files.push((file.name.clone(), (file.len, sha256, None)));
    }
    if let Some(index) = written.index.take() {
        let name = format!("{TENSORS_STEM}.safetensors.index.json");
        write_file(&folder.join(&name), index.as_bytes())?;
        let sha256: [u8; 32] = Sha256::digest(index.as_bytes()).into();
        files.push((name, (index.len() as u64, sha256, None)));
    }
    let model = (MODEL_FILE, json_text(package.model).into_bytes());
    for (name, bytes) in [model].into_iter().chain(gguf::keys_file(opened)?) {
        write_file(&folder.join(name), &bytes)?;
        let sha256: [u8; 32] = Sha256::digest(&bytes).into();
        files.push((name.to_owned(), (bytes.len() as u64, sha256, Some(bytes))));
    }
    for name in &report.carried {
        files.push((name.clone(), carry(opened, folder, name)?));
    }
    if let Some(mut provenance) = package.provenance {
        // What says where a package came from is no part of what it is.
        for (name, loss) in report.tensors.losses() {
            provenance.losses.entry(name.to_owned()).or_default().add(loss);
        }
        write_json(&folder.join(SOURCE_FILE), &provenance)?;
    }
    files.sort_by(|left, right| left.0.cmp(&right.0));
    let tensors = package.tensors.outputs.iter().zip(report.tensors.written());
    let names: Vec<Arc<str>> = written.files.iter().map(|file| file.name.as_str().into()).collect();
    let manifest = Manifest::build(ManifestInput {
        spec: &package.model.spec,
        model: Some(package.model),
        tensors: tensors
            .map(|(output, tensor)| TensorFacts {
                name: output.name.clone(),
                dtype: output.dtype,
                shape: output.shape.clone(),
                len: tensor.len,
                sha256: tensor.sha256,
                place: Some((Arc::clone(&names[tensor.file]), tensor.offset)),
            })
            .map(TensorEntry::from)
            .collect(),
        files: files
            .iter()
            .map(|(path, (len, sha256, text))| FileFacts {
                path: path.clone(),
                len: *len,
                sha256: *sha256,
                text: text.as_deref(),
            })
            .collect(),
    });
    write_with(&folder.join(MANIFEST_FILE), |file| manifest.write(file))?;
    Ok(())
}
