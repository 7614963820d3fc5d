//! `llmstd validate`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::base::diagnostic::Level;
use crate::base::mirror;
use crate::package::Conformance;
use crate::policy::apply::{Run, apply, stale};
use crate::policy::baseline::{Baseline, Ledger};
use crate::policy::file::Rules;
use crate::policy::{Policy, expected};
use crate::rule::Selection;
use crate::spec::Spec;
use crate::validate::below::{Found, below};
use crate::validate::{Input, InputResult, Options, Validation, validate};

use super::progress::Bar;
use super::{Global, Status, input, output, report};

/// Prove that a package keeps the standard, or that a checkpoint can be brought to it
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  llmstd validate ./bert-base.std                    headers and JSON, up to the level it claims
  llmstd validate ./bert-base.std --deep             every byte: hashes, NaNs
  llmstd validate models/* --level full --format json
  llmstd validate ./bert-base                        what would keep it from being converted
  llmstd validate -r models/ --report sarif=out.sarif
  llmstd validate manifest.json                      what a manifest alone tells

What a project asks besides, and which findings it waives, stands in llmstd.toml, in a folder at or
above the input.

Exit status:
  0  nothing is wrong
  1  a finding of level error, or of --fail-on, in any of the inputs
  2  an input could not be checked, or no rule was selected that applies to it")]
pub(crate) struct Args {
    /// Packages, checkpoints of other formats, or manifests alone
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The format that is read, where a folder has several
    #[arg(long, value_name = "FORMAT", value_parser = output::formats())]
    from: Option<String>,
    /// Find the packages and checkpoints below folders
    #[arg(short, long)]
    recursive: bool,
    /// The level to hold them to, instead of the one that each claims
    #[arg(long, value_enum)]
    level: Option<LevelArg>,
    /// Read every byte: hashes of tensors and files, NaNs and infinities
    #[arg(long)]
    deep: bool,
    /// With --deep, hash long tensor files as a whole too, not by their tensors and header alone
    #[arg(long, requires = "deep")]
    files: bool,
    /// Apply these rules only: numbers or their beginnings, V120 or V1
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    select: Vec<String>,
    /// Leave these rules out: numbers or their beginnings
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    ignore: Vec<String>,
    /// How many threads read; the report does not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// The least level of a finding that fails, instead of the policy's
    #[arg(long, value_enum, value_name = "LEVEL")]
    fail_on: Option<FailOn>,
    /// A digest that the model must have: model=sha256:…; may be given again
    #[arg(long, value_name = "NAME=SHA256", value_parser = expect)]
    expect: Vec<(String, String)>,
    /// The policy, instead of the llmstd.toml at or above each input
    #[arg(long, value_name = "FILE", conflicts_with = "isolated")]
    config: Option<PathBuf>,
    /// Read no policy
    #[arg(long)]
    isolated: bool,
    /// Findings that are known and do not count
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Write what is found as a baseline
    #[arg(long, value_name = "FILE", conflicts_with = "baseline")]
    write_baseline: Option<PathBuf>,
    #[command(flatten)]
    reports: report::Args,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FailOn {
    Error,
    Warning,
    Note,
}

impl From<FailOn> for Level {
    fn from(level: FailOn) -> Level {
        match level {
            FailOn::Error => Level::Error,
            FailOn::Warning => Level::Warning,
            FailOn::Note => Level::Note,
        }
    }
}

fn expect(word: &str) -> Result<(String, String), String> {
    let (name, digest) = word.split_once('=').ok_or("write NAME=SHA256, as model=sha256:0123…")?;
    expected(name, digest).map_err(|err| err.message().to_owned())?;
    Ok((name.to_owned(), digest.to_owned()))
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

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Status> {
    let n_threads = output::n_threads(args.threads);
    let spec = output::spec(global)?;
    let selection = Selection { select: args.select.clone(), ignore: args.ignore.clone() };
    check_selection(spec, &selection)?;
    let (mut found, mut kept) = (Vec::new(), Vec::new());
    for path in &args.paths {
        if args.recursive && path.is_dir() {
            found.extend(below(path)?);
        } else {
            let input = input::Input::of(path, spec)?;
            found.push(Found { path: input.path().to_owned(), nothing: None });
            kept.push(input);
        }
    }
    anyhow::ensure!(
        found.iter().any(|found| found.nothing.is_none()),
        "there is no package and no checkpoint below {}",
        args.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    );
    let policies = Policies::of(args, &found, spec)?;
    let today = today();
    let mut runs: Vec<Run<'_>> =
        policies.read.values().map(|policy| Run::new(policy, &today)).collect();
    let mut baseline = args.baseline.as_deref().map(Ledger::read).transpose()?;
    let bar = Bar::new(global);
    let mut inputs = Vec::with_capacity(found.len());
    for Found { path, nothing } in &found {
        let at = policies.place(path);
        let rules = rules(args, at.map(|at| policies.get(at)), path);
        let selection = rules.selection();
        let options = Options {
            level: rules.level(),
            deep: args.deep,
            whole_files: args.files,
            selection: &selection,
            n_threads,
            progress: &bar,
            format: output::wanted(args.from.as_deref()),
        };
        let result = match nothing {
            Some(why) => InputResult::Skipped(why.clone()),
            None => match validate(path, spec, &options) {
                Ok(mut report) => {
                    let run = at.map(|at| &mut runs[at]);
                    apply(path, &mut report, &rules, run, baseline.as_mut());
                    InputResult::Report(Box::new(report))
                }
                Err(err) => InputResult::Error(err.to_string()),
            },
        };
        inputs.push(Input { path: path.display().to_string(), result });
    }
    if let Some(path) = &args.write_baseline {
        let reports = inputs.iter().filter_map(|input| match &input.result {
            InputResult::Report(report) => Some((input.path.as_str(), &**report)),
            _ => None,
        });
        let text = Baseline::of(path, reports).to_text();
        report::put(path, &text)?;
    }
    let mut told: Vec<_> = runs.iter().map(Run::findings).collect();
    let fail_on = args.fail_on.map(Level::from);
    // A baseline is that of all inputs: the strictest of their policies counts.
    let strictest = policies.read.values().filter_map(|one| one.base_rules().fail_on).min();
    let of_baseline = fail_on.or(strictest).unwrap_or(Level::Error);
    let known = args.baseline.as_ref().zip(baseline.as_ref());
    told.extend(known.map(|(path, one)| stale(path, one, of_baseline)));
    told.retain(|policy| !policy.findings.is_empty());
    if let Some(fail_on) = fail_on {
        told.iter_mut().for_each(|policy| policy.fail_on = fail_on);
    }
    for path in policies.read.keys() {
        output::hint(&format!("by the policy {}", path.display()), global);
    }
    let validation = Validation::with_policies(inputs, told);
    for input in &validation.inputs {
        if let InputResult::Error(err) = &input.result {
            output::error(&anyhow::anyhow!("{err}"), global);
        }
    }
    args.reports.write(&validation, spec, global)?;
    if let Some(rule) = first_error(&validation) {
        output::hint(&format!("more: llmstd explain {rule}"), global);
    }
    let failed = |input: &Input| matches!(input.result, InputResult::Error(_));
    Ok(match () {
        () if validation.inputs.iter().any(failed) => Status::from(2),
        () if validation.passes || args.write_baseline.is_some() => Status::SUCCESS,
        () => Status::from(1),
    })
}

/// The policies of a run, each read once.
struct Policies {
    read: BTreeMap<PathBuf, Policy>,
    one: Option<PathBuf>,
    isolated: bool,
}

impl Policies {
    fn of(args: &Args, found: &[Found], spec: &Spec) -> anyhow::Result<Policies> {
        let mut policies =
            Policies { read: BTreeMap::new(), one: args.config.clone(), isolated: args.isolated };
        for input in found {
            let Some(path) = policies.path(&input.path) else { continue };
            if let Entry::Vacant(place) = policies.read.entry(path) {
                let policy = Policy::read(place.key(), spec)?;
                place.insert(policy);
            }
        }
        Ok(policies)
    }

    /// The file that holds for an input.
    fn path(&self, input: &Path) -> Option<PathBuf> {
        match &self.one {
            _ if self.isolated => None,
            Some(path) => Some(path.clone()),
            // What lies on another machine is judged as the project does that asks.
            None if mirror::find(input).is_some() => Policy::find(Path::new("input")),
            None => Policy::find(input),
        }
    }

    /// Which of the policies holds for an input.
    fn place(&self, input: &Path) -> Option<usize> {
        let path = self.path(input)?;
        self.read.keys().position(|known| *known == path)
    }

    fn get(&self, place: usize) -> &Policy {
        self.read.values().nth(place).expect("the place of a policy that was read")
    }
}

/// What holds for an input: its policy, and the command line over it.
fn rules(args: &Args, policy: Option<&Policy>, path: &Path) -> Rules {
    let mut rules = policy.map(|policy| policy.rules_for(path)).unwrap_or_default();
    rules.overlay(&Rules {
        level: args.level.map(Conformance::from),
        select: (!args.select.is_empty()).then(|| args.select.clone()),
        ignore: args.ignore.clone(),
        fail_on: args.fail_on.map(Level::from),
        ..Rules::default()
    });
    rules.require.digests.extend(args.expect.iter().cloned());
    rules
}

/// The day by UTC, `2026-11-28`.
fn today() -> String {
    let day = time::OffsetDateTime::now_utc().date();
    format!("{:04}-{:02}-{:02}", day.year(), u8::from(day.month()), day.day())
}

/// Refuses a rule that is not there, so that a slip of the pen does not switch a check off.
fn check_selection(spec: &Spec, selection: &Selection) -> anyhow::Result<()> {
    for wanted in selection.select.iter().chain(&selection.ignore) {
        spec.check_rule(wanted).map_err(anyhow::Error::msg)?;
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
