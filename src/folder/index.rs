//! The index of shards, held against the shards.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use super::join::Joined;
use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::json;
use crate::base::source::Source;
use crate::checkpoint::{Checkpoint, Payload, Tensor};
use crate::format::{Format, read_file};

/// Reads every shard that an index names, and holds the two against each other.
pub(super) fn read_index(
    source: &mut Source,
    name: &str,
    wanted: Option<&'static Format>,
    checkpoint: &mut Checkpoint,
) -> Result<Vec<String>> {
    let index_file = source.add(name)?;
    let path = source.path(index_file).to_owned();
    let malformed = |message: String| Error::new(ErrorKind::Malformed, message).in_file(&path);
    // Flax joins the keys of a tree by slashes in an index.
    let is_tree = name.contains(".msgpack.index.");
    let (map, claimed) = {
        let index = json::parse(source.bytes(index_file), 0).map_err(|err| err.in_file(&path))?;
        let Some(Json::Object(map)) = index.get("weight_map") else {
            return Err(malformed(
                "a shard index has an object `weight_map`; there is none".to_owned(),
            ));
        };
        let claimed = index.get("metadata").and_then(|metadata| metadata.get("total_size"));
        (WeightMap::of(map, is_tree).map_err(malformed)?, claimed.cloned())
    };
    let mut by_file: Vec<Vec<&str>> = vec![Vec::new(); map.files.len()];
    #[expect(clippy::iter_over_hash_type, reason = "what is told of is sorted")]
    for (tensor, file) in &map.places {
        by_file[*file].push(tensor);
    }
    let mut files: Vec<(&str, Vec<&str>)> =
        map.files.iter().map(String::as_str).zip(by_file).collect();
    files.sort_unstable();
    let mut weights = Vec::new();
    let mut copies: Vec<(String, Tensor)> = Vec::new();
    let mut joined = Joined::new(std::mem::take(checkpoint));
    for (file, tensors) in files {
        if !file.contains("..") && !source.place(file).exists() {
            let n = tensors.len();
            let message = format!(
                "the index puts {n} tensors in the shard `{file}`, and there is no such file: fetch \
                 it, or write the index anew for the shards that are there"
            );
            return Err(Error::new(ErrorKind::Io, message).in_file(&path));
        }
        let id =
            source.add(file).map_err(|err| err.context(&format!("shard `{file}` of the index")))?;
        let part = read_file(source, id, wanted)?;
        let present: HashSet<&str> =
            part.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let finding = |message: String, tensor: &str| {
            Diagnostic::warning("R016", message).file(name).tensor(tensor).help(
                "the files count; write the index anew, or take the shards from their source again",
            )
        };
        let mut missing: Vec<&str> =
            tensors.into_iter().filter(|tensor| !present.contains(tensor)).collect();
        missing.sort_unstable();
        for missing in missing {
            let message = format!("the index puts `{missing}` in `{file}`, which does not have it");
            joined.checkpoint.findings.push(finding(message, missing));
        }
        let mut extra: Vec<&str> =
            present.into_iter().filter(|tensor| !map.places.contains_key(*tensor)).collect();
        extra.sort_unstable();
        for extra in extra {
            let message =
                format!("`{file}` has `{extra}`, which the index does not list; it is read");
            joined.checkpoint.findings.push(finding(message, extra));
        }
        // A second copy, where the index names another file.
        let mut part = part;
        let (own, second): (Vec<Tensor>, Vec<Tensor>) = part
            .tensors
            .into_iter()
            .partition(|tensor| map.file(&tensor.name).is_none_or(|place| place == file));
        part.tensors = own;
        copies.extend(second.into_iter().map(|tensor| (file.to_owned(), tensor)));
        joined.append(part, file);
        weights.push(file.to_owned());
    }
    *checkpoint = joined.finish()?;
    for (file, copy) in copies {
        let first = checkpoint.tensors.iter().find(|tensor| tensor.name == copy.name);
        let same = first.is_some_and(|first| same_bytes(source, first, &copy));
        let which = if same { "the same values" } else { "other values" };
        let place = map.file(&copy.name).unwrap_or_default();
        let message = format!(
            "`{}` lies in `{place}`, where the index puts it, and with {which} in `{file}`",
            copy.name
        );
        let level = if same { Level::Warning } else { Level::Error };
        checkpoint.findings.push(
            Diagnostic::new("R016", level, message).file(name).tensor(&copy.name).help(
                "readers differ in which copy they take: remove the wrong one from its shard",
            ),
        );
        if first.is_none() {
            checkpoint.tensors.push(copy);
        }
    }
    let total: u64 = checkpoint.tensors.iter().filter_map(crate::checkpoint::Tensor::n_bytes).sum();
    if let Some(claimed) = claimed
        && claimed.as_u64().is_some_and(|claimed| claimed != total)
    {
        checkpoint.findings.push(
            Diagnostic::warning(
                "R013",
                format!("`total_size` of {name} is {claimed}, the tensors have {total} bytes"),
            )
            .file(name)
            .mismatch(total, claimed),
        );
    }
    Ok(weights)
}

/// Which file each tensor is in, by an index. Names of files, which are few, are kept once.
struct WeightMap {
    files: Vec<String>,
    places: HashMap<String, usize>,
}

impl WeightMap {
    /// Reads the map; `is_tree` says that its names are joined by slashes.
    fn of(map: &serde_json::Map<String, Json>, is_tree: bool) -> Result<WeightMap, String> {
        let (mut files, mut numbers) = (Vec::new(), HashMap::new());
        let mut places = HashMap::with_capacity(map.len());
        let mut wrong: Option<(&String, &Json)> = None;
        for (tensor, file) in map {
            let Some(of_tensor) = file.as_str() else {
                wrong = wrong.filter(|(first, _)| *first < tensor).or(Some((tensor, file)));
                continue;
            };
            let number = *numbers.entry(of_tensor).or_insert_with(|| {
                files.push(of_tensor.to_owned());
                files.len() - 1
            });
            let tensor = if is_tree { tensor.replace('/', ".") } else { tensor.clone() };
            places.insert(tensor, number);
        }
        match wrong {
            Some((tensor, file)) => {
                Err(format!("`weight_map` gives `{tensor}` {file}, where a file name should be"))
            }
            None => Ok(WeightMap { files, places }),
        }
    }

    fn file(&self, tensor: &str) -> Option<&str> {
        self.places.get(tensor).map(|number| self.files[*number].as_str())
    }
}

/// Whether two tensors of files are alike to the last byte.
fn same_bytes(source: &Source, left: &Tensor, right: &Tensor) -> bool {
    let bytes = |tensor: &Tensor| match &tensor.payload {
        Payload::Range(extent) => source.slice(*extent).ok(),
        _ => None,
    };
    let (of_left, of_right) = (bytes(left), bytes(right));
    left.dtype == right.dtype
        && left.shape == right.shape
        && of_left.is_some()
        && of_left == of_right
}
