//! The Code Quality report of GitLab.

use serde_json::{Value as Json, json};

use super::document::Group;
use super::{Context, Format, Report, pretty};
use crate::base::diagnostic::Level;

pub(super) static FORMAT: Format =
    Format { id: "gitlab", about: "the Code Quality report of GitLab", render };

fn render(report: &dyn Report, context: &Context<'_>) -> std::io::Result<String> {
    let document = report.document(context);
    let groups = document.sections.iter().flat_map(|section| &section.groups);
    let groups = groups.filter(|group| group.waived.is_none());
    Ok(pretty(&groups.map(issue).collect::<Vec<_>>())?)
}

fn issue(group: &Group) -> Json {
    let severity = match group.level {
        Level::Error => "major",
        Level::Warning => "minor",
        Level::Note => "info",
    };
    json!({
        "description": group.message,
        "check_name": format!("{} {}", group.rule, group.name),
        "fingerprint": group.fingerprint,
        "severity": severity,
        "location": {
            "path": group.anchor.path,
            "lines": { "begin": group.anchor.line.unwrap_or(1) },
        },
    })
}
