//! Scaled integers and small floats: what all layouts of several tensors come down to.
//!
//! A layout says where the quants of a row are, which scale and zero belong to which of them,
//! and in what types its library computes; the arithmetic is here, once.

use super::number::{Precision, unify_nans};
use super::part::{Part, malformed};
use crate::base::error::Result;

/// Decodes one logical tensor, any range of it at a time.
pub struct Decoder<'a> {
    /// The logical shape, slowest first.
    pub(super) shape: Vec<u64>,
    /// All values.
    pub(super) len: usize,
    /// Values of a row; the last row may be cut short.
    pub(super) row_len: usize,
    pub(super) quants: Quants<'a>,
    pub(super) scale: Grid,
    pub(super) zero: Option<Grid>,
    pub(super) formula: Formula,
}

/// Where the quants are. The rows are those of the decoder.
pub(super) enum Quants<'a> {
    /// A byte each.
    Bytes { bytes: &'a [u8], table: Box<[f32; 256]> },
    /// Two in a byte.
    Nibbles { bytes: &'a [u8], table: [f32; 16], high_first: bool },
    /// So many bits each, the lowest first, each row beginning with a byte of its own.
    Bits { bytes: &'a [u8], bits: usize, row_bytes: usize, offset: i32 },
    /// As bits, in 32-bit words that go on in the next row of `stride` words.
    Columns { bytes: &'a [u8], bits: usize, stride: usize },
    /// Eight of four bits in a word, as AWQ orders them; column c of the words is row c of values.
    Awq { bytes: &'a [u8], stride: usize },
}

/// How a value is computed of quant, scale and zero.
#[derive(Clone, Copy)]
pub(super) enum Formula {
    /// `(q - zero) * scale`, rounded after each.
    Centered { difference: Precision, product: Precision },
    /// `q * scale + zero`, rounded after each.
    Line(Precision),
    /// `q * scale * factor`.
    Factor(f32),
}

/// A number for each block of rows and columns.
pub(super) struct Grid {
    pub(super) values: Vec<f32>,
    /// Rows of a matrix; a stack of matrices has a grid each.
    pub(super) matrix_rows: usize,
    /// Rows of a block.
    pub(super) row_block: usize,
    /// Columns of a block.
    pub(super) col_block: usize,
    /// Rows and columns of the grid of a matrix.
    pub(super) dims: [usize; 2],
    /// The column of the grid of each column, where they are not in order.
    pub(super) group_of: Option<Vec<usize>>,
}

impl Grid {
    /// The grid that `values` of this shape make for `rows` of `cols` values each: one number for
    /// all, one a row, or one a block. `matrix_rows` divides `rows`.
    pub(super) fn of(
        name: &str,
        part: &Part,
        matrix_rows: usize,
        [rows, cols]: [usize; 2],
        block: Option<[usize; 2]>,
    ) -> Result<Grid> {
        let wrong = || {
            let shape = part.shape;
            malformed(format!("{name} is {shape:?}, which is no grid over {rows} x {cols} values"))
        };
        let values = part.numbers(name)?;
        let matrices = rows.checked_div(matrix_rows).unwrap_or(0);
        let dims = match *part.shape {
            _ if values.len() == 1 => [1, 1],
            [n] if n == rows as u64 => [matrix_rows, 1],
            [.., r, c] => {
                [usize::try_from(r).map_err(|_| wrong())?, usize::try_from(c).map_err(|_| wrong())?]
            }
            _ => return Err(wrong()),
        };
        let one_for_all = values.len() == 1 && matrices != 1;
        let (matrix_rows, matrices) = if one_for_all { (rows, 1) } else { (matrix_rows, matrices) };
        if dims.iter().try_fold(matrices, |n, &dim| n.checked_mul(dim)) != Some(values.len()) {
            return Err(wrong());
        }
        // Blocks of the configured size may be cut at the edges; others are all of one size.
        let size = |len: usize, n: usize, block: Option<usize>| match block {
            Some(size) if size > 0 && len.div_ceil(size) == n => Some(size),
            _ if n > 0 && len.is_multiple_of(n) => Some((len / n).max(1)),
            _ => None,
        };
        let row_block = size(matrix_rows, dims[0], block.map(|[r, _]| r)).ok_or_else(wrong)?;
        let col_block = size(cols, dims[1], block.map(|[_, c]| c)).ok_or_else(wrong)?;
        Ok(Grid { values, matrix_rows, row_block, col_block, dims, group_of: None })
    }

    /// A grid of `groups` numbers for each row.
    pub(super) fn by_row(values: Vec<f32>, rows: usize, groups: usize, col_block: usize) -> Grid {
        let dims = [rows, groups];
        Grid { values, matrix_rows: rows, row_block: 1, col_block, dims, group_of: None }
    }

    /// The numbers of a row, one for each column of blocks.
    fn row(&self, row: usize) -> &[f32] {
        let [rows, cols] = self.dims;
        let matrix = row / self.matrix_rows;
        let at = (matrix * rows + row % self.matrix_rows / self.row_block) * cols;
        &self.values[at..at + cols]
    }

    fn at(&self, row: &[f32], col: usize) -> f32 {
        match &self.group_of {
            Some(groups) => row[groups[col]],
            None => row[col / self.col_block],
        }
    }
}

impl Decoder<'_> {
    /// The logical shape, slowest first.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Computes the values from number `first` on, in row-major order.
    ///
    /// # Errors
    /// They reach past the end of the tensor.
    pub fn decode(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let end = first.checked_add(out.len()).filter(|&end| end <= self.len);
        let Some(end) = end else {
            let (n, len) = (out.len(), self.len);
            return Err(malformed(format!("{n} values from {first} on, of {len}")));
        };
        let mut at = first;
        while at < end {
            let (row, col) = (at / self.row_len, at % self.row_len);
            let n = (self.row_len - col).min(end - at);
            self.decode_row(row, col, &mut out[at - first..][..n]);
            at += n;
        }
        if out.iter().fold(false, |found, value| found | value.is_nan()) {
            unify_nans(out);
        }
        Ok(())
    }

    fn decode_row(&self, row: usize, first: usize, out: &mut [f32]) {
        self.quants.read(row, self.row_len, first, out);
        let scales = self.scale.row(row);
        let zeros = self.zero.as_ref().map(|zero| (zero, zero.row(row)));
        let mut at = 0;
        while at < out.len() {
            let col = first + at;
            // As far as neither scale nor zero changes.
            let end = [Some(&self.scale), self.zero.as_ref()].into_iter().flatten().map(|grid| {
                if grid.group_of.is_some() { 1 } else { grid.col_block - col % grid.col_block }
            });
            let n = end.min().unwrap_or(1).min(out.len() - at);
            let scale = self.scale.at(scales, col);
            let zero = zeros.map(|(zero, row)| zero.at(row, col));
            self.formula.apply(scale, zero, &mut out[at..at + n]);
            at += n;
        }
    }
}

impl Formula {
    fn apply(self, scale: f32, zero: Option<f32>, values: &mut [f32]) {
        match (self, zero) {
            (Formula::Centered { product: Precision::F32, .. }, None) => {
                values.iter_mut().for_each(|value| *value *= scale);
            }
            (Formula::Centered { product, .. } | Formula::Line(product), None) => {
                values.iter_mut().for_each(|value| *value = product.round(*value * scale));
            }
            (Formula::Centered { difference, product }, Some(zero)) => {
                for value in values {
                    *value = product.round(difference.round(*value - zero) * scale);
                }
            }
            (Formula::Line(precision), Some(zero)) => {
                for value in values {
                    *value = precision.round(precision.round(*value * scale) + zero);
                }
            }
            (Formula::Factor(factor), _) => {
                values.iter_mut().for_each(|value| *value = *value * scale * factor);
            }
        }
    }
}

/// The 32-bit word of this number.
#[inline(always)]
pub(super) fn word(bytes: &[u8], number: usize) -> u32 {
    super::number::u32_at(bytes, 4 * number)
}

/// Where in a word of eight AWQ keeps each value: the order `0 2 4 6 1 3 5 7` of AutoAWQ's GEMM
/// kernels, turned around.
pub(super) const AWQ_PLACE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Quants<'_> {
    /// The quants of a row from column `first` on.
    pub(super) fn read(&self, row: usize, row_len: usize, first: usize, out: &mut [f32]) {
        let start = row * row_len + first;
        let columns = first..first + out.len();
        match self {
            Quants::Bytes { bytes, table } => {
                for (out, &byte) in out.iter_mut().zip(&bytes[start..]) {
                    *out = table[usize::from(byte)];
                }
            }
            Quants::Nibbles { bytes, table, high_first } => {
                for (out, i) in out.iter_mut().zip(start..) {
                    let high = (i % 2 == 1) != *high_first;
                    let byte = bytes[i / 2];
                    *out = table[usize::from(if high { byte >> 4 } else { byte & 15 })];
                }
            }
            Quants::Bits { bytes, bits, row_bytes, offset } => {
                let bytes = &bytes[row * row_bytes..][..*row_bytes];
                let mask = (1u32 << bits) - 1;
                for (out, i) in out.iter_mut().zip(columns) {
                    let (byte, shift) = (i * bits / 8, i * bits % 8);
                    let next = bytes.get(byte + 1).copied().unwrap_or(0);
                    let both = u32::from(u16::from_le_bytes([bytes[byte], next]));
                    *out = ((both >> shift & mask) as i32 + offset) as f32;
                }
            }
            Quants::Columns { bytes, bits, stride } => {
                for (out, i) in out.iter_mut().zip(columns) {
                    *out = column_bits(bytes, *bits, *stride, row, i) as f32;
                }
            }
            Quants::Awq { bytes, stride } => {
                let shift = 4 * AWQ_PLACE[row % 8];
                for (out, i) in out.iter_mut().zip(columns) {
                    *out = (word(bytes, i * stride + row / 8) >> shift & 15) as f32;
                }
            }
        }
    }
}

/// Value `i` of the stream of bits that goes down a column of words.
#[inline(always)]
fn column_bits(bytes: &[u8], bits: usize, stride: usize, column: usize, i: usize) -> u32 {
    let (at, shift) = (i * bits / 32, i * bits % 32);
    let low = word(bytes, at * stride + column);
    // Three bits do not divide 32: some values lie in two words.
    let high = if shift + bits > 32 { word(bytes, (at + 1) * stride + column) } else { 0 };
    let both = u64::from(low) | u64::from(high) << 32;
    (both >> shift) as u32 & ((1 << bits) - 1)
}
