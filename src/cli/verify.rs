//! `llmstd verify`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::verify::verify;

use super::input::Input;
use super::progress::Bar;
use super::{Global, Status, output, report};

/// Hash every byte of a package again, and say which tensors are damaged
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  llmstd verify ./package
  llmstd verify ./package --against approved/manifest.json

Exit status:
  0  every byte is as the manifest says
  1  something is damaged, missing, or another one
  2  it could not be verified")]
pub(crate) struct Args {
    /// A package
    #[arg(value_name = "PACKAGE")]
    path: PathBuf,
    /// The manifest to hold it to, instead of its own
    #[arg(long, value_name = "MANIFEST")]
    against: Option<PathBuf>,
    /// How many threads hash
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    reports: report::Args,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Status> {
    let n_threads = output::n_threads(args.threads);
    let spec = output::spec(global)?;
    let bar = Bar::new(global);
    let verified = verify(
        Input::of(&args.path, spec)?.path(),
        args.against.as_deref(),
        spec,
        n_threads,
        &bar,
    )?;
    args.reports.write(&verified, spec, global)?;
    Ok(if verified.whole { Status::SUCCESS } else { Status::FAILURE })
}
