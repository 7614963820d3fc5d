//! The dtypes of ports in the words of others.

use super::PortInterface;
use crate::base::error::{Error, ErrorKind};

/// One dtype.
pub(super) struct Words {
    ours: &'static str,
    /// Of the Open Inference Protocol; Triton's are the same behind `TYPE_`.
    pub(super) oip: &'static str,
    /// Of TensorFlow's `DataType`.
    pub(super) tf: &'static str,
    /// Of NumPy.
    pub(super) numpy: &'static str,
    /// Whether NumPy's is a wider one.
    pub(super) is_widened: bool,
}

const fn row(
    ours: &'static str,
    oip: &'static str,
    tf: &'static str,
    numpy: &'static str,
) -> Words {
    Words { ours, oip, tf, numpy, is_widened: false }
}

static WORDS: &[Words] = &[
    row("BOOL", "BOOL", "DT_BOOL", "bool"),
    row("U8", "UINT8", "DT_UINT8", "uint8"),
    row("I8", "INT8", "DT_INT8", "int8"),
    row("I16", "INT16", "DT_INT16", "int16"),
    row("I32", "INT32", "DT_INT32", "int32"),
    row("I64", "INT64", "DT_INT64", "int64"),
    row("F16", "FP16", "DT_HALF", "float16"),
    Words { is_widened: true, ..row("BF16", "BF16", "DT_BFLOAT16", "float32") },
    row("F32", "FP32", "DT_FLOAT", "float32"),
    row("F64", "FP64", "DT_DOUBLE", "float64"),
];

/// The words for the dtype of a port.
///
/// # Errors
/// Nobody else has such a dtype.
pub(super) fn words(port: &PortInterface) -> Result<&'static Words, Error> {
    WORDS.iter().find(|words| words.ours == port.dtype).ok_or_else(|| {
        let message =
            format!("`{}` has the dtype {}, which servers do not know", port.name, port.dtype);
        Error::new(ErrorKind::Unsupported, message)
    })
}
