//! The only place that prints.

use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::diagnostic::{Diagnostic, Level, Refusal};
use crate::base::mirror;
use crate::base::terminal::tame;
use crate::base::threads;
use crate::spec::Spec;
use anyhow::Context as _;
use serde::Serialize;

use super::{Format, Global, Status};

/// Whether text is coloured; what else would steer a terminal is of a model, and is never printed.
static HAS_COLORS: AtomicBool = AtomicBool::new(false);

/// Says whether text is coloured.
pub(crate) fn set_colors(has_colors: bool) {
    HAS_COLORS.store(has_colors, Ordering::Relaxed);
}

fn tamed(text: &str) -> String {
    tame(text, HAS_COLORS.load(Ordering::Relaxed))
}

/// Prints beside the result. If even that cannot be printed, there is nobody to tell.
fn tell(text: &str) {
    let _ = io::stderr().lock().write_all(tamed(&mirror::told(text)).as_bytes());
}

/// Prints a result for people. A reader that went away is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    print_data(&tamed(text))
}

/// Prints a result for programs, as it is. A reader that went away is no error.
pub(crate) fn print_data(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(mirror::told(text).as_bytes()).and_then(|()| out.flush()) {
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot print the result"),
    }
}

/// Prints a result as JSON.
pub(crate) fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot print the result")?;
    print_data(&format!("{text}\n"))
}

/// Says something that is not a result.
pub(crate) fn hint(text: &str, global: &Global) {
    if !global.quiet {
        tell(&format!("{text}\n"));
    }
}

/// Prints why the work stopped.
pub(crate) fn error(err: &anyhow::Error, global: &Global) {
    let mut text = String::new();
    for (index, cause) in err.chain().enumerate() {
        let label = if index == 0 { paint("error", "31", global) } else { "  cause".to_owned() };
        text.push_str(&format!("{label}: {cause}\n"));
    }
    tell(&text);
}

/// Findings as text: what, where, what to do; alike ones in one entry.
pub(crate) fn findings(findings: &[Diagnostic], global: &Global) -> String {
    crate::report::text::findings(findings, global.style())
}

/// Tells findings beside a result: on stderr, and with `--quiet` only those that weigh.
pub(crate) fn warn(findings: &[Diagnostic], global: &Global) {
    let least = if global.quiet { Level::Warning } else { Level::Note };
    let told: Vec<Diagnostic> =
        findings.iter().filter(|finding| least <= finding.level).cloned().collect();
    tell(&self::findings(&told, global));
}

/// Findings that kept the work from being done, and the exit code for them.
pub(crate) fn refuse(findings: &[Diagnostic], global: &Global) -> anyhow::Result<Status> {
    let n_errors = findings.iter().filter(|finding| finding.level == Level::Error).count();
    report_findings(findings, global)?;
    let s = if n_errors == 1 { "" } else { "s" };
    anyhow::bail!(
        "the conversion is not possible as it stands: {n_errors} finding{s}, nothing was written"
    )
}

/// Tells why a checkpoint is refused: people on stderr, programs on stdout.
fn report_findings(findings: &[Diagnostic], global: &Global) -> anyhow::Result<()> {
    if global.format == Format::Json {
        return print_json(&Refusal::new(findings.to_vec()));
    }
    tell(&self::findings(findings, global));
    Ok(())
}

/// Findings that keep a checkpoint from being put in the standard's terms.
pub(crate) fn refuse_input(
    path: &Path,
    findings: &[Diagnostic],
    global: &Global,
) -> anyhow::Result<Status> {
    report_findings(findings, global)?;
    anyhow::bail!(
        "{}: does not fit its architecture; --generic takes it under its own names",
        path.display()
    )
}

/// How many threads work: as many as there are cores, unless it is said. Comes first in a command, since nothing may
/// have used the pool before.
pub(crate) fn n_threads(asked: Option<NonZeroUsize>) -> usize {
    let available = || std::thread::available_parallelism().map_or(1, usize::from);
    let n = asked.map_or_else(available, usize::from);
    threads::limit(n);
    n
}

/// Text in a colour, if colours are on.
pub(crate) fn paint(text: &str, code: &str, global: &Global) -> String {
    global.style().paint(text, code)
}

/// The standard that was asked for.
pub(crate) fn spec(global: &Global) -> anyhow::Result<&'static Spec> {
    spec_of(global.spec.as_deref())
}

/// The standard of this version, or in this folder. It is there until the program ends: to free its thousands of
/// parts takes a tenth of the time of a command on a small model.
pub(crate) fn spec_of(named: Option<&str>) -> anyhow::Result<&'static Spec> {
    Ok(Box::leak(Box::new(Spec::named(named)?)))
}

pub(crate) use crate::report::table;

/// Bytes for people.
pub(crate) fn size(n_bytes: u64) -> String {
    const UNITS: &[&str] = &["B", "kB", "MB", "GB", "TB"];
    let mut value = n_bytes as f64;
    let mut unit = 0;
    while 1000.0 <= value && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n_bytes} B") } else { format!("{value:.2} {}", UNITS[unit]) }
}

/// The formats of files that are read, as values of an argument.
pub(crate) fn formats() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(crate::format::FORMATS.iter().map(|of| of.id))
}

/// The format that an argument names.
pub(crate) fn wanted(from: Option<&str>) -> Option<&'static crate::format::Format> {
    from.and_then(crate::format::find)
}
