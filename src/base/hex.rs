//! Bytes as lower-case hex, the spelling of every hash in a manifest.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Bytes as lower-case hex.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    text.extend(bytes.iter().flat_map(|byte| digits(*byte)).map(char::from));
    text
}

/// The two digits of a byte.
fn digits(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 15].map(|value| DIGITS[usize::from(value)])
}

/// The 32 bytes of 64 lower-case hex digits; `None` for anything else.
pub fn decode32(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let pairs: &[[u8; 2]; 32] = pairs.try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

/// A hash in a document: kept as bytes, of which a document of many tensors has half as many as digits.
/// A text that is no hash is kept too, for whoever says what is wrong with the document.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hex {
    /// 64 digits of lower-case hex.
    Hash([u8; 32]),
    /// Any other text.
    Other(Box<str>),
}

impl Hex {
    /// The bytes, if it is a hash.
    pub fn bytes(&self) -> Option<[u8; 32]> {
        match self {
            Hex::Hash(bytes) => Some(*bytes),
            Hex::Other(_) => None,
        }
    }

    /// Calls `with` with the text, for which nothing is allocated.
    fn with_text<T>(&self, with: impl FnOnce(&str) -> T) -> T {
        let bytes = match self {
            Hex::Hash(bytes) => bytes,
            Hex::Other(text) => return with(text),
        };
        let mut text = [0; 64];
        for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
            *pair = digits(*byte);
        }
        with(std::str::from_utf8(&text).expect("hex digits are ASCII"))
    }
}

impl From<[u8; 32]> for Hex {
    fn from(bytes: [u8; 32]) -> Hex {
        Hex::Hash(bytes)
    }
}

impl From<&str> for Hex {
    fn from(text: &str) -> Hex {
        decode32(text).map_or_else(|| Hex::Other(text.into()), Hex::Hash)
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| serializer.serialize_str(text))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hex, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Hex;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a hash in hex")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Hex, E> {
                Ok(Hex::from(text))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for Hex {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Hex".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let bytes: Vec<u8> = (0..32).map(|n| n * 8).collect();
        let text = encode(&bytes);
        assert_eq!(decode32(&text).as_ref().map(|bytes| &bytes[..]), Some(&bytes[..]));
        assert_eq!(Hex::from(text.as_str()).to_string(), text);
        for wrong in ["", "0", &"0".repeat(63), &"A".repeat(64), &"0".repeat(66)] {
            assert_eq!(decode32(wrong), None, "{wrong}");
            assert_eq!(Hex::from(wrong).to_string(), wrong);
        }
    }
}
