//! Keys with kinds as a config, and a config as keys with kinds: how mappings read and write the
//! metadata of a GGUF file.
//!
//! Beside the keys of the file a mapping reads what tensors say and no key does: `rows.NAME` and
//! `columns.NAME`, the first and the last dimension of a tensor; `blocks.NAME`, the blocks, in
//! order, that have a tensor `NAME`; and `values.NAME`, the numbers of a vector.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::Tensors;
use super::program::{Content, Output};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits::MAX_LIST;
use crate::base::source::{Extent, Source};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor};
use crate::metadata::{Array, Metadata, Value};
use crate::spec::Spec;
use crate::spec::ecosystem::GGUF;
use crate::spec::map::Map;

/// What mappings read of the tensors: no keys of a file.
const OF_TENSORS: [&str; 4] = ["rows.", "columns.", "blocks.", "values."];

/// The keys of a checkpoint and what its tensors say, as a mapping reads them. The numbers of vectors
/// are those that a mapping of the format asks for.
pub fn config(spec: &Spec, checkpoint: &Checkpoint, source: &Source) -> Json {
    let mut config = keys(&checkpoint.typed_metadata);
    let shapes = checkpoint.tensors.iter();
    let shapes = shapes.map(|tensor| (tensor.name.as_str(), tensor.logical_shape()));
    add_shapes(&mut config, shapes);
    let maps = spec.maps_of(GGUF.format);
    let paths = maps.flat_map(|map| map.keys.iter().flat_map(|key| &key.from));
    let asked: BTreeSet<&str> = paths.filter_map(|path| path.strip_prefix("values.")).collect();
    let vectors = checkpoint.tensors.iter().filter(|tensor| asked.contains(tensor.name.as_str()));
    add_values(
        &mut config,
        vectors.filter_map(|tensor| Some((&*tensor.name, values(tensor, source)?))),
    );
    config
}

/// The numbers of a vector.
fn values(tensor: &Tensor, source: &Source) -> Option<Json> {
    let Payload::Range(extent) = &tensor.payload else { return None };
    let is_vector = tensor.dtype == DType::F32 && tensor.shape.len() == 1;
    if !is_vector || tensor.encoding.is_some() || 4 * (MAX_LIST as u64) < extent.len {
        return None;
    }
    let numbers = source.slice(*extent).ok()?.chunks_exact(4);
    numbers.map(|bytes| single(f32::from_le_bytes(bytes.try_into().ok()?))).collect()
}

fn add_values<'a>(config: &mut Json, vectors: impl Iterator<Item = (&'a str, Json)>) {
    let Json::Object(config) = config else { return };
    let values: serde_json::Map<String, Json> =
        vectors.map(|(name, numbers)| (name.to_owned(), numbers)).collect();
    config.insert("values".to_owned(), Json::Object(values));
}

/// The checkpoint with the lists of a number for each block that a mapping takes for tensors; `None`
/// if it has none. The bytes are added to the source.
pub fn with_numbers(map: &Map, checkpoint: &Checkpoint, source: &mut Source) -> Option<Checkpoint> {
    let mut tensors = checkpoint.tensors.clone();
    for key in &map.per_block_arrays {
        let array = checkpoint.typed_metadata.get(key).and_then(Value::as_array);
        let Some(Array::F32(numbers)) = array.filter(|array| array.len() <= MAX_LIST) else {
            continue;
        };
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let file = source.add_bytes(key, bytes);
        tensors.extend((0..numbers.len() as u64).map(|block| Tensor {
            name: number_name(block, key).into(),
            dtype: DType::F32,
            shape: Vec::new(),
            encoding: None,
            payload: Payload::Range(Extent { file, start: 4 * block, len: 4 }),
        }));
    }
    (checkpoint.tensors.len() < tensors.len()).then(|| Checkpoint {
        format: checkpoint.format,
        tensors,
        metadata: checkpoint.metadata.clone(),
        typed_metadata: checkpoint.typed_metadata.clone(),
        findings: checkpoint.findings.clone(),
        checksums: checkpoint.checksums.clone(),
        signatures: checkpoint.signatures.clone(),
    })
}

fn number_name(block: u64, key: &str) -> String {
    format!("blk.{block}.{key}")
}

/// Takes the tensors that are lists among the keys out of what is written, and sets those keys.
///
/// # Errors
/// The values of one cannot be had, or it is no single F32.
pub fn take_numbers(
    map: &Map,
    tensors: &mut Tensors,
    metadata: &mut Metadata,
    value: impl Fn(&Tensors, &Output) -> Result<Vec<u8>>,
) -> Result<()> {
    for key in &map.per_block_arrays {
        let mut numbers = Vec::new();
        for block in 0.. {
            let name = number_name(block, key);
            let Some(at) = tensors.outputs.iter().position(|output| output.name == name) else {
                break;
            };
            let output = tensors.outputs.remove(at);
            tensors.steps.remove(at);
            let bytes = value(tensors, &output)?;
            let number = <[u8; 4]>::try_from(bytes).ok().filter(|_| output.dtype == DType::F32);
            let Some(number) = number else {
                let message =
                    format!("`{name}` is {} {:?}, expected an F32", output.dtype, output.shape);
                return Err(Error::new(ErrorKind::Malformed, message));
            };
            numbers.push(f32::from_le_bytes(number));
        }
        if !numbers.is_empty() {
            metadata.set(key, Value::Array(Array::F32(numbers)));
        }
    }
    Ok(())
}

/// The keys alone.
pub fn keys(metadata: &Metadata) -> Json {
    let keys = metadata.iter().filter_map(|(key, value)| Some((key.to_owned(), to_json(value)?)));
    Json::Object(keys.collect())
}

/// Adds what the tensors that are going to be written say: their sizes, and the numbers of those that
/// are made.
pub fn add_sizes(config: &mut Json, tensors: &Tensors) {
    let shapes = tensors.outputs.iter().map(|output| {
        let encoding = tensors.encodings.get(&output.name);
        (output.name.as_str(), encoding.map_or(&*output.shape, |encoding| &*encoding.shape))
    });
    add_shapes(config, shapes);
    let made = tensors.outputs.iter().filter_map(|output| match &output.content {
        Content::Make(made) => Some((output.name.as_str(), made)),
        Content::Whole(_) | Content::Gather(_) => None,
    });
    let vectors = made.filter_map(|(name, made)| {
        let [len] = made.shape.as_slice() else { return None };
        let len = Some(*len).filter(|&len| made.dtype == DType::F32 && len <= MAX_LIST as u64)?;
        let number = |column| single(made.recipe.value((0, column), len) as f32);
        Some((name, (0..len).map(number).collect::<Option<Json>>()?))
    });
    add_values(config, vectors);
}

fn add_shapes<'a>(config: &mut Json, shapes: impl Iterator<Item = (&'a str, &'a [u64])>) {
    let Json::Object(config) = config else { return };
    let (mut rows, mut columns) = (serde_json::Map::new(), serde_json::Map::new());
    let mut blocks: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for (name, shape) in shapes {
        let in_block = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        if let Some((block, name)) = in_block
            && let Ok(block) = block.parse()
        {
            blocks.entry(name).or_default().insert(block);
        }
        if let (Some(first), Some(last)) = (shape.first(), shape.last()) {
            rows.insert(name.to_owned(), (*first).into());
            columns.insert(name.to_owned(), (*last).into());
        }
    }
    config.insert("rows".to_owned(), Json::Object(rows));
    config.insert("columns".to_owned(), Json::Object(columns));
    config.insert("blocks".to_owned(), json!(blocks));
}

/// A value that a mapping can read. An F32 is the shortest decimal number that it is the nearest
/// F32 to: the writer meant 1e-5, not 9.99999974737875e-6.
fn to_json(value: &Value) -> Option<Json> {
    let array = match value {
        Value::F32(value) => return single(*value),
        Value::Array(array) => array,
        Value::String(_) => return value.as_str().map(Json::from),
        other => return Some(other.to_plain(0)),
    };
    if MAX_LIST < array.len() {
        return None;
    }
    match array {
        Array::F32(items) => items.iter().map(|&item| single(item)).collect(),
        Array::Array(_) => None,
        _ => Some(value.to_plain(MAX_LIST)),
    }
}

fn single(value: f32) -> Option<Json> {
    let shortest: f64 = value.to_string().parse().ok()?;
    serde_json::Number::from_f64(shortest).map(Json::Number)
}

/// Sets the keys that a mapping wrote. Numbers get the kinds that llama.cpp's converter gives
/// them: U32 for whole ones, F32 for others, and I32 in arrays.
///
/// # Errors
/// A value has no kind; the key and the reason.
pub fn set_keys(
    metadata: &mut Metadata,
    config: &Json,
) -> std::result::Result<(), (String, String)> {
    let is_key =
        |(key, _): &(String, &Json)| OF_TENSORS.iter().all(|start| !key.starts_with(start));
    for (key, json) in flat(config).into_iter().filter(is_key) {
        let known = metadata.get(&key);
        // What is there already and says the same keeps its kind.
        if known.and_then(to_json).is_some_and(|known| known == *json) {
            continue;
        }
        let value = from_json(json).map_err(|why| (key.clone(), why))?;
        if let Some(value) = value {
            metadata.set(&key, value);
        }
    }
    Ok(())
}

/// Every key with dots, and its value.
fn flat(config: &Json) -> Vec<(String, &Json)> {
    let mut keys = Vec::new();
    let Json::Object(object) = config else { return keys };
    for (key, json) in object {
        match json {
            Json::Object(_) => {
                let inner = flat(json).into_iter();
                keys.extend(inner.map(|(rest, json)| (format!("{key}.{rest}"), json)));
            }
            json => keys.push((key.clone(), json)),
        }
    }
    keys
}

fn from_json(json: &Json) -> std::result::Result<Option<Value>, String> {
    Ok(Some(match json {
        Json::Null => return Ok(None),
        Json::Bool(value) => Value::Bool(*value),
        Json::String(text) => Value::from(text.as_str()),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => match (u32::try_from(int), i32::try_from(int)) {
                (Ok(int), _) => Value::U32(int),
                (_, Ok(int)) => Value::I32(int),
                _ => Value::I64(int),
            },
            (None, Some(float)) => Value::F32(float as f32),
            _ => return Err(format!("{number} fits no kind")),
        },
        Json::Array(items) => Value::Array(array(items)?),
        Json::Object(_) => return Err("an object, where one value is written".to_owned()),
    }))
}

fn array(items: &[Json]) -> std::result::Result<Array, String> {
    if let Some(items) = items.iter().map(Json::as_bool).collect::<Option<Vec<_>>>() {
        return Ok(Array::Bool(items));
    }
    if let Some(items) = items.iter().map(Json::as_str).collect::<Option<Vec<_>>>() {
        return Ok(Array::String(Box::new(items.into_iter().collect())));
    }
    let ints = items.iter().map(|item| i32::try_from(item.as_i64()?).ok());
    if let Some(items) = ints.collect::<Option<Vec<_>>>() {
        return Ok(Array::I32(items));
    }
    let floats = items.iter().map(|item| item.as_f64().map(|float| float as f32));
    let floats: Option<Vec<f32>> = floats.collect();
    floats.map(Array::F32).ok_or_else(|| "its items are of several kinds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_as_they_were() {
        let mut metadata = Metadata::default();
        for (key, value) in [
            ("x.eps", Value::F32(1e-5)),
            ("x.theta", Value::F32(10000.0)),
            ("x.heads", Value::Array(Array::I32(vec![4, 2]))),
            ("x.big", Value::U64(7)),
            ("x.on", Value::Bool(true)),
            ("x.labels", Value::Array(Array::String(Box::new(["a", "b"].into_iter().collect())))),
        ] {
            metadata.set(key, value);
        }
        let config = keys(&metadata);
        assert_eq!(config["x.eps"], json!(1e-5));
        assert_eq!(config["x.theta"], json!(10000.0));
        assert_eq!(config["x.labels"], json!(["a", "b"]));
        let mut written = metadata.clone();
        set_keys(&mut written, &config).unwrap();
        assert_eq!(written, metadata);
    }

    #[test]
    fn blocks_are_listed_by_what_they_have() {
        let mut config = json!({});
        let names = ["blk.10.a.weight", "blk.2.a.weight", "blk.2.b", "a.weight", "blk.x.a.weight"];
        add_shapes(&mut config, names.into_iter().map(|name| (name, &[1, 2][..])));
        assert_eq!(config["blocks"], json!({"a.weight": [2, 10], "b": [2]}));
        let mut metadata = Metadata::default();
        set_keys(&mut metadata, &config).unwrap();
        assert_eq!(metadata, Metadata::default());
    }

    #[test]
    fn lists_of_numbers_are_tensors_and_lists_again() {
        let spec = Spec::current();
        let map =
            spec.maps.values().find(|map| 1 < map.per_block_arrays.len()).expect("one has some");
        let (key, other) = (&map.per_block_arrays[0], &map.per_block_arrays[1]);
        let mut checkpoint = Checkpoint::default();
        for (key, numbers) in [(key, vec![0.5, -1.5]), (other, vec![0.0; MAX_LIST + 1])] {
            checkpoint.typed_metadata.set(key, Value::Array(Array::F32(numbers)));
        }
        let mut source = Source::new("");
        let with = with_numbers(map, &checkpoint, &mut source).unwrap();
        let names: Vec<&str> = with.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, [number_name(0, key), number_name(1, key)], "no list is that long");
        let mut tensors = Tensors::default();
        for tensor in &with.tensors {
            let first = tensors.inputs.len();
            let (inputs, output) = crate::plan::whole::whole(tensor, first).unwrap();
            tensors.inputs.extend(inputs);
            tensors.outputs.push(output);
            tensors.steps.push(crate::plan::Step {
                from: Box::default(),
                ops: "".into(),
                class: crate::plan::Exactness::Exact,
            });
        }
        let mut metadata = Metadata::default();
        let bytes = |tensors: &Tensors, output: &Output| {
            let at = tensors.inputs.iter().find(|input| input.name == output.name).unwrap();
            Ok(source.slice(at.storage)?.to_vec())
        };
        take_numbers(map, &mut tensors, &mut metadata, bytes).unwrap();
        assert!(tensors.outputs.is_empty() && tensors.steps.is_empty());
        assert_eq!(metadata.get(key), checkpoint.typed_metadata.get(key));
        assert!(metadata.get(other).is_none());
    }

    #[test]
    fn new_keys_get_kinds() {
        let mut metadata = Metadata::default();
        let config = json!({"rows": {"a": 1}, "x": {"n": 3, "eps": 1e-6, "skip": null,
            "list": [1, -2], "labels": ["a", "b"], "rates": [1.0, 2.5], "flags": [true]}});
        set_keys(&mut metadata, &config).unwrap();
        let found: Vec<_> = metadata.iter().map(|(key, value)| (key, value.kind_name())).collect();
        let expected = [
            ("x.n", "u32"),
            ("x.eps", "f32"),
            ("x.list", "[i32]"),
            ("x.labels", "[string]"),
            ("x.rates", "[f32]"),
            ("x.flags", "[bool]"),
        ];
        assert_eq!(found, expected.map(|(key, kind)| (key, kind.to_owned())));
        let wrong = json!({"x": ["a", 1]});
        assert_eq!(set_keys(&mut metadata, &wrong).unwrap_err().0, "x");
    }
}
