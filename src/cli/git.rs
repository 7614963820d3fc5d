//! A folder or a file as a commit of git has it: `git:REV:path`.

use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use super::input::Input;
use crate::spec::Spec;

/// What stands before a revision.
const PREFIX: &str = "git:";

/// A side of a comparison that is on disk: as it was named, or taken out of a commit.
pub(crate) struct Side {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// How it was named.
    pub(crate) label: String,
    /// Keeps what was taken out, or fetched, until the end.
    _kept: (Option<Input>, Option<tempfile::TempDir>),
}

impl Side {
    /// Takes a side out of git, if it is named so.
    pub(crate) fn of(path: &Path, spec: &Spec) -> anyhow::Result<Side> {
        let label = path.display().to_string();
        let Some(rest) = label.strip_prefix(PREFIX) else {
            let input = Input::of(path, spec)?;
            let (label, path) = (input.label().to_owned(), input.path().to_owned());
            return Ok(Side { path, label, _kept: (Some(input), None) });
        };
        let Some((revision, inside)) = rest
            .split_once(':')
            .filter(|(rev, path)| !rev.is_empty() && !rev.starts_with('-') && !path.is_empty())
        else {
            bail!("{label}: write git:REVISION:PATH, as git:main:models/bert");
        };
        let folder = tempfile::tempdir().context("cannot make a scratch folder")?;
        // As git spells paths; `.` is the folder that this runs in.
        let parts = inside.split('/').filter(|part| !["", "."].contains(part));
        let inside = parts.collect::<Vec<_>>().join("/");
        ensure!(!inside.split('/').any(|part| part == ".."), "{label}: leads out of the commit");
        let mut args = vec!["ls-tree", "-r", "-z", revision];
        if !inside.is_empty() {
            args.extend(["--", &inside]);
        }
        let listing = git(&args).with_context(|| format!("cannot list {label}"))?;
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
            let below = match inside.as_str() {
                "" => Some(name),
                _ if is_file => name.rsplit('/').next(),
                folder => name.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')),
            };
            let relative = PathBuf::from(below.context("git lists what was not asked for")?);
            let normal = |part: Component<'_>| matches!(part, Component::Normal(_));
            ensure!(relative.components().all(normal), "{label}: {name} leads out of the folder");
            let to = folder.path().join(&relative);
            if let Some(parent) = to.parent() {
                std::fs::create_dir_all(parent).context("cannot make a scratch folder")?;
            }
            let cannot = || format!("cannot write {}", to.display());
            let file = std::fs::File::create(&to).with_context(cannot)?;
            let mut blob = Command::new("git");
            blob.args(["cat-file", "blob", object]).stdout(file);
            ran(blob.output().context("cannot run git")?)?;
            n_files += 1;
        }
        ensure!(n_files != 0, "{label}: the commit has nothing there");
        let path = match is_file {
            true => folder.path().join(Path::new(&inside).file_name().unwrap_or_default()),
            false => folder.path().to_owned(),
        };
        Ok(Side { path, label, _kept: (None, Some(folder)) })
    }
}

fn git(args: &[&str]) -> anyhow::Result<Vec<u8>> {
    ran(Command::new("git").args(args).output().context("cannot run git")?)
}

/// What git printed, if it did what it was asked to.
fn ran(output: std::process::Output) -> anyhow::Result<Vec<u8>> {
    if !output.status.success() {
        bail!("git: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}
