//! Names of tensors: what wrappers of modules put into them.

use std::collections::BTreeSet;

use crate::base::diagnostic::Diagnostic;
use crate::checkpoint::Tensor;
use crate::format::wrappers::{MODULE, PARTS, without_parts};

use super::{quote, rule};

/// How often names are looked at again, for wrappers in wrappers.
const MAX_ROUNDS: usize = 8;

/// Takes the prefixes of wrapped modules off the names; gives what was taken off, in order.
pub(crate) fn strip_prefixes(tensors: &mut [Tensor]) -> Vec<&'static str> {
    let mut stripped = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let n_before = stripped.len();
        for &part in PARTS {
            let shorter: Vec<String> =
                tensors.iter().map(|tensor| without_parts(&tensor.name, &[part])).collect();
            if rename(tensors, shorter) {
                stripped.push(part);
            }
        }
        let shorter: Option<Vec<String>> = tensors
            .iter()
            .map(|tensor| tensor.name.strip_prefix(MODULE).map(str::to_owned))
            .collect();
        if shorter.is_some_and(|shorter| rename(tensors, shorter)) {
            stripped.push(MODULE);
        }
        if stripped.len() == n_before {
            break;
        }
    }
    stripped
}

/// Gives the tensors new names, unless that changes none, or leaves one empty or two the same.
fn rename(tensors: &mut [Tensor], names: Vec<String>) -> bool {
    if tensors.iter().zip(&names).all(|(tensor, name)| tensor.name == *name) {
        return false;
    }
    let distinct = names.iter().collect::<BTreeSet<_>>().len();
    let before = tensors.iter().map(|tensor| &tensor.name).collect::<BTreeSet<_>>().len();
    if distinct != before || names.iter().any(String::is_empty) {
        return false;
    }
    for (tensor, name) in tensors.iter_mut().zip(names) {
        tensor.name = name.into();
    }
    true
}

/// Drops the later one of two tensors whose keys are spelled the same, as `a.b` and `a` → `b`.
pub(super) fn keep_first_of_each(tensors: &mut Vec<Tensor>, findings: &mut Vec<Diagnostic>) {
    let mut names = BTreeSet::new();
    tensors.retain(|tensor| {
        let is_first = names.insert(tensor.name.clone());
        if !is_first {
            let message =
                format!("two tensors are named {}; the first is kept", quote(&tensor.name));
            findings.push(
                Diagnostic::error(rule::DUPLICATE_NAME, message)
                    .tensor(&tensor.name)
                    .help("load the file with torch and save one flat dictionary"),
            );
        }
        is_first
    });
}
