//! Where the elements of a strided tensor lie in a storage.

use crate::base::limits::MAX_REPEATED_BYTES;
use crate::base::source::Extent;
use crate::checkpoint::{Payload, View, n_elements};

use super::storage::Class;

/// A strided view of the bytes of a storage; offset and strides count elements.
///
/// # Errors
/// It passes the end, or repeats elements beyond what is made: why.
pub(super) fn locate(
    bytes: Extent,
    offset: u64,
    shape: &[u64],
    strides: Vec<u64>,
    class: &Class,
    big_endian: bool,
) -> Result<Payload, String> {
    if strides.len() != shape.len() {
        return Err(format!("it has {} dimensions and {} strides", shape.len(), strides.len()));
    }
    let n = n_elements(shape).and_then(|n| n.checked_mul(class.element_len));
    let Some(packed_len) = n else {
        return Err("its shape has more bytes than a 64-bit number can count".to_owned());
    };
    if packed_len == 0 {
        return Ok(Payload::Range(Extent { len: 0, ..bytes }));
    }
    let last = shape
        .iter()
        .zip(&strides)
        .try_fold(offset, |last, (dim, stride)| last.checked_add((dim - 1).checked_mul(*stride)?));
    let end = last
        .and_then(|last| last.checked_add(1))
        .and_then(|end| end.checked_mul(class.element_len));
    match end {
        Some(end) if end <= bytes.len => {}
        Some(end) => {
            return Err(format!(
                "its last element ends at byte {end} of its storage, which has {} bytes",
                bytes.len
            ));
        }
        None => return Err("its last element lies past every 64-bit offset".to_owned()),
    }
    let swapped = big_endian && class.element_len != 1;
    if !swapped && is_row_major(shape, &strides) {
        // The end was just found to lie inside the storage.
        let start = offset.saturating_mul(class.element_len);
        if let Some(part) = bytes.part(start, start.saturating_add(packed_len)) {
            return Ok(Payload::Range(part));
        }
    }
    if packed_len > bytes.len.max(MAX_REPEATED_BYTES) {
        return Err(format!(
            "it repeats {} bytes of the file until they are {packed_len}, and at most \
             {MAX_REPEATED_BYTES} are made; save the values once, before `expand`",
            bytes.len
        ));
    }
    Ok(Payload::View(Box::new(View { storage: bytes, offset, strides, big_endian: swapped })))
}

fn is_row_major(shape: &[u64], strides: &[u64]) -> bool {
    let mut expected = 1u64;
    for (dim, stride) in shape.iter().zip(strides).rev() {
        if *dim != 1 && *stride != expected {
            return false;
        }
        expected = expected.saturating_mul(*dim);
    }
    true
}
