//! What a decoder reads that is given no tokens of its own.

use super::Inputs;
use super::keys::{Keys, broken};
use crate::base::error::Result;
use crate::package::{Model, Task, Value};

/// The decoder's ids: those that are given; else, where no task asks for them, the encoder's,
/// moved one to the right as `decoder_shift` says.
pub(super) fn decoder_ids(
    model: &Model,
    keys: Keys<'_>,
    inputs: &Inputs,
    tasks: &[&Task],
) -> Result<Vec<Vec<i64>>> {
    if let Some(ids) = &inputs.decoder_input_ids {
        return Ok(ids.clone());
    }
    let wants = |task: &&&Task| task.inputs.iter().any(|port| port.name == "decoder_input_ids");
    if let Some(task) = tasks.iter().find(wants) {
        return Err(broken(format!("{} wants decoder input ids", task.id)));
    }
    let token = |name: &str| match model.tokens.get(name) {
        Some(Value::Int(id)) => Some(*id),
        _ => None,
    };
    let start =
        match keys.word("decoder_shift")?.as_str() {
            "start" => Some(token("decoder_start").ok_or_else(|| {
                broken("there are no decoder input ids, and no token to start with")
            })?),
            "last" => None,
            other => return Err(broken(format!("`decoder_shift` is {other:?}"))),
        };
    let pad = token("pad");
    let shift = |ids: &Vec<i64>| {
        // As many as are no padding, which may stand at either end.
        let n = ids.iter().filter(|&&id| Some(id) != pad).count();
        let first = start.or_else(|| ids.get(n.checked_sub(1)?).copied());
        let first = first.or_else(|| ids.last().copied());
        let kept = ids.len().saturating_sub(1);
        first.into_iter().chain(ids[..kept].iter().copied()).take(ids.len()).collect()
    };
    Ok(inputs.input_ids.iter().map(shift).collect())
}
