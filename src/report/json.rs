//! The result as it is; its schema is under `spec/1.0/schema`.

use super::{Context, Format, Report};

pub(super) static FORMAT: Format =
    Format { id: "json", about: "for programs; the schemas are under spec/1.0/schema", render };

fn render(report: &dyn Report, context: &Context<'_>) -> std::io::Result<String> {
    Ok(report.json(context)?)
}
