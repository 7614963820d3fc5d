//! The stored tensors that one logical tensor is made of.

use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::{DType, n_elements};
use crate::encoding::number::{Precision, f16_to_f32};
use crate::encoding::small;

/// One stored tensor: row-major, packed, little-endian.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The type of its elements.
    pub(super) dtype: DType,
    /// Its dimensions, slowest first.
    pub(super) shape: &'a [u64],
    /// Its elements, as many as the shape says.
    pub(super) bytes: &'a [u8],
}

pub(super) fn malformed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

impl<'a> Part<'a> {
    /// A part, after its length was compared with its shape.
    ///
    /// # Errors
    /// The bytes are not those of the shape.
    pub fn new(dtype: DType, shape: &'a [u64], bytes: &'a [u8]) -> Result<Part<'a>> {
        let expected = n_elements(shape).and_then(|n| dtype.n_bytes(n));
        if expected != Some(bytes.len() as u64) {
            return Err(malformed(format!("{} bytes for {dtype} {shape:?}", bytes.len())));
        }
        Ok(Part { dtype, shape, bytes })
    }

    /// An error that names the part, if its elements are of another type.
    pub(super) fn expect(&self, name: &str, dtypes: &[DType]) -> Result<()> {
        if dtypes.contains(&self.dtype) {
            return Ok(());
        }
        Err(malformed(format!("{name} is {}, expected {dtypes:?}", self.dtype)))
    }

    /// Its dimensions, if there are `N` of them.
    pub(super) fn dims<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let dims: Option<Vec<usize>> =
            self.shape.iter().map(|&dim| usize::try_from(dim).ok()).collect();
        dims.and_then(|dims| dims.try_into().ok())
            .ok_or_else(|| malformed(format!("{name} is {:?}, expected {N} axes", self.shape)))
    }

    /// Its elements as numbers; those of the scales' types, integers among them.
    pub(super) fn numbers(&self, name: &str) -> Result<Vec<f32>> {
        let bytes = self.bytes;
        let words = || bytes.as_chunks::<4>().0.iter();
        Ok(match self.dtype {
            DType::F32 => words().map(|&word| f32::from_le_bytes(word)).collect(),
            DType::I32 => words().map(|&word| i32::from_le_bytes(word) as f32).collect(),
            DType::F16 => {
                let halves = bytes.as_chunks().0.iter();
                halves.map(|&half| f16_to_f32(u16::from_le_bytes(half))).collect()
            }
            DType::BF16 => {
                let halves = bytes.as_chunks().0.iter();
                halves.map(|&[low, high]| f32::from_le_bytes([0, 0, low, high])).collect()
            }
            dtype => {
                let table = small::table(dtype).ok_or_else(|| {
                    Error::unsupported(format!("{name} is {dtype}, which has no numbers here"))
                })?;
                bytes.iter().map(|&byte| table[usize::from(byte)]).collect()
            }
        })
    }

    /// What torch computes in when a tensor of this type takes part.
    pub(super) fn precision(&self) -> Precision {
        match self.dtype {
            DType::F16 => Precision::F16,
            DType::BF16 => Precision::Bf16,
            _ => Precision::F32,
        }
    }
}
