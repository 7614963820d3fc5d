//! `llmstd inspect`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::folder::How;
use crate::inspect::{
    InspectedRun, InspectedTensor, InspectedValue, Inspection, inspect_as, is_of_run,
};
use crate::report::fold::fold;

use super::input::Input;
use super::{Format, Global, Status, output};

/// Show what a checkpoint is: format, architecture, dtypes, tensors; headers only
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  llmstd inspect ./bert-base
  llmstd inspect pytorch_model.bin --tree
  llmstd inspect model.safetensors --format json

Exit status:
  0  it was read
  2  it could not be read")]
pub(crate) struct Args {
    /// A folder, a weight file, or a shard index
    path: PathBuf,
    /// The format that is read, where a folder has several
    #[arg(long, value_name = "FORMAT", value_parser = output::formats())]
    from: Option<String>,
    /// The folder with config.json, where it is not beside the weights
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// Which of the steps that a trainer left: the name of its folder, or its number; the last one if
    /// nothing is said
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// Print every tensor; without it, those that differ in numbers alone are one row
    #[arg(long)]
    tensors: bool,
    /// Print the tensors as a tree by the parts of their names
    #[arg(long, conflicts_with = "tensors")]
    tree: bool,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Status> {
    let spec = output::spec(global)?;
    let how = How {
        format: output::wanted(args.from.as_deref()),
        config: args.config.as_deref(),
        step: args.step.as_deref(),
        ..spec.how()
    };
    let inspection = inspect_as(Input::of(&args.path, spec)?.path(), &how, spec)?;
    match global.format {
        Format::Json => output::print_json(&inspection)?,
        Format::Text => output::print(&text(&inspection, args, global))?,
    }
    Ok(Status::SUCCESS)
}

fn text(inspection: &Inspection, args: &Args, global: &Global) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", inspection.path);
    let _ = writeln!(text, "format        {}", inspection.format);
    if let Some(architecture) = &inspection.architecture {
        let _ = writeln!(text, "architecture  {architecture}");
    }
    if let Some(run) = &inspection.run {
        text.push_str(&run_text(run));
    }
    let parameters = inspection.parameters;
    let _ = writeln!(
        text,
        "tensors       {}, {parameters} parameters, {}{}",
        inspection.tensors.len(),
        output::size(inspection.tensor_bytes),
        bits_text(inspection)
    );
    let census = inspection.dtypes.iter().map(|(dtype, count)| format!("{dtype} {count}"));
    let _ = writeln!(text, "dtypes        {}", census.collect::<Vec<_>>().join(", "));
    text.push_str(&files_text(inspection));
    text.push('\n');
    if args.tree {
        let mut root = Node::default();
        for tensor in &inspection.tensors {
            root.insert(&tensor.name, &format!("{} {:?}", tensor.dtype, tensor.shape));
        }
        root.print("", &mut text);
    } else {
        text.push_str(&tensor_table(inspection, args.tensors));
    }
    text.push('\n');
    for (key, value) in inspection.metadata.iter().filter(|(key, _)| !is_of_run(key)) {
        let _ = writeln!(text, "metadata      {key} = {value}");
    }
    for entry in &inspection.typed_metadata {
        let _ = writeln!(text, "metadata      {} = {}", entry.key, value_text(entry));
    }
    for (key, value) in &inspection.config {
        let _ = writeln!(text, "config        {key} = {value}");
    }
    text.push_str(&output::findings(&inspection.findings, global));
    text
}

/// The run on a line, and what says which model it left.
fn run_text(run: &InspectedRun) -> String {
    let mut parts = vec![run.trainer.clone()];
    parts.extend(run.step.as_ref().map(|step| format!("step {step}")));
    let cut = run.parallel.iter().map(|(kind, n)| format!("{kind} {n}"));
    let cut = cut.collect::<Vec<_>>().join(", ");
    let cut = if cut.is_empty() { cut } else { format!(" ({cut})") };
    let count = |n: &String| if n == "1" { "rank" } else { "ranks" };
    parts.extend(run.ranks.as_ref().map(|n| format!("{n} {}{cut}", count(n))));
    let config = match &run.config {
        Some(config) => format!("`{config}` says which model it is"),
        None => {
            "nothing says which model it is: name the folder of its config with --config".into()
        }
    };
    format!("run           {}\nrun config    {config}\n", parts.join(", "))
}

/// The weight files on a line.
fn files_text(inspection: &Inspection) -> String {
    match inspection.files.as_slice() {
        [] => String::new(),
        [file] => format!("file          {} {}\n", file.name, output::size(file.len)),
        [first, .., last] => {
            let bytes = inspection.files.iter().map(|file| file.len).sum();
            let (n, size) = (inspection.files.len(), output::size(bytes));
            format!("files         {n}, {} to {}, {size}\n", first.name, last.name)
        }
    }
}

/// The tensors as a table: all of them, or those that differ in numbers alone as one row.
fn tensor_table(inspection: &Inspection, all: bool) -> String {
    let row = |tensor: &InspectedTensor| {
        let bits = tensor.bits_per_value.map(|bits| format!(" ({bits:.4} bits)"));
        vec![
            tensor.name.clone(),
            format!("{}{}", tensor.dtype, bits.unwrap_or_default()),
            format!("{:?}", tensor.shape),
            tensor.len.map_or_else(String::new, |len| len.to_string()),
            tensor.note.clone().unwrap_or_default(),
        ]
    };
    let rows = inspection.tensors.iter().map(row);
    let mut table = output::table();
    if all {
        table.set_header(["tensor", "dtype", "shape", "bytes", "note"]);
        table.add_rows(rows);
    } else {
        table.set_header(["tensor", "", "dtype", "shape", "bytes", "note"]);
        for folded in fold(rows) {
            let mut cells = folded.cells;
            let times = if folded.rows == 1 { String::new() } else { format!("×{}", folded.rows) };
            cells.insert(1, times);
            table.add_row(cells);
        }
    }
    format!("{}\n", table.trim_fmt())
}

/// The bits that a value takes over all, if some are quantized.
fn bits_text(inspection: &Inspection) -> String {
    let is_quantized = inspection.tensors.iter().any(|tensor| tensor.encoding.is_some());
    if !is_quantized || inspection.parameters == 0 {
        return String::new();
    }
    let bits = inspection.tensor_bytes as f64 * 8.0 / inspection.parameters as f64;
    format!(", {bits:.2} bits per parameter")
}

/// The longest value on a line of text.
const MAX_VALUE_CHARS: usize = 200;

fn value_text(entry: &InspectedValue) -> String {
    let full = entry.value.to_string();
    let mut text: String = full.chars().take(MAX_VALUE_CHARS).collect();
    if text.len() < full.len() {
        text.push('…');
    }
    let shown = entry.value.as_array().map_or(0, Vec::len) as u64;
    let of = entry.len.filter(|&len| shown < len).map(|len| format!(" … of {len}"));
    format!("{text}{} ({})", of.unwrap_or_default(), entry.kind)
}

#[derive(Default)]
struct Node {
    children: BTreeMap<(u64, String), Node>,
    leaf: Option<String>,
}

impl Node {
    fn insert(&mut self, name: &str, leaf: &str) {
        let (first, rest) = match name.split_once('.') {
            Some((first, rest)) => (first, Some(rest)),
            None => (name, None),
        };
        // Numbers sort as numbers.
        let key = (first.parse().unwrap_or(u64::MAX), first.to_owned());
        let child = self.children.entry(key).or_default();
        match rest {
            Some(rest) => child.insert(rest, leaf),
            None => child.leaf = Some(leaf.to_owned()),
        }
    }

    fn print(&self, indent: &str, text: &mut String) {
        for ((_, name), child) in &self.children {
            let leaf = child.leaf.as_deref().map(|leaf| format!("  {leaf}")).unwrap_or_default();
            let _ = writeln!(text, "{indent}{name}{leaf}");
            child.print(&format!("{indent}  "), text);
        }
    }
}
