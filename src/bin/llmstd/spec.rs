//! `llmstd spec`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use llmstd::spec::Spec;
use llmstd::spec::listing::Checked;

use crate::{Format, Global, output};

/// Show, check and export the standard itself
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  llmstd spec list
  llmstd spec show llama
  llmstd spec check ./spec/1.0
  llmstd spec export ./spec-1.0

Exit status:
  0  nothing is wrong
  1  `check` found something
  2  it could not be done")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List architectures, mappings and tasks
    List,
    /// Print an architecture, a mapping (hf/llama), or any file of the standard
    Show {
        /// An architecture, a mapping, or a file
        name: String,
    },
    /// Check data files: every rule, every architecture, every mapping
    Check {
        /// A folder laid out as spec/1.0
        dir: PathBuf,
    },
    /// Write the files of the standard into a folder
    Export {
        /// The folder to write; it must not exist
        dir: PathBuf,
    },
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::List => list(&output::spec(global)?, global)?,
        Command::Show { name } => show(&output::spec(global)?, name)?,
        Command::Check { dir } => return check(dir, global),
        Command::Export { dir } => export(&output::spec(global)?, dir, global)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(spec: &Spec, global: &Global) -> anyhow::Result<()> {
    let listing = spec.listing();
    if global.format == Format::Json {
        return output::print_json(&listing);
    }
    let mut text = format!("LLM Standard {}\n\n", spec.version);
    let mut table = output::table();
    table.set_header(["architecture", "mappings", "about"]);
    for arch in &listing.architectures {
        table.add_row([arch.id.clone(), arch.mappings.join(" "), arch.about.clone()]);
    }
    let _ = writeln!(text, "{}\n\ntasks: {}", table.trim_fmt(), listing.tasks.join(", "));
    output::print(&text)
}

fn show(spec: &Spec, name: &str) -> anyhow::Result<()> {
    let tried = [name.to_owned(), format!("arch/{name}.toml"), format!("map/{name}.toml")];
    let found = tried.iter().find_map(|path| spec.files().get(path));
    let text = found.with_context(|| {
        format!(
            "the standard has no architecture, mapping or file {name:?}; see `llmstd spec list`"
        )
    })?;
    output::print(text)
}

fn check(dir: &Path, global: &Global) -> anyhow::Result<ExitCode> {
    let problems = match Spec::from_dir(dir) {
        Ok(spec) => spec.check(),
        // A file that does not keep its form is what `check` is for; a folder that is not there
        // is not.
        Err(err) if err.kind() == llmstd::error::ErrorKind::Io => return Err(err.into()),
        Err(err) => vec![err.to_string()],
    };
    if global.format == Format::Json {
        output::print_json(&Checked::new(problems.clone()))?;
    } else {
        let mut text = problems.iter().fold(String::new(), |text, problem| text + problem + "\n");
        let _ = match problems.len() {
            0 => writeln!(text, "{}: nothing is wrong", dir.display()),
            n => writeln!(text, "{}: {n} found", dir.display()),
        };
        output::print(&text)?;
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn export(spec: &Spec, dir: &Path, global: &Global) -> anyhow::Result<()> {
    let staging = llmstd::exec::staging::Staging::new(dir, false)?;
    for (name, text) in spec.files() {
        let path = staging.path().join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("cannot create {}", parent.display()))?;
        }
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    staging.commit()?;
    output::hint(&format!("wrote {} files to {}", spec.files().len(), dir.display()), global);
    Ok(())
}
