//! What only the weights can tell about changes that their hashes have proven.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rayon::prelude::*;

use super::rules::{self, Rule};
use super::{Change, Diff};
use crate::base::error::Result;
use crate::base::threads;
use crate::convert::Progress;
use crate::exec::compare::{Operand, Values, first_difference, values};
use crate::package::{Hparams, Value};
use crate::plan::layout::Layout;
use crate::plan::program::{Content, Output, Program};
use crate::spec::Spec;
use crate::spec::names::StackNames;
use crate::version::{Planned, Version};

/// Reads the weights of every tensor that changed: how far the values are apart, and whether they
/// are the same in another order. Memory does not grow with the model.
///
/// # Errors
/// The weights of one side are not at hand, or cannot be read.
pub fn deepen(
    diff: &mut Diff,
    old: &Version,
    new: &Version,
    spec: &Spec,
    n_threads: usize,
    progress: &dyn Progress,
) -> Result<()> {
    Version::with_weights([old, new], spec, |weights| {
        look(diff, new, weights, spec, n_threads, progress)
    })
}

fn look(
    diff: &mut Diff,
    new: &Version,
    [old_weights, new_weights]: [&Planned; 2],
    spec: &Spec,
    n_threads: usize,
    progress: &dyn Progress,
) -> Result<()> {
    let empty = Hparams::new();
    let hparams = new.manifest.model.as_ref().map_or(&empty, |model| &model.hyperparameters);
    let (before, after) = (by_name(old_weights), by_name(new_weights));
    let read: Vec<(usize, &Output, &Output)> = diff
        .changes
        .iter()
        .enumerate()
        .filter(|(_, change)| reads(change.rule))
        .filter_map(|(index, change)| {
            let extra = format!("extra.{}", change.subject);
            Some((
                index,
                find(&before, &change.subject, &extra)?,
                find(&after, &change.subject, &extra)?,
            ))
        })
        .collect();
    let probe = Probe { old: old_weights, new: new_weights, spec, hparams };
    let n_bytes = read.iter().map(|(_, _, output)| output.n_bytes()).sum();
    progress.begin("comparing", n_bytes);
    let found: Result<Vec<Found>> = threads::on(n_threads, || {
        let one = |&(_, before, after): &(usize, &Output, &Output)| {
            let found = probe.look(before, after);
            progress.advance(after.n_bytes());
            found
        };
        read.par_iter().map(one).collect()
    })?;
    progress.end();
    let mut more = Vec::new();
    for ((index, ..), found) in read.iter().zip(found?) {
        let change = &mut diff.changes[*index];
        more.extend(found.verdicts(change));
        change.values = found.values;
        change.layout = found.layout;
    }
    old_weights.source.check_unchanged()?;
    new_weights.source.check_unchanged()?;
    diff.changes.append(&mut more);
    diff.deep = true;
    diff.judge();
    diff.ranking = diff.ranked().into_iter().map(|(change, _)| change.subject.clone()).collect();
    Ok(())
}

/// The changes whose weights are read.
fn reads(rule: &str) -> bool {
    let of_weights: &[&Rule] = &[
        rules::ENCODING_CHANGED,
        rules::TENSOR_RESHAPED,
        rules::DTYPE_NARROWED,
        rules::DTYPE_WIDENED,
        rules::VALUES_CHANGED,
    ];
    of_weights.iter().any(|known| known.id == rule)
}

fn find<'t>(
    tensors: &'t BTreeMap<&str, Cow<'_, Output>>,
    name: &str,
    extra: &str,
) -> Option<&'t Output> {
    tensors.get(name).or_else(|| tensors.get(extra)).map(Cow::as_ref)
}

/// The tensors as numbers: packed ones as what they stand for.
fn by_name(weights: &Planned) -> BTreeMap<&str, Cow<'_, Output>> {
    let tensors = &weights.tensors;
    let outputs = tensors.outputs.iter().map(|output| {
        let name = output.name.as_str();
        let packed = tensors.encodings.contains_key(name);
        let numbers = packed.then(|| tensors.numbers(name)).flatten();
        (name, numbers.map_or(Cow::Borrowed(output), Cow::Owned))
    });
    outputs.collect()
}

/// What the weights of one tensor say.
struct Found {
    values: Option<Values>,
    layout: Option<String>,
}

impl Found {
    /// The changes that follow from it.
    fn verdicts(&self, change: &Change) -> Vec<Change> {
        let mut more = Vec::new();
        let name = &change.subject;
        if let Some(layout) = &self.layout
            && change.rule == rules::VALUES_CHANGED.id
        {
            let message = format!("`{name}` holds the old values {layout}");
            more.push(Change::new(rules::LAYOUT_CHANGED, name, message));
        }
        if let Some(Values { not_finite: [before, after], .. }) = self.values
            && before < after
        {
            let message = format!("`{name}` has {after} NaNs and infinities, it had {before}");
            more.push(Change::new(rules::VALUES_NOT_FINITE, name, message).values(before, after));
        }
        more
    }
}

struct Probe<'a> {
    old: &'a Planned,
    new: &'a Planned,
    spec: &'a Spec,
    hparams: &'a Hparams,
}

impl Probe<'_> {
    fn look(&self, before: &Output, after: &Output) -> Result<Found> {
        let (old, new) = (self.operand(self.old, before), self.operand(self.new, after));
        if before.shape == after.shape {
            let values = values(old, new)?;
            // A permutation that moves anything moves at least two elements.
            let layout = match values.changed {
                0 | 1 => None,
                _ if before.dtype == after.dtype => self.layout(before, new)?,
                _ => None,
            };
            return Ok(Found { values: Some(values), layout });
        }
        if before.dtype != after.dtype {
            return Ok(Found { values: None, layout: None });
        }
        let rows =
            |output: &Output| output.shape.split_first().map(|(n, rest)| (*n, rest.to_vec()));
        if let Some(((n_old, old_row), (n_new, new_row))) = rows(before).zip(rows(after))
            && old_row == new_row
        {
            // Rows lie one after the other, so the shorter tensor is the beginning of the longer.
            let common = before.n_bytes().min(after.n_bytes());
            let layout = (first_difference(old, new)? == Some(common)).then(|| {
                let n = n_old.min(n_new);
                let verb = if n_old < n_new { "appended" } else { "cut off" };
                format!("with {} rows {verb}, the other {n} unchanged", n_old.abs_diff(n_new))
            });
            return Ok(Found { values: None, layout });
        }
        Ok(Found { values: None, layout: self.layout(before, new)? })
    }

    fn operand<'a>(&self, weights: &'a Planned, output: &'a Output) -> Operand<'a> {
        Operand { source: &weights.source, inputs: &weights.tensors.inputs, output }
    }

    /// How the old values lie in the new tensor, if it is one of the orders that are known.
    fn layout(&self, before: &Output, new: Operand<'_>) -> Result<Option<String>> {
        let Some((expr, _)) = self.old.tensors.exprs.get(&before.name) else { return Ok(None) };
        let Some(program) = before.program(&self.old.tensors.inputs) else { return Ok(None) };
        let mut orders: Vec<(String, Layout)> = Vec::new();
        if before.shape.len() == 2 && expr.layout.shape == before.shape {
            let transposed = expr.layout.clone().transpose(&[1, 0]);
            orders.extend(transposed.ok().map(|layout| ("transposed".to_owned(), layout)));
        }
        if let Some((heads, dim)) = self.rope(&before.name) {
            let last = self.hparams.get("rope_at") == Some(&Value::Symbol("last".to_owned()));
            let word = format!("of {heads} heads");
            for (back, order) in [(false, "half-split as if interleaved"), (true, "interleaved")] {
                let layout = expr.layout.clone().rope(heads, dim, last, back);
                let text = format!("with the rotary rows {word} {order}");
                orders.extend(layout.ok().map(|layout| (text, layout)));
            }
        }
        for (text, layout) in orders {
            if layout.shape != new.output.shape {
                continue;
            }
            let program = Program { copies: layout.copies(), ..program.clone().into_owned() };
            let moved = Output {
                name: before.name.clone(),
                dtype: before.dtype,
                shape: layout.shape.clone(),
                content: Content::Gather(Box::new(program)),
            };
            if first_difference(self.operand(self.old, &moved), new)?.is_none() {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// The heads and rotary dimensions of a tensor whose rows are rotary pairs.
    fn rope(&self, name: &str) -> Option<(u64, u64)> {
        let known = self.spec.role(name)?;
        let names = StackNames {
            hparams: self.hparams,
            tokens: None,
            stack: known.stack.as_deref(),
            layer: known.layer,
        };
        known.rope(&names)
    }
}
