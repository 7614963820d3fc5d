//! Tensors with the names and bytes of the source: nothing is renamed, nothing is moved.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value as Json;

use super::components;
use super::job::{self, Job};
use super::report::{Report, ecosystem};
use super::request::{Failure, Request, SAFETENSORS};
use super::sidecar::{json_text, sidecar_files, sidecar_files_of_package};
use super::target::Target;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::Result;
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor};
use crate::folder::{CONFIG_FILE, Opened};
use crate::plan::{Decode, Step, Tensors, export};
use crate::spec::ecosystem::config;

/// Writes the tensors under the names that they have.
pub(super) fn write(
    opened: &mut Opened,
    request: &Request<'_>,
    target: &Target,
) -> std::result::Result<Report, Failure> {
    let is_file = target.is_file(request.destination);
    let decoded = match request.plan.decode {
        Decode::Nothing => None,
        _ => opened.logical()?,
    };
    let checkpoint = decoded.as_ref().unwrap_or(&opened.checkpoint);
    let copies = copies(checkpoint);
    let tensors = plan(checkpoint, &copies, request)?;
    export::refuse_blocks(target.id, &tensors.encodings)?;
    let (mut carried, mut left) = match (is_file, opened.is_package) {
        (true, _) => (Vec::new(), Vec::new()),
        (false, true) => (sidecar_files_of_package(opened), Vec::new()),
        (false, false) => sidecar_files(opened, request.spec),
    };
    carried.sort();
    left.sort();
    let mut findings = Vec::new();
    for (copy, kept) in &copies {
        let message = format!("`{copy}` is the same memory as `{kept}` and is written once");
        let finding = Diagnostic::note("P033", message).tensor(copy);
        findings.push(match target.id {
            SAFETENSORS => {
                finding.help("the file's metadata names it, as safetensors' own converter does")
            }
            _ => finding.help("where a program wants both, give it the one under either name"),
        });
    }
    if opened.is_package {
        findings.extend(components::left_out(opened, None, target.id));
    }
    let files = match is_file {
        true => Vec::new(),
        false => config(opened, request)?.into_iter().collect(),
    };
    let text = metadata(&opened.checkpoint, &copies);
    let job = Job { tensors, text, files, carried, left, copies, findings, ..Job::default() };
    job::write(opened, request, target, job)
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
                copies.insert(tensor.name.to_string(), (*kept).to_owned());
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
    for tensor in checkpoint.tensors.iter().filter(|tensor| !copies.contains_key(&*tensor.name)) {
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
    let step = Step::copy(name);
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

/// `config.json` of the source: byte for byte, but for the dtype where tensors were cast.
fn config(opened: &mut Opened, request: &Request<'_>) -> Result<Option<(String, Vec<u8>)>> {
    if opened.is_package || ecosystem(opened).typed_keys {
        return Ok(None);
    }
    let Some(text) = opened.text(CONFIG_FILE)? else { return Ok(None) };
    let text = match (request.plan.dtype, opened.json(CONFIG_FILE)?) {
        (Some(dtype), Some(Json::Object(mut config))) => {
            for key in config::DTYPES {
                if let Some(stated) = config.get_mut(key) {
                    *stated = export::dtype_word(Some(dtype)).into();
                }
            }
            json_text(&config)
        }
        _ => text,
    };
    Ok(Some((CONFIG_FILE.to_owned(), text.into_bytes())))
}
