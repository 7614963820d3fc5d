//! `llmstd validate`.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use llmstd::base::diagnostic::Level;
use llmstd::package::Conformance;
use llmstd::rule::{HIGHER_LEVEL, NEEDS_DEEP, NOT_SELECTED, Outcome, Selection};
use llmstd::spec::Spec;
use llmstd::validate::{Input, InputResult, Kind, Options, Report, Validation, validate};

use crate::progress::Bar;
use crate::{Format, Global, explain, output};

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
    match global.format {
        Format::Json => output::print_json(&validation)?,
        Format::Text => output::print(&text(&validation, global))?,
    }
    if let Some(rule) = first_error(&validation) {
        output::hint(&format!("more: llmstd explain {rule}"), global);
    }
    let failed = |input: &Input| matches!(input.result, InputResult::Error(_));
    Ok(match () {
        () if validation.inputs.iter().any(failed) => ExitCode::from(2),
        () if validation.valid => ExitCode::SUCCESS,
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
        InputResult::Error(_) => None,
    });
    let mut findings = reports.flat_map(|report| &report.findings);
    findings.find(|finding| finding.level == Level::Error).map(|finding| finding.rule)
}

fn text(validation: &Validation, global: &Global) -> String {
    let mut text = String::new();
    for Input { path, result } in &validation.inputs {
        if let InputResult::Report(report) = result {
            if global.verbose {
                text.push_str(&checks(report));
            }
            text.push_str(&output::findings(&report.findings, global));
            text.push_str(&summary(path, report));
        }
    }
    text
}

fn checks(report: &Report) -> String {
    let mut table = output::table();
    table.set_header(["rule", "name", "level", "outcome", "why"]);
    for check in &report.checks {
        let outcome = match check.outcome {
            Outcome::Pass => "pass",
            Outcome::Fail => "fail",
            Outcome::Skipped => "skipped",
            Outcome::NotApplicable => "not applicable",
        };
        let why = check.why.unwrap_or_default();
        table.add_row([check.rule, check.name, check.level.name(), outcome, why]);
    }
    format!("{}\n\n", table.trim_fmt())
}

fn summary(path: &str, report: &Report) -> String {
    let mut text = format!("{path}: ");
    let what = report.architecture.as_deref().unwrap_or("no architecture");
    let kind = match report.kind {
        Kind::Package => "",
        Kind::Foreign => ", not a package yet",
    };
    let _ = write!(text, "{what}, {} tensors{kind}; ", report.tensors);
    let counts: Vec<String> =
        [(Level::Error, "error"), (Level::Warning, "warning"), (Level::Note, "note")]
            .into_iter()
            .filter_map(|(level, word)| match report.count(level) {
                0 => None,
                1 => Some(format!("1 {word}")),
                n => Some(format!("{n} {word}s")),
            })
            .collect();
    let level = report.level.name();
    if !report.left_out.is_empty() {
        let verdict = if report.valid { "nothing is wrong" } else { "some are broken" };
        let _ = write!(text, "of the rules selected, {verdict}; no level is claimed");
    } else if report.valid {
        let verb = if report.kind == Kind::Package { "keeps" } else { "can keep" };
        let by = if report.deep { "" } else { " by its headers" };
        let _ = write!(text, "{verb} level {level}{by}");
    } else {
        let _ = write!(text, "does not keep level {level}");
        if let Some(reached) = report.reached {
            let by = if report.deep { "" } else { " by its headers" };
            let _ = write!(text, ", only {}{by}", reached.name());
        }
    }
    if !report.deep {
        text.push_str(", bytes not read: --deep reads them");
    }
    if !counts.is_empty() {
        let _ = write!(text, ": {}", counts.join(", "));
    }
    let n_looked = report.n_checks(Outcome::Pass) + report.n_checks(Outcome::Fail);
    let mut skipped: Vec<String> = Vec::new();
    match report.n_checks(Outcome::Skipped) {
        0 => {}
        n => skipped.push(format!("{n} skipped")),
    }
    // What was asked for and could not be done is no detail.
    let known = [NOT_SELECTED, NEEDS_DEEP, HIGHER_LEVEL];
    let blocked = report.checks.iter().filter(|check| check.outcome == Outcome::Skipped);
    let mut why: Vec<&str> = blocked.filter_map(|check| check.why).collect();
    why.retain(|why| !known.contains(why));
    if let Some(first) = why.first() {
        skipped.push(format!("{} of them as {first}", why.len()));
    }
    let s = if n_looked == 1 { "" } else { "s" };
    let _ = write!(text, " ({n_looked} rule{s} checked");
    for part in skipped {
        let _ = write!(text, ", {part}");
    }
    text.push_str(")\n");
    text
}
