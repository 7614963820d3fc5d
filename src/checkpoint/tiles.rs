//! Tensors that lie in boxes, and the proof that the boxes hold every element once.

use std::cmp::Reverse;
use std::fmt;

use super::{View, n_elements, row_major_strides};

/// A box of a tensor's elements that has a place of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// The index of its first element in the tensor, along each dimension.
    pub at: Vec<u64>,
    /// Its dimensions.
    pub shape: Vec<u64>,
    /// Its elements. Where there is a coding, `storage` is what the file holds, and `offset` and
    /// `strides` count elements of the decoded bytes.
    pub data: View,
    /// How its bytes are coded, where they are not stored as they are.
    pub coding: Option<Coding>,
}

/// What stands between the bytes of a file and those of elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coding {
    /// The steps, in the order in which they are undone.
    pub steps: Vec<Filter>,
    /// The number of decoded bytes.
    pub len: u64,
}

/// A step of a [`Coding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// RFC 1951, without a frame.
    Deflate,
    /// RFC 1950.
    Zlib,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// The bytes of elements of so many bytes are sorted by their place in the element: all first
    /// bytes, then all second ones.
    Shuffle(u64),
    /// Four bytes of CRC-32C behind the others, low byte first.
    Crc32c,
    /// Four bytes of HDF5's Fletcher-32 behind the others.
    Fletcher32,
    /// The CRC-32 of the bytes is this.
    Crc32(u32),
    /// So many bytes before the others are no elements.
    Skip(u64),
    /// The bytes are numbers of protocol buffers; of each the low bytes, so many, count.
    Varints(u64),
    /// The bytes hold integers of so many bits, the first in the low ones; each becomes a byte.
    Unpack {
        /// 1, 2 or 4.
        bits: u8,
        /// Whether the highest bit is a sign.
        signed: bool,
    },
}

/// Why boxes are not the whole of a tensor, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The tile of this number has another number of dimensions than the tensor, or passes it.
    Outside(usize),
    /// Two tiles hold the same element.
    Overlap(usize, usize),
    /// Some elements are in no tile: how many.
    Missing(u64),
    /// There are too many tiles that lie in no grid for this program to compare each with each.
    TooIrregular(usize),
}

/// Tiles that no cut through the whole separates are compared each with each up to this many.
const MAX_IRREGULAR: usize = 4096;
/// How often a tile is sorted at the average.
const MAX_SORTS: usize = 64;

/// Proves that tiles hold every element of a tensor once.
///
/// # Errors
/// They do not.
pub fn prove_cover(shape: &[u64], tiles: &[Tile]) -> Result<(), Fault> {
    let mut filled = 0u64;
    let mut some = Vec::with_capacity(tiles.len());
    for (index, tile) in tiles.iter().enumerate() {
        let inside = tile.at.len() == shape.len()
            && tile.shape.len() == shape.len()
            && tile
                .at
                .iter()
                .zip(&tile.shape)
                .zip(shape)
                .all(|((at, len), dim)| at.checked_add(*len).is_some_and(|end| end <= *dim));
        let n = n_elements(&tile.shape).filter(|_| inside).ok_or(Fault::Outside(index))?;
        // More than all are in some tile twice, which the comparison finds.
        filled = filled.saturating_add(n);
        if n != 0 {
            some.push(index);
        }
    }
    disjoint(tiles, some)?;
    let n = n_elements(shape).unwrap_or(u64::MAX);
    if filled == n { Ok(()) } else { Err(Fault::Missing(n.saturating_sub(filled))) }
}

/// A box of a run of elements: where it begins in the tensor, its dimensions, and where it begins in
/// the run.
pub type RunBox = (Vec<u64>, Vec<u64>, u64);

/// The boxes that `len` elements make that follow each other in a row-major tensor from element
/// `start` on; `None` where they pass the tensor.
pub fn boxes_of_run(shape: &[u64], start: u64, len: u64) -> Option<Vec<RunBox>> {
    let total = n_elements(shape)?;
    let end = start.checked_add(len).filter(|&end| end <= total)?;
    let strides = row_major_strides(shape);
    let mut boxes = Vec::new();
    let mut next = start;
    while next < end {
        let at: Vec<u64> =
            strides.iter().zip(shape).map(|(stride, dim)| next / stride % dim).collect();
        // The slowest axis along which whole entries follow from here.
        let fits = |axis: usize| {
            at[axis + 1..].iter().all(|&index| index == 0) && strides[axis] <= end - next
        };
        let mut size = vec![1; shape.len()];
        let mut n = 1;
        if let Some(axis) = (0..shape.len()).find(|&axis| fits(axis)) {
            let count = (shape[axis] - at[axis]).min((end - next) / strides[axis]);
            size[axis] = count;
            size[axis + 1..].copy_from_slice(&shape[axis + 1..]);
            n = count * strides[axis];
        }
        boxes.push((at, size, next - start));
        next += n;
    }
    Some(boxes)
}

/// Cuts the tiles apart along one dimension after the other, as long as a cut separates some; what
/// is left together is compared each with each.
fn disjoint(tiles: &[Tile], all: Vec<usize>) -> Result<(), Fault> {
    let n_all = all.len();
    // A grid is cut once along each dimension. Where a cut takes away a tile or two each time, as
    // from a staircase, the work would grow with the square of their number.
    let mut work = n_all.saturating_mul(MAX_SORTS).saturating_add(MAX_IRREGULAR * MAX_SORTS);
    let mut groups = vec![all];
    while let Some(mut group) = groups.pop() {
        let n_axes = group.first().map_or(0, |&first| tiles[first].at.len());
        let mut pieces: Vec<Vec<usize>> = Vec::new();
        for axis in 0..n_axes {
            work = work.checked_sub(group.len()).ok_or(Fault::TooIrregular(n_all))?;
            let end = |index: usize| tiles[index].at[axis] + tiles[index].shape[axis];
            group.sort_by_key(|&index| (tiles[index].at[axis], Reverse(end(index))));
            pieces.clear();
            let mut reached = 0;
            for &index in &group {
                if pieces.is_empty() || reached <= tiles[index].at[axis] {
                    pieces.push(Vec::new());
                }
                reached = reached.max(end(index));
                pieces.last_mut().expect("just pushed").push(index);
            }
            if 1 < pieces.len() {
                break;
            }
        }
        if pieces.len() < 2 {
            each_with_each(tiles, &group)?;
        } else {
            groups.extend(pieces.into_iter().filter(|piece| 1 < piece.len()));
        }
    }
    Ok(())
}

fn each_with_each(tiles: &[Tile], group: &[usize]) -> Result<(), Fault> {
    if MAX_IRREGULAR < group.len() {
        return Err(Fault::TooIrregular(group.len()));
    }
    for (n, &left) in group.iter().enumerate() {
        for &right in &group[n + 1..] {
            let (a, b) = (&tiles[left], &tiles[right]);
            let meets = (0..a.at.len()).all(|axis| {
                a.at[axis] < b.at[axis] + b.shape[axis] && b.at[axis] < a.at[axis] + a.shape[axis]
            });
            if meets {
                return Err(Fault::Overlap(left.min(right), left.max(right)));
            }
        }
    }
    Ok(())
}

impl Fault {
    /// What is wrong, for people; `file` names the file that a tile lies in.
    pub fn tell(&self, shape: &[u64], tiles: &[Tile], file: &dyn Fn(&Tile) -> String) -> String {
        let about = |index: usize| {
            let tile = &tiles[index];
            format!("tile {index} at {:?} of {:?}{}", tile.at, tile.shape, file(tile))
        };
        match *self {
            Fault::Outside(index) => format!("{} is no box inside {shape:?}", about(index)),
            Fault::Overlap(left, right) => {
                format!("{} lies over {}", about(right), about(left))
            }
            Fault::Missing(n) => format!(
                "{n} elements of {shape:?} are in none of its {} tiles{}",
                tiles.len(),
                tiles
                    .last()
                    .map(|_| format!(", the last of which is {}", about(tiles.len() - 1)))
                    .unwrap_or_default()
            ),
            Fault::TooIrregular(n) => format!("{n} of its tiles lie in no grid"),
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Filter::Deflate => "deflate",
            Filter::Zlib => "zlib",
            Filter::Gzip => "gzip",
            Filter::Zstd => "zstd",
            Filter::Shuffle(_) => "shuffle",
            Filter::Crc32c => "crc32c",
            Filter::Fletcher32 => "fletcher32",
            Filter::Crc32(_) => "crc32",
            Filter::Skip(_) => "skip",
            Filter::Varints(_) => "varints",
            Filter::Unpack { .. } => "unpack",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::source::Source;

    fn tiles(boxes: &[(&[u64], &[u64])]) -> Vec<Tile> {
        let source = Source::from_bytes("x", &[0; 4]);
        let storage = source.extent(source.files().next().unwrap());
        let tile = |&(at, shape): &(&[u64], &[u64])| Tile {
            at: at.to_vec(),
            shape: shape.to_vec(),
            data: View { storage, offset: 0, strides: vec![0; shape.len()], big_endian: false },
            coding: None,
        };
        boxes.iter().map(tile).collect()
    }

    #[test]
    fn a_grid_and_a_pinwheel_cover() {
        let grid: Vec<(Vec<u64>, Vec<u64>)> = (0..100u64)
            .flat_map(|i| (0..100u64).map(move |j| (vec![3 * i, 2 * j], vec![3, 2])))
            .collect();
        let grid: Vec<(&[u64], &[u64])> = grid.iter().map(|(a, b)| (&a[..], &b[..])).collect();
        assert_eq!(prove_cover(&[300, 200], &tiles(&grid)), Ok(()));
        // No straight cut goes through this one.
        let pinwheel: &[(&[u64], &[u64])] = &[
            (&[0, 0], &[1, 2]),
            (&[0, 2], &[2, 1]),
            (&[2, 1], &[1, 2]),
            (&[1, 0], &[2, 1]),
            (&[1, 1], &[1, 1]),
        ];
        assert_eq!(prove_cover(&[3, 3], &tiles(pinwheel)), Ok(()));
        assert_eq!(prove_cover(&[], &tiles(&[(&[], &[])])), Ok(()));
        assert_eq!(prove_cover(&[0, 3], &tiles(&[])), Ok(()));
    }

    #[test]
    fn runs_of_elements_are_boxes() {
        let shape = [3u64, 4, 5];
        for (start, end) in (0..=60).flat_map(|a| (a..=60).map(move |b| (a, b))) {
            let boxes = boxes_of_run(&shape, start, end - start).unwrap();
            assert!(boxes.len() <= 5, "{boxes:?}");
            let mut run = start;
            for (at, size, offset) in boxes {
                assert_eq!(offset, run - start);
                for i in 0..size[0] {
                    for j in 0..size[1] {
                        for k in 0..size[2] {
                            let place = ((at[0] + i) * 4 + at[1] + j) * 5 + at[2] + k;
                            assert_eq!(place, run);
                            run += 1;
                        }
                    }
                }
            }
            assert_eq!(run, end);
        }
        assert_eq!(boxes_of_run(&shape, 59, 2), None);
        assert_eq!(boxes_of_run(&[], 0, 1), Some(vec![(vec![], vec![], 0)]));
    }

    #[test]
    fn a_staircase_is_cut_or_refused_in_time() {
        // Each step is an L of two boxes around the rest, so that a cut takes away one.
        let stairs = |n: u64| {
            let boxes = (0..n)
                .flat_map(|i| [(vec![i, i], vec![1, n - i]), (vec![i + 1, i], vec![n - i - 1, 1])]);
            let boxes: Vec<(Vec<u64>, Vec<u64>)> = boxes.collect();
            let boxes: Vec<(&[u64], &[u64])> =
                boxes.iter().map(|(a, b)| (&a[..], &b[..])).collect();
            prove_cover(&[n, n], &tiles(&boxes))
        };
        assert_eq!(stairs(100), Ok(()));
        assert!(matches!(stairs(100_000), Err(Fault::TooIrregular(_))));
    }

    #[test]
    fn gaps_overlaps_and_strays_are_found() {
        let fault = |shape: &[u64], boxes: &[(&[u64], &[u64])]| {
            prove_cover(shape, &tiles(boxes)).unwrap_err()
        };
        assert_eq!(fault(&[4], &[(&[0], &[2])]), Fault::Missing(2));
        assert_eq!(fault(&[], &[]), Fault::Missing(1));
        assert_eq!(fault(&[], &[(&[], &[]), (&[], &[])]), Fault::Overlap(0, 1));
        assert_eq!(fault(&[4], &[(&[0], &[3]), (&[2], &[2])]), Fault::Overlap(0, 1));
        assert_eq!(fault(&[4, 2], &[(&[0], &[4])]), Fault::Outside(0));
        assert_eq!(fault(&[4], &[(&[u64::MAX], &[4])]), Fault::Outside(0));
        // As many elements as there should be, one of them twice.
        let fault = fault(&[2, 2], &[(&[0, 0], &[2, 1]), (&[0, 0], &[1, 2])]);
        assert_eq!(fault, Fault::Overlap(0, 1));
    }
}
