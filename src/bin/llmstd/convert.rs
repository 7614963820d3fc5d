//! `llmstd convert`.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use llmstd::checkpoint::DType;
use llmstd::convert::target::{self, Ranks, TARGETS};
use llmstd::convert::units::{Part, Unit, Units};
use llmstd::convert::{self, Failure, ReadRange, Report, Request, TensorReport, Verified};
use llmstd::encoding::BlockType;
use llmstd::folder::{self, How, Links};
use llmstd::format;
use llmstd::package::WayBack;
use llmstd::plan::{self, Decode};
use llmstd::report::fold::fold;

use crate::progress::Bar;
use crate::{Format, Global, output, units};

/// The most bytes of tensors in one file of a folder, where nothing else is asked for.
const MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// Convert a checkpoint into the standard, or out of it
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  llmstd convert ./bert-base ./bert-base.std            from Hugging Face to the standard
  llmstd convert ./bert-base.std ./back --to hf         and back, every tensor bit for bit
  llmstd convert ./llama ./llama.gguf --quant q8_0      for llama.cpp, quantized
  llmstd convert model.ckpt model.safetensors           names and bytes as they are, one file
  llmstd convert ./bert-ner ./bert-ner.tf --to tf       a TensorFlow checkpoint, under Google's names
  llmstd convert ./t5.std ./t5.flax --to flax           for transformers' Flax classes
  llmstd convert ./bert-ner weights.npz                 for numpy.load: the names of the source
  llmstd convert ./old ./new --to safetensors           a folder of .bin files, as safetensors
  llmstd convert model.bin ./out --dry-run              print the plan, write nothing
  llmstd convert ./run ./model --to hf --step 400       what ranks left, merged
  llmstd convert ./odd.ckpt ./odd.std --generic         an architecture that is not known
  llmstd convert ./big ./big.std --resume               goes on where a killed run has ended

On many machines that share a file system, byte for byte what one run makes:
  llmstd convert ./big ./big.std --dry-run --format json > plan.json
  llmstd convert --plan plan.json --unit 3/64           each of them, in any order, again if killed
  llmstd convert --plan plan.json --finish

Exit status:
  0  converted
  2  it could not be done; nothing is left under the destination's name")]
pub(crate) struct Args {
    /// A folder, a weight file, or a shard index
    #[arg(required_unless_present = "plan")]
    src: Option<PathBuf>,
    /// The folder to write, or the .gguf, .safetensors, .msgpack or .npz file; it must not exist
    #[arg(required_unless_present = "plan")]
    dst: Option<PathBuf>,
    /// The format to write; where nothing is said, that of the destination's ending, or std
    #[arg(long, value_name = "FORMAT", value_parser = targets())]
    to: Option<String>,
    /// The format that is read, where a folder has several
    #[arg(long, value_name = "FORMAT", value_parser = sources())]
    from: Option<String>,
    /// The architecture, where the config does not say it
    #[arg(long, value_name = "ID")]
    arch: Option<String>,
    /// The folder with config.json and the tokenizer, where they are not beside the weights
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// Which of the steps that a trainer left: the name of its folder, or its number; the last one if
    /// nothing is said
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// Cast float tensors: f16, bf16, f32, f64
    #[arg(long, value_parser = convert::parse_dtype)]
    dtype: Option<DType>,
    /// Allow a cast that loses information; what changes is counted
    #[arg(long)]
    lossy: bool,
    /// Write the numbers that blocks stand for: F32, or what --dtype says
    #[arg(long)]
    decode: bool,
    /// Pack the matrices of a GGUF file in blocks: q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k, mxfp4
    #[arg(long, value_name = "TYPE", value_parser = convert::parse_quant)]
    quant: Option<&'static BlockType>,
    /// The most bytes of tensors in one file: 5GB if nothing is said, and no limit for a .gguf file
    #[arg(long, value_name = "SIZE", value_parser = convert::parse_size)]
    max_shard_size: Option<u64>,
    /// Cut every matrix over so many ranks, each with a file of its own: for --to megatron and meta
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=4096))]
    tp: u64,
    /// Cut the layers over so many stages of a pipeline: for --to megatron
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pp: u64,
    /// Cut the experts over so many ranks: for --to megatron
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=4096))]
    ep: u64,
    /// Write a GGUF file without the tokenizer of the source, where GGUF cannot say it
    #[arg(long)]
    allow_no_tokenizer: bool,
    /// Keep names and bytes as they are, without an architecture
    #[arg(long)]
    generic: bool,
    /// Print the plan and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Read back what was written, and compare every tensor with the source
    #[arg(long)]
    verify: bool,
    /// Compute the outputs of source and result for the same inputs, and compare them. Both are read
    /// by this program: a key that it reads wrongly on both sides is not seen
    #[arg(long, conflicts_with_all = ["generic", "dry_run"])]
    check_outputs: bool,
    /// Replace the destination, if llmstd wrote it and nothing else is in it
    #[arg(long)]
    force: bool,
    /// Take every warning for an error, and write nothing then
    #[arg(long)]
    strict: bool,
    /// Refuse links that lead out of the source
    #[arg(long)]
    no_follow: bool,
    /// How many threads work; the bytes written do not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Keep each file of tensors as it becomes whole, and go on where a run that was killed has ended
    #[arg(long, conflicts_with = "dry_run")]
    resume: bool,
    /// Carry out a plan that --dry-run --format json has printed: all of it, or what --unit or
    /// --finish says
    #[arg(long, value_name = "FILE", conflicts_with_all = ["src", "dst", "dry_run", "resume"])]
    pub(crate) plan: Option<PathBuf>,
    /// Of a plan, make the share of unit K of N and nothing else; auto/N takes K from
    /// SLURM_ARRAY_TASK_ID (from 1 on) or JOB_COMPLETION_INDEX (from 0 on)
    #[arg(long, value_name = "K/N", requires = "plan")]
    unit: Option<String>,
    /// Of a plan, join what the units have made
    #[arg(long, requires = "plan", conflicts_with = "unit")]
    finish: bool,
}

/// The formats to write.
fn targets() -> PossibleValuesParser {
    let ids = TARGETS.iter().map(|target| target.id);
    PossibleValuesParser::new([convert::STD].into_iter().chain(ids))
}

/// What `--from` takes: a package, a folder of Hugging Face, or a format of files.
fn sources() -> PossibleValuesParser {
    let ids = format::FORMATS.iter().map(|format| format.id);
    PossibleValuesParser::new(["std", "hf"].into_iter().chain(ids))
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let Some(path) = &args.plan else {
        let units = args.resume.then_some(Units { part: Part::All, digest: None });
        return perform(args, units, global.spec.as_deref(), global);
    };
    let mut planned = units::read(path)?;
    let part = match &args.unit {
        Some(word) => Part::Share(units::unit(word, |name| std::env::var(name).ok())?),
        None if args.finish => Part::Finish,
        None => Part::All,
    };
    let own = &mut planned.args;
    own.dry_run = false;
    own.threads = args.threads.or(own.threads);
    own.verify |= args.verify;
    own.force |= args.force;
    let units = Units { part, digest: Some(&planned.digest) };
    let spec = global.spec.as_deref().or(planned.spec.as_deref());
    perform(&planned.args, Some(units), spec, global)
}

fn perform(
    args: &Args,
    units: Option<Units<'_>>,
    spec: Option<&str>,
    global: &Global,
) -> anyhow::Result<ExitCode> {
    let spec = output::spec_of(spec)?;
    let (src, dst) = args.src.as_deref().zip(args.dst.as_deref()).context("name SRC and DST")?;
    let destination = convert::strip_slash(dst);
    let to = convert::target(&destination, args.to.as_deref()).map_err(anyhow::Error::msg)?;
    let wanted = args.from.as_deref().and_then(format::find);
    let links = if args.no_follow { Links::Refuse } else { Links::Follow };
    let how =
        How { format: wanted, links, config: args.config.as_deref(), step: args.step.as_deref() };
    let opened = folder::open_as(src, &how)?;
    if let Some(from) = &args.from {
        let is = opened.checkpoint.format;
        anyhow::ensure!(
            from == is
                || (from == "std" && opened.is_package)
                || (from == "hf" && !opened.is_package),
            "{}: is read as {is}, not as {from}",
            src.display()
        );
    }
    let bar = Bar::new(global);
    let request = Request {
        spec: &spec,
        destination: &destination,
        to,
        arch: args.arch.as_deref(),
        generic: args.generic,
        plan: plan::Options {
            dtype: args.dtype,
            lossy: args.lossy,
            decode: if args.decode { Decode::All } else { Decode::Nothing },
            part_names: plan::PartNames::Standard,
            quantize: args.quant,
        },
        ranks: Ranks { tensor: args.tp, pipeline: args.pp, expert: args.ep },
        max_shard_bytes: args.max_shard_size.or_else(|| {
            let target = target::find(to);
            let is_whole = target.is_some_and(|of| !of.is_split || of.is_file(&destination));
            (!is_whole).then_some(MAX_SHARD_BYTES)
        }),
        n_threads: output::n_threads(args.threads),
        force: args.force,
        verify: args.verify,
        allow_no_tokenizer: args.allow_no_tokenizer,
        check_outputs: args.check_outputs,
        dry_run: args.dry_run,
        strict: args.strict,
        units,
        cancel: global.interrupt.flag(),
        progress: &bar,
    };
    let mut report = match convert::convert(opened, &request) {
        Ok(report) => report,
        Err(Failure::Error(err)) => return Err(err.into()),
        Err(Failure::Findings(findings)) => return output::refuse(&findings, global),
    };
    report.source = src.display().to_string();
    if let Some(planned) = report.units.as_mut().filter(|_| args.dry_run) {
        planned.arguments = units::arguments();
    }
    match global.format {
        Format::Json => output::print_json(&report)?,
        Format::Text => {
            output::warn(&report.findings, global);
            let share = units.and_then(|units| match units.part {
                Part::Share(unit) => Some(share_text(unit, &report)),
                Part::Finish | Part::All => None,
            });
            output::print(&share.unwrap_or_else(|| text(&report, global)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a unit did.
fn share_text(unit: Unit, report: &Report) -> String {
    let (made, kept) = match &report.units {
        Some(units) => (units.made.as_slice(), units.kept.len()),
        None => (&[][..], 0),
    };
    let kept = if kept == 0 { String::new() } else { format!(", {kept} were there already") };
    let names = if made.is_empty() { String::new() } else { format!(": {}", made.join(", ")) };
    let shards = if made.len() == 1 { "shard" } else { "shards" };
    format!("unit {}/{} made {} {shards}{kept}{names}\n", unit.number, unit.count, made.len())
}

fn text(report: &Report, global: &Global) -> String {
    let mut text = String::new();
    if report.dry_run || global.verbose {
        text.push_str(&plan_table(report, global.verbose));
        for dropped in &report.dropped {
            let back = match dropped.back {
                WayBack::Made => "comes back from its recipe",
                WayBack::Kept => "its bytes are kept beside the package",
                WayBack::Lost => "does not come back",
            };
            let _ = writeln!(text, "drop {}: {}; {back}", dropped.name, dropped.why);
        }
        for [copy, of] in &report.copies {
            let _ = writeln!(text, "copy {copy} of {of}");
        }
        for name in &report.carried {
            let _ = writeln!(text, "carry {name}");
        }
    }
    if let Some(loss) = &report.loss {
        let _ = writeln!(
            text,
            "of {} elements computed, {} do not come back; {} infinities and {} NaNs were created",
            loss.elements, loss.changed, loss.infinities, loss.nans
        );
    }
    let what = match &report.architecture {
        Some(architecture) => architecture,
        None => "names and bytes as they are",
    };
    let level = report.conformance.map(|level| format!(", conformance {}", level.name()));
    let verb = if report.dry_run { "would write" } else { "wrote" };
    let _ = writeln!(
        text,
        "{verb} {}: {what}, {} tensors, {}{}",
        report.destination,
        report.tensors.len(),
        output::size(report.tensor_bytes),
        level.unwrap_or_default()
    );
    if report.dry_run {
        let free = report.free_disk.map(|free| {
            let short = if free < report.needed_disk() { ", which is not enough" } else { "" };
            format!(" of {} free{short}", output::size(free))
        });
        let _ = writeln!(
            text,
            "needs {} of disk{}, and {} of memory for tensors",
            output::size(report.tensor_bytes),
            free.unwrap_or_default(),
            output::size(report.peak_memory)
        );
    }
    if let Some(verified) = &report.verified {
        text.push_str(&proof(verified));
    }
    for output in report.outputs.iter().flatten() {
        let _ = writeln!(
            text,
            "{}: source and result differ by at most {:e}, the greatest number is {}",
            output.name, output.max_abs, output.scale
        );
    }
    if report.outputs.is_some() {
        text.push_str(
            "  both sides were read and computed by this program: a key that it reads wrongly on \
             both is not seen\n",
        );
    }
    text
}

/// What `--verify` proved, in words that claim no more.
fn proof(verified: &Verified) -> String {
    let mut text =
        format!("verified: read back and compared with the source: {} equal", verified.equal);
    if verified.changed != 0 {
        let by: Vec<&str> = verified.changed_by.keys().map(String::as_str).collect();
        let _ = write!(text, ", {} changed on purpose ({})", verified.changed, by.join(", "));
        if let Some(difference) = verified.max_difference {
            let _ = write!(text, ", by at most {difference:.3e}");
        }
    }
    if !verified.left_out.is_empty() {
        let _ = write!(text, ", {} left out, as is told above", verified.left_out.len());
    }
    text.push('\n');
    if !verified.hyperparameters.is_empty() {
        let keys = verified.hyperparameters.join(", ");
        let _ =
            writeln!(text, "  hyperparameters that the format does not keep as they are: {keys}");
    }
    text
}

/// How each tensor is made: those that differ in numbers alone as one row, or, with `all`, each with
/// the bytes that it is read from.
fn plan_table(report: &Report, all: bool) -> String {
    let row = |tensor: &TensorReport| {
        vec![
            tensor.step.name.clone(),
            tensor.encoding.as_ref().unwrap_or(&tensor.dtype).clone(),
            format!("{:?}", tensor.shape),
            tensor.step.ops.clone(),
            format!("{:?}", tensor.step.class),
            tensor.step.from.join(" "),
        ]
    };
    let mut table = output::table();
    if all {
        table.set_header(["tensor", "dtype", "shape", "ops", "class", "from", "bytes"]);
        for tensor in &report.tensors {
            let range = |range: &ReadRange| {
                format!("{}:{}..{}", range.file, range.bytes[0], range.bytes[1])
            };
            let bytes: Vec<String> = tensor.read.iter().map(range).collect();
            table.add_row(row(tensor).into_iter().chain([bytes.join(" ")]));
        }
    } else {
        table.set_header(["tensor", "", "dtype", "shape", "ops", "class", "from"]);
        for folded in fold(report.tensors.iter().map(row)) {
            let mut cells = folded.cells;
            let times = if folded.rows == 1 { String::new() } else { format!("×{}", folded.rows) };
            cells.insert(1, times);
            table.add_row(cells);
        }
    }
    format!("{}\n", table.trim_fmt())
}
