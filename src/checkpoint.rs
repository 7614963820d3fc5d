//! What every reader returns: names, dtypes, shapes, and where the bytes are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::base::checksum::Checksum;
use crate::base::diagnostic::Diagnostic;
use crate::base::name::Name;
use crate::base::source::Extent;
use crate::metadata::Metadata;

pub mod layout;
pub mod signature;
pub mod tiles;

use self::layout::Layout;
use self::signature::Signature;
use self::tiles::Tile;

/// A checkpoint as it lies on disk: its index, and none of its weights.
#[derive(Default)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The id of the format it was read from: `safetensors`, `pytorch` or `gguf`.
    pub format: &'static str,
    /// The tensors, in the order of the file.
    pub tensors: Vec<Tensor>,
    /// Free text the container keeps beside the tensors.
    pub metadata: BTreeMap<String, String>,
    /// Keys and values with types, where the container has them.
    pub typed_metadata: Metadata,
    /// What the reader noticed on the way.
    pub findings: Vec<Diagnostic>,
    /// The checksums that the container keeps of bytes, for whoever reads them all.
    pub checksums: Vec<StoredChecksum>,
    /// What it says that goes into its model, and what comes out; for programs that serve it.
    pub signatures: Vec<Signature>,
}

/// A checksum that a container keeps of bytes of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredChecksum {
    /// The tensor.
    pub tensor: String,
    /// The bytes.
    pub bytes: Extent,
    /// The kind.
    pub kind: Checksum,
    /// What they have.
    pub value: u32,
    /// Whether the library of the format compares it whenever it reads the bytes.
    pub is_compared_on_reading: bool,
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tensor {
    /// Its name, as the file spells it.
    pub name: Name,
    /// The type of its elements.
    pub dtype: DType,
    /// Its dimensions, slowest first.
    pub shape: Vec<u64>,
    /// What the elements are when they are no numbers of their own: bytes of blocks, where `dtype`
    /// is U8 and `shape` counts bytes along the last axis; or the bytes of all parts, one by one.
    pub encoding: Option<Box<Encoding>>,
    /// Where its elements are.
    pub payload: Payload,
}

/// How the values of a quantized tensor are packed: in blocks along the last axis, in line, or in
/// several stored tensors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Encoding {
    /// The id in `spec/1.0/encodings.toml`, `ggml.q4_k`.
    #[serde(rename = "encoding")]
    pub id: String,
    /// The dimensions of the values, slowest first.
    pub shape: Vec<u64>,
    /// What the id leaves open.
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
}

/// What is to be known of a quantized tensor beside its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Bits of a quant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<u64>,
    /// Values of a group along a row; -1 in configurations is a whole row and `None` here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_size: Option<u64>,
    /// Rows and columns of a block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<[u64; 2]>,
    /// `format`, `checkpoint_format` or `mode` of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The dtype that a library decodes to, where it is none of the parts'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
}

impl Parameters {
    /// Whether nothing is left open.
    pub fn is_empty(&self) -> bool {
        *self == Parameters::default()
    }
}

/// How the elements of a tensor lie in the file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Payload {
    /// Row-major, packed, little-endian.
    Range(Extent),
    /// A view of a storage, which other tensors may share.
    View(Box<View>),
    /// Boxes that together hold every element once, each with a place of its own: shards of ranks,
    /// chunks of a compressed array, a member of an archive.
    Tiles(Vec<Tile>),
    /// Stored tensors that make a logical one together, the payload first, and how they do.
    Parts(Arc<Layout>, Vec<StoredPart>),
    /// The file names it, and its values cannot be had; the reason, for a person.
    Unreadable(String),
}

/// A stored tensor that is a part of a logical one.
#[derive(Clone, Debug)]
pub struct StoredPart {
    /// What it is to the arithmetic: `qweight`, `scales`.
    pub role: String,
    /// The tensor.
    pub tensor: Tensor,
}

/// A strided view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The whole storage.
    pub storage: Extent,
    /// The first element, counted in elements from the start of the storage.
    pub offset: u64,
    /// Elements between neighbours along each dimension; 0 repeats one element.
    pub strides: Vec<u64>,
    /// Whether the storage keeps its elements with the high byte first.
    pub big_endian: bool,
}

impl Checkpoint {
    /// Adds a signature, which is told as text too.
    pub fn add_signature(&mut self, signature: Signature) {
        let key = format!("{}{}", signature::METADATA_KEY, signature.name);
        self.metadata.insert(key, signature.to_string());
        self.signatures.push(signature);
    }

    /// The tensors as they are stored: in place of a logical one its parts.
    pub fn stored(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.iter().flat_map(Tensor::stored)
    }
}

impl Tensor {
    /// Its parts, or itself where it has none.
    pub fn stored(&self) -> impl Iterator<Item = &Tensor> {
        let (parts, own) = match &self.payload {
            Payload::Parts(_, parts) => (parts.as_slice(), None),
            _ => (&[][..], Some(self)),
        };
        parts.iter().map(|part| &part.tensor).chain(own)
    }

    /// Its parts, or itself where it has none.
    pub fn into_stored(self) -> impl Iterator<Item = Tensor> {
        let (parts, own) = match self.payload {
            Payload::Parts(_, parts) => (parts, None),
            _ => (Vec::new(), Some(self)),
        };
        parts.into_iter().map(|part| part.tensor).chain(own)
    }

    /// The number of elements, or `None` if it passes `u64`.
    pub fn n_elements(&self) -> Option<u64> {
        n_elements(&self.shape)
    }

    /// The dimensions of the values: those of the encoding, where there is one.
    pub fn logical_shape(&self) -> &[u64] {
        self.encoding.as_ref().map_or(&self.shape, |encoding| &encoding.shape)
    }

    /// The logical tensor of parts.
    pub fn of_parts(
        name: String,
        encoding: Encoding,
        parts: &[StoredPart],
        payload: Payload,
    ) -> Tensor {
        let sizes = parts.iter().map(|part| part.tensor.n_bytes());
        let n_bytes = sizes.fold(0u64, |sum, n| sum.saturating_add(n.unwrap_or(u64::MAX)));
        let (dtype, encoding) = (DType::U8, Some(Box::new(encoding)));
        Tensor { name: name.into(), dtype, shape: vec![n_bytes], encoding, payload }
    }

    /// The place of all elements, if they lie row-major, packed and little-endian.
    pub fn packed_extent(&self) -> Option<Extent> {
        let n_bytes = self.n_bytes()?;
        match &self.payload {
            Payload::Range(extent) => (extent.len == n_bytes).then_some(*extent),
            Payload::View(view) => {
                let strides = row_major_strides(&self.shape);
                let mut steps = self.shape.iter().zip(&view.strides).zip(&strides);
                let is_packed = view.strides.len() == self.shape.len()
                    && steps.all(|((&len, step), row_major)| len <= 1 || step == row_major);
                let start = view.storage.start.checked_add(self.dtype.n_bytes(view.offset)?)?;
                let extent = Extent { start, len: n_bytes, ..view.storage };
                let is_inside = start.checked_add(n_bytes)? <= view.storage.end();
                let ordered = !view.big_endian || self.dtype.bits() == 8;
                (is_packed && is_inside && ordered).then_some(extent)
            }
            Payload::Tiles(_) | Payload::Parts(..) | Payload::Unreadable(_) => None,
        }
    }

    /// Its elements as a view of one storage.
    ///
    /// # Errors
    /// They do not lie in one; or why they cannot be had.
    pub fn view(&self) -> Result<View, String> {
        match &self.payload {
            Payload::Range(storage) => Ok(View {
                storage: *storage,
                offset: 0,
                strides: row_major_strides(&self.shape),
                big_endian: false,
            }),
            Payload::View(view) => Ok(view.as_ref().clone()),
            Payload::Unreadable(reason) => Err(reason.clone()),
            Payload::Tiles(_) | Payload::Parts(..) => {
                Err("its elements lie in several places".to_owned())
            }
        }
    }

    /// The extents of files that its elements are read from, in no order that means anything.
    pub fn extents(&self) -> Vec<Extent> {
        match &self.payload {
            Payload::Range(extent) => vec![*extent],
            Payload::View(view) => vec![view.storage],
            Payload::Tiles(tiles) => tiles.iter().map(|tile| tile.data.storage).collect(),
            Payload::Parts(_, parts) => {
                parts.iter().flat_map(|part| part.tensor.extents()).collect()
            }
            Payload::Unreadable(_) => Vec::new(),
        }
    }

    /// The number of bytes when packed, or `None` if it passes `u64`.
    pub fn n_bytes(&self) -> Option<u64> {
        self.dtype.n_bytes(self.n_elements()?)
    }
}

/// The product of the dimensions, or `None` if it passes `u64`.
///
/// A dimension of 0 does not hide the overflow of the others: readers disagree on such shapes.
pub fn n_elements(shape: &[u64]) -> Option<u64> {
    let mut nonzero = shape.iter().filter(|&&dim| dim != 0);
    let product = nonzero.try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
    Some(if shape.contains(&0) { 0 } else { product })
}

/// The elements between neighbours along each dimension of a row-major tensor.
pub fn row_major_strides(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1u64; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

macro_rules! dtypes {
    ($($variant:ident $name:literal $bits:literal, $about:literal;)*) => {
        /// The type of a tensor's elements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)] // `about` is the doc of each.
        #[non_exhaustive]
        pub enum DType { $(#[doc = $about] $variant,)* }

        impl DType {
            /// Every dtype.
            pub const ALL: &[DType] = &[$(DType::$variant,)*];

            /// The name, spelled as in safetensors where that has it.
            pub fn name(self) -> &'static str {
                match self { $(DType::$variant => $name,)* }
            }

            /// The size of one element in bits.
            pub fn bits(self) -> u64 {
                match self { $(DType::$variant => $bits,)* }
            }
        }
    };
}

dtypes! {
    Bool "BOOL" 8, "One byte, 0 or 1.";
    U8 "U8" 8, "Unsigned, 8 bits.";
    I8 "I8" 8, "Signed, 8 bits.";
    U16 "U16" 16, "Unsigned, 16 bits.";
    I16 "I16" 16, "Signed, 16 bits.";
    U32 "U32" 32, "Unsigned, 32 bits.";
    I32 "I32" 32, "Signed, 32 bits.";
    U64 "U64" 64, "Unsigned, 64 bits.";
    I64 "I64" 64, "Signed, 64 bits.";
    F4 "F4" 4, "MX float, 4 bits, two in a byte.";
    F6E2M3 "F6_E2M3" 6, "MX float, 6 bits, 2 of exponent.";
    F6E3M2 "F6_E3M2" 6, "MX float, 6 bits, 3 of exponent.";
    F8E4M3 "F8_E4M3" 8, "OCP float, 4 bits of exponent, no infinity.";
    F8E5M2 "F8_E5M2" 8, "OCP float, 5 bits of exponent.";
    F8E8M0 "F8_E8M0" 8, "MX scale: a power of two.";
    F8E4M3Fnuz "F8_E4M3FNUZ" 8, "Float, 4 bits of exponent, one zero, no infinity.";
    F8E5M2Fnuz "F8_E5M2FNUZ" 8, "Float, 5 bits of exponent, one zero, no infinity.";
    F16 "F16" 16, "IEEE half.";
    BF16 "BF16" 16, "The upper half of an F32.";
    F32 "F32" 32, "IEEE single.";
    F64 "F64" 64, "IEEE double.";
    C64 "C64" 64, "Two F32: real and imaginary.";
    C128 "C128" 128, "Two F64: real and imaginary; no safetensors file has it.";
    Unknown "UNKNOWN" 0, "A type the reader has no name for; its tensors are never readable.";
}

impl DType {
    /// The dtype of this name, any letter case.
    pub fn parse(name: &str) -> Option<DType> {
        let found = DType::ALL.iter().find(|dtype| dtype.name().eq_ignore_ascii_case(name));
        found.copied().filter(|&dtype| dtype != DType::Unknown)
    }

    /// Reads a name from a document, of which there is one for each tensor and few that differ.
    pub(crate) fn read_name<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Cow<'static, str>, D::Error> {
        let name = Name::deserialize(deserializer)?;
        let known = DType::ALL.iter().find(|dtype| name == *dtype.name());
        Ok(known.map_or_else(|| Cow::Owned(name.to_string()), |dtype| dtype.name().into()))
    }

    /// The bytes that `n` packed elements take; `None` if they pass `u64` or end inside a byte.
    pub fn n_bytes(self, n: u64) -> Option<u64> {
        let bits = n.checked_mul(self.bits())?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Whether elements are floating-point numbers that this program can cast.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
