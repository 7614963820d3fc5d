//! Holds bytes to the checksums that their container keeps.

use crate::base::diagnostic::Diagnostic;
use crate::base::error::Result;
use crate::base::source::Source;
use crate::checkpoint::StoredChecksum;

/// As many bytes are summed up between two words on the progress.
const STEP: usize = 8 << 20;

/// The tensors whose bytes are not those that were written.
///
/// # Errors
/// Bytes cannot be read.
pub fn damaged(
    source: &Source,
    checksums: &[&StoredChecksum],
    advance: &dyn Fn(u64),
) -> Result<Vec<Diagnostic>> {
    let mut found = Vec::new();
    for StoredChecksum { tensor, bytes, kind, value, .. } in checksums {
        let mut sum = kind.start();
        for step in source.slice(*bytes)?.chunks(STEP) {
            sum.update(step);
            advance(step.len() as u64);
        }
        let is = sum.finish();
        if is != *value {
            let file = source.name(bytes.file);
            let message = format!(
                "the bytes of `{tensor}` in `{file}`, {}..{}, do not have the checksum that the \
                 checkpoint keeps of them",
                bytes.start,
                bytes.end()
            );
            let finding = Diagnostic::error("R011", message).tensor(tensor).file(file);
            let finding = finding.mismatch(format!("{value:08x}"), format!("{is:08x}"));
            found.push(finding.help("the file is damaged or was edited: get it again"));
        }
    }
    Ok(found)
}
