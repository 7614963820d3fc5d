//! Keras and TensorFlow's HDF5 files: `tf_model.h5`, `.weights.h5`, `.h5`.
//!
//! A tensor's name is its path in the file: the group of a layer, and the name of a variable.

use super::{Format, Probe};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::Result;
use crate::base::source::{Extent, FileId, Source};
use crate::checkpoint::tiles::{Coding, Tile};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor, View, n_elements, row_major_strides};
use crate::container::hdf5::{self, Dataset, Elements, Place};

/// The format for the registry.
pub static FORMAT: Format = Format {
    id: "keras",
    name: "HDF5",
    endings: &["h5", "hdf5"],
    singles: &["tf_model.h5"],
    dialect: "keras",
    probe,
    read,
    ..Format::DEFAULT
};

/// Chunks of so many bytes are read whatever the dataset has.
const MIN_CHUNK_LEN: u64 = 64 << 20;

fn probe(head: &[u8], _: &str) -> Probe {
    if head.starts_with(hdf5::SIGNATURE) { Probe::Sure } else { Probe::No }
}

fn read(source: &mut Source, file: FileId) -> Result<Checkpoint> {
    let extent = source.extent(file);
    of_extent(source, extent)
}

/// Reads the HDF5 file that an extent is.
pub(super) fn of_extent(source: &Source, extent: Extent) -> Result<Checkpoint> {
    let file = extent.file;
    let contents = source.slice(extent).and_then(hdf5::read);
    let contents = contents.map_err(|err| err.in_file(source.path(file)))?;
    let mut checkpoint = Checkpoint { format: FORMAT.id, ..Checkpoint::default() };
    for path in contents.links {
        let message = format!("`{path}` is a link to another name, and is left aside");
        checkpoint.findings.push(Diagnostic::note("R014", message).file(source.name(file)));
    }
    for Dataset { path, shape, elements } in contents.datasets {
        let (dtype, payload) = match elements {
            Ok(Elements { dtype, is_opaque, big_endian, place }) => {
                if is_opaque {
                    let finding = super::taken_for_bf16(&path);
                    checkpoint.findings.push(finding.file(source.name(file)));
                }
                (dtype, payload(&shape, dtype, big_endian, place, extent))
            }
            Err(why) => (DType::Unknown, Payload::Unreadable(why)),
        };
        checkpoint.tensors.push(Tensor {
            name: path.into(),
            dtype,
            shape,
            encoding: None,
            payload,
        });
    }
    Ok(checkpoint)
}

fn payload(shape: &[u64], dtype: DType, big_endian: bool, place: Place, file: Extent) -> Payload {
    match place {
        Place::Whole(start, len) => {
            let wanted = n_elements(shape).and_then(|n| dtype.n_bytes(n));
            let storage = Extent { start: file.start.saturating_add(start), len, ..file };
            match wanted {
                Some(wanted) if wanted <= len && big_endian => Payload::View(Box::new(View {
                    storage,
                    offset: 0,
                    strides: row_major_strides(shape),
                    big_endian,
                })),
                Some(wanted) if wanted <= len => Payload::Range(Extent { len: wanted, ..storage }),
                _ => Payload::Unreadable(format!("has {len} bytes for {shape:?} of {dtype}")),
            }
        }
        Place::Chunks { shape: chunk, chunks } => {
            let bytes = |dims: &[u64]| n_elements(dims).and_then(|n| dtype.n_bytes(n));
            let len = bytes(&chunk).unwrap_or(u64::MAX);
            // A chunk is decoded as a whole: one that is far larger than all elements is a trap.
            let most = bytes(shape).unwrap_or(u64::MAX).saturating_mul(16).max(MIN_CHUNK_LEN);
            if most < len {
                let why = format!("has chunks of {len} bytes for {shape:?} of {dtype}");
                return Payload::Unreadable(why);
            }
            let tiles = chunks.into_iter().map(|of| {
                // At the edge a chunk is as long as elsewhere, and passes the dataset.
                let inside = of.at.iter().zip(shape).zip(&chunk);
                let inside = inside.map(|((at, dim), chunk)| dim.saturating_sub(*at).min(*chunk));
                let start = file.start.saturating_add(of.offset);
                let storage = Extent { start, len: of.len, ..file };
                let coding = Coding { steps: of.steps, len };
                Tile {
                    shape: inside.collect(),
                    at: of.at,
                    data: View {
                        storage,
                        offset: 0,
                        strides: row_major_strides(&chunk),
                        big_endian,
                    },
                    coding: (!coding.steps.is_empty()).then_some(coding),
                }
            });
            Payload::Tiles(tiles.collect())
        }
    }
}
