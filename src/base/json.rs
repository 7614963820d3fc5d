//! JSON read strictly: an object with one key twice is refused, as readers differ in which of the
//! two they take.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::base::error::{Error, Result};
use crate::base::hash::HashSet;

/// JSON files longer than this are not parsed.
pub const MAX_JSON_LEN: u64 = 512 << 20;

/// Parses JSON text whose first byte lies at `base` of its file.
///
/// # Errors
/// It is no JSON, it is followed by something else, or an object has one key twice.
pub fn parse(text: &[u8], base: u64) -> Result<Value> {
    if MAX_JSON_LEN < text.len() as u64 {
        let message = format!("{} bytes of JSON, at most {MAX_JSON_LEN} are read", text.len());
        return Err(Error::limit(base, message));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict.deserialize(&mut deserializer);
    value
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|err| error(text, base, &err))
}

/// Holds JSON text to what [`parse`] takes, without keeping the values: of long lists they take ten times as much
/// memory as the text.
///
/// # Errors
/// As [`parse`].
pub fn check(text: &[u8], base: u64) -> Result<()> {
    if MAX_JSON_LEN < text.len() as u64 {
        return parse(text, base).map(drop);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let checked = Check.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    checked.map_err(|err| error(text, base, &err))
}

/// Numbers that Python writes and JSON lacks, longest first where one ends another.
const NOT_FINITE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// The key of what transformers 5 writes for such a number: `{"__float__": "Infinity"}`.
pub const FLOAT_TAG: &str = "__float__";

/// Parses JSON in which Python may have written `Infinity`, `-Infinity` or `NaN`: they become
/// the object that transformers 5 writes in their place.
///
/// # Errors
/// As [`parse`].
pub fn parse_python(text: &[u8], base: u64) -> Result<Value> {
    parse(text, base).or_else(|err| match tagged(text) {
        Some(text) => parse(&text, base).map_err(|_| err),
        None => Err(err),
    })
}

/// The text with such numbers as objects; `None` if there are none.
fn tagged(text: &[u8]) -> Option<Vec<u8>> {
    let mut result = Vec::with_capacity(text.len());
    let (mut rest, mut in_text, mut found) = (text, false, false);
    while let Some(&byte) = rest.first() {
        let word = NOT_FINITE.iter().find(|word| !in_text && rest.starts_with(word.as_bytes()));
        let len = match (word, byte) {
            (Some(word), _) => {
                result.extend(format!("{{\"{FLOAT_TAG}\":\"{word}\"}}").bytes());
                found = true;
                word.len()
            }
            (None, b'\\') if in_text => 2,
            (None, byte) => {
                in_text ^= byte == b'"';
                1
            }
        };
        let (read, left) = rest.split_at(len.min(rest.len()));
        if word.is_none() {
            result.extend(read);
        }
        rest = left;
    }
    found.then_some(result)
}

/// An error of serde_json with the byte it stands for.
pub fn error(text: &[u8], base: u64, err: &serde_json::Error) -> Error {
    let lines = text.split_inclusive(|&byte| byte == b'\n');
    let before: usize = lines.take(err.line().saturating_sub(1)).map(<[u8]>::len).sum();
    let offset = before.saturating_add(err.column().saturating_sub(1)).min(text.len());
    // serde_json ends its messages with a place of its own.
    let message = err.to_string();
    let place = format!(" at line {} column {}", err.line(), err.column());
    let message = message.strip_suffix(&place).unwrap_or(&message);
    Error::malformed(base.saturating_add(offset as u64), format!("JSON: {message}"))
}

/// Any JSON, read as [`parse`] reads it, inside of a type of serde.
pub struct StrictJson(pub Value);

impl<'de> Deserialize<'de> for StrictJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StrictJson, D::Error> {
        Strict.deserialize(deserializer).map(StrictJson)
    }
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value);
        number.map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(Strict)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} stands twice")));
            }
            let value = entries.next_value_seed(Strict)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// [`Strict`] without the values.
struct Check;

impl<'de> DeserializeSeed<'de> for Check {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Check {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Strict.expecting(f)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        Strict.visit_f64(value).map(drop)
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Check)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut keys = HashSet::default();
        while let Some(key) = entries.next_key::<String>()? {
            if let Some(key) = keys.replace(key) {
                return Err(A::Error::custom(format!("the key {key:?} stands twice")));
            }
            entries.next_value_seed(Check)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let actual = match parse(text.as_bytes(), 100) {
            Ok(value) => value.to_string(),
            Err(err) => format!("error: {err}"),
        };
        assert_eq!(actual, expected);
        let checked = super::check(text.as_bytes(), 100).map_err(|err| format!("error: {err}"));
        assert_eq!(checked.err().as_deref(), Some(expected).filter(|of| of.starts_with("error")));
    }

    #[test]
    fn a_key_twice_is_refused_however_it_is_spelled() {
        check(r#"{"a":1,"b":{"a":2}}"#, r#"{"a":1,"b":{"a":2}}"#);
        check(r#"{"a":1,"a":1}"#, r#"error: JSON: the key "a" stands twice (at byte 0x6d)"#);
        check(r#"{"a":1,"\u0061":1}"#, r#"error: JSON: the key "a" stands twice (at byte 0x72)"#);
    }

    #[test]
    fn numbers_that_only_python_writes_become_objects() {
        let read = |text: &str| parse_python(text.as_bytes(), 0).map(|value| value.to_string());
        let infinite = r#"[0.0,{"__float__":"Infinity"},{"__float__":"-Infinity"}]"#;
        assert_eq!(read("[0.0, Infinity, -Infinity]").unwrap(), infinite);
        assert_eq!(
            read(r#"{"a\"": "NaN", "b": NaN}"#).unwrap(),
            r#"{"a\"":"NaN","b":{"__float__":"NaN"}}"#
        );
        assert!(read("[Infinit]").is_err());
        assert!(read(r#"["NaN"#).is_err());
    }

    #[test]
    fn what_is_no_json_is_an_error_with_its_place() {
        check("{\n\"a\": }", "error: JSON: expected value (at byte 0x6b)");
        check("{} x", "error: JSON: trailing characters (at byte 0x67)");
        check("1e999", "error: JSON: number out of range (at byte 0x68)");
        check(&"[".repeat(200_000), "error: JSON: recursion limit exceeded (at byte 0xe3)");
    }
}
