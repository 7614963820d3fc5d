//! A model in the terms of those who sign and list what is shipped.

pub mod cyclonedx;
pub mod oms;

use std::path::Path;

/// What a model is called: its folder or file.
fn name_of(path: &Path) -> String {
    let whole = path.canonicalize();
    let name = path.file_name().or_else(|| whole.as_deref().ok()?.file_name());
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
