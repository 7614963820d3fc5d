//! Inputs as they are named: paths, and addresses of other machines.

use std::path::{Path, PathBuf};

use crate::spec::Spec;

/// An input that can be opened by its path for as long as this is kept.
pub(crate) struct Input {
    path: PathBuf,
    label: String,
    #[cfg(feature = "remote")]
    _remote: Option<crate::remote::Local>,
}

impl Input {
    /// Takes what lies on another machine as a path of this one.
    #[cfg(feature = "remote")]
    pub(crate) fn of(named: &Path, spec: &Spec) -> anyhow::Result<Input> {
        let address = named.to_str().filter(|text| crate::remote::is_remote(text));
        let Some(address) = address else {
            let label = named.display().to_string();
            return Ok(Input { path: named.to_owned(), label, _remote: None });
        };
        let remote = crate::remote::open(address, spec, &|name| std::env::var(name).ok())?;
        let (path, label) = (remote.path().to_owned(), remote.address().to_owned());
        Ok(Input { path, label, _remote: Some(remote) })
    }

    /// Refuses what lies on another machine: this program was built to reach none.
    #[cfg(not(feature = "remote"))]
    pub(crate) fn of(named: &Path, _: &Spec) -> anyhow::Result<Input> {
        let text = named.to_string_lossy();
        let is_remote =
            ["https://", "http://", "s3://", "hf://"].iter().any(|s| text.starts_with(s));
        anyhow::ensure!(!is_remote, "this llmstd was built without the feature `remote`");
        Ok(Input { path: named.to_owned(), label: named.display().to_string() })
    }

    /// How it is told of: without what may be a secret.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// Where it can be opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
