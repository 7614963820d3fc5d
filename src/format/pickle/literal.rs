//! Numbers and texts as pickles spell them.

use std::borrow::Cow;

use super::value::Node;
use crate::base::error::{Error, Result};

/// A little-endian integer in two's complement.
pub(super) fn long(bytes: &[u8]) -> Node<'_> {
    let negative = bytes.last().is_some_and(|last| 0x80 <= *last);
    let mut padded = if negative { [0xff; 8] } else { [0; 8] };
    match padded.get_mut(..bytes.len()) {
        Some(low) => {
            low.copy_from_slice(bytes);
            Node::Int(i64::from_le_bytes(padded))
        }
        None => Node::BigInt(bytes),
    }
}

/// Undoes the `repr` of a Python 2 string.
pub(super) fn unquote(line: &[u8], at: u64) -> Result<Cow<'_, [u8]>> {
    let inner = match line {
        [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
        _ => return Err(Error::malformed(at, "STRING has no quotes around it")),
    };
    if !inner.contains(&b'\\') {
        return Ok(Cow::Borrowed(inner));
    }
    let mut bytes = Vec::new();
    let mut rest = inner;
    while let Some((&byte, tail)) = rest.split_first() {
        let (value, tail) = match (byte, tail) {
            (b'\\', [b'x', high, low, tail @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, tail),
                _ => return Err(Error::malformed(at, "STRING has a broken \\x escape")),
            },
            (b'\\', [b'n', tail @ ..]) => (b'\n', tail),
            (b'\\', [b't', tail @ ..]) => (b'\t', tail),
            (b'\\', [b'r', tail @ ..]) => (b'\r', tail),
            (b'\\', [quoted @ (b'\\' | b'\'' | b'"'), tail @ ..]) => (*quoted, tail),
            _ => (byte, tail),
        };
        bytes.push(value);
        rest = tail;
    }
    Ok(Cow::Owned(bytes))
}

/// Decodes Python's `raw-unicode-escape`: Latin-1, but for `\uXXXX` and `\UXXXXXXXX`.
pub(super) fn raw_unicode_escape(line: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some((&byte, tail)) = rest.split_first() {
        let n_digits = match (byte, tail.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => 0,
        };
        let digits = tail.get(1..=n_digits).filter(|_| n_digits != 0);
        let code = digits.and_then(|digits| {
            digits
                .iter()
                .try_fold(0u32, |code, &digit| Some(code.checked_mul(16)? | u32::from(hex(digit)?)))
        });
        match (code, digits) {
            (Some(code), Some(_)) => {
                text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                rest = tail.get(1 + n_digits..).unwrap_or_default();
            }
            _ => {
                text.push(char::from(byte));
                rest = tail;
            }
        }
    }
    text
}

fn hex(digit: u8) -> Option<u8> {
    // A digit of base 16 fits.
    char::from(digit).to_digit(16).map(|value| value as u8)
}

pub(super) fn bad_number(opcode: &str, line: &[u8], at: u64) -> Error {
    let shown = line.get(..40).unwrap_or(line).escape_ascii();
    Error::malformed(at, format!("{opcode} wants a number, `{shown}` is there"))
}
