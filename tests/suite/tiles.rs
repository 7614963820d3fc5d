//! Checkpoints whose tensors lie in tiles of two files, some of them compressed, convert to the
//! same bytes as those whose tensors lie in one piece.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use llmstd::base::source::{Extent, FileId};
use llmstd::checkpoint::tiles::{Coding, Filter, Tile};
use llmstd::checkpoint::{Payload, View, row_major_strides};
use llmstd::convert::{Request, convert};
use llmstd::folder::{self, Opened};
use llmstd::spec::Spec;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The elements of a box of a row-major tensor, themselves row-major.
fn cut(bytes: &[u8], width: u64, shape: &[u64], at: &[u64], size: &[u64]) -> Vec<u8> {
    let strides = row_major_strides(shape);
    let mut places = vec![0u64];
    for axis in 0..shape.len() {
        let along = (at[axis]..at[axis] + size[axis]).map(|i| i * strides[axis]);
        places =
            places.iter().flat_map(|place| along.clone().map(move |step| place + step)).collect();
    }
    let element = |place: u64| &bytes[(place * width) as usize..][..width as usize];
    places.into_iter().flat_map(element).copied().collect()
}

/// Two pieces of a dimension, of sizes that differ.
fn pieces(len: u64) -> Vec<(u64, u64)> {
    if len < 2 { vec![(0, len)] } else { vec![(0, len / 3 + 1), (len / 3 + 1, len - len / 3 - 1)] }
}

fn shuffled(bytes: &[u8], width: usize) -> Vec<u8> {
    (0..width).flat_map(|place| bytes.iter().skip(place).step_by(width)).copied().collect()
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Where a tile begins in its tensor, its shape, whether it went to the plain file, and where in it.
type Place = (Vec<u64>, Vec<u64>, bool, u64, u64);

/// Cuts every tensor along all of its dimensions. Tiles go in turn to two files: into the first as
/// they are, high byte first; into the second shuffled, compressed and with a checksum.
fn tiled(mut opened: Opened) -> Opened {
    let (mut plain, mut coded) = (Vec::new(), Vec::new());
    let mut places: Vec<(usize, Vec<Place>)> = Vec::new();
    for (index, tensor) in opened.checkpoint.tensors.iter().enumerate() {
        let Payload::Range(extent) = tensor.payload else { continue };
        let bytes = opened.source.slice(extent).unwrap();
        let width = tensor.dtype.bits() / 8;
        let mut boxes = vec![(vec![], vec![])];
        for &len in &tensor.shape {
            let grown = boxes.iter().flat_map(|(at, size): &(Vec<u64>, Vec<u64>)| {
                let longer = |&(start, n): &(u64, u64)| {
                    ([&at[..], &[start]].concat(), [&size[..], &[n]].concat())
                };
                pieces(len).iter().map(longer).collect::<Vec<_>>()
            });
            boxes = grown.collect();
        }
        let mut list = Vec::new();
        for (number, (at, size)) in boxes.into_iter().enumerate() {
            let elements = cut(bytes, width, &tensor.shape, &at, &size);
            let to_plain = number % 2 == 0;
            let file = if to_plain { &mut plain } else { &mut coded };
            let start = file.len() as u64;
            if to_plain {
                for element in elements.chunks(width as usize) {
                    file.extend(element.iter().rev());
                }
            } else {
                let mut packed = deflated(&shuffled(&elements, width as usize));
                packed.extend(crc32c::crc32c(&packed).to_le_bytes());
                file.extend(packed);
            }
            list.push((at, size, to_plain, start, file.len() as u64 - start));
        }
        places.push((index, list));
    }
    let plain: FileId = opened.source.add_bytes("plain", plain);
    let coded: FileId = opened.source.add_bytes("coded", coded);
    for (index, list) in places {
        let tensor = &mut opened.checkpoint.tensors[index];
        let width = tensor.dtype.bits() / 8;
        let tile = |(at, shape, to_plain, start, len): Place| {
            let n: u64 = shape.iter().product();
            Tile {
                data: View {
                    storage: Extent { file: if to_plain { plain } else { coded }, start, len },
                    offset: 0,
                    strides: row_major_strides(&shape),
                    big_endian: to_plain && 1 < width,
                },
                coding: (!to_plain).then(|| Coding {
                    steps: vec![Filter::Crc32c, Filter::Zlib, Filter::Shuffle(width)],
                    len: n * width,
                }),
                at,
                shape,
            }
        };
        tensor.payload = Payload::Tiles(list.into_iter().map(tile).collect());
    }
    opened
}

fn written(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    if folder.is_file() {
        return BTreeMap::from([("file".to_owned(), fs::read(folder).unwrap())]);
    }
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    // That says which files were read.
    let entries = entries.filter(|entry| entry.file_name() != "source.json");
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

fn check(name: &str, to: &str) {
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let end = if to == "gguf" { ".gguf" } else { "" };
    let (a, b) = (format!("a{end}"), format!("b{end}"));
    let (a, b) = (scratch.path().join(a), scratch.path().join(b));
    let mut request = Request { verify: to == "std", ..Request::new(&spec, &a, to) };
    convert(folder::open(&fixture(name)).unwrap(), &request).unwrap();
    (request.destination, request.n_threads) = (&b, 3);
    let opened = tiled(folder::open(&fixture(name)).unwrap());
    assert!(
        opened.checkpoint.tensors.iter().any(|tensor| match &tensor.payload {
            Payload::Tiles(tiles) => 3 < tiles.len(),
            _ => false,
        }),
        "{name}"
    );
    let report = convert(opened, &request).unwrap();
    if let Some(verified) = report.verified {
        assert_eq!(verified.changed, 0, "{name}");
        assert!(0 < verified.equal, "{name}");
    }
    assert_eq!(written(&a), written(&b), "{name} to {to}");
}

#[test]
fn tiles_convert_as_whole_tensors_do() {
    // Transposed matrices; fused projections split in rows, in groups and in heads; stacked
    // experts; tied and computed tensors.
    for name in ["gpt2-tokens", "bert", "bloom", "falcon-40b", "gpt_neox", "mpt", "dbrx", "mamba2"]
    {
        check(&format!("families/{name}"), "std");
    }
}

#[test]
fn rotary_rows_of_tiles_are_turned() {
    check("hf/llama-untied/src", "gguf");
}

#[test]
fn a_damaged_tile_stops_the_conversion() {
    let scratch = tempfile::tempdir().unwrap();
    let to = scratch.path().join("out");
    let mut opened = tiled(folder::open(&fixture("families/bert")).unwrap());
    let coded = opened.source.find("coded").unwrap();
    let mut bytes = opened.source.bytes(coded).to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let bad = opened.source.add_bytes("bad", bytes);
    for tensor in &mut opened.checkpoint.tensors {
        let Payload::Tiles(tiles) = &mut tensor.payload else { continue };
        for tile in tiles.iter_mut().filter(|tile| tile.data.storage.file == coded) {
            tile.data.storage.file = bad;
        }
    }
    let err = convert(opened, &Request::new(&Spec::current(), &to, "std")).unwrap_err();
    let text = format!("{err:?}");
    assert!(text.contains("crc32c: the checksum is") && text.contains("bad"), "{text}");
    assert!(!to.exists());
}
