//! The index of shards, held against the shards.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::join::append;
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
    let index = json::parse(source.bytes(index_file), 0).map_err(|err| err.in_file(&path))?;
    let malformed = |message: String| Error::new(ErrorKind::Malformed, message).in_file(&path);
    let Some(Json::Object(map)) = index.get("weight_map") else {
        return Err(malformed(
            "a shard index has an object `weight_map`; there is none".to_owned(),
        ));
    };
    // Flax joins the keys of a tree by slashes in an index.
    let is_tree = name.contains(".msgpack.index.");
    let spelled = |tensor: &str| if is_tree { tensor.replace('/', ".") } else { tensor.to_owned() };
    let map: BTreeMap<String, &Json> =
        map.iter().map(|(tensor, file)| (spelled(tensor), file)).collect();
    let mut by_file: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (tensor, file) in &map {
        let file = file.as_str().ok_or_else(|| {
            malformed(format!("`weight_map` gives `{tensor}` {file}, where a file name should be"))
        })?;
        by_file.entry(file).or_default().insert(tensor);
    }
    let mut weights = Vec::new();
    let mut copies: Vec<(String, Tensor)> = Vec::new();
    for (file, tensors) in by_file {
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
        let present: BTreeSet<&str> =
            part.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let finding = |message: String, tensor: &str| {
            Diagnostic::warning("R016", message).file(name).tensor(tensor).help(
                "the files count; write the index anew, or take the shards from their source again",
            )
        };
        for missing in tensors.difference(&present) {
            let message = format!("the index puts `{missing}` in `{file}`, which does not have it");
            checkpoint.findings.push(finding(message, missing));
        }
        for extra in present.difference(&tensors).filter(|extra| !map.contains_key(**extra)) {
            let message =
                format!("`{file}` has `{extra}`, which the index does not list; it is read");
            checkpoint.findings.push(finding(message, extra));
        }
        // A second copy, where the index names another file.
        let mut part = part;
        let (own, second): (Vec<Tensor>, Vec<Tensor>) =
            part.tensors.into_iter().partition(|tensor| {
                map.get(&tensor.name).is_none_or(|place| place.as_str() == Some(file))
            });
        part.tensors = own;
        copies.extend(second.into_iter().map(|tensor| (file.to_owned(), tensor)));
        append(checkpoint, part, file)?;
        weights.push(file.to_owned());
    }
    for (file, copy) in copies {
        let first = checkpoint.tensors.iter().find(|tensor| tensor.name == copy.name);
        let same = first.is_some_and(|first| same_bytes(source, first, &copy));
        let which = if same { "the same values" } else { "other values" };
        let place = map.get(&copy.name).and_then(|place| place.as_str()).unwrap_or_default();
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
    let claimed = index.get("metadata").and_then(|metadata| metadata.get("total_size"));
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
