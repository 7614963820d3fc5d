//! Where the elements of a tensor lie: the one place that asks what a payload is.

use std::sync::Arc;

use super::layout::{InputBox, Layout};
use super::program::Input;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::Extent;
use crate::checkpoint::tiles::{Coding, Tile, prove_cover};
use crate::checkpoint::{Payload, Tensor, View, row_major_strides};

/// The elements of a tensor, counted in units that are copied.
struct Pieces {
    /// The bytes of an element; 1 where elements are smaller than a byte, and a unit is a byte of
    /// packed elements.
    unit: u64,
    /// The dimensions of the tensor in units.
    shape: Vec<u64>,
    /// Boxes that hold every unit once.
    pieces: Vec<Piece>,
}

/// A box of elements.
struct Piece {
    at: Vec<u64>,
    shape: Vec<u64>,
    storage: Extent,
    coding: Option<Arc<Coding>>,
    offset: u64,
    strides: Vec<u64>,
    big_endian: bool,
}

/// The inputs that read a tensor that is stored as one, which a plan keeps from `first_input` on,
/// and where their elements are in the tensor. Elements smaller than a byte are read as the bytes
/// that they are packed in.
///
/// # Errors
/// The values cannot be had, or the sizes do not fit; the reason, without the tensor's name.
pub(super) fn inputs(tensor: &Tensor, first_input: usize) -> Result<(Vec<Input>, Layout, u64)> {
    let Pieces { unit, shape, pieces } = of(tensor)?;
    let mut inputs = Vec::with_capacity(pieces.len());
    let mut boxes = Vec::with_capacity(pieces.len());
    for piece in pieces {
        boxes.push(InputBox {
            input: first_input + inputs.len(),
            offset: piece.offset,
            at: piece.at,
            shape: piece.shape,
            strides: piece.strides,
        });
        inputs.push(Input {
            name: tensor.name.clone(),
            storage: piece.storage,
            coding: piece.coding,
            dtype: tensor.dtype,
            unit,
            big_endian: piece.big_endian,
            packing: None,
        });
    }
    Ok((inputs, Layout::of_boxes(&shape, boxes), unit))
}

fn of(tensor: &Tensor) -> Result<Pieces> {
    let malformed = |message: String| Error::new(ErrorKind::Malformed, message);
    if let Payload::Unreadable(why) = &tensor.payload {
        return Err(Error::unsupported(why.as_str()));
    }
    let bits = tensor.dtype.bits();
    let n_bytes = tensor.n_bytes();
    let n_bytes = n_bytes.ok_or_else(|| malformed("has more bytes than 2^64".to_owned()))?;
    let packed = !bits.is_multiple_of(8);
    let shape = match tensor.shape.split_last() {
        Some((last, rest)) if packed => match tensor.dtype.n_bytes(*last) {
            Some(row) => [rest, &[row]].concat(),
            // Rows that end inside a byte lie one behind the other.
            None => vec![n_bytes],
        },
        _ => tensor.shape.clone(),
    };
    let unit = if packed { 1 } else { bits / 8 };
    let whole = |storage, offset, strides, big_endian| Piece {
        at: vec![0; shape.len()],
        shape: shape.clone(),
        storage,
        coding: None,
        offset,
        strides,
        big_endian,
    };
    let pieces = match &tensor.payload {
        Payload::Range(extent) => {
            if extent.len != n_bytes {
                let message = format!("takes {n_bytes} bytes, the file has {}", extent.len);
                return Err(Error::malformed(extent.start, message));
            }
            vec![whole(*extent, 0, row_major_strides(&shape), false)]
        }
        Payload::View(view) => {
            if view.strides.len() != tensor.shape.len() {
                return Err(malformed("has not one stride for each dimension".to_owned()));
            }
            if packed {
                let offset = tensor.dtype.n_bytes(view.offset).filter(|_| is_plain(tensor, view));
                let offset = offset
                    .ok_or_else(|| Error::unsupported("a strided view of packed elements"))?;
                vec![whole(view.storage, offset, row_major_strides(&shape), false)]
            } else {
                vec![whole(view.storage, view.offset, view.strides.clone(), view.big_endian)]
            }
        }
        Payload::Tiles(_) if packed => {
            return Err(Error::unsupported("tiles of elements smaller than a byte"));
        }
        Payload::Tiles(tiles) => {
            let proof = prove_cover(&shape, tiles);
            proof.map_err(|fault| malformed(fault.tell(&shape, tiles, &|_| String::new())))?;
            let some = tiles.iter().filter(|tile| !tile.shape.contains(&0));
            some.map(of_tile).collect::<Result<_>>()?
        }
        Payload::Parts(..) => return Err(Error::unsupported("is several stored tensors")),
        Payload::Unreadable(why) => return Err(Error::unsupported(why.as_str())),
    };
    Ok(Pieces { unit, shape, pieces })
}

fn of_tile(tile: &Tile) -> Result<Piece> {
    if tile.data.strides.len() != tile.shape.len() {
        let message = format!("its tile at {:?} has not one stride for each dimension", tile.at);
        return Err(Error::new(ErrorKind::Malformed, message));
    }
    Ok(Piece {
        at: tile.at.clone(),
        shape: tile.shape.clone(),
        storage: tile.data.storage,
        coding: tile.coding.clone().map(Arc::new),
        offset: tile.data.offset,
        strides: tile.data.strides.clone(),
        big_endian: tile.data.big_endian,
    })
}

/// Whether a view is row-major and without holes.
fn is_plain(tensor: &Tensor, view: &View) -> bool {
    let row_major = row_major_strides(&tensor.shape);
    let mut steps = tensor.shape.iter().zip(&view.strides).zip(&row_major);
    steps.all(|((&len, step), row_major)| len <= 1 || step == row_major)
}
