//! The command line of the LLM Standard.

mod conformance;
mod convert;
mod diff;
mod explain;
mod inspect;
mod interrupt;
mod manifest;
mod output;
mod progress;
mod run;
mod spec;
mod validate;

use std::io::Write as _;
use std::process::ExitCode;

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
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
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

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
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
    /// How results are printed.
    pub(crate) format: Format,
    /// Whether text is coloured.
    pub(crate) color: bool,
    /// Whether to print results only.
    pub(crate) quiet: bool,
    /// Whether to print more.
    pub(crate) verbose: bool,
    /// The standard that was asked for.
    pub(crate) spec: Option<String>,
    /// Whether a signal has told the process to end.
    pub(crate) interrupt: interrupt::Interrupt,
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Args),
    Convert(convert::Args),
    Diff(diff::Args),
    Manifest(manifest::Args),
    Validate(validate::Args),
    Run(run::Args),
    Spec(spec::Args),
    Explain(explain::Args),
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let color = match cli.global.color {
        Color::Always => true,
        Color::Never => false,
        // https://no-color.org: any value but the empty one.
        Color::Auto => {
            std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                && std::io::IsTerminal::is_terminal(&std::io::stdout())
        }
    };
    let interrupt = match interrupt::watch() {
        Ok(interrupt) => interrupt,
        Err(err) => {
            let _ = writeln!(std::io::stderr().lock(), "error: cannot wait for signals: {err}");
            return ExitCode::from(2);
        }
    };
    let global = Global {
        format: cli.global.format,
        color,
        quiet: cli.global.quiet,
        verbose: cli.global.verbose,
        spec: cli.global.spec,
        interrupt,
    };
    let result = match cli.command {
        Command::Inspect(args) => inspect::run(&args, &global),
        Command::Convert(args) => convert::run(&args, &global),
        Command::Diff(args) => diff::run(&args, &global),
        Command::Manifest(args) => manifest::run(&args, &global),
        Command::Validate(args) => validate::run(&args, &global),
        Command::Run(args) => run::run(&args, &global),
        Command::Explain(args) => explain::run(&args, &global),
        Command::Spec(args) => spec::run(&args, &global),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "llmstd", &mut text);
            output::print(&String::from_utf8_lossy(&text)).map(|()| ExitCode::SUCCESS)
        }
    };
    match result {
        Ok(code) => code,
        Err(err) => match global.interrupt.end() {
            Some((text, status)) => {
                output::error(&anyhow::anyhow!(text), &global);
                ExitCode::from(status)
            }
            None => {
                output::error(&err, &global);
                ExitCode::from(2)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }
}
