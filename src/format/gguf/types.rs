//! The tensor types of a GGUF file: `spec/1.0/encodings.toml`.
//!
//! The numbers belong to the file format, not to a version of the standard; a reader knows them
//! without one.

use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::checkpoint::{DType, Encoding, Parameters, n_elements};

const TABLE: &str = include_str!("../../../spec/1.0/encodings.toml");

/// The table that this program carries.
pub static TYPES: LazyLock<Types> =
    LazyLock::new(|| Types::parse(TABLE).expect("a test parses the embedded file"));

/// Every type.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Types {
    /// Types of blocks.
    pub blocks: Vec<Block>,
    /// Types of plain numbers.
    pub plain: Vec<Plain>,
    /// Types that there were once.
    pub removed: Vec<Removed>,
}

/// A type whose values are packed in blocks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// The id of the encoding, `ggml.q4_k`.
    pub id: String,
    /// Its number in a file.
    pub ggml: u32,
    /// Values in a block.
    pub len: u64,
    /// Bytes of a block.
    pub bytes: u64,
    /// The number that `general.file_type` has where most tensors are of this type.
    pub file_type: Option<u32>,
    /// What rows become that are no whole number of these blocks.
    pub fallback: Option<String>,
}

/// A type whose values are numbers of their own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plain {
    #[serde(deserialize_with = "dtype")]
    #[schemars(with = "String")]
    /// The dtype.
    pub dtype: DType,
    /// Its number in a file.
    pub ggml: u32,
    /// The number that `general.file_type` has where most tensors are of this type.
    pub file_type: Option<u32>,
}

/// A type that there was once.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Removed {
    /// The name it had.
    pub name: String,
    /// Its number in a file.
    pub ggml: u32,
}

/// The type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type<'a> {
    /// Plain numbers.
    Plain(&'a Plain),
    /// Blocks.
    Block(&'a Block),
}

fn dtype<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<DType, D::Error> {
    let name = String::deserialize(deserializer)?;
    DType::parse(&name).ok_or_else(|| serde::de::Error::custom(format!("no dtype {name:?}")))
}

impl Types {
    /// Parses the table.
    ///
    /// # Errors
    /// It does not keep its form; a number or an id stands twice; a block has no values or bytes.
    pub fn parse(text: &str) -> Result<Types, String> {
        toml::from_str::<Types>(text).map_err(|err| err.to_string())?.checked()
    }

    /// The table itself, where it contradicts itself nowhere.
    ///
    /// # Errors
    /// A number or an id stands twice; a block has no values or bytes.
    pub fn checked(self) -> Result<Types, String> {
        let plain = self.plain.iter().map(|plain| plain.ggml);
        let removed = self.removed.iter().map(|removed| removed.ggml);
        let mut numbers: Vec<u32> =
            self.blocks.iter().map(|block| block.ggml).chain(plain).chain(removed).collect();
        numbers.sort_unstable();
        if let Some(twice) = numbers.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("the type {} stands twice", twice[0]));
        }
        for (index, block) in self.blocks.iter().enumerate() {
            if self.blocks[..index].iter().any(|other| other.id == block.id) {
                return Err(format!("the encoding {:?} stands twice", block.id));
            }
            if block.len == 0 || block.bytes == 0 {
                return Err(format!("a block of {:?} has no values or no bytes", block.id));
            }
        }
        Ok(self)
    }

    /// The type of this number; the reason if there is none.
    ///
    /// # Errors
    /// The number is not known, or its type was removed.
    pub fn by_number(&self, number: u32) -> Result<Type<'_>, String> {
        if let Some(plain) = self.plain.iter().find(|plain| plain.ggml == number) {
            return Ok(Type::Plain(plain));
        }
        if let Some(block) = self.blocks.iter().find(|block| block.ggml == number) {
            return Ok(Type::Block(block));
        }
        Err(match self.removed.iter().find(|removed| removed.ggml == number) {
            Some(removed) => format!(
                "its type {number}, {}, was removed from ggml; quantize the model anew",
                removed.name
            ),
            None => format!("its type {number} is not known here"),
        })
    }

    /// The encoding of this id.
    pub fn block(&self, id: &str) -> Option<&Block> {
        self.blocks.iter().find(|block| block.id == id)
    }

    /// What a package says of a tensor of this dtype and shape, held against the tensor.
    ///
    /// # Errors
    /// The entry has another form, names no encoding, or makes another tensor; the reason.
    pub fn encoding(&self, entry: &Json, dtype: DType, shape: &[u64]) -> Result<Encoding, String> {
        let encoding: Encoding =
            serde_json::from_value(entry.clone()).map_err(|err| err.to_string())?;
        let id = &encoding.id;
        let block = self.block(id).ok_or_else(|| format!("there is no encoding {id:?}"))?;
        let (bytes, dims, _) = Type::Block(block).physical(&encoding.shape)?;
        if (bytes, dims.as_slice()) != (dtype, shape) {
            let values = &encoding.shape;
            return Err(format!(
                "{values:?} values of {id} are {bytes} {dims:?}, the tensor is {dtype} {shape:?}"
            ));
        }
        Ok(encoding)
    }

    /// The type of a tensor of this dtype or encoding, if a GGUF file has one.
    pub fn of(&self, dtype: DType, encoding: Option<&Encoding>) -> Option<Type<'_>> {
        match encoding {
            Some(encoding) => self.block(&encoding.id).map(Type::Block),
            None => self.plain.iter().find(|plain| plain.dtype == dtype).map(Type::Plain),
        }
    }
}

impl Block {
    /// The name of the type, `Q4_K`.
    pub fn name(&self) -> String {
        let name = self.id.split_once('.').map_or(self.id.as_str(), |(_, name)| name);
        name.to_ascii_uppercase()
    }
}

impl Type<'_> {
    /// Its number in a file.
    pub fn number(self) -> u32 {
        match self {
            Type::Plain(plain) => plain.ggml,
            Type::Block(block) => block.ggml,
        }
    }

    /// The number that `general.file_type` has where most tensors are of this type.
    pub fn file_type(self) -> Option<u32> {
        match self {
            Type::Plain(plain) => plain.file_type,
            Type::Block(block) => block.file_type,
        }
    }

    /// Its name, `Q4_K`.
    pub fn name(self) -> String {
        match self {
            Type::Plain(plain) => plain.dtype.name().to_owned(),
            Type::Block(block) => block.name(),
        }
    }

    /// The dtype and the shape of the bytes of a tensor of this logical shape, and its encoding.
    ///
    /// # Errors
    /// A row is no whole number of blocks, or the size in bits passes 2^64.
    pub fn physical(self, shape: &[u64]) -> Result<(DType, Vec<u64>, Option<Encoding>), String> {
        let too_large = || format!("{shape:?} values take more bytes than can be counted");
        match self {
            Type::Plain(plain) => {
                let n_bytes = n_elements(shape).and_then(|n| plain.dtype.n_bytes(n));
                n_bytes.ok_or_else(too_large)?;
                Ok((plain.dtype, shape.to_vec(), None))
            }
            Type::Block(block) => {
                let (row_len, rows) = match shape.split_last() {
                    Some((last, rows)) => (*last, rows),
                    None => (1, [].as_slice()),
                };
                if !row_len.is_multiple_of(block.len) {
                    return Err(format!(
                        "rows of {row_len} values are no multiple of the blocks of {} that {} has",
                        block.len,
                        block.name()
                    ));
                }
                let row_bytes = (row_len / block.len).checked_mul(block.bytes);
                let mut physical = rows.to_vec();
                physical.push(row_bytes.ok_or_else(too_large)?);
                let n_bytes = n_elements(&physical).and_then(|n| DType::U8.n_bytes(n));
                n_bytes.ok_or_else(too_large)?;
                let encoding = Encoding {
                    id: block.id.clone(),
                    shape: shape.to_vec(),
                    parameters: Parameters::default(),
                };
                Ok((DType::U8, physical, Some(encoding)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_sizes_of_the_python_package() {
        let golden = include_str!("../../../fixtures/gguf/quant_sizes.txt");
        let mut n_lines = 0;
        for line in golden.lines() {
            n_lines += 1;
            let words: Vec<&str> = line.split(' ').collect();
            let [number, name, len, bytes] = words[..] else { panic!("{line}") };
            let found = TYPES.by_number(number.parse().unwrap()).unwrap();
            assert_eq!(found.name(), name);
            let (found_len, found_bytes) = match found {
                Type::Plain(plain) => (1, plain.dtype.bits() / 8),
                Type::Block(block) => (block.len, block.bytes),
            };
            // See the comment in the table.
            let bytes = if name == "Q8_1" { "36" } else { bytes };
            assert_eq!(format!("{found_len} {found_bytes}"), format!("{len} {bytes}"), "{name}");
        }
        // Q2_0 is newer than the package.
        assert_eq!(n_lines + 1, TYPES.blocks.len() + TYPES.plain.len());
    }

    #[test]
    fn every_type_of_blocks_has_a_codec_of_its_number_and_size() {
        for block in &TYPES.blocks {
            let codec = crate::encoding::ggml::BlockType::find(&block.id).expect("it has a codec");
            assert_eq!(block.ggml, codec.ggml_type, "{}", block.id);
            let sizes = (codec.block_len as u64, codec.block_bytes as u64);
            assert_eq!((block.len, block.bytes), sizes, "{}", block.id);
        }
    }

    #[test]
    fn shapes_of_bytes_follow_from_shapes_of_values() {
        let of = |id: &str| Type::Block(TYPES.block(id).unwrap());
        let (dtype, shape, encoding) = of("ggml.q4_k").physical(&[3, 5, 512]).unwrap();
        assert_eq!((dtype, shape), (DType::U8, vec![3, 5, 288]));
        assert_eq!(encoding.unwrap().shape, [3, 5, 512]);
        assert!(of("ggml.q4_k").physical(&[3, 128]).unwrap_err().contains("no multiple"));
        assert!(of("ggml.q8_0").physical(&[]).unwrap_err().contains("no multiple"));
        let wide = of("ggml.q8_1").physical(&[1 << 62]).unwrap_err();
        assert!(wide.contains("more bytes than"), "{wide}");
        let f32 = TYPES.of(DType::F32, None).unwrap();
        assert!(f32.physical(&[1 << 63]).is_err());
        assert_eq!(f32.physical(&[]).unwrap().1, [0u64; 0]);
        assert!(TYPES.of(DType::Bool, None).is_none());
    }

    #[test]
    fn tables_that_contradict_themselves_are_refused() {
        let parse = |blocks: &str| {
            Types::parse(&format!("blocks = [{blocks}]\nplain = []\nremoved = []")).unwrap_err()
        };
        let one = "{ id = \"a\", ggml = 1, len = 1, bytes = 1 }";
        assert!(parse(&format!("{one}, {one}")).contains("1 stands twice"));
        let other = one.replace("ggml = 1", "ggml = 2");
        assert!(parse(&format!("{one}, {other}")).contains("\"a\" stands twice"));
        assert!(parse(&one.replace("len = 1", "len = 0")).contains("no values"));
    }
}
