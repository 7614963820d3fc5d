//! Safetensors with the names and bytes of the source: nothing is renamed, nothing is moved.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value as Json;

use super::destination::{mark, replaceable, stage};
use super::foreign::write_modules;
use super::verify::{check_outputs, verify_same};
use super::{
    Failure, Report, Request, SAFETENSORS, carry, check, commit, json_text, report, sidecar_files,
    sidecar_files_of_package, write_file, write_shards,
};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::Error;
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor};
use crate::exec::write::{self, Container};
use crate::folder::sentence_transformers::parse_dense_name;
use crate::folder::{CONFIG_FILE, Opened};
use crate::package::TENSORS_STEM;
use crate::plan::{Decode, Exactness, Step, Tensors, export};

/// Whether one file is written, and no folder.
pub(super) fn is_file(request: &Request<'_>) -> bool {
    request.destination.extension().is_some_and(|end| end == SAFETENSORS)
}

/// Writes one file, or, where the destination is no `.safetensors` name, a folder with the files
/// beside the weights.
pub(super) fn write(
    opened: &mut Opened,
    request: &Request<'_>,
) -> std::result::Result<Report, Failure> {
    let is_file = is_file(request);
    let decoded = match request.plan.decode {
        Decode::Nothing => None,
        _ => opened.logical()?,
    };
    let checkpoint = decoded.as_ref().unwrap_or(&opened.checkpoint);
    let copies = copies(checkpoint);
    let mut tensors = plan(checkpoint, &copies, request)?;
    // Modules beside a transformer have files of their own.
    tensors.move_last(|name| parse_dense_name(name).is_some());
    let n_main = tensors
        .outputs
        .iter()
        .take_while(|output| parse_dense_name(&output.name).is_none())
        .count();
    let (mut carried, mut left) = match (is_file, opened.is_package) {
        (true, _) => (Vec::new(), Vec::new()),
        (false, true) => (sidecar_files_of_package(opened), Vec::new()),
        (false, false) => sidecar_files(opened, request.spec),
    };
    carried.sort();
    left.sort();
    let mut report = report(opened, request, &tensors, carried, left);
    report.copies = copies.iter().map(|(copy, kept)| [copy.clone(), kept.clone()]).collect();
    report.copies.sort();
    for [copy, kept] in &report.copies {
        let message = format!("`{copy}` is the same memory as `{kept}` and is written once");
        let help = "the file's metadata names it, as safetensors' own converter does";
        report.findings.push(Diagnostic::note("P033", message).tensor(copy).help(help));
    }
    if is_file && n_main < tensors.outputs.len() {
        let message = "the modules behind the transformer are files of their own: name a folder";
        return Err(Error::unsupported(message).into());
    }
    let name = request.destination.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let stem = name.as_deref().filter(|_| is_file).unwrap_or(TENSORS_STEM);
    let main = &tensors.outputs[..n_main];
    let shards = write::shards(main, request.max_shard_bytes, stem, SAFETENSORS);
    report.findings.extend(check::shard_size(request.max_shard_bytes, main, &shards)?);
    if is_file && 1 < shards.len() {
        let n = shards.len();
        let message = format!("{n} files of that size are no single file {}", report.destination);
        return Err(Error::unsupported(message + ": name a folder, or take a larger size").into());
    }
    check::before_writing(&report, request)?;
    if request.dry_run {
        return Ok(report);
    }
    let staging = stage(opened, request, is_file, &replaceable)?;
    let folder = staging.path().to_owned();
    let metadata = metadata(&opened.checkpoint, &copies);
    let main =
        Tensors { inputs: tensors.inputs.clone(), outputs: main.to_vec(), ..Tensors::default() };
    let container = Container::Safetensors(&metadata);
    let written =
        write_shards(opened, request, &folder, &main, &shards, container, false, &mut report)?;
    write_modules(opened, &folder, &tensors, n_main, &metadata, &mut report)?;
    if let Some(index) = &written.index {
        let name = format!("{TENSORS_STEM}.safetensors.index.json");
        write_file(&folder.join(name), index.as_bytes())?;
    }
    for name in &report.carried {
        carry(opened, &folder, name)?;
    }
    if !is_file {
        write_config(opened, request, &folder.join(CONFIG_FILE))?;
        mark(&folder, SAFETENSORS)?;
    }
    if request.verify {
        let is_copy = |name: &str| copies.contains_key(name);
        report.verified = Some(verify_same(opened, request, &folder, &tensors, &is_copy)?);
    }
    if request.check_outputs {
        check_outputs(opened, request, &folder, &mut report)?;
    }
    commit(staging, opened, request, &mut report)?;
    Ok(report)
}

/// The tensors that are another one under a second name, with the name that is kept: the first of
/// the file, which is that of the module that owns it.
fn copies(checkpoint: &Checkpoint) -> BTreeMap<String, String> {
    let mut owners: HashMap<(u32, Vec<u64>, DType), &str> = HashMap::new();
    let mut copies = BTreeMap::new();
    for tensor in &checkpoint.tensors {
        let Payload::View(view) = &tensor.payload else { continue };
        if view.storage.len == 0 || tensor.n_bytes() == Some(0) {
            continue;
        }
        let place = [view.storage.start, view.storage.len, view.offset, u64::from(view.big_endian)];
        let parts = [&place[..], &tensor.shape, &view.strides];
        let key = (view.storage.file.number(), parts.concat(), tensor.dtype);
        match owners.get(&key) {
            Some(kept) => {
                copies.insert(tensor.name.clone(), (*kept).to_owned());
            }
            None => {
                owners.insert(key, &tensor.name);
            }
        }
    }
    copies
}

fn plan(
    checkpoint: &Checkpoint,
    copies: &BTreeMap<String, String>,
    request: &Request<'_>,
) -> std::result::Result<Tensors, Failure> {
    let mut tensors = Tensors::default();
    let mut findings = Vec::new();
    let mut names: HashSet<&str> = HashSet::new();
    for tensor in checkpoint.tensors.iter().filter(|tensor| !copies.contains_key(&tensor.name)) {
        if !names.insert(&tensor.name) {
            let message = format!("two tensors are named `{}`", tensor.name);
            findings.push(Diagnostic::error("P007", message).tensor(&tensor.name));
            continue;
        }
        findings.extend(plan_one(&mut tensors, tensor, request).err());
    }
    if !findings.is_empty() {
        return Err(findings.into());
    }
    export::refuse_blocks(SAFETENSORS, &tensors.encodings)?;
    Ok(tensors)
}

fn plan_one(
    tensors: &mut Tensors,
    tensor: &Tensor,
    request: &Request<'_>,
) -> std::result::Result<(), Diagnostic> {
    let name = &tensor.name;
    let (expr, dtype) = tensors.read(tensor).map_err(|why| {
        Diagnostic::error("P017", format!("the values of `{name}` cannot be had: {why}"))
            .tensor(name)
    })?;
    let step = Step {
        name: name.clone(),
        from: vec![name.clone()],
        ops: "copy".to_owned(),
        class: Exactness::Exact,
    };
    tensors.write(name, expr, dtype, request.plan, step)
}

/// The free text of the file: that of a source of the same format, what readers ask for, and the
/// names that are not written.
fn metadata(
    checkpoint: &Checkpoint,
    copies: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut metadata = match checkpoint.format == SAFETENSORS {
        true => checkpoint.metadata.clone(),
        false => BTreeMap::new(),
    };
    metadata.entry("format".to_owned()).or_insert_with(|| "pt".to_owned());
    for (copy, kept) in copies {
        metadata.entry(copy.clone()).or_insert_with(|| kept.clone());
    }
    metadata
}

/// Carries `config.json` over: byte for byte, but for the dtype where tensors were cast.
fn write_config(
    opened: &mut Opened,
    request: &Request<'_>,
    path: &std::path::Path,
) -> std::result::Result<(), Failure> {
    if opened.is_package || opened.checkpoint.format == export::GGUF {
        return Ok(());
    }
    let Some(text) = opened.text(CONFIG_FILE)? else { return Ok(()) };
    let text = match (request.plan.dtype, opened.json(CONFIG_FILE)?) {
        (Some(dtype), Some(Json::Object(mut config))) => {
            for key in ["torch_dtype", "dtype"] {
                if let Some(stated) = config.get_mut(key) {
                    *stated = export::dtype_word(Some(dtype)).into();
                }
            }
            json_text(&config)
        }
        _ => text,
    };
    Ok(write_file(path, text.as_bytes())?)
}
