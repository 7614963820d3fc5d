//! What pickles are told by, before one is read.

/// Whether bytes begin as a pickle of the protocols 2 to 5 does; older ones have no mark.
pub fn is_marked(head: &[u8]) -> bool {
    matches!(head, [0x80, 2..=5, ..])
}

/// Whether all the bytes of a file may be a pickle of protocol 0 or 1, which has no mark: it begins
/// with a global, a mark or an empty collection, and ends with a stop.
pub fn may_be_old(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(b'c' | b'(' | b']' | b'}' | b')'))
        && bytes.trim_ascii_end().ends_with(b".")
}
