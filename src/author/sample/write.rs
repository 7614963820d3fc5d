//! A sample on disk.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use super::{Sample, tiny};
use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::DType;
use crate::convert::{self, Failure, Report, Request};
use crate::exec::staging::{Existing, Staging};
use crate::folder;
use crate::package::{MODEL_FILE, SOURCE_FILE, TENSORS_STEM};
use crate::spec::Spec;
use crate::spec::map::Map;

/// Writes a sample in its foreign layout.
///
/// # Errors
/// The destination exists or cannot be written, or the sample does not come back bit for bit.
pub fn write(
    spec: &Spec,
    map: &Map,
    sample: &Sample,
    destination: &Path,
) -> std::result::Result<Report, Failure> {
    if destination.symlink_metadata().is_ok() {
        return Err(Error::new(ErrorKind::Io, "already exists").in_file(destination).into());
    }
    // The package that it is made from; it is never given its name.
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push("-package");
    let package = Staging::new(&destination.with_file_name(name), Existing::Keep)?;
    write_package(spec, sample, package.path())?;
    let request = Request { verify: true, ..Request::new(spec, destination, &map.format) };
    convert::convert(folder::open_as(package.path(), &request.spec.how())?, &request)
}

fn write_package(spec: &Spec, sample: &Sample, folder: &Path) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| -> Result<()> {
        let path: PathBuf = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|err| Error::io(parent, "create the folder", err))?;
        fs::write(&path, bytes).map_err(|err| Error::io(&path, "write", err))
    };
    let text = |json: &Json| json.to_string().into_bytes();
    let to_json = |value: serde_json::Result<Json>| value.unwrap_or(Json::Null);
    write(MODEL_FILE, &text(&to_json(serde_json::to_value(&sample.model))))?;
    write(SOURCE_FILE, &text(&to_json(serde_json::to_value(&sample.source))))?;
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!({"llmstd": sample.model.spec}));
    let mut data = Vec::new();
    for (name, shape) in &sample.tensors {
        let start = data.len();
        let is_ids = spec.role(name).is_some_and(|role| role.role.is_ids);
        let dtype = if is_ids {
            let id = |x: f32| ((x + 1.0) * 5e5) as i64;
            data.extend(noise(name, shape).map(id).flat_map(i64::to_le_bytes));
            DType::I64
        } else {
            data.extend(noise(name, shape).flat_map(f32::to_le_bytes));
            DType::F32
        };
        let place = [start, data.len()];
        let entry = json!({"dtype": dtype.name(), "shape": shape, "data_offsets": place});
        header.insert(name.clone(), entry);
    }
    let mut header = text(&Json::Object(header));
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    write(&format!("{TENSORS_STEM}.safetensors"), &file)?;
    if 0 < sample.modules {
        let dense = (0..sample.modules).map(|n| (n + 2, format!("{}_Dense", n + 2), "Dense"));
        let first = [(0, String::new(), "Transformer"), (1, "1_Pooling".to_owned(), "Pooling")];
        let modules = first.into_iter().chain(dense.clone()).map(|(idx, path, kind)| {
            let kind = format!("sentence_transformers.models.{kind}");
            json!({"idx": idx, "name": idx.to_string(), "path": path, "type": kind})
        });
        write("modules.json", &text(&Json::Array(modules.collect())))?;
        write("1_Pooling/config.json", &text(&json!({"pooling_mode_mean_tokens": true})))?;
        let width = tiny::count(&sample.model.hyperparameters, "hidden_size");
        for (_, path, _) in dense {
            let config = json!({"in_features": width, "out_features": width, "bias": true,
                "activation_function": "torch.nn.modules.activation.Tanh"});
            write(&format!("{path}/config.json"), &text(&config))?;
        }
    }
    Ok(())
}

/// Numbers between -1 and 1 that depend on the name and the place alone: no two tensors are alike,
/// and no row is like another.
fn noise(name: &str, shape: &[u64]) -> impl Iterator<Item = f32> {
    // FNV-1a of the name, then SplitMix64.
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    (0..shape.iter().product::<u64>()).map(move |index| {
        let mut bits = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // 24 bits: what a float of 32 bits has.
        ((bits >> 40) as f32 + 0.5) / (1_u32 << 23) as f32 - 1.0
    })
}
