//! MessagePack, walked in place: values borrow from the bytes, and nothing is allocated by a count
//! that the bytes do not back.
//!
//! Spec: `github.com/msgpack/msgpack/blob/master/spec.md`.

use crate::base::cursor::Cursor;
use crate::base::error::{Error, ErrorKind, Result};

/// How deep values may lie in each other.
const MAX_DEPTH: usize = 64;
/// Values of a file: a few for each tensor.
const MAX_VALUES: usize = 1 << 20;

/// A value.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// Nothing.
    Nil,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A floating-point number.
    Float(f64),
    /// Text, which should be UTF-8.
    Str(&'a [u8]),
    /// Bytes, and the offset of the first.
    Bin(&'a [u8], u64),
    /// Bytes of a type that an application gave a number, and the offset of the first.
    Ext(i8, &'a [u8], u64),
    /// A list.
    Array(Vec<Value<'a>>),
    /// Pairs, in order.
    Map(Vec<(Value<'a>, Value<'a>)>),
}

impl<'a> Value<'a> {
    /// The text, where it is text.
    pub fn as_str(&self) -> Option<&'a str> {
        match self {
            Value::Str(text) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// The number, where it is a whole one that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Int(int) => u64::try_from(*int).ok(),
            _ => None,
        }
    }
}

/// Reads one value, which takes all of the bytes.
///
/// # Errors
/// The bytes end early, go on behind it, or lie deeper in each other than is followed.
pub fn read(bytes: &[u8], base: u64) -> Result<Value<'_>> {
    let mut cursor = Cursor::new(bytes, base);
    let value = value(&mut cursor, 0, &mut 0)?;
    if !cursor.is_empty() {
        let message = format!("{} bytes follow the value", cursor.left());
        return Err(Error::malformed(cursor.offset(), message));
    }
    Ok(value)
}

/// `n_values` counts those that were read.
fn value<'a>(cursor: &mut Cursor<'a>, depth: usize, n_values: &mut usize) -> Result<Value<'a>> {
    let at = cursor.offset();
    *n_values += 1;
    if MAX_VALUES < *n_values {
        return Err(Error::limit(at, format!("more than {MAX_VALUES} values")));
    }
    if MAX_DEPTH < depth {
        let message = format!("values lie more than {MAX_DEPTH} deep in each other");
        return Err(Error::limit(at, message));
    }
    let first = cursor.u8("a value")?;
    let int = |n: u64| Value::Int(i128::from(n));
    Ok(match first {
        0x00..=0x7f => int(u64::from(first)),
        0x80..=0x8f => map(cursor, u64::from(first & 0x0f), depth, n_values)?,
        0x90..=0x9f => array(cursor, u64::from(first & 0x0f), depth, n_values)?,
        0xa0..=0xbf => Value::Str(cursor.take(u64::from(first & 0x1f), "a text")?),
        0xc0 => Value::Nil,
        0xc2 => Value::Bool(false),
        0xc3 => Value::Bool(true),
        0xc4..=0xc6 => {
            let len = uint(cursor, 1 << (first - 0xc4))?;
            let at = cursor.offset();
            Value::Bin(cursor.take(len, "bytes")?, at)
        }
        0xc7..=0xc9 => {
            let len = uint(cursor, 1 << (first - 0xc7))?;
            ext(cursor, len)?
        }
        0xca => Value::Float(f64::from(f32::from_bits(uint(cursor, 4)? as u32))),
        0xcb => Value::Float(f64::from_bits(uint(cursor, 8)?)),
        0xcc..=0xcf => int(uint(cursor, 1 << (first - 0xcc))?),
        0xd0..=0xd3 => {
            let width = 1u32 << (first - 0xd0);
            let shift = 64 - 8 * width;
            let wide = (uint(cursor, width)? << shift).cast_signed() >> shift;
            Value::Int(i128::from(wide))
        }
        0xd4..=0xd8 => ext(cursor, 1 << (first - 0xd4))?,
        0xd9..=0xdb => {
            let len = uint(cursor, 1 << (first - 0xd9))?;
            Value::Str(cursor.take(len, "a text")?)
        }
        0xdc | 0xdd => {
            let n = uint(cursor, if first == 0xdc { 2 } else { 4 })?;
            array(cursor, n, depth, n_values)?
        }
        0xde | 0xdf => {
            let n = uint(cursor, if first == 0xde { 2 } else { 4 })?;
            map(cursor, n, depth, n_values)?
        }
        0xe0..=0xff => Value::Int(i128::from(first.cast_signed())),
        0xc1 => return Err(Error::malformed(at, "byte 0xc1 begins no value")),
    })
}

/// An unsigned number of `width` bytes, the high byte first.
fn uint(cursor: &mut Cursor<'_>, width: u32) -> Result<u64> {
    let bytes = cursor.take(u64::from(width), "a number")?;
    Ok(bytes.iter().fold(0, |number, &byte| (number << 8) | u64::from(byte)))
}

fn ext<'a>(cursor: &mut Cursor<'a>, len: u64) -> Result<Value<'a>> {
    let kind = cursor.u8("the type of an extension")?.cast_signed();
    let at = cursor.offset();
    Ok(Value::Ext(kind, cursor.take(len, "an extension")?, at))
}

fn array<'a>(
    cursor: &mut Cursor<'a>,
    n: u64,
    depth: usize,
    n_values: &mut usize,
) -> Result<Value<'a>> {
    let mut items = Vec::new();
    for _ in 0..n {
        items.push(value(cursor, depth + 1, n_values)?);
    }
    Ok(Value::Array(items))
}

fn map<'a>(
    cursor: &mut Cursor<'a>,
    n: u64,
    depth: usize,
    n_values: &mut usize,
) -> Result<Value<'a>> {
    let mut pairs = Vec::new();
    for _ in 0..n {
        pairs.push((value(cursor, depth + 1, n_values)?, value(cursor, depth + 1, n_values)?));
    }
    Ok(Value::Map(pairs))
}

/// Begins a map of `n` pairs, whose keys and values follow in turn. A number of more than 32 bits,
/// here and below, has no place in a file.
pub fn put_map(n: u32, out: &mut Vec<u8>) {
    put_head(n, &[(15, 0x80), (0xffff, 0xde), (u32::MAX, 0xdf)], out);
}

/// Begins a list of `n` values, which follow.
pub fn put_array(n: u32, out: &mut Vec<u8>) {
    put_head(n, &[(15, 0x90), (0xffff, 0xdc), (u32::MAX, 0xdd)], out);
}

/// A text.
///
/// # Errors
/// It has more than 2^32 bytes.
pub fn put_str(text: &str, out: &mut Vec<u8>) -> Result<()> {
    let len = length(text.len() as u64)?;
    put_head(len, &[(31, 0xa0), (0xff, 0xd9), (0xffff, 0xda), (u32::MAX, 0xdb)], out);
    out.extend(text.as_bytes());
    Ok(())
}

/// A truth value.
pub fn put_bool(value: bool, out: &mut Vec<u8>) {
    out.push(0xc2 | u8::from(value));
}

/// A whole number that is not negative.
pub fn put_uint(number: u64, out: &mut Vec<u8>) {
    match u32::try_from(number) {
        Ok(number) if number <= 0x7f => out.push(number as u8),
        Ok(number) if number <= 0xff => out.extend([0xcc, number as u8]),
        Ok(number) if number <= 0xffff => {
            out.push(0xcd);
            out.extend((number as u16).to_be_bytes());
        }
        Ok(number) => {
            out.push(0xce);
            out.extend(number.to_be_bytes());
        }
        Err(_) => {
            out.push(0xcf);
            out.extend(number.to_be_bytes());
        }
    }
}

/// What stands before `len` bytes.
///
/// # Errors
/// There are more than 2^32.
pub fn put_bin_head(len: u64, out: &mut Vec<u8>) -> Result<()> {
    put_head(length(len)?, &[(0xff, 0xc4), (0xffff, 0xc5), (u32::MAX, 0xc6)], out);
    Ok(())
}

/// What stands before the `len` bytes of a type that an application gave a number.
///
/// # Errors
/// There are more than 2^32.
pub fn put_ext_head(kind: i8, len: u64, out: &mut Vec<u8>) -> Result<()> {
    match len {
        1 | 2 | 4 | 8 | 16 => out.push(0xd4 + len.trailing_zeros() as u8),
        _ => put_head(length(len)?, &[(0xff, 0xc7), (0xffff, 0xc8), (u32::MAX, 0xc9)], out),
    }
    out.push(kind.cast_unsigned());
    Ok(())
}

fn length(len: u64) -> Result<u32> {
    u32::try_from(len).map_err(|_| {
        Error::new(ErrorKind::Limit, format!("{len} bytes in one piece of MessagePack"))
    })
}

/// The first byte of the first kind that holds the number, and the number: in the byte itself, where
/// the kind holds less than one.
fn put_head(number: u32, kinds: &[(u32, u8)], out: &mut Vec<u8>) {
    let Some((most, first)) = kinds.iter().find(|(most, _)| number <= *most) else { return };
    match most {
        0xff => out.extend([*first, number as u8]),
        0xffff => {
            out.push(*first);
            out.extend((number as u16).to_be_bytes());
        }
        0x1_0000.. => {
            out.push(*first);
            out.extend(number.to_be_bytes());
        }
        _ => out.push(first | number as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_width_are_read() {
        let read = |bytes: &[u8]| format!("{:?}", super::read(bytes, 0).unwrap());
        assert_eq!(read(&[0x7f]), "Int(127)");
        assert_eq!(read(&[0xff]), "Int(-1)");
        assert_eq!(read(&[0xd0, 0x80]), "Int(-128)");
        assert_eq!(read(&[0xd1, 0xff, 0xfe]), "Int(-2)");
        assert_eq!(read(&[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0]), format!("Int({})", i64::MIN));
        assert_eq!(
            read(&[0xcf, 255, 255, 255, 255, 255, 255, 255, 255]),
            format!("Int({})", u64::MAX)
        );
        assert_eq!(read(&[0xca, 0x3f, 0xc0, 0, 0]), "Float(1.5)");
    }

    #[test]
    fn what_is_written_is_read_and_as_short_as_can_be() {
        let lens = [(0, 1), (1, 2), (31, 32), (32, 34), (255, 257), (256, 259), (65_536, 65_541)];
        for (len, written) in lens {
            let (text, mut out) = ("x".repeat(len), Vec::new());
            put_str(&text, &mut out).unwrap();
            assert_eq!(out.len(), written);
            assert_eq!(read(&out, 0).unwrap().as_str(), Some(text.as_str()));
        }
        for (number, written) in [
            (0, 1),
            (127, 1),
            (128, 2),
            (255, 2),
            (256, 3),
            (65_536, 5),
            (1 << 32, 9),
            (u64::MAX, 9),
        ] {
            let mut out = Vec::new();
            put_uint(number, &mut out);
            assert_eq!((out.len(), read(&out, 0).unwrap().as_u64()), (written, Some(number)));
        }
        for len in [1usize, 3, 4, 16, 17, 255, 256, 65_536] {
            let mut out = Vec::new();
            put_ext_head(-3, len as u64, &mut out).unwrap();
            out.resize(out.len() + len, 7);
            let Value::Ext(-3, bytes, _) = read(&out, 0).unwrap() else { panic!("{len}") };
            assert_eq!(bytes.len(), len);
        }
        for n in [0u32, 15, 16, 65_536] {
            let mut out = Vec::new();
            put_array(n, &mut out);
            out.resize(out.len() + n as usize, 0xc0);
            let Value::Array(items) = read(&out, 0).unwrap() else { panic!("{n}") };
            assert_eq!(items.len(), n as usize);
            let mut out = Vec::new();
            put_map(n, &mut out);
            out.resize(out.len() + 2 * n as usize, 0xc0);
            let Value::Map(pairs) = read(&out, 0).unwrap() else { panic!("{n}") };
            assert_eq!(pairs.len(), n as usize);
        }
        assert!(put_bin_head(1 << 32, &mut Vec::new()).is_err());
    }

    #[test]
    fn counts_and_depths_that_nothing_backs_are_refused() {
        for bytes in [
            &[0xdf, 255, 255, 255, 255][..],
            &[0xdd, 255, 255, 255, 255],
            &[0xc9, 255, 255, 255, 255, 1],
            &[0xc1],
            &[0x92, 1],
        ] {
            assert!(read(bytes, 0).is_err(), "{bytes:?}");
        }
        // A list of so many nils in as many bytes.
        let mut many = vec![0xdd, 1, 0, 0, 0];
        many.resize(5 + (1 << 24), 0xc0);
        let err = read(&many, 0).unwrap_err();
        assert_eq!(err.message(), "more than 1048576 values");
        let err = read(&[0x91; 10_000], 0).unwrap_err();
        assert_eq!(err.message(), "values lie more than 64 deep in each other");
    }
}
