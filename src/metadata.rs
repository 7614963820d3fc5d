//! Keys and values that keep the kind of every number: what a GGUF file has before its tensors.
//!
//! As JSON, a value is an object with its kind as the only key, so that the way back is exact:
//! `{"u32": 32}`, `{"array": {"string": ["a", "b"]}}`. What JSON cannot spell is given in hex: a
//! float that is not finite by its bits, a text that is not UTF-8 by its bytes.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Number as JsonNumber, Value as Json, json};

/// How deep arrays lie in arrays at most. No known program writes arrays of arrays at all.
pub const MAX_DEPTH: usize = 16;

/// Keys and values, in order; no key stands twice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&index| &self.entries[index].1)
    }

    /// The keys and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Adds a key at the end; `false`, and nothing changes, if it is there already.
    #[must_use]
    pub fn push(&mut self, key: String, value: Value) -> bool {
        if self.index.contains_key(&key) {
            return false;
        }
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        true
    }

    /// Gives a key a value: the one that is there is replaced where it stands.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.index.get(key) {
            Some(&index) => self.entries[index].1 = value,
            None => {
                self.index.insert(key.to_owned(), self.entries.len());
                self.entries.push((key.to_owned(), value));
            }
        }
    }

    /// Keeps the keys that `is_kept` says.
    pub fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.entries.retain(|(key, _)| is_kept(key));
        let keys = self.entries.iter().enumerate();
        self.index = keys.map(|(index, (key, _))| (key.clone(), index)).collect();
    }
}

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

/// Calls a macro with every kind of number: variant, type, name.
macro_rules! with_numbers {
    ($macro:ident) => {
        $macro! {
            U8 u8 "u8", I8 i8 "i8", U16 u16 "u16", I16 i16 "i16", U32 u32 "u32", I32 i32 "i32",
            F32 f32 "f32", Bool bool "bool", U64 u64 "u64", I64 i64 "i64", F64 f64 "f64"
        }
    };
}

macro_rules! define {
    ($($variant:ident $type:ident $name:literal),*) => {
        /// What a value is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)] // The names say it.
        pub enum Kind { $($variant,)* String, Array }

        impl Kind {
            /// Its name, `u32`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Kind::$variant => $name,)*
                    Kind::String => "string",
                    Kind::Array => "array",
                }
            }
        }

        /// A value.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)]
        pub enum Value { $($variant($type),)* String(Text), Array(Array) }

        impl Value {
            /// What it is.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Value::$variant(_) => Kind::$variant,)*
                    Value::String(_) => Kind::String,
                    Value::Array(_) => Kind::Array,
                }
            }

            /// The value as JSON that [`Value::from_json`] gives back exactly.
            pub fn to_json(&self) -> Json {
                let json = match self {
                    $(Value::$variant(value) => value.to_json(),)*
                    Value::String(text) => text_to_json(&text.0),
                    Value::Array(array) => array.to_json(),
                };
                tagged(self.kind(), json)
            }

            /// The value that [`Value::to_json`] gave; `None` if it is none.
            pub fn from_json(json: &Json) -> Option<Value> {
                let (kind, json) = untagged(json)?;
                match kind {
                    $($name => Number::from_json(json).map(Value::$variant),)*
                    "string" => text_from_json(json).map(|text| Value::String(Text(text))),
                    "array" => Array::from_json(json, 1).map(Value::Array),
                    _ => None,
                }
            }

            /// The value as JSON for people, of arrays the first `max_items`.
            pub fn to_plain(&self, max_items: usize) -> Json {
                match self {
                    $(Value::$variant(value) => value.to_plain(),)*
                    Value::String(text) => Json::String(text.to_string()),
                    Value::Array(array) => array.to_plain(max_items),
                }
            }
        }

        /// Values of one kind.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)]
        pub enum Array { $($variant(Vec<$type>),)* String(Box<Texts>), Array(Vec<Array>) }

        impl Array {
            /// What its items are.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Array::$variant(_) => Kind::$variant,)*
                    Array::String(_) => Kind::String,
                    Array::Array(_) => Kind::Array,
                }
            }

            /// The number of items.
            pub fn len(&self) -> usize {
                match self {
                    $(Array::$variant(items) => items.len(),)*
                    Array::String(texts) => texts.len(),
                    Array::Array(arrays) => arrays.len(),
                }
            }

            /// Whether there are no items.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            fn to_json(&self) -> Json {
                let items = match self {
                    $(Array::$variant(items) => {
                        items.iter().map(|item| item.to_json()).collect()
                    })*
                    Array::String(texts) => texts.iter().map(text_to_json).collect(),
                    Array::Array(arrays) => arrays.iter().map(Array::to_json).collect(),
                };
                tagged(self.kind(), items)
            }

            fn from_json(json: &Json, depth: usize) -> Option<Array> {
                let (kind, json) = untagged(json)?;
                let items = json.as_array().filter(|_| depth <= MAX_DEPTH)?;
                Some(match kind {
                    $($name => Array::$variant(
                        items.iter().map(Number::from_json).collect::<Option<_>>()?
                    ),)*
                    "string" => {
                        let mut texts = Texts::default();
                        for item in items {
                            texts.push(&text_from_json(item)?);
                        }
                        Array::String(Box::new(texts))
                    }
                    "array" => {
                        let arrays = items.iter().map(|item| Array::from_json(item, depth + 1));
                        Array::Array(arrays.collect::<Option<_>>()?)
                    }
                    _ => return None,
                })
            }

            fn to_plain(&self, max: usize) -> Json {
                match self {
                    $(Array::$variant(items) => {
                        items.iter().take(max).map(|item| item.to_plain()).collect()
                    })*
                    Array::String(texts) => {
                        let texts = texts.iter().take(max);
                        texts.map(|text| Json::from(String::from_utf8_lossy(text))).collect()
                    }
                    Array::Array(arrays) => {
                        arrays.iter().take(max).map(|array| array.to_plain(max)).collect()
                    }
                }
            }
        }
    };
}

with_numbers!(define);

impl Value {
    /// The value of an integer of any kind, if it fits.
    pub fn as_integer(&self) -> Option<i64> {
        match *self {
            Value::U8(value) => Some(value.into()),
            Value::I8(value) => Some(value.into()),
            Value::U16(value) => Some(value.into()),
            Value::I16(value) => Some(value.into()),
            Value::U32(value) => Some(value.into()),
            Value::I32(value) => Some(value.into()),
            Value::U64(value) => value.try_into().ok(),
            Value::I64(value) => Some(value),
            _ => None,
        }
    }

    /// The text of a string that is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        let Value::String(text) = self else { return None };
        std::str::from_utf8(&text.0).ok()
    }

    /// The values of an array.
    pub fn as_array(&self) -> Option<&Array> {
        let Value::Array(array) = self else { return None };
        Some(array)
    }

    /// The kind with that of the items of an array, `[string]`.
    pub fn kind_name(&self) -> String {
        match self {
            Value::Array(array) => format!("[{}]", array.kind().name()),
            _ => self.kind().name().to_owned(),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(Text(text.as_bytes().to_vec()))
    }
}

/// A text; its bytes are meant to be UTF-8, and nothing holds writers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub Vec<u8>);

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// Many short texts, which a vocabulary has, without an allocation for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Texts {
    /// Adds a text at the end.
    pub fn push(&mut self, text: &[u8]) {
        self.bytes.extend(text);
        self.ends.push(self.bytes.len());
    }

    /// The number of texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The texts, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.bytes[start..end])
    }

    /// The bytes of all texts together.
    pub fn n_bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl<'a> FromIterator<&'a str> for Texts {
    fn from_iter<I: IntoIterator<Item = &'a str>>(items: I) -> Texts {
        let mut texts = Texts::default();
        for item in items {
            texts.push(item.as_bytes());
        }
        texts
    }
}

fn tagged(kind: Kind, json: Json) -> Json {
    Json::Object(Map::from_iter([(kind.name().to_owned(), json)]))
}

fn untagged(json: &Json) -> Option<(&str, &Json)> {
    let object = json.as_object().filter(|object| object.len() == 1)?;
    object.iter().next().map(|(kind, json)| (kind.as_str(), json))
}

fn text_to_json(bytes: &[u8]) -> Json {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "hex": hex })
        }
    }
}

fn text_from_json(json: &Json) -> Option<Vec<u8>> {
    if let Some(text) = json.as_str() {
        return Some(text.as_bytes().to_vec());
    }
    let hex = json.as_object().filter(|object| object.len() == 1)?.get("hex")?.as_str()?;
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes = pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?));
    bytes.collect::<Option<_>>().filter(|_| rest.is_empty())
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (key, value) in self.iter() {
            map.serialize_entry(key, &value.to_json())?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Metadata, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of values by key")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut metadata = Metadata::default();
                while let Some((key, json)) = map.next_entry::<String, Json>()? {
                    let value = Value::from_json(&json).ok_or_else(|| {
                        A::Error::custom(format!("the value of {key:?} has no known kind"))
                    })?;
                    if !metadata.push(key.clone(), value) {
                        return Err(A::Error::custom(format!("the key {key:?} stands twice")));
                    }
                }
                Ok(metadata)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &Value, expected: &str) {
        let json = value.to_json();
        assert_eq!(json.to_string(), expected);
        let read: Json = serde_json::from_str(expected).unwrap();
        let back = Value::from_json(&read).expect("what was written can be read");
        // NaN is not equal to itself; its text is.
        assert_eq!(format!("{back:?}"), format!("{value:?}"));
        assert_eq!(back.to_json().to_string(), expected);
    }

    #[test]
    fn values_come_back_from_json_as_they_were() {
        check(&Value::U8(255), r#"{"u8":255}"#);
        check(&Value::I64(i64::MIN), r#"{"i64":-9223372036854775808}"#);
        check(&Value::U64(u64::MAX), r#"{"u64":18446744073709551615}"#);
        check(&Value::F32(1e-5), r#"{"f32":9.999999747378752e-6}"#);
        check(&Value::F32(-0.0), r#"{"f32":-0.0}"#);
        check(&Value::F32(f32::from_bits(0x7fc0_0001)), r#"{"f32":"0x7fc00001"}"#);
        check(&Value::F64(f64::NEG_INFINITY), r#"{"f64":"0xfff0000000000000"}"#);
        check(&Value::Bool(true), r#"{"bool":true}"#);
        check(&Value::from("ä\0"), r#"{"string":"ä\u0000"}"#);
        check(&Value::String(Text(vec![0xff, 0x0a])), r#"{"string":{"hex":"ff0a"}}"#);
        let mut texts: Texts = ["", "a"].into_iter().collect();
        texts.push(&[0x80]);
        let texts = Array::String(Box::new(texts));
        check(&Value::Array(texts.clone()), r#"{"array":{"string":["","a",{"hex":"80"}]}}"#);
        let nested = Array::Array(vec![Array::I32(vec![-1]), texts, Array::Bool(Vec::new())]);
        check(
            &Value::Array(nested),
            r#"{"array":{"array":[{"i32":[-1]},{"string":["","a",{"hex":"80"}]},{"bool":[]}]}}"#,
        );
    }

    #[test]
    fn what_is_no_value_is_refused() {
        let deep = format!("{}{{\"u8\":[]}}{}", "{\"array\":[".repeat(40), "]}".repeat(40));
        for text in [
            r#"{"u8":256}"#,
            r#"{"u8":-1}"#,
            r#"{"i32":1.5}"#,
            r#"{"f32":0.1}"#,
            r#"{"bool":1}"#,
            r#"{"string":{"hex":"f"}}"#,
            r#"{"string":1}"#,
            r#"{"u8":1,"i8":1}"#,
            r#"{"array":[1]}"#,
            r#"{"u7":1}"#,
            "1",
            &format!("{{\"array\":{deep}}}"),
        ] {
            let json: Json = serde_json::from_str(text).unwrap();
            assert_eq!(Value::from_json(&json), None, "{text}");
        }
        let twice = r#"{"a":{"u8":1},"a":{"u8":1}}"#;
        assert!(serde_json::from_str::<Metadata>(twice).is_err());
    }

    #[test]
    fn keys_keep_their_order_and_are_there_once() {
        let mut metadata = Metadata::default();
        assert!(metadata.push("b".to_owned(), Value::U8(1)));
        assert!(metadata.push("a".to_owned(), Value::U8(2)));
        assert!(!metadata.push("b".to_owned(), Value::U8(3)));
        metadata.set("b", Value::U8(4));
        metadata.set("c", Value::from("x"));
        let text = serde_json::to_string(&metadata).unwrap();
        assert_eq!(text, r#"{"b":{"u8":4},"a":{"u8":2},"c":{"string":"x"}}"#);
        assert_eq!(serde_json::from_str::<Metadata>(&text).unwrap(), metadata);
        metadata.retain(|key| key != "b");
        assert_eq!(metadata.get("c").and_then(Value::as_str), Some("x"));
        assert_eq!(metadata.get("b"), None);
    }
}
