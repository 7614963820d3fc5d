//! One page that stands alone: no script, no network, light and dark, all by keyboard.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::document::{Document, Group, Section};
use super::style::level;
use super::{Context, Format, Report};
use crate::base::terminal::tame;

pub(super) static FORMAT: Format =
    Format { id: "html", about: "one page that stands alone", render };

const STYLE: &str = include_str!("html.css");

/// Groups that are open at first: the worst stand first.
const OPEN: usize = 3;

fn render(report: &dyn Report, context: &Context<'_>) -> std::io::Result<String> {
    Ok(tame(&page(&report.document(context)).into_string(), false) + "\n")
}

fn page(document: &Document) -> Markup {
    let title = format!("llmstd {}", document.command);
    let verdict = if document.passes { "passes" } else { "fails" };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) ": " (verdict) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the findings" }
                header {
                    h1 { (title) }
                    p.verdict {
                        span.badge.(verdict) { (verdict) } " " (document.headline)
                    }
                    @if 1 < document.sections.len() { (contents(document)) }
                }
                main id="main" tabindex="-1" {
                    @for (index, section) in document.sections.iter().enumerate() {
                        (self::section(section, index))
                    }
                }
                footer { p { "llmstd " (env!("CARGO_PKG_VERSION")) } }
            }
        }
    }
}

fn contents(document: &Document) -> Markup {
    html! {
        nav aria-label="Inputs" {
            div.scroll tabindex="0" role="region" aria-label="Table of the inputs" {
                table {
                    thead { tr { th scope="col" { "Input" } th scope="col" { "Result" } } }
                    tbody {
                        @for (index, section) in document.sections.iter().enumerate() {
                            tr {
                                th scope="row" { a href={ "#input-" (index) } { (section.title) } }
                                td { (section.error.as_ref().unwrap_or(&section.summary)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn section(section: &Section, index: usize) -> Markup {
    html! {
        section id={ "input-" (index) } aria-labelledby={ "title-" (index) } {
            h2 id={ "title-" (index) } { (section.title) }
            @if let Some(error) = &section.error {
                p { span.badge.error { "error" } " It could not be checked: " (error) }
            } @else {
                p { (section.summary) }
            }
            @if !section.facts.is_empty() {
                dl {
                    @for (name, value) in &section.facts { div { dt { (name) } dd { (value) } } }
                }
            }
            @if !section.groups.is_empty() {
                h3 { "Findings" }
                @for (at, group) in section.groups.iter().enumerate() {
                    (self::group(group, at < OPEN))
                }
            }
            @if !section.checks.is_empty() { (checks(section, index)) }
        }
    }
}

fn group(group: &Group, open: bool) -> Markup {
    let word = level(group.level);
    html! {
        details.group.(word) open[open && group.waived.is_none()] {
            summary {
                span.badge.(word) { (word) } " "
                b { (group.rule) " " (group.name) }
                @if 1 < group.findings { " ×" (group.findings) }
                @if group.waived.is_some() { " (waived)" }
                ": " (group.message)
            }
            @if let Some(why) = &group.waived { p { "Waived: " (why) } }
            ul {
                @for detail in &group.details {
                    li {
                        (detail.message)
                        @if 1 < detail.rows { " ×" (detail.rows) }
                        @if let Some(file) = &detail.file {
                            " in " code { (file) }
                            @if let Some([start, end]) = detail.bytes {
                                ", bytes " (start) " to " (end)
                            }
                        }
                        @if let Some((expected, found)) = &detail.mismatch {
                            br; "expected " code { (expected) } ", found " code { (found) }
                        }
                    }
                }
                @if group.untold != 0 { li { "… and " (group.untold) " more like it" } }
            }
            @if let Some(help) = &group.help { p.help { (help) } }
            p.where {
                code { (group.anchor.path) @if let Some(line) = group.anchor.line { ":" (line) } }
            }
        }
    }
}

fn checks(section: &Section, index: usize) -> Markup {
    html! {
        h3 { "What was checked" }
        p { (section.checked()) "." }
        @let reasons = section.not_applied();
        @if !reasons.is_empty() {
            ul { @for (why, rules) in &reasons { li { (why) ": " (rules.join(", ")) } } }
        }
        details {
            summary { "Every rule" }
            div.scroll tabindex="0" role="region" aria-label={ "Rules of input " (index + 1) } {
                table {
                    thead {
                        tr {
                            th scope="col" { "Rule" }
                            th scope="col" { "Name" }
                            th scope="col" { "Belongs to" }
                            th scope="col" { "Outcome" }
                            th scope="col" { "Why" }
                        }
                    }
                    tbody {
                        @for check in &section.checks {
                            tr {
                                th scope="row" { (check.rule) }
                                td { (check.name) }
                                td { (check.level) }
                                td { (section.word(check)) }
                                td { (check.why.as_deref().unwrap_or_default()) }
                            }
                        }
                    }
                }
            }
        }
    }
}
