//! Buffers that frameworks save beside the weights, computed from their recipes.

use half::{bf16, f16};

use crate::base::error::{Error, Result};
use crate::checkpoint::DType;
use crate::plan::program::{Make, Recipe};

/// A recipe that is known to fit its dtype and shape.
pub struct Made {
    dtype: DType,
    unit: usize,
    /// The length of the last axis and of the one before it.
    last: u64,
    rows: u64,
    recipe: Recipe,
    /// The bytes of the one value of [`Recipe::Constant`].
    constant: Element,
}

/// One element, in as many of the bytes as its dtype takes.
type Element = [u8; 16];

impl Made {
    /// Checks a recipe against its dtype and shape.
    ///
    /// # Errors
    /// A value does not fit the dtype, or the shape has not the axes the recipe fills.
    pub fn new(make: &Make) -> Result<Made> {
        let dtype = make.dtype;
        let last = make.shape.last().copied().unwrap_or(1);
        let rows = make.shape.iter().rev().nth(1).copied().unwrap_or(1);
        let mut constant = Element::default();
        match make.recipe {
            Recipe::List(ref values) => {
                if values.len() as u64 != last || make.shape.len() != 1 {
                    let message = format!("{} values as {:?}", values.len(), make.shape);
                    return Err(Error::unsupported(message));
                }
                values.iter().try_for_each(|&value| element(dtype, value).map(drop))?;
            }
            Recipe::Constant(value) => constant = element(dtype, value)?,
            Recipe::Iota => {
                element(dtype, last.saturating_sub(1) as f64)?;
            }
            Recipe::CausalMask { .. } => {
                if make.shape.len() < 2 {
                    return Err(Error::unsupported("a causal mask of less than two axes"));
                }
                element(dtype, 1.0)?;
            }
            Recipe::Sinusoid => {
                if make.shape.len() != 2 || !dtype.is_float() || !last.is_multiple_of(2) {
                    let message = format!("sinusoidal positions as {dtype} {:?}", make.shape);
                    return Err(Error::unsupported(message));
                }
            }
            Recipe::RopeInvFreq { theta, dim } | Recipe::Llama3Factors { theta, dim, .. } => {
                let longer = matches!(make.recipe, Recipe::Llama3Factors { .. });
                if last != dim.div_ceil(2) && !(longer && dim.div_ceil(2) < last) {
                    let message = format!(
                        "{dim} rotary dimensions have {} frequencies, the buffer {last}",
                        dim.div_ceil(2)
                    );
                    return Err(Error::unsupported(message));
                }
                if !dtype.is_float() || !(theta as f32).is_normal() || theta < 0.0 {
                    let message = format!("rotary frequencies of base {theta} as {dtype}");
                    return Err(Error::unsupported(message));
                }
            }
        }
        let unit = (dtype.bits() / 8) as usize;
        Ok(Made { dtype, unit, last, rows, recipe: make.recipe.clone(), constant })
    }

    /// The bytes of one element.
    pub fn unit(&self) -> u64 {
        self.unit as u64
    }

    /// Fills `buffer` with the bytes of the tensor from byte `start` on.
    ///
    /// # Panics
    /// The range cuts an element.
    pub fn fill(&self, start: u64, buffer: &mut [u8]) {
        let aligned = start.is_multiple_of(self.unit()) && buffer.len().is_multiple_of(self.unit);
        assert!(aligned, "cuts an element");
        let first = start / self.unit();
        for (index, bytes) in (first..).zip(buffer.chunks_exact_mut(self.unit)) {
            let element = match self.recipe {
                Recipe::Constant(_) => self.constant,
                _ => {
                    let place = (index / self.last % self.rows, index % self.last);
                    self.number(self.recipe.value(place, self.last))
                }
            };
            bytes.copy_from_slice(&element[..self.unit]);
        }
    }

    fn number(&self, value: f64) -> Element {
        element(self.dtype, value).expect("it fits, as `new` has seen")
    }
}

/// A number as a little-endian element; floats round to nearest even, integers must be exact.
fn element(dtype: DType, value: f64) -> Result<Element> {
    let mut element = Element::default();
    let mut put = |bytes: &[u8]| element[..bytes.len()].copy_from_slice(bytes);
    macro_rules! integer {
        ($type:ty) => {{
            let integer = value as $type;
            // The bound keeps `u64::MAX as f64`, which is 2^64, from passing as exact.
            if integer as f64 != value || 2f64.powi(63) <= value {
                return Err(Error::unsupported(format!("{value} is no {dtype}")));
            }
            put(&integer.to_le_bytes());
        }};
    }
    match dtype {
        DType::Bool if value == 0.0 || value == 1.0 => put(&[u8::from(value == 1.0)]),
        DType::U8 => integer!(u8),
        DType::I8 => integer!(i8),
        DType::U16 => integer!(u16),
        DType::I16 => integer!(i16),
        DType::U32 => integer!(u32),
        DType::I32 => integer!(i32),
        DType::U64 => integer!(u64),
        DType::I64 => integer!(i64),
        // From F64 in one rounding: `half` goes through F32 on some machines.
        DType::F16 => put(&f16::from_f32(super::value::round_to_odd(value)).to_le_bytes()),
        DType::BF16 => put(&bf16::from_f32(super::value::round_to_odd(value)).to_le_bytes()),
        DType::F32 | DType::C64 => put(&(value as f32).to_le_bytes()),
        DType::F64 | DType::C128 => put(&value.to_le_bytes()),
        _ => return Err(Error::unsupported(format!("{value} as {dtype}"))),
    }
    Ok(element)
}
