//! V305 task-head.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MODEL_FILE};
use crate::rule::{About, Checked, NotChecked, PROBLEMS, PackageView, Rule};

/// A task's head has no tensors, or another number of rows than labels.
pub(super) static RULE: Rule = Rule {
    id: "V305",
    name: "task-head",
    level: Conformance::Full,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let model = view.model()?;
    view.all_tensors()?;
    if model.tasks.is_empty() {
        return Err(NotChecked::NotApplicable("there is no task"));
    }
    let present = view.present();
    for task in &model.tasks {
        let Some(kind) = view.spec.task(&task.id) else { continue };
        let id = &task.id;
        let about = |message: String| RULE.finding(message).file(MODEL_FILE).key("tasks");
        for part in &kind.needs {
            let Some(head) = &task.head else {
                found.push(
                    about(format!("the task {id} names no head"))
                        .help("its `head` says which tensors `heads.<head>` serve it"),
                );
                continue;
            };
            let weight = format!("heads.{head}.{part}.weight");
            if !present.contains(weight.as_str()) {
                found.push(
                    about(format!(
                        "the task {id} needs `{weight}`, which is neither stored nor tied"
                    ))
                    .tensor(weight)
                    .help("the head is missing, or the task is of another model"),
                );
            }
        }
        for step in &task.dense {
            let weight = format!("heads.{}.dense.weight", step.head);
            if !present.contains(weight.as_str()) {
                found.push(
                    about(format!("the task {id} needs `{weight}`, which is not stored"))
                        .tensor(weight)
                        .help("the map is missing, or the task is of another model"),
                );
            }
        }
        let steps = task.dense.iter().filter_map(|step| step.activation.as_deref());
        let known = view.spec.key("activation").map_or(&[][..], |key| &key.words);
        for word in steps.chain(task.activation.as_deref()) {
            if known.iter().all(|other| other != word) {
                found.push(
                    about(format!("the task {id} has an activation {word:?}, which is not known"))
                        .mismatch(format!("one of {}", known.join(", ")), word)
                        .help("correct the word"),
                );
            }
        }
        if let Some(problem) = task.problem.as_deref().filter(|word| !PROBLEMS.contains(word)) {
            found.push(
                about(format!("the task {id} is a problem {problem:?}, which is not known"))
                    .mismatch(format!("one of {}", PROBLEMS.join(", ")), problem)
                    .help("correct the word"),
            );
        }
        let rows = task.head.as_deref().and_then(|head| view.head_rows(head));
        let labels = task.labels.as_ref().map(|labels| labels.len() as u64);
        match (kind.labels, labels, rows) {
            (true, None, _) => found.push(
                about(format!("the task {id} has no labels"))
                    .help("nobody can tell what its scores are of: write the labels out"),
            ),
            (_, Some(labels), Some(rows)) if labels != rows => found.push(
                about(format!("the task {id} has {labels} labels, its head has {rows} rows"))
                    .mismatch(format!("{rows} labels"), format!("{labels} labels"))
                    .help("there is one label for each row, in their order"),
            ),
            _ => {}
        }
    }
    Ok(())
}
