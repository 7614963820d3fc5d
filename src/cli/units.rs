//! `llmstd convert --plan`: a conversion in units, planned once and carried out anywhere.

use std::path::Path;

use crate::convert::units::{Unit, UnitsReport};
use anyhow::{Context as _, bail, ensure};
use clap::Parser as _;
use serde::Deserialize;

use super::convert::args::Args;
use super::{Cli, Command, Global};

/// A plan that was kept.
pub(crate) struct Planned {
    /// The arguments of the run that made it.
    pub(crate) args: Args,
    /// The standard that was asked for.
    pub(crate) spec: Option<String>,
    /// What tells it from other plans.
    pub(crate) digest: String,
}

/// What is read of the report of a dry run.
#[derive(Deserialize)]
struct Kept {
    schema: String,
    units: Option<UnitsReport>,
}

/// Reads a plan.
///
/// # Errors
/// It is none, or its arguments are not those of this program.
pub(crate) fn read(path: &Path) -> anyhow::Result<Planned> {
    let place = path.display();
    let text = std::fs::read(path).with_context(|| format!("cannot read {place}"))?;
    let help = "write one with: llmstd convert SRC DST … --dry-run --format json > plan.json";
    let kept: Kept = serde_json::from_slice(&text)
        .with_context(|| format!("{place} is no plan of a conversion; {help}"))?;
    ensure!(kept.schema == "llmstd.convert/1", "{place} is no plan of a conversion; {help}");
    let units = kept.units.filter(|units| !units.arguments.is_empty());
    let units = units.with_context(|| format!("{place} has no units; {help}"))?;
    let words = std::iter::once("llmstd").chain(units.arguments.iter().map(String::as_str));
    let cli = Cli::try_parse_from(words)
        .with_context(|| format!("{place} is of another version of this program; {help}"))?;
    let Command::Convert(args) = cli.command else {
        bail!("{place} has the arguments of another command; {help}");
    };
    ensure!(args.plan.is_none(), "{place} is made of another plan; {help}");
    Ok(Planned { args, spec: cli.global.spec, digest: units.digest })
}

/// The arguments of this run, for a plan.
pub(crate) fn arguments(global: &Global) -> Vec<String> {
    global.words.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Where schedulers say which task of many a process is, and what the first one is there.
const NUMBERS: &[(&str, u64)] = &[("SLURM_ARRAY_TASK_ID", 1), ("JOB_COMPLETION_INDEX", 0)];

/// The unit of a word: `K/N`, or `auto/N` with the number that the scheduler has given. `variable` is
/// the environment.
///
/// # Errors
/// It is no unit, or no scheduler has said a number from 1 to N.
pub(crate) fn unit(word: &str, variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Unit> {
    let Some(count) = word.strip_prefix("auto/") else {
        return word.parse().map_err(anyhow::Error::msg);
    };
    let found = NUMBERS.iter().find_map(|(name, first)| Some((*name, *first, variable(name)?)));
    let (name, first, value) = found.with_context(|| {
        let names: Vec<&str> = NUMBERS.iter().map(|(name, _)| *name).collect();
        format!("--unit {word} takes its number from {}: none is set", names.join(" or "))
    })?;
    let number: Option<u64> = value.parse().ok();
    let number = number.and_then(|number| number.checked_sub(first)?.checked_add(1));
    let unit = number.and_then(|number| format!("{number}/{count}").parse().ok());
    unit.with_context(|| {
        format!(
            "--unit {word}: {name} is {value}, its numbers go from {first} on, as many as N says"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_named_or_taken_from_the_scheduler() {
        let none = |_: &str| None;
        let of = |name: &'static str, value: &'static str| {
            move |asked: &str| (asked == name).then(|| value.to_owned())
        };
        let number = |unit: anyhow::Result<Unit>| unit.ok().map(|unit| (unit.number, unit.count));
        assert_eq!(number(unit("3/16", none)), Some((3, 16)));
        assert_eq!(number(unit("auto/4", of("SLURM_ARRAY_TASK_ID", "4"))), Some((4, 4)));
        assert_eq!(number(unit("auto/4", of("JOB_COMPLETION_INDEX", "0"))), Some((1, 4)));
        for (word, name, value) in [
            ("auto/4", "SLURM_ARRAY_TASK_ID", "0"),
            ("auto/4", "SLURM_ARRAY_TASK_ID", "5"),
            ("auto/4", "JOB_COMPLETION_INDEX", "4"),
            ("auto/4", "JOB_COMPLETION_INDEX", "x"),
            ("auto", "JOB_COMPLETION_INDEX", "1"),
            ("0/4", "", ""),
            ("5/4", "", ""),
            ("1/0", "", ""),
        ] {
            assert!(unit(word, of(name, value)).is_err(), "{word} {value}");
        }
        assert!(unit("auto/4", none).is_err());
    }
}
