//! The rules about what a model must be: `[require]`.

use super::file::{Require, Rules};
use crate::base::diagnostic::Diagnostic;
use crate::rule::Outcome;
use crate::validate::{Contents, PolicyCheck, Report};

const LICENCE: &str = "L101";
const DTYPE: &str = "L102";
const ENCODING: &str = "L103";
const SIZE: &str = "L104";
const TASK: &str = "L105";
const DIGEST: &str = "L106";

/// What a rule says: nothing to ask, nothing to look at, or what it found.
enum Said {
    NotAsked,
    NotKnown(&'static str),
    Found(Vec<Diagnostic>),
}

/// A rule of the policy.
struct Asked {
    id: &'static str,
    name: &'static str,
    say: fn(&Require, &Contents) -> Said,
}

const ASKED: &[Asked] = &[
    Asked { id: LICENCE, name: "licence-not-allowed", say: licence },
    Asked { id: DTYPE, name: "dtype-not-allowed", say: dtype },
    Asked { id: ENCODING, name: "encoding-not-allowed", say: encoding },
    Asked { id: SIZE, name: "size-exceeded", say: size },
    Asked { id: TASK, name: "task-required", say: task },
    Asked { id: DIGEST, name: "digest-differs", say: digest },
];

/// Why nothing is known of what a model holds.
const NO_PLAN: &str = "there is no complete plan";

/// Holds what an input is to what is required of it.
pub(super) fn apply(report: &mut Report, rules: &Rules) {
    for Asked { id, name, say } in ASKED {
        if rules.ignore.iter().any(|start| id.starts_with(start.as_str())) {
            continue;
        }
        let said = match &report.contents {
            Some(contents) => say(&rules.require, contents),
            None => match say(&rules.require, &Contents::default()) {
                Said::NotAsked => Said::NotAsked,
                _ => Said::NotKnown(NO_PLAN),
            },
        };
        let (outcome, why, found) = match said {
            Said::NotAsked => continue,
            Said::NotKnown(why) => (Outcome::Skipped, Some(why), Vec::new()),
            Said::Found(found) if found.is_empty() => (Outcome::Pass, None, found),
            Said::Found(found) => (Outcome::Fail, None, found),
        };
        let findings = found.len();
        report.policy.push(PolicyCheck { rule: id, name, outcome, why, findings });
        report.findings.extend(found);
    }
}

fn listed(words: &[String]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn licence(require: &Require, contents: &Contents) -> Said {
    let Some(allowed) = &require.licences else { return Said::NotAsked };
    let fits = |licence: &String| allowed.iter().any(|one| one.eq_ignore_ascii_case(licence));
    let wanted = listed(allowed);
    if contents.licences.is_empty() {
        let message = "no licence is stated: neither in README.md nor in the metadata";
        let finding = Diagnostic::error(LICENCE, message).mismatch(wanted, "none");
        return Said::Found(vec![finding.help("state `license:` at the head of README.md")]);
    }
    let bad = contents.licences.iter().filter(|licence| !fits(licence));
    let told = bad.map(|licence| {
        Diagnostic::error(LICENCE, format!("the licence {licence:?} is not allowed here"))
            .mismatch(&wanted, licence)
            .help("use another model, or allow the licence in llmstd.toml")
    });
    Said::Found(told.collect())
}

fn dtype(require: &Require, contents: &Contents) -> Said {
    let Some(allowed) = &require.dtypes else { return Said::NotAsked };
    let fits = |dtype: &String| allowed.iter().any(|one| one.eq_ignore_ascii_case(dtype));
    let bad = contents.dtypes.iter().filter(|(dtype, _)| !fits(dtype));
    let told = bad.map(|(dtype, n)| {
        let s = if *n == 1 { " has" } else { "s have" };
        Diagnostic::error(
            DTYPE,
            format!("{n} tensor{s} the dtype {dtype}, which is not allowed here"),
        )
        .key(dtype)
        .mismatch(listed(allowed), dtype)
        .help("`llmstd convert --dtype` casts, or allow the dtype in llmstd.toml")
    });
    Said::Found(told.collect())
}

fn encoding(require: &Require, contents: &Contents) -> Said {
    let Some(allowed) = &require.encodings else { return Said::NotAsked };
    let fits = |encoding: &String| allowed.iter().any(|one| one.eq_ignore_ascii_case(encoding));
    let bad = contents.encodings.iter().filter(|(encoding, _)| !fits(encoding));
    let told = bad.map(|(encoding, n)| {
        let s = if *n == 1 { " is" } else { "s are" };
        let message = format!("{n} tensor{s} encoded as {encoding}, which is not allowed here");
        Diagnostic::error(ENCODING, message)
            .key(encoding)
            .mismatch(listed(allowed), encoding)
            .help("use the model without it, or allow the encoding in llmstd.toml")
    });
    Said::Found(told.collect())
}

fn size(require: &Require, contents: &Contents) -> Said {
    let Some(most) = require.max_size.as_ref().and_then(|size| size.bytes()) else {
        return Said::NotAsked;
    };
    if contents.bytes <= most {
        return Said::Found(Vec::new());
    }
    let message = format!("the tensors take {} bytes, at most {most} are allowed", contents.bytes);
    let finding = Diagnostic::error(SIZE, message).mismatch(most, contents.bytes);
    Said::Found(vec![finding.help("use a smaller dtype, or raise max-size in llmstd.toml")])
}

fn task(require: &Require, contents: &Contents) -> Said {
    let Some(wanted) = &require.tasks else { return Said::NotAsked };
    let missing = wanted.iter().filter(|task| !contents.tasks.contains(task));
    let told = missing.map(|task| {
        Diagnostic::error(
            TASK,
            format!("the task {task} is required, and the model does not serve it"),
        )
        .key(task)
        .mismatch(task, listed(&contents.tasks))
        .help("use a checkpoint with the head of that task")
    });
    Said::Found(told.collect())
}

fn digest(require: &Require, contents: &Contents) -> Said {
    if require.digests.is_empty() {
        return Said::NotAsked;
    }
    let told = require.digests.iter().filter_map(|(name, wanted)| {
        let wanted = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        let found = contents.digests.get(name.as_str()).map_or("none", String::as_str);
        if found.eq_ignore_ascii_case(wanted) {
            return None;
        }
        let message = match found {
            "none" => {
                format!("no digest {name} is known of it: it has no manifest, or not that part")
            }
            _ => format!("the digest {name} is another one"),
        };
        let finding = Diagnostic::error(DIGEST, message).key(name).mismatch(wanted, found);
        Some(finding.help("get the model that was meant; `llmstd manifest` shows its digests"))
    });
    Said::Found(told.collect())
}
