//! Universal checkpoints of DeepSpeed, which it makes of those of any ranks: a folder for each parameter,
//! with the whole of it.
//!
//! ```text
//! global_step5_universal/zero/model.norm.weight/fp32.pt       {param: the master weights, …}
//! global_step5_universal/zero/model.norm.weight/exp_avg.pt    the state of the optimizer
//! global_step5_universal/mp_rank_00_model_states.pt           buffers, the step
//! ```
//!
//! Spec: `deepspeed/checkpoint/ds_to_universal.py` of DeepSpeed 0.19.

use std::collections::BTreeSet;

use super::pytorch::names::strip_prefixes;
use super::pytorch::object::{self, Object};
use super::pytorch::quote;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::Source;
use crate::checkpoint::{Checkpoint, Tensor};

/// The folder of the parameters.
const FOLDER: &str = "zero/";
/// The file of a parameter that has its values.
const WEIGHTS: &str = "/fp32.pt";
const MODEL_START: &str = "mp_rank_";
const MODEL_END: &str = "_model_states.pt";

/// The parameter of a path in such a checkpoint, `zero/NAME/fp32.pt`.
fn parameter(path: &str) -> Option<&str> {
    let name = path.strip_prefix(FOLDER)?.strip_suffix(WEIGHTS)?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// The length of the folder of a checkpoint, if a path is the file of a parameter.
pub fn home_len(path: &str) -> Option<usize> {
    let rest = path.strip_suffix(WEIGHTS)?;
    let start = rest[..rest.rfind('/')? + 1].strip_suffix(FOLDER)?.len();
    let is_whole = start == 0 || path[..start].ends_with('/');
    (is_whole && parameter(&path[start..]).is_some()).then_some(start)
}

/// Whether the files of a folder, by their paths in it, are of this layout.
pub fn is_folder(names: &[&str]) -> bool {
    names.iter().any(|name| parameter(name).is_some())
}

/// Reads the parameters in a folder, and gives the names of the files.
///
/// # Errors
/// A file is damaged or has no parameter.
pub fn read(
    source: &mut Source,
    folder: &str,
    names: &[&str],
) -> Result<(Checkpoint, Vec<String>)> {
    let mut checkpoint = Checkpoint { format: super::pytorch::FORMAT.id, ..Checkpoint::default() };
    let mut weights = Vec::new();
    for path in names {
        let Some(name) = parameter(path) else { continue };
        let full = format!("{folder}{path}");
        let file = source.add(&full)?;
        let tensor = object::read(source, source.extent(file), |of| {
            let (pickle, root) = (of.pickle, of.pickle.root());
            // The frozen ones of some versions are tensors by themselves.
            let value = pickle.value(root, "param").unwrap_or(root);
            of.tensor(value).ok_or_else(|| {
                let kind = pickle.kind(value);
                let message = format!("the parameter {} is due, {kind} is there", quote(name));
                Error::new(ErrorKind::Malformed, message)
            })
        })?;
        checkpoint.tensors.push(Tensor { name: name.into(), ..tensor });
        weights.push(full);
    }
    let models: Vec<&&str> = names
        .iter()
        .filter(|name| name.starts_with(MODEL_START) && name.ends_with(MODEL_END))
        .collect();
    if let Some(first) = models.first() {
        let full = format!("{folder}{first}");
        let file = source.add(&full)?;
        let known: BTreeSet<String> =
            checkpoint.tensors.iter().map(|tensor| tensor.name.to_string()).collect();
        let (buffers, step) = object::read(source, source.extent(file), |of| {
            let step = of.pickle.value(of.pickle.root(), "global_steps");
            Ok((buffers(of, &known), step.and_then(|id| of.pickle.int(id))))
        })?;
        checkpoint.tensors.extend(buffers);
        weights.push(full);
        if let Some(step) = step {
            checkpoint.metadata.insert("trainer.step".to_owned(), step.to_string());
        }
    }
    checkpoint.metadata.insert("trainer".to_owned(), "DeepSpeed, universal".to_owned());
    let stripped = strip_prefixes(&mut checkpoint.tensors);
    if !stripped.is_empty() {
        let message = format!("the names are given without {}", quote(&stripped.join(" ")));
        checkpoint.findings.push(Diagnostic::note("R005", message));
    }
    Ok((checkpoint, weights))
}

/// The buffers of a model, beside the parameters that are known.
fn buffers(of: &Object<'_>, known: &BTreeSet<String>) -> Vec<Tensor> {
    let (pickle, root) = (of.pickle, of.pickle.root());
    let names = pickle.value(root, "buffer_names").and_then(|id| pickle.members(id));
    let names: BTreeSet<&str> =
        names.unwrap_or_default().iter().filter_map(|&name| pickle.text(name)).collect();
    let module = pickle.value(root, "module").and_then(|module| pickle.items(module));
    let tensors = module.unwrap_or_default().into_iter().filter_map(|(name, value)| {
        let name =
            pickle.text(name).filter(|name| names.contains(name) && !known.contains(*name))?;
        Some(Tensor { name: name.into(), ..of.tensor(value)? })
    });
    tensors.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_told_by_their_parameters() {
        assert_eq!(home_len("run/step_universal/zero/a.b/fp32.pt"), Some(19));
        assert_eq!(home_len("zero/a.b/fp32.pt"), Some(0));
        assert_eq!(home_len("subzero/a.b/fp32.pt"), None);
        assert_eq!(home_len("zero/a/b/fp32.pt"), None);
        assert_eq!(home_len("zero/a.b/exp_avg.pt"), None);
        assert_eq!(home_len("fp32.pt"), None);
    }
}
