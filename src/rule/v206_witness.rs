//! V206 witness.

use std::collections::BTreeSet;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MODEL_FILE};
use crate::rule::{About, Checked, NotChecked, PackageView, Rule};
use crate::spec::hparams::Witness;
use crate::spec::names::StackNames;
use crate::spec::template::Bindings;

/// A tensor's shape says that a hyperparameter is another.
pub(super) static RULE: Rule = Rule {
    id: "V206",
    name: "witness",
    level: Conformance::Schema,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    for Dispute { witness, tensor, expected, actual } in disputes(view)? {
        found.push(
            RULE.finding(format!(
                "`{}` is {expected} by the hyperparameters, and {actual} by the shape of `{tensor}`",
                witness.expr.text
            ))
            .file(MODEL_FILE)
            .key(format!("hyperparameters.{}", witness.expr.names().first().unwrap_or(&"")))
            .tensor(&tensor)
            .mismatch(expected, actual)
            .help("two witnesses must agree: one of them is of another model"),
        );
    }
    Ok(())
}

struct Dispute<'a> {
    witness: &'a Witness,
    tensor: String,
    expected: u64,
    actual: u64,
}

fn disputes<'s>(view: &'s PackageView<'_>) -> Result<Vec<Dispute<'s>>, NotChecked> {
    let (hparams, arch) = (view.hparams()?, view.arch()?);
    let tensors = view.all_tensors()?;
    let mut disputes = Vec::new();
    for witness in &view.spec.witnesses {
        let stacked = witness.tensor.variables().any(|variable| variable == "stack");
        let stacks = arch.stacks.iter().map(|stack| Some(stack.as_str()));
        let stacks: Vec<Option<&str>> = if stacked { stacks.collect() } else { vec![None] };
        for stack in stacks {
            let mut bindings = Bindings::new();
            if let Some(stack) = stack {
                bindings.insert("stack".to_owned(), stack.to_owned());
            }
            let Ok(name) = witness.tensor.fill(&bindings) else { continue };
            let Some(tensor) = tensors.iter().find(|tensor| tensor.name == name) else { continue };
            let stack = stack.or(arch.stacks.first().map(String::as_str));
            let names = StackNames { hparams, tokens: None, stack, layer: None };
            let shape = view.shape(tensor);
            let (Ok(expected), Some(&actual)) =
                (witness.expr.eval_size(&names), shape.get(witness.axis))
            else {
                continue;
            };
            if expected != actual {
                disputes.push(Dispute { witness, tensor: name, expected, actual });
            }
        }
    }
    Ok(disputes)
}

/// The hyperparameters that a tensor speaks against.
pub(super) fn disputed(view: &PackageView<'_>) -> Result<BTreeSet<String>, NotChecked> {
    let disputes = disputes(view)?;
    let names = disputes.iter().flat_map(|dispute| dispute.witness.expr.names());
    Ok(names.map(str::to_owned).collect())
}
