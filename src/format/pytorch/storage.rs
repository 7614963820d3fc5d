//! Storages: runs of elements that tensors are views of.

use std::collections::BTreeMap;

use crate::base::checksum::Checksum;
use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::source::{Extent, Source};
use crate::checkpoint::{DType, Payload, StoredChecksum, Tensor};
use crate::format::pickle::{Node, NodeId, Pickle};

use super::{quote, quote_global, rule};

/// The longest key of a storage; torch writes numbers.
const MAX_KEY_LEN: usize = 256;

/// What a storage or a tensor is made of.
#[derive(Debug)]
pub(super) struct Class {
    /// The name of the storage class; dtypes newer than torch 2.0 have none.
    pub(super) storage: &'static str,
    /// The name of the dtype in `torch`.
    pub(super) name: &'static str,
    pub(super) dtype: DType,
    /// The size of an element in bytes.
    pub(super) element_len: u64,
    /// Why the values cannot be had, if they cannot.
    pub(super) fault: Option<&'static str>,
}

const QUANTIZED: Option<&str> = Some("it is quantized, and the stored integers are not its values");
const BITS: Option<&str> = Some("its dtype is raw bits without a meaning");
const SUB_BYTE: Option<&str> = Some("its dtype packs integers of less than a byte in some way");
const HALF_COMPLEX: Option<&str> =
    Some("its dtype is a complex number of two 16-bit floats, which no other format keeps");

macro_rules! classes {
    ($($storage:literal $name:literal $dtype:ident $element_len:literal $fault:expr;)*) => {
        &[$(Class {
            storage: $storage,
            name: $name,
            dtype: DType::$dtype,
            element_len: $element_len,
            fault: $fault,
        },)*]
    };
}

/// Every storage class and dtype of torch 2.15.
const CLASSES: &[Class] = classes! {
    "BFloat16Storage"      "bfloat16"         BF16       2  None;
    "BoolStorage"          "bool"             Bool       1  None;
    "ByteStorage"          "uint8"            U8         1  None;
    "CharStorage"          "int8"             I8         1  None;
    "ComplexDoubleStorage" "complex128"       C128       16 None;
    "ComplexFloatStorage"  "complex64"        C64        8  None;
    "DoubleStorage"        "float64"          F64        8  None;
    "FloatStorage"         "float32"          F32        4  None;
    "HalfStorage"          "float16"          F16        2  None;
    "IntStorage"           "int32"            I32        4  None;
    "LongStorage"          "int64"            I64        8  None;
    "ShortStorage"         "int16"            I16        2  None;
    "QInt32Storage"        "qint32"           I32        4  QUANTIZED;
    "QInt8Storage"         "qint8"            I8         1  QUANTIZED;
    "QUInt2x4Storage"      "quint2x4"         U8         1  QUANTIZED;
    "QUInt4x2Storage"      "quint4x2"         U8         1  QUANTIZED;
    "QUInt8Storage"        "quint8"           U8         1  QUANTIZED;
    "ComplexHalfStorage"   "complex32"        Unknown    4  HALF_COMPLEX;
    "UntypedStorage"       "(bytes)"          U8         1  None;
    ""                     "bcomplex32"       Unknown    4  HALF_COMPLEX;
    ""                     "float4_e2m1fn_x2" F4         1  None;
    ""                     "float8_e4m3fn"    F8E4M3     1  None;
    ""                     "float8_e4m3fnuz"  F8E4M3Fnuz 1  None;
    ""                     "float8_e5m2"      F8E5M2     1  None;
    ""                     "float8_e5m2fnuz"  F8E5M2Fnuz 1  None;
    ""                     "float8_e8m0fnu"   F8E8M0     1  None;
    ""                     "uint16"           U16        2  None;
    ""                     "uint32"           U32        4  None;
    ""                     "uint64"           U64        8  None;
    ""                     "bits16"           Unknown    2  BITS;
    ""                     "bits1x8"          Unknown    1  BITS;
    ""                     "bits2x4"          Unknown    1  BITS;
    ""                     "bits4x2"          Unknown    1  BITS;
    ""                     "bits8"            Unknown    1  BITS;
    ""                     "int1"             Unknown    1  SUB_BYTE;
    ""                     "int2"             Unknown    1  SUB_BYTE;
    ""                     "int3"             Unknown    1  SUB_BYTE;
    ""                     "int4"             Unknown    1  SUB_BYTE;
    ""                     "int5"             Unknown    1  SUB_BYTE;
    ""                     "int6"             Unknown    1  SUB_BYTE;
    ""                     "int7"             Unknown    1  SUB_BYTE;
    ""                     "uint1"            Unknown    1  SUB_BYTE;
    ""                     "uint2"            Unknown    1  SUB_BYTE;
    ""                     "uint3"            Unknown    1  SUB_BYTE;
    ""                     "uint4"            Unknown    1  SUB_BYTE;
    ""                     "uint5"            Unknown    1  SUB_BYTE;
    ""                     "uint6"            Unknown    1  SUB_BYTE;
    ""                     "uint7"            Unknown    1  SUB_BYTE;
};

/// The storage class of a global.
pub(super) fn class(module: &str, name: &str) -> Option<&'static Class> {
    if !matches!(module, "torch" | "torch.cuda" | "torch.storage") || name.is_empty() {
        return None;
    }
    // torch 1.12 called it `_UntypedStorage`.
    let name = name.strip_prefix('_').unwrap_or(name);
    CLASSES.iter().find(|class| class.storage == name)
}

/// The dtype of a global.
pub(super) fn dtype(module: &str, name: &str) -> Option<&'static Class> {
    CLASSES.iter().find(|class| module == "torch" && class.name == name)
}

/// The name of the class of the storages that hold elements of a dtype.
pub(super) fn class_of(dtype: DType) -> Option<&'static str> {
    let fits = |class: &&Class| class.dtype == dtype && class.fault.is_none();
    let class = CLASSES.iter().find(fits)?;
    (!class.storage.is_empty()).then_some(class.storage)
}

/// Whether a global is a quantization scheme or a layout, which are plain constants.
pub(super) fn is_scheme(module: &str, name: &str) -> bool {
    let of_torch = name.starts_with("per_tensor_")
        || name.starts_with("per_channel_")
        || name.starts_with("sparse_")
        || matches!(name, "strided" | "jagged" | "contiguous_format" | "channels_last");
    module == "torch" && of_torch
}

/// Whether torch keeps elements of this dtype in untyped storages, and so does not know how to
/// swap their bytes when it reads them on a machine of another byte order.
pub(super) fn is_swapped_by_dtype_alone(dtype: DType) -> bool {
    matches!(dtype, DType::U16 | DType::U32 | DType::U64)
}

/// The storages of one file.
#[derive(Debug)]
pub(super) struct Storages {
    records: BTreeMap<String, Record>,
    pub(super) big_endian: bool,
    /// Tensors that the container lists itself, by their keys.
    pub(super) tensors: BTreeMap<String, Tensor>,
}

/// The bytes of one storage in the file.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) extent: Extent,
    /// Why the bytes cannot be used, if they cannot.
    pub(super) fault: Option<String>,
    /// The checksum that the container keeps; 0 means none.
    pub(super) crc: Option<u32>,
    /// Whether it keeps other checksums.
    pub(super) file_has_checksums: bool,
}

/// A storage that a pickle refers to.
pub(super) struct Storage {
    pub(super) class: &'static Class,
    /// The bytes, or why there are none.
    pub(super) bytes: Result<Extent, String>,
}

impl Storages {
    pub(super) fn new(big_endian: bool) -> Storages {
        Storages { records: BTreeMap::new(), big_endian, tensors: BTreeMap::new() }
    }

    /// The bytes of a storage.
    pub(super) fn get(&self, key: &str) -> Option<&Record> {
        self.records.get(key)
    }

    pub(super) fn insert(&mut self, key: String, record: Record) {
        self.records.insert(key, record);
    }

    /// Finds the storage of a persistent id: `('storage', class, key, location, n_elements)`, in
    /// streams also with `None` or `(view key, offset, n_elements)` at the end.
    pub(super) fn find(&self, pickle: &Pickle<'_>, id: NodeId) -> Result<Storage, String> {
        let Node::Persistent(id) = pickle.node(id) else {
            return Err(format!("a storage is due, {} is there", pickle.kind(id)));
        };
        let (class, key, n_elements, view) = match pickle.sequence(*id) {
            Some([kind, class, key, _, n_elements, view @ ..])
                if pickle.text(*kind) == Some("storage") =>
            {
                (*class, *key, *n_elements, view.first().copied())
            }
            _ => return Err("the id of its storage has a form that is not known".to_owned()),
        };
        let Some((module, name)) = pickle.global(class) else {
            return Err("its storage has no class".to_owned());
        };
        let Some(class) = self::class(module, name) else {
            let name = quote_global(module, name);
            return Err(format!("its storage has the class {name}, which is not known"));
        };
        let bytes = self.bytes_of(pickle, class, key, n_elements, view);
        Ok(Storage { class, bytes })
    }

    fn bytes_of(
        &self,
        pickle: &Pickle<'_>,
        class: &Class,
        key: NodeId,
        n_elements: NodeId,
        view: Option<NodeId>,
    ) -> Result<Extent, String> {
        let key = key_text(pickle, key).ok_or("the key of its storage is no short text")?;
        let what = quote(&key);
        let Some(record) = self.records.get(&key) else {
            return Err(format!("its storage {what} is not in the file"));
        };
        if let Some(fault) = &record.fault {
            return Err(fault.clone());
        }
        let n_elements = count(pickle, n_elements)
            .ok_or_else(|| format!("the number of elements of its storage {what} is none"))?;
        if n_elements.checked_mul(class.element_len) != Some(record.extent.len) {
            return Err(format!(
                "its storage {what} should have {n_elements} elements of {} bytes, and has {} \
                 bytes",
                class.element_len, record.extent.len
            ));
        }
        match view.map(|view| pickle.sequence(view)) {
            None | Some(None) => Ok(record.extent),
            Some(Some([_, offset, len])) => {
                let part = || {
                    let offset = count(pickle, *offset)?;
                    let end = offset.checked_add(count(pickle, *len)?)?;
                    let start = offset.checked_mul(class.element_len)?;
                    record.extent.part(start, end.checked_mul(class.element_len)?)
                };
                part().ok_or_else(|| format!("its storage is a part of {what} that passes its end"))
            }
            Some(Some(_)) => Err(format!("its storage is a part of {what} of no known form")),
        }
    }

    /// The storages that tensors have, each with its key and the first tensor in it.
    fn used<'a>(
        &'a self,
        tensors: &'a [Tensor],
    ) -> impl Iterator<Item = (&'a str, &'a Record, &'a str)> {
        let mut users: BTreeMap<u64, &str> = BTreeMap::new();
        for tensor in tensors {
            let start = match &tensor.payload {
                Payload::Range(extent) if extent.len != 0 => extent.start,
                Payload::View(view) => view.storage.start,
                _ => continue,
            };
            users.entry(start).or_insert(&tensor.name);
        }
        self.records.iter().filter_map(move |(key, record)| {
            let extent = record.extent;
            let (_, first) = users.range(extent.start..extent.end()).next()?;
            Some((key.as_str(), record, *first))
        })
    }

    /// The checksums that the container keeps of the storages of these tensors.
    pub(super) fn checksums(&self, tensors: &[Tensor]) -> Vec<StoredChecksum> {
        let used = self.used(tensors).filter(|(_, record, _)| record.fault.is_none());
        let sums = used.filter_map(|(_, record, first)| {
            Some(StoredChecksum {
                tensor: first.to_owned(),
                bytes: record.extent,
                kind: Checksum::Crc32,
                value: record.crc.filter(|&crc| crc != 0)?,
                is_compared_on_reading: false,
            })
        });
        sums.collect()
    }

    /// Reports the storages of these tensors that torch reserved and never filled.
    pub(super) fn find_never_written(
        &self,
        source: &Source,
        tensors: &[Tensor],
    ) -> Vec<Diagnostic> {
        let mut findings = Vec::new();
        for (key, record, first) in self.used(tensors) {
            let extent = record.extent;
            if record.crc != Some(0) || extent.len == 0 {
                continue;
            }
            if !source.slice(extent).is_ok_and(is_zero) {
                continue;
            }
            // With checksums off for the whole file, zeros may be what was saved.
            let level = if record.file_has_checksums { Level::Error } else { Level::Warning };
            let message = format!(
                "the storage {} of {} was never written: {} zero bytes without a checksum",
                quote(key),
                quote(first),
                extent.len
            );
            findings.push(
                Diagnostic::new(rule::STORAGE_NEVER_WRITTEN, level, message)
                    .tensor(first)
                    .bytes(extent.start, extent.end())
                    .help("the file is a frame made with `torch.serialization.skip_data`; get the one with the weights"),
            );
        }
        findings
    }
}

/// Whether all bytes are zero; stops at the first block that is not.
fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|block| Some(block) == ZEROS.get(..block.len()))
}

/// The key of a storage; streams of torch before 0.4 may have integers.
pub(super) fn key_text(pickle: &Pickle<'_>, key: NodeId) -> Option<String> {
    match pickle.node(key) {
        Node::Text(text) if text.len() <= MAX_KEY_LEN => Some(text.to_string()),
        Node::Int(int) => Some(int.to_string()),
        _ => None,
    }
}

/// An integer that counts something.
pub(super) fn count(pickle: &Pickle<'_>, id: NodeId) -> Option<u64> {
    u64::try_from(pickle.int(id)?).ok()
}
