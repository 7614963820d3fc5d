//! What a project asks of its models beyond the standard: `llmstd.toml`, waivers and baselines.
//!
//! A policy never makes a package keep a level that it does not keep: it says which rules are
//! looked at, how much their findings weigh in the exit status, and which are known.

pub mod apply;
pub mod baseline;
mod check;
pub mod file;
mod known;
mod require;

use std::path::{Path, PathBuf};

use crate::base::error::{Error, Result};
use crate::package::Conformance;
use crate::rule::Selection;
use crate::spec::Spec;

use self::file::{File, Require, Rules, Waiver};

/// The name of the file.
pub const POLICY_FILE: &str = "llmstd.toml";

/// A policy that was read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Policy {
    /// The file.
    pub path: PathBuf,
    /// The folder that its patterns are relative to.
    folder: PathBuf,
    file: File,
    /// The bytes of the file at which each waiver begins.
    waivers_at: Vec<[u64; 2]>,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// It cannot be read, or it says what no policy can.
    pub fn read(path: &Path, spec: &Spec) -> Result<Policy> {
        let text = std::fs::read_to_string(path).map_err(|err| Error::io(path, "read", err))?;
        Policy::parse(path, &text, spec)
    }

    /// Reads the text of a policy that stands at `path`.
    ///
    /// # Errors
    /// It says what no policy can.
    pub fn parse(path: &Path, text: &str, spec: &Spec) -> Result<Policy> {
        let file = check::parse(text, spec).map_err(|err| err.in_file(path))?;
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let folder = absolute.parent().unwrap_or(Path::new("/")).to_owned();
        let (mut at, mut waivers_at) = (0, Vec::new());
        for line in text.split_inclusive('\n') {
            let end = at + line.len() as u64;
            if line.trim_start().starts_with("[[waiver]]") {
                waivers_at.push([at, end]);
            }
            at = end;
        }
        Ok(Policy { path: path.to_owned(), folder, file, waivers_at })
    }

    /// The policy file of the nearest folder that an input lies in. A model does not bring its own: what
    /// a folder that is an input holds itself does not count.
    pub fn find(input: &Path) -> Option<PathBuf> {
        let absolute = std::path::absolute(input).ok()?;
        let absolute = absolute.parent()?;
        let candidates = absolute.ancestors().map(|folder| folder.join(POLICY_FILE));
        candidates.filter(|file| file.is_file()).map(|file| shorter(file, input)).next()
    }

    /// What holds for an input.
    pub fn rules_for(&self, input: &Path) -> Rules {
        let mut rules = self.file.rules.clone();
        for section in &self.file.path {
            if matches(&section.matching, &self.relative(input)) {
                rules.overlay(&section.rules);
            }
        }
        rules
    }

    /// What findings count by, where no input is named.
    pub fn base_rules(&self) -> &Rules {
        &self.file.rules
    }

    fn waivers(&self) -> &[Waiver] {
        &self.file.waiver
    }

    /// The path of an input as patterns see it.
    fn relative(&self, input: &Path) -> String {
        relative(input, &self.folder)
    }
}

/// Holds a digest that is asked for to its form.
///
/// # Errors
/// There is no digest of this name, or the text is no SHA-256.
pub fn expected(name: &str, digest: &str) -> Result<()> {
    check::digest(name, digest)
}

/// A path relative to a folder, with `/` between, and `..` where it lies beside it.
fn relative(path: &Path, folder: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let shared = absolute.components().zip(folder.components());
    let n_shared = shared.take_while(|(one, other)| one == other).count();
    let up = folder.components().skip(n_shared).map(|_| "..".to_owned());
    let down = absolute.components().skip(n_shared);
    let down = down.map(|part| part.as_os_str().to_string_lossy().into_owned());
    up.chain(down).collect::<Vec<_>>().join("/")
}

/// A file by the path it would be named by beside an input that is relative.
fn shorter(file: PathBuf, input: &Path) -> PathBuf {
    let here = std::path::absolute(".").unwrap_or_default();
    match file.strip_prefix(&here) {
        Ok(short) if input.is_relative() => short.to_owned(),
        _ => file,
    }
}

/// Whether a pattern is about a path: it fits, or its `/**` is about what lies below.
fn matches(pattern: &str, path: &str) -> bool {
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    let fits = |pattern: &str| {
        glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_with(path, options))
    };
    fits(pattern) || pattern.strip_suffix("/**").is_some_and(fits) || fits(&format!("{pattern}/**"))
}

impl Rules {
    /// Lays the rules of a narrower place over these.
    pub fn overlay(&mut self, over: &Rules) {
        self.level = over.level.or(self.level);
        self.fail_on = over.fail_on.or(self.fail_on);
        if over.select.is_some() {
            self.select.clone_from(&over.select);
        }
        self.ignore.extend(over.ignore.iter().cloned());
        self.severity.extend(over.severity.iter().map(|(id, level)| (id.clone(), *level)));
        self.require.overlay(&over.require);
    }

    /// Which rules of the standard count.
    pub fn selection(&self) -> Selection {
        Selection { select: self.select.clone().unwrap_or_default(), ignore: self.ignore.clone() }
    }

    /// The level to hold an input to.
    pub fn level(&self) -> Option<Conformance> {
        self.level
    }
}

impl Require {
    fn overlay(&mut self, over: &Require) {
        let lists = [
            (&mut self.licences, &over.licences),
            (&mut self.dtypes, &over.dtypes),
            (&mut self.encodings, &over.encodings),
            (&mut self.tasks, &over.tasks),
        ];
        for (list, over) in lists {
            if over.is_some() {
                list.clone_from(over);
            }
        }
        if over.max_size.is_some() {
            self.max_size.clone_from(&over.max_size);
        }
        self.digests
            .extend(over.digests.iter().map(|(name, digest)| (name.clone(), digest.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_about_paths_and_what_lies_below() {
        for (pattern, path, wanted) in [
            ("models/old/**", "models/old/a", true),
            ("models/old/**", "models/old", true),
            ("models/old", "models/old/a/b", true),
            ("models/*", "models/a", true),
            ("models/*.gguf", "models/a/b.gguf", false),
            ("**/*.gguf", "models/a/b.gguf", true),
            ("models/old", "models/older", false),
        ] {
            assert_eq!(matches(pattern, path), wanted, "{pattern} {path}");
        }
    }
}
