//! Values of any kind, and arrays of them, as JSON that keeps the kind.

use serde_json::{Map, Value as Json};

use super::number::Number;
use super::text::{Text, Texts, text_from_json, text_to_json};

/// How deep arrays lie in arrays at most. No known program writes arrays of arrays at all.
pub const MAX_DEPTH: usize = 16;

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
        #[allow(missing_docs, clippy::enum_variant_names, reason = "items may be arrays")]
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

fn tagged(kind: Kind, json: Json) -> Json {
    Json::Object(Map::from_iter([(kind.name().to_owned(), json)]))
}

fn untagged(json: &Json) -> Option<(&str, &Json)> {
    let object = json.as_object().filter(|object| object.len() == 1)?;
    object.iter().next().map(|(kind, json)| (kind.as_str(), json))
}
