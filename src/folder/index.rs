//! The files of a model in parts, and the index of shards, held against the shards.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value as Json;

use super::join::Joined;
use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hash::{HashMap, HashSet};
use crate::base::json::{self, StrictJson};
use crate::base::source::Source;
use crate::checkpoint::{Checkpoint, Payload, Tensor};
use crate::format::{Format, read_file};

/// Reads one of the files that make a model together.
pub(super) fn read_part(
    source: &mut Source,
    name: &str,
    wanted: Option<&'static Format>,
) -> Result<(String, Checkpoint)> {
    let file = source.add(name).map_err(|err| err.context(&format!("the part `{name}`")))?;
    Ok((name.to_owned(), read_file(source, file, wanted)?))
}

/// Reads every shard that an index names, and holds the two against each other.
pub(super) fn read_index(
    source: &mut Source,
    name: &str,
    wanted: Option<&'static Format>,
    checkpoint: &mut Checkpoint,
) -> Result<Vec<String>> {
    let index_file = source.add(name)?;
    let path = source.path(index_file).to_owned();
    // Flax joins the keys of a tree by slashes in an index.
    let is_tree = name.contains(".msgpack.index.");
    let (mut map, claimed) = {
        let bytes = source.bytes(index_file);
        let Index { weight_map, metadata } =
            Index::read(bytes).map_err(|err| err.in_file(&path))?;
        let claimed = metadata.and_then(|StrictJson(json)| json.get("total_size").cloned());
        (if is_tree { weight_map.joined_by_dots() } else { weight_map }, claimed)
    };
    source.forget(index_file, u64::MAX);
    let mut listed = vec![0usize; map.files.len()];
    #[expect(clippy::iter_over_hash_type, reason = "they are counted")]
    for place in map.places.values() {
        listed[place.file] += 1;
    }
    let mut files: Vec<(String, usize)> =
        map.files.iter().cloned().enumerate().map(|(number, file)| (file, number)).collect();
    files.sort_unstable();
    let mut weights = Vec::new();
    let mut copies: Vec<SecondCopy> = Vec::new();
    let mut joined = Joined::new(std::mem::take(checkpoint));
    joined.checkpoint.tensors.reserve_exact(map.places.len());
    for (file, number) in files {
        if !file.contains("..") && !source.has(&file) {
            let n = listed[number];
            let message = format!(
                "the index puts {n} tensors in the shard `{file}`, and there is no such file: fetch \
                 it, or write the index anew for the shards that are there"
            );
            return Err(Error::new(ErrorKind::Io, message).in_file(&path));
        }
        let id = source
            .add(&file)
            .map_err(|err| err.context(&format!("shard `{file}` of the index")))?;
        let mut part = read_file(source, id, wanted)?;
        let finding = |message: String, tensor: &str| {
            Diagnostic::warning("R016", message).file(name).tensor(tensor).help(
                "the files count; write the index anew, or take the shards from their source again",
            )
        };
        let (mut n_found, mut has_second, mut extra) = (0, false, Vec::new());
        for tensor in &part.tensors {
            match map.places.get_mut(tensor.name.as_str()) {
                Some(place) if place.file == number => {
                    n_found += usize::from(!place.is_found);
                    place.is_found = true;
                }
                Some(_) => has_second = true,
                None => extra.push(tensor.name.clone()),
            }
        }
        if n_found != listed[number] {
            for missing in map.missing(number) {
                let message =
                    format!("the index puts `{missing}` in `{file}`, which does not have it");
                joined.checkpoint.findings.push(finding(message, missing));
            }
        }
        extra.sort_unstable();
        extra.dedup();
        for extra in extra {
            let message =
                format!("`{file}` has `{extra}`, which the index does not list; it is read");
            joined.checkpoint.findings.push(finding(message, &extra));
        }
        // A second copy, where the index names another file.
        if has_second {
            let is_own = |tensor: &Tensor| {
                map.places.get(tensor.name.as_str()).is_none_or(|place| place.file == number)
            };
            let second: Vec<Tensor> =
                part.tensors.extract_if(.., |tensor| !is_own(tensor)).collect();
            copies.extend(second.into_iter().map(|tensor| {
                let place = map.file(&tensor.name).unwrap_or_default().to_owned();
                SecondCopy { tensor, file: file.clone(), place }
            }));
        }
        joined.append(part, &file);
        weights.push(file);
    }
    drop(map);
    *checkpoint = joined.finish()?;
    for SecondCopy { tensor: copy, file, place } in copies {
        let first = checkpoint.tensors.iter().find(|tensor| tensor.name == copy.name);
        let same = match first {
            Some(first) => same_bytes(source, first, &copy)?,
            None => false,
        };
        let which = if same { "the same values" } else { "other values" };
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

/// A tensor of which the index says that it lies in another file.
struct SecondCopy {
    tensor: Tensor,
    /// The file that has it too.
    file: String,
    /// The file that the index names.
    place: String,
}

/// The shards that an index names, of its bytes.
///
/// # Errors
/// It is none.
pub fn shards(index: &[u8]) -> Result<Vec<String>> {
    Ok(Index::read(index)?.weight_map.files)
}

/// An index of shards. Its other keys are held to JSON alone.
#[derive(Default)]
struct Index {
    weight_map: WeightMap,
    metadata: Option<StrictJson>,
}

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Index, D::Error> {
        deserializer.deserialize_map(IndexVisitor)
    }
}

struct IndexVisitor;

impl<'de> Visitor<'de> for IndexVisitor {
    type Value = Index;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an index of shards")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Index, A::Error> {
        let (mut index, mut known, mut has_map) = (Index::default(), HashSet::default(), false);
        while let Some(key) = entries.next_key::<String>()? {
            match key.as_str() {
                "weight_map" => {
                    index.weight_map = entries.next_value()?;
                    has_map = true;
                }
                "metadata" => index.metadata = Some(entries.next_value()?),
                _ => _ = entries.next_value::<StrictJson>()?,
            }
            if let Some(twice) = known.replace(key) {
                return Err(A::Error::custom(format!("the key {twice:?} stands twice")));
            }
        }
        if !has_map {
            return Err(A::Error::missing_field("weight_map"));
        }
        Ok(index)
    }
}

impl Index {
    /// Reads it in one pass. What is wrong with one is said by the parser of any JSON.
    fn read(bytes: &[u8]) -> Result<Index> {
        let malformed = |message: String| Err(Error::new(ErrorKind::Malformed, message));
        let err = match serde_json::from_slice(bytes) {
            Ok(index) if bytes.len() as u64 <= json::MAX_JSON_LEN => return Ok(index),
            Ok(_) => None,
            Err(err) => Some(err),
        };
        let index = json::parse(bytes, 0)?;
        let Some(Json::Object(map)) = index.get("weight_map") else {
            return malformed("a shard index has an object `weight_map`; there is none".to_owned());
        };
        let wrong = map.iter().filter(|(_, file)| !file.is_string());
        if let Some((tensor, file)) = wrong.min_by_key(|(tensor, _)| *tensor) {
            return malformed(format!(
                "`weight_map` gives `{tensor}` {file}, where a file name should be"
            ));
        }
        Err(err.map_or_else(|| Error::limit(0, "a long index"), |err| json::error(bytes, 0, &err)))
    }
}

/// Which file each tensor is in, by an index. Names of files, which are few, are kept once.
#[derive(Default)]
struct WeightMap {
    files: Vec<String>,
    places: HashMap<Box<str>, Place>,
}

struct Place {
    /// The place in `files`.
    file: usize,
    /// Whether that file has it.
    is_found: bool,
}

impl WeightMap {
    /// The same, of names that are joined by slashes.
    fn joined_by_dots(self) -> WeightMap {
        let dotted = |(name, place): (Box<str>, Place)| (name.replace('/', ".").into(), place);
        WeightMap { places: self.places.into_iter().map(dotted).collect(), ..self }
    }

    fn file(&self, tensor: &str) -> Option<&str> {
        self.places.get(tensor).map(|place| self.files[place.file].as_str())
    }

    /// The tensors that a file should have and that were not found, sorted.
    fn missing(&self, file: usize) -> Vec<&str> {
        let missing = self.places.iter().filter(|(_, place)| place.file == file && !place.is_found);
        let mut missing: Vec<&str> = missing.map(|(name, _)| name.as_ref()).collect();
        missing.sort_unstable();
        missing
    }
}

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WeightMap, D::Error> {
        deserializer.deserialize_map(WeightMapVisitor)
    }
}

struct WeightMapVisitor;

impl<'de> Visitor<'de> for WeightMapVisitor {
    type Value = WeightMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of file names by tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<WeightMap, A::Error> {
        let mut map = WeightMap::default();
        let mut numbers: HashMap<String, usize> = HashMap::default();
        while let Some(tensor) = entries.next_key::<Box<str>>()? {
            let Text(name) = entries.next_value()?;
            let file = match numbers.get(name.as_ref()) {
                Some(number) => *number,
                None => {
                    map.files.push(name.to_string());
                    numbers.insert(name.into_owned(), map.files.len() - 1);
                    map.files.len() - 1
                }
            };
            match map.places.entry(tensor) {
                Entry::Vacant(free) => _ = free.insert(Place { file, is_found: false }),
                Entry::Occupied(taken) => {
                    return Err(A::Error::custom(format!(
                        "the key {:?} stands twice",
                        taken.key()
                    )));
                }
            }
        }
        Ok(map)
    }
}

/// A text, borrowed from the file where it has no escapes.
#[derive(Deserialize)]
struct Text<'t>(#[serde(borrow)] Cow<'t, str>);

/// Whether two tensors of files are alike to the last byte.
fn same_bytes(source: &Source, left: &Tensor, right: &Tensor) -> Result<bool> {
    let (Payload::Range(of_left), Payload::Range(of_right)) = (&left.payload, &right.payload)
    else {
        return Ok(false);
    };
    let alike = left.dtype == right.dtype && left.shape == right.shape;
    Ok(alike && source.slice(*of_left)? == source.slice(*of_right)?)
}
