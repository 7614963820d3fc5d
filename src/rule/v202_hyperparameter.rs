//! V202 hyperparameter.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MODEL_FILE};
use crate::rule::{About, Checked, PackageView, Rule};
use crate::spec::hparams::ProblemKind;

/// A hyperparameter is missing, unknown, of the wrong type, out of range, not the one fixed value, or contradicts another one.
pub(super) static RULE: Rule = Rule {
    id: "V202",
    name: "hyperparameter",
    level: Conformance::Schema,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let arch = view.arch()?;
    for problem in view.problems()? {
        let key = &problem.key;
        let message = match problem.kind {
            ProblemKind::Missing => format!("the hyperparameter `{key}` is missing"),
            ProblemKind::Unknown => format!("the hyperparameter `{key}` does not belong here"),
            ProblemKind::Value => format!("the hyperparameter `{key}` is {}", problem.found),
            ProblemKind::Constraint => {
                format!("hyperparameters contradict each other: {}", problem.found)
            }
            ProblemKind::Fixed => {
                format!("`{key}` is {}, and {} has one value only", problem.found, arch.id)
            }
        };
        let help = match problem.kind {
            ProblemKind::Missing => "write it out: no reader may guess it",
            ProblemKind::Unknown => "remove it, or correct its name",
            ProblemKind::Value | ProblemKind::Fixed | ProblemKind::Constraint => {
                "correct it, and convert anew"
            }
        };
        found.push(
            RULE.finding(message)
                .file(MODEL_FILE)
                .key(format!("hyperparameters.{key}"))
                .mismatch(&problem.expected, &problem.found)
                .help(help),
        );
    }
    Ok(())
}
