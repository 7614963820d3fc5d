//! The model file of SentencePiece: a protobuf message `ModelProto`
//! (`sentencepiece_model.proto`, SentencePiece 0.2).

use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};

/// What the pieces were trained for; others than these two exist and split by words or characters.
pub(super) const UNIGRAM: u64 = 1;
pub(super) const BPE: u64 = 2;

/// What a piece is, as GGUF numbers it too.
pub(super) const NORMAL: i32 = 1;
pub(super) const UNKNOWN: i32 = 2;
pub(super) const CONTROL: i32 = 3;
pub(super) const USER_DEFINED: i32 = 4;
pub(super) const UNUSED: i32 = 5;
pub(super) const BYTE: i32 = 6;

pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: i32,
}

/// A model; what the file leaves out has the default that the message gives it.
pub(super) struct Model {
    pub(super) pieces: Vec<Piece>,
    pub(super) kind: u64,
    /// The ids of unknown, begin, end and padding; negative: there is none.
    pub(super) unk: i64,
    pub(super) bos: i64,
    pub(super) eos: i64,
    pub(super) pad: i64,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) precompiled_charsmap: Vec<u8>,
}

impl Model {
    /// Reads a model file.
    ///
    /// # Errors
    /// It is no message of this form: truncated, a length past the end, a piece without a text.
    pub(super) fn parse(bytes: &[u8]) -> Result<Model> {
        let mut model = Model {
            pieces: Vec::new(),
            kind: UNIGRAM,
            unk: 0,
            bos: 1,
            eos: 2,
            pad: -1,
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            precompiled_charsmap: Vec::new(),
        };
        fields(bytes, 0, "model", |number, field| {
            match number {
                1 => model.pieces.push(piece(field)?),
                2 => field.message("trainer_spec", |number, field| {
                    match number {
                        3 => model.kind = field.number("model_type")?,
                        40 => model.unk = field.id("unk_id")?,
                        41 => model.bos = field.id("bos_id")?,
                        42 => model.eos = field.id("eos_id")?,
                        43 => model.pad = field.id("pad_id")?,
                        _ => {}
                    }
                    Ok(())
                })?,
                3 => field.message("normalizer_spec", |number, field| {
                    match number {
                        2 => model.precompiled_charsmap = field.bytes("charsmap")?.0.to_vec(),
                        3 => model.add_dummy_prefix = field.number("add_dummy_prefix")? != 0,
                        4 => {
                            model.remove_extra_whitespaces =
                                field.number("remove_extra_whitespaces")? != 0;
                        }
                        _ => {}
                    }
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        })?;
        if model.pieces.is_empty() {
            return Err(Error::malformed(0, "a SentencePiece model has pieces, and here are none"));
        }
        Ok(model)
    }
}

fn piece(field: &Field<'_>) -> Result<Piece> {
    let (mut text, mut score, mut kind) = (None, 0.0, NORMAL);
    field.message("piece", |number, field| {
        match number {
            1 => {
                let (bytes, offset) = field.bytes("the text of a piece")?;
                let utf8 = std::str::from_utf8(bytes).map_err(|err| {
                    let offset = offset.saturating_add(err.valid_up_to() as u64);
                    Error::malformed(offset, "the text of a piece is UTF-8, and this is none")
                })?;
                text = Some(utf8.to_owned());
            }
            2 => score = field.float("the score of a piece")?,
            3 => {
                let number = field.number("the type of a piece")?;
                let known =
                    i32::try_from(number).ok().filter(|kind| (NORMAL..=BYTE).contains(kind));
                kind = known.ok_or_else(|| {
                    let message = format!("the type of a piece is 1 to 6, found {number}");
                    Error::malformed(field.offset, message)
                })?;
            }
            _ => {}
        }
        Ok(())
    })?;
    let text = text.ok_or_else(|| Error::malformed(field.offset, "a piece has a text"))?;
    Ok(Piece { text, score, kind })
}

/// A value as it lies in the file, and where.
struct Field<'a> {
    value: Wire<'a>,
    offset: u64,
}

enum Wire<'a> {
    Varint(u64),
    Fixed(&'a [u8]),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn wrong(&self, name: &str, expected: &str) -> Error {
        let found = match &self.value {
            Wire::Varint(_) => "a number".to_owned(),
            Wire::Fixed(bytes) => format!("{} bytes of fixed size", bytes.len()),
            Wire::Bytes(bytes) => format!("{} bytes with a length", bytes.len()),
        };
        Error::malformed(self.offset, format!("{name} is {expected}, found {found}"))
    }

    fn number(&self, name: &str) -> Result<u64> {
        match self.value {
            Wire::Varint(value) => Ok(value),
            _ => Err(self.wrong(name, "a number")),
        }
    }

    /// An `int32`: a negative one is written as 64 bits.
    fn id(&self, name: &str) -> Result<i64> {
        Ok(self.number(name)?.cast_signed())
    }

    fn float(&self, name: &str) -> Result<f32> {
        match self.value {
            Wire::Fixed(bytes) => match bytes.try_into() {
                Ok(bytes) => Ok(f32::from_le_bytes(bytes)),
                Err(_) => Err(self.wrong(name, "4 bytes")),
            },
            _ => Err(self.wrong(name, "4 bytes")),
        }
    }

    fn bytes(&self, name: &str) -> Result<(&'a [u8], u64)> {
        match self.value {
            Wire::Bytes(bytes) => Ok((bytes, self.offset)),
            _ => Err(self.wrong(name, "bytes with a length")),
        }
    }

    fn message(&self, name: &str, read: impl FnMut(u64, &Field<'a>) -> Result<()>) -> Result<()> {
        let (bytes, offset) = self.bytes(name)?;
        fields(bytes, offset, name, read)
    }
}

/// Gives every field of a message with its number.
fn fields<'a>(
    bytes: &'a [u8],
    base: u64,
    name: &str,
    mut read: impl FnMut(u64, &Field<'a>) -> Result<()>,
) -> Result<()> {
    let mut cursor = Cursor::new(bytes, base);
    while !cursor.is_empty() {
        let start = cursor.offset();
        let key = varint(&mut cursor)?;
        let (number, kind) = (key >> 3, key & 7);
        if number == 0 {
            return Err(Error::malformed(start, format!("a field of {name} has the number 0")));
        }
        let mut offset = cursor.offset();
        let value = match kind {
            0 => Wire::Varint(varint(&mut cursor)?),
            1 => Wire::Fixed(cursor.take(8, "a field of fixed size")?),
            2 => {
                let len = varint(&mut cursor)?;
                offset = cursor.offset();
                Wire::Bytes(cursor.take(len, &format!("field {number} of {name}"))?)
            }
            5 => Wire::Fixed(cursor.take(4, "a field of fixed size")?),
            _ => {
                let message = format!("field {number} of {name} has the wire type {kind}");
                return Err(Error::malformed(start, message));
            }
        };
        read(number, &Field { value, offset })?;
    }
    Ok(())
}

fn varint(cursor: &mut Cursor<'_>) -> Result<u64> {
    let start = cursor.offset();
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = cursor.u8("a number")?;
        // The tenth byte has room for one bit.
        if shift == 63 && 1 < byte {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Error::malformed(start, "a number of more than 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: &str) {
        let actual = match Model::parse(bytes) {
            Ok(model) => {
                let pieces = model.pieces.iter();
                let pieces: Vec<String> = pieces
                    .map(|piece| format!("{:?} {} {}", piece.text, piece.score, piece.kind))
                    .collect();
                format!("{pieces:?} {} {}", model.kind, model.pad)
            }
            Err(err) => err.to_string(),
        };
        assert_eq!(actual, expected);
    }

    #[test]
    fn a_message_is_read_and_what_is_unknown_passed_over() {
        // A piece with a score and a type, trainer_spec with model_type 2 and pad_id -1, a field 15.
        let mut bytes = vec![0x0a, 10, 0x0a, 1, b'a', 0x15, 0, 0, 0x80, 0xbf, 0x18, 3];
        bytes.extend([0x12, 14, 0x18, 2, 0xd8, 0x02]);
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
        bytes.extend([0x78, 5]);
        check(&bytes, r#"["\"a\" -1 3"] 2 -1"#);
    }

    #[test]
    fn what_is_no_message_is_an_error_with_its_place() {
        check(b"", "a SentencePiece model has pieces, and here are none (at byte 0x0)");
        check(&[0x0a], "a number takes 1 bytes, 0 are left (at byte 0x1)");
        check(&[0x0a, 9, 1], "field 1 of model takes 9 bytes, 1 are left (at byte 0x2)");
        let huge = [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        let message = "field 1 of model takes 18446744073709551615 bytes, 0 are left (at byte 0xb)";
        check(&huge, message);
        check(&[0xff; 12], "a number of more than 64 bits (at byte 0x0)");
        check(&[0x0b], "field 1 of model has the wire type 3 (at byte 0x0)");
        check(&[0x08, 1], "piece is bytes with a length, found a number (at byte 0x1)");
        check(&[0x0a, 2, 0x18, 1], "a piece has a text (at byte 0x2)");
        check(
            &[0x0a, 3, 0x0a, 1, 0xff],
            "the text of a piece is UTF-8, and this is none (at byte 0x4)",
        );
        check(
            &[0x0a, 5, 0x0a, 1, b'a', 0x18, 9],
            "the type of a piece is 1 to 6, found 9 (at byte 0x6)",
        );
        // What is cut anywhere is an error, and never a panic.
        let whole = [0x0a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0x80, 0xbf];
        assert!(Model::parse(&whole).is_ok());
        assert!((1..whole.len()).all(|len| Model::parse(&whole[..len]).is_err()));
    }
}
