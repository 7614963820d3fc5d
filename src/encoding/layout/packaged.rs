//! Tensors that a package stores as several, held against what it says of them.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::group::Stored;
use super::rules::Layouts;
use crate::checkpoint::layout::{Layout, PartRule};
use crate::checkpoint::{DType, Encoding, n_elements};

/// What a tensor of a package is, how it is stored, and the roles and places of its parts, the payload first.
pub(super) type Packaged<'l> = (Encoding, &'l Arc<Layout>, Vec<(String, usize)>);

/// The dimensions of a matrix, or of a stack of them, whose values a payload of other dimensions
/// holds: those in front, rows and columns. Where they do not follow from the parts, only the bytes
/// tell that rows and columns are right.
///
/// # Errors
/// The payload cannot hold them; the reason.
pub fn matrices<'s>(
    values: &'s [u64],
    payload: &[u64],
) -> std::result::Result<(&'s [u64], u64, u64), String> {
    let [lead @ .., rows, cols] = values else {
        return Err(format!("its shape is {values:?}, expected a matrix"));
    };
    let n_values = n_elements(values).filter(|&n| DType::F32.n_bytes(n).is_some());
    let why = match (n_values, n_elements(payload)) {
        (None, _) => "too many values",
        (Some(0), Some(1..)) => "no values, of a payload that has some",
        _ if !payload.starts_with(lead) => "not a part of the payload for each matrix",
        _ => return Ok((lead, *rows, *cols)),
    };
    Err(format!("its shape is {values:?}, that of its payload {payload:?}: {why}"))
}

impl Layouts {
    /// What a package says of a tensor that it stores as several, held against its parts: what the
    /// tensor is, and the places of the parts in `stored`, the payload first. `None` if what it
    /// says is of blocks in line. `find` gives the place of a name.
    ///
    /// # Errors
    /// The entry has another form, or the parts are not what it says; the reason.
    pub fn packaged(
        &self,
        name: &str,
        entry: &Value,
        stored: &[Stored<'_>],
        find: impl Fn(&str) -> Option<usize>,
    ) -> std::result::Result<Option<Packaged<'_>>, String> {
        let known = entry.get("encoding").and_then(Value::as_str).and_then(|id| self.find(id));
        let Some(layout) = known else { return Ok(None) };
        let encoding: Encoding =
            Deserialize::deserialize(entry).map_err(|err: serde_json::Error| err.to_string())?;
        let find = |part: &PartRule| find(&layout.standard_name(name, &part.role));
        let group = layout.fit(name.to_owned(), stored, find, encoding.parameters.clone());
        let group = group.ok_or_else(|| format!("its parts are not those of {}", layout.id))?;
        if let Some(problem) = group.problems.into_iter().next() {
            return Err(problem);
        }
        let mut shape = group.shape;
        if let (true, Some([.., rows, cols])) = (layout.transposed, shape.as_deref_mut()) {
            std::mem::swap(rows, cols);
        }
        if let Some(shape) = shape.filter(|shape| *shape != encoding.shape) {
            let stated = &encoding.shape;
            return Err(format!("its parts make {shape:?} values, it says {stated:?}"));
        }
        let payload = group.parts.get(layout.parts[0].role.as_str()).map(|&at| stored[at].shape);
        matrices(&encoding.shape, payload.unwrap_or_default())?;
        let places = layout
            .parts
            .iter()
            .filter_map(|rule| Some((rule.role.clone(), *group.parts.get(rule.role.as_str())?)));
        Ok(Some((encoding, layout, places.collect())))
    }

    /// The names that the parts of a tensor have in a package beside the payload.
    pub fn companions(&self, name: &str, entry: &Value) -> Vec<String> {
        let known = entry.get("encoding").and_then(Value::as_str).and_then(|id| self.find(id));
        let rules = known.map_or(&[][..], |layout| layout.parts.get(1..).unwrap_or_default());
        rules.iter().map(|rule| format!("{name}.{}", rule.role)).collect()
    }
}
