//! V304 task.

use std::collections::BTreeSet;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MODEL_FILE};
use crate::rule::{About, Checked, PackageView, Rule};

/// There is no task, or one that the standard or the architecture does not have.
pub(super) static RULE: Rule = Rule {
    id: "V304",
    name: "task",
    level: Conformance::Full,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let (model, arch) = (view.model()?, view.arch()?);
    let about = |message: String| RULE.finding(message).file(MODEL_FILE).key("tasks");
    if model.tasks.is_empty() {
        found.push(
            about("the package names no task".to_owned())
                .mismatch(format!("one of {}", arch.tasks.join(", ")), "none")
                .help("nobody can tell what to ask the model; without a task the level is schema"),
        );
    }
    let mut seen = BTreeSet::new();
    for task in &model.tasks {
        let id = &task.id;
        if view.spec.task(id).is_none() {
            let known: Vec<&str> = view.spec.tasks.iter().map(|task| task.id.as_str()).collect();
            found.push(
                about(format!("the standard has no task {id:?}"))
                    .mismatch(format!("one of {}", known.join(", ")), id)
                    .help("correct its name; `llmstd spec list` shows what there is"),
            );
        } else if !arch.tasks.contains(id) {
            found.push(
                about(format!("{} does not serve the task {id}", arch.id))
                    .mismatch(format!("one of {}", arch.tasks.join(", ")), id)
                    .help("the task or the architecture is wrong"),
            );
        }
        if !seen.insert((id, &task.head)) {
            found.push(about(format!("the task {id} stands twice")).help("remove one of the two"));
        }
    }
    Ok(())
}
