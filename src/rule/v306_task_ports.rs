//! V306 task-ports.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, Extents, MODEL_FILE, Port, Value};
use crate::rule::{About, Checked, NotChecked, PackageView, Rule};

/// The inputs or outputs of a task are not those that the standard gives it.
pub(super) static RULE: Rule = Rule {
    id: "V306",
    name: "task-ports",
    level: Conformance::Full,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let model = view.model()?;
    let hparams = view.hparams()?;
    view.all_tensors()?;
    if model.tasks.is_empty() {
        return Err(NotChecked::NotApplicable("there is no task"));
    }
    for task in &model.tasks {
        // Without a head, an output is as wide as the last map of the pooled vector, or as the stream.
        let rows = match (&task.head, task.dense.last()) {
            (Some(head), _) => view.head_rows(head),
            (None, Some(step)) => view.rows(&format!("heads.{}.dense.weight", step.head)),
            (None, None) => match hparams.get("hidden_size") {
                Some(Value::Int(int)) => u64::try_from(*int).ok(),
                _ => None,
            },
        };
        let Some((inputs, outputs)) = view.spec.task_ports(&task.id, hparams, rows) else {
            continue; // V304 tells of it.
        };
        for (what, expected, actual) in
            [("inputs", inputs, &task.inputs), ("outputs", outputs, &task.outputs)]
        {
            if expected != *actual {
                found.push(
                    RULE.finding(format!(
                        "the {what} of the task {} are not the standard's",
                        task.id
                    ))
                    .file(MODEL_FILE)
                    .key(format!("tasks.{what}"))
                    .mismatch(text(&expected), text(actual))
                    .help("clients rely on names, dtypes and shapes: convert anew"),
                );
            }
        }
    }
    Ok(())
}

fn text(ports: &[Port]) -> String {
    let port = |port: &Port| {
        let dims = port.shape.iter().map(|dim| match dim {
            Extents::Fixed(size) => size.to_string(),
            Extents::Symbolic(word) => word.clone(),
        });
        let dims = dims.collect::<Vec<_>>().join(", ");
        let optional = if port.optional { "?" } else { "" };
        format!("{}{optional}: {}[{dims}]", port.name, port.dtype)
    };
    ports.iter().map(port).collect::<Vec<_>>().join("; ")
}
