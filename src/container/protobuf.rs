//! Protocol buffers, walked field by field without a schema.
//!
//! Spec: `protobuf.dev/programming-guides/encoding`.

use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};

/// The value of a field, by its wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// A number of one to ten bytes.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Bytes, text, a message or packed numbers; and the offset of the first byte.
    Bytes(&'a [u8], u64),
    /// Four bytes.
    Fixed32(u32),
}

impl<'a> Field<'a> {
    /// The number of a varint.
    pub fn varint(self) -> Option<u64> {
        if let Field::Varint(number) = self { Some(number) } else { None }
    }
}

/// A number of one to ten bytes, the low seven bits first.
///
/// # Errors
/// The bytes end early, or the number passes 64 bits.
pub fn varint(cursor: &mut Cursor<'_>, what: &str) -> Result<u64> {
    let at = cursor.offset();
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = cursor.u8(what)?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && 1 < bits {
            break;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Error::malformed(at, format!("{what} is a number of more than 64 bits")))
}

/// The fields of a message, in order: the number of each, and its value.
///
/// # Errors
/// The bytes are no message.
pub fn fields(bytes: &[u8], base: u64) -> Result<Vec<(u64, Field<'_>)>> {
    walk(bytes, base).collect()
}

/// As [`fields`], one after the other; nothing is kept.
pub fn walk(bytes: &[u8], base: u64) -> Walk<'_> {
    Walk { cursor: Cursor::new(bytes, base) }
}

/// A walk over the fields of a message; after an error there is none.
pub struct Walk<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Walk<'a> {
    fn field(&mut self) -> Result<(u64, Field<'a>)> {
        let at = self.cursor.offset();
        let cursor = &mut self.cursor;
        let key = varint(cursor, "the key of a field")?;
        let value = match key & 7 {
            0 => Field::Varint(varint(cursor, "a number")?),
            1 => Field::Fixed64(cursor.u64_le("a number")?),
            2 => {
                let len = varint(cursor, "the length of a field")?;
                let at = cursor.offset();
                Field::Bytes(cursor.take(len, "a field")?, at)
            }
            5 => Field::Fixed32(cursor.u32_le("a number")?),
            wire => {
                return Err(Error::malformed(at, format!("a field of the wire type {wire}")));
            }
        };
        Ok((key >> 3, value))
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<(u64, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.cursor.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.cursor = Cursor::new(&[], self.cursor.offset());
        }
        Some(field)
    }
}

/// The numbers of a packed list of varints, one after the other.
pub fn numbers(bytes: &[u8], base: u64) -> impl Iterator<Item = Result<u64>> {
    let mut cursor = Cursor::new(bytes, base);
    std::iter::from_fn(move || {
        if cursor.is_empty() {
            return None;
        }
        let number = varint(&mut cursor, "a number");
        if number.is_err() {
            cursor = Cursor::new(&[], cursor.offset());
        }
        Some(number)
    })
}

/// Adds a number of one to ten bytes.
pub fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while 0x80 <= number {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Adds a field of a number; 0, which readers take for granted, is left out.
pub fn put_number(field: u64, number: u64, out: &mut Vec<u8>) {
    if number != 0 {
        put_varint(field << 3, out);
        put_varint(number, out);
    }
}

/// Adds a field of bytes, text or a message.
pub fn put_bytes(field: u64, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint((field << 3) | 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend(bytes);
}

/// Adds a field of four bytes.
pub fn put_fixed32(field: u64, number: u32, out: &mut Vec<u8>) {
    put_varint((field << 3) | 5, out);
    out.extend(number.to_le_bytes());
}
