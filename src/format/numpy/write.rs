//! The header of an array, as `numpy.lib.format` writes it: version 1.

use super::{DTYPES, MAGIC};
use crate::base::error::{Error, Result};
use crate::checkpoint::DType;

/// The elements begin at a multiple of this, from the start of the array.
const ALIGNMENT: usize = 64;
/// NumPy leaves room for a first dimension of so many digits, so that an array may grow.
const MAX_DIGITS: usize = 21;

/// What NumPy calls a dtype, where it has it: bfloat16 and the floats of 8 bits are none of its own.
pub fn descr(dtype: DType) -> Option<String> {
    let known = DTYPES.iter().filter(|(word, _)| !word.starts_with('V'));
    let (word, _) = known.clone().find(|(_, of)| *of == dtype)?;
    Some(format!("{}{word}", if dtype.bits() == 8 { '|' } else { '<' }))
}

/// Everything before the elements of an array.
///
/// # Errors
/// NumPy has no such dtype, or the header passes the length that this version can say.
pub fn header(name: &str, dtype: DType, shape: &[u64]) -> Result<Vec<u8>> {
    let wrong = || Error::unsupported(format!("`{name}` of {dtype} {shape:?} in NumPy"));
    let descr = descr(dtype).ok_or_else(wrong)?;
    let dims: Vec<String> = shape.iter().map(u64::to_string).collect();
    let tuple = match dims.as_slice() {
        [one] => format!("({one},)"),
        several => format!("({})", several.join(", ")),
    };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {tuple}, }}");
    if let Some(first) = dims.first() {
        text.push_str(&" ".repeat(MAX_DIGITS.saturating_sub(first.len())));
    }
    let begin = MAGIC.len() + 4;
    let len = (begin + text.len() + 1).next_multiple_of(ALIGNMENT) - begin;
    let stated = u16::try_from(len).map_err(|_| wrong())?;
    let mut header = MAGIC.to_vec();
    header.extend([1, 0]);
    header.extend(stated.to_le_bytes());
    header.extend(text.as_bytes());
    header.resize(begin + len - 1, b' ');
    header.push(b'\n');
    Ok(header)
}
