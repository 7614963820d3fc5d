//! `llmstd interface`.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::convert::Failure;
use crate::interface::{self, Dim, Interface, LOWERINGS, Lowering, PortInterface, TaskInterface};
use anyhow::{Context as _, bail};

use super::input::Input;
use super::{Format, Global, Status, output, report};

/// Say what a model can be asked: its inputs, outputs, labels and parameters, in anybody's form
///
/// A package has its tasks in model.json; any other checkpoint that opens is put in the standard's
/// terms first. What a form has no word for is told on stderr.
#[derive(clap::Args)]
#[command(after_help = "\
Formats:
  text, json   all of it
  oip          metadata of the Open Inference Protocol (KServe v2), of one task
  triton       config.pbtxt of Triton, of one task; -o also writes labels.txt
  tf-serving   a SignatureDefMap with all tasks; -o also writes models.config
  mlflow       MLmodel with its signature, of one task
  openapi      OpenAPI 3.1 of the Open Inference Protocol, all tasks

Examples:
  llmstd interface ./bert-ner
  llmstd interface ./bert-ner --format triton -o model_repository
  llmstd interface ./bert-ner --format oip --name ner

Exit status:
  0  it was said
  2  it could not be")]
pub(crate) struct Args {
    /// A package, or any checkpoint that can be converted
    path: PathBuf,
    /// The task, where a form has one; the first of the model unless it is said
    #[arg(long, value_name = "ID")]
    task: Option<String>,
    /// The name it is served under; that of the folder unless it is said
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Option<String>,
    /// Write the files of every task below that folder, as a server reads them
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long, requires = "output")]
    force: bool,
    /// The architecture, where the config does not say it
    #[arg(long, value_name = "ID")]
    arch: Option<String>,
}

/// A name that is a part of a path, too.
fn name(text: &str) -> Result<String, String> {
    match interface::is_name(text) {
        true => Ok(text.to_owned()),
        false => Err("a name has no / and no \\ and is not . or ..".to_owned()),
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Status> {
    let spec = output::spec(global)?;
    let input = Input::of(&args.path, spec)?;
    let found =
        interface::interface(input.path(), spec, args.arch.as_deref(), args.name.as_deref());
    let found = match found {
        Ok(found) => found,
        Err(Failure::Error(err)) => return Err(err.into()),
        Err(Failure::Findings(findings)) => {
            return output::refuse_input(&args.path, &findings, global);
        }
    };
    let found = match &args.task {
        Some(id) => chosen(found, id)?,
        None => found,
    };
    match LOWERINGS.iter().find(|lowering| lowering.id == global.form) {
        Some(lowering) => lower(lowering, &found, args, global)?,
        None => {
            let text = match global.format {
                Format::Json => format!("{}\n", serde_json::to_string_pretty(&found)?),
                Format::Text => text(&found),
            };
            match (&args.output, global.format) {
                (Some(folder), _) => {
                    let end = if global.format == Format::Json { "json" } else { "txt" };
                    let file = (folder.join(format!("interface.{end}")), text);
                    write(&[file], args.force, global)?;
                }
                (None, Format::Json) => output::print_data(&text)?,
                (None, Format::Text) => output::print(&text)?,
            }
        }
    }
    Ok(Status::SUCCESS)
}

/// The interface with one task.
fn chosen(mut found: Interface, id: &str) -> anyhow::Result<Interface> {
    if !found.tasks.iter().any(|task| task.id == id) {
        let known: Vec<&str> = found.tasks.iter().map(|task| task.id.as_str()).collect();
        anyhow::bail!("the model has no task {id:?}; it has: {}", known.join(", "));
    }
    found.tasks.retain(|task| task.id == id);
    Ok(found)
}

fn lower(
    lowering: &Lowering,
    found: &Interface,
    args: &Args,
    global: &Global,
) -> anyhow::Result<()> {
    let first = found.tasks.first().context("the model serves no task")?;
    let tasks = match (&args.output, lowering.one_task) {
        (Some(_), true) => found.tasks.as_slice(),
        _ => std::slice::from_ref(first),
    };
    let mut lost: Vec<String> = Vec::new();
    for task in if lowering.one_task { tasks } else { found.tasks.as_slice() } {
        for what in (lowering.lost)(task) {
            if !lost.contains(&what) {
                lost.push(what);
            }
        }
    }
    let mut written: Vec<(PathBuf, String)> = Vec::new();
    for task in tasks {
        let files = (lowering.files)(found, task)?;
        match &args.output {
            Some(folder) => {
                written.extend(files.into_iter().map(|file| (folder.join(file.path), file.text)));
            }
            None => {
                let Some((main, more)) = files.split_first() else { continue };
                output::print_data(&main.text)?;
                for file in more {
                    output::hint(&format!("note: -o DIR also writes {}", file.path), global);
                }
            }
        }
    }
    write(&written, args.force, global)?;
    if args.output.is_none() && lowering.one_task && 1 < found.tasks.len() {
        let others = found.tasks.iter().skip(1).map(|task| task.id.as_str());
        let others = others.collect::<Vec<_>>().join(", ");
        output::hint(
            &format!("note: this is {}; --task chooses another: {others}", first.id),
            global,
        );
    }
    for what in lost {
        output::hint(&format!("note: not said by {}: {what}", lowering.id), global);
    }
    Ok(())
}

/// Writes files, all or none as far as names that are taken go.
fn write(files: &[(PathBuf, String)], force: bool, global: &Global) -> anyhow::Result<()> {
    for (path, _) in files {
        match path.symlink_metadata() {
            Ok(there) if force && there.is_file() => {}
            Ok(_) if force => {
                bail!("{}: is no file; --force replaces files only", path.display())
            }
            Ok(_) => bail!("{}: already exists; --force replaces it", path.display()),
            Err(_) => {}
        }
    }
    for (path, text) in files {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        report::put(path, text)?;
        output::hint(&format!("wrote {}", path.display()), global);
    }
    Ok(())
}

fn text(found: &Interface) -> String {
    let mut text = format!("{}\n", found.name);
    if let Some(architecture) = &found.architecture {
        let _ = writeln!(text, "architecture  {architecture}");
    }
    for task in &found.tasks {
        task_text(task, &mut text);
    }
    text
}

fn task_text(task: &TaskInterface, text: &mut String) {
    let _ = writeln!(text, "\n{}: {}", task.id, task.about);
    let mut table = output::table();
    let port = |port: &PortInterface, way: &str| {
        let dims: Vec<String> = port.dims.iter().map(dim).collect();
        let optional = if port.optional { "optional" } else { "" };
        let shape = format!("{} [{}]", port.dtype, dims.join(", "));
        [way.to_owned(), port.name.clone(), shape, optional.to_owned()]
    };
    for input in &task.inputs {
        table.add_row(port(input, "  in"));
    }
    for output in &task.outputs {
        table.add_row(port(output, "  out"));
    }
    for known in &task.parameters {
        let list = if known.list { "[]" } else { "" };
        let default = known.default.as_ref().map(|value| format!("= {value}"));
        table.add_row([
            "  parameter".to_owned(),
            known.name.clone(),
            format!("{}{list} {}", known.dtype, known.words.join("|")).trim_end().to_owned(),
            default.unwrap_or_default(),
        ]);
    }
    let lines = table.to_string();
    let lines = lines.lines().map(|line| line.trim_end().to_owned() + "\n");
    text.extend(lines);
    if let Some(labels) = &task.labels {
        let _ = writeln!(text, "   labels     {}", labels.join(", "));
    }
    for (name, value) in [("problem", &task.problem), ("pool", &task.pool)] {
        if let Some(value) = value {
            let _ = writeln!(text, "   {name:<10} {value}");
        }
    }
    if let Some(normalize) = task.normalize {
        let _ = writeln!(text, "   {:<10} {normalize}", "normalize");
    }
}

/// `batch`, `sequence<=20`, `vocab_size=99`.
fn dim(dim: &Dim) -> String {
    match (dim.size, dim.max) {
        (Some(size), _) => format!("{}={size}", dim.name),
        (None, Some(max)) => format!("{}<={max}", dim.name),
        (None, None) => dim.name.clone(),
    }
}
