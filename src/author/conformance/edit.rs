//! Packages that are wrong in one way: a good one, and edits. `spec/conformance/README.md` lists them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::files::{Tensor, bad, read, read_tensors, write, write_tensors};
use crate::base::error::{Error, Result};
use crate::checkpoint::DType;
use crate::folder;
use crate::manifest::{FileFacts, Manifest, ManifestInput, TensorEntry, TensorFacts, needs_text};
use crate::package::{MANIFEST_FILE, MODEL_FILE, Model};
use crate::spec::Spec;

/// One change of a package.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(super) enum Edit {
    /// Sets a value of a JSON file, `model.json` if none is named; `/-` adds to a list.
    Set { set: String, to: Json, file: Option<String> },
    /// Removes a member of a JSON file.
    Remove { remove: String, file: Option<String> },
    /// Removes a file.
    Delete { delete: String },
    /// Writes a file: text, or bytes in hexadecimal.
    Write { write: String, text: Option<String>, hex: Option<String> },
    /// Replaces the first place of a text in a file.
    Replace { replace: [String; 2], file: String },
    /// Keeps the first bytes of a file.
    Cut { cut: usize, file: String },
    /// Inverts the least bit of a byte of a file; from the end where it is negative.
    Flip { flip: i64, file: String },
    /// Changes a tensor.
    Tensor {
        tensor: String,
        rename: Option<String>,
        dtype: Option<String>,
        shape: Option<Vec<u64>>,
        /// Its first bytes.
        hex: Option<String>,
        /// How many bytes it keeps.
        keep: Option<usize>,
        /// A copy under this name.
        copy: Option<String>,
        #[serde(default)]
        zero: bool,
        #[serde(default)]
        drop: bool,
    },
    /// Drops the tensors whose names begin so.
    DropAll { drop_all: String },
    /// Exchanges two tensors of the first file, by their places.
    Swap { swap: [usize; 2] },
    /// Writes the last tensor of a file into the next one too.
    Repeat { repeat: usize },
    /// The version that headers of tensor files name.
    Header { header: String },
    /// Makes the manifest anew from what is there.
    Seal {
        #[allow(dead_code)] // What tells it from the others.
        seal: bool,
    },
}

/// Applies edits to a package, in their order.
///
/// # Errors
/// An edit names something that is not there.
pub(super) fn apply(spec: &Spec, package: &Path, edits: &[Edit]) -> Result<()> {
    edits.iter().try_for_each(|edit| one(spec, package, edit))
}

fn one(spec: &Spec, package: &Path, edit: &Edit) -> Result<()> {
    let json_file = |file: &Option<String>| package.join(file.as_deref().unwrap_or(MODEL_FILE));
    match edit {
        Edit::Set { set, to, file } => edit_json(&json_file(file), |json| {
            let (parent, last) = set.rsplit_once('/').ok_or_else(|| bad("no pointer"))?;
            let parent = json.pointer_mut(parent).ok_or_else(|| bad(format!("no {set}")))?;
            match (parent, last) {
                (Json::Array(items), "-") => items.push(to.clone()),
                (Json::Array(items), index) => {
                    let index = index.parse::<usize>().ok();
                    let item = index.and_then(|index| items.get_mut(index));
                    *item.ok_or_else(|| bad(format!("no {set}")))? = to.clone();
                }
                (Json::Object(members), key) => {
                    members.insert(key.replace("~1", "/").replace("~0", "~"), to.clone());
                }
                _ => return Err(bad(format!("no {set}"))),
            }
            Ok(())
        }),
        Edit::Remove { remove, file } => edit_json(&json_file(file), |json| {
            let (parent, last) = remove.rsplit_once('/').ok_or_else(|| bad("no pointer"))?;
            let members = json.pointer_mut(parent).and_then(Json::as_object_mut);
            let removed = members.and_then(|members| members.shift_remove(last));
            removed.map(drop).ok_or_else(|| bad(format!("no {remove}")))
        }),
        Edit::Delete { delete } => {
            let path = package.join(delete);
            fs::remove_file(&path).map_err(|err| Error::io(&path, "remove", err))
        }
        Edit::Write { write: name, text, hex: digits } => {
            let bytes = match (text, digits) {
                (Some(text), None) => text.clone().into_bytes(),
                (None, Some(digits)) => bytes_of(digits)?,
                _ => return Err(bad("`write` needs `text` or `hex`")),
            };
            write(&package.join(name), &bytes)
        }
        Edit::Replace { replace: [from, to], file } => {
            let path = package.join(file);
            let bytes = read(&path)?;
            let at = bytes.windows(from.len()).position(|window| window == from.as_bytes());
            let at = at.ok_or_else(|| bad(format!("{from:?} is not in {file}")))?;
            write(&path, &[&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat())
        }
        Edit::Cut { cut, file } => {
            let path = package.join(file);
            let mut bytes = read(&path)?;
            bytes.truncate(*cut);
            write(&path, &bytes)
        }
        Edit::Flip { flip, file } => {
            let path = package.join(file);
            let mut bytes = read(&path)?;
            let at = usize::try_from(if *flip < 0 { bytes.len() as i64 + flip } else { *flip });
            let byte = at.ok().and_then(|at| bytes.get_mut(at));
            *byte.ok_or_else(|| bad(format!("{file} has no byte {flip}")))? ^= 1;
            write(&path, &bytes)
        }
        Edit::Seal { .. } => seal(package),
        _ => edit_tensors(spec, package, edit),
    }
}

fn bytes_of(digits: &str) -> Result<Vec<u8>> {
    let byte = |at: usize| digits.get(at..at + 2).and_then(|d| u8::from_str_radix(d, 16).ok());
    let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
    bytes.ok_or_else(|| bad(format!("{digits:?} is no hexadecimal")))
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Json) -> Result<()>) -> Result<()> {
    let mut json = serde_json::from_slice(&read(path)?).map_err(|err| bad(err.to_string()))?;
    edit(&mut json)?;
    let text = serde_json::to_string_pretty(&json).unwrap_or_default();
    write(path, text.as_bytes())
}

/// The tensor files of a package, in the order of their names.
fn shards(package: &Path) -> Result<Vec<PathBuf>> {
    let names = folder::list(package)?.into_iter().map(|file| file.name);
    let mut names: Vec<String> =
        names.filter(|name| name.ends_with(".safetensors") && !name.contains('/')).collect();
    names.sort();
    Ok(names.iter().map(|name| package.join(name)).collect())
}

fn edit_tensors(spec: &Spec, package: &Path, edit: &Edit) -> Result<()> {
    let mut found = false;
    let mut carried: Option<Tensor> = None;
    for (number, path) in shards(package)?.iter().enumerate() {
        let (tensors, mut metadata) = read_tensors(path)?;
        let mut tensors: Vec<Tensor> = tensors.into_iter().map(|(tensor, _)| tensor).collect();
        match edit {
            Edit::Tensor { tensor: name, rename, dtype, shape, hex, keep, copy, zero, drop } => {
                let Some(at) = tensors.iter().position(|tensor| tensor.name == *name) else {
                    continue;
                };
                found = true;
                if let Some(copy) = copy {
                    let copied = Tensor { name: copy.clone(), ..tensors[at].clone() };
                    tensors.push(copied);
                }
                let tensor = &mut tensors[at];
                if let Some(rename) = rename {
                    tensor.name.clone_from(rename);
                }
                if let Some(dtype) = dtype {
                    tensor.dtype.clone_from(dtype);
                }
                if let Some(shape) = shape {
                    tensor.shape.clone_from(shape);
                }
                if let Some(keep) = keep {
                    tensor.bytes.truncate(*keep);
                }
                for (byte, to) in
                    tensor.bytes.iter_mut().zip(bytes_of(hex.as_deref().unwrap_or_default())?)
                {
                    *byte = to;
                }
                if *zero {
                    tensor.bytes.fill(0);
                }
                if *drop {
                    tensors.remove(at);
                }
                tensors.sort_by(|left, right| spec.compare_names(&left.name, &right.name));
            }
            Edit::DropAll { drop_all } => {
                let before = tensors.len();
                tensors.retain(|tensor| !tensor.name.starts_with(drop_all.as_str()));
                found |= tensors.len() < before;
            }
            Edit::Swap { swap: [left, right] } if number == 0 => {
                if tensors.len() <= *left.max(right) {
                    return Err(bad("there are not so many tensors"));
                }
                tensors.swap(*left, *right);
                found = true;
            }
            Edit::Repeat { repeat } => {
                if let Some(tensor) = carried.take() {
                    let index = package.join("model.safetensors.index.json");
                    edit_json(&index, |index| {
                        let total = index.pointer_mut("/metadata/total_size");
                        let total = total.ok_or_else(|| bad("the index has no total_size"))?;
                        *total = json!(total.as_u64().unwrap_or(0) + tensor.bytes.len() as u64);
                        Ok(())
                    })?;
                    tensors.insert(0, tensor);
                    found = true;
                } else if number == *repeat {
                    carried = tensors.last().cloned();
                }
            }
            Edit::Header { header } => {
                metadata = json!({"llmstd": header});
                found = true;
            }
            _ => {}
        }
        write_tensors(path, &tensors, &metadata)?;
    }
    if found { Ok(()) } else { Err(bad(format!("{edit:?} finds nothing"))) }
}

/// Makes the manifest of a package anew, so that what is wrong elsewhere is all that is wrong.
///
/// # Errors
/// `model.json` or a file of tensors cannot be read.
pub fn seal(package: &Path) -> Result<()> {
    let model: Model = serde_json::from_slice(&read(&package.join(MODEL_FILE))?)
        .map_err(|err| bad(err.to_string()))?;
    let mut tensors: BTreeMap<String, TensorFacts> = BTreeMap::new();
    for path in shards(package)? {
        let name: Arc<str> = path.file_name().unwrap_or_default().to_string_lossy().into();
        for (tensor, start) in read_tensors(&path)?.0 {
            let facts = TensorFacts {
                dtype: DType::parse(&tensor.dtype)
                    .ok_or_else(|| bad(format!("there is no dtype {:?}", tensor.dtype)))?,
                shape: tensor.shape,
                len: tensor.bytes.len() as u64,
                sha256: Sha256::digest(&tensor.bytes).into(),
                place: Some((Arc::clone(&name), start)),
                name: tensor.name.clone().into(),
            };
            tensors.entry(tensor.name).or_insert(facts);
        }
    }
    let names = folder::list(package)?.into_iter().map(|file| file.name);
    let names = names.filter(|name| name != MANIFEST_FILE);
    let files = names.map(|name| Ok((read(&package.join(&name))?, name)));
    let files = files.collect::<Result<Vec<_>>>()?;
    let manifest = Manifest::build(ManifestInput {
        spec: &model.spec,
        model: Some(&model),
        tensors: tensors.into_values().map(TensorEntry::from).collect(),
        files: files
            .iter()
            .map(|(bytes, path)| FileFacts {
                path: path.clone(),
                len: bytes.len() as u64,
                sha256: Sha256::digest(bytes).into(),
                text: needs_text(path).then_some(bytes.as_slice()),
            })
            .collect(),
    });
    write(&package.join(MANIFEST_FILE), manifest.to_text().as_bytes())
}
