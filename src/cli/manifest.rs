//! `llmstd manifest`.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::convert::Failure;
use crate::supply;
use crate::version::{Kind, Options, Version};
use anyhow::Context as _;

use super::input::Input;
use super::progress::Bar;
use super::{Format, Global, Status, output};

/// Hash a checkpoint: the digests of its weights, structure, tokenizer and the rest
///
/// A foreign checkpoint of a known architecture has the manifest of the package that it would
/// become, so that its digests compare with those of packages. Nothing is written but -o.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  llmstd manifest ./bert-base
  llmstd manifest ./package --format json
  llmstd manifest model.safetensors --generic -o manifest.json
  llmstd manifest ./package --format oms -o statement.json

Formats:
  text, json   digests, hashes and what the model is
  oms          the statement of OpenSSF Model Signing 1.0 over the files as they are, to be signed
  cyclonedx    a bill of materials, CycloneDX 1.6

Exit status:
  0  it was hashed
  2  it could not be read")]
pub(crate) struct Args {
    /// A package, a folder, a weight file, a shard index, or a manifest
    path: PathBuf,
    /// The format that is read, where a folder has several
    #[arg(long, value_name = "FORMAT", value_parser = output::formats())]
    from: Option<String>,
    /// Write the manifest there, as JSON; with --format oms or cyclonedx that document
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The architecture, where the config does not say it
    #[arg(long, value_name = "ID")]
    arch: Option<String>,
    /// Keep the names of a foreign checkpoint, whatever its architecture
    #[arg(long)]
    generic: bool,
    /// How many threads work
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

/// The forms that this command has beside text and JSON.
pub(crate) const FORMS: [&str; 2] = [OMS, CYCLONEDX];
const OMS: &str = "oms";
const CYCLONEDX: &str = "cyclonedx";

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Status> {
    let n_threads = output::n_threads(args.threads);
    let spec = output::spec(global)?;
    let input = Input::of(&args.path, spec)?;
    if global.form == OMS {
        let statement = supply::oms::statement(input.path(), n_threads)?;
        deliver(&statement, args)?;
        return Ok(Status::SUCCESS);
    }
    let bar = Bar::new(global);
    let options = Options {
        spec,
        arch: args.arch.as_deref(),
        generic: args.generic,
        rehash: true,
        whole_files: true,
        n_threads,
        progress: &bar,
        format: output::wanted(args.from.as_deref()),
    };
    let subject = match Version::open(input.path(), &options) {
        Ok(subject) => subject,
        Err(Failure::Error(err)) => return Err(err.into()),
        Err(Failure::Findings(findings)) => {
            return output::refuse_input(&args.path, &findings, global);
        }
    };
    let findings = output::findings(&subject.findings, global);
    if !findings.is_empty() {
        output::hint(findings.trim_end(), global);
    }
    if global.form == CYCLONEDX {
        deliver(&supply::cyclonedx::bill(input.path(), &subject.manifest)?, args)?;
        return Ok(Status::SUCCESS);
    }
    if let Some(path) = &args.output {
        let text = subject.manifest.to_text();
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    match global.format {
        Format::Json => output::print_data(&subject.manifest.to_text())?,
        Format::Text => output::print(&text(&subject))?,
    }
    Ok(Status::SUCCESS)
}

/// Prints a document, or writes it to a file.
fn deliver(document: &serde_json::Value, args: &Args) -> anyhow::Result<()> {
    let text = format!("{document:#}\n");
    match &args.output {
        None => output::print_data(&text),
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        }
    }
}

fn text(subject: &Version) -> String {
    let manifest = &subject.manifest;
    let mut text = format!("{}\n", subject.label);
    let what = match subject.kind {
        Kind::Package => "package of the standard",
        Kind::Manifest => "manifest; its weights were not read",
        Kind::Planned => "foreign, as the package it would become",
        Kind::Plain => "foreign, under its own names",
    };
    let _ = writeln!(text, "input         {what}");
    if let Some(arch) = manifest.model.as_ref().and_then(|model| model.architecture.as_ref()) {
        let _ = writeln!(text, "architecture  {arch}");
    }
    let bytes = manifest.dtypes.values().fold(0u64, |sum, census| sum.saturating_add(census.bytes));
    let n_tensors = manifest.tensors.len();
    let _ = writeln!(text, "tensors       {n_tensors}, {}", output::size(bytes));
    let census =
        manifest.dtypes.iter().map(|(dtype, census)| format!("{dtype} {}", census.tensors));
    let _ = writeln!(text, "dtypes        {}", census.collect::<Vec<_>>().join(", "));
    let _ = writeln!(text, "files         {}", manifest.files.len());
    text.push('\n');
    for (name, digest) in manifest.digests.each() {
        let _ = writeln!(text, "{name:<13} {}", digest.unwrap_or("-"));
    }
    text
}
