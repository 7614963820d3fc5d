//! FlatBuffers, walked without a schema: tables whose fields are found by their numbers.
//!
//! ```text
//! root u32 -> table: i32 back to the list of its fields, then their values
//! list: u16 its length, u16 the length of the table, u16 where each field is, 0 where there is none
//! vector, text: u32 count, then the items; tables and vectors lie elsewhere, u32 further on
//! ```
//!
//! Spec: `flatbuffers.dev/internals`.

use crate::base::cursor::Cursor;
use crate::base::error::{Error, Result};

/// The bytes of a buffer; offsets count from its first byte.
#[derive(Clone, Copy)]
pub struct Buffer<'a> {
    bytes: &'a [u8],
}

/// A table of a buffer.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    buffer: Buffer<'a>,
    at: u64,
    /// Where the list of its fields is, and how many bytes it has.
    list: u64,
    list_len: u64,
}

/// Items of a vector that lie in one row.
#[derive(Clone, Copy)]
pub struct Vector {
    /// The first byte of the first item.
    pub start: u64,
    /// How many there are.
    pub count: u64,
}

impl<'a> Buffer<'a> {
    /// A buffer that is these bytes.
    pub fn new(bytes: &'a [u8]) -> Buffer<'a> {
        Buffer { bytes }
    }

    fn cursor(self, at: u64) -> Result<Cursor<'a>> {
        let rest = usize::try_from(at).ok().and_then(|at| self.bytes.get(at..));
        let rest = rest.ok_or_else(|| Error::malformed(at, "a place behind the end"))?;
        Ok(Cursor::new(rest, at))
    }

    /// The outermost table.
    ///
    /// # Errors
    /// It passes the end.
    pub fn root(self) -> Result<Table<'a>> {
        self.table(u64::from(self.cursor(0)?.u32_le("the root")?))
    }

    fn table(self, at: u64) -> Result<Table<'a>> {
        let back = i64::from(self.cursor(at)?.u32_le("a table")?.cast_signed());
        let list = at.checked_add_signed(-back);
        let list = list.ok_or_else(|| Error::malformed(at, "a table without a list of fields"))?;
        let list_len = u64::from(self.cursor(list)?.u16_le("a list of fields")?);
        Ok(Table { buffer: self, at, list, list_len })
    }

    /// What a number at this place leads to.
    fn follow(self, at: u64) -> Result<u64> {
        let further = u64::from(self.cursor(at)?.u32_le("the place of a value")?);
        Ok(at.saturating_add(further))
    }

    /// The bytes of a vector of items of so many bytes.
    fn vector(self, at: u64, width: u64) -> Result<Vector> {
        let mut cursor = self.cursor(at)?;
        let count = u64::from(cursor.u32_le("the number of items")?);
        let start = cursor.offset();
        cursor.take(count.saturating_mul(width), "the items of a list")?;
        Ok(Vector { start, count })
    }
}

impl<'a> Table<'a> {
    /// Where the value of a field is; `None` where it is left out.
    fn field(&self, number: u64) -> Result<Option<u64>> {
        let entry = 4 + 2 * number;
        if self.list_len < entry + 2 {
            return Ok(None);
        }
        let place = self.list.saturating_add(entry);
        let inside = u64::from(self.buffer.cursor(place)?.u16_le("the place of a field")?);
        Ok((inside != 0).then(|| self.at.saturating_add(inside)))
    }

    /// A field of one byte.
    ///
    /// # Errors
    /// It passes the end.
    pub fn byte(&self, number: u64) -> Result<Option<u8>> {
        let at = self.field(number)?;
        at.map(|at| self.buffer.cursor(at)?.u8("a byte")).transpose()
    }

    /// A field of four bytes.
    ///
    /// # Errors
    /// It passes the end.
    pub fn u32(&self, number: u64) -> Result<Option<u32>> {
        let at = self.field(number)?;
        at.map(|at| self.buffer.cursor(at)?.u32_le("a number")).transpose()
    }

    /// A field of eight bytes.
    ///
    /// # Errors
    /// It passes the end.
    pub fn u64(&self, number: u64) -> Result<Option<u64>> {
        let at = self.field(number)?;
        at.map(|at| self.buffer.cursor(at)?.u64_le("a number")).transpose()
    }

    /// A field that is a vector of items of so many bytes.
    ///
    /// # Errors
    /// It passes the end.
    pub fn vector(&self, number: u64, width: u64) -> Result<Option<Vector>> {
        let Some(at) = self.field(number)? else { return Ok(None) };
        self.buffer.vector(self.buffer.follow(at)?, width).map(Some)
    }

    /// A field that is a list of signed numbers of four bytes.
    ///
    /// # Errors
    /// It passes the end.
    pub fn numbers(&self, number: u64) -> Result<Option<Vec<i32>>> {
        let Some(vector) = self.vector(number, 4)? else { return Ok(None) };
        let mut cursor = self.buffer.cursor(vector.start)?;
        let read = (0..vector.count).map(|_| Ok(cursor.u32_le("a number")?.cast_signed()));
        read.collect::<Result<_>>().map(Some)
    }

    /// A field that is a text; bytes that are none are replaced.
    ///
    /// # Errors
    /// It passes the end.
    pub fn text(&self, number: u64) -> Result<Option<String>> {
        let Some(vector) = self.vector(number, 1)? else { return Ok(None) };
        let bytes = self.buffer.cursor(vector.start)?.take(vector.count, "a text")?;
        Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
    }

    /// A field that is a table.
    ///
    /// # Errors
    /// It passes the end.
    pub fn table(&self, number: u64) -> Result<Option<Table<'a>>> {
        let Some(at) = self.field(number)? else { return Ok(None) };
        self.buffer.table(self.buffer.follow(at)?).map(Some)
    }

    /// A field that is a list of tables, of which there may be so many.
    ///
    /// # Errors
    /// One passes the end, or there are more.
    pub fn tables(&self, number: u64, most: u64) -> Result<Vec<Table<'a>>> {
        let Some(vector) = self.vector(number, 4)? else { return Ok(Vec::new()) };
        if most < vector.count {
            let message = format!("{} tables, at most {most} are read", vector.count);
            return Err(Error::limit(vector.start, message));
        }
        let places = (0..vector.count).map(|item| vector.start + 4 * item);
        places.map(|at| self.buffer.table(self.buffer.follow(at)?)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_numbers_and_never_behind_the_end() {
        // A table with field 1, a vector of two bytes; field 0 is left out.
        let bytes = [
            12, 0, 0, 0, // the root
            8, 0, 8, 0, 0, 0, 4, 0, // the list of fields
            8, 0, 0, 0, // back to it
            4, 0, 0, 0, // the vector
            2, 0, 0, 0, 7, 9,
        ];
        let root = Buffer::new(&bytes).root().unwrap();
        assert!(root.vector(0, 1).unwrap().is_none() && root.vector(9, 1).unwrap().is_none());
        let vector = root.vector(1, 1).unwrap().unwrap();
        assert_eq!((vector.start, vector.count), (24, 2));
        assert!(root.vector(1, 2).is_err());
        for end in 0..bytes.len() {
            let root = Buffer::new(&bytes[..end]).root();
            assert!(root.and_then(|root| root.vector(1, 1)).is_err(), "{end}");
        }
    }
}
