//! Files that stand beside the tensors: `files.toml`.

use serde::Deserialize;

use super::Spec;

/// Files of one role.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRole {
    /// What they are for: `tokenizer`, `template`, `config`, `license`, `docs`.
    pub role: String,
    /// Their names, with `*` for anything at the start or the end.
    pub names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FilesFile {
    pub(super) file: Vec<FileRole>,
}

impl Spec {
    /// What a file beside the tensors is for; `None` if the standard does not know it, and it is
    /// left behind.
    pub fn file_role(&self, name: &str) -> Option<&str> {
        let fits = |pattern: &String| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
            (Some(end), _) => {
                name.ends_with(end) && name.matches('/').count() == end.matches('/').count()
            }
            (_, Some(start)) => name.starts_with(start) && !name.contains('/'),
            _ => name == pattern,
        };
        self.beside.iter().find(|role| role.names.iter().any(fits)).map(|role| role.role.as_str())
    }
}
