//! Bytes as lower-case hex, the spelling of every hash in a manifest.

/// Bytes as lower-case hex.
pub fn encode(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The 32 bytes of 64 lower-case hex digits; `None` for anything else.
pub fn decode32(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let bytes: Option<Vec<u8>> =
        pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let bytes: Vec<u8> = (0..32).map(|n| n * 8).collect();
        assert_eq!(decode32(&encode(&bytes)).as_ref().map(|bytes| &bytes[..]), Some(&bytes[..]));
        for wrong in ["", "0", &"0".repeat(63), &"A".repeat(64), &"0".repeat(66)] {
            assert_eq!(decode32(wrong), None, "{wrong}");
        }
    }
}
