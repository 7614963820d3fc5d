//! A folder or a file as a commit of git has it: `git:REV:path`.

use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

/// What stands before a revision.
const PREFIX: &str = "git:";

/// A side of a comparison that is on disk: as it was named, or taken out of a commit.
pub(crate) struct Side {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// How it was named.
    pub(crate) label: String,
    /// Keeps what was taken out until the end.
    _kept: Option<tempfile::TempDir>,
}

impl Side {
    /// Takes a side out of git, if it is named so.
    pub(crate) fn of(path: &Path) -> anyhow::Result<Side> {
        let label = path.display().to_string();
        let Some(rest) = label.strip_prefix(PREFIX) else {
            return Ok(Side { path: path.to_owned(), label, _kept: None });
        };
        let Some((revision, inside)) = rest
            .split_once(':')
            .filter(|(rev, path)| !rev.is_empty() && !rev.starts_with('-') && !path.is_empty())
        else {
            bail!("{label}: write git:REVISION:PATH, as git:main:models/bert");
        };
        let folder = tempfile::tempdir().context("cannot make a scratch folder")?;
        let inside = inside.trim_end_matches('/');
        let listing = git(&["ls-tree", "-r", "-z", revision, "--", inside])
            .with_context(|| format!("cannot list {label}"))?;
        let mut is_file = false;
        let mut n_files = 0;
        for entry in listing.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
            let entry = std::str::from_utf8(entry).context("a path in git is not UTF-8")?;
            let (facts, name) = entry.split_once('\t').context("git lists what is not known")?;
            let object = facts.split(' ').nth(2).context("git lists what is not known")?;
            let mode = facts.split(' ').next().unwrap_or_default();
            // A link and a submodule have no bytes of their own.
            if !mode.starts_with("100") {
                continue;
            }
            is_file |= name == inside;
            let relative = match name.strip_prefix(inside).map(|rest| rest.trim_start_matches('/'))
            {
                Some("") | None => Path::new(name).file_name().map(PathBuf::from),
                Some(rest) => Some(PathBuf::from(rest)),
            };
            let relative = relative.context("git lists what is not known")?;
            let normal = |part: Component<'_>| matches!(part, Component::Normal(_));
            ensure!(relative.components().all(normal), "{label}: {name} leads out of the folder");
            let to = folder.path().join(&relative);
            if let Some(parent) = to.parent() {
                std::fs::create_dir_all(parent).context("cannot make a scratch folder")?;
            }
            let bytes = git(&["cat-file", "blob", object])?;
            std::fs::write(&to, bytes).with_context(|| format!("cannot write {}", to.display()))?;
            n_files += 1;
        }
        ensure!(n_files != 0, "{label}: the commit has nothing there");
        let path = match is_file {
            true => folder.path().join(Path::new(inside).file_name().unwrap_or_default()),
            false => folder.path().to_owned(),
        };
        Ok(Side { path, label, _kept: Some(folder) })
    }
}

fn git(args: &[&str]) -> anyhow::Result<Vec<u8>> {
    let output = Command::new("git").args(args).output().context("cannot run git")?;
    if !output.status.success() {
        bail!("git: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}
