//! JSON with exactly one spelling: RFC 8785, the JSON Canonicalization Scheme.
//!
//! Object keys are sorted by their UTF-16 code units, no white space stands outside of strings,
//! and numbers are written as ECMAScript writes the double that is nearest to them. So `1` and
//! `1.0` are the same text, and integers beyond 2^53 are not told apart: the standard has none.

use std::io::{self, BufWriter, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CompactFormatter, Formatter};
use sha2::{Digest, Sha256};

/// The canonical text of a value.
///
/// # Panics
/// The value does not serialize: a map with keys that are no strings, or a number that is not
/// finite. The types of this crate that are hashed have neither.
pub fn text<T: Serialize + ?Sized>(value: &T) -> String {
    let value = serde_json::to_value(value).expect("hashed types have string keys");
    serde_json_canonicalizer::to_string(&value).expect("a JSON value has only finite numbers")
}

/// The SHA-256 of the canonical text of a value, in hex. The text is hashed as it is made.
///
/// # Panics
/// As [`text`].
pub fn sha256<T: Serialize>(value: &T) -> String {
    hashed(|hash| serde_json_canonicalizer::to_writer(value, hash))
}

/// The SHA-256 of the canonical text of an object that has one more key, `key`, whose value is the array of
/// `rows`, in hex. There may be many of them: their text is hashed as it is made, where [`sha256`] keeps the text of
/// every value of an object, to sort them.
///
/// # Panics
/// As [`text`]; also where `object` is none, or has the key.
pub fn sha256_with_rows<T: Serialize>(
    object: &Value,
    key: &str,
    mut rows: impl Iterator<Item = T>,
) -> String {
    let object = object.as_object().expect("an object");
    assert!(!object.contains_key(key), "`{key}` stands twice");
    let mut keys: Vec<&str> = object.keys().map(String::as_str).chain([key]).collect();
    keys.sort_by(|one, other| one.encode_utf16().cmp(other.encode_utf16()));
    hashed(|hash| {
        for (place, name) in keys.into_iter().enumerate() {
            write!(hash, "{}{}:", if place == 0 { "{" } else { "," }, text(name))?;
            match object.get(name) {
                Some(value) => hash.write_all(text(value).as_bytes())?,
                None => write_rows(hash, &mut rows)?,
            }
        }
        hash.write_all(b"}")
    })
}

fn write_rows<T: Serialize>(
    hash: &mut BufWriter<Hasher>,
    rows: &mut impl Iterator<Item = T>,
) -> io::Result<()> {
    hash.write_all(b"[")?;
    for (place, row) in rows.enumerate() {
        hash.write_all(if place == 0 { b"" } else { b"," })?;
        row.serialize(&mut serde_json::Serializer::with_formatter(&mut *hash, Rows))?;
    }
    hash.write_all(b"]")
}

/// Writes texts, lists and numbers as RFC 8785 does: whole numbers that a double holds are their digits, which takes a
/// fraction of the time of spelling a double.
struct Rows;

impl Rows {
    fn number<W: Write + ?Sized>(to: &mut W, number: Value) -> io::Result<()> {
        to.write_all(text(&number).as_bytes())
    }
}

impl Formatter for Rows {
    fn write_u64<W: Write + ?Sized>(&mut self, to: &mut W, number: u64) -> io::Result<()> {
        const EXACT: u64 = 1 << 53;
        match number {
            ..=EXACT => CompactFormatter.write_u64(to, number),
            _ => Rows::number(to, number.into()),
        }
    }

    fn write_i64<W: Write + ?Sized>(&mut self, to: &mut W, number: i64) -> io::Result<()> {
        Rows::number(to, number.into())
    }

    fn write_f64<W: Write + ?Sized>(&mut self, to: &mut W, number: f64) -> io::Result<()> {
        Rows::number(to, number.into())
    }

    fn write_f32<W: Write + ?Sized>(&mut self, to: &mut W, number: f32) -> io::Result<()> {
        Rows::number(to, number.into())
    }

    fn begin_object<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        Err(io::Error::other("rows have no objects, whose keys would have to be sorted"))
    }
}

/// The SHA-256, in hex, of what is written.
fn hashed<E: std::fmt::Debug>(
    write: impl FnOnce(&mut BufWriter<Hasher>) -> Result<(), E>,
) -> String {
    let mut hash = BufWriter::with_capacity(1 << 16, Hasher(Sha256::new()));
    write(&mut hash).expect("hashed types have string keys and finite numbers");
    let hash = hash.into_inner().unwrap_or_else(|_| unreachable!("a hash takes every byte"));
    crate::base::hex::encode(&hash.0.finalize())
}

struct Hasher(Sha256);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(json: &str, expected: &str) {
        let value: Value = serde_json::from_str(json).unwrap();
        assert_eq!(text(&value), expected);
    }

    #[test]
    fn an_object_with_rows_is_hashed_as_one() {
        let odd = "é\"\\/\u{1}\u{8}\n\u{1f}\u{7f}\u{80}\u{2028}😀";
        let rows = vec![
            ("a", 1u64, vec![2u64, 1 << 53, (1 << 53) + 1, u64::MAX], 1.0, -3),
            (odd, 1 << 60, vec![], 2.5e-7, i64::MIN),
        ];
        for rows in [vec![], rows] {
            let rest = json!({"z": 1.5, "a": {"y": 1, "b": 2}});
            let mut whole = rest.clone();
            whole["rows"] = json!(rows);
            assert_eq!(sha256_with_rows(&rest, "rows", rows.iter()), sha256(&whole));
        }
    }

    #[test]
    fn the_examples_of_rfc_8785_come_out() {
        // Section 3.2.2 and 3.2.3 of the RFC.
        check(
            r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
                "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
                "literals":[null,true,false]}"#,
            concat!(
                r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"#,
                "\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
            ),
        );
        check(
            r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh",
                "1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control",
                "\u00f6":"Latin Small Letter O With Diaeresis"}"#,
            "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u{80}\":\"Control\",\
             \"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\
             \"😀\":\"Emoji: Grinning Face\",\"\u{fb33}\":\"Hebrew Letter Dalet With Dagesh\"}",
        );
    }

    #[test]
    fn the_numbers_of_rfc_8785_come_out() {
        // Appendix B of the RFC: the bits of a double, and its text.
        for (bits, expected) in [
            (0x0000000000000000u64, "0"),
            (0x8000000000000000, "0"),
            (0x0000000000000001, "5e-324"),
            (0x8000000000000001, "-5e-324"),
            (0x7fefffffffffffff, "1.7976931348623157e+308"),
            (0xffefffffffffffff, "-1.7976931348623157e+308"),
            (0x4340000000000000, "9007199254740992"),
            (0xc340000000000000, "-9007199254740992"),
            (0x4430000000000000, "295147905179352830000"),
            (0x44b52d02c7e14af5, "9.999999999999997e+22"),
            (0x44b52d02c7e14af6, "1e+23"),
            (0x44b52d02c7e14af7, "1.0000000000000001e+23"),
            (0x444b1ae4d6e2ef4e, "999999999999999700000"),
            (0x444b1ae4d6e2ef4f, "999999999999999900000"),
            (0x444b1ae4d6e2ef50, "1e+21"),
            (0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"),
            (0x3eb0c6f7a0b5ed8d, "0.000001"),
            (0x41b3de4355555553, "333333333.3333332"),
            (0x41b3de4355555554, "333333333.33333325"),
            (0x41b3de4355555555, "333333333.3333333"),
            (0x41b3de4355555556, "333333333.3333334"),
            (0x41b3de4355555557, "333333333.33333343"),
            (0xbecbf647612f3696, "-0.0000033333333333333333"),
            (0x43143ff3c1cb0959, "1424953923781206.2"),
        ] {
            assert_eq!(text(&json!(f64::from_bits(bits))), expected, "{bits:#018x}");
        }
    }

    #[test]
    fn a_count_is_spelled_alike_as_integer_and_as_float() {
        assert_eq!(text(&json!([1, 1.0, 10000, 1e4])), "[1,1,10000,10000]");
    }
}
