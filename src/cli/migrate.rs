//! `llmstd migrate`.

use std::path::PathBuf;

use crate::convert::migrate::migrate;
use crate::spec::Spec;

use super::{Format, Global, Status, output};

/// Bring a package to another minor version of the standard, without rewriting a weight
///
/// A package says the least version that has all that it uses; whoever asks for another one gets it
/// here. There and back gives the same bytes.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  llmstd migrate ./package ./package-1.0 --to 1.0

Exit status:
  0  it was written
  2  it could not be: the version lacks what the package uses, or the package is damaged")]
pub(crate) struct Args {
    /// A package
    #[arg(value_name = "PACKAGE")]
    package: PathBuf,
    /// Where to write
    #[arg(value_name = "DESTINATION")]
    destination: PathBuf,
    /// The version, as 1.0
    #[arg(long, value_name = "VERSION")]
    to: String,
    /// Replace the destination, if it is a package
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Status> {
    let spec = output::spec(global)?;
    let to = Spec::embedded(&args.to)?;
    let migrated = migrate(&args.package, &args.destination, spec, &to, args.force)?;
    if global.format == Format::Json {
        output::print_json(&migrated)?;
        return Ok(Status::SUCCESS);
    }
    output::print(&format!(
        "wrote {}: version {} of the standard, was {}; changed {}\n",
        args.destination.display(),
        migrated.to,
        migrated.from,
        match migrated.changed.as_slice() {
            [] => "nothing".to_owned(),
            some => some.join(", "),
        }
    ))?;
    Ok(Status::SUCCESS)
}
