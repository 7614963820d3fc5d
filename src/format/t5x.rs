//! T5X's checkpoints: a msgpack tree of Flax in which large arrays are descriptions of arrays of zarr in
//! folders beside it.
//!
//! ```text
//! checkpoint_1000/checkpoint    {"version": 3, "optimizer": {"target": {…: {"driver": "zarr", "kvstore": {"path"}}}}}
//! checkpoint_1000/target.encoder.layers_0.mlp.wi.kernel/.zarray, 0.0
//! ```
//!
//! Names are those below `optimizer`, with dots. Spec: `t5x/checkpoints.py`.

use super::{Format, Probe, flax, orbax};
use crate::base::error::{Error, Result};
use crate::base::name::Name;
use crate::base::source::{FileId, Source};
use crate::checkpoint::{Checkpoint, DType};

/// The format for the registry.
pub static FORMAT: Format =
    Format { id: "t5x", name: "T5X", dialect: "t5x", probe, read, ..Format::DEFAULT };

/// The file of the tree.
pub const TREE_FILE: &str = "checkpoint";
/// What the names of the model and of the state of the optimizer have in front.
const OPTIMIZER: &str = "optimizer.";
/// Until this version bfloat16 was stored as numbers of two bytes.
const WORDS_UNTIL: u64 = 2;

fn probe(head: &[u8], name: &str) -> Probe {
    let base = name.rsplit('/').next().unwrap_or(name);
    let is_tree = base == TREE_FILE && flax::is_map(head);
    if is_tree { Probe::Sure } else { Probe::No }
}

/// Whether a folder has the tree and an array of zarr beside it.
pub fn is_folder(names: &[&str]) -> bool {
    names.contains(&TREE_FILE) && names.iter().any(|name| name.ends_with("/.zarray"))
}

fn read(source: &mut Source, file: FileId) -> Result<Checkpoint> {
    let path = source.path(file).to_owned();
    let name = source.name(file).to_owned();
    let folder = name.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let tree = flax::tree(source, file)?;
    let mut checkpoint = Checkpoint { format: FORMAT.id, ..tree.checkpoint };
    let is_old = checkpoint.metadata.get("version").and_then(|text| text.parse::<u64>().ok());
    let is_old = is_old.is_some_and(|version| version <= WORDS_UNTIL);
    for (name, place) in tree.elsewhere {
        // Only the folder's own name counts: what stands before it is where the file was written.
        let array = place.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        if array.is_empty() || array == "." || array == ".." {
            let message = format!("`{name}` is in {place:?}, which names no folder");
            return Err(Error::malformed(0, message).in_file(&path));
        }
        let arrays = orbax::arrays_of(source, &folder, std::iter::once(array.to_owned()));
        for mut tensor in arrays.map_err(|err| err.context(&format!("`{name}`")))? {
            tensor.name = Name::from(&name);
            if is_old && tensor.dtype == DType::U16 {
                tensor.dtype = DType::BF16;
            }
            checkpoint.tensors.push(tensor);
        }
    }
    for tensor in &mut checkpoint.tensors {
        if let Some(short) = tensor.name.strip_prefix(OPTIMIZER) {
            tensor.name = short.into();
        }
    }
    checkpoint.tensors.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(checkpoint)
}
