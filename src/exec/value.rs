//! What values are kept in while they are computed with.

/// What values are kept in: F32, or F64 where F64 elements take part.
pub(super) trait Value: Copy + Default {
    fn from_single(single: f32) -> Self;
    fn from_double(double: f64) -> Self;
    fn to_f64(self) -> f64;
    /// To nearest even.
    fn to_f32(self) -> f32;
    /// So that a second rounding to fewer bits gives what one rounding would.
    fn to_odd_f32(self) -> f32;

    /// Whether the values have the same bits, and none is NaN.
    fn are_same(left: &[Self], right: &[Self]) -> bool {
        let bits = |value: &Self| value.to_f64().to_bits();
        left.iter().zip(right).all(|(left, right)| !left.is_nan() && bits(left) == bits(right))
    }

    /// The values as F32, of which each is so that a second rounding to fewer bits gives what one rounding would;
    /// in `room`, which has as many, where they are none yet.
    fn to_odd_singles<'v>(values: &'v [Self], room: &'v mut [f32]) -> &'v [f32] {
        for (single, value) in room.iter_mut().zip(values) {
            *single = value.to_odd_f32();
        }
        room
    }

    /// Never negative; infinite or NaN where there is none.
    fn relative_error(self, right: Self) -> f32;

    fn is_nan(self) -> bool {
        self.to_f64().is_nan()
    }

    fn is_infinite(self) -> bool {
        self.to_f64().is_infinite()
    }

    fn is_finite(self) -> bool {
        self.to_f64().is_finite()
    }
}

impl Value for f32 {
    fn from_single(single: f32) -> f32 {
        single
    }

    fn from_double(double: f64) -> f32 {
        double as f32
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn to_f32(self) -> f32 {
        self
    }

    fn to_odd_f32(self) -> f32 {
        self
    }

    fn are_same(left: &[f32], right: &[f32]) -> bool {
        let pairs = left.iter().zip(right).map(|(left, right)| (left.to_bits(), right.to_bits()));
        // Without a branch, as that vectorizes.
        let is_nan = |bits: u32| u32::from(f32::INFINITY.to_bits() < bits & !(1 << 31));
        pairs.fold(0, |sum, (left, right)| sum | (left ^ right) | is_nan(left)) == 0
    }

    fn to_odd_singles<'v>(values: &'v [f32], _: &'v mut [f32]) -> &'v [f32] {
        values
    }

    fn relative_error(self, right: f32) -> f32 {
        ((self - right) / right).abs()
    }

    fn is_nan(self) -> bool {
        f32::is_nan(self)
    }

    fn is_infinite(self) -> bool {
        f32::is_infinite(self)
    }

    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }
}

impl Value for f64 {
    fn from_single(single: f32) -> f64 {
        f64::from(single)
    }

    fn from_double(double: f64) -> f64 {
        double
    }

    fn to_f64(self) -> f64 {
        self
    }

    fn to_f32(self) -> f32 {
        self as f32
    }

    fn to_odd_f32(self) -> f32 {
        round_to_odd(self)
    }

    fn relative_error(self, right: f64) -> f32 {
        ((self - right) / right).abs() as f32
    }
}

/// The value as F32 if it is one; else the neighbour with an odd last bit, so that a second
/// rounding to fewer bits gives what one rounding would.
pub(super) fn round_to_odd(value: f64) -> f32 {
    let near = value as f32;
    let exact = f64::from(near) == value || value.is_nan();
    if exact || near.to_bits() & 1 == 1 {
        return near;
    }
    // `near` is even and off: its odd neighbour lies on the other side of the value.
    let away = f64::from(near).abs() < value.abs();
    f32::from_bits(if away { near.to_bits() + 1 } else { near.to_bits() - 1 })
}
