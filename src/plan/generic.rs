//! Plans for checkpoints whose architecture nobody knows: names under `extra.`, bytes as they are.

use super::{Options, Step, Tensors};
use crate::base::diagnostic::Diagnostic;
use crate::checkpoint::Checkpoint;
use crate::spec::roles::grammar_problem;

/// Plans a package of the container level.
///
/// # Errors
/// A tensor cannot be read, or its name cannot be kept.
pub fn import(checkpoint: &Checkpoint, options: Options) -> Result<Tensors, Vec<Diagnostic>> {
    let mut tensors = Tensors::default();
    let mut findings = Vec::new();
    tensors.reserve(checkpoint.tensors.len());
    for tensor in &checkpoint.tensors {
        let name = format!("extra.{}", tensor.name);
        if let Some(problem) = grammar_problem(&name) {
            let message =
                format!("`{}` cannot be the end of a canonical name: {problem}", tensor.name);
            findings.push(Diagnostic::error("P009", message).tensor(&tensor.name));
            continue;
        }
        let step = Step::copy(&tensor.name);
        let written = match tensors.read(tensor) {
            Ok((expr, dtype)) => tensors.write(&name, expr, dtype, options, step),
            Err(why) => Err(unreadable(&tensor.name, &why)),
        };
        findings.extend(written.err());
    }
    if !findings.is_empty() {
        return Err(findings);
    }
    let order = tensors.order_by_key(|name| name);
    tensors.arrange(order);
    Ok(tensors)
}

/// The finding that a tensor's values cannot be had.
pub(super) fn unreadable(name: &str, why: &str) -> Diagnostic {
    Diagnostic::error("P017", format!("the values of `{name}` cannot be had: {why}")).tensor(name)
}
