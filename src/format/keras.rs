//! Keras and TensorFlow's HDF5 files: `tf_model.h5`, `.weights.h5`, `.h5`.
//!
//! A tensor's name is its path in the file: the group of a layer, and the name of a variable.

use super::{Format, Probe};
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

fn probe(head: &[u8], _: &str) -> Probe {
    if head.starts_with(hdf5::SIGNATURE) { Probe::Sure } else { Probe::No }
}

fn read(source: &mut Source, file: FileId) -> Result<Checkpoint> {
    let extent = source.extent(file);
    let datasets = hdf5::read(source.bytes(file));
    let datasets = datasets.map_err(|err| err.in_file(source.path(file)))?;
    let tensors = datasets.into_iter().map(|dataset| tensor(dataset, extent)).collect();
    Ok(Checkpoint { format: FORMAT.id, tensors, ..Checkpoint::default() })
}

fn tensor(dataset: Dataset, file: Extent) -> Tensor {
    let Dataset { path, shape, elements } = dataset;
    let (dtype, payload) = match elements {
        Ok(Elements { dtype, big_endian, place }) => {
            (dtype, payload(&shape, dtype, big_endian, place, file))
        }
        Err(why) => (DType::Unknown, Payload::Unreadable(why)),
    };
    Tensor { name: path, dtype, shape, encoding: None, payload }
}

fn payload(shape: &[u64], dtype: DType, big_endian: bool, place: Place, file: Extent) -> Payload {
    match place {
        Place::Whole(start, len) => {
            let wanted = n_elements(shape).and_then(|n| dtype.n_bytes(n));
            let storage = Extent { start, len, ..file };
            match wanted {
                Some(wanted) if wanted <= len && big_endian => Payload::View(View {
                    storage,
                    offset: 0,
                    strides: row_major_strides(shape),
                    big_endian,
                }),
                Some(wanted) if wanted <= len => Payload::Range(Extent { len: wanted, ..storage }),
                _ => Payload::Unreadable(format!("has {len} bytes for {shape:?} of {dtype}")),
            }
        }
        Place::Chunks { shape: chunk, chunks } => {
            let len = n_elements(&chunk).and_then(|n| dtype.n_bytes(n)).unwrap_or(u64::MAX);
            let tiles = chunks.into_iter().map(|of| {
                // At the edge a chunk is as long as elsewhere, and passes the dataset.
                let inside = of.at.iter().zip(shape).zip(&chunk);
                let inside = inside.map(|((at, dim), chunk)| dim.saturating_sub(*at).min(*chunk));
                let storage = Extent { start: of.offset, len: of.len, ..file };
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
