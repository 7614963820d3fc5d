//! Holds bytes to the checksums that their container keeps.

use crate::base::diagnostic::Diagnostic;
use crate::base::error::Result;
use crate::base::source::Source;
use crate::checkpoint::Checksum;

/// As many bytes are summed up between two words on the progress.
const STEP: usize = 8 << 20;

/// The tensors whose bytes are not those that were written.
///
/// # Errors
/// Bytes cannot be read.
pub fn damaged(
    source: &Source,
    checksums: &[Checksum],
    advance: &dyn Fn(u64),
) -> Result<Vec<Diagnostic>> {
    let mut found = Vec::new();
    for Checksum { tensor, bytes, crc32c } in checksums {
        let mut sum = 0;
        for step in source.slice(*bytes)?.chunks(STEP) {
            sum = crc32c::crc32c_append(sum, step);
            advance(step.len() as u64);
        }
        if sum != *crc32c {
            let file = source.name(bytes.file);
            let message = format!(
                "the bytes of `{tensor}` in `{file}`, {}..{}, do not have the checksum that the \
                 checkpoint keeps of them",
                bytes.start,
                bytes.end()
            );
            let finding = Diagnostic::error("R040", message).tensor(tensor).file(file);
            let (wanted, is) = (format!("{crc32c:08x}"), format!("{sum:08x}"));
            found.push(finding.mismatch(wanted, is).help("the file is damaged: get it again"));
        }
    }
    Ok(found)
}
