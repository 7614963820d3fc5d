//! `llmstd validate`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use llmstd::base::diagnostic::Level;
use llmstd::package::Conformance;
use llmstd::rule::Selection;
use llmstd::spec::Spec;
use llmstd::validate::{Input, InputResult, Options, Validation, validate};

use crate::progress::Bar;
use crate::{Global, explain, output, report};

/// Prove that a package keeps the standard, or that a checkpoint can be brought to it
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  llmstd validate ./bert-base.std                    headers and JSON, up to the level it claims
  llmstd validate ./bert-base.std --deep             every byte: hashes, NaNs
  llmstd validate models/* --level full --format json
  llmstd validate ./bert-base                        what would keep it from being converted

Exit status:
  0  nothing is wrong
  1  a finding of level error, in any of the inputs
  2  an input could not be checked, or no rule was selected that applies to it")]
pub(crate) struct Args {
    /// Packages, or checkpoints of other formats
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The level to hold them to, instead of the one that each claims
    #[arg(long, value_enum)]
    level: Option<LevelArg>,
    /// Read every byte: hashes of tensors and files, NaNs and infinities
    #[arg(long)]
    deep: bool,
    /// Apply these rules only: numbers or their beginnings, V120 or V1
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    select: Vec<String>,
    /// Leave these rules out: numbers or their beginnings
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    ignore: Vec<String>,
    /// How many threads read; the report does not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    reports: report::Args,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LevelArg {
    /// Well-formed, safe, hashed
    Container,
    /// Also of a known architecture, complete and consistent
    Schema,
    /// Also with a tokenizer and at least one task
    Full,
}

impl From<LevelArg> for Conformance {
    fn from(level: LevelArg) -> Conformance {
        match level {
            LevelArg::Container => Conformance::Container,
            LevelArg::Schema => Conformance::Schema,
            LevelArg::Full => Conformance::Full,
        }
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let spec = output::spec(global)?;
    let selection = Selection { select: args.select.clone(), ignore: args.ignore.clone() };
    check_selection(&spec, &selection)?;
    let bar = Bar::new(global);
    let options = Options {
        level: args.level.map(Conformance::from),
        deep: args.deep,
        selection: &selection,
        n_threads: output::n_threads(args.threads),
        progress: &bar,
    };
    let inputs = args.paths.iter().map(|path| Input {
        path: path.display().to_string(),
        result: match validate(path, &spec, &options) {
            Ok(report) => InputResult::Report(Box::new(report)),
            Err(err) => InputResult::Error(err.to_string()),
        },
    });
    let validation = Validation::of(inputs.collect());
    for input in &validation.inputs {
        if let InputResult::Error(err) = &input.result {
            output::error(&anyhow::anyhow!("{err}"), global);
        }
    }
    args.reports.write(&validation, &spec, global)?;
    if let Some(rule) = first_error(&validation) {
        output::hint(&format!("more: llmstd explain {rule}"), global);
    }
    let failed = |input: &Input| matches!(input.result, InputResult::Error(_));
    Ok(match () {
        () if validation.inputs.iter().any(failed) => ExitCode::from(2),
        () if validation.passes => ExitCode::SUCCESS,
        () => ExitCode::from(1),
    })
}

/// Refuses a rule that is not there, so that a slip of the pen does not switch a check off.
fn check_selection(spec: &Spec, selection: &Selection) -> anyhow::Result<()> {
    let pages = spec.pages();
    for wanted in selection.select.iter().chain(&selection.ignore) {
        let known = !wanted.is_empty() && pages.iter().any(|page| page.rule.starts_with(wanted));
        anyhow::ensure!(known, "{}", explain::unknown(&pages, wanted));
    }
    Ok(())
}

fn first_error(validation: &Validation) -> Option<&'static str> {
    let reports = validation.inputs.iter().filter_map(|input| match &input.result {
        InputResult::Report(report) => Some(report),
        InputResult::Error(_) | InputResult::Skipped(_) => None,
    });
    let mut findings = reports.flat_map(|report| &report.findings);
    findings.find(|finding| finding.level == Level::Error).map(|finding| finding.rule)
}
