//! Arrays of zarr 2 and 3: a description, and chunks under the numbers of their place.

use serde_json::Value as Json;

use super::Store;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::json;
use crate::base::source::{Extent, Source};
use crate::checkpoint::tiles::{Coding, Filter, Tile};
use crate::checkpoint::{DType, Payload, Tensor, View, n_elements, row_major_strides};
use crate::format::{flax, numpy};

/// The most dimensions of an array.
const MAX_RANK: usize = 32;
/// An inner chunk of a shard that is not there.
const ABSENT: u64 = u64::MAX;
/// A chunk is decoded as a whole.
const MAX_CHUNK_LEN: u64 = 4 << 30;

/// A description.
struct Array {
    shape: Vec<u64>,
    /// The dimensions of what has a key of its own.
    chunk: Vec<u64>,
    dtype: DType,
    big_endian: bool,
    fortran: bool,
    /// What is undone, first to last.
    steps: Vec<Filter>,
    /// The dimensions of the chunks in a shard, and whether its index has a checksum.
    inner: Option<(Vec<u64>, bool)>,
    /// Whether what is absent is 0.
    is_zero: bool,
    /// What stands before and between the numbers of a chunk; that of an array without axes.
    key: (&'static str, String, &'static str),
}

/// Reads an array; `room` is how many chunks there may still be. Where nothing `fills` what is absent,
/// every chunk has to be there.
pub(super) fn read(
    source: &mut Source,
    store: &Store,
    name: &str,
    fills: bool,
    room: &mut usize,
) -> Result<Tensor> {
    let found = match store.find(source, &format!("{name}/zarr.json"))? {
        Some(extent) => Some((extent, 3)),
        None => store.find(source, &format!("{name}/.zarray"))?.map(|extent| (extent, 2)),
    };
    let mut tensor = Tensor {
        name: name.into(),
        dtype: DType::Unknown,
        shape: Vec::new(),
        encoding: None,
        payload: Payload::Unreadable("its array is not there".to_owned()),
    };
    let Some((extent, version)) = found else { return Ok(tensor) };
    let path = source.path(extent.file).to_owned();
    let text = source.slice(extent)?;
    let array = json::parse(text, extent.start).map_err(|err| err.in_file(&path))?;
    tensor.shape = sizes(array.get("shape"))
        .ok_or_else(|| malformed("its `shape` is no list of dimensions").in_file(&path))?;
    let array = if version == 3 { version_3(&array) } else { version_2(&array) };
    let payload = match array {
        Ok(array) => {
            tensor.dtype = array.dtype;
            let tiles = Reader { source, store, name, array: &array, fills, room }.tiles()?;
            tiles.map_or_else(Payload::Unreadable, Payload::Tiles)
        }
        Err(why) => Payload::Unreadable(why),
    };
    tensor.payload = payload;
    Ok(tensor)
}

fn malformed(message: &str) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

fn sizes(json: Option<&Json>) -> Option<Vec<u64>> {
    let list = json?.as_array().filter(|list| list.len() <= MAX_RANK)?;
    list.iter().map(Json::as_u64).collect()
}

fn text<'j>(json: &'j Json, key: &str) -> Option<&'j str> {
    json.get(key).and_then(Json::as_str)
}

fn is_zero(fill: Option<&Json>) -> bool {
    match fill {
        None | Some(Json::Null) => true,
        Some(Json::Bool(value)) => !value,
        Some(value) => value.as_f64() == Some(0.0),
    }
}

fn version_2(json: &Json) -> Result<Array, String> {
    let shape = sizes(json.get("shape")).unwrap_or_default();
    let chunk = sizes(json.get("chunks")).ok_or("its `chunks` are no list of dimensions")?;
    let name = text(json, "dtype").ok_or("its dtype is no number")?;
    let (dtype, big_endian) = match flax::dtype(name) {
        Some(dtype) => (dtype, false),
        None => numpy::dtype(name)?,
    };
    let filters = json.get("filters").filter(|filters| !filters.is_null());
    if filters.is_some_and(|filters| filters.as_array().is_none_or(|list| !list.is_empty())) {
        return Err("its chunks are behind filters of numcodecs".to_owned());
    }
    let steps = match json.get("compressor") {
        None | Some(Json::Null) => Vec::new(),
        Some(compressor) => vec![compression(text(compressor, "id").unwrap_or_default())?],
    };
    let separator = if text(json, "dimension_separator") == Some("/") { "/" } else { "." };
    checked(Array {
        shape,
        chunk,
        dtype,
        big_endian,
        fortran: text(json, "order") == Some("F"),
        steps,
        inner: None,
        is_zero: is_zero(json.get("fill_value")),
        key: ("", separator.to_owned(), "0"),
    })
}

fn compression(id: &str) -> Result<Filter, String> {
    Ok(match id {
        "zstd" => Filter::Zstd,
        "gzip" => Filter::Gzip,
        "zlib" => Filter::Zlib,
        other => return Err(format!("its chunks are packed with {other:?}; save it with zstd")),
    })
}

fn version_3(json: &Json) -> Result<Array, String> {
    let shape = sizes(json.get("shape")).unwrap_or_default();
    let grid = json.get("chunk_grid");
    let chunk = grid.and_then(|grid| grid.get("configuration"));
    let chunk = sizes(chunk.and_then(|of| of.get("chunk_shape")))
        .filter(|_| grid.and_then(|grid| text(grid, "name")) == Some("regular"))
        .ok_or("its chunks are in no regular grid")?;
    let name = text(json, "data_type").ok_or("its data type is an extension")?;
    let dtype =
        flax::dtype(name).ok_or_else(|| format!("its elements are of the type {name:?}"))?;
    let mut array = Array {
        shape,
        chunk,
        dtype,
        big_endian: false,
        fortran: false,
        steps: Vec::new(),
        inner: None,
        is_zero: is_zero(json.get("fill_value")),
        key: ("c", "/".to_owned(), "c"),
    };
    let encoding = json.get("chunk_key_encoding");
    let separator = encoding.and_then(|of| of.get("configuration"));
    let separator = separator.and_then(|of| text(of, "separator"));
    if encoding.and_then(|of| text(of, "name")) == Some("v2") {
        array.key = ("", separator.unwrap_or(".").to_owned(), "0");
    } else if let Some(separator) = separator {
        array.key.1 = separator.to_owned();
    }
    let codecs = json.get("codecs").and_then(Json::as_array).ok_or("it has no `codecs`")?;
    match codecs.as_slice() {
        [one] if text(one, "name") == Some("sharding_indexed") => {
            let of = one.get("configuration").ok_or("its shards have no description")?;
            let inner = sizes(of.get("chunk_shape")).ok_or("its shards have no `chunk_shape`")?;
            let list = |key: &str| of.get(key).and_then(Json::as_array).cloned();
            let index = list("index_codecs").unwrap_or_default();
            let names: Vec<&str> = index.iter().filter_map(|of| text(of, "name")).collect();
            let has_sum = match names.as_slice() {
                ["bytes"] => false,
                ["bytes", "crc32c"] => true,
                _ => return Err("the index of its shards is packed".to_owned()),
            };
            if text(of, "index_location").is_some_and(|place| place != "end") {
                return Err("the index of its shards is at their start".to_owned());
            }
            array.codecs(&list("codecs").unwrap_or_default())?;
            array.inner = Some((inner, has_sum));
        }
        codecs => array.codecs(codecs)?,
    }
    checked(array)
}

impl Array {
    /// The dimensions of what is packed as one.
    fn packed(&self) -> &[u64] {
        self.inner.as_ref().map_or(&self.chunk, |(inner, _)| inner)
    }

    /// Takes the codecs that made bytes of elements, first to last.
    fn codecs(&mut self, codecs: &[Json]) -> Result<(), String> {
        for codec in codecs {
            let of = codec.get("configuration");
            match text(codec, "name").unwrap_or_default() {
                "bytes" => {
                    let endian = of.and_then(|of| text(of, "endian"));
                    self.big_endian = endian == Some("big");
                }
                "crc32c" => self.steps.insert(0, Filter::Crc32c),
                other => self.steps.insert(0, compression(other)?),
            }
        }
        Ok(())
    }
}

/// Holds dimensions against each other.
fn checked(array: Array) -> Result<Array, String> {
    let Array { shape, chunk, dtype, .. } = &array;
    let inner = array.packed();
    let divides = |(of, by): (&u64, &u64)| *by != 0 && of.is_multiple_of(*by);
    if chunk.len() != shape.len()
        || inner.len() != shape.len()
        || !chunk.iter().zip(inner).all(divides)
    {
        return Err(format!("has chunks of {chunk:?} and {inner:?} for {shape:?}"));
    }
    let bytes = |of: &[u64]| n_elements(of).and_then(|n| dtype.n_bytes(n));
    let (Some(_), Some(len)) = (bytes(shape), bytes(inner)) else {
        return Err(format!("{shape:?} of {dtype} has more bytes than 2^64"));
    };
    if MAX_CHUNK_LEN < len {
        return Err(format!("has chunks of {len} bytes, at most {MAX_CHUNK_LEN} are decoded"));
    }
    Ok(array)
}

struct Reader<'r> {
    source: &'r mut Source,
    store: &'r Store,
    name: &'r str,
    array: &'r Array,
    fills: bool,
    room: &'r mut usize,
}

impl Reader<'_> {
    /// The tiles, or why there are none.
    fn tiles(&mut self) -> Result<std::result::Result<Vec<Tile>, String>> {
        let Array { shape, chunk, .. } = self.array;
        let mut tiles = Vec::new();
        let mut absent = None;
        let counts: Vec<u64> =
            shape.iter().zip(chunk).map(|(dim, chunk)| dim.div_ceil(*chunk)).collect();
        let mut place = vec![0; shape.len()];
        let n = n_elements(&counts).and_then(|n| usize::try_from(n).ok());
        self.take(n.unwrap_or(usize::MAX))?;
        while n_elements(shape) != Some(0) {
            let key = self.key(&place);
            let at: Vec<u64> = place.iter().zip(chunk).map(|(n, chunk)| n * chunk).collect();
            match (self.store.find(self.source, &key)?, &self.array.inner) {
                (None, _) => {
                    absent.get_or_insert(key);
                    tiles.extend(self.empty(&at, chunk));
                }
                (Some(extent), None) => tiles.extend(self.tile(&at, chunk, extent)),
                (Some(extent), Some((inner, has_sum))) => {
                    let found = self.shard(&at, inner, *has_sum, extent, &mut tiles)?;
                    if found {
                        absent.get_or_insert(key);
                    }
                }
            }
            if !next(&mut place, &counts) {
                break;
            }
        }
        // What is not packed has as many bytes as its elements.
        let short = tiles.iter().find(|tile| {
            let len = n_elements(self.array.packed()).and_then(|n| self.array.dtype.n_bytes(n));
            let is_empty = tile.data.strides.iter().all(|stride| *stride == 0);
            tile.coding.is_none() && !is_empty && Some(tile.data.storage.len) != len
        });
        if let Some(short) = short {
            let why = format!("its chunk at {:?} has {} bytes", short.at, short.data.storage.len);
            return Ok(Err(why));
        }
        Ok(match absent {
            Some(key) if !self.fills => Err(format!("its chunk `{key}` is not there")),
            Some(key) if !self.array.is_zero => {
                Err(format!("its chunk `{key}` is not there, and stands for a value that is not 0"))
            }
            _ => Ok(tiles),
        })
    }

    fn take(&mut self, n: usize) -> Result<()> {
        let left = self.room.checked_sub(n);
        *self.room = left.ok_or_else(|| {
            Error::new(ErrorKind::Limit, "the arrays have more chunks than are followed")
        })?;
        Ok(())
    }

    fn key(&self, place: &[u64]) -> String {
        let (start, separator, scalar) = &self.array.key;
        let numbers: Vec<String> = place.iter().map(u64::to_string).collect();
        let numbers = numbers.join(separator);
        let name = self.name;
        match place.is_empty() {
            true => format!("{name}/{scalar}"),
            false if start.is_empty() => format!("{name}/{numbers}"),
            false => format!("{name}/{start}{separator}{numbers}"),
        }
    }

    /// Adds the tiles of a shard; tells whether one is not there.
    fn shard(
        &mut self,
        at: &[u64],
        inner: &[u64],
        has_sum: bool,
        extent: Extent,
        tiles: &mut Vec<Tile>,
    ) -> Result<bool> {
        let chunk = &self.array.chunk;
        let counts: Vec<u64> = chunk.iter().zip(inner).map(|(of, by)| of / by).collect();
        let n = n_elements(&counts).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        self.take(n)?;
        let path = self.source.path(extent.file).to_owned();
        let wrong = |message: &str| Error::malformed(extent.start, message).in_file(&path);
        let bytes = self.source.slice(extent)?;
        let sum_len = if has_sum { 4 } else { 0 };
        let start = (bytes.len()).checked_sub(16 * n + sum_len);
        let start = start.ok_or_else(|| wrong("is too short for the index of a shard"))?;
        let index = &bytes[start..bytes.len() - sum_len];
        let sum =
            bytes[bytes.len() - sum_len..].first_chunk::<4>().map(|of| u32::from_le_bytes(*of));
        if sum.is_some_and(|sum| sum != crc32c::crc32c(index)) {
            return Err(wrong("the checksum of the index of a shard is wrong"));
        }
        let pairs: Vec<(u64, u64)> = index
            .chunks_exact(16)
            .map(|pair| {
                let (offset, len) = pair.split_at(8);
                let number = |of: &[u8]| of.first_chunk().map_or(0, |of| u64::from_le_bytes(*of));
                (number(offset), number(len))
            })
            .collect();
        let mut is_absent = false;
        let mut place = vec![0; inner.len()];
        for (offset, len) in pairs {
            let at: Vec<u64> =
                at.iter().zip(&place).zip(inner).map(|((at, n), of)| at + n * of).collect();
            if (offset, len) == (ABSENT, ABSENT) {
                let empty = self.empty(&at, inner);
                is_absent |= empty.is_some();
                tiles.extend(empty);
            } else {
                let part = offset.checked_add(len).and_then(|end| extent.part(offset, end));
                let part = part.ok_or_else(|| wrong("a chunk passes the end of its shard"))?;
                tiles.extend(self.tile(&at, inner, part));
            }
            next(&mut place, &counts);
        }
        Ok(is_absent)
    }

    /// The part of a chunk that is inside of the array, if any is.
    fn inside(&self, at: &[u64], chunk: &[u64]) -> Option<Vec<u64>> {
        let shape = at.iter().zip(&self.array.shape).zip(chunk);
        let shape: Vec<u64> =
            shape.map(|((at, dim), chunk)| dim.saturating_sub(*at).min(*chunk)).collect();
        (!shape.contains(&0)).then_some(shape)
    }

    fn tile(&self, at: &[u64], chunk: &[u64], storage: Extent) -> Option<Tile> {
        let array = self.array;
        let strides = if array.fortran {
            let turned: Vec<u64> = chunk.iter().rev().copied().collect();
            row_major_strides(&turned).into_iter().rev().collect()
        } else {
            row_major_strides(chunk)
        };
        let len = n_elements(chunk).and_then(|n| array.dtype.n_bytes(n)).unwrap_or(u64::MAX);
        let coding = Coding { steps: array.steps.clone(), len };
        Some(Tile {
            shape: self.inside(at, chunk)?,
            at: at.to_vec(),
            data: View {
                storage,
                offset: 0,
                strides,
                big_endian: array.big_endian && 8 < array.dtype.bits(),
            },
            coding: (!coding.steps.is_empty()).then_some(coding),
        })
    }

    /// A box of zeros, all of them one element.
    fn empty(&mut self, at: &[u64], chunk: &[u64]) -> Option<Tile> {
        let shape = self.inside(at, chunk)?;
        let width = self.array.dtype.n_bytes(1)?;
        let name = format!("zeros of {width} bytes");
        let id = match self.source.find(&name) {
            Some(id) => id,
            None => self.source.add_bytes(&name, vec![0; usize::try_from(width).ok()?]),
        };
        let data = View {
            storage: self.source.extent(id),
            offset: 0,
            strides: vec![0; shape.len()],
            big_endian: false,
        };
        Some(Tile { at: at.to_vec(), shape, data, coding: None })
    }
}

/// The next place of a grid; false after the last.
fn next(place: &mut [u64], counts: &[u64]) -> bool {
    for axis in (0..place.len()).rev() {
        place[axis] += 1;
        if place[axis] < counts[axis] {
            return true;
        }
        place[axis] = 0;
    }
    false
}
