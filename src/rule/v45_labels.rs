//! V451 to V453: the labels of a foreign config.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::base::diagnostic::Level;
use crate::folder::CONFIG_FILE;
use crate::package::Conformance;
use crate::rule::{NotChecked, PackageView, Rule};

/// `label2id` is not `id2label` turned around.
pub(super) static INVERSE: Rule = Rule {
    level: Conformance::Schema,
    ..Rule::around("V451", "labels-inverse", Level::Warning, |view, found| {
        let (labels, config) = labels(view)?;
        let Some(ids) = config.get("label2id").and_then(Json::as_object) else {
            return Err(NotChecked::NotApplicable("there is no `label2id`"));
        };
        let says = |label: &str| ids.get(label).and_then(whole);
        let differs = labels
            .iter()
            .find(|(id, label)| says(label) != Some(**id) && !is_twice(&labels, label));
        if let Some((id, label)) = differs {
            let other = says(label).map_or("nothing".to_owned(), |id| id.to_string());
            found.push(
                INVERSE
                    .finding(format!(
                        "`id2label` has {label:?} at {id}, and `label2id` gives it {other}"
                    ))
                    .file(CONFIG_FILE)
                    .key("label2id")
                    .mismatch(id, other)
                    .help(
                        "a program that reads the other one gives other labels: make them inverse",
                    ),
            );
        }
        Ok(())
    })
};

/// The ids of labels do not run from 0.
pub(super) static GAPS: Rule = Rule {
    level: Conformance::Schema,
    ..Rule::around("V452", "label-ids", Level::Warning, |view, found| {
        let (labels, _) = labels(view)?;
        if let Some(missing) = (0..).zip(labels.keys()).find(|(expected, id)| expected != *id) {
            found.push(
                GAPS.finding(format!(
                    "`id2label` has no label of {}, and one of {}",
                    missing.0, missing.1
                ))
                .file(CONFIG_FILE)
                .key("id2label")
                .mismatch(format!("ids from 0 to {}", labels.len().saturating_sub(1)), missing.1)
                .help("rows of the head have no label, and labels no row: number them anew"),
            );
        }
        Ok(())
    })
};

/// Two rows have one label.
pub(super) static TWICE: Rule = Rule {
    level: Conformance::Schema,
    ..Rule::around("V453", "label-twice", Level::Warning, |view, found| {
        let (labels, _) = labels(view)?;
        let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
        for (id, label) in &labels {
            if let Some(first) = seen.get(label.as_str()) {
                found.push(
                    TWICE
                        .finding(format!("{label:?} is the label of the rows {first} and {id}"))
                        .file(CONFIG_FILE)
                        .key("id2label")
                        .help("who reads the label cannot tell the two apart: name each row"),
                );
                continue;
            }
            seen.insert(label, *id);
        }
        Ok(())
    })
};

/// The labels of a config by their ids, and the config.
fn labels(view: &PackageView<'_>) -> Result<(BTreeMap<u64, String>, Json), NotChecked> {
    let none = NotChecked::NotApplicable("there is no foreign config with labels");
    let config = view.foreign_config().ok_or(none)?;
    let stated = config.get("id2label").and_then(Json::as_object).ok_or(none)?;
    let labels = stated
        .iter()
        .filter_map(|(id, label)| Some((id.parse().ok()?, label.as_str()?.to_owned())));
    Ok((labels.collect(), config))
}

/// Two ids of one label cannot both be told by `label2id`, which is another finding.
fn is_twice(labels: &BTreeMap<u64, String>, label: &str) -> bool {
    labels.values().filter(|other| *other == label).count() != 1
}

/// A whole number, however it is spelled.
fn whole(json: &Json) -> Option<u64> {
    json.as_u64().or_else(|| json.as_str()?.parse().ok())
}
