//! What source and result of a conversion compute, compared.

use std::path::Path;

use super::canonical::model_of;
use super::report::{OutputDifference, Report};
use super::request::{Failure, Request};
use crate::base::diagnostic::{Diagnostic, Level};
use crate::folder::{self, Opened};
use crate::forward::{self, Inputs, Outputs, Planned};
use crate::package::Task;

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
    let mut written = folder::open_as(folder, &request.spec.how())?;
    // One input for both: what a format says of special tokens is not asked here.
    let (source, inputs) = outputs(opened, request, None)?;
    let (result, _) = outputs(&mut written, request, Some(inputs))?;
    let result = result.named();
    // A cast was asked for, or was told of what the format does not keep.
    let plan = &request.plan;
    let is_meant = plan.dtype.is_some()
        || plan.quantize.is_some()
        || report.findings.iter().any(|found| found.rule == "P005");
    let is_left_out = |found: &Diagnostic| {
        found.rule == "P006" && found.tensor.as_deref().is_some_and(|of| of.starts_with("heads."))
    };
    let loses_heads = report.findings.iter().any(is_left_out);
    let mut differences = Vec::new();
    for (name, source) in source.named() {
        if source.data.iter().any(|x| !x.is_finite()) {
            let message = format!(
                "the source itself computes NaN or infinity in the output {name}: there is nothing to \
                 compare"
            );
            return Err(Diagnostic::error("P022", message)
                .help("leave out --check-outputs; `llmstd validate --deep` shows tensors that hold such")
                .into());
        }
        let result = result.iter().find(|(other, _)| *other == name).map(|(_, result)| result);
        let result = result.filter(|result| result.shape == source.shape);
        let Some(result) = result else {
            if loses_heads {
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

fn outputs(
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
