//! Proves a conversion: the way back by hash, and the outputs of source and result.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::canonical::model_of;
use super::foreign::export_plan;
use super::{Failure, OutputDifference, Report, Request, Verified, foreign_format};
use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::error::Result;
use crate::base::source::Source;
use crate::checkpoint::Checkpoint;
use crate::exec::compare::{Operand, digests, first_difference};
use crate::folder::{self, Opened};
use crate::forward::{self, Inputs, Outputs, Planned};
use crate::package::Task;
use crate::plan::program::whole;
use crate::plan::{self, Exactness, Tensors};

/// Runs the way back from a package that was just written, and compares each foreign tensor with
/// the original by hash.
pub(super) fn verify(
    opened: &Opened,
    request: &Request<'_>,
    folder: &Path,
    written: &Tensors,
) -> std::result::Result<Verified, Failure> {
    let mut package = folder::open(folder)?;
    let back_request = Request { plan: plan::Options::default(), generic: false, ..*request };
    let plan = export_plan(&mut package, &back_request, foreign_format(opened))?;
    // What was changed on purpose does not come back.
    let changed: BTreeSet<&str> = written
        .steps
        .iter()
        .filter(|step| Exactness::Exact < step.class)
        .flat_map(|step| step.from.iter().map(String::as_str))
        .collect();
    let lost = |name: &str| {
        plan.findings
            .iter()
            .any(|finding| finding.rule == "P015" && finding.tensor.as_deref() == Some(name))
    };
    compare_all(opened, &package.source, &plan.tensors, request, &changed, &lost)
}

/// Reads a foreign folder that was just written, and compares each tensor with the plan it was
/// written by.
pub(super) fn verify_foreign(
    opened: &Opened,
    request: &Request<'_>,
    folder: &Path,
    tensors: &Tensors,
) -> std::result::Result<Verified, Failure> {
    let written = folder::open(folder)?;
    let whole = whole_tensors(&written.checkpoint)?;
    let theirs = digests_of(&written.source, &whole, request)?;
    let ours = digests_of(&opened.source, tensors, request)?;
    let mut verified = Verified { equal: 0, changed: 0 };
    for (name, hash) in &ours {
        if theirs.get(name) != Some(hash) {
            return Err(round_trip_error(name, "was not written as planned").into());
        }
        verified.equal += 1;
    }
    if theirs.len() != ours.len() {
        return Err(round_trip_error("", "there are more tensors than planned").into());
    }
    Ok(verified)
}

/// Compares tensors that were written under their own names with those of the source.
pub(super) fn verify_same(
    opened: &Opened,
    request: &Request<'_>,
    folder: &Path,
    tensors: &Tensors,
    is_left_out: &dyn Fn(&str) -> bool,
) -> std::result::Result<Verified, Failure> {
    let written = folder::open(folder)?;
    let whole = whole_tensors(&written.checkpoint)?;
    // Of a tensor that was decoded, all parts that it was read from are gone.
    let changed = tensors.steps.iter().filter(|step| Exactness::Exact < step.class);
    let changed: BTreeSet<&str> =
        changed.flat_map(|step| step.from.iter().chain([&step.name])).map(String::as_str).collect();
    compare_all(opened, &written.source, &whole, request, &changed, is_left_out)
}

fn whole_tensors(checkpoint: &Checkpoint) -> Result<Tensors> {
    let mut tensors = Tensors::default();
    for (index, tensor) in checkpoint.stored().enumerate() {
        let (input, output) = whole(tensor, index)?;
        tensors.inputs.push(input);
        tensors.outputs.push(output);
    }
    Ok(tensors)
}

fn digests_of(
    source: &Source,
    tensors: &Tensors,
    request: &Request<'_>,
) -> Result<BTreeMap<String, [u8; 32]>> {
    request.progress.begin("verifying", tensors.n_bytes());
    let advance = |n_bytes| request.progress.advance(n_bytes);
    let hashes = digests(source, &tensors.inputs, &tensors.outputs, request.n_threads, &advance);
    request.progress.end();
    let names = tensors.outputs.iter().map(|output| output.name.clone());
    Ok(names.zip(hashes?).collect())
}

fn compare_all(
    opened: &Opened,
    back_source: &Source,
    back: &Tensors,
    request: &Request<'_>,
    changed: &BTreeSet<&str>,
    lost: &dyn Fn(&str) -> bool,
) -> std::result::Result<Verified, Failure> {
    let originals = whole_tensors(&opened.checkpoint)?;
    let wanted = digests_of(&opened.source, &originals, request)?;
    let found = digests_of(back_source, back, request)?;
    let mut verified = Verified { equal: 0, changed: 0 };
    for (name, hash) in &wanted {
        match found.get(name) {
            Some(back) if back == hash => verified.equal += 1,
            _ if changed.contains(name.as_str()) || lost(name) => verified.changed += 1,
            Some(_) => {
                let original = originals.outputs.iter().find(|output| output.name == *name);
                let returned = back.outputs.iter().find(|output| output.name == *name);
                let place = original.zip(returned).and_then(|(original, returned)| {
                    let original = Operand {
                        source: &opened.source,
                        inputs: &originals.inputs,
                        output: original,
                    };
                    let returned =
                        Operand { source: back_source, inputs: &back.inputs, output: returned };
                    first_difference(original, returned).ok().flatten()
                });
                let place =
                    place.map(|byte| format!(" from its byte {byte} on")).unwrap_or_default();
                return Err(round_trip_error(name, &format!("comes back changed{place}")).into());
            }
            None => {
                return Err(round_trip_error(name, "does not come back").into());
            }
        }
    }
    let extra = found.keys().find(|name| !wanted.contains_key(*name));
    if let Some(extra) = extra {
        return Err(round_trip_error(extra, "comes back and was not there").into());
    }
    Ok(verified)
}

/// Outputs of source and result may be apart by rounding: by so much of the greatest number.
const OUTPUT_TOLERANCE: f32 = 1e-4;

/// Computes the outputs of the source and of what was written, for the same pseudo-random inputs.
/// A difference is an error, but where a cast was asked for.
pub(super) fn check_outputs(
    opened: &mut Opened,
    request: &Request<'_>,
    folder: &Path,
    report: &mut Report,
) -> std::result::Result<(), Failure> {
    let mut written = folder::open(folder)?;
    // One input for both: what a format says of special tokens is not asked here.
    let (source, inputs) = outputs(opened, request, None)?;
    let (result, _) = outputs(&mut written, request, Some(inputs))?;
    let result = result.named();
    // A cast was asked for, or was told of what the format does not keep.
    let plan = &request.plan;
    let is_meant = plan.dtype.is_some()
        || plan.quantize.is_some()
        || report.findings.iter().any(|found| ["P005", "P006"].contains(&found.rule));
    let mut differences = Vec::new();
    for (name, source) in source.named() {
        let result = result.iter().find(|(other, _)| *other == name).map(|(_, result)| result);
        let result = result.filter(|result| result.shape == source.shape);
        let Some(result) = result else {
            if report.findings.iter().any(|found| found.rule == "P006") {
                continue; // A head that the format has no place for.
            }
            return Err(
                outputs_error(Level::Error, &name, "does not come out of the result").into()
            );
        };
        let pairs = source.data.iter().zip(&result.data);
        let max_abs = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, greater);
        let scale = source.data.iter().map(|x| x.abs()).fold(0.0, greater);
        if max_abs.is_nan() || OUTPUT_TOLERANCE * scale < max_abs {
            let level = if is_meant { Level::Warning } else { Level::Error };
            let what = format!("differs by up to {max_abs:e} where the greatest number is {scale}");
            let finding = outputs_error(level, &name, &what);
            if level == Level::Error {
                return Err(finding.into());
            }
            report.findings.push(finding);
        }
        differences.push(OutputDifference { name, max_abs, scale });
    }
    report.outputs = Some(differences);
    Ok(())
}

/// The greater of two numbers; NaN if one is.
fn greater(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) }
}

pub(super) fn outputs(
    opened: &mut Opened,
    request: &Request<'_>,
    inputs: Option<Inputs>,
) -> std::result::Result<(Outputs<f32>, Inputs), Failure> {
    let (model, plan) = model_of(opened, request.spec, request.arch)?;
    let weights = match &plan {
        Some(plan) => Planned::of_plan(&opened.source, plan),
        None => Planned::of_checkpoint(&opened.source, &opened.checkpoint)?,
    };
    let tasks: Vec<&Task> = model.tasks.iter().collect();
    let inputs = inputs.map_or_else(|| Inputs::sample(&model), Ok)?;
    Ok((forward::run(&model, &weights, &inputs, &tasks)?, inputs))
}

fn outputs_error(level: Level, name: &str, what: &str) -> Diagnostic {
    Diagnostic::new("P022", level, format!("the output {name} {what}")).help(
        "an error means that nothing was written and the mapping is wrong: please report it with \
         this message; a warning tells what a cast costs, or what the format does not keep",
    )
}

fn round_trip_error(name: &str, what: &str) -> Diagnostic {
    Diagnostic::error("P021", format!("the way back fails: `{name}` {what}"))
        .tensor(name)
        .help("nothing was written; please report the mapping with this message")
}
