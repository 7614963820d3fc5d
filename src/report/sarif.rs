//! SARIF 2.1.0, which code hosts show beside changes.
//!
//! One result for a rule and what to do about it, not one for each tensor: hosts keep a few thousand
//! results only. Each points to a line of a text file, as weights show nothing.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::document::{Document, Group};
use super::style::level;
use super::{Context, Format, Report, pretty};
use crate::base::diagnostic::Level;

pub(super) static FORMAT: Format =
    Format { id: "sarif", about: "SARIF 2.1.0, for code scanning", render };

/// Names of tensors that one result lists.
const MOST_NAMES: usize = 100;

fn render(report: &dyn Report, context: &Context<'_>) -> std::io::Result<String> {
    let document = report.document(context);
    let mut ids: Vec<&str> = Vec::new();
    for section in &document.sections {
        ids.extend(section.checks.iter().map(|check| check.rule));
        ids.extend(section.groups.iter().map(|group| group.rule));
    }
    ids.sort_unstable();
    ids.dedup();
    let places: BTreeMap<&str, usize> = ids.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    let rules: Vec<Json> = ids.iter().map(|id| rule(id, &document)).collect();
    let groups = document.sections.iter().flat_map(|section| &section.groups);
    let results: Vec<Json> = groups.map(|group| result(group, places[group.rule])).collect();
    let failed = document.sections.iter().filter_map(|section| {
        let error = section.error.as_ref()?;
        Some(json!({ "level": "error", "message": { "text": error } }))
    });
    let failed: Vec<Json> = failed.collect();
    let sections: Vec<Json> = document.sections.iter().map(section).collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "llmstd",
                "version": env!("CARGO_PKG_VERSION"),
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "shortDescription": { "text": env!("CARGO_PKG_DESCRIPTION") },
                "rules": rules,
            } },
            "automationDetails": { "id": format!("llmstd/{}/", document.command) },
            "invocations": [{
                "executionSuccessful": failed.is_empty(),
                "toolExecutionNotifications": failed,
            }],
            "results": results,
            "properties": { "headline": document.headline, "inputs": sections },
        }],
    });
    Ok(pretty(&log)?)
}

fn rule(id: &str, document: &Document) -> Json {
    let Some(page) = document.pages.get(id) else { return json!({ "id": id }) };
    let text = page.text.as_deref().unwrap_or(&page.about).trim_end();
    json!({
        "id": id,
        "name": page.name,
        "shortDescription": { "text": page.about },
        "fullDescription": { "text": page.about },
        "help": { "text": text, "markdown": text },
        "properties": { "tags": [document.command] },
    })
}

fn result(group: &Group, index: usize) -> Json {
    let mut text = format!("{}.", group.message.trim_end_matches('.'));
    for detail in group.details.iter().take(5) {
        if let Some((expected, found)) = &detail.mismatch {
            text.push_str(&format!(" Expected {expected}, found {found}."));
        }
    }
    if let Some(help) = &group.help {
        text.push_str(&format!(" {}.", capital(help)));
    }
    let anchor = &group.anchor;
    let names = group.tensors.iter().take(MOST_NAMES);
    let names: Vec<Json> = names.map(|name| json!({ "name": name, "kind": "member" })).collect();
    let mut location = json!({ "physicalLocation": place(&anchor.path) });
    // A result without a line is not shown.
    location["physicalLocation"]["region"] = json!({ "startLine": anchor.line.unwrap_or(1) });
    if !names.is_empty() {
        location["logicalLocations"] = json!(names);
    }
    let mut result = json!({
        "ruleId": group.rule,
        "ruleIndex": index,
        "level": level(group.level),
        "message": { "text": text },
        "locations": [location],
        "partialFingerprints": { "llmstdGroup/v1": group.fingerprint },
        "properties": { "findings": group.findings },
    });
    if let Some((file, bytes)) = &anchor.about {
        let mut about = place(file);
        if let Some([start, end]) = bytes {
            about["region"] =
                json!({ "byteOffset": start, "byteLength": end.saturating_sub(*start) });
        }
        let message = json!({ "text": "the file it is about" });
        result["relatedLocations"] = json!([{ "physicalLocation": about, "message": message }]);
    }
    if let Some(why) = &group.waived {
        result["suppressions"] = json!([{ "kind": "external", "justification": why }]);
    }
    result
}

/// A sentence from a clause.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

fn place(path: &str) -> Json {
    json!({ "artifactLocation": { "uri": uri(path) } })
}

/// A path as a URI reference: everything but letters, digits and a few signs is escaped.
fn uri(path: &str) -> String {
    let mut uri = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(byte));
            }
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    if path.starts_with('/') { format!("file://{uri}") } else { uri }
}

fn section(section: &super::document::Section) -> Json {
    let checks = section.checks.iter().map(|check| {
        let outcome = check.outcome;
        json!({ "rule": check.rule, "outcome": outcome, "why": check.why })
    });
    let checks: Vec<Json> = checks.collect();
    let worst = section.groups.iter().filter(|group| group.waived.is_none()).map(|one| one.level);
    json!({
        "path": section.title,
        "summary": section.summary,
        "worst": worst.max().map(|worst: Level| level(worst)),
        "checks": checks,
    })
}

#[cfg(test)]
mod tests {
    use super::uri;

    #[test]
    fn paths_are_uris() {
        assert_eq!(uri("a b/ü#1/%.json"), "a%20b/%C3%BC%231/%25.json");
        assert_eq!(uri("/m/x.json"), "file:///m/x.json");
    }
}
