//! `llmstd explain`.

use std::fmt::Write as _;

use crate::spec::listing::{Page, Pages};

use super::{Format, Global, Status, output};

/// Print the page of a rule: what it finds, why it matters, what to do
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  llmstd explain V120        the page of a rule
  llmstd explain             every rule

Exit status:
  0  it was printed
  2  there is no such rule")]
pub(crate) struct Args {
    /// The number of a rule; all are listed without one
    #[arg(value_name = "RULE")]
    rule: Option<String>,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Status> {
    let spec = output::spec(global)?;
    let mut pages = spec.pages();
    if let Some(wanted) = &args.rule {
        let is_it = |page: &Page| {
            page.rule.eq_ignore_ascii_case(wanted) || page.name.eq_ignore_ascii_case(wanted)
        };
        anyhow::ensure!(pages.iter().any(is_it), "{}", spec.no_rule(wanted));
        pages.retain(is_it);
    } else {
        for page in &mut pages {
            page.text = None;
        }
    }
    match global.format {
        Format::Json => {
            output::print_json(&Pages { schema: "llmstd.explain/1", rules: pages })?;
        }
        Format::Text => output::print(&text(&pages))?,
    }
    Ok(Status::SUCCESS)
}

fn text(pages: &[Page]) -> String {
    let mut text = String::new();
    for page in pages {
        let _ = match &page.text {
            Some(page) => writeln!(text, "{}", page.trim_end()),
            None => writeln!(text, "{}  {:<24}  {}", page.rule, page.name, page.about),
        };
    }
    text
}
