//! A model in several files, `name-00001-of-00003.gguf`: whole tensors in each, the keys of the
//! model in the first, and in all of them which part it is and of how many.

use std::collections::HashMap;

use super::{ALIGNMENT_KEY, rule};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::Checkpoint;
use crate::metadata::{Metadata, Value};

/// Which part it is, from 0 on: a u16.
pub(super) const NUMBER_KEY: &str = "split.no";
/// How many parts there are: a u16.
pub(super) const COUNT_KEY: &str = "split.count";
/// How many tensors all parts have together: an i32.
pub(super) const TENSORS_KEY: &str = "split.tensors.count";

/// The most parts that a name can count.
const MAX_PARTS: u64 = 99_999;

/// The names of all parts of the file `name` that was read as `checkpoint`; of a whole file its
/// own.
///
/// # Errors
/// It is a part of several, and its name does not say which.
pub fn names(name: &str, checkpoint: &Checkpoint) -> Result<Vec<String>> {
    let broken = |message: String| Error::new(ErrorKind::Malformed, message);
    let Some(count) = integer(&checkpoint.typed_metadata, COUNT_KEY)?.filter(|&n| 1 < n) else {
        return Ok(vec![name.to_owned()]);
    };
    if MAX_PARTS < count {
        return Err(broken(format!("`{COUNT_KEY}` is {count}, at most {MAX_PARTS} are read")));
    }
    let number = integer(&checkpoint.typed_metadata, NUMBER_KEY)?;
    let stem =
        number.and_then(|number| name.strip_suffix(&part_name("", number.checked_add(1)?, count)));
    let Some(stem) = stem else {
        let part = number.map_or("a part".to_owned(), |number| format!("part {}", number + 1));
        let message = format!(
            "is {part} of {count} by its keys, and its name does not end in the way that parts \
             are found by, `{}`",
            part_name("", number.unwrap_or(0) + 1, count)
        );
        return Err(broken(message));
    };
    Ok((1..=count).map(|number| part_name(stem, number, count)).collect())
}

/// The name of a part, counted from 1.
pub fn part_name(stem: &str, number: u64, count: u64) -> String {
    format!("{stem}-{number:05}-of-{count:05}.gguf")
}

/// A key that is a whole number of any kind, and not negative.
fn integer(metadata: &Metadata, key: &str) -> Result<Option<u64>> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
    // One more is computed with it.
    number.filter(|&number| number < u64::MAX).map(Some).ok_or_else(|| {
        let message = format!("`{key}` is no count but a {}", value.kind_name());
        Error::new(ErrorKind::Malformed, message)
    })
}

/// Puts the parts of a model together; they come in order, each with its name.
///
/// # Errors
/// A part is missing or is another one, the parts disagree, or two have the same tensor.
pub fn join(parts: Vec<(String, Checkpoint)>) -> Result<Checkpoint> {
    let n_parts = parts.len() as u64;
    let mut whole: Option<Checkpoint> = None;
    let mut owners: HashMap<String, String> = HashMap::new();
    let mut n_tensors = None;
    for (index, (name, part)) in parts.into_iter().enumerate() {
        let broken =
            |message: String| Err(Error::new(ErrorKind::Malformed, format!("`{name}` {message}")));
        let about = |err: Error| err.context(&format!("`{name}`"));
        let metadata = &part.typed_metadata;
        let count = integer(metadata, COUNT_KEY).map_err(about)?;
        let is_split = 1 < n_parts || count.is_some_and(|count| 1 < count);
        if is_split {
            if count != Some(n_parts) {
                let count = count.map_or("no count of parts".to_owned(), |n| format!("{n} parts"));
                return broken(format!("says {count} in `{COUNT_KEY}`, here are {n_parts}"));
            }
            let number = integer(metadata, NUMBER_KEY).map_err(about)?;
            if number != Some(index as u64) {
                let found =
                    number.map_or("none".to_owned(), |number| format!("part {}", number + 1));
                return broken(format!("is part {} by its name, {found} by its keys", index + 1));
            }
            let total = integer(metadata, TENSORS_KEY).map_err(about)?;
            if total.is_some() && n_tensors.is_some() && n_tensors != total {
                let message = format!("has another `{TENSORS_KEY}` than the part before it");
                return broken(message + "; the parts are of different models");
            }
            n_tensors = total.or(n_tensors);
        }
        for tensor in &part.tensors {
            if let Some(other) = owners.insert(tensor.name.to_string(), name.clone()) {
                return broken(format!("has the tensor `{}`, as has `{other}`", tensor.name));
            }
        }
        let Some(whole) = &mut whole else {
            let mut first = part;
            if is_split {
                // Facts of the files, not of the model.
                let of_split = [NUMBER_KEY, COUNT_KEY, TENSORS_KEY];
                first.typed_metadata.retain(|key| !of_split.contains(&key));
            }
            whole = Some(first);
            continue;
        };
        check_later_keys(&name, &part.typed_metadata, whole)?;
        whole.tensors.extend(part.tensors);
        whole.findings.extend(part.findings);
    }
    let whole = whole.unwrap_or_default();
    if let Some(n_tensors) = n_tensors.filter(|&n| n != whole.tensors.len() as u64) {
        let message = format!(
            "the parts have {} tensors together, `{TENSORS_KEY}` says {n_tensors}",
            whole.tensors.len()
        );
        return Err(Error::new(ErrorKind::Malformed, message));
    }
    Ok(whole)
}

/// Programs read the keys of the first part alone; those of the others may not say otherwise.
fn check_later_keys(name: &str, later: &Metadata, whole: &mut Checkpoint) -> Result<()> {
    let of_part = [NUMBER_KEY, COUNT_KEY, TENSORS_KEY, ALIGNMENT_KEY];
    let mut n_ignored = 0;
    for (key, value) in later.iter().filter(|(key, _)| !of_part.contains(key)) {
        match whole.typed_metadata.get(key) {
            // Compared as JSON: a NaN is the same as itself there.
            Some(first) if first == value || first.to_json() == value.to_json() => {}
            Some(_) => {
                let message = format!(
                    "`{name}` has another `{key}` than the first part; the parts are of different \
                     models"
                );
                return Err(Error::new(ErrorKind::Malformed, message));
            }
            None => n_ignored += 1,
        }
    }
    if n_ignored != 0 {
        let message = format!("{n_ignored} keys stand in a later part alone and are not read");
        let finding = Diagnostic::warning(rule::METADATA_OF_LATER_PART, message);
        whole.findings.push(finding.file(name));
    }
    Ok(())
}

/// The keys that say which part a file is.
pub(super) fn keys(
    number: u64,
    count: u64,
    n_tensors: usize,
) -> Result<[(&'static str, Value); 3]> {
    let limit = || {
        Error::new(ErrorKind::Limit, format!("{n_tensors} tensors in {count} parts are too many"))
    };
    Ok([
        (NUMBER_KEY, Value::U16(u16::try_from(number).map_err(|_| limit())?)),
        (COUNT_KEY, Value::U16(u16::try_from(count).map_err(|_| limit())?)),
        (TENSORS_KEY, Value::I32(i32::try_from(n_tensors).map_err(|_| limit())?)),
    ])
}
