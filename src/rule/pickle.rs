//! Which files are pickles, for the rules that warn of them.

use crate::container::zip::LOCAL_SIGNATURE;
use crate::format::pickle::{is_marked, may_be_old};

/// Whether a file of this name and with all these bytes is a pickle: by its ending, or as one that
/// claims to be weights and holds one.
pub(super) fn is_pickle(name: &str, bytes: &[u8]) -> bool {
    let end = name.rsplit_once('.').map_or("", |(_, end)| end).to_ascii_lowercase();
    match end.as_str() {
        "pkl" | "pickle" | "joblib" | "dill" => true,
        // Documents and tokenizers may begin with any byte; only what claims to be weights is asked.
        "pt" | "pth" | "bin" | "ckpt" => {
            is_marked(bytes) || bytes.starts_with(LOCAL_SIGNATURE) || may_be_old(bytes)
        }
        _ => false,
    }
}
