//! Shapes of matrices and of stacks of them, as packed payloads have them.

use crate::base::error::Result;
use crate::checkpoint::{DType, n_elements};
use crate::encoding::decoder::Formula;
use crate::encoding::number::Precision;
use crate::encoding::part::{Part, malformed};

/// Rows and columns of a stack of matrices: `[rows of all, columns]`, and rows of one.
pub(super) fn matrix(
    name: &str,
    part: &Part,
    values_per_element: usize,
) -> Result<([usize; 2], usize)> {
    let [.., rows, cols] = *part.shape else {
        return Err(malformed(format!("{name} is {:?}, expected a matrix", part.shape)));
    };
    let size = |dim: u64| usize::try_from(dim).ok();
    let all = n_elements(part.shape).and_then(|n| n.checked_div(cols)).and_then(size);
    let dims = all.zip(size(cols).and_then(|cols| cols.checked_mul(values_per_element)));
    match dims.zip(size(rows)) {
        Some(((all, cols), rows)) if cols > 0 && rows > 0 => Ok(([all, cols], rows)),
        _ => Err(malformed(format!("{name} is {:?}, which is empty or too large", part.shape))),
    }
}

/// `shape` with another last dimension.
pub(super) fn with_last(shape: &[u64], last: usize) -> Vec<u64> {
    let lead = &shape[..shape.len().saturating_sub(1)];
    lead.iter().copied().chain([last as u64]).collect()
}

pub(super) fn len([rows, cols]: [usize; 2]) -> Result<usize> {
    rows.checked_mul(cols).ok_or_else(|| malformed("more values than can be counted"))
}

pub(super) fn centered(precision: Precision) -> Formula {
    Formula::Centered { difference: precision, product: precision }
}

pub(super) fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
}

pub(super) fn group_of_columns(part: &Part, columns: usize, groups: usize) -> Result<Vec<usize>> {
    part.expect("g_idx", &[DType::I32])?;
    if part.dims("g_idx")? != [columns] {
        return Err(malformed(format!("g_idx is {:?} for {columns} columns", part.shape)));
    }
    let group = |&bytes: &[u8; 4]| {
        let group = i32::from_le_bytes(bytes);
        usize::try_from(group)
            .ok()
            .filter(|&group| group < groups)
            .ok_or_else(|| malformed(format!("g_idx has group {group}, there are {groups}")))
    };
    part.bytes.as_chunks().0.iter().map(group).collect()
}

/// The shape in bytes of packed nibbles; MLX keeps them in words.
pub(super) fn byte_shape(packed: &Part) -> Result<Vec<u64>> {
    packed.expect("the weight", &[DType::U8, DType::I8, DType::U32])?;
    let mut shape = packed.shape.to_vec();
    if let (DType::U32, Some(last)) = (packed.dtype, shape.last_mut()) {
        *last = last.saturating_mul(4);
    }
    Ok(shape)
}
