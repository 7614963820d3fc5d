//! `llmstd convert`.

use std::fmt::Write as _;

use crate::convert::target::Ranks;
use crate::convert::units::{Part, Unit, Units};
use crate::convert::{self, Failure, ReadRange, Report, Request, TensorReport, Verified};
use crate::folder::{self, How, Links};
use crate::format;
use crate::package::WayBack;
use crate::plan::{self, Decode};
use crate::report::fold::fold;
use anyhow::Context as _;

pub(crate) mod args;

use self::args::Args;
use super::input::Input;
use super::progress::Bar;
use super::{Format, Global, Status, output, units};

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Status> {
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
) -> anyhow::Result<Status> {
    let n_threads = output::n_threads(args.threads);
    let spec = output::spec_of(spec)?;
    let (src, dst) = args.src.as_deref().zip(args.dst.as_deref()).context("name SRC and DST")?;
    let destination = convert::strip_slash(dst);
    let to = convert::target(&destination, args.to.as_deref()).map_err(anyhow::Error::msg)?;
    let wanted = args.from.as_deref().and_then(format::find);
    let links = if args.no_follow { Links::Refuse } else { Links::Follow };
    let how = How {
        format: wanted,
        links,
        config: args.config.as_deref(),
        step: args.step.as_deref(),
        ..spec.how()
    };
    let input = Input::of(src, spec)?;
    let opened = folder::open_as(input.path(), &how)?;
    if let Some(from) = &args.from {
        let is = opened.checkpoint.format;
        anyhow::ensure!(
            from == is
                || (from == "std" && opened.is_package)
                || (from == "hf" && !opened.is_package),
            "{}: is read as {is}, not as {from}",
            input.label()
        );
    }
    let bar = Bar::new(global);
    let request = Request {
        spec,
        destination: &destination,
        to,
        arch: args.arch.as_deref(),
        generic: args.generic,
        plan: plan::Options {
            dtype: args.dtype,
            lossy: args.lossy,
            decode: if args.decode { Decode::All } else { Decode::Nothing },
            quantize: args.quant,
            ..plan::Options::default()
        },
        ranks: Ranks { tensor: args.tp, pipeline: args.pp, expert: args.ep },
        max_shard_bytes: args.max_shard_size.or_else(|| convert::max_shard_bytes(to, &destination)),
        n_threads,
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
    report.source = input.label().to_owned();
    if let Some(planned) = report.units.as_mut().filter(|_| args.dry_run) {
        planned.arguments = units::arguments(global);
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
    Ok(Status::SUCCESS)
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
    if !verified.padded.is_empty() {
        let n = verified.padded.len();
        let _ = write!(text, " ({n} without rows of padding, which nothing reads)");
    }
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
            tensor.name.to_string(),
            tensor.encoding.as_deref().unwrap_or(tensor.dtype).to_owned(),
            format!("{:?}", tensor.shape),
            tensor.step.ops.to_string(),
            format!("{:?}", tensor.step.class),
            tensor.step.from.join(" "),
        ]
    };
    let mut table = output::table();
    if all {
        table.set_header(["tensor", "dtype", "shape", "ops", "class", "from", "bytes"]);
        for tensor in report.tensors.iter() {
            let range = |range: &ReadRange| {
                format!("{}:{}..{}", range.file, range.bytes[0], range.bytes[1])
            };
            let bytes: Vec<String> = tensor.read.iter().map(range).collect();
            table.add_row(row(&tensor).into_iter().chain([bytes.join(" ")]));
        }
    } else {
        table.set_header(["tensor", "", "dtype", "shape", "ops", "class", "from"]);
        for folded in fold(report.tensors.iter().map(|tensor| row(&tensor))) {
            let mut cells = folded.cells;
            let times = if folded.rows == 1 { String::new() } else { format!("×{}", folded.rows) };
            cells.insert(1, times);
            table.add_row(cells);
        }
    }
    format!("{}\n", table.trim_fmt())
}
