//! The kinds of numbers, as bytes and as JSON.

use serde_json::{Number as JsonNumber, Value as Json, json};

/// A number of a fixed size; a `bool` is one of one byte.
pub trait Number: Copy {
    /// Its bytes.
    const LEN: usize;
    /// The number of [`Number::LEN`] little-endian bytes; `None` if they are none.
    fn from_le(bytes: &[u8]) -> Option<Self>;
    /// Appends its little-endian bytes.
    fn put_le(self, bytes: &mut Vec<u8>);
    /// The number as JSON, exactly.
    fn to_json(self) -> Json;
    /// The number that [`Number::to_json`] gave.
    fn from_json(json: &Json) -> Option<Self>;
    /// The number as JSON, as a person would write it.
    fn to_plain(self) -> Json {
        self.to_json()
    }
}

macro_rules! integers {
    ($($type:ty)*) => {$(
        impl Number for $type {
            const LEN: usize = size_of::<$type>();

            fn from_le(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(<$type>::from_le_bytes)
            }

            fn put_le(self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_le_bytes());
            }

            fn to_json(self) -> Json {
                Json::from(self)
            }

            fn from_json(json: &Json) -> Option<Self> {
                match json.as_u64() {
                    Some(value) => value.try_into().ok(),
                    None => json.as_i64()?.try_into().ok(),
                }
            }
        }
    )*};
}

integers!(u8 i8 u16 i16 u32 i32 u64 i64);

macro_rules! floats {
    ($($type:ty, $bits:ty, $narrow:expr;)*) => {$(
        impl Number for $type {
            const LEN: usize = size_of::<$type>();

            fn from_le(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(<$type>::from_le_bytes)
            }

            fn put_le(self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_le_bytes());
            }

            fn to_json(self) -> Json {
                match JsonNumber::from_f64(f64::from(self)) {
                    Some(number) => Json::Number(number),
                    None => json!(format!("{:#x}", self.to_bits())),
                }
            }

            fn from_json(json: &Json) -> Option<Self> {
                if let Some(hex) = json.as_str().and_then(|text| text.strip_prefix("0x")) {
                    return <$bits>::from_str_radix(hex, 16).ok().map(<$type>::from_bits);
                }
                let wide = json.as_f64()?;
                #[allow(clippy::redundant_closure_call)]
                let narrow: $type = ($narrow)(wide);
                (f64::from(narrow).to_bits() == wide.to_bits()).then_some(narrow)
            }

            fn to_plain(self) -> Json {
                // The shortest digits that mean this number among those of its size.
                let text = self.to_string();
                let number = text.parse().ok().and_then(JsonNumber::from_f64);
                number.map_or(Json::String(text), Json::Number)
            }
        }
    )*};
}

floats! {
    f32, u32, |wide: f64| wide as f32;
    f64, u64, |wide: f64| wide;
}

impl Number for bool {
    const LEN: usize = 1;

    fn from_le(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn put_le(self, bytes: &mut Vec<u8>) {
        bytes.push(self.into());
    }

    fn to_json(self) -> Json {
        Json::Bool(self)
    }

    fn from_json(json: &Json) -> Option<Self> {
        json.as_bool()
    }
}
