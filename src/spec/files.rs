//! Files that stand beside the tensors: `files.toml`.

use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{EMBEDDED, FIRST, Spec};

/// Files of one role.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileRole {
    /// What they are for: `tokenizer`, `template`, `config`, `license`, `docs`.
    pub role: String,
    /// Whether they decide which ids a text becomes.
    pub ids: Option<Ids>,
    /// Their names, with `*` for anything at the start or the end.
    pub names: Vec<String>,
}

/// How files decide which ids a text becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    /// One of them is a tokenizer by itself.
    Whole,
    /// Beside others only.
    Part,
}

/// The table of the first version of the standard: digests have one meaning, whatever later version or
/// folder of data files is read.
static TABLE: LazyLock<Vec<FileRole>> = LazyLock::new(|| {
    let name = format!("{FIRST}/files.toml");
    let (_, text) = EMBEDDED.iter().find(|(file, _)| *file == name).expect("it is embedded");
    let file: FilesFile = text.parse().expect("a test parses the embedded files");
    file.file
});

/// What the standard says of a file beside the tensors.
pub fn role_of(name: &str) -> Option<&'static FileRole> {
    find(&TABLE, name)
}

fn find<'r>(roles: &'r [FileRole], name: &str) -> Option<&'r FileRole> {
    let n_folders = |name: &str| name.matches('/').count();
    let fits = |pattern: &String| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => name.ends_with(end) && n_folders(name) == n_folders(end),
        (_, Some(start)) => name.starts_with(start) && n_folders(name) == n_folders(start),
        _ => name == pattern,
    };
    roles.iter().find(|role| role.names.iter().any(fits))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FilesFile {
    pub(super) file: Vec<FileRole>,
}

impl Spec {
    /// What a file beside the tensors is for; `None` if the standard does not know it, and it is
    /// left behind.
    pub fn file_role(&self, name: &str) -> Option<&str> {
        find(&self.beside, name).map(|role| role.role.as_str())
    }
}
