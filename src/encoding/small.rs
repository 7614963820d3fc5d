//! Types of one byte, and of half of one: few enough values for tables.

use crate::checkpoint::DType;

/// The values of E2M1: OCP MX 1.0, 5.3.3.
pub(super) const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The value of each byte as this type; `None` if it is of another size.
pub(super) fn table(dtype: DType) -> Option<[f32; 256]> {
    let value: fn(u8) -> f32 = match dtype {
        DType::U8 => |byte| f32::from(byte),
        DType::I8 => |byte| f32::from(byte as i8),
        DType::F8E8M0 => e8m0,
        // Of all ones E4M3 makes NaN, E5M2 infinity and NaN as IEEE does; the FNUZ types have one
        // NaN in place of -0, and a bias higher by one.
        DType::F8E4M3 => |byte| match byte & 0x7f {
            0x7f => f32::NAN,
            _ => float(byte, 3, 7),
        },
        DType::F8E5M2 => |byte| match byte & 0x7f {
            0x7c => f32::INFINITY.copysign(sign(byte)),
            0x7d.. => f32::NAN,
            _ => float(byte, 2, 15),
        },
        DType::F8E4M3Fnuz => |byte| if byte == 0x80 { f32::NAN } else { float(byte, 3, 8) },
        DType::F8E5M2Fnuz => |byte| if byte == 0x80 { f32::NAN } else { float(byte, 2, 16) },
        _ => return None,
    };
    Some(std::array::from_fn(|byte| value(byte as u8)))
}

/// A power of two: OCP MX 1.0, 5.4.1.
pub(super) fn e8m0(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(byte) << 23),
    }
}

/// A sign, an exponent, and a mantissa of that many bits, all finite.
fn float(byte: u8, mantissa_bits: u32, bias: i32) -> f32 {
    let magnitude = u32::from(byte & 0x7f);
    let (exponent, mantissa) = (magnitude >> mantissa_bits, magnitude & ((1 << mantissa_bits) - 1));
    let (mantissa, exponent) = match exponent {
        0 => (mantissa, 1),
        _ => (mantissa | 1 << mantissa_bits, exponent as i32),
    };
    let power = exponent - bias - mantissa_bits as i32;
    // The power is that of a normal F32, so the product is exact.
    let value = mantissa as f32 * f32::from_bits(((power + 127) as u32) << 23);
    value.copysign(sign(byte))
}

/// 1 or -1, as the highest bit says.
fn sign(byte: u8) -> f32 {
    if byte & 0x80 == 0 { 1.0 } else { -1.0 }
}
