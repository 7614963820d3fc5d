//! JUnit XML: a suite for each input, a case for each rule, so that what passed and what was not
//! checked is seen too.

use std::io::{self, Write};

use quick_xml::events::BytesText;
use quick_xml::writer::Writer;

use super::document::{Check, Document, Group, Section};
use super::style::level;
use super::{Context, Format, Report};
use crate::rule::Outcome;

pub(super) static FORMAT: Format =
    Format { id: "junit", about: "JUnit XML: one case for each rule", render };

/// What came of one case.
enum Case<'a> {
    Passed,
    Failed(Vec<&'a Group>),
    Skipped(&'a str),
}

fn render(report: &dyn Report, context: &Context<'_>) -> io::Result<String> {
    let document = report.document(context);
    let suites: Vec<Vec<(String, Case<'_>, Vec<&Group>)>> =
        document.sections.iter().map(|section| cases(section, &document)).collect();
    let all = || suites.iter().flatten();
    let mut bytes = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_vec();
    let mut writer = Writer::new_with_indent(&mut bytes, b' ', 2);
    let errors = document.sections.iter().filter(|section| section.error.is_some()).count();
    writer
        .create_element("testsuites")
        .with_attribute(("name", format!("llmstd {}", document.command).as_str()))
        .with_attribute(("tests", (all().count() + errors).to_string().as_str()))
        .with_attribute(("failures", failures(all()).to_string().as_str()))
        .with_attribute(("errors", errors.to_string().as_str()))
        .write_inner_content(|writer| {
            document
                .sections
                .iter()
                .zip(&suites)
                .try_for_each(|(one, cases)| suite(writer, one, cases))
        })?;
    bytes.push(b'\n');
    String::from_utf8(bytes).map_err(io::Error::other)
}

fn failures<'a>(cases: impl Iterator<Item = &'a (String, Case<'a>, Vec<&'a Group>)>) -> usize {
    cases.filter(|(_, case, _)| matches!(case, Case::Failed(_))).count()
}

/// The cases of a section: the rules that are listed, and those that found something besides.
fn cases<'a>(section: &'a Section, document: &Document) -> Vec<(String, Case<'a>, Vec<&'a Group>)> {
    let groups = |rule: &str| -> Vec<&Group> {
        section.groups.iter().filter(|group| group.rule == rule).collect()
    };
    let case = |rule: &str, check: Option<&'a Check>| {
        let groups = groups(rule);
        let bad = groups.iter().filter(|one| section.fail_on <= one.level && one.waived.is_none());
        let bad: Vec<&Group> = bad.copied().collect();
        let case = match check.map(|check| (check.outcome, check.why.as_deref())) {
            _ if !bad.is_empty() => Case::Failed(bad),
            Some((Outcome::Skipped, why)) => Case::Skipped(why.unwrap_or("skipped")),
            Some((Outcome::NotApplicable, why)) => Case::Skipped(why.unwrap_or("not applicable")),
            _ => Case::Passed,
        };
        (format!("{rule} {}", document.name(rule)), case, groups)
    };
    let mut cases: Vec<_> =
        section.checks.iter().map(|check| case(check.rule, Some(check))).collect();
    let mut others: Vec<&str> = section.groups.iter().map(|group| group.rule).collect();
    others.retain(|rule| section.checks.iter().all(|check| check.rule != *rule));
    others.sort_unstable();
    others.dedup();
    cases.extend(others.into_iter().map(|rule| case(rule, None)));
    cases
}

fn suite<W: Write>(
    writer: &mut Writer<W>,
    section: &Section,
    cases: &[(String, Case<'_>, Vec<&Group>)],
) -> io::Result<()> {
    let error = section.error.as_ref();
    let n_skipped = cases.iter().filter(|(_, case, _)| matches!(case, Case::Skipped(_))).count();
    let n_tests = cases.len() + usize::from(error.is_some());
    writer
        .create_element("testsuite")
        .with_attribute(("name", clean(&section.title).as_str()))
        .with_attribute(("tests", n_tests.to_string().as_str()))
        .with_attribute(("failures", failures(cases.iter()).to_string().as_str()))
        .with_attribute(("errors", if error.is_some() { "1" } else { "0" }))
        .with_attribute(("skipped", n_skipped.to_string().as_str()))
        .write_inner_content(|writer| {
            if let Some(error) = error {
                case_start(writer, section, "open").write_inner_content(|writer| {
                    let element = writer.create_element("error");
                    element.with_attribute(("message", clean(error).as_str())).write_empty()?;
                    Ok(())
                })?;
            }
            cases.iter().try_for_each(|(name, case, groups)| {
                let element = case_start(writer, section, name);
                match case {
                    Case::Passed if groups.is_empty() => element.write_empty().map(|_| ()),
                    Case::Passed => {
                        let text = groups.iter().map(|group| told(group)).collect::<String>();
                        let text = clean(&text);
                        let inner = |writer: &mut Writer<W>| {
                            let out = writer.create_element("system-out");
                            out.write_text_content(BytesText::new(&text)).map(|_| ())
                        };
                        element.write_inner_content(inner).map(|_| ())
                    }
                    Case::Skipped(why) => {
                        let why = clean(why);
                        let inner = |writer: &mut Writer<W>| {
                            let skipped = writer.create_element("skipped");
                            skipped.with_attribute(("message", why.as_str())).write_empty()?;
                            Ok(())
                        };
                        element.write_inner_content(inner).map(|_| ())
                    }
                    Case::Failed(groups) => {
                        let first = groups.first().map_or("", |group| &group.message);
                        let n: usize = groups.iter().map(|group| group.findings).sum();
                        let text = clean(&groups.iter().map(|one| told(one)).collect::<String>());
                        let message = match n {
                            1 => clean(first),
                            n => clean(&format!("{n} findings: {first}")),
                        };
                        let inner = |writer: &mut Writer<W>| {
                            let failure = writer.create_element("failure");
                            let failure = failure.with_attribute(("message", message.as_str()));
                            let failure = failure.with_attribute((
                                "type",
                                groups.first().map_or("error", |one| level(one.level)),
                            ));
                            failure.write_text_content(BytesText::new(&text)).map(|_| ())
                        };
                        element.write_inner_content(inner).map(|_| ())
                    }
                }
            })
        })?;
    Ok(())
}

fn case_start<'w, W: Write>(
    writer: &'w mut Writer<W>,
    section: &Section,
    name: &str,
) -> quick_xml::writer::ElementWriter<'w, W> {
    let element = writer.create_element("testcase");
    let element = element.with_attribute(("classname", clean(&section.title).as_str()));
    element.with_attribute(("name", clean(name).as_str()))
}

/// A group for people.
fn told(group: &Group) -> String {
    let mut text = String::new();
    for detail in &group.details {
        text.push_str(&format!("{}[{}]: {}\n", level(group.level), group.rule, detail.message));
        if let Some((expected, found)) = &detail.mismatch {
            text.push_str(&format!("  expected: {expected}\n  found: {found}\n"));
        }
    }
    if group.untold != 0 {
        text.push_str(&format!("  … and {} more like it\n", group.untold));
    }
    if let Some(help) = &group.help {
        text.push_str(&format!("  help: {help}\n"));
    }
    if let Some(why) = &group.waived {
        text.push_str(&format!("  waived: {why}\n"));
    }
    text
}

/// Text without the characters that XML has no way to write.
fn clean(text: &str) -> String {
    let fits =
        |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..) && !matches!(c, '\u{fffe}' | '\u{ffff}');
    text.chars().map(|c| if fits(c) { c } else { '\u{fffd}' }).collect()
}
