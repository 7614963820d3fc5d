//! V307 task-pool.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MODEL_FILE, Value};
use crate::rule::{About, Checked, NotChecked, POOLS, PackageView, Rule};

/// A task's pooling is missing, unknown, or cannot be done.
pub(super) static RULE: Rule = Rule {
    id: "V307",
    name: "task-pool",
    level: Conformance::Full,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let model = view.model()?;
    let pools = |id: &str| view.spec.task(id).is_some_and(|kind| kind.pool);
    if !model.tasks.iter().any(|task| task.pool.is_some() || pools(&task.id)) {
        return Err(NotChecked::NotApplicable("no task pools"));
    }
    let present = view.present();
    for task in &model.tasks {
        let id = &task.id;
        let about = |message: String| RULE.finding(message).file(MODEL_FILE).key("tasks");
        match task.pool.as_deref() {
            None if pools(id) => found.push(
                about(format!("the task {id} does not say how positions become one vector"))
                    .mismatch(format!("one of {}", POOLS.join(", ")), "nothing")
                    .help("write `pool` out: no reader may guess it"),
            ),
            None => {}
            Some(pool) if !POOLS.contains(&pool) => found.push(
                about(format!("the task {id} pools by {pool:?}, which is not known"))
                    .mismatch(format!("one of {}", POOLS.join(", ")), pool)
                    .help("correct the word"),
            ),
            Some("last") if !matches!(model.tokens.get("pad"), Some(Value::Int(_))) => found.push(
                about(format!("the task {id} takes the last position, and there is no `tokens.pad`"))
                    .help("in a padded batch nobody can tell which position is the last: say the id of the padding token in the source's config"),
            ),
            Some("eos") if matches!(model.tokens.get("eos"), None | Some(Value::Null)) => found.push(
                about(format!("the task {id} takes the end of the text, and there is no `tokens.eos`"))
                    .help("nobody can tell which position that is: say the id of the token in the source's config"),
            ),
            Some("pooler") if !present.contains("heads.pooler.dense.weight") => found.push(
                about(format!("the task {id} takes the pooler, which is not stored"))
                    .tensor("heads.pooler.dense.weight")
                    .help("the head is missing, or the task is of another model"),
            ),
            Some(_) => {}
        }
    }
    Ok(())
}
