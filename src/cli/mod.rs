//! The command line of the LLM Standard: arguments to calls, results to text.
//!
//! [`main`] is the whole of a process: it takes its arguments, prints, waits for signals, and returns the
//! exit status. Nothing else in this crate does any of that.

mod completions;
mod conformance;
mod convert;
mod diff;
mod explain;
mod git;
mod input;
mod inspect;
mod interface;
mod interrupt;
mod manifest;
mod migrate;
mod output;
mod progress;
mod report;
mod run;
mod spec;
mod units;
mod validate;
mod verify;

use std::ffi::OsString;
use std::io::Write as _;

use crate::report::Style;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser as _};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

/// The LLM Standard: converts model checkpoints into one layout and back, proves that they keep
/// it, and says what changed between two
#[derive(Parser)]
#[command(name = "llmstd", version, max_term_width = 100, after_help = EXIT_STATUS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: GlobalArgs,
}

const EXIT_STATUS: &str = "\
Exit status:
  0  nothing is wrong
  1  something was found
  2  it could not be done";

#[derive(Args)]
struct GlobalArgs {
    /// How results are printed; validate, diff and verify have every form, the others text and json
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", value_parser = form())]
    format: &'static str,
    /// When text is coloured
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    color: Color,
    /// Print results only, no hints and no progress
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Print more
    #[arg(short, long, global = true)]
    verbose: bool,
    /// The version of the standard, or a folder laid out as spec/1.0
    #[arg(long, global = true, value_name = "VERSION|DIR")]
    spec: Option<String>,
}

/// The forms of results, as values of an argument; those of one command are listed there.
fn form() -> impl clap::builder::TypedValueParser<Value = &'static str> {
    let reports = crate::report::FORMATS
        .iter()
        .map(|format| PossibleValue::new(format.id).help(format.about));
    let own = interfaces().chain(manifest::FORMS);
    let hidden = own.map(|id| PossibleValue::new(id).hide(true));
    let values = PossibleValuesParser::new(reports.chain(hidden).collect::<Vec<_>>());
    let known = |id: String| {
        let reports = crate::report::FORMATS.iter().map(|format| format.id);
        let mut all = reports.chain(interfaces()).chain(manifest::FORMS);
        all.find(|known| *known == id).expect("one of those that are listed")
    };
    values.map(known)
}

/// The forms that `interface` alone has.
fn interfaces() -> impl Iterator<Item = &'static str> {
    crate::interface::LOWERINGS.iter().map(|lowering| lowering.id)
}

/// Refuses a form that the command does not have.
fn check_form(command: &Command, id: &str) -> anyhow::Result<()> {
    let is_report = crate::report::format(id).is_some();
    let forms = match command {
        Command::Validate(_) | Command::Diff(_) | Command::Verify(_) if is_report => return Ok(()),
        Command::Interface(_) if interfaces().any(|known| known == id) => return Ok(()),
        _ if ["text", "json"].contains(&id) => return Ok(()),
        Command::Manifest(_) if manifest::FORMS.contains(&id) => return Ok(()),
        Command::Manifest(_) => format!("text, json, {}", manifest::FORMS.join(", ")),
        Command::Interface(_) => {
            format!("text, json, {}", interfaces().collect::<Vec<_>>().join(", "))
        }
        Command::Validate(_) | Command::Diff(_) | Command::Verify(_) => {
            let ids: Vec<&str> = crate::report::FORMATS.iter().map(|format| format.id).collect();
            ids.join(", ")
        }
        _ => "text and json".to_owned(),
    };
    let owner = match id {
        _ if is_report => "validate, diff and verify",
        id if manifest::FORMS.contains(&id) => "manifest",
        _ => "interface",
    };
    anyhow::bail!("--format {id} is a form of {owner}; here there are {forms}")
}

/// How the results of commands that have two forms are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs; the schemas are under `spec/1.0/schema`.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

/// What every subcommand is told.
pub(crate) struct Global {
    /// How results are printed, of the commands that have two forms.
    pub(crate) format: Format,
    /// The word that says how results are printed.
    pub(crate) form: &'static str,
    /// How reports are printed.
    pub(crate) report: &'static crate::report::Format,
    /// Whether text is coloured.
    pub(crate) color: bool,
    /// Whether to print results only.
    pub(crate) quiet: bool,
    /// Whether to print more.
    pub(crate) verbose: bool,
    /// The standard that was asked for.
    pub(crate) spec: Option<String>,
    /// The command line, the name of the program first.
    pub(crate) words: Vec<OsString>,
    /// Whether a signal has told the process to end.
    pub(crate) interrupt: interrupt::Interrupt,
}

impl Global {
    /// How text looks.
    pub(crate) fn style(&self) -> Style {
        Style { color: self.color, verbose: self.verbose }
    }
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Args),
    Interface(interface::Args),
    Convert(convert::args::Args),
    Diff(diff::Args),
    Manifest(manifest::Args),
    Validate(validate::Args),
    Verify(verify::Args),
    Migrate(migrate::Args),
    Run(run::Args),
    Spec(spec::Args),
    Explain(explain::Args),
    /// Write the pages of the manual, one for each command
    Man {
        /// The folder they go to
        folder: std::path::PathBuf,
    },
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(u8);

impl Status {
    /// Nothing is wrong.
    pub const SUCCESS: Status = Status(0);
    /// Something was found.
    pub const FAILURE: Status = Status(1);

    /// The number that the system is told.
    pub fn code(self) -> u8 {
        self.0
    }
}

impl From<u8> for Status {
    fn from(code: u8) -> Status {
        Status(code)
    }
}

impl From<Status> for std::process::ExitCode {
    fn from(status: Status) -> std::process::ExitCode {
        std::process::ExitCode::from(status.0)
    }
}

/// Runs the command line `words`, of which the first is the name of the program.
///
/// Signals that end a process are waited for from here on, and what is half written is removed then;
/// so that this is called once, by a program that does nothing else.
pub fn main(words: impl IntoIterator<Item = OsString>) -> Status {
    let words: Vec<OsString> = words.into_iter().collect();
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(err) => {
            // What was asked for, help or the version, goes to stdout. If that cannot be printed, there
            // is nobody to tell.
            let _ = err.print();
            return Status(u8::try_from(err.exit_code()).unwrap_or(2));
        }
    };
    let color = match cli.global.color {
        Color::Always => true,
        Color::Never => false,
        // https://no-color.org: any value but the empty one.
        Color::Auto => {
            std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                && std::io::IsTerminal::is_terminal(&std::io::stdout())
        }
    };
    output::set_colors(color);
    let survives = crate::base::source::survive();
    let interrupt = match survives.and_then(|()| interrupt::watch()) {
        Ok(interrupt) => interrupt,
        Err(err) => {
            let _ = writeln!(std::io::stderr().lock(), "error: cannot wait for signals: {err}");
            return Status(2);
        }
    };
    let global = Global {
        // A report that is for programs is no place for what else is told.
        format: if cli.global.format == "json" { Format::Json } else { Format::Text },
        form: cli.global.format,
        report: crate::report::format(cli.global.format).unwrap_or(crate::report::FORMATS[0]),
        color,
        quiet: cli.global.quiet,
        verbose: cli.global.verbose,
        spec: cli.global.spec,
        words,
        interrupt,
    };
    if let Err(err) = check_form(&cli.command, global.form) {
        output::error(&err, &global);
        return Status(2);
    }
    let result = match cli.command {
        Command::Inspect(args) => inspect::run(&args, &global),
        Command::Interface(args) => interface::run(&args, &global),
        Command::Convert(args) => convert::run(&args, &global),
        Command::Diff(args) => diff::run(&args, &global),
        Command::Manifest(args) => manifest::run(&args, &global),
        Command::Validate(args) => validate::run(&args, &global),
        Command::Verify(args) => verify::run(&args, &global),
        Command::Migrate(args) => migrate::run(&args, &global),
        Command::Man { folder } => man(&folder).map(|()| Status::SUCCESS),
        Command::Run(args) => run::run(&args, &global),
        Command::Explain(args) => explain::run(&args, &global),
        Command::Spec(args) => spec::run(&args, &global),
        Command::Completions { shell } => output::spec(&global).and_then(|spec| {
            let text = completions::text(Cli::command(), shell, spec);
            output::print(&String::from_utf8_lossy(&text)).map(|()| Status::SUCCESS)
        }),
    };
    match result {
        Ok(code) => code,
        Err(err) => match global.interrupt.end() {
            Some((text, status)) => {
                output::error(&anyhow::anyhow!(text), &global);
                Status(status)
            }
            None => {
                output::error(&err, &global);
                Status(2)
            }
        },
    }
}

/// Writes a page for the program and one for each command.
fn man(folder: &std::path::Path) -> anyhow::Result<()> {
    use anyhow::Context as _;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("cannot write to {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }
}
