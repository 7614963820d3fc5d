//! What an input holds, which policies are about.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::rule::view::PackageView;

/// What an input holds, which policies are about.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Contents {
    /// How many plain tensors there are of each dtype.
    pub dtypes: BTreeMap<String, u64>,
    /// How many packed tensors there are of each encoding.
    pub encodings: BTreeMap<String, u64>,
    /// The bytes of all tensors.
    pub bytes: u64,
    /// The tasks that it serves.
    pub tasks: Vec<String>,
    /// The licences that are stated: at the head of `README.md`, or in the metadata.
    pub licences: Vec<String>,
    /// The digests of its manifest.
    pub digests: BTreeMap<&'static str, String>,
}

impl Contents {
    pub(super) fn of(view: &PackageView<'_>) -> Contents {
        let mut contents = Contents::default();
        let encodings = view.model.good().map(|model| &model.encodings);
        for tensor in &view.tensors {
            contents.bytes = contents.bytes.saturating_add(tensor.len);
            let entry = encodings.and_then(|encodings| encodings.get(&*tensor.name));
            let n = match entry {
                Some(entry) => {
                    let id = entry.get("encoding").and_then(serde_json::Value::as_str);
                    contents.encodings.entry(id.unwrap_or("not known").to_owned()).or_default()
                }
                // A scale or a zero point belongs to its encoding.
                None if view.whole_of(&tensor.name).is_some() => continue,
                None => contents.dtypes.entry(tensor.dtype.name().to_owned()).or_default(),
            };
            *n += 1;
        }
        if let Some(model) = view.model.good() {
            contents.tasks = model.tasks.iter().map(|task| task.id.clone()).collect();
        }
        if let Some(manifest) = view.manifest.good() {
            let each = manifest.digests.each().into_iter();
            contents.digests =
                each.filter_map(|(name, digest)| Some((name, digest?.to_owned()))).collect();
        }
        let card = view.bytes(CARD_FILE).unwrap_or_default();
        contents.licences = licences(&String::from_utf8_lossy(card));
        contents
    }
}

/// The model card, with its licence at the head.
const CARD_FILE: &str = "README.md";

/// The licences that the head of a model card states: `license: mit`, or a list.
pub(crate) fn licences(card: &str) -> Vec<String> {
    let mut lines = card.lines();
    if lines.next().map(str::trim_end) != Some("---") {
        return Vec::new();
    }
    let clean = |word: &str| word.trim().trim_matches(['"', '\'', '[', ']']).to_owned();
    let head: Vec<&str> = lines.take_while(|line| line.trim_end() != "---").collect();
    let mut found = Vec::new();
    for (at, line) in head.iter().enumerate() {
        let Some(said) = line.strip_prefix("license:") else { continue };
        if said.trim().is_empty() {
            let below = head[at + 1..].iter().map_while(|line| line.trim().strip_prefix("- "));
            found.extend(below.map(clean));
        } else {
            found.extend(said.split(',').map(clean));
        }
    }
    found.retain(|word| !word.is_empty());
    found
}
