//! Proves a conversion: what was written is read back and compared with the source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::canonical::canonical;
use super::export::export_plan;
use super::read::{read_provenance, read_whole_model};
use super::report::{Report, Verified, foreign_format};
use super::request::{Failure, Request};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::Result;
use crate::base::name::Name;
use crate::base::source::Source;
use crate::checkpoint::Checkpoint;
use crate::exec::compare::{Operand, first_difference, values, values_of_first};
use crate::exec::digest::digests;
use crate::folder::{self, Opened};
use crate::package::{Hparams, Model};
use crate::plan::dialect::{self, PADDING};
use crate::plan::program::{Input, Output};
use crate::plan::whole::whole;
use crate::plan::{self, Decode, Exactness, Tensors};

/// Exports a package that was just written, and compares each foreign tensor with the original.
pub(super) fn verify(
    opened: &mut Opened,
    request: &Request<'_>,
    folder: &Path,
    written: &Tensors,
    told: &[Diagnostic],
) -> std::result::Result<Verified, Failure> {
    let mut package = folder::open_as(folder, &request.spec.how())?;
    let back = Request { plan: plan::Options::default(), generic: false, ..*request };
    let recorded = read_provenance(&mut package)?.map(|source| source.format);
    let format = recorded.filter(|format| request.spec.is_apart(format));
    let format = format.as_deref().unwrap_or_else(|| foreign_format(opened));
    let plan = export_plan(&mut package, &back, format)?;
    // What was packed comes back as the numbers that it stood for.
    let as_stored = request.plan.decode == Decode::Nothing;
    // One that held several comes back as these.
    let parted = dialect::parted(request.spec, foreign_format(opened), &opened.checkpoint);
    let stored = parted.as_ref().unwrap_or(&opened.checkpoint);
    let original = if as_stored { whole_tensors(stored)? } else { numbers_of(opened)? };
    let side = if as_stored { Side::stored } else { Side::numbers };
    let mut old = side(&opened.source, &original);
    let in_file = |name: &str| opened.name_in_file(name).to_owned();
    old.outputs.iter_mut().for_each(|output| output.name = in_file(&output.name).into());
    let changed: Vec<String> = changed(written).into_iter().map(in_file).collect();
    // Rows that nothing reads do not come back.
    let padded = told.iter().filter(|found| found.rule == PADDING);
    let left_out: Vec<Diagnostic> = padded.chain(&plan.findings).cloned().collect();
    let meant = Meant {
        changed: changed.iter().map(String::as_str).collect(),
        left_out: &left_out,
        ..Meant::of(request)
    };
    compare(&old, &side(&package.source, &plan.tensors), request, &meant)
}

/// Imports a foreign checkpoint that was just written, and compares it with the source, both as the
/// numbers of canonical tensors.
pub(super) fn verify_foreign(
    opened: &mut Opened,
    request: &Request<'_>,
    folder: &Path,
    written: &Tensors,
    report: &Report,
) -> std::result::Result<Verified, Failure> {
    let mut result = folder::open_as(folder, &request.spec.how())?;
    let mut meant =
        Meant { changed: changed(written), left_out: &report.findings, ..Meant::of(request) };
    if report.architecture.is_none() {
        let (old, new) = (numbers_of(opened)?, numbers_of(&mut result)?);
        let old = Side::numbers(&opened.source, &old);
        return compare(&old, &Side::numbers(&result.source, &new), request, &meant);
    }
    let (old_model, old) = terms(opened, request)?;
    let (new_model, new) = terms(&mut result, request).map_err(|failure| match failure {
        Failure::Findings(found) => {
            let why: Vec<&str> = found.iter().map(|finding| finding.message.as_str()).collect();
            let what = format!("cannot be read back: {}", why.join("; "));
            round_trip_error("", &what).into()
        }
        Failure::Error(err) => Failure::Error(err),
    })?;
    meant.renames = old_model.architecture != new_model.architecture;
    let mut old = Side::numbers(&opened.source, &old);
    old.ties = &old_model.ties;
    let mut new = Side::numbers(&result.source, &new);
    new.ties = &new_model.ties;
    let mut verified = compare(&old, &new, request, &meant)?;
    verified.hyperparameters = other_keys(&old_model.hyperparameters, &new_model.hyperparameters);
    Ok(verified)
}

/// Compares tensors that were written under their own names with those of the source.
pub(super) fn verify_same(
    opened: &mut Opened,
    request: &Request<'_>,
    folder: &Path,
    tensors: &Tensors,
    is_left_out: &dyn Fn(&str) -> bool,
) -> std::result::Result<Verified, Failure> {
    let mut written = folder::open_as(folder, &request.spec.how())?;
    let meant = Meant { changed: changed(tensors), is_left_out, ..Meant::of(request) };
    if request.plan.decode == Decode::Nothing {
        let (old, new) = (whole_tensors(&opened.checkpoint)?, whole_tensors(&written.checkpoint)?);
        let old = Side::stored(&opened.source, &old);
        return compare(&old, &Side::stored(&written.source, &new), request, &meant);
    }
    let (old, new) = (numbers_of(opened)?, numbers_of(&mut written)?);
    let old = Side::numbers(&opened.source, &old);
    compare(&old, &Side::numbers(&written.source, &new), request, &meant)
}

/// The tensors of a file as they are stored.
pub(super) fn whole_tensors(checkpoint: &Checkpoint) -> Result<Tensors> {
    let mut tensors = Tensors::default();
    for tensor in checkpoint.stored() {
        let (inputs, output) = whole(tensor, tensors.inputs.len())?;
        tensors.inputs.extend(inputs);
        tensors.outputs.push(output);
    }
    Ok(tensors)
}

/// The tensors of a checkpoint under their own names, those of several parts as one.
fn numbers_of(opened: &mut Opened) -> std::result::Result<Tensors, Failure> {
    let logical = opened.logical()?;
    super::generic_copies(logical.as_ref().unwrap_or(&opened.checkpoint))
}

/// A checkpoint in the terms of the standard, read anew, as numbers.
fn terms(
    opened: &mut Opened,
    request: &Request<'_>,
) -> std::result::Result<(Model, Tensors), Failure> {
    if opened.is_package {
        return Ok((read_whole_model(opened)?, super::generic_copies(&opened.checkpoint)?));
    }
    let plan = plan::Options { decode: Decode::All, ..plan::Options::default() };
    let read = canonical(opened, &Request { plan, ..*request })?;
    Ok((read.model, read.tensors))
}

/// The tensors that a plan changes on purpose: those that are written, and those they are made of.
fn changed(written: &Tensors) -> BTreeSet<&str> {
    let steps = written.named_steps().filter(|(_, step)| Exactness::Exact < step.class);
    steps.flat_map(|(name, step)| step.from.iter().chain([name])).map(Name::as_str).collect()
}

/// The hyperparameters that two models do not share.
fn other_keys(old: &Hparams, new: &Hparams) -> Vec<String> {
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    keys.into_iter().filter(|key| old.get(*key) != new.get(*key)).cloned().collect()
}

/// One of two sets of tensors that are compared.
struct Side<'a> {
    source: &'a Source,
    inputs: &'a [Input],
    outputs: Vec<Output>,
    /// Tensors that are stored under the second name.
    ties: &'a [[String; 2]],
}

impl<'a> Side<'a> {
    fn stored(source: &'a Source, tensors: &'a Tensors) -> Side<'a> {
        Side { source, inputs: &tensors.inputs, outputs: tensors.outputs.clone(), ties: &[] }
    }

    fn numbers(source: &'a Source, tensors: &'a Tensors) -> Side<'a> {
        Side { source, inputs: &tensors.inputs, outputs: tensors.numbers_of_all(), ties: &[] }
    }

    fn operand(&'a self, output: &'a Output) -> Operand<'a> {
        Operand { source: self.source, inputs: self.inputs, output }
    }

    /// The outputs by name. Without an architecture, `extra.` says nothing.
    fn by_name(&self) -> BTreeMap<&str, usize> {
        let names = self.outputs.iter().map(|output| plain_name(&output.name));
        names.zip(0..).collect()
    }

    /// A tensor by its name, or by that of the one it is stored as.
    fn find(&self, by_name: &BTreeMap<&str, usize>, name: &str) -> Option<usize> {
        let tie = || {
            let tie = self.ties.iter().find(|[tied, _]| tied == name);
            by_name.get(tie?[1].as_str())
        };
        by_name.get(name).or_else(tie).copied()
    }

    fn digests(&self, request: &Request<'_>) -> Result<Vec<[u8; 32]>> {
        request.progress.begin("verifying", self.outputs.iter().map(Output::n_bytes).sum());
        let advance = |n_bytes| request.progress.advance(n_bytes);
        let threads = request.n_threads;
        let hashes = digests(self.source, self.inputs, &self.outputs, threads, &advance);
        request.progress.end();
        hashes
    }
}

fn plain_name(name: &str) -> &str {
    name.strip_prefix("extra.").unwrap_or(name)
}

/// What a conversion does to tensors on purpose.
struct Meant<'a> {
    /// The tensors that it casts, computes or decodes.
    changed: BTreeSet<&'a str>,
    /// Findings that told of tensors that are left out.
    left_out: &'a [Diagnostic],
    /// Whether a tensor is left out, beside those.
    is_left_out: &'a dyn Fn(&str) -> bool,
    /// Whether tensors may come back under other names, as what is read back is of another
    /// architecture.
    renames: bool,
    plan: plan::Options,
}

impl<'a> Meant<'a> {
    fn of(request: &Request<'a>) -> Meant<'a> {
        let (changed, left_out) = (BTreeSet::new(), &[][..]);
        let is_left_out: &dyn Fn(&str) -> bool = &|_| false;
        Meant { changed, left_out, is_left_out, renames: false, plan: request.plan }
    }

    /// Whether a finding has told that this tensor is not written as it is.
    fn told(&self, name: &str) -> bool {
        let fits = |told: &str| match told.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == told,
        };
        let mut told = self.left_out.iter().filter_map(|finding| finding.tensor.as_deref());
        (self.is_left_out)(name) || told.any(fits)
    }

    /// Whether a finding has told that this tensor has rows of padding.
    fn is_padded(&self, name: &str) -> bool {
        let mut padded = self.left_out.iter().filter(|finding| finding.rule == PADDING);
        padded.any(|finding| finding.tensor.as_deref() == Some(name))
    }

    /// Why a tensor may come back as other numbers.
    fn why(&self, old: &Output, new: &Output) -> Option<&'static str> {
        if self.plan.quantize.is_some() {
            Some("quantized")
        } else if old.dtype != new.dtype {
            Some("cast")
        } else if self.changed.contains(old.name.as_str()) {
            Some("computed")
        } else {
            None
        }
    }
}

/// A cast, a computation or a quantization keeps numbers to within so much of their norm. What is
/// another tensor, or the same in another order, is further away.
const MEANT_TOLERANCE: f64 = 0.5;

/// Compares what was written, read back, with what it was made from.
fn compare(
    old: &Side<'_>,
    new: &Side<'_>,
    request: &Request<'_>,
    meant: &Meant<'_>,
) -> std::result::Result<Verified, Failure> {
    let (wanted, found) = (old.digests(request)?, new.digests(request)?);
    let (old_names, new_names) = (old.by_name(), new.by_name());
    let mut verified = Verified::default();
    // Read back as another architecture, a tensor may have another name.
    let mut unclaimed: BTreeSet<usize> = new_names
        .iter()
        .filter(|(name, _)| meant.renames && !old_names.contains_key(*name))
        .map(|(_, &at)| at)
        .collect();
    let mut renamed: BTreeSet<usize> = BTreeSet::new();
    for (&name, &at) in &old_names {
        let same = |back: &&usize| {
            new.outputs[**back].shape == old.outputs[at].shape && found[**back] == wanted[at]
        };
        let other = || {
            let back = unclaimed.iter().find(same).copied()?;
            renamed.insert(back);
            unclaimed.remove(&back).then_some(back)
        };
        let Some(back) = new.find(&new_names, name).or_else(other) else {
            if meant.told(name) {
                verified.left_out.push(name.to_owned());
            } else if meant.changed.contains(name) {
                verified.change("decoded", None);
            } else {
                return Err(round_trip_error(name, "does not come back").into());
            }
            continue;
        };
        let (before, after) = (&old.outputs[at], &new.outputs[back]);
        let same_form = before.dtype == after.dtype && before.shape == after.shape;
        if same_form && wanted[at] == found[back] {
            verified.equal += 1;
            continue;
        }
        let (a, b) = (old.operand(before), new.operand(after));
        if meant.is_padded(name) && is_beginning(&after.shape, &before.shape) {
            if values_of_first(a, b)?.changed == 0 {
                verified.equal += 1;
                verified.padded.push(name.to_owned());
                continue;
            }
            if meant.why(before, after).is_none() {
                let what = "comes back changed in the rows that the model has";
                return Err(round_trip_error(name, what).into());
            }
        }
        if before.shape != after.shape || !(before.dtype.is_float() && after.dtype.is_float()) {
            if meant.told(name) || meant.changed.contains(name) {
                verified.change("computed", None);
                continue;
            }
            let what = format!(
                "comes back as {} {:?}, it is {} {:?}{}",
                after.dtype,
                after.shape,
                before.dtype,
                before.shape,
                place(same_form, a, b)
            );
            return Err(round_trip_error(name, &what).into());
        }
        let apart = values(a, b)?;
        // In another dtype, every number may come back.
        if apart.changed == 0 && !same_form {
            verified.equal += 1;
            continue;
        }
        let told = || meant.told(name).then_some("left out in part");
        let Some(why) = meant.why(before, after).or_else(told) else {
            let place = place(same_form, a, b);
            return Err(round_trip_error(name, &format!("comes back changed{place}")).into());
        };
        if apart.relative_l2.is_some_and(|far| MEANT_TOLERANCE < far) {
            let far = apart.relative_l2.unwrap_or_default();
            let what = format!(
                "was {why}, and comes back as other numbers: apart by {far:.3} of its norm{}",
                place(same_form, a, b)
            );
            return Err(round_trip_error(name, &what).into());
        }
        verified.change(why, apart.max_difference);
    }
    for (&name, &at) in &new_names {
        if renamed.contains(&at)
            || old_names.contains_key(name)
            || meant.changed.contains(name)
            || meant.told(name)
        {
            continue;
        }
        // What was stored once may be stored twice.
        let Some(stored) = old.find(&old_names, name) else {
            return Err(round_trip_error(name, "comes back and was not there").into());
        };
        if found[at] != wanted[stored] {
            let (a, b) = (old.operand(&old.outputs[stored]), new.operand(&new.outputs[at]));
            if values(a, b)?.changed != 0 && meant.why(a.output, b.output).is_none() {
                return Err(round_trip_error(name, "comes back as other than its tie").into());
            }
        }
    }
    Ok(verified)
}

/// Whether a tensor of the first shape may be the first rows of one of the second.
fn is_beginning(rows: &[u64], of: &[u64]) -> bool {
    match (rows, of) {
        ([few, rest @ ..], [many, other @ ..]) => few < many && rest == other,
        _ => false,
    }
}

/// Where two tensors begin to differ, for a message.
fn place(same_form: bool, old: Operand<'_>, new: Operand<'_>) -> String {
    let byte = same_form.then(|| first_difference(old, new).ok().flatten()).flatten();
    byte.map(|byte| format!(" from its byte {byte} on")).unwrap_or_default()
}

impl Verified {
    /// Counts a tensor that was changed on purpose.
    fn change(&mut self, why: &str, max_difference: Option<f64>) {
        *self.changed_by.entry(why.to_owned()).or_default() += 1;
        self.changed += 1;
        if let Some(difference) = max_difference {
            let worst = self.max_difference.unwrap_or_default();
            self.max_difference = Some(worst.max(difference));
        }
    }
}

fn round_trip_error(name: &str, what: &str) -> Diagnostic {
    let what = match name {
        "" => what.to_owned(),
        name => format!("`{name}` {what}"),
    };
    let finding = Diagnostic::error("P021", format!("the way back fails: {what}"));
    let finding = if name.is_empty() { finding } else { finding.tensor(name) };
    finding.help("nothing was written; please report the mapping with this message")
}
