//! `llmstd diff`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::convert::Failure;
use crate::diff::rules::Class;
use crate::diff::{compare, deepen};
use crate::report::diff::Compared;
use crate::version::{Options, Version};
use clap::ValueEnum;

use super::progress::Bar;
use super::{Global, Status, git, output, report};

/// Say what changed between two versions of a model, and whom it breaks
///
/// Each side is a package, a manifest.json alone, or a foreign checkpoint, which is hashed in the
/// standard's terms; or either of them in a commit, git:REVISION:PATH. The classes, each worse than the one before: identical, metadata, weights
/// (other values in the same structure), compatible, breaking.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  llmstd diff ./model-v1 ./model-v2
  llmstd diff v1/manifest.json v2/manifest.json --fail-on weights
  llmstd diff ./bert-hf ./bert-package --deep
  llmstd diff --against approved/manifest.json ./model
  llmstd diff git:main:models/bert models/bert --report markdown=comment.md

Exit status:
  0  the change is below the class of --fail-on
  1  it reaches that class
  2  the two could not be compared")]
pub(crate) struct Args {
    /// The old version and the new one; the new one alone with --against
    #[arg(required = true, num_args = 1..=2, value_names = ["OLD", "NEW"])]
    paths: Vec<PathBuf>,
    /// The format that is read, where a folder has several
    #[arg(long, value_name = "FORMAT", value_parser = output::formats())]
    from: Option<String>,
    /// The old version: a manifest that was kept, or any other
    #[arg(long, value_name = "MANIFEST")]
    against: Option<PathBuf>,
    /// Read the weights: hash them anew, and say how far changed values are apart
    #[arg(long)]
    deep: bool,
    /// From which class on to exit with 1; any is any difference
    #[arg(long, value_enum, default_value_t = FailOn::Breaking)]
    fail_on: FailOn,
    /// The architecture, where a foreign config does not say it
    #[arg(long, value_name = "ID")]
    arch: Option<String>,
    /// Compare foreign checkpoints under their own names, whatever their architecture
    #[arg(long)]
    generic: bool,
    /// How many threads work
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    reports: report::Args,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Breaking,
    Compatible,
    Weights,
    Any,
}

impl FailOn {
    fn class(self) -> Class {
        match self {
            FailOn::Breaking => Class::Breaking,
            FailOn::Compatible => Class::Compatible,
            FailOn::Weights => Class::Weights,
            FailOn::Any => Class::Metadata,
        }
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Status> {
    let n_threads = output::n_threads(args.threads);
    let spec = output::spec(global)?;
    let bar = Bar::new(global);
    let options = Options {
        spec,
        arch: args.arch.as_deref(),
        generic: args.generic,
        rehash: args.deep,
        whole_files: false,
        n_threads,
        progress: &bar,
        format: output::wanted(args.from.as_deref()),
    };
    let paths = match (&args.against, args.paths.as_slice()) {
        (None, [old, new]) | (Some(old), [new]) => [old, new],
        (None, _) => anyhow::bail!("name two versions, the old and the new one, or --against"),
        (Some(_), _) => anyhow::bail!("--against is the old version: name the new one alone"),
    };
    let places = [git::Side::of(paths[0], spec)?, git::Side::of(paths[1], spec)?];
    let [mut old, mut new] =
        match Version::open_two(places.each_ref().map(|side| side.path.as_path()), &options) {
            Ok(sides) => sides,
            Err((_, Failure::Error(err))) => return Err(err.into()),
            Err((side, Failure::Findings(findings))) => {
                return output::refuse_input(&places[side].path, &findings, global);
            }
        };
    old.label.clone_from(&places[0].label);
    new.label.clone_from(&places[1].label);
    for subject in [&old, &new] {
        let findings = output::findings(&subject.findings, global);
        if !findings.is_empty() {
            output::hint(&format!("{}:\n{}", subject.label, findings.trim_end()), global);
        }
    }
    let mut diff = compare(&old, &new, spec);
    if args.deep {
        deepen(&mut diff, &old, &new, spec, n_threads, &bar)?;
    }
    let fail_on = args.fail_on.class();
    args.reports.write(&Compared { diff: &diff, fail_on }, spec, global)?;
    let fails = fail_on <= diff.verdict.class;
    drop(places);
    // The process ends here, and the system takes back what millions of tensors hold faster than this could.
    std::mem::forget([old, new]);
    Ok(if fails { Status::FAILURE } else { Status::SUCCESS })
}
