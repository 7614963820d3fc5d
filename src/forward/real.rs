//! The numbers that the forward computes with: F32, or F64 in tests.

use half::{bf16, f16};
use ndarray::NdFloat;

use crate::checkpoint::DType;

/// F32 or F64.
pub trait Real: NdFloat + std::iter::Sum {
    /// The nearest number of this type.
    fn of(value: f64) -> Self;

    /// The same number in F64.
    fn to_f64(self) -> f64;

    /// The error function, `2/√π · ∫₀ˣ e^(−t²) dt`.
    fn error_function(self) -> Self;

    /// One element of a float dtype, from the bytes of exactly that element.
    fn from_f16(value: f16) -> Self;

    /// As [`Real::from_f16`].
    fn from_bf16(value: bf16) -> Self;

    /// As [`Real::from_f16`].
    fn from_f32(value: f32) -> Self;
}

impl Real for f32 {
    fn of(value: f64) -> f32 {
        value as f32
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn error_function(self) -> f32 {
        libm::erff(self)
    }

    fn from_f16(value: f16) -> f32 {
        value.to_f32()
    }

    fn from_bf16(value: bf16) -> f32 {
        value.to_f32()
    }

    fn from_f32(value: f32) -> f32 {
        value
    }
}

impl Real for f64 {
    fn of(value: f64) -> f64 {
        value
    }

    fn to_f64(self) -> f64 {
        self
    }

    fn error_function(self) -> f64 {
        libm::erf(self)
    }

    fn from_f16(value: f16) -> f64 {
        value.to_f64()
    }

    fn from_bf16(value: bf16) -> f64 {
        value.to_f64()
    }

    fn from_f32(value: f32) -> f64 {
        f64::from(value)
    }
}

/// Packed little-endian elements as numbers; `None` if the dtype has no point.
pub(super) fn decode<R: Real>(dtype: DType, bytes: &[u8]) -> Option<Vec<R>> {
    fn each<const N: usize, R>(bytes: &[u8], number: impl Fn([u8; N]) -> R) -> Vec<R> {
        bytes.as_chunks::<N>().0.iter().map(|chunk| number(*chunk)).collect()
    }
    Some(match dtype {
        DType::F16 => each(bytes, |chunk| R::from_f16(f16::from_le_bytes(chunk))),
        DType::BF16 => each(bytes, |chunk| R::from_bf16(bf16::from_le_bytes(chunk))),
        DType::F32 => each(bytes, |chunk| R::from_f32(f32::from_le_bytes(chunk))),
        DType::F64 => each(bytes, |chunk| R::of(f64::from_le_bytes(chunk))),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_dtype_is_read() {
        let values = [0.5f64, -2.0, 1024.0];
        let bytes = |each: &dyn Fn(f64) -> Vec<u8>| values.iter().flat_map(|&v| each(v)).collect();
        let stored: [(DType, Vec<u8>); 4] = [
            (DType::F16, bytes(&|v| f16::from_f64(v).to_le_bytes().to_vec())),
            (DType::BF16, bytes(&|v| bf16::from_f64(v).to_le_bytes().to_vec())),
            (DType::F32, bytes(&|v| (v as f32).to_le_bytes().to_vec())),
            (DType::F64, bytes(&|v| v.to_le_bytes().to_vec())),
        ];
        for (dtype, bytes) in stored {
            assert_eq!(decode::<f64>(dtype, &bytes).as_deref(), Some(&values[..]), "{dtype}");
            let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            assert_eq!(decode::<f32>(dtype, &bytes), Some(narrow), "{dtype}");
        }
        assert_eq!(decode::<f32>(DType::U8, &[1]), None);
    }

    #[test]
    fn erf_at_one() {
        assert!((1f64.error_function() - 0.842_700_792_949_714_9).abs() < 1e-15);
        assert!((1f32.error_function() - 0.842_700_8).abs() < 1e-7);
    }
}
