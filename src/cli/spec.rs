//! `llmstd spec`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::author::names::NameMap;
use crate::author::tensors::TensorList;
use crate::convert::{self, Failure};
use crate::exec::staging::{Existing, Staging};
use crate::folder;
use crate::spec::listing::Checked;
use crate::spec::map::Map;
use crate::spec::{Files, Spec};
use anyhow::Context as _;
use clap::Subcommand;

use super::{Format, Global, Status, output};

/// Show, check and export the standard itself
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  llmstd spec list
  llmstd spec list formats
  llmstd spec show llama
  llmstd spec check ./spec/1.0
  llmstd spec map llama --format json
  llmstd spec sample llama ./tiny-llama
  llmstd spec new-arch ./checkpoint --name newfamily --out ./spec-new
  llmstd spec tensors llama --config ./llama/config.json
  llmstd spec export > llmstd-1.0.json
  llmstd spec conformance --reader ./my-reader

Exit status:
  0  nothing is wrong
  1  `check` or `conformance` found something, or a draft is not whole yet
  2  it could not be done")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What `list` lists.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Listed {
    /// Architectures, mappings and tasks
    #[default]
    Architectures,
    /// Formats of files
    Formats,
}

#[derive(Subcommand)]
enum Command {
    /// List architectures, mappings and tasks; or formats, and what is done with each
    List {
        /// What to list
        #[arg(value_enum, default_value_t)]
        what: Listed,
    },
    /// Print an architecture, a mapping (hf/llama), or any file of the standard
    Show {
        /// An architecture, a mapping, or a file
        name: String,
    },
    /// Print a mapping as names: foreign, standard, and what happens between them
    Map {
        /// An architecture or a mapping, `llama`
        name: String,
        /// A checkpoint, or a config.json: print the names themselves
        path: Option<PathBuf>,
        /// The format of the mapping
        #[arg(long, default_value = "hf", value_name = "FORMAT")]
        map: String,
    },
    /// Make a tiny synthetic checkpoint in a foreign layout from the mapping itself
    Sample {
        /// An architecture or a mapping, `llama`
        name: String,
        /// The folder to write; it must not exist
        out: PathBuf,
        /// The format of the mapping
        #[arg(long, default_value = "hf", value_name = "FORMAT")]
        map: String,
        /// A config of any size to begin with; its sizes are made small
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Which of the samples that together use every rule, from 0; `all` writes each into a
        /// folder of its own
        #[arg(long, default_value = "0", value_name = "N|all")]
        variant: String,
    },
    /// Draft an architecture and a mapping from a checkpoint's headers and config
    NewArch {
        /// The checkpoint
        checkpoint: PathBuf,
        /// The name of the new architecture
        #[arg(long)]
        name: String,
        /// The architecture to begin with; else the closest one
        #[arg(long, value_name = "ARCH")]
        from: Option<String>,
        /// The folder to write, the standard with the draft in it; it must not exist
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The format of the mapping
        #[arg(long, default_value = "hf", value_name = "FORMAT")]
        map: String,
    },
    /// Check data files: every rule, every architecture, every mapping
    Check {
        /// A folder laid out as spec/1.0
        dir: PathBuf,
    },
    /// Print the standard as one JSON document, or write its files into a folder
    Export {
        /// The folder to write; it must not exist
        dir: Option<PathBuf>,
    },
    /// List the tensors of an architecture: names, shapes, when they are there, what they mean
    Tensors {
        /// The architecture
        arch: String,
        /// A foreign config.json: the names and shapes of a model of these sizes
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The format of the config
        #[arg(long, default_value = "hf", value_name = "FORMAT", requires = "config")]
        map: String,
    },
    /// Hold this program, or another one, to the vectors of the standard
    Conformance {
        /// A command that answers the line protocol of spec/conformance/README.md, with its
        /// arguments: words between spaces
        #[arg(long, value_name = "CMD")]
        reader: Option<String>,
    },
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Status> {
    match &args.command {
        Command::List { what: Listed::Architectures } => list(output::spec(global)?, global)?,
        Command::List { what: Listed::Formats } => formats(output::spec(global)?, global)?,
        Command::Show { name } => show(output::spec(global)?, name)?,
        Command::Map { name, path, map } => names(name, path.as_deref(), map, global)?,
        Command::Sample { name, out, map, config, variant } => {
            return sample(name, out, map, config.as_deref(), variant, global);
        }
        Command::NewArch { checkpoint, name, from, out, map } => {
            return new_arch(checkpoint, name, from.as_deref(), out, map, global);
        }
        Command::Check { dir } => return check(dir, global),
        Command::Export { dir: None } => output::print_json(&output::spec(global)?.export())?,
        Command::Export { dir: Some(dir) } => export(output::spec(global)?, dir, global)?,
        Command::Tensors { arch, config, map } => {
            return tensors(arch, config.as_deref(), map, global);
        }
        Command::Conformance { reader } => {
            return super::conformance::run(reader.as_deref(), global);
        }
    }
    Ok(Status::SUCCESS)
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

fn formats(spec: &Spec, global: &Global) -> anyhow::Result<()> {
    let listing = convert::formats::formats(spec);
    if global.format == Format::Json {
        return output::print_json(&listing);
    }
    let mut table = output::table();
    table.set_header(convert::formats::COLUMNS);
    for format in &listing.formats {
        table.add_row(format.row());
    }
    let mut text = format!("{}\n\ntold and not read:\n", table.trim_fmt());
    for told in &listing.told {
        let _ = writeln!(text, "  {}: {}", told.what, told.advice);
    }
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

fn check(dir: &Path, global: &Global) -> anyhow::Result<Status> {
    let problems = match Spec::from_dir(dir) {
        Ok(spec) => crate::author::check::check(&spec),
        // A file that does not keep its form is what `check` is for; a folder that is not there
        // is not.
        Err(err) if err.kind() == crate::base::error::ErrorKind::Io => return Err(err.into()),
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
    Ok(if problems.is_empty() { Status::SUCCESS } else { Status::from(1) })
}

fn find<'a>(spec: &'a Spec, format: &str, name: &str) -> anyhow::Result<&'a Map> {
    crate::author::names::find(spec, format, name).map_err(anyhow::Error::msg)
}

fn read_json(path: &Path) -> anyhow::Result<serde_json::Value> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON", path.display()))
}

fn names(name: &str, path: Option<&Path>, format: &str, global: &Global) -> anyhow::Result<()> {
    let spec = output::spec(global)?;
    let map = find(spec, format, name)?;
    let mut names = NameMap::of(map);
    if let Some(path) = path {
        let given = if path.extension().is_some_and(|end| end == "json") {
            names.with_names(spec, map, &read_json(path)?, None)
        } else {
            let mut opened = folder::open_as(path, &spec.how())?;
            let config = opened.json("config.json")?;
            let config =
                config.with_context(|| format!("{} has no config.json", path.display()))?;
            let present =
                opened.checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
            names.with_names(spec, map, &config, Some(&present))
        };
        names = match given {
            Ok(names) => names,
            Err(findings) => return output::refuse_input(path, &findings, global).map(drop),
        };
    }
    match global.format {
        Format::Json => output::print_json(&names),
        Format::Text => output::print(&names.to_text()),
    }
}

fn sample(
    name: &str,
    out: &Path,
    format: &str,
    config: Option<&Path>,
    variant: &str,
    global: &Global,
) -> anyhow::Result<Status> {
    let spec = output::spec(global)?;
    let map = find(spec, format, name)?;
    let config = config.map(read_json).transpose()?;
    let samples = crate::author::sample::samples(spec, map, config.as_ref())?;
    let chosen: Vec<usize> = match variant {
        "all" => (0..samples.len()).collect(),
        n => vec![n.parse().with_context(|| format!("{n:?} is no number, and not `all`"))?],
    };
    let several = variant == "all";
    // Of several, all appear or none.
    let staging = if several { Some(Staging::new(out, Existing::Keep)?) } else { None };
    for n in chosen {
        let sample = samples
            .get(n)
            .with_context(|| format!("there are {} samples, counted from 0", samples.len()))?;
        let folder = match &staging {
            Some(staging) => staging.path().join(n.to_string()),
            None => out.to_owned(),
        };
        let report = match crate::author::sample::write(spec, map, sample, &folder) {
            Ok(report) => report,
            Err(Failure::Error(err)) => return Err(err.into()),
            Err(Failure::Findings(findings)) => return output::refuse(&findings, global),
        };
        let n_tensors = report.tensors.len();
        let text =
            format!("sample {n} of {}: {}, {n_tensors} tensors", samples.len(), sample.label);
        output::hint(&text, global);
    }
    if let Some(staging) = staging {
        staging.commit()?;
    }
    output::hint(&format!("wrote {}", out.display()), global);
    Ok(Status::SUCCESS)
}

fn new_arch(
    checkpoint: &Path,
    name: &str,
    from: Option<&str>,
    out: &Path,
    format: &str,
    global: &Global,
) -> anyhow::Result<Status> {
    let spec = output::spec(global)?;
    let mut opened = folder::open_as(checkpoint, &spec.how())?;
    let config = opened.json("config.json")?;
    let config = config.with_context(|| format!("{} has no config.json", checkpoint.display()))?;
    let draft = crate::author::draft::draft(spec, format, name, from, &opened.checkpoint, &config)?;
    let mut files = spec.files().clone();
    let drafted = draft.files.iter();
    files.extend(drafted.map(|(path, text)| (path.clone(), text.clone().into())));
    write_files(&files, out)?;
    match global.format {
        Format::Json => output::print_json(&draft)?,
        Format::Text => output::print(&draft.to_text())?,
    }
    let (dir, checkpoint) = (out.display(), checkpoint.display());
    output::hint(
        &format!(
            "wrote {dir}: arch/{name}.toml, map/{format}/{name}.toml\ntry: llmstd --spec {dir} convert {checkpoint} OUT --verify"
        ),
        global,
    );
    Ok(if draft.findings.is_empty() { Status::SUCCESS } else { Status::from(1) })
}

fn tensors(
    arch: &str,
    config: Option<&Path>,
    format: &str,
    global: &Global,
) -> anyhow::Result<Status> {
    let spec = output::spec(global)?;
    let listed = match config {
        None => TensorList::of_arch(spec, arch).map_err(|finding| vec![finding]),
        Some(path) => TensorList::of_config(spec, arch, format, &read_json(path)?),
    };
    match (listed, global.format) {
        (Err(findings), _) => return output::refuse(&findings, global),
        (Ok(listed), Format::Json) => output::print_json(&listed)?,
        (Ok(listed), Format::Text) => output::print(&listed.to_text())?,
    }
    Ok(Status::SUCCESS)
}

fn export(spec: &Spec, dir: &Path, global: &Global) -> anyhow::Result<()> {
    write_files(spec.files(), dir)?;
    output::hint(&format!("wrote {} files to {}", spec.files().len(), dir.display()), global);
    Ok(())
}

fn write_files(files: &Files, dir: &Path) -> anyhow::Result<()> {
    let staging = Staging::new(dir, Existing::Keep)?;
    for (name, text) in files {
        let path = staging.path().join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("cannot create {}", parent.display()))?;
        }
        std::fs::write(&path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    staging.commit()?;
    Ok(())
}
